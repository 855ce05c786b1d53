package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	// maxCgroupOwners is how many units and containers have series of their own: four times what a full Kubernetes
	// node or a large server has. Those beyond it count as a part of what is above them.
	maxCgroupOwners = 400
	// maxCgroupRests is how many slices have series for what is left in them.
	maxCgroupRests = 32
	// cgroupLimitTurns is how many ticks pass between two readings of a limit, which change by an operator's hand.
	cgroupLimitTurns = 6
	// maxCgroupCauses bounds how many different errors are logged.
	maxCgroupCauses = 64
)

// Cgroups collects what each systemd unit and each container uses, and where it was held up, from the control groups
// of version 1 and 2. It implements collector.Collector.
//
// A group has series of its own when its name is that of a unit or a container (cgroup.Names), and it lived through
// a tick: what runs shorter counts as a part of the slice it ran in, whose total contains it. Groups without such a
// name fold into the one above. Each slice right below the root, and the root, have series for what is left
// (service.name is other): what all of them grow by together is what the root's totals grow by, so nothing is lost or
// counted twice.
//
// Series of a service carry the resource that collector/service gives it, so that its requests and its CPU time meet.
//
// The cost of a tick is that of reading the files of the named groups: about 12 for each, of which those of the
// first 170 groups or so are kept open: 2 us a file, and 5 to 10 us for one that has to be opened. Nothing is read
// of groups without a name.
type Cgroups struct {
	health
	env      collector.Env
	tree     *cgroupTree
	files    []cgroupFile
	adds     [cgCounters]bool
	families *cgroupFamilies
	reader   *cgroupReader
	sample   cgroupSample
	bounds   cgroupSample // for limits

	named    []*cgroupNamed
	waiting  []*cgroupNode // without series as yet: units, containers, slices below the root
	owners   int           // of named
	rests    int           // likewise
	relink   bool          // named changed
	services map[cgroup.Service]int
	own      *metric.Int
	folded   *metric.Int

	ticks   uint64
	meminfo *procfs.File // nil if there is none
	memory  uint64       // of the host
	devices map[uint64]string
	causes  map[string]bool // errors that were logged
	problem error           // the first of this tick
	lacks   string          // what the hierarchies do not have
	inside  bool            // slid sees the tree from inside of a container
}

// NewCgroups finds the hierarchies and starts to watch them. It needs no privilege.
func NewCgroups(env collector.Env) (collector.Collector, error) {
	trees := cgroupHierarchies(env)
	if len(trees) == 0 {
		return nil, &verdict.UnavailableError{
			Reason:  "no cgroup hierarchy is mounted below " + filepath.Join(env.Root, "sys/fs/cgroup"),
			Missing: "the host's /sys/fs/cgroup mounted there",
		}
	}
	c := &Cgroups{
		env: env, families: declareCgroups(env.Metrics), reader: newCgroupReader(),
		services: map[cgroup.Service]int{}, devices: map[uint64]string{}, causes: map[string]bool{},
	}
	c.tree = newCgroupTree(trees)
	c.tree.found, c.tree.dropped = c.found, c.dropped
	c.name, c.hook = "host/cgroup", cgroupHook(c.tree.trees)
	c.files = cgroupFilesOf(c.tree.trees)
	v1 := slices.ContainsFunc(c.tree.trees, func(h cgroup.Hierarchy) bool { return h.Has("memory") })
	for i := range cgAdding {
		c.adds[i] = !v1 || i != cgOOMKills && i != cgMax // version 1 counts these for each group alone
	}
	c.found(c.tree.root)
	e := env.Metrics.Entity(env.Host, env.Boot)
	c.own = c.families.groups.With(e, cgAccountKey.String("own"))
	c.folded = c.families.groups.With(e, cgAccountKey.String("folded"))
	c.meminfo, _ = procfs.OpenSingle(filepath.Join(env.Proc, "meminfo")) // without it groups have no limit but their own
	c.lacks = lackingCgroups(c.tree.trees)
	c.inside = slices.ContainsFunc(c.tree.trees, func(h cgroup.Hierarchy) bool { return h.V2 && !cgroup.IsRoot(h.Dir) })
	return c, nil
}

