package text

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

var (
	boot  = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	began = time.Date(2026, 11, 22, 14, 3, 0, 0, time.UTC) // slid starts
	first = began.Add(12 * time.Second)                    // baseline
	later = first.Add(10 * time.Second)                    // end of the window
)

// lab is a registry as the collectors of a host fill it, and an exporter that reads it.
type lab struct {
	t        testing.TB
	registry *metric.Registry
	snapshot *metric.Snapshot
	exporter *Exporter
	out      bytes.Buffer

	hostRes *resource.Resource
	host    *metric.Group
	latency *metric.Group
	service *metric.Group
	agent   *metric.Group
	hostEnt *metric.Entity
	latEnt  *metric.Entity
	self    *metric.Entity
	owned   map[string]*metric.Entity // units with kernel latencies

	ints   map[string]metric.IntFamily
	floats map[string]metric.FloatFamily
	hists  map[string]metric.HistogramFamily
}

func newLab(t testing.TB, o Options) *lab {
	t.Helper()
	l := &lab{
		t: t, registry: metric.NewRegistry(instrumentation.Scope{Name: "slid"}),
		owned: map[string]*metric.Entity{}, ints: map[string]metric.IntFamily{}, floats: map[string]metric.FloatFamily{}, hists: map[string]metric.HistogramFamily{},
	}
	l.host = l.registry.Group("host", metric.ClassHost, 10000)
	l.latency = l.registry.Group("latency/runqueue", metric.ClassLatency, 100)
	l.service = l.registry.Group("service/traffic", metric.ClassService, 10000)
	l.agent = l.registry.Group("slid", metric.ClassAgent, 100)
	l.hostRes = resource.NewSchemaless(
		attribute.String("service.name", "host"), attribute.String("service.instance.id", "web-17"),
		attribute.String("host.id", "0f3c"), attribute.String("host.name", "web-17"),
		attribute.String("os.type", "linux"), attribute.String("os.description", "Debian GNU/Linux 12 (bookworm), Linux 6.1.0-28"),
	)
	l.hostEnt = l.host.Entity(l.hostRes, boot)
	l.latEnt = l.latency.Entity(l.hostRes, began)
	l.self = l.agent.Entity(serviceResource("slid"), began)
	l.snapshot = l.registry.NewSnapshot()
	o.Writer = &l.out
	l.exporter = New(o)
	return l
}

func serviceResource(name string, more ...attribute.KeyValue) *resource.Resource {
	return resource.NewSchemaless(append(more,
		attribute.String("service.name", name), attribute.String("service.instance.id", "0f3c/"+name),
		attribute.String("host.id", "0f3c"), attribute.String("host.name", "web-17"))...)
}

// unitOf gives the units of the names agreed for the wire.
func unitOf(name string) string {
	switch {
	case strings.HasSuffix(name, "io") || strings.HasPrefix(name, "system.memory") || name == "process.memory.usage" || name == "go.memory.used":
		return "By"
	case strings.Contains(name, "time") || strings.HasSuffix(name, "duration"):
		return "s"
	case name == "sli.coverage":
		return "1"
	case strings.HasPrefix(name, "system.cpu.load"):
		return "{thread}"
	}
	return "{event}"
}

func (l *lab) int(e *metric.Entity, g *metric.Group, kind metric.Kind, name string, v int64, at time.Time, attrs ...attribute.KeyValue) {
	f, ok := l.ints[name]
	if !ok {
		f = g.Int(metric.Desc{Name: name, Kind: kind, Unit: unitOf(name), Description: "Text of " + name + "."})
		l.ints[name] = f
	}
	r := f.With(e, attrs...)
	if kind == metric.Counter {
		r.Observe(uint64(v), at)
	} else {
		r.Set(v)
	}
}

func (l *lab) float(e *metric.Entity, g *metric.Group, kind metric.Kind, name string, v float64, at time.Time, attrs ...attribute.KeyValue) {
	f, ok := l.floats[name]
	if !ok {
		f = g.Float(metric.Desc{Name: name, Kind: kind, Unit: unitOf(name), Description: "Text of " + name + "."})
		l.floats[name] = f
	}
	r := f.With(e, attrs...)
	if kind == metric.Counter {
		r.Observe(v, at)
	} else {
		r.Set(v)
	}
}

func (l *lab) hist(e *metric.Entity, g *metric.Group, name string, attrs ...attribute.KeyValue) *metric.Hist {
	f, ok := l.hists[name]
	if !ok {
		f = g.Histogram(metric.Desc{Name: name, Unit: "s", Description: "Text of " + name + "."})
		l.hists[name] = f
	}
	return f.With(e, attrs...)
}

