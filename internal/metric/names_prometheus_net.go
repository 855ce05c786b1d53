package metric

const (
	tcp         = "system.network.tcp.linux."
	udp         = "system.network.udp.linux."
	ip          = "system.network.ip.linux."
	icmp        = "system.network.icmp.linux."
	networkType = "network.type"
)

// plain returns rows without attributes: metric and name below the given area and prefix.
func plain(area, prefix string, rows [][2]string) []Rename {
	list := make([]Rename, len(rows))
	for i, r := range rows {
		list[i] = Rename{Metric: area + r[0], Name: prefix + r[1]}
	}
	return list
}

// nodeTCP is what TCP does. Of /proc/net/netstat node_exporter shows a part by default, and all of it by the flag
// --collector.netstat.fields.
func nodeTCP() []Rename {
	const cookie = tcp + "syn_cookie.event"
	rows := plain(tcp, "node_netstat_", [][2]string{
		{"active_opens", "Tcp_ActiveOpens"},
		{"passive_opens", "Tcp_PassiveOpens"},
		{"retransmits", "Tcp_RetransSegs"},
		{"resets", "Tcp_OutRsts"},
		{"attempt_fails", "Tcp_AttemptFails"},
		{"established_resets", "Tcp_EstabResets"},
		{"receive_errors", "Tcp_InErrs"},
		{"data_segments", "TcpExt_TCPOrigDataSent"},
		{"syn_retransmits", "TcpExt_TCPSynRetrans"},
		{"fast_retransmits", "TcpExt_TCPFastRetrans"},
		{"lost_retransmits", "TcpExt_TCPLostRetransmit"},
		{"timeouts", "TcpExt_TCPTimeouts"},
		{"out_of_order", "TcpExt_TCPOFOQueue"},
	})
	return append(rows,
		Rename{Metric: tcp + "segments", Where: Pairs{netDirection: "receive"}, Name: "node_netstat_Tcp_InSegs"},
		Rename{Metric: tcp + "segments", Where: Pairs{netDirection: "transmit"}, Name: "node_netstat_Tcp_OutSegs"},
		Rename{Metric: tcp + "syn_cookies", Where: Pairs{cookie: "sent"}, Name: "node_netstat_TcpExt_SyncookiesSent"},
		Rename{Metric: tcp + "syn_cookies", Where: Pairs{cookie: "received"}, Name: "node_netstat_TcpExt_SyncookiesRecv"},
		Rename{Metric: tcp + "syn_cookies", Where: Pairs{cookie: "failed"}, Name: "node_netstat_TcpExt_SyncookiesFailed"},
	)
}

// nodeTCPTrouble is what TCP refuses, drops and gives up.
func nodeTCPTrouble() []Rename {
	rows := plain(tcp, "node_netstat_TcpExt_", [][2]string{
		{"listen_overflows", "ListenOverflows"},
		{"listen_drops", "ListenDrops"},
		{"request_queue_drops", "TCPReqQFullDrop"},
		{"time_wait_overflows", "TCPTimeWaitOverflow"},
		{"rcvq_drops", "TCPRcvQDrop"},
		{"backlog_drops", "TCPBacklogDrop"},
		{"zero_window_drops", "TCPZeroWindowDrop"},
		{"zero_windows", "TCPToZeroWindowAdv"},
		{"retransmit_failures", "TCPRetransFail"},
		{"memory.pressures", "TCPMemoryPressures"},
		{"prunes", "PruneCalled"},
		{"pruned", "RcvPruned"},
	})
	for _, r := range [][2]string{
		{"data", "Data"}, {"close", "Close"}, {"memory", "Memory"}, {"timeout", "Timeout"}, {"linger", "Linger"},
	} {
		rows = append(rows, Rename{
			Metric: tcp + "aborts", Where: Pairs{tcp + "abort.reason": r[0]}, Name: "node_netstat_TcpExt_TCPAbortOn" + r[1],
		})
	}
	return rows
}

