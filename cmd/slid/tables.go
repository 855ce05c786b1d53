package main

import (
	"slices"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/budget"
	"github.com/slid-agent/slid/collector/host"
	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/collector/probe"
	"github.com/slid-agent/slid/collector/resource"
	"github.com/slid-agent/slid/collector/scrape"
	"github.com/slid-agent/slid/collector/service"
	"github.com/slid-agent/slid/collector/unit"
	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

// collectors returns the list of all collectors, one line each. They are opened in this order. Budgets are generous
// multiples of what a large host needs; what goes over one is counted in slid.series.dropped. The last one counts the programs of all others.
func collectors(d latency.Deps, c config.Config) []collector.Factory {
	processors := host.CPUOptions{PerCPU: c.Host.PerCPU}
	return []collector.Factory{
		{Name: "host/cpu", Class: metric.ClassHost, Budget: 10000, New: processors.New},
		{Name: "host/memory", Class: metric.ClassHost, Budget: 50, New: host.NewMemory},
		{Name: "host/paging", Class: metric.ClassHost, Budget: 200, New: host.NewPaging},
		{Name: "host/disk", Class: metric.ClassHost, Budget: 2000, New: host.NewDisk},
		{Name: "host/filesystem", Class: metric.ClassHost, Budget: 5000, Lane: collector.Slow, New: host.NewFilesystem},
		{Name: "host/raid", Class: metric.ClassHost, Budget: 1000, Lane: collector.Slow, New: host.NewRAID},
		{Name: "host/storage", Class: metric.ClassHost, Budget: 5000, Lane: collector.Slow, New: host.NewStorage},
		{Name: "host/nfs", Class: metric.ClassHost, Budget: 500, New: host.NewNFS},
		{Name: "host/network", Class: metric.ClassHost, Budget: 2000, New: host.NewNetwork},
		{Name: "host/link", Class: metric.ClassHost, Budget: 1000, Lane: collector.Slow, New: host.NewLink},
		{Name: "host/softnet", Class: metric.ClassHost, Budget: 50, New: host.NewSoftnet},
		{Name: "host/protocols", Class: metric.ClassHost, Budget: 200, New: host.NewProtocols},
		{Name: "host/sockets", Class: metric.ClassHost, Budget: 100, New: host.NewSockets},
		{Name: "host/conntrack", Class: metric.ClassHost, Budget: 50, New: host.NewConntrack},
		{Name: "host/pressure", Class: metric.ClassHost, Budget: 20, New: host.NewPressure},
		{Name: "host/process", Class: metric.ClassHost, Budget: 500, New: host.NewProcesses},
		{Name: "host/cgroup", Class: metric.ClassHost, Budget: 20000, New: host.NewCgroups},
		{Name: "host/kernel", Class: metric.ClassHost, Budget: 100, New: host.NewKernel},
		{Name: "host/clock", Class: metric.ClassHost, Budget: 20, New: host.NewClock},
		{Name: "host/frequency", Class: metric.ClassHost, Budget: 20000, Lane: collector.Slow, New: processors.NewFrequency},
		{Name: "host/sensors", Class: metric.ClassHost, Budget: 5000, Lane: collector.Slow, New: host.NewSensors},
		{Name: "host/burst", Class: metric.ClassHost, Budget: 500, Lane: collector.Burst, New: host.NewBurst},
		// Before the probes, which then tell apart the units and containers.
		{Name: latency.AttributionName, Class: metric.ClassAgent, Budget: 10, New: d.NewAttribution},
		{Name: latency.RunQueueName, Class: metric.ClassLatency, Budget: 4000, New: d.NewRunQueue},
		{Name: latency.BlockIOName, Class: metric.ClassLatency, Budget: 4000, New: d.NewBlockIO},
		{Name: latency.TCPName, Class: metric.ClassLatency, Budget: 10000, New: d.NewTCP},
		{Name: latency.ReclaimName, Class: metric.ClassLatency, Budget: 1200, New: d.NewReclaim},
		{Name: latency.OOMName, Class: metric.ClassLatency, Budget: 600, New: d.NewOOM},
		{Name: latency.FsyncName, Class: metric.ClassLatency, Budget: 3500, New: d.NewFsync},
		{Name: latency.DNSName, Class: metric.ClassLatency, Budget: 6000, OptIn: true, New: d.NewDNS},
		{Name: latency.DropsName, Class: metric.ClassLatency, Budget: 5000, OptIn: true, New: d.NewDrops},
		{Name: latency.PacketReadName, Class: metric.ClassLatency, Budget: 600, OptIn: true, New: d.NewPacketRead},
		{Name: latency.AcceptName, Class: metric.ClassLatency, Budget: 1500, OptIn: true, New: d.NewAccept},
		{Name: latency.SoftIRQName, Class: metric.ClassLatency, Budget: 20, OptIn: true, New: d.NewSoftIRQ},
		{Name: latency.LockName, Class: metric.ClassLatency, Budget: 4000, OptIn: true, New: d.NewLock},
		{Name: latency.SyscallsName, Class: metric.ClassLatency, Budget: 6000, OptIn: true, New: d.NewSyscalls(c.Latency.Syscalls)},
		{Name: latency.FSOpsName, Class: metric.ClassLatency, Budget: 100, OptIn: true, New: d.NewFSOps},
		{Name: "service/traffic", Class: metric.ClassService, Budget: 20000, New: traffic(d, c)},
		{Name: probe.Name, Class: metric.ClassService, Budget: 8000, New: probes(probeOptions(c))},
		{Name: scrape.Name, Class: metric.ClassService, Budget: indicatorSeries(c, slo.ScrapeSource), New: scrapes(c)},
		{Name: unit.Name, Class: metric.ClassService, Budget: indicatorSeries(c, slo.UnitSource), New: units(c)},
		{Name: resource.Name, Class: metric.ClassService, Budget: indicatorSeries(c, slo.ResourceSource), Lane: collector.Derived, New: resources(c)},
		{Name: budget.Name, Class: metric.ClassSLO, Budget: objectiveSeries(c), Lane: collector.Derived, New: budgets(c)},
		{Name: latency.CostName, Class: metric.ClassAgent, Budget: 300, New: d.NewCost},
	}
}

// formats returns the list of the forms in which slid sli prints, the default first.
func formats() []option[text.Format] {
	return []option[text.Format]{
		{"table", text.Table},
		{"json", text.JSON},
		{"ndjson", text.NDJSON},
		{"openmetrics", text.OpenMetrics},
	}
}

// objects returns the list of the kernel objects in the binary.
func objects() []func() (*ebpf.CollectionSpec, error) {
	return []func() (*ebpf.CollectionSpec, error){
		gen.LoadOwner, gen.LoadRunqueue, gen.LoadBlockio, gen.LoadTCP, gen.LoadReclaim, gen.LoadOOM, gen.LoadFsync, gen.LoadHTTP,
		gen.LoadDNS, gen.LoadDrops, gen.LoadPktread, gen.LoadAccept,
		gen.LoadSoftirq, gen.LoadLock, gen.LoadSyscalls, gen.LoadFsops,
	}
}

type constructor = func(collector.Env) (collector.Collector, error)

func traffic(d latency.Deps, c config.Config) constructor {
	return func(env collector.Env) (collector.Collector, error) {
		return service.NewTraffic(env, d.Kernel, d.Meter, overrides(c), objectives(c))
	}
}

func probes(list []probe.Options) constructor {
	return func(env collector.Env) (collector.Collector, error) {
		return probe.NewProbes(env, version, list)
	}
}

// indicators returns the indicators of a configuration that a source counts, each once: several objectives may be about one.
func indicators(c config.Config, source string) (list []slo.Indicator) {
	for _, o := range c.SLOs {
		for _, m := range o.Members {
			known := slices.ContainsFunc(list, func(i slo.Indicator) bool { return i.Name == m.Indicator.Name })
			if m.Indicator.Source() == source && !known {
				list = append(list, m.Indicator)
			}
		}
	}
	return list
}

// indicatorSeries is how many series the indicators of a source have.
func indicatorSeries(c config.Config, source string) int {
	each := map[string]int{
		slo.ScrapeSource: scrape.SeriesPerIndicator, slo.UnitSource: unit.SeriesPerIndicator,
		slo.ResourceSource: resource.SeriesPerIndicator,
	}
	return each[source] * len(indicators(c, source))
}

func scrapes(c config.Config) constructor {
	return func(env collector.Env) (collector.Collector, error) {
		return scrape.NewScrapes(env, version, c.Interval, indicators(c, slo.ScrapeSource))
	}
}

func units(c config.Config) constructor {
	return func(env collector.Env) (collector.Collector, error) {
		return unit.NewUnits(env, indicators(c, slo.UnitSource))
	}
}

func resources(c config.Config) constructor {
	return func(env collector.Env) (collector.Collector, error) {
		return resource.NewFigures(env, indicators(c, slo.ResourceSource))
	}
}

// objectiveSeries is how many series the objectives of a configuration have.
func objectiveSeries(c config.Config) int {
	n := 0
	for _, o := range c.SLOs {
		n += budget.SeriesPerObjective + len(o.Members)
	}
	return n
}

func budgets(c config.Config) constructor {
	return func(env collector.Env) (collector.Collector, error) { return budget.NewObjectives(env, c.SLOs) }
}