// export marks everything as collected and exports it.
func (l *lab) export(at time.Time) {
	l.t.Helper()
	for _, g := range []*metric.Group{l.host, l.latency, l.service, l.agent} {
		g.Collected(at)
	}
	l.exportOnly(at)
}

func (l *lab) exportOnly(at time.Time) {
	l.t.Helper()
	l.snapshot.Take(at)
	if err := l.exporter.Export(l.t.Context(), l.snapshot); err != nil {
		l.t.Fatal(err)
	}
}

func str(k, v string) attribute.KeyValue     { return attribute.String(k, v) }
func num(k string, v int) attribute.KeyValue { return attribute.Int(k, v) }

type share struct {
	name string
	of   float64
}

// observeHost stores what a small host shows n windows after its boot.
func (l *lab) observeHost(n float64, at time.Time) {
	h, e := l.host, l.hostEnt
	for _, m := range []share{{"user", .301}, {"system", .12}, {"interrupt", .003}, {"iowait", .02}, {"idle", .556}} {
		l.float(e, h, metric.Counter, "system.cpu.time", (4000+n*20)*m.of, at, str("cpu.mode", m.name))
	}
	l.int(e, h, metric.UpDownCounter, "system.cpu.logical.count", 2, at)
	l.float(e, h, metric.Gauge, "system.cpu.load_average.1m", 0.52, at)
	l.float(e, h, metric.Gauge, "system.cpu.load_average.5m", 0.4, at)
	l.float(e, h, metric.Gauge, "system.cpu.load_average.15m", 0.31, at)
	for _, m := range []share{{"used", 5476083302}, {"free", 1 << 30}, {"buffers", 1 << 20}, {"cached", 1 << 29}} {
		l.int(e, h, metric.UpDownCounter, "system.memory.usage", int64(m.of), at, str("system.memory.state", m.name))
	}
	l.int(e, h, metric.UpDownCounter, "system.memory.limit", 8482560409, at)
	l.int(e, h, metric.UpDownCounter, "system.memory.linux.available", 2791728742, at)
	for i, disk := range []string{"vda", "vdb"} {
		d, f := str("system.device", disk), n*float64(1-i)
		l.int(e, h, metric.Counter, "system.disk.io", int64(1e9+f*12582912), at, d, str("disk.io.direction", "read"))
		l.int(e, h, metric.Counter, "system.disk.io", int64(2e9+f*35651584), at, d, str("disk.io.direction", "write"))
		l.int(e, h, metric.Counter, "system.disk.operations", int64(5000+f*1200), at, d, str("disk.io.direction", "write"))
		l.float(e, h, metric.Counter, "system.disk.operation_time", 50+f*.48, at, d, str("disk.io.direction", "write"))
		l.float(e, h, metric.Counter, "system.disk.io_time", 40+f*.32, at, d)
	}
	for i, dir := range []string{"receive", "transmit"} {
		l.int(e, h, metric.Counter, "system.network.io", int64(7e9+n*3.4e7*float64(1+i)), at, str("network.interface.name", "eth0"), str("network.io.direction", dir))
		l.int(e, h, metric.Counter, "system.network.packet.count", int64(7e6+n*25000), at, str("system.device", "eth0"), str("network.io.direction", dir))
		l.int(e, h, metric.Counter, "system.network.packet.dropped", int64(17+n*3), at, str("network.interface.name", "eth0"), str("network.io.direction", dir))
		l.int(e, h, metric.Counter, "system.network.errors", 0, at, str("network.interface.name", "eth0"), str("network.io.direction", dir))
	}
	for _, p := range []share{{"cpu", .012}, {"io", .003}, {"memory", 0}} {
		l.float(e, h, metric.Counter, "system.pressure.linux.stall_time", 100+n*10*p.of, at, str("system.pressure.resource", p.name), str("system.pressure.scope", "some"))
		l.float(e, h, metric.Counter, "system.pressure.linux.stall_time", 50+n*10*p.of/3, at, str("system.pressure.resource", p.name), str("system.pressure.scope", "full"))
	}
}

