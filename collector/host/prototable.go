package host

import (
	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
)

// Where the numbers of the protocols come from.
const (
	snmpFile     = "/proc/1/net/snmp"
	netstatFile  = "/proc/1/net/netstat"
	bothIPFiles  = "/proc/1/net/snmp, /proc/1/net/snmp6"
	octetsFile   = "/proc/1/net/netstat, /proc/1/net/snmp6"
	tcpArea      = "system.network.tcp.linux."
	udpArea      = "system.network.udp.linux."
	ipArea       = "system.network.ip.linux."
	icmpArea     = "system.network.icmp.linux."
	ioDirection  = attribute.Key("network.io.direction")
	networkType  = attribute.Key("network.type")
	cookieAction = attribute.Key("system.network.tcp.linux.syn_cookie.event")
	abortReason  = attribute.Key("system.network.tcp.linux.abort.reason")
)

// protocolMetrics returns what is shown of /proc/net/snmp, netstat and snmp6: at least what node_exporter shows of
// them unless told otherwise, less UDP-Lite, which Linux gave up.
func protocolMetrics() []protoMetric {
	list := tcpMetrics()
	list = append(list, tcpTroubleMetrics()...)
	list = append(list, tcpMemoryMetrics()...)
	list = append(list, udpMetrics()...)
	list = append(list, ipMetrics()...)
	return append(list, icmpMetrics()...)
}

// protoSingle declares a counter of one series.
func protoSingle(name, unit, source, key, description string) protoMetric {
	return protoMetric{desc: counter(name, unit, source, description), series: []protoField{{key: key}}}
}

// protoSplit declares a counter whose series differ by attributes with the given keys.
func protoSplit(name, unit, source, description string, keys []attribute.Key, series ...protoField) protoMetric {
	d := counter(name, unit, source, description)
	d.Attributes = keys
	return protoMetric{desc: d, series: series}
}

// protoSeries returns the series of a key with one attribute.
func protoSeries(key string, attrs ...attribute.KeyValue) protoField { return protoField{key, attrs} }

func protoDirection(key, d string) protoField { return protoSeries(key, ioDirection.String(d)) }

// protoVersions declares a counter with a series for IPv4 and one for IPv6.
func protoVersions(name, unit, v4, v6, description string) protoMetric {
	return protoSplit(name, unit, bothIPFiles, description, []attribute.Key{networkType},
		protoSeries(v4, networkType.String("ipv4")), protoSeries(v6, networkType.String("ipv6")))
}

// protoWays declares a counter with a series for each direction and IP version: keys are received and transmitted
// of IPv4, then of IPv6.
func protoWays(name, unit, source string, keys [4]string, description string) protoMetric {
	f := protoSplit(name, unit, source, description, []attribute.Key{ioDirection, networkType})
	for i, key := range keys {
		f.series = append(f.series, protoSeries(key, ioDirection.String([...]string{"receive", "transmit"}[i%2]),
			networkType.String([...]string{"ipv4", "ipv6"}[i/2])))
	}
	return f
}

// tcpMetrics is what TCP does.
func tcpMetrics() []protoMetric {
	return []protoMetric{
		protoSplit(tcpArea+"segments", "{segment}", snmpFile,
			"Segments received, with damaged ones, and transmitted, without retransmitted ones.",
			[]attribute.Key{ioDirection}, protoDirection("Tcp InSegs", "receive"), protoDirection("Tcp OutSegs", "transmit")),
		protoSingle(tcpArea+"data_segments", "{segment}", netstatFile, "TcpExt TCPOrigDataSent",
			"Segments with data transmitted for the first time: what retransmits are a share of."),
		protoSingle(tcpArea+"active_opens", "{connection}", snmpFile, "Tcp ActiveOpens", "Connections this host asked for."),
		protoSingle(tcpArea+"passive_opens", "{connection}", snmpFile, "Tcp PassiveOpens", "Connections others asked for."),
		protoSingle(tcpArea+"retransmits", "{segment}", snmpFile, "Tcp RetransSegs", "Segments transmitted once more."),
		protoSingle(tcpArea+"syn_retransmits", "{segment}", netstatFile, "TcpExt TCPSynRetrans",
			"Requests for a connection, and answers to them, transmitted once more."),
		protoSingle(tcpArea+"fast_retransmits", "{segment}", netstatFile, "TcpExt TCPFastRetrans",
			"Segments transmitted once more because later ones had arrived."),
		protoSingle(tcpArea+"lost_retransmits", "{segment}", netstatFile, "TcpExt TCPLostRetransmit",
			"Retransmitted segments that were lost again."),
		protoSingle(tcpArea+"timeouts", "{event}", netstatFile, "TcpExt TCPTimeouts",
			"Expiries of the timer that waits for an acknowledgement."),
		protoSingle(tcpArea+"resets", "{segment}", snmpFile, "Tcp OutRsts", "Segments transmitted that reset a connection."),
		protoSingle(tcpArea+"out_of_order", "{segment}", netstatFile, "TcpExt TCPOFOQueue",
			"Segments received that others should have come before."),
		protoSplit(tcpArea+"syn_cookies", "{segment}", netstatFile,
			"SYN cookies, which the kernel resorts to when requests for connections come too fast.",
			[]attribute.Key{cookieAction},
			protoSeries("TcpExt SyncookiesSent", cookieAction.String("sent")),
			protoSeries("TcpExt SyncookiesRecv", cookieAction.String("received")),
			protoSeries("TcpExt SyncookiesFailed", cookieAction.String("failed"))),
	}
}