// cgroupHierarchies returns those that process 1 sees, or slid itself if that is not allowed.
func cgroupHierarchies(env collector.Env) []cgroup.Hierarchy {
	info, err := os.ReadFile(filepath.Join(env.Proc, "1/mountinfo"))
	if err != nil {
		info, _ = os.ReadFile(filepath.Join(env.Proc, "self/mountinfo"))
	}
	list := cgroup.ParseMounts(string(info), env.Root)
	list = slices.DeleteFunc(list, func(h cgroup.Hierarchy) bool {
		_, err := os.Stat(h.Dir)
		return err != nil || h.V2 && env.Cgroup != ""
	})
	if env.Cgroup != "" {
		list = append(list, cgroup.Hierarchy{Dir: env.Cgroup, V2: true})
	}
	return list
}

func cgroupHook(trees []cgroup.Hierarchy) string {
	var dirs []string
	for _, h := range trees {
		dirs = append(dirs, h.Dir)
	}
	return strings.Join(dirs, " ")
}

// lackingCgroups says what no hierarchy accounts for.
func lackingCgroups(trees []cgroup.Hierarchy) string {
	have := map[string]bool{}
	for _, h := range trees {
		for _, name := range h.Controllers {
			have[name] = true
		}
		if h.V2 {
			have["cpuacct"] = true // cpu.stat is there without any controller
			list, _ := os.ReadFile(filepath.Join(h.Dir, "cgroup.controllers"))
			for name := range strings.FieldsSeq(string(list)) {
				have[name] = true
			}
		}
	}
	var lost []string
	for _, c := range [...]struct{ v1, v2 string }{{"cpuacct", "cpu"}, {"memory", "memory"}, {"blkio", "io"}, {"pids", "pids"}} {
		if !have[c.v1] && !have[c.v2] {
			lost = append(lost, c.v2)
		}
	}
	return strings.Join(lost, ", ")
}

// found takes a new group up: one that may get series.
func (c *Cgroups) found(n *cgroupNode) {
	if n.owner || n.depth() <= 1 {
		c.waiting = append(c.waiting, n)
	}
}

// dropped takes the series of a group out that is gone.
func (c *Cgroups) dropped(n *cgroupNode) {
	if n.named == nil {
		return
	}
	n.named.remove(c.reader)
	c.named = slices.DeleteFunc(c.named, func(other *cgroupNamed) bool { return other == n.named })
	if c.services[n.named.service]--; c.services[n.named.service] == 0 {
		delete(c.services, n.named.service)
	}
	if n.named.rest {
		c.rests--
	} else {
		c.owners--
	}
	n.named, c.relink = nil, true
}

