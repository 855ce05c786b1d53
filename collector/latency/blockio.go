package latency

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// BlockIOName is the block I/O collector's name in verdicts, BlockIOOwnersName that of its attribution.
const (
	BlockIOName       = "latency/blockio"
	BlockIOOwnersName = "latency/blockio/owners"
)

// Attributes of block I/O, as collector/host has them, and the kind of a disk: what is stacked counts the I/O again that
// the disks below it count.
const (
	keyDevice        = attribute.Key("system.device")
	keyDiskDirection = attribute.Key("disk.io.direction")
	keyDeviceKind    = attribute.Key("linux.device.kind")
)

// blockIO collects how long block requests take, by disk and direction, and for each owner by direction.
//
// A tick reads /proc/partitions, one system call, to learn of disks that come and go. Only then it looks into /sys.
type blockIO struct {
	common
	probe    *bpf.BlockIO
	env      collector.Env
	families blockFamilies
	slots    []blockSlot
	counts   bpf.BlockIOCounts // reused
	last     time.Time         // the previous collection

	partitions *procfs.File
	known      []byte // /proc/partitions when the disks were looked at last
	changed    bool   // look at them at the end of this collection

	ledger    *ledger[bpf.BlockIOOwned, blockOwner] // nil: nobody knows whose a request is
	nobody    error                                 // why
	attribute bool                                  // owners are told apart, by other probes at least
	problem   error                                 // what was seen at the last collection
	bios      error                                 // why disks that make no requests are not measured
	issue     error                                 // why device times are missing
}

// A blockSlot is what the collector has of a slot of the probe: a disk and a direction.
type blockSlot struct {
	disk      bpf.BlockDisk
	state     slotState
	registers *blockRegisters // nil: nothing was counted yet
}

// blockRegisters are the series of a disk and direction.
type blockRegisters struct {
	entity               *metric.Entity
	total, queue, device *histogram // queue and device are nil for a disk that makes no requests
	errors               *metric.Int
	untimed              uint64 // requests without device time, when last looked at
}

// blockFamilies are the metrics of disks.
type blockFamilies struct {
	total, queue, device metric.HistogramFamily
	errors               metric.IntFamily
}

// blockOwner has the registers of an owner, by direction.
type blockOwner [bpf.BlockDiscard]*histogram