// tcpTroubleMetrics is what TCP refuses, drops and gives up.
func tcpTroubleMetrics() []protoMetric {
	return []protoMetric{
		protoSingle(tcpArea+"attempt_fails", "{connection}", snmpFile, "Tcp AttemptFails",
			"Connections that were refused or given up before they were established."),
		protoSingle(tcpArea+"established_resets", "{connection}", snmpFile, "Tcp EstabResets",
			"Established connections that ended by a reset."),
		protoSplit(tcpArea+"aborts", "{connection}", netstatFile,
			"Connections that this host reset: data came after the program had closed it (data), it closed it before "+
				"reading all (close) or without lingering (linger), memory was short, or the peer did not answer (timeout).",
			[]attribute.Key{abortReason},
			protoSeries("TcpExt TCPAbortOnData", abortReason.String("data")),
			protoSeries("TcpExt TCPAbortOnClose", abortReason.String("close")),
			protoSeries("TcpExt TCPAbortOnMemory", abortReason.String("memory")),
			protoSeries("TcpExt TCPAbortOnTimeout", abortReason.String("timeout")),
			protoSeries("TcpExt TCPAbortOnLinger", abortReason.String("linger"))),
		protoSingle(tcpArea+"listen_overflows", "{event}", netstatFile, "TcpExt ListenOverflows",
			"Times that a listening socket's queue of connections to accept was full."),
		protoSingle(tcpArea+"listen_drops", "{event}", netstatFile, "TcpExt ListenDrops",
			"Requests for a connection that a listening socket dropped, for a full queue or any other reason."),
		protoSingle(tcpArea+"request_queue_drops", "{event}", netstatFile, "TcpExt TCPReqQFullDrop",
			"Requests for a connection dropped because the queue of half-open ones was full and SYN cookies are off."),
		protoSingle(tcpArea+"time_wait_overflows", "{event}", netstatFile, "TcpExt TCPTimeWaitOverflow",
			"Connections that did not wait after their end because net.ipv4.tcp_max_tw_buckets do already."),
		protoSingle(tcpArea+"receive_errors", "{segment}", snmpFile, "Tcp InErrs", "Damaged segments received."),
		protoSingle(tcpArea+"rcvq_drops", "{segment}", netstatFile, "TcpExt TCPRcvQDrop",
			"Segments dropped because the receive queue of their socket was full."),
		protoSingle(tcpArea+"backlog_drops", "{segment}", netstatFile, "TcpExt TCPBacklogDrop",
			"Segments dropped because their socket was in use by its program and what waits for it was full."),
		protoSingle(tcpArea+"zero_window_drops", "{segment}", netstatFile, "TcpExt TCPZeroWindowDrop",
			"Segments dropped because the program did not read and the window was closed."),
		protoSingle(tcpArea+"zero_windows", "{event}", netstatFile, "TcpExt TCPToZeroWindowAdv",
			"Times that a peer was told to stop because the program here did not read."),
		protoSingle(tcpArea+"retransmit_failures", "{segment}", netstatFile, "TcpExt TCPRetransFail",
			"Segments that could not be transmitted once more, mostly because the interface's queue was full."),
	}
}

// tcpMemoryMetrics is what TCP does for lack of memory.
func tcpMemoryMetrics() []protoMetric {
	pressure := protoSingle(tcpArea+"memory.pressure_time", "s", netstatFile, "TcpExt TCPMemoryPressuresChrono",
		"Time that TCP spent under memory pressure; known when it ends.")
	pressure.convert = func(ms uint64) float64 { return float64(ms) / 1e3 }
	return []protoMetric{
		pressure,
		protoSingle(tcpArea+"memory.pressures", "{event}", netstatFile, "TcpExt TCPMemoryPressures",
			"Times that TCP came under memory pressure: its sockets held more than the second number of tcp_mem."),
		protoSingle(tcpArea+"prunes", "{event}", netstatFile, "TcpExt PruneCalled",
			"Times that a socket's received data had to be squeezed to fit its buffer."),
		protoSingle(tcpArea+"pruned", "{segment}", netstatFile, "TcpExt RcvPruned",
			"Segments dropped because squeezing did not make room."),
	}
}