// settle gives series to groups that are old enough, as long as there is room.
func (c *Cgroups) settle(now time.Time) (folded int) {
	first := c.ticks == 1
	if first {
		slices.SortFunc(c.waiting, func(a, b *cgroupNode) int { return cmp.Compare(a.path, b.path) })
	}
	kept := c.waiting[:0]
	for _, n := range c.waiting {
		room := c.owners < maxCgroupOwners
		if !n.owner {
			room = c.rests < maxCgroupRests
		}
		switch {
		case n.gone:
		case (first || n.born < c.ticks) && room:
			c.nameGroup(n, now, first)
		default:
			kept = append(kept, n)
			if n.owner {
				folded++
			}
		}
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
	if cap(c.waiting) > 1024 && len(c.waiting) < cap(c.waiting)/8 {
		c.waiting = slices.Clone(c.waiting) // a burst is over
	}
	return folded
}

// nameGroup gives series to a group. At the first tick its counters are taken as they are; later they began before
// slid looked at it, and what they had then was counted for the group above.
func (c *Cgroups) nameGroup(n *cgroupNode, now time.Time, whole bool) {
	named := &cgroupNamed{node: n, rest: !n.owner, whole: whole, files: make([]cgroupFD, len(c.files))}
	for i := range named.files {
		named.files[i].fd = -1
	}
	named.service = c.serviceOf(n)
	named.resource = named.service.Resource(c.env.Host)
	start := now
	if whole {
		start = c.env.Boot
	}
	named.entity = c.env.Metrics.Entity(named.resource, start)
	n.named, c.relink = named, true
	c.named = append(c.named, named)
	c.services[named.service]++
	if n.owner {
		c.owners++
	} else {
		c.rests++
	}
}

// serviceOf describes the group. Two that are alike (a user's unit of the same name) differ by their path.
func (c *Cgroups) serviceOf(n *cgroupNode) cgroup.Service {
	command := ""
	if cgroup.Describe(n.path).Container != "" {
		command = c.command(n)
	}
	s := cgroup.ServiceAt(n.path, command)
	if n.owner && c.services[s] > 0 {
		s.Path = n.path
	}
	return s
}

// command returns the name of the first process of a group or of those below it that belong to it, or "".
func (c *Cgroups) command(n *cgroupNode) string {
	for i := range c.tree.trees {
		if n.in&(1<<i) == 0 {
			continue
		}
		if name := cgroup.FirstCommand(c.env.Proc, c.tree.dir(n, i)); name != "" {
			return name
		}
	}
	for _, child := range n.children {
		if name := c.command(child); name != "" && !child.owner {
			return name
		}
	}
	return ""
}

// link finds the named group above each.
func (c *Cgroups) link() {
	for _, n := range c.named {
		n.above = nil
		for up := n.node.parent; up != nil && n.above == nil; up = up.parent {
			n.above = up.named
		}
	}
}

// Collect implements collector.Collector.
func (c *Cgroups) Collect(_ context.Context, now time.Time) error {
	c.ticks++
	c.problem = nil
	err := c.tree.update(c.ticks)
	folded := c.settle(now)
	if c.relink {
		c.relink = false
		c.link()
	}
	c.readMemory()
	for _, n := range c.named {
		n.begin()
	}
	read := 0
	for i, n := range c.named {
		if c.readGroup(n) {
			read++
		}
		if !n.rest && (n.bound == nil || (c.ticks+uint64(i))%cgroupLimitTurns == 0) {
			c.readLimits(n.node)
		}
	}
	for _, n := range c.named {
		n.store(c.families, now, c.deviceName)
		if !n.rest {
			n.storeLimits(c.families, c.env.Metrics, c.env.Boot, c.memory)
		}
	}
	c.own.Set(int64(c.owners))
	c.folded.Set(int64(folded + c.tree.refused))
	c.judge(err)
	if read == 0 && err == nil {
		err = c.problem
	}
	if read > 0 {
		err = nil // the verdict has it
	}
	return c.collected(err, read > 0)
}

// judge keeps the reason of the verdict up to date.
func (c *Cgroups) judge(err error) {
	err = cmp.Or(err, c.problem)
	switch {
	case err != nil:
		c.reason, c.missing = "not all of it can be read: "+oneLine(err), remedy(err)
	case c.tree.refused > 0:
		c.reason, c.missing = "there are more than 16384 groups: the others count as a part of those above them", ""
	case c.inside:
		c.reason = "only slid's own container is in sight, not the host's units and containers"
		c.missing = "the host's cgroup tree mounted at " + filepath.Join(c.env.Root, "sys/fs/cgroup")
	case c.lacks != "":
		c.reason, c.missing = "the kernel does not account for: "+c.lacks, "the cgroup controllers "+c.lacks
	default:
		c.reason, c.missing = "", ""
	}
}

// readGroup reads the files of a group and takes the numbers in. It says whether any could be read.
func (c *Cgroups) readGroup(n *cgroupNamed) bool {
	s := &c.sample
	s.reset()
	some := false
	again := c.ticks%cgroupLimitTurns == 0 // controllers may have been switched on
	for i := range c.files {
		file, fd := &c.files[i], &n.files[i]
		if file.limit || file.own && n.rest || n.node.in&(1<<file.tree) == 0 || fd.absent && !again {
			continue
		}
		b, err := c.reader.read(c.tree.trees[file.tree].Dir, n.node.path, file.name, fd)
		fd.absent = cgroupAbsent(err)
		if err == nil {
			err = file.parse(s, b)
			some = some || err == nil
		}
		if err != nil && !fd.absent {
			c.note(n.node, file, err)
		}
	}
	if some {
		s.finish()
		n.account(s, &c.adds)
	}
	return some
}

// cgroupAbsent says whether an error means that there is no such file or that the kernel does not fill it.
func cgroupAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}