// nodeIP is UDP, ICMP and IP, each by its version.
func nodeIP() []Rename {
	var rows []Rename
	for _, r := range [][3]string{
		{udp + "no_ports", "Udp", "NoPorts"},
		{udp + "receive_errors", "Udp", "InErrors"},
		{udp + "receive_buffer_errors", "Udp", "RcvbufErrors"},
		{udp + "send_buffer_errors", "Udp", "SndbufErrors"},
		{udp + "memory_errors", "Udp", "MemErrors"},
		{ip + "header_errors", "Ip", "InHdrErrors"},
		{ip + "address_errors", "Ip", "InAddrErrors"},
		{ip + "no_routes", "Ip", "OutNoRoutes"},
		{ip + "reassembly_failures", "Ip", "ReasmFails"},
		{ip + "fragmentation_failures", "Ip", "FragFails"},
		{icmp + "receive_errors", "Icmp", "InErrors"},
		{icmp + "unreachables", "Icmp", "InDestUnreachs"},
	} {
		rows = append(rows, versions(Rename{Metric: r[0]}, r[1], r[2], r[2])...)
	}
	for _, r := range [][4]string{
		{udp + "datagrams", "Udp", "InDatagrams", "OutDatagrams"},
		{ip + "packets", "Ip", "InReceives", "OutRequests"},
		{ip + "discards", "Ip", "InDiscards", "OutDiscards"},
		{icmp + "messages", "Icmp", "InMsgs", "OutMsgs"},
	} {
		received, sent := Pairs{netDirection: "receive"}, Pairs{netDirection: "transmit"}
		rows = append(rows, versions(Rename{Metric: r[0], Where: received}, r[1], r[2], r[2])...)
		rows = append(rows, versions(Rename{Metric: r[0], Where: sent}, r[1], r[3], r[3])...)
	}
	rows = append(rows, versions(Rename{Metric: ip + "forwarded"}, "Ip", "ForwDatagrams", "OutForwDatagrams")...)
	octets := func(direction, version, name string) Rename {
		return Rename{
			Metric: ip + "io", Where: Pairs{netDirection: direction, networkType: version}, Name: "node_netstat_" + name,
		}
	}
	return append(rows,
		octets("receive", "ipv4", "IpExt_InOctets"), octets("transmit", "ipv4", "IpExt_OutOctets"),
		octets("receive", "ipv6", "Ip6_InOctets"), octets("transmit", "ipv6", "Ip6_OutOctets"),
		Rename{Metric: ip + "reverse_path_drops", Name: "node_netstat_TcpExt_IPReversePathFilter"},
	)
}

// versions returns the row for IPv4 and for IPv6: node_netstat_Udp_NoPorts and node_netstat_Udp6_NoPorts.
func versions(r Rename, protocol, v4, v6 string) []Rename {
	four, six := r, r
	four.Where, six.Where = Pairs{networkType: "ipv4"}, Pairs{networkType: "ipv6"}
	for key, value := range r.Where {
		four.Where[key], six.Where[key] = value, value
	}
	four.Name, six.Name = "node_netstat_"+protocol+"_"+v4, "node_netstat_"+protocol+"6_"+v6
	return []Rename{four, six}
}

func nodeSockets() []Rename {
	const (
		transport = "network.transport"
		state     = "network.connection.state"
		count     = "system.network.connection.count"
	)
	rows := []Rename{
		{Metric: count, Where: Pairs{transport: "tcp", state: "established"}, Name: "node_netstat_Tcp_CurrEstab"},
		{Metric: count, Where: Pairs{transport: "tcp", state: "time_wait"}, Name: "node_sockstat_TCP_tw"},
		{Metric: "system.network.socket.linux.used", Name: "node_sockstat_sockets_used"},
		{Metric: tcp + "socket.allocated", Name: "node_sockstat_TCP_alloc"},
		{Metric: tcp + "orphan.count", Name: "node_sockstat_TCP_orphan"},
		{Metric: tcp + "memory.usage", Name: "node_sockstat_TCP_mem_bytes"},
		{Metric: udp + "memory.usage", Name: "node_sockstat_UDP_mem_bytes"},
		{Metric: ip + "reassembly.memory.usage", Where: Pairs{networkType: "ipv4"}, Name: "node_sockstat_FRAG_memory"},
		{Metric: ip + "reassembly.memory.usage", Where: Pairs{networkType: "ipv6"}, Name: "node_sockstat_FRAG6_memory"},
	}
	for _, r := range [][3]string{
		{"tcp", "ipv4", "TCP"},
		{"tcp", "ipv6", "TCP6"},
		{"udp", "ipv4", "UDP"},
		{"udp", "ipv6", "UDP6"},
		{"raw", "ipv4", "RAW"},
		{"raw", "ipv6", "RAW6"},
	} {
		rows = append(rows, Rename{
			Metric: "system.network.socket.linux.count", Where: Pairs{transport: r[0], networkType: r[1]},
			Name: "node_sockstat_" + r[2] + "_inuse",
		})
	}
	return rows
}

func nodeConntrack() []Rename {
	return append(plain("system.network.conntrack.linux.", "node_nf_conntrack_stat_", [][2]string{
		{"invalid", "invalid"},
		{"insert_failures", "insert_failed"},
		{"drops", "drop"},
		{"early_drops", "early_drop"},
		{"search_restarts", "search_restart"},
	}), plain("system.network.conntrack.", "node_nf_conntrack_", [][2]string{
		{"count", "entries"}, {"max", "entries_limit"},
	})...)
}

// nodeNFS leaves out procedures and operations, whose names node_exporter spells in its own way.
func nodeNFS() []Rename {
	return append(plain("nfs.client.", "node_nfs_", [][2]string{
		{"net.tcp.connection.accepted", "connections_total"},
		{"rpc.count", "rpcs_total"},
		{"rpc.retransmit.count", "rpc_retransmissions_total"},
		{"rpc.authrefresh.count", "rpc_authentication_refreshes_total"},
	}), Rename{Metric: "nfs.client.net.count", Name: "node_nfs_packets_total", Keys: Pairs{"network.transport": "protocol"}})
}