func udpMetrics() []protoMetric {
	return []protoMetric{
		protoWays(udpArea+"datagrams", "{datagram}", bothIPFiles,
			[4]string{"Udp InDatagrams", "Udp OutDatagrams", "Udp6InDatagrams", "Udp6OutDatagrams"},
			"Datagrams that programs received and transmitted."),
		protoVersions(udpArea+"no_ports", "{datagram}", "Udp NoPorts", "Udp6NoPorts",
			"Datagrams received for a port that no program listens at."),
		protoVersions(udpArea+"receive_errors", "{datagram}", "Udp InErrors", "Udp6InErrors",
			"Datagrams received that were lost to errors, full buffers included."),
		protoVersions(udpArea+"receive_buffer_errors", "{datagram}", "Udp RcvbufErrors", "Udp6RcvbufErrors",
			"Datagrams lost because the receive buffer of their socket was full."),
		protoVersions(udpArea+"send_buffer_errors", "{datagram}", "Udp SndbufErrors", "Udp6SndbufErrors",
			"Datagrams not transmitted because a send buffer was full."),
		protoVersions(udpArea+"memory_errors", "{datagram}", "Udp MemErrors", "Udp6MemErrors",
			"Datagrams lost because UDP had more memory than udp_mem allows."),
	}
}

func ipMetrics() []protoMetric {
	forwarding := protoMetric{
		desc: amount(ipArea+"forwarding", "1", snmpFile, "1 if the host forwards IPv4 packets, else 0."),
		convert: func(v uint64) float64 {
			if v == 1 { // RFC 1213, ipForwarding; 2 is: does not
				return 1
			}
			return 0
		},
		series: []protoField{{key: "Ip Forwarding"}},
	}
	return []protoMetric{
		forwarding,
		protoWays(ipArea+"io", "By", octetsFile,
			[4]string{"IpExt InOctets", "IpExt OutOctets", "Ip6InOctets", "Ip6OutOctets"},
			"Bytes of IP packets received and transmitted."),
		protoWays(ipArea+"packets", "{packet}", bothIPFiles,
			[4]string{"Ip InReceives", "Ip OutRequests", "Ip6InReceives", "Ip6OutRequests"},
			"IP packets received, and those that this host's protocols had to transmit."),
		protoWays(ipArea+"discards", "{packet}", bothIPFiles,
			[4]string{"Ip InDiscards", "Ip OutDiscards", "Ip6InDiscards", "Ip6OutDiscards"},
			"Good IP packets that were dropped, for example for lack of room."),
		protoVersions(ipArea+"forwarded", "{packet}", "Ip ForwDatagrams", "Ip6OutForwDatagrams",
			"IP packets that this host passed on to others."),
		protoVersions(ipArea+"header_errors", "{packet}", "Ip InHdrErrors", "Ip6InHdrErrors",
			"IP packets received and dropped for what is wrong in their header."),
		protoVersions(ipArea+"address_errors", "{packet}", "Ip InAddrErrors", "Ip6InAddrErrors",
			"IP packets received and dropped because of their address."),
		protoVersions(ipArea+"no_routes", "{packet}", "Ip OutNoRoutes", "Ip6OutNoRoutes",
			"IP packets not transmitted for want of a route."),
		protoVersions(ipArea+"reassembly_failures", "{event}", "Ip ReasmFails", "Ip6ReasmFails",
			"Failures to put a fragmented IP packet together, most because a part did not come in time."),
		protoVersions(ipArea+"fragmentation_failures", "{packet}", "Ip FragFails", "Ip6FragFails",
			"IP packets too large for their way that must not be fragmented."),
		protoSingle(ipArea+"reverse_path_drops", "{packet}", netstatFile, "TcpExt IPReversePathFilter",
			"IPv4 packets dropped by rp_filter: answers to them would go another way."),
	}
}

func icmpMetrics() []protoMetric {
	return []protoMetric{
		protoWays(icmpArea+"messages", "{message}", bothIPFiles,
			[4]string{"Icmp InMsgs", "Icmp OutMsgs", "Icmp6InMsgs", "Icmp6OutMsgs"},
			"ICMP messages received and transmitted."),
		protoVersions(icmpArea+"receive_errors", "{message}", "Icmp InErrors", "Icmp6InErrors",
			"ICMP messages received that could not be used."),
		protoVersions(icmpArea+"unreachables", "{message}", "Icmp InDestUnreachs", "Icmp6InDestUnreachs",
			"ICMP messages received that say that something cannot be reached."),
	}
}

// protoMemory declares an amount of memory that the kernel counts in pages.
func protoMemory(name, source, key, description string) protoMetric {
	return protoMetric{
		desc: amount(name, "By", source, description), convert: pagesToBytes,
		series: []protoField{{key: key}},
	}
}

// protoAmount declares an amount of one series.
func protoAmount(name, unit, source, key, description string) protoMetric {
	return protoMetric{desc: amount(name, unit, source, description), series: []protoField{{key: key}}}
}

// protoAmounts declares an amount whose series differ by attributes.
func protoAmounts(d metric.Desc, keys []attribute.Key, series ...protoField) protoMetric {
	d.Attributes = keys
	return protoMetric{desc: d, series: series}
}
