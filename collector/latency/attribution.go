package latency

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// AttributionName is the attribution's name in verdicts.
const AttributionName = "latency/attribution"

const (
	// leastSlots and mostSlots bound how many owners a table tells apart: twice those there are at the start.
	leastSlots, mostSlots = 64, 512
	// hiddenTurns is how many ticks pass between two looks for containers outside of the cgroup2 tree.
	hiddenTurns = 6
)

// An Owner is a systemd unit, a container, or what is left in a slice, that kernel events belong to. One that is started
// again gets another control group and stays the same owner.
type Owner struct {
	Path     string             // of the control group, from the root of the tree on
	Resource *resource.Resource // the one that collector/host gives it, too
	Start    time.Time          // since when its events are its own

	named bool // a unit or a container
}

// Attribution hands slots in the kernel's tables to owners: to each group that collector/host has figures of, when it
// has lived through a tick. What lives shorter belongs to the group around it, as what exceeds the number of slots
// does. It implements collector.Collector, and is shared by the collectors of all probes: its methods may be called
// concurrently.
//
// A tick without changes takes three system calls. A group that comes or goes costs some microseconds.
type Attribution struct {
	kernel *bpf.Kernel
	env    collector.Env

	mu      sync.Mutex
	owners  *bpf.Owners // nil: events belong to nobody
	tree    groups
	slots   []slot
	byPath  map[string]*Owner
	members []*member
	waiting []*group // reused
	ticks   uint64
	lost    uint64 // events of groups, as of the last tick
	v1      []cgroup.Hierarchy
	outside string // what lives outside of the cgroup2 tree; "" if nothing does
	partial bool   // slid sees its own container's part of the tree alone
	problem error

	named, folded *metric.Int
	events        *metric.Int
}

// A slot of the kernel's tables, and whose it is.
type slot struct {
	owner *Owner // nil: free
	group uint64
	state slotState
}

// A slotState is how far a slot is on its way back to the free ones. There is a tick between two states.
type slotState uint8

const (
	slotLive      slotState = iota
	slotRemoved             // its group is gone, but I/O of it may be under way
	slotForgotten           // the kernel was told; a program that looked before may still write
	slotSettled             // nothing writes to it: members take its last counts
)

// A member is a collector that reads tables of the attribution's slots.
type member struct {
	moved func() error // tells the probe that groups got other slots
	done  []bool       // by slot: took its last counts
}

// newAttribution returns an attribution that attributes nothing until it is opened.
func newAttribution(k *bpf.Kernel) *Attribution {
	return &Attribution{kernel: k, tree: groups{}, byPath: map[string]*Owner{}}
}

// NewAttribution starts to watch control groups. The probes that are loaded afterwards tell owners apart. Without the
// cgroup2 tree it is unavailable, as without CAP_BPF and CAP_PERFMON; the probes then measure the host as a whole.
func (d Deps) NewAttribution(env collector.Env) (collector.Collector, error) {
	return d.Attribution.open(env)
}

func (a *Attribution) open(env collector.Env) (collector.Collector, error) {
	if env.Cgroup == "" {
		return nil, &verdict.UnavailableError{
			Reason:  "attribution=none: without a cgroup2 tree the kernel's latencies are those of the host as a whole",
			Missing: "a cgroup2 mount at " + filepath.Join(env.Root, "sys/fs/cgroup"),
		}
	}
	a.env, a.partial = env, !cgroup.IsRoot(env.Cgroup)
	a.tree.read(env.Cgroup)
	owners, err := bpf.NewOwners(a.kernel, a.wanted())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.owners, a.slots = owners, make([]slot, owners.Slots())
	a.kernel.Attribute(owners)
	a.declare()
	a.v1 = a.version1()
	a.outside = a.findOutside()
	a.tree.refresh(env.Cgroup, 0)  // with what was made before the kernel told of it
	a.problem = a.update(env.Boot) // the verdict has it
	return a, nil
}

// wanted returns how many slots there shall be: a power of two.
func (a *Attribution) wanted() int {
	n := 0
	for _, g := range a.tree {
		if g.accounted {
			n++
		}
	}
	slots := leastSlots
	for slots < min(2*n, mostSlots) {
		slots *= 2
	}
	return slots
}

func (a *Attribution) declare() {
	key := attribute.Key("slid.attribution")
	owners := a.env.Metrics.Int(metric.Desc{
		Name: "slid.attribution.groups", Unit: "{group}", Kind: metric.Gauge,
		Description: "Units, containers and slices whose kernel events are told apart (own), or count as those of " +
			"the group around them for want of a slot (folded).",
		Attributes: []attribute.Key{key}, Source: bpf.OwnersHook,
	})
	lost := a.env.Metrics.Int(metric.Desc{
		Name: "slid.attribution.lost", Unit: "{event}", Kind: metric.Counter,
		Description: "Control groups that were made or removed without slid being told: it read the whole tree instead.",
		Source:      bpf.OwnersHook,
	})
	e := a.env.Metrics.Entity(a.env.Host, time.Now())
	a.named, a.folded = owners.With(e, key.String("own")), owners.With(e, key.String("folded"))
	a.events = lost.With(e)
}

