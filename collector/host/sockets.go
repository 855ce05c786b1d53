package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// pagesToBytes converts an amount that the kernel counts in pages.
func pagesToBytes(pages uint64) float64 { return float64(pages) * float64(os.Getpagesize()) }

// socketMetrics returns what is shown of /proc/net/sockstat, sockstat6 and snmp.
func socketMetrics() []protoMetric {
	const (
		sockstat  = "/proc/1/net/sockstat"
		both      = "/proc/1/net/sockstat, /proc/1/net/sockstat6"
		transport = attribute.Key("network.transport")
		state     = attribute.Key("network.connection.state")
	)
	inUse := func(key, protocol, family string) protoField {
		return protoSeries(key, transport.String(protocol), networkType.String(family))
	}
	return []protoMetric{
		protoAmounts(amount("system.network.connection.count", "{connection}", snmpFile+", "+sockstat,
			"TCP connections by state, as far as the kernel counts them: established has those in close_wait too."),
			[]attribute.Key{transport, state},
			protoSeries("Tcp CurrEstab", transport.String("tcp"), state.String("established")),
			protoSeries("TCP tw", transport.String("tcp"), state.String("time_wait"))),
		protoAmounts(amount("system.network.socket.linux.count", "{socket}", both,
			"Sockets in use by protocol; those of TCP include listening ones and exclude those in time_wait."),
			[]attribute.Key{transport, networkType},
			inUse("TCP inuse", "tcp", "ipv4"), inUse("TCP6 inuse", "tcp", "ipv6"),
			inUse("UDP inuse", "udp", "ipv4"), inUse("UDP6 inuse", "udp", "ipv6"),
			inUse("RAW inuse", "raw", "ipv4"), inUse("RAW6 inuse", "raw", "ipv6")),
		protoAmount("system.network.socket.linux.used", "{socket}", sockstat, "sockets used",
			"Sockets of all kinds that programs have."),
		protoAmount(tcpArea+"socket.allocated", "{socket}", sockstat, "TCP alloc",
			"TCP sockets that take memory, those without a program included."),
		protoAmount(tcpArea+"orphan.count", "{socket}", sockstat, "TCP orphan",
			"TCP connections that no program has any more."),
		protoMemory(tcpArea+"memory.usage", sockstat, "TCP mem", "Memory of the buffers of TCP sockets."),
		protoMemory(udpArea+"memory.usage", sockstat, "UDP mem", "Memory of the buffers of UDP sockets."),
		protoAmounts(amount(ipArea+"reassembly.memory.usage", "By", both, "Memory of fragments that wait for others."),
			[]attribute.Key{networkType},
			protoSeries("FRAG memory", networkType.String("ipv4")), protoSeries("FRAG6 memory", networkType.String("ipv6"))),
	}
}

// socketLimit is a setting of the kernel that bounds one of the amounts.
type socketLimit struct {
	setting string // below /proc/sys/net
	number  int    // which number of the setting
	value   func(v [3]uint64, number int) float64
	desc    metric.Desc
	attrs   []attribute.KeyValue

	file     *procfs.File
	register *metric.Int
}

// socketLimits returns the limits beside the amounts.
func socketLimits() []*socketLimit {
	number := func(v [3]uint64, number int) float64 { return float64(v[number]) }
	pages := func(v [3]uint64, number int) float64 { return pagesToBytes(v[number]) }
	ports := func(v [3]uint64, _ int) float64 { return float64(v[1]) - float64(v[0]) + 1 }
	limit := func(name, unit, setting, description string) metric.Desc {
		return amount(name, unit, "/proc/sys/net/"+setting, description)
	}
	family := []attribute.Key{networkType}
	frag4 := limit(ipArea+"reassembly.memory.limit", "By", "ipv4/ipfrag_high_thresh, ipv6/ip6frag_high_thresh",
		"Memory that fragments may take until they are dropped.")
	frag4.Attributes = family
	return []*socketLimit{
		{setting: "ipv4/tcp_mem", number: 2, value: pages, desc: limit(tcpArea+"memory.limit", "By",
			"ipv4/tcp_mem", "Memory that TCP sockets may take together.")},
		{setting: "ipv4/tcp_mem", number: 1, value: pages, desc: limit(tcpArea+"memory.pressure_threshold", "By",
			"ipv4/tcp_mem", "Memory of TCP sockets from which on the kernel gives each less.")},
		{setting: "ipv4/udp_mem", number: 2, value: pages, desc: limit(udpArea+"memory.limit", "By",
			"ipv4/udp_mem", "Memory that UDP sockets may take together.")},
		{setting: "ipv4/tcp_max_orphans", value: number, desc: limit(tcpArea+"orphan.limit", "{socket}",
			"ipv4/tcp_max_orphans", "Connections without a program from which on the kernel resets them.")},
		{setting: "ipv4/tcp_max_tw_buckets", value: number, desc: limit(tcpArea+"time_wait.limit", "{connection}",
			"ipv4/tcp_max_tw_buckets", "Connections that may be in time_wait.")},
		{
			setting: "ipv4/ipfrag_high_thresh", value: number, desc: frag4,
			attrs: []attribute.KeyValue{networkType.String("ipv4")},
		},
		{
			setting: "ipv6/ip6frag_high_thresh", value: number, desc: frag4,
			attrs: []attribute.KeyValue{networkType.String("ipv6")},
		},
		{setting: "ipv4/ip_local_port_range", number: 1, value: ports, desc: limit("system.network.port.linux.ephemeral.limit",
			"{port}", "ipv4/ip_local_port_range", "Ports for connections that this host asks for, to each destination.")},
	}
}