// readLimits reads the limits of a group and of those above it.
func (c *Cgroups) readLimits(n *cgroupNode) {
	for ; n != nil && n.limitsAt != c.ticks; n = n.parent {
		n.limitsAt = c.ticks
		c.bounds.reset()
		for i := range c.files {
			file := &c.files[i]
			if !file.limit || n.in&(1<<file.tree) == 0 {
				continue
			}
			b, err := c.reader.read(c.tree.trees[file.tree].Dir, n.path, file.name, nil)
			if err == nil {
				err = file.parse(&c.bounds, b)
			}
			if err != nil && !cgroupAbsent(err) {
				c.note(n, file, err)
			}
		}
		n.limit = c.bounds.limit
	}
}

// note keeps the first error of a tick, and logs one of each kind.
func (c *Cgroups) note(n *cgroupNode, file *cgroupFile, err error) {
	path := filepath.Join(c.tree.dir(n, file.tree), file.name)
	if cause := file.name + ": " + err.Error(); !c.causes[cause] && len(c.causes) < maxCgroupCauses {
		c.causes[cause] = true
		c.env.Log.Warn("a file of a control group cannot be used", "file", path, "error", err)
	}
	if c.problem == nil {
		c.problem = fmt.Errorf("%s: %w", path, err)
	}
}

// readMemory keeps the size of the host's memory up to date: the limit of groups that have none.
func (c *Cgroups) readMemory() {
	if c.memory != 0 && c.ticks%cgroupLimitTurns != 0 {
		return
	}
	if c.memory == 0 {
		c.memory = cgNoLimit
	}
	if c.meminfo == nil {
		return
	}
	b, err := c.meminfo.Read()
	if err != nil {
		return
	}
	line, _, _ := procfs.Line(b)
	key, line := procfs.Field(line)
	value, _ := procfs.Field(line)
	if kB, err := procfs.Uint(value); err == nil && string(key) == "MemTotal:" && kB < cgNoLimit>>10 {
		c.memory = kB << 10
	}
}

// maxCgroupDeviceNames bounds the names that are remembered.
const maxCgroupDeviceNames = 4096

// deviceName returns the kernel's name of a device, e.g. sda, or its numbers if that is not known.
func (c *Cgroups) deviceName(id uint64) string {
	if id == otherCgroupDevices {
		return "other"
	}
	if name, ok := c.devices[id]; ok {
		return name
	}
	name := fmt.Sprintf("%d:%d", id>>32, uint32(id))
	if link, err := os.Readlink(filepath.Join(c.env.Sys, "dev/block", name)); err == nil {
		name = text(filepath.Base(link))
	}
	if len(c.devices) >= maxCgroupDeviceNames {
		clear(c.devices)
	}
	c.devices[id] = name
	return name
}

// Close implements collector.Collector.
func (c *Cgroups) Close() error {
	for _, n := range c.named {
		for i := range n.files {
			c.reader.close(&n.files[i])
		}
	}
	err := c.tree.close()
	if c.meminfo != nil {
		err = errors.Join(err, c.meminfo.Close())
	}
	return err
}