// join adds a collector of tables. moved is called after groups got other slots; it may be nil.
func (a *Attribution) join(moved func() error) *member {
	m := &member{moved: moved}
	a.mu.Lock()
	defer a.mu.Unlock()
	m.done = make([]bool, len(a.slots))
	a.members = append(a.members, m)
	return m
}

// leave takes a member out.
func (a *Attribution) leave(m *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.members = slices.DeleteFunc(a.members, func(other *member) bool { return other == m })
}

// visit calls f for each slot that has an owner and that the member has not taken the last counts of. last says that
// nothing writes to the slot any more: f returns whether it took the counts for good. What is left belongs to an owner
// only if others were told apart from it.
func (a *Attribution) visit(m *member, f func(slot int, o *Owner, last bool) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := a.active() && !a.partial
	for i := range a.slots {
		s := &a.slots[i]
		if s.owner == nil || m.done[i] || i == bpf.RestSlot && !rest {
			continue
		}
		if last := s.state == slotSettled; f(i, s.owner, last) && last {
			m.done[i] = true
		}
	}
}

// active says whether any unit or container has a slot of its own.
func (a *Attribution) active() bool {
	return slices.ContainsFunc(a.slots, func(s slot) bool { return s.owner != nil && s.owner.named })
}

// Collect implements collector.Collector.
func (a *Attribution) Collect(_ context.Context, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.update(now)
}

// update takes in what happened, gives slots up and hands them out.
func (a *Attribution) update(now time.Time) error {
	a.ticks++
	if a.ticks%hiddenTurns == 0 {
		a.outside = a.findOutside()
	}
	err := errors.Join(a.listen(), a.release())
	folded := a.settle(now)
	err = errors.Join(err, a.publish())
	a.folded.Set(int64(folded))
	own := 0
	for i := range a.slots {
		if a.slots[i].owner != nil {
			own++
		}
	}
	a.named.Set(int64(own))
	a.problem = err
	return err
}

// listen brings the tree up to date.
func (a *Attribution) listen() error {
	whole := true
	err := a.owners.Events(func(e bpf.GroupEvent) {
		whole = (a.tree.apply(e, a.ticks) || a.partial) && whole
	})
	lost, _ := a.owners.Lost()
	a.events.Observe(lost, time.Now())
	if lost == a.lost && whole {
		return err
	}
	a.lost = lost
	a.tree.refresh(a.env.Cgroup, a.ticks)
	// The kernel may know groups that are gone: their removal found no room.
	var gone []uint64
	err = errors.Join(err, a.owners.Groups(func(id uint64, _ int) {
		if a.tree[id] == nil && !a.holds(id) {
			gone = append(gone, id)
		}
	}))
	for _, id := range gone {
		err = errors.Join(err, a.owners.Forget(id))
	}
	return err
}

// holds says whether a slot belongs to a group, gone or not.
func (a *Attribution) holds(id uint64) bool {
	return slices.ContainsFunc(a.slots, func(s slot) bool { return s.owner != nil && s.group == id })
}

// release gives up the slots of groups that are gone, step by step.
func (a *Attribution) release() (err error) {
	for i := range a.slots {
		s := &a.slots[i]
		switch {
		case s.owner == nil || i == bpf.RestSlot:
		case s.state == slotLive:
			if g := a.tree[s.group]; g == nil || !a.eligible(g) {
				s.state = slotRemoved
				if g != nil {
					g.slot = bpf.RestSlot
				}
			}
		case s.state == slotRemoved:
			if a.tree[s.group] == nil {
				err = errors.Join(err, a.owners.Forget(s.group))
			}
			s.state = slotForgotten
		case s.state == slotForgotten:
			s.state = slotSettled
		case a.taken(i):
			a.free(i)
		}
	}
	return err
}

// taken says whether all members took the last counts of a slot.
func (a *Attribution) taken(i int) bool {
	return !slices.ContainsFunc(a.members, func(m *member) bool { return !m.done[i] })
}

func (a *Attribution) free(i int) {
	owner := a.slots[i].owner
	a.slots[i] = slot{}
	for _, m := range a.members {
		m.done[i] = false
	}
	if !slices.ContainsFunc(a.slots, func(s slot) bool { return s.owner == owner }) {
		delete(a.byPath, owner.Path)
	}
}

// eligible says whether a group may have a slot of its own.
func (a *Attribution) eligible(g *group) bool { return a.outside == "" && g.accounted }

