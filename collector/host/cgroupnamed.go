package host

import (
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
)

// A cgroupNamed is a group with series of its own: a unit, a container, or a slice, which stands for what is left.
//
// Counters are kept as sums of differences. What a group used since the last tick is added to its sum and taken off
// that of the next named group above, whose own number contains it: so each stands for what no other does, and
// together they are the root's total, whoever comes and goes.
type cgroupNamed struct {
	node  *cgroupNode
	above *cgroupNamed // the next named one on the way to the root; nil for the root
	rest  bool         // a slice or the root
	whole bool         // its counters count from their beginning, not from when it was named
	read  bool         // was read at least once

	counting bool // this tick's differences are known; in the first one they are not, unless whole

	service  cgroup.Service
	resource *resource.Resource
	entity   *metric.Entity
	files    []cgroupFD

	previous [cgCounters]uint64
	known    [cgCounters]bool // previous is
	sum      [cgCounters]int64
	shown    [cgCounters]int64 // what was exported: sum falls for a moment if a group is read after its parent
	ints     [cgCounters]*metric.Int
	floats   [cgCounters]*metric.Float

	has     [cgAmounts]bool
	amount  [cgAmounts]int64
	working int64 // working set, that of the groups below included
	amounts [cgAmounts]*metric.Int

	devices []cgroupDevice
	others  [ioKinds]*metric.Int // of the devices beyond maxCgroupDevices

	bound       *metric.Entity // owns the limits, which are made anew when another group sets them
	limit       [cgLimits]uint64
	charged     bool // its memory is known
	source      [cgLimits]*cgroupNode
	limits      [cgLimits]*metric.Int
	cpuLimit    *metric.Float
	available   *metric.Int
	kernelLimit uint64
}

// cgroupGrowth returns how much a counter grew. One that lost more than half began anew. A smaller fall is a defect of
// rounding or of sampling (the split of CPU time): then the counter waits until it is past its highest value.
func cgroupGrowth(previous *uint64, now uint64) uint64 {
	before := *previous
	if now < before && now >= before/2 {
		return 0
	}
	*previous = now
	if now < before {
		return now
	}
	return now - before
}

// holder returns the group whose numbers contain this one's.
func (n *cgroupNamed) holder() *cgroupNamed {
	above := n.above
	for above != nil && !above.counting {
		above = above.above
	}
	return above
}

// begin starts a tick, before any group is read.
func (n *cgroupNamed) begin() {
	n.counting = n.whole || n.read
	n.amount = [cgAmounts]int64{}
}

// account takes a sample in. adds says which counters of a group contain those of the groups below.
func (n *cgroupNamed) account(s *cgroupSample, adds *[cgCounters]bool) {
	holder := n.holder()
	for i := range cgCounters {
		if !s.hasCounter[i] {
			continue
		}
		if !n.known[i] && (n.read || !n.whole) {
			n.previous[i], n.known[i] = s.counter[i], true
			continue
		}
		n.known[i] = true
		grown := int64(cgroupGrowth(&n.previous[i], s.counter[i]))
		n.sum[i] += grown
		if holder != nil && adds[i] {
			holder.sum[i] -= grown
		}
	}
	n.accountAmounts(s)
	if s.hasDevices {
		n.accountDevices(s, holder)
	}
	n.kernelLimit = s.kernelLimit
	n.read = true
}

func (n *cgroupNamed) accountAmounts(s *cgroupSample) {
	n.has = s.hasAmount
	n.working = int64(min(s.amount[cgWorkingSet], math.MaxInt64))
	for i := range cgAmounts {
		v := int64(min(s.amount[i], math.MaxInt64))
		n.amount[i] += v
		if n.above != nil {
			n.above.amount[i] -= v
		}
	}
}

// maxCgroupDevices is how many devices a group has series of; the others count as one.
const maxCgroupDevices = 8

// otherCgroupDevices is the number of the device that stands for those beyond maxCgroupDevices.
const otherCgroupDevices = math.MaxUint64

