package metric

import "slices"

// Attribute keys that many rows rename.
const (
	diskDirection = "disk.io.direction"
	netDirection  = "network.io.direction"
	netInterface  = "network.interface.name"
	device        = "system.device"
)

// legacyNames returns the names of hostmetrics v0.165 without its feature gates. Metrics that it calls as we do have
// no row. These have none because its numbers mean something else: the memory state used, which is what is not
// available there and what is neither free nor cached here; system.paging.faults and .operations, which it multiplies
// by the size of a page; sleeping and stopped processes, which it parts in another way; and the processes of
// process.*, which it shows one by one.
func legacyNames() []Rename {
	return slices.Concat(legacyProcessor(), legacyMemory(), legacyDisk(), legacyNetwork())
}

func legacyProcessor() []Rename {
	// Its interrupt has no softirq, which it counts apart; ours has both and keeps its name.
	modes := Values{"cpu.mode": {
		"user": "user", "nice": "nice", "system": "system", "idle": "idle", "iowait": "wait", "steal": "steal",
	}}
	const noGuest = "user and nice without guest time, which keeps its name, as do interrupt and softirq together"
	return []Rename{
		{
			Metric: "system.cpu.time", Name: "system.cpu.time",
			Keys: Pairs{"cpu.mode": "state", "cpu.logical_number": "cpu"}, Prefix: Pairs{"cpu.logical_number": "cpu"},
			Values: modes, Differs: noGuest,
		},
		{
			Metric: "system.cpu.time", Name: "system.cpu.time", Keys: Pairs{"cpu.mode": "state"},
			Values: modes, Differs: "all CPUs in one; " + noGuest,
		},
		{
			Metric: "system.process.count", Name: "system.processes.count", Unit: "{processes}",
			Keys:   Pairs{"process.state": "status"},
			Values: Values{"process.state": {"running": "running", "blocked": "blocked", "defunct": "zombies"}},
		},
		{Metric: "system.process.created", Name: "system.processes.created", Unit: "{processes}"},
	}
}

func legacyMemory() []Rename {
	return []Rename{
		{
			Metric: "system.memory.usage", Name: "system.memory.usage", Keys: Pairs{"system.memory.state": "state"},
			Values: Values{"system.memory.state": {"free": "free", "buffers": "buffered", "cached": "cached"}},
		},
		{
			Metric: "system.memory.linux.slab.usage", Name: "system.memory.usage",
			Keys: Pairs{"system.memory.linux.slab.state": "state"},
			Values: Values{"system.memory.linux.slab.state": {
				"reclaimable": "slab_reclaimable", "unreclaimable": "slab_unreclaimable",
			}},
		},
		{Metric: "system.memory.linux.available", Name: "system.linux.memory.available"},
		{Metric: "system.memory.linux.dirty", Name: "system.linux.memory.dirty"},
		{
			Metric: "system.paging.usage", Name: "system.paging.usage",
			Keys: Pairs{device: "device", "system.paging.state": "state"},
		},
	}
}

func legacyDisk() []Rename {
	only, both := Pairs{device: "device"}, Pairs{device: "device", diskDirection: "direction"}
	filesystem := Pairs{
		device: "device", "system.filesystem.state": "state", "system.filesystem.type": "type",
		"system.filesystem.mode": "mode", "system.filesystem.mountpoint": "mountpoint",
	}
	row := func(name, unit string, keys Pairs) Rename {
		return Rename{Metric: name, Name: name, Unit: unit, Keys: keys}
	}
	return []Rename{
		row("system.disk.io", "", both),
		row("system.disk.operations", "{operations}", both),
		row("system.disk.operation_time", "", both),
		row("system.disk.merged", "{operations}", both),
		row("system.disk.io_time", "", only),
		row("system.disk.pending_operations", "{operations}", only),
		row("system.filesystem.usage", "", filesystem),
		row("system.filesystem.inodes.usage", "{inodes}", filesystem),
	}
}

func legacyNetwork() []Rename {
	keys := Pairs{netInterface: "device", netDirection: "direction"}
	return []Rename{
		{Metric: "system.network.io", Name: "system.network.io", Keys: keys},
		{
			Metric: "system.network.packet.count", Name: "system.network.packets", Unit: "{packets}",
			Keys: Pairs{device: "device", netDirection: "direction"},
		},
		{Metric: "system.network.packet.dropped", Name: "system.network.dropped", Unit: "{packets}", Keys: keys},
		{Metric: "system.network.errors", Name: "system.network.errors", Unit: "{errors}", Keys: keys},
		// Of all states time_wait is the only one that is counted the same: our established has close_wait in it.
		{
			Metric: "system.network.connection.count", Name: "system.network.connections", Unit: "{connections}",
			Keys:   Pairs{"network.transport": "protocol", "network.connection.state": "state"},
			Values: Values{"network.connection.state": {"time_wait": "TIME_WAIT"}, "network.transport": {"tcp": "tcp"}},
		},
		{Metric: "system.network.conntrack.count", Name: "system.network.conntrack.count", Unit: "{entries}"},
		{Metric: "system.network.conntrack.max", Name: "system.network.conntrack.max", Unit: "{entries}"},
	}
}
