package latency

import (
	"errors"
	"net"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// envWithGroups returns an environment with the machine's cgroup2 tree.
func envWithGroups(tb testing.TB) (collector.Env, *metric.Registry) {
	tb.Helper()
	env, registry := newEnv(metric.ClassLatency)
	mount, err := cgroup.Mount("/")
	if err != nil {
		tb.Skip(err)
	}
	env.Root, env.Proc, env.Cgroup = "/", "/proc", mount
	return env, registry
}

// awaitMetric collects until an exported metric is as wanted.
func awaitMetric(t *testing.T, c collector.Collector, env collector.Env, registry *metric.Registry, name string, wanted func(*metricdata.Metrics) bool) {
	t.Helper()
	var m *metricdata.Metrics
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		collect(t, c, env)
		if m = find(registry, name); m != nil && wanted(m) {
			return
		}
	}
	t.Errorf("%s after 20 s: %+v", name, m)
}

// counted says whether a histogram has values, or a counter of the given value of its attribute, if it has one.
func counted(attribute string) func(*metricdata.Metrics) bool {
	return func(m *metricdata.Metrics) bool {
		switch d := m.Data.(type) {
		case metricdata.ExponentialHistogram[float64]:
			return len(d.DataPoints) == 1 && d.DataPoints[0].Count > 0 && d.DataPoints[0].Sum > 0
		case metricdata.Sum[int64]:
			for _, p := range d.DataPoints {
				if a := p.Attributes.ToSlice(); p.Value > 0 && (len(a) == 0 || a[0].Value.AsString() == attribute) {
					return true
				}
			}
		}
		return false
	}
}

// checkVerdict checks what a collector says of itself.
func checkVerdict(t *testing.T, c collector.Collector, name string) {
	t.Helper()
	v := c.Verdicts()
	if len(v) != 1 || v[0].Name != name || v[0].State == verdict.Unavailable || v[0].Hook == "" {
		t.Errorf("got verdicts %+v", v)
	}
	if v[0].State == verdict.Degraded && v[0].Reason == "" {
		t.Errorf("degraded without a reason: %+v", v[0])
	}
}

// tcpPair returns the ends of a new TCP connection, the client's first. It was accepted late.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func TestAcceptExports(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	c := open(t, env, newDeps(t).NewAccept)
	tcpPair(t)
	awaitMetric(t, c, env, registry, "system.network.tcp.linux.accept_queue.duration", counted(""))
	checkVerdict(t, c, AcceptName)
	collectsWithoutAllocating(t, "accept", env, c)
}

func TestDropsExports(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	c := open(t, env, newDeps(t).NewDrops)
	unused, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()
	client, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteTo([]byte{1}, unused.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	awaitMetric(t, c, env, registry, "system.network.linux.packet.dropped", counted("no_socket"))
	checkVerdict(t, c, DropsName)
	// Reasons that occur for the first time on a busy machine make a register.
	for range 10 {
		if allocations(func() { collect(t, c, env) }) == 0 {
			return
		}
	}
	t.Error("collecting allocates each time")
}

func TestPacketReadExports(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	c := open(t, env, newDeps(t).NewPacketRead)
	// One connection of 64 is watched: of 2000, none is once in 10^14 times.
	for range 2000 {
		client, server := tcpPair(t)
		if _, err := client.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = client.(*net.TCPConn).SetLinger(0) // no port is left waiting
		client.Close()
		server.Close()
		collect(t, c, env)
		if m := find(registry, "system.network.tcp.linux.packet_to_read.duration"); m != nil && counted("")(m) {
			break
		}
	}
	awaitMetric(t, c, env, registry, "system.network.tcp.linux.packet_to_read.duration", counted(""))
	checkVerdict(t, c, PacketReadName)
	collectsWithoutAllocating(t, "packet to read", env, c)
}

// A query to a port 53 where nobody listens is not answered: that of an address of the loopback network that no test
// listens at. Then the socket is closed.
func TestDNSExports(t *testing.T) {
	env, registry := envWithGroups(t)
	c := open(t, env, newDeps(t).NewDNS)
	client, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	query := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x07example\x03org\x00\x00\x01\x00\x01"...)
	if _, err := client.WriteTo(query, &net.UDPAddr{IP: net.IPv4(127, 99, 98, 97), Port: 53}); err != nil {
		t.Fatal(err)
	}
	client.Close()
	awaitMetric(t, c, env, registry, "system.dns.linux.unanswered", counted("abandoned"))
	checkVerdict(t, c, DNSName)
	collectsWithoutAllocating(t, "DNS", env, c)
}

// Without the cgroup2 tree there is no place to listen at, and the verdict says what would help.
func TestDNSNeedsTree(t *testing.T) {
	env, _ := newEnv(metric.ClassLatency)
	_, err := newDeps(t).NewDNS(env)
	if u := verdictOf(t, err); u.Missing == "" {
		t.Errorf("got %+v", u)
	}
}

func verdictOf(t *testing.T, err error) *verdict.UnavailableError {
	t.Helper()
	u, ok := errors.AsType[*verdict.UnavailableError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	return u
}