// cgroupDevice is what a group did on a device.
type cgroupDevice struct {
	id       uint64
	known    bool // was read, not only by a group below
	previous [ioKinds]uint64
	sum      [ioKinds]int64
	shown    [ioKinds]int64
	series   [ioKinds]*metric.Int
}

// device returns the state of a device.
func (n *cgroupNamed) device(id uint64) *cgroupDevice {
	for i := range n.devices {
		if n.devices[i].id == id {
			return &n.devices[i]
		}
	}
	n.devices = append(n.devices, cgroupDevice{id: id})
	return &n.devices[len(n.devices)-1]
}

// accountDevices takes the numbers of the devices in. A device that was not there at the last reading began since.
func (n *cgroupNamed) accountDevices(s *cgroupSample, holder *cgroupNamed) {
	for i := range s.devices {
		total := &s.devices[i].total
		if *total == [ioKinds]uint64{} {
			continue
		}
		d := n.device(s.devices[i].device)
		d.known = true
		if !n.counting {
			d.previous = *total
			continue
		}
		var above *cgroupDevice
		if holder != nil {
			above = holder.device(d.id)
		}
		for k, v := range total {
			grown := int64(cgroupGrowth(&d.previous[k], v))
			d.sum[k] += grown
			if above != nil {
				above.sum[k] -= grown
			}
		}
	}
}

// store exports what was taken in.
func (n *cgroupNamed) store(f *cgroupFamilies, now time.Time, name func(device uint64) string) {
	for i := range cgCounters {
		if n.known[i] {
			n.shown[i] = max(n.shown[i], n.sum[i])
			n.storeCounter(i, &f.counters[i], now)
		}
	}
	for i := range cgAmounts {
		series := &f.amounts[i]
		if v := max(0, n.amount[i]); n.has[i] && !series.none && (v > 0 || !series.seldom || n.amounts[i] != nil) {
			if n.amounts[i] == nil {
				n.amounts[i] = series.int.With(n.entity)
			}
			n.amounts[i].Set(v)
		}
	}
	n.storeDevices(f, now, name)
}

func (n *cgroupNamed) storeCounter(i int, series *cgroupSeries, now time.Time) {
	v := n.shown[i]
	switch {
	case v == 0 && series.seldom && n.ints[i] == nil && n.floats[i] == nil:
	case series.seconds:
		if n.floats[i] == nil {
			n.floats[i] = series.float.With(n.entity, series.attrs...)
		}
		n.floats[i].Observe(float64(v)/1e9, now)
	default:
		if n.ints[i] == nil {
			n.ints[i] = series.int.With(n.entity, series.attrs...)
		}
		n.ints[i].Observe(uint64(v), now)
	}
}

func (n *cgroupNamed) storeDevices(f *cgroupFamilies, now time.Time, name func(uint64) string) {
	var others [ioKinds]int64
	for i := range n.devices {
		d := &n.devices[i]
		if !d.known {
			continue
		}
		for k := range d.shown {
			d.shown[k] = max(d.shown[k], d.sum[k])
		}
		if i < maxCgroupDevices {
			n.storeDevice(&d.series, &d.shown, d.id, f, now, name)
			continue
		}
		for k := range others {
			others[k] += d.shown[k]
		}
	}
	if others != [ioKinds]int64{} {
		n.storeDevice(&n.others, &others, otherCgroupDevices, f, now, name)
	}
}

func (n *cgroupNamed) storeDevice(series *[ioKinds]*metric.Int, shown *[ioKinds]int64, id uint64,
	f *cgroupFamilies, now time.Time, name func(uint64) string,
) {
	if series[0] == nil {
		device := attribute.String("system.device", name(id))
		read, write := attribute.String("disk.io.direction", "read"), attribute.String("disk.io.direction", "write")
		*series = [ioKinds]*metric.Int{
			ioReadBytes: f.io.With(n.entity, device, read), ioWriteBytes: f.io.With(n.entity, device, write),
			ioReads: f.operations.With(n.entity, device, read), ioWrites: f.operations.With(n.entity, device, write),
		}
	}
	for k := range series {
		series[k].Observe(uint64(shown[k]), now)
	}
}