// observeAgent stores what slid shows of itself.
func (l *lab) observeAgent(n float64, at time.Time) {
	a, e := l.agent, l.self
	l.float(e, a, metric.Counter, "process.cpu.time", .2+n*.02, at, str("cpu.mode", "user"))
	l.float(e, a, metric.Counter, "process.cpu.time", .1+n*.01, at, str("cpu.mode", "system"))
	l.int(e, a, metric.UpDownCounter, "process.memory.usage", 19000000, at)
	l.int(e, a, metric.UpDownCounter, "go.memory.used", 2200000, at, str("go.memory.type", "other"))
	l.float(e, a, metric.Counter, "slid.probe.kernel_time", 1+n*.002, at, str("slid.probe.name", "runqueue"))
	l.int(l.hostEnt, l.host, metric.Counter, "slid.events.lost", 0, at, str("slid.source.name", "service/traffic"), str("loss.reason", "map_full"))
	l.int(e, a, metric.Counter, "slid.tick.missed", 0, at, str("slid.lane", "core"))
}

// port is one port of a service in the registry.
type port struct {
	l      *lab
	entity *metric.Entity
	number attribute.KeyValue
}

func (l *lab) port(e *metric.Entity, n int) port { return port{l, e, num("server.port", n)} }

func (p port) responses(code int, total int64, at time.Time) {
	p.l.int(p.entity, p.l.service, metric.Counter, "http.server.response.count", total, at, p.number, num("http.response.status_code", code))
}

// routed counts responses to a route, which took 20 ms each.
func (p port) routed(route string, code int, total, before int64, at time.Time) {
	attrs := []attribute.KeyValue{p.number, num("http.response.status_code", code), str("http.route", route), str("http.request.method", "GET")}
	p.l.int(p.entity, p.l.service, metric.Counter, "http.server.response.count", total, at, attrs...)
	p.l.hist(p.entity, p.l.service, "http.server.request.duration", attrs...).RecordN(0.02, uint64(total-before))
}

func (p port) connections(protocol string, total int64, at time.Time) {
	p.l.int(p.entity, p.l.service, metric.Counter, "service.connection.count", total, at, p.number, str("network.protocol.name", protocol))
}

func (p port) count(name string, total int64, at time.Time, attrs ...attribute.KeyValue) {
	p.l.int(p.entity, p.l.service, metric.Counter, name, total, at, append(attrs, p.number)...)
}

func (p port) coverage(v float64, at time.Time) {
	p.l.float(p.entity, p.l.service, metric.Gauge, "sli.coverage", v, at, p.number)
}

// full returns a lab with everything slid measures and the verdicts of a host without all privileges.
func full(t testing.TB, o Options) *lab {
	t.Helper()
	o.Verdicts = func() []verdict.Verdict {
		return []verdict.Verdict{
			{Name: "latency/runqueue", State: verdict.Active},
			{Name: "host/sensors", State: verdict.Unavailable, Reason: "this machine has none", Absent: true},
			{Name: "host/pressure", State: verdict.Degraded, Reason: "interrupts are not accounted for", Missing: "CONFIG_IRQ_TIME_ACCOUNTING=y"},
			{Name: "host/disk", State: verdict.Unavailable, Reason: "there is no block device that this process may see in the container it runs in", Missing: "a mount of the host's /sys"},
		}
	}
	l := newLab(t, o)
	l.observeHost(0, first)
	l.observeAgent(0, first)
	nginx := l.port(l.service.Entity(serviceResource("nginx", str("systemd.unit.name", "nginx.service")), began), 8080)
	check := l.port(l.service.Entity(serviceResource("checkout", str("container.id", "4f1e")), began), 8443)
	redis := l.port(l.service.Entity(serviceResource("redis-server-of-the-recommendations"), began), 6379)
	sshd := l.port(l.service.Entity(serviceResource("ssh"), began), 22)
	rng := rand.New(rand.NewPCG(1, 2))
	for n, at := range []time.Time{first, later} {
		k := int64(n)
		nginx.responses(200, 1000+k*74375, at)
		nginx.connections("http", 10+k*50, at)
		nginx.coverage(1, at)
		check.responses(200, 500+k*80, at)
		check.routed("/cart/", 200, k*400, 0, at)
		check.routed("/pay/", 200, k*1500, 0, at)
		check.connections("http", 10+k*4, at)
		check.count("http.server.request.aborted", k*7, at)
		check.count("sli.events.lost", k*3, at, str("sli.source", "traffic"), str("loss.reason", "map_full"))
		check.count("sli.durations.lost", k*2, at, str("sli.source", "traffic"), str("loss.reason", "cut"))
		check.coverage(0.972, at)
		redis.connections("opaque", 3+k*12, at)
		redis.coverage(0, at)
		sshd.connections("opaque", 1, at)
		run := l.hist(l.latEnt, l.latency, "system.cpu.linux.runqueue.duration")
		for range 1000 + n*9234 {
			run.Record(15e-6 * lognormal(rng, 1.2))
		}
		l.probe("checkout-health", "checkout", "https", share{"success", 9}, share{"timeout", 1})
		l.probe("resolver", "resolver", "dns", share{"success", 10})
		l.probe("gateway", "gateway", "icmp")
		l.owner(rng, "nginx", 20e-6, 500+n*4000, at)
		l.owner(rng, "other", 5e-6, 500+n*1000, at)
		l.fill(rng, nginx, .011, n*74375)
		l.fill(rng, check, .04, n*80)
		if n == 0 {
			l.export(at)
			continue
		}
		check.routed("/pay/", 503, 20, 0, at)
		l.observeHost(1, at)
		l.observeAgent(1, at)
	}
	return l
}