// limitsEvery is how often limits are read: they change when an administrator says so.
const limitsEvery = time.Minute

// Sockets collects how many sockets and connections the host's network namespace has, the memory they take, and the
// limits of both. It reads sums that the kernel keeps; the connections themselves (/proc/net/tcp, sock_diag) are
// never listed, which costs the kernel milliseconds even where there are few.
type Sockets struct {
	health
	entity *metric.Entity
	set    *protoSet
	files  []*protocolFile
	limits []*socketLimit
	next   time.Time // when limits are read again
}

// NewSockets opens the files. A host without IPv6 has no sockstat6. Limits belong to the network namespace of the
// reader: out of the host's they are left out, which the absence of tcp_mem tells.
func NewSockets(env collector.Env) (collector.Collector, error) {
	s := &Sockets{}
	s.name = "host/sockets"
	sockstat, err := s.openNet(env.Proc, "sockstat", procfs.OpenSingle)
	if err != nil {
		return nil, unavailable(err)
	}
	s.hook = sockstat.Path()
	s.files = []*protocolFile{{sockstat, parseSockstat}}
	for _, more := range [...]struct {
		name  string
		parse func([]byte, *protoSet) error
	}{{"sockstat6", parseSockstat}, {"snmp", new(pairFile).parse}} {
		file, err := s.openNet(env.Proc, more.name, procfs.OpenSingle)
		switch {
		case err == nil:
			s.files = append(s.files, &protocolFile{file, more.parse})
		case more.name != "sockstat6" || !netAbsent(err):
			s.reason, s.missing = "not all of it can be read: "+err.Error(), remedy(err)
		}
	}
	s.entity = env.Metrics.Entity(env.Host, env.Boot)
	s.set = newProtoSet(env.Metrics, socketMetrics())
	s.openLimits(env)
	return s, nil
}

// openLimits opens the settings that there are.
func (s *Sockets) openLimits(env collector.Env) {
	for _, l := range socketLimits() {
		family := env.Metrics.Int(l.desc)
		file, err := procfs.OpenSingle(filepath.Join(env.Proc, "sys/net", l.setting))
		if err != nil {
			if len(s.limits) == 0 { // tcp_mem is not seen from other namespaces
				if s.reason == "" {
					s.reason = "limits are seen only from the host's network namespace: " + err.Error()
					s.missing = "the host's network namespace (hostNetwork, --network host)"
				}
				return
			}
			continue // not every kernel has all
		}
		l.file, l.register = file, family.With(s.entity, l.attrs...)
		s.limits = append(s.limits, l)
	}
}

// Collect implements collector.Collector.
func (s *Sockets) Collect(_ context.Context, now time.Time) error {
	s.set.begin()
	var errs error
	for _, f := range s.files {
		if err := f.collect(s.set); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	stored, err := s.set.store(s.entity, now)
	switch {
	case stored == 0 && errs == nil:
		errs = fmt.Errorf("parse %s: %w", s.hook, errors.New("nothing known in it"))
	case err != nil && errs == nil:
		errs = fmt.Errorf("parse %s: %w", s.hook, err)
	}
	if !now.Before(s.next) {
		if err := s.collectLimits(); err != nil {
			errs = errors.Join(errs, err)
		} else {
			s.next = now.Add(limitsEvery)
		}
	}
	return s.collected(errs, stored > 0)
}

// collectLimits reads the settings.
func (s *Sockets) collectLimits() error {
	var errs error
	for _, l := range s.limits {
		if err := l.collect(); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

func (l *socketLimit) collect() error {
	b, err := l.file.Read()
	if err != nil {
		return err
	}
	line, rest, ok := procfs.Line(b)
	if !ok {
		return parseError(l.file, cutShort(append(rest, '\n')))
	}
	var v [3]uint64
	n, _, err := procfs.Uints(line, v[:])
	if err == nil && n <= l.number {
		err = procfs.ErrTruncated
	}
	if err != nil {
		return parseError(l.file, err)
	}
	l.register.Set(int64(min(l.value(v, l.number), math.MaxInt64/2)))
	return nil
}

// Close implements collector.Collector.
func (s *Sockets) Close() error {
	var errs error
	for _, f := range s.files {
		errs = errors.Join(errs, f.file.Close())
	}
	for _, l := range s.limits {
		errs = errors.Join(errs, l.file.Close())
	}
	return errs
}