// settle hands slots to groups that are old enough, as long as there are some. It returns how many go without.
func (a *Attribution) settle(now time.Time) (folded int) {
	waiting := a.waiting[:0]
	for _, g := range a.tree {
		if g.slot == bpf.RestSlot && a.eligible(g) && (a.ticks == 1 || g.born < a.ticks) {
			waiting = append(waiting, g)
		}
	}
	a.waiting = waiting
	if len(waiting) > 1 {
		slices.SortFunc(waiting, func(x, y *group) int { return strings.Compare(x.path, y.path) })
	}
	free := 0
	for _, g := range waiting {
		if g.path == "" {
			a.hand(bpf.RestSlot, g, now)
			continue
		}
		for free++; free < len(a.slots) && a.slots[free].owner != nil; free++ {
		}
		if free >= len(a.slots) {
			folded++
			continue
		}
		a.hand(free, g, now)
	}
	return folded
}

// hand gives a slot to a group.
func (a *Attribution) hand(i int, g *group, now time.Time) {
	if a.slots[i].owner != nil {
		return // the root has its slot for good
	}
	owner := a.byPath[g.path]
	if owner == nil {
		owner = a.describe(g, now)
		a.byPath[g.path] = owner
	}
	a.slots[i] = slot{owner: owner, group: g.id}
	g.slot = i
}

// describe makes an owner. Two that are alike (a user's unit of the same name) differ by their path.
func (a *Attribution) describe(g *group, now time.Time) *Owner {
	command := ""
	if cgroup.Describe(g.path).Container != "" {
		command = cgroup.FirstCommand(a.env.Proc, a.env.Cgroup+g.path)
	}
	s := cgroup.ServiceAt(g.path, command)
	for _, other := range a.byPath {
		if cgroup.Named(g.path) && cgroup.ServiceAt(other.Path, command) == s {
			s.Path = g.path
			break
		}
	}
	return &Owner{Path: g.path, Resource: s.Resource(a.env.Host), Start: now, named: cgroup.Named(g.path)}
}

// publish tells the kernel and the members which group belongs to which slot now.
func (a *Attribution) publish() (err error) {
	moved := false
	for _, g := range a.tree {
		if slot := a.tree.slotOf(g); slot != g.told || !g.known {
			err = errors.Join(err, a.owners.Assign(g.id, slot))
			moved = moved || slot != g.told
			g.told, g.known = slot, true
		}
	}
	if !moved {
		return err
	}
	for _, m := range a.members {
		if m.moved != nil {
			err = errors.Join(err, m.moved())
		}
	}
	return err
}

// version1 returns the hierarchies of version 1 that are mounted.
func (a *Attribution) version1() []cgroup.Hierarchy {
	info, err := os.ReadFile(filepath.Join(a.env.Proc, "1/mountinfo"))
	if err != nil {
		info, _ = os.ReadFile(filepath.Join(a.env.Proc, "self/mountinfo"))
	}
	list := cgroup.ParseMounts(string(info), a.env.Root)
	return slices.DeleteFunc(list, func(h cgroup.Hierarchy) bool { return h.V2 })
}

// findOutside looks for containers in the hierarchies of version 1 that the cgroup2 tree does not have. Their tasks seem
// to belong to whoever started them, which would make a giant of that one.
func (a *Attribution) findOutside() string {
	for _, h := range a.v1 {
		tree := groups{}
		tree.read(h.Dir)
		for _, g := range tree {
			if cgroup.Describe(g.path).Container == "" {
				continue
			}
			if _, err := os.Stat(a.env.Cgroup + g.path); os.IsNotExist(err) {
				return g.path
			}
		}
	}
	return ""
}

// Verdicts implements collector.Collector.
func (a *Attribution) Verdicts() []verdict.Verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := verdict.Verdict{Name: AttributionName, State: verdict.Active, Hook: bpf.OwnersHook}
	_, full := a.owners.Lost()
	switch {
	case a.outside != "":
		v.Reason = "attribution=none: containers live in cgroup version 1 only, e.g. " + a.outside +
			", and version 2 would give their latencies to whoever started them"
		v.Missing = "cgroup version 2 alone (systemd.unified_cgroup_hierarchy=1)"
	case !a.active() && a.partial:
		v.Reason = "attribution=none: only slid's own container is in sight, not the host's units and containers"
		v.Missing = "the host's cgroup tree mounted at " + filepath.Join(a.env.Root, "sys/fs/cgroup")
	case !a.active():
		v.Reason = "attribution=none: the cgroup2 tree at " + a.env.Cgroup + " has no unit and no container"
	case a.problem != nil:
		v.Reason = "not every group is told apart: " + a.problem.Error()
	case full > 0:
		v.Reason = fmt.Sprintf("there were more than %d control groups at a time: some belonged to nobody", bpf.MaxGroups)
	case a.folded.Value() > 0:
		v.Reason = fmt.Sprintf("%d units and containers count as those around them: there are %d slots",
			a.folded.Value(), len(a.slots))
	default:
		return []verdict.Verdict{v}
	}
	v.State = verdict.Degraded
	return []verdict.Verdict{v}
}

// Close implements collector.Collector. Probes go on with the slots that were handed out.
func (a *Attribution) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kernel.Attribute(nil)
	return a.owners.Close()
}
