package metric

import "slices"

// prometheusNames returns the names of node_exporter 1.5 and later, with their labels. They are whole: what turns OTLP
// into Prometheus's form must add neither units nor "_total" (translation_strategy: UnderscoreEscapingWithoutSuffixes
// or NoTranslation), for node_exporter has totals without.
//
// These have no row: softnet, which it has for each processor; minor page faults, pages in kB and the time of memory
// pressure in ms, which would need other numbers; and hw.* but for networks, whose devices it identifies in another
// way.
func prometheusNames() []Rename {
	return slices.Concat(
		nodeProcessor(), nodeMemory(), nodeDisk(), nodeFilesystem(), nodeNetwork(), nodeLink(), nodeTCP(),
		nodeTCPTrouble(), nodeIP(), nodeSockets(), nodeConntrack(), nodeNFS(), nodeKernel(),
		nodePressure(),
	)
}

// nodeProcessor leaves out system.cpu.time of all processors together, which would be taken for one of them, and the
// mode interrupt, which node_exporter parts into irq and softirq.
func nodeProcessor() []Rename {
	return []Rename{
		{
			Metric: "system.cpu.time", Name: "node_cpu_seconds_total",
			Keys: Pairs{"cpu.logical_number": "cpu", "cpu.mode": "mode"},
			Values: Values{"cpu.mode": {
				"user": "user", "nice": "nice", "system": "system", "idle": "idle", "iowait": "iowait", "steal": "steal",
			}},
			Differs: "only with host.per_cpu; user and nice without guest time, which keeps its name",
		},
		{Metric: "system.cpu.load_average.1m", Name: "node_load1"},
		{Metric: "system.cpu.load_average.5m", Name: "node_load5"},
		{Metric: "system.cpu.load_average.15m", Name: "node_load15"},
		{Metric: "system.cpu.linux.context_switches", Name: "node_context_switches_total"},
		{Metric: "system.cpu.linux.interrupts", Name: "node_intr_total"},
		{
			Metric: "system.cpu.linux.softirqs", Name: "node_softirqs_total", Keys: Pairs{"system.cpu.softirq": "vector"},
			Values: Values{"system.cpu.softirq": {
				"HI": "hi", "TIMER": "timer", "NET_TX": "net_tx", "NET_RX": "net_rx", "BLOCK": "block",
				"IRQ_POLL": "block_iopoll", "TASKLET": "tasklet", "SCHED": "sched", "HRTIMER": "hrtimer", "RCU": "rcu",
			}},
		},
		{
			Metric: "system.cpu.linux.throttle.package.events", Name: "node_cpu_package_throttles_total",
			Keys: Pairs{"system.cpu.package": "package"},
		},
		{Metric: "system.process.created", Name: "node_forks_total"},
		{Metric: "system.process.linux.running", Name: "node_procs_running"},
		{Metric: "system.process.linux.blocked", Name: "node_procs_blocked"},
	}
}

// nodeMemory leaves out the states used and cached of system.memory.usage: node_exporter shows the lines of
// /proc/meminfo, and neither is one.
func nodeMemory() []Rename {
	const (
		state     = "system.memory.state"
		slab      = "system.memory.linux.slab.state"
		hugePages = "system.memory.linux.hugepages."
	)
	return []Rename{
		{Metric: "system.memory.limit", Name: "node_memory_MemTotal_bytes"},
		{Metric: "system.memory.usage", Where: Pairs{state: "free"}, Name: "node_memory_MemFree_bytes"},
		{Metric: "system.memory.usage", Where: Pairs{state: "buffers"}, Name: "node_memory_Buffers_bytes"},
		{Metric: "system.memory.linux.available", Name: "node_memory_MemAvailable_bytes"},
		{Metric: "system.memory.linux.shared", Name: "node_memory_Shmem_bytes"},
		{
			Metric: "system.memory.linux.slab.usage", Where: Pairs{slab: "reclaimable"},
			Name: "node_memory_SReclaimable_bytes",
		},
		{
			Metric: "system.memory.linux.slab.usage", Where: Pairs{slab: "unreclaimable"},
			Name: "node_memory_SUnreclaim_bytes",
		},
		{Metric: "system.memory.linux.dirty", Name: "node_memory_Dirty_bytes"},
		{Metric: "system.memory.linux.writeback", Name: "node_memory_Writeback_bytes"},
		{Metric: "system.memory.linux.commit.usage", Name: "node_memory_Committed_AS_bytes"},
		{Metric: "system.memory.linux.commit.limit", Name: "node_memory_CommitLimit_bytes"},
		{Metric: hugePages + "limit", Name: "node_memory_HugePages_Total"},
		{Metric: hugePages + "usage", Where: Pairs{hugePages + "state": "free"}, Name: "node_memory_HugePages_Free"},
		{Metric: hugePages + "reserved", Name: "node_memory_HugePages_Rsvd"},
		{Metric: hugePages + "surplus", Name: "node_memory_HugePages_Surp"},
		{Metric: hugePages + "page_size", Name: "node_memory_Hugepagesize_bytes"},
		{
			Metric: "system.paging.faults", Where: Pairs{"system.paging.fault.type": "major"},
			Name: "node_vmstat_pgmajfault",
		},
		{
			Metric: "system.paging.operations", Name: "node_vmstat_pswpin",
			Where: Pairs{"system.paging.fault.type": "major", "system.paging.direction": "in"},
		},
		{
			Metric: "system.paging.operations", Name: "node_vmstat_pswpout",
			Where: Pairs{"system.paging.fault.type": "major", "system.paging.direction": "out"},
		},
		{Metric: "system.memory.linux.oom_kills", Name: "node_vmstat_oom_kill"},
	}
}

func nodeKernel() []Rename {
	return []Rename{
		{Metric: "system.file_handle.linux.usage", Name: "node_filefd_allocated"},
		{Metric: "system.file_handle.linux.limit", Name: "node_filefd_maximum"},
		{Metric: "system.entropy.linux.available", Name: "node_entropy_available_bits"},
		{Metric: "system.entropy.linux.limit", Name: "node_entropy_pool_size_bits"},
		{Metric: "system.clock.linux.offset", Name: "node_timex_offset_seconds"},
		{Metric: "system.clock.linux.estimated_error", Name: "node_timex_estimated_error_seconds"},
		{Metric: "system.clock.linux.maximum_error", Name: "node_timex_maxerror_seconds"},
		{Metric: "system.clock.linux.sync_status", Name: "node_timex_sync_status", Unit: "{clock}"},
	}
}

func nodePressure() []Rename {
	row := func(resource, scope, name string) Rename {
		return Rename{
			Metric: "system.pressure.linux.stall_time",
			Where:  Pairs{"system.pressure.resource": resource, "system.pressure.scope": scope},
			Name:   "node_pressure_" + name + "_seconds_total",
		}
	}
	return []Rename{
		row("cpu", "some", "cpu_waiting"),
		row("memory", "some", "memory_waiting"),
		row("memory", "full", "memory_stalled"),
		row("io", "some", "io_waiting"),
		row("io", "full", "io_stalled"),
		row("irq", "full", "irq_stalled"),
	}
}
