package metric

func nodeDisk() []Rename {
	labels := Pairs{device: "device"}
	return append([]Rename{
		{Metric: "system.disk.io_time", Name: "node_disk_io_time_seconds_total", Keys: labels},
		{Metric: "system.disk.pending_operations", Name: "node_disk_io_now", Keys: labels},
	}, byDirection(diskDirection, labels, [][3]string{
		{"system.disk.io", "read", "node_disk_read_bytes_total"},
		{"system.disk.io", "write", "node_disk_written_bytes_total"},
		{"system.disk.operations", "read", "node_disk_reads_completed_total"},
		{"system.disk.operations", "write", "node_disk_writes_completed_total"},
		{"system.disk.operation_time", "read", "node_disk_read_time_seconds_total"},
		{"system.disk.operation_time", "write", "node_disk_write_time_seconds_total"},
		{"system.disk.merged", "read", "node_disk_reads_merged_total"},
		{"system.disk.merged", "write", "node_disk_writes_merged_total"},
	})...)
}

// nodeFilesystem leaves out the states used and reserved: node_exporter shows what is free for root, which is both.
func nodeFilesystem() []Rename {
	const state, mode = "system.filesystem.state", "system.filesystem.mode"
	status := Pairs{device: "device", "system.filesystem.type": "fstype", "system.filesystem.mountpoint": "mountpoint"}
	size := Pairs{
		device: "device", "system.filesystem.type": "fstype", "system.filesystem.mountpoint": "mountpoint", mode: "",
	}
	free := Pairs{state: "free"}
	return []Rename{
		{Metric: "system.filesystem.limit", Name: "node_filesystem_size_bytes", Keys: size},
		{Metric: "system.filesystem.usage", Where: free, Name: "node_filesystem_avail_bytes", Keys: size},
		{Metric: "system.filesystem.inodes.limit", Name: "node_filesystem_files", Keys: size},
		{Metric: "system.filesystem.inodes.usage", Where: free, Name: "node_filesystem_files_free", Keys: size},
		{Metric: "system.filesystem.linux.read_only", Name: "node_filesystem_readonly", Unit: "{mount}", Keys: status},
	}
}

func nodeNetwork() []Rename {
	labels := Pairs{netInterface: "device"}
	return append(byDirection(netDirection, labels, [][3]string{
		{"system.network.io", "receive", "node_network_receive_bytes_total"},
		{"system.network.io", "transmit", "node_network_transmit_bytes_total"},
		{"system.network.errors", "receive", "node_network_receive_errs_total"},
		{"system.network.errors", "transmit", "node_network_transmit_errs_total"},
		{"system.network.packet.dropped", "receive", "node_network_receive_drop_total"},
		{"system.network.packet.dropped", "transmit", "node_network_transmit_drop_total"},
	}), byDirection(netDirection, Pairs{device: "device"}, [][3]string{ // as the conventions have it, alone of all
		{"system.network.packet.count", "receive", "node_network_receive_packets_total"},
		{"system.network.packet.count", "transmit", "node_network_transmit_packets_total"},
	})...)
}

func nodeLink() []Rename {
	labels, hardware := Pairs{netInterface: "device"}, Pairs{"hw.id": "", "hw.name": "device"}
	return []Rename{
		{Metric: "hw.network.bandwidth.limit", Name: "node_network_speed_bytes", Keys: hardware},
		{
			Metric: "hw.network.up", Name: "node_network_carrier", Unit: "{carrier}", Keys: hardware,
			Differs: "0 for an interface that is disabled, which node_exporter leaves out",
		},
		{
			Metric: "system.network.link.linux.carrier_changes", Name: "node_network_carrier_changes_total",
			Keys: labels,
		},
		{Metric: "system.network.link.linux.mtu", Name: "node_network_mtu_bytes", Keys: labels},
	}
}

// byDirection returns rows of metric, direction and name whose labels are the same.
func byDirection(key string, labels Pairs, rows [][3]string) []Rename {
	list := make([]Rename, len(rows))
	for i, r := range rows {
		list[i] = Rename{Metric: r[0], Where: Pairs{key: r[1]}, Name: r[2], Keys: labels}
	}
	return list
}
