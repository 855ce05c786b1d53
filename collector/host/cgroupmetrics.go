package host

import (
	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
)

const (
	cgSourceKey   attribute.Key = "cgroup.limit.source"
	cgAccountKey  attribute.Key = "cgroup.accounting"
	cgScopeKey    attribute.Key = "system.pressure.scope"
	cgResourceKey attribute.Key = "system.pressure.resource"
)

// cgroupSeries is a series that each named group may have.
type cgroupSeries struct {
	float metric.FloatFamily // if seconds
	int   metric.IntFamily
	attrs []attribute.KeyValue
	// seconds says that the number is in nanoseconds, to be exported in seconds.
	seconds bool
	// seldom says that the series is made when its first number is not zero: few groups ever have one.
	seldom bool
	none   bool // not exported
}

// cgroupFamilies are the declared metrics of groups.
type cgroupFamilies struct {
	counters   [cgCounters]cgroupSeries
	amounts    [cgAmounts]cgroupSeries
	io         metric.IntFamily
	operations metric.IntFamily
	available  metric.IntFamily
	limits     [cgLimits]metric.IntFamily
	cpuLimit   metric.FloatFamily
	groups     metric.IntFamily
}

// declareCgroups declares the metrics. Units are called container.* too. A unit is not a container to the letter of
// the conventions, but the operator's question (what did this service use, and was it held up) is one, and so shall
// be its dashboard: CPU time by service.name covers units, containers and what is left, and adds up to the host's.
// The resource says which it is (systemd.unit.name, container.id). cAdvisor has set the example.
func declareCgroups(g *metric.Group) *cgroupFamilies {
	f := &cgroupFamilies{}
	f.declareCPU(g)
	f.declareMemory(g)
	f.declarePressure(g)
	d := counter("container.disk.io", "By", "io.stat; blkio.throttle.io_service_bytes_recursive",
		"Bytes that the group read from the device or wrote to it.")
	d.Attributes = []attribute.Key{"system.device", "disk.io.direction"}
	f.io = g.Int(d)
	d = counter("container.disk.linux.operations", "{operation}", "io.stat; blkio.throttle.io_serviced_recursive",
		"Requests of the group to the device.")
	d.Attributes = []attribute.Key{"system.device", "disk.io.direction"}
	f.operations = g.Int(d)
	f.amounts[cgTasks].int = g.Int(amount("container.task.linux.count", "{thread}", "pids.current",
		"Processes and threads in the group."))
	d = amount("container.task.linux.limit", "{thread}", "pids.max",
		"Most processes and threads that the group may have: the lowest limit on the way to the root.")
	d.Attributes = []attribute.Key{cgSourceKey}
	f.limits[cgTaskLimit] = g.Int(d)
	d = amount("system.cgroup.linux.count", "{cgroup}", "the cgroup tree",
		"Units and containers with series of their own, and those that count as a part of their parents: too young or too many.")
	d.Attributes = []attribute.Key{cgAccountKey}
	f.groups = g.Int(d)
	return f
}

func (f *cgroupFamilies) declareCPU(g *metric.Group) {
	d := counter("container.cpu.time", "s", "cpu.stat; cpuacct.usage and cpuacct.stat", "CPU time that the group used.")
	d.Attributes = []attribute.Key{"cpu.mode"}
	cpu := g.Float(d)
	mode := func(mode string) cgroupSeries {
		return cgroupSeries{float: cpu, seconds: true, attrs: []attribute.KeyValue{attribute.String("cpu.mode", mode)}}
	}
	f.counters[cgUser], f.counters[cgSystem] = mode("user"), mode("system")
	f.counters[cgPeriods] = cgroupSeries{seldom: true, int: g.Int(counter("container.cpu.linux.periods", "{period}",
		"cpu.stat", "Periods of its CPU quota in which the group wanted to run."))}
	f.counters[cgThrottled] = cgroupSeries{seldom: true, int: g.Int(counter("container.cpu.linux.throttled_periods", "{period}",
		"cpu.stat", "Periods in which the group used up its CPU quota and had to wait."))}
	f.counters[cgThrottledTime] = cgroupSeries{seldom: true, seconds: true, float: g.Float(counter("container.cpu.linux.throttled_time", "s",
		"cpu.stat", "Time for which CPUs were kept from running the group because its quota was used up."))}
	limit := amount("container.cpu.linux.limit", "{cpu}", "cpu.max; cpu.cfs_quota_us and cpu.cfs_period_us",
		"CPUs that the group may use at a time: the lowest quota on the way to the root. Absent if there is none.")
	limit.Attributes = []attribute.Key{cgSourceKey}
	f.cpuLimit = g.Float(limit)
}