// bind finds the limits that count for the group: the lowest from it up to the root.
func (n *cgroupNamed) bind(hostMemory uint64) (limit [cgLimits]uint64, source [cgLimits]*cgroupNode) {
	for i := range limit {
		limit[i] = cgNoLimit
		for node := n.node; node != nil; node = node.parent {
			if node.limit[i] < limit[i] {
				limit[i], source[i] = node.limit[i], node
			}
		}
	}
	if n.kernelLimit < limit[cgMemoryLimit] {
		limit[cgMemoryLimit] = n.kernelLimit // by a group that is out of sight
	}
	if limit[cgMemoryLimit] >= hostMemory {
		limit[cgMemoryLimit], source[cgMemoryLimit] = hostMemory, nil
	}
	return limit, source
}

// storeLimits exports the limits. Which group sets one is an attribute, so that another makes another series.
func (n *cgroupNamed) storeLimits(f *cgroupFamilies, g *metric.Group, start time.Time, hostMemory uint64) {
	limit, source := n.bind(hostMemory)
	if n.bound == nil || source != n.source || n.charged != n.has[cgUsage] || !sameBounds(&limit, &n.limit) {
		n.source, n.charged = source, n.has[cgUsage]
		n.makeLimits(f, g, start, &limit)
	}
	n.limit = limit
	for i, series := range n.limits {
		if series != nil {
			series.Set(int64(limit[i]))
		}
	}
	if n.cpuLimit != nil {
		n.cpuLimit.Set(float64(limit[cgCPULimit]) / 1000)
	}
	if n.available != nil {
		n.available.Set(max(0, int64(limit[cgMemoryLimit])-n.working))
	}
}

// sameBounds says whether the same limits exist.
func sameBounds(a, b *[cgLimits]uint64) bool {
	for i := range a {
		if (a[i] == cgNoLimit) != (b[i] == cgNoLimit) {
			return false
		}
	}
	return true
}

func (n *cgroupNamed) makeLimits(f *cgroupFamilies, g *metric.Group, start time.Time, limit *[cgLimits]uint64) {
	if n.bound != nil {
		n.bound.Remove()
	}
	n.bound = g.Entity(n.resource, start)
	n.limits, n.cpuLimit, n.available = [cgLimits]*metric.Int{}, nil, nil
	if limit[cgMemoryLimit] != cgNoLimit && n.charged {
		n.limits[cgMemoryLimit] = f.limits[cgMemoryLimit].With(n.bound, n.boundBy(cgMemoryLimit))
		if n.source[cgMemoryLimit] != nil && n.has[cgWorkingSet] {
			n.available = f.available.With(n.bound)
		}
	}
	if limit[cgTaskLimit] != cgNoLimit {
		n.limits[cgTaskLimit] = f.limits[cgTaskLimit].With(n.bound, n.boundBy(cgTaskLimit))
	}
	if limit[cgCPULimit] != cgNoLimit {
		n.cpuLimit = f.cpuLimit.With(n.bound, n.boundBy(cgCPULimit))
	}
}

// boundBy names the group that sets a limit: self, the path of one above, or host.
func (n *cgroupNamed) boundBy(limit int) attribute.KeyValue {
	switch source := n.source[limit]; {
	case source == nil:
		return cgSourceKey.String("host")
	case source == n.node:
		return cgSourceKey.String("self")
	case source.path == "":
		return cgSourceKey.String("/")
	default:
		return cgSourceKey.String(text(source.path))
	}
}

// remove takes the series of the group out.
func (n *cgroupNamed) remove(r *cgroupReader) {
	for i := range n.files {
		r.close(&n.files[i])
	}
	n.entity.Remove()
	if n.bound != nil {
		n.bound.Remove()
	}
}