// NewBlockIO loads the block I/O probe. It has four series for each disk and direction, and three for each owner that
// attribution tells apart. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not
// allow it.
func (d Deps) NewBlockIO(env collector.Env) (collector.Collector, error) {
	partitions, err := procfs.Open(filepath.Join(env.Proc, "partitions"))
	if err != nil {
		return nil, &verdict.UnavailableError{Reason: "the host's disks cannot be listed", Err: err}
	}
	c := &blockIO{env: env, partitions: partitions, changed: true, attribute: d.Kernel.Attributed()}
	c.nobody = ownersOfBlockIO(env)
	text, _ := partitions.Read() // Collect reads it again, and says what is wrong
	options := bpf.BlockIOOptions{Disks: bytes.Count(text, []byte{'\n'}), Owned: c.nobody == nil}
	if c.probe, err = bpf.NewBlockIO(d.Kernel, options); err != nil {
		return nil, errors.Join(err, partitions.Close())
	}
	c.common = d.watch("blockio", c.probe.Probe, true)
	c.slots, c.last = make([]blockSlot, c.probe.Slots()), c.probe.Start()
	c.families = declareBlockIO(env.Metrics)
	container := declareBlockOwner(env.Metrics)
	if c.attribute && c.nobody == nil {
		c.ledger = newLedger(env, d.Attribution, c.probe.Owners, c.probe.Start(), nil, container, blockOwner.store)
	}
	if err := c.look(); err != nil { // so that disks which make no requests count from the start
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// declareBlockIO declares the metrics of disks.
func declareBlockIO(g *metric.Group) blockFamilies {
	declare := func(name, unit, description string) metric.Desc {
		return metric.Desc{
			Name: "system.disk.linux.request." + name, Unit: unit, Description: description,
			Attributes: []attribute.Key{keyDevice, keyDiskDirection, keyDeviceKind}, Source: "tp_btf/block_rq_complete",
		}
	}
	failed := declare("errors", "{error}", "Requests of a disk, or parts of one, that failed.")
	failed.Kind = metric.Counter
	return blockFamilies{
		total: g.Histogram(declare("duration", "s", "Time from the making of a request of a disk to its completion. A "+
			"flush is the disk's command. What is stacked (dm, md, zram, loop) counts again what the disks below it count, "+
			"and counts bios where it makes no requests.")),
		queue: g.Histogram(declare("queue_duration", "s", "The part of it before the driver got the request.")),
		device: g.Histogram(declare("device_duration", "s", "The part of it from then on: what the driver and the device "+
			"took.")),
		errors: g.Int(failed),
	}
}

// declareBlockOwner declares the metric of owners, and returns what makes their registers.
func declareBlockOwner(g *metric.Group) func(*metric.Entity) blockOwner {
	duration := g.Histogram(metric.Desc{
		Name: "container.disk.linux.request.duration", Unit: "s",
		Description: "Time from the making of a request to its completion, on disks that are not stacked. A flush is one " +
			"that waits for the disk's command, which may be for several.",
		Attributes: []attribute.Key{keyDiskDirection}, Source: "tp_btf/block_rq_complete",
	})
	return func(e *metric.Entity) (r blockOwner) {
		for direction := range r {
			r[direction] = newHistogram(duration.With(e, keyDiskDirection.String(bpf.BlockDirection(direction).String())))
		}
		return r
	}
}

func (r blockOwner) store(v *bpf.BlockIOOwned, _ time.Time) {
	for direction := range r {
		r[direction].load(&v.Time[direction])
	}
}

// ownersOfBlockIO says why nobody knows whose a request is: nil if the io controller of version 2 does, at least for the
// slices at the top.
func ownersOfBlockIO(env collector.Env) error {
	controllers, err := os.ReadFile(filepath.Join(env.Proc, "cgroups"))
	for line := range strings.Lines(string(controllers)) {
		f := strings.Fields(line)
		if err == nil && len(f) > 1 && f[0] == "blkio" && f[1] != "0" {
			return &verdict.UnavailableError{
				Reason:  "attribution=none for block I/O: the blkio controller belongs to cgroup version 1 (hierarchy " + f[1] + ")",
				Missing: "cgroup version 2 alone (systemd.unified_cgroup_hierarchy=1)",
			}
		}
	}
	on, err := os.ReadFile(filepath.Join(env.Cgroup, "cgroup.subtree_control"))
	if err == nil && bytes.Contains(on, []byte("io")) {
		return nil
	}
	return &verdict.UnavailableError{
		Reason:  "attribution=none for block I/O: the io controller is not on for the groups in " + env.Cgroup,
		Missing: "io in its cgroup.subtree_control (DefaultIOAccounting=yes in systemd's system.conf), then a restart",
	}
}

// Collect copies the kernel's counts.
func (c *blockIO) Collect(_ context.Context, now time.Time) error {
	text, err := c.partitions.Read()
	if !bytes.Equal(text, c.known) {
		c.known = append(c.known[:0], text...)
		c.changed = true
	}
	full := c.probe.Full()
	for i := range c.slots {
		err = errors.Join(err, c.collectSlot(i, full, now))
	}
	if c.changed {
		c.changed = false
		err = errors.Join(err, c.look())
	}
	if c.ledger != nil {
		err = errors.Join(err, c.ledger.collect(now))
	}
	c.last, c.problem = now, err
	return err
}

// collectSlot brings the series of one slot up to date.
func (c *blockIO) collectSlot(i int, full bool, now time.Time) error {
	s := &c.slots[i]
	others := i < bpf.BlockIOOthers
	if s.state == slotForgotten {
		return c.release(i)
	}
	if s.state == slotRemoved {
		s.state = slotForgotten // these are its last counts
	}
	if others && !full && s.registers == nil {
		return nil
	}
	if !others && s.disk.Sequence == 0 {
		if c.probe.Sequence(i) == 0 {
			return nil // free
		}
		c.changed = true // it may stand for another that is gone
		var err error
		if s.disk, err = c.probe.Disk(i); err != nil {
			return err
		}
	}
	if err := c.probe.Read(i, &c.counts); err != nil {
		return err
	}
	if s.registers == nil {
		if others {
			s.disk, _ = c.probe.Disk(i) // it fails for no other
		}
		if !bpf.Any(&c.counts) {
			return nil
		}
		s.registers = c.register(s.disk)
	}
	c.store(s.registers, now)
	return nil
}

// register makes the series of a disk and direction.
func (c *blockIO) register(d bpf.BlockDisk) *blockRegisters {
	name, kind := d.Name, "physical"
	switch {
	case d.Sequence == 0:
		name, kind = "other", "other"
	case d.Stacked:
		kind = "stacked"
	}
	attributes := []attribute.KeyValue{
		keyDevice.String(strings.ToValidUTF8(name, "?")), keyDiskDirection.String(d.Direction.String()),
		keyDeviceKind.String(kind),
	}
	if d.Sequence == 0 && d.Bios {
		attributes[0] = keyDevice.String("other bios")
	}
	e := c.env.Metrics.Entity(c.env.Host, c.last) // nothing was counted by then
	r := &blockRegisters{
		entity: e, total: newHistogram(c.families.total.With(e, attributes...)), errors: c.families.errors.With(e, attributes...),
	}
	if !d.Bios {
		r.queue = newHistogram(c.families.queue.With(e, attributes...))
		r.device = newHistogram(c.families.device.With(e, attributes...))
	}
	return r
}

// store carries counts into registers. Requests without a device time are reason to look for it.
func (c *blockIO) store(r *blockRegisters, now time.Time) {
	r.total.load(&c.counts.Total)
	r.errors.Observe(c.counts.Errors, now)
	if r.queue == nil {
		return
	}
	r.queue.load(&c.counts.Queue)
	r.device.load(&c.counts.Device)
	if r.untimed != c.counts.Untimed {
		r.untimed = c.counts.Untimed
		c.issue = c.probe.Extend(bpf.BlockIOIssue, true)
	}
}

// release gives a slot back whose last counts were exported.
func (c *blockIO) release(i int) error {
	s := &c.slots[i]
	if s.registers != nil {
		s.registers.entity.Remove()
	}
	*s = blockSlot{}
	return c.probe.Free(i)
}

// look finds out which disks are gone, and whether there is one that makes no requests.
func (c *blockIO) look() (err error) {
	for i := range c.slots {
		s := &c.slots[i]
		if s.disk.Sequence == 0 || s.state != slotLive || c.present(s.disk) {
			continue
		}
		s.state = slotRemoved
		err = errors.Join(err, c.probe.Forget(s.disk))
	}
	wanted, e := c.makesBios()
	if c.bios = e; e == nil {
		c.bios = c.probe.Extend(bpf.BlockIOBios, wanted)
	}
	return err
}

// present says whether a disk is there still. One that cannot be seen stays.
func (c *blockIO) present(d bpf.BlockDisk) bool {
	b, err := procfs.ReadAll(c.sysPath(d.Name, "diskseq"))
	if err != nil {
		_, err := os.Stat(filepath.Join(c.env.Sys, "block"))
		return err != nil
	}
	sequence, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	return err != nil || sequence == d.Sequence
}

// sysPath returns a file of a disk in /sys. The kernel writes a slash in a name as an exclamation mark.
func (c *blockIO) sysPath(name, file string) string {
	return filepath.Join(c.env.Sys, "block", strings.ReplaceAll(name, "/", "!"), file)
}

// makesBios says whether there is a disk with a size that makes no requests: it has no queues of a driver.
func (c *blockIO) makesBios() (bool, error) {
	list, err := os.ReadDir(filepath.Join(c.env.Sys, "block"))
	if err != nil {
		return false, &verdict.UnavailableError{
			Reason:  "disks that make no requests (dm, md, zram) are not measured, nor is seen when disks are gone",
			Missing: "the host's /sys", Err: err,
		}
	}
	for _, entry := range list {
		if _, err := os.Stat(c.sysPath(entry.Name(), "mq")); !os.IsNotExist(err) {
			continue
		}
		if size, err := procfs.ReadAll(c.sysPath(entry.Name(), "size")); err == nil && string(bytes.TrimSpace(size)) != "0" {
			return true, nil
		}
	}
	return false, nil
}

// Verdicts says how the probe measures, and whether it knows whose requests are.
func (c *blockIO) Verdicts() []verdict.Verdict {
	list := c.common.Verdicts()
	v := &list[0]
	if v.State == verdict.Active {
		if err := errors.Join(c.bios, c.issue); err != nil {
			*v = verdict.Verdict{Name: v.Name, State: verdict.Degraded, Hook: v.Hook, Reason: err.Error()}
		} else if c.probe.Full() {
			v.State = verdict.Degraded
			v.Reason = "there were more disks than slid has room for: their requests count as those of the disk other"
		}
	}
	switch {
	case !c.attribute: // the verdict on the attribution says so
	case c.nobody != nil:
		none := verdict.FromError(BlockIOOwnersName, c.nobody)
		none.State = verdict.Degraded
		list = append(list, none)
	default:
		list = append(list, verdict.Verdict{Name: BlockIOOwnersName, State: verdict.Active, Hook: "the io controller"})
	}
	return list
}

// Close detaches the probe.
func (c *blockIO) Close() error {
	if c.ledger != nil {
		c.ledger.close()
	}
	return errors.Join(c.common.Close(), c.partitions.Close())
}