func (f *cgroupFamilies) declareMemory(g *metric.Group) {
	const source = "memory.stat"
	f.amounts[cgUsage].int = g.Int(amount("container.memory.usage", "By", "memory.current; memory.usage_in_bytes",
		"Memory that is charged to the group, its page cache included."))
	f.amounts[cgRSS].int = g.Int(amount("container.memory.rss", "By", source, "Anonymous memory of the group."))
	f.amounts[cgWorkingSet].int = g.Int(amount("container.memory.working_set", "By", source,
		"Memory of the group without the page cache that was not used lately."))
	f.amounts[cgSwap] = cgroupSeries{seldom: true, int: g.Int(amount("container.memory.linux.swap", "By",
		"memory.swap.current; memory.stat", "Swap space that the group uses."))}
	f.amounts[cgInactiveFile].none = true
	limit := amount("container.memory.linux.limit", "By", "memory.max; memory.limit_in_bytes",
		"Most memory that the group can have: the lowest limit on the way to the root, or the host's memory.")
	limit.Attributes = []attribute.Key{cgSourceKey}
	f.limits[cgMemoryLimit] = g.Int(limit)
	f.available = g.Int(amount("container.memory.available", "By", "memory.max less the working set",
		"Memory that the group may use in addition, by its own limit and those above. Absent if there is none."))
	faults := counter("container.paging.faults", "{fault}", source, "Page faults of the group.")
	faults.Attributes = []attribute.Key{"system.paging.fault.type"}
	family := g.Int(faults)
	kind := func(kind string) cgroupSeries {
		return cgroupSeries{int: family, attrs: []attribute.KeyValue{attribute.String("system.paging.fault.type", kind)}}
	}
	f.counters[cgMinorFaults], f.counters[cgMajorFaults] = kind("minor"), kind("major")
	f.counters[cgOOMKills].int = g.Int(counter("container.memory.linux.oom_kills", "{event}",
		"memory.events; memory.oom_control", "Processes of the group that were killed for want of memory."))
	f.counters[cgHigh] = cgroupSeries{seldom: true, int: g.Int(counter("container.memory.linux.high_events", "{event}",
		"memory.events", "Times that the group was held up because it was over memory.high."))}
	f.counters[cgMax] = cgroupSeries{seldom: true, int: g.Int(counter("container.memory.linux.max_events", "{event}",
		"memory.events; memory.failcnt", "Times that the group ran into its memory limit."))}
}

func (f *cgroupFamilies) declarePressure(g *metric.Group) {
	d := counter("container.pressure.linux.stall_time", "s", "cpu.pressure, memory.pressure, io.pressure",
		"Time in which some tasks of the group, or all that were not idle (full), were held up for lack of the resource.")
	d.Attributes = []attribute.Key{cgResourceKey, cgScopeKey}
	family := g.Float(d)
	for _, p := range [...]struct {
		place           int
		resource, scope string
	}{
		{cgStallCPUSome, "cpu", "some"},
		{cgStallCPUFull, "cpu", "full"},
		{cgStallMemorySome, "memory", "some"},
		{cgStallMemoryFull, "memory", "full"},
		{cgStallIOSome, "io", "some"},
		{cgStallIOFull, "io", "full"},
	} {
		f.counters[p.place] = cgroupSeries{float: family, seconds: true, attrs: []attribute.KeyValue{
			cgResourceKey.String(p.resource), cgScopeKey.String(p.scope),
		}}
	}
}
