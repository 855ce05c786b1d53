package text

import "go.opentelemetry.io/otel/attribute"

// The metrics that reports are made of.
const (
	cpuTime           = "system.cpu.time"
	cpuCount          = "system.cpu.logical.count"
	loadPrefix        = "system.cpu.load_average."
	memoryUsage       = "system.memory.usage"
	memoryLimit       = "system.memory.limit"
	memoryAvailable   = "system.memory.linux.available"
	diskIO            = "system.disk.io"
	diskOperations    = "system.disk.operations"
	diskOperationTime = "system.disk.operation_time"
	diskBusyTime      = "system.disk.io_time"
	networkIO         = "system.network.io"
	networkPackets    = "system.network.packet.count"
	networkErrors     = "system.network.errors"
	networkDropped    = "system.network.packet.dropped"
	pressureTime      = "system.pressure.linux.stall_time"

	httpResponses = "http.server.response.count"
	httpDuration  = "http.server.request.duration"
	httpFirstByte = "http.server.time_to_first_byte"
	httpAborted   = "http.server.request.aborted"
	connections   = "service.connection.count"
	sliCoverage   = "sli.coverage"
	sliLost       = "sli.events.lost"
	sliUntimed    = "sli.durations.lost"

	processCPU    = "process.cpu.time"
	processMemory = "process.memory.usage"
	goMemory      = "go.memory.used"
	ticksMissed   = "slid.tick.missed"
	kernelTime    = "slid.probe.kernel_time"
	eventsLost    = "slid.events.lost"
)

// Metrics returns the names of the metrics that reports are made of: a snapshot for a report needs no others.
func Metrics() []string {
	list := []string{
		cpuTime, cpuCount, loadPrefix + "1m", loadPrefix + "5m", loadPrefix + "15m", memoryUsage, memoryLimit, memoryAvailable,
		diskIO, diskOperations, diskOperationTime, diskBusyTime, networkIO, networkPackets, networkErrors, networkDropped,
		pressureTime, httpResponses, httpDuration, httpFirstByte, httpAborted, connections, sliCoverage, sliLost, sliUntimed,
		processCPU, processMemory, goMemory, ticksMissed, kernelTime, eventsLost, preemptedTime,
		probeAttempts, probeDuration, probeExpiry, probeMissed,
	}
	for _, p := range probes {
		list = append(list, p.metric)
	}
	for _, d := range delays {
		list = append(list, d.metric)
	}
	return list
}

// kernelCounters is the prefix of the metrics that the kernel counts since boot. Others are counted by slid itself.
const kernelCounters = "system."

// agentName is the service.name of slid itself.
const agentName = "slid"

// Attributes that tell series and resources apart.
const (
	keyHostName    = attribute.Key("host.name")
	keyOS          = attribute.Key("os.description")
	keyOSName      = attribute.Key("os.name")
	keyOSVersion   = attribute.Key("os.version")
	keyServiceName = attribute.Key("service.name")
	keyNamespace   = attribute.Key("service.namespace")
	keyInstance    = attribute.Key("service.instance.id")
	keyUnit        = attribute.Key("systemd.unit.name")
	keyContainer   = attribute.Key("container.id")

	keyCPUMode       = attribute.Key("cpu.mode")
	keyMemoryState   = attribute.Key("system.memory.state")
	keyDevice        = attribute.Key("system.device")
	keyInterface     = attribute.Key("network.interface.name")
	keyDiskDirection = attribute.Key("disk.io.direction")
	keyDeviceKind    = attribute.Key("linux.device.kind")
	keyNetDirection  = attribute.Key("network.io.direction")
	keyPressure      = attribute.Key("system.pressure.resource")
	keyScope         = attribute.Key("system.pressure.scope")

	keyPort     = attribute.Key("server.port")
	keyStatus   = attribute.Key("http.response.status_code")
	keyRoute    = attribute.Key("http.route")
	keyProtocol = attribute.Key("network.protocol.name")
)

// probes are the kernel latencies of a report: metrics of the host that are histograms in seconds.
var probes = []struct{ metric, name, label string }{
	{"system.cpu.linux.runqueue.duration", "runqueue", "run queue"},
	{"system.disk.linux.request.queue_duration", "disk_queue", "disk queue"},
	{"system.disk.linux.request.device_duration", "disk_device", "disk device"},
	{"system.filesystem.linux.fsync.duration", "fsync", "fsync"},
	{"system.memory.linux.reclaim.duration", "reclaim", "memory reclaim"},
	{"system.network.tcp.linux.connect.duration", "tcp_connect", "TCP connect"},
	{"system.network.tcp.linux.rtt", "tcp_rtt", "TCP round trip"},
	{"system.dns.linux.query.duration", "dns", "DNS query"},
	{"system.network.tcp.linux.accept_queue.duration", "accept", "accept queue"},
	{"system.network.tcp.linux.packet_to_read.duration", "pktread", "packet to read"},
	{"system.cpu.linux.softirq.wait_duration", "softirq_wait", "softirq wait"},
	{"system.cpu.linux.softirq.service_duration", "softirq_service", "softirq work"},
	{"system.linux.lock.wait_duration", "lock", "kernel locks"},
	{"system.linux.syscall.duration", "syscalls", "system calls"},
	{"system.filesystem.linux.operation.duration", "fsops", "file access"},
}

// delays are the kernel latencies of a unit or container, in the order of the table. Those without a title have no column.
var delays = []struct{ metric, name, title string }{
	{"container.cpu.linux.runqueue.duration", "runqueue", "RUN QUEUE"},
	{"container.disk.linux.request.duration", "disk", "DISK"},
	{"container.filesystem.linux.fsync.duration", "fsync", "FSYNC"},
	{"container.memory.linux.reclaim.duration", "reclaim", "RECLAIM"},
	{"container.network.tcp.linux.connect.duration", "tcp_connect", "CONNECT"},
	{"container.network.tcp.linux.accept_queue.duration", "accept", ""},
	{"container.network.tcp.linux.packet_to_read.duration", "pktread", ""},
	{"container.dns.linux.query.duration", "dns", ""},
}

// Waits for a CPU that another task took.
const (
	preemptedTime  = "container.cpu.linux.runqueue.preempted_time"
	keyPreemptedBy = attribute.Key("linux.preempted_by")
)