// owner records n waits of a unit for a CPU, and a tenth as many for its disk, around a median. A quarter of the time
// they wait for a CPU, another one's task has it.
func (l *lab) owner(rng *rand.Rand, name string, median float64, n int, at time.Time) {
	if l.owned[name] == nil {
		l.owned[name] = l.latency.Entity(serviceResource(name, str("systemd.unit.name", name+".service")), began)
	}
	e := l.owned[name]
	run := l.hist(e, l.latency, "container.cpu.linux.runqueue.duration")
	disk := l.hist(e, l.latency, "container.disk.linux.request.duration", str("disk.io.direction", "read"))
	waited := 0.0
	for i := range n {
		v := median * lognormal(rng, 1)
		run.Record(v)
		waited += v
		if i%10 == 0 {
			disk.Record(100 * v)
		}
	}
	const preempted = "container.cpu.linux.runqueue.preempted_time"
	l.float(e, l.latency, metric.Counter, preempted, .1*waited, at, str("linux.preempted_by", "own"))
	l.float(e, l.latency, metric.Counter, preempted, .25*waited, at, str("linux.preempted_by", "other"))
}

// probe records attempts of an active probe: a success takes 20 ms, a timeout 5 s, and one of icmp cannot be made.
func (l *lab) probe(name, service, kind string, results ...share) {
	if l.owned[name] == nil {
		l.owned[name] = l.service.Entity(resource.NewSchemaless(
			str("service.name", service), str("service.instance.id", "0f3c/probe/"+name), str("host.id", "0f3c"),
			str("host.name", "web-17"), str("probe.kind", kind), str("probe.target", kind+"://"+name)), began)
	}
	e, p := l.owned[name], str("probe.name", name)
	attempts := func(outcome string) *metric.Int {
		return l.service.Int(metric.Desc{Name: "probe.attempts", Kind: metric.Counter, Unit: "{attempt}"}).With(e, p, str("probe.outcome", outcome))
	}
	attempts("success")
	for _, r := range results {
		attempts(r.name).Add(int64(r.of))
		took := 0.02
		if r.name == "timeout" {
			took = 5
		}
		l.hist(e, l.service, "probe.duration", p, str("probe.outcome", r.name)).RecordN(took, uint64(r.of))
	}
	missed := l.service.Int(metric.Desc{Name: "probe.schedule.missed", Kind: metric.Counter, Unit: "{attempt}"}).With(e, p, str("probe.missed.reason", "local"))
	switch kind {
	case "icmp":
		missed.Add(10)
	case "https":
		l.service.Float(metric.Desc{Name: "probe.tls.certificate.expiry", Kind: metric.Gauge, Unit: "s"}).With(e, p).Set(11.5 * 86400)
	}
}

// fill records n request durations around a median; n is a multiple of 25.
func (l *lab) fill(rng *rand.Rand, p port, median float64, n int) {
	total := l.hist(p.entity, l.service, "http.server.request.duration", p.number, str("http.response.status_class", "2xx"))
	begin := l.hist(p.entity, l.service, "http.server.time_to_first_byte", p.number)
	const each = 25
	for range n / each {
		v := median * lognormal(rng, .3)
		total.RecordN(v, each)
		begin.RecordN(v/2, each)
	}
}

func lognormal(rng *rand.Rand, sigma float64) float64 {
	x := rng.NormFloat64() * sigma
	y := 1.0
	for i := 30; i > 0; i-- { // e^x
		y = 1 + x*y/float64(i)
	}
	return y
}
