package latency

import (
	"context"
	"net"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// A tcpView is the TCP collector with a registry of its own.
type tcpView struct {
	testing.TB
	*tcp
	env      collector.Env
	snapshot *metric.Snapshot
}

func newTCPView(tb testing.TB) *tcpView {
	tb.Helper()
	env, registry := newEnv(metric.ClassLatency)
	c := open(tb, env, newDeps(tb).NewTCP)
	return &tcpView{tb, c.(*tcp), env, registry.NewSnapshot()}
}

func (v *tcpView) collect() {
	v.Helper()
	collect(v, v.tcp, v.env)
}

// value returns the sum of a counter's points, or of the counts of a histogram's, that have all of the attributes. It is
// negative if there is none.
func (v *tcpView) value(name string, attrs ...attribute.KeyValue) int64 {
	v.Helper()
	v.snapshot.Take(time.Now())
	sum, found := int64(0), false
	add := func(set attribute.Set, n int64) {
		for _, a := range attrs {
			if got, _ := set.Value(a.Key); got != a.Value {
				return
			}
		}
		sum, found = sum+n, true
	}
	for _, r := range v.snapshot.Resources {
		for _, scope := range r.ScopeMetrics {
			for _, m := range scope.Metrics {
				if m.Name != name {
					continue
				}
				switch data := m.Data.(type) {
				case metricdata.Sum[int64]:
					for _, p := range data.DataPoints {
						add(p.Attributes, p.Value)
					}
				case metricdata.ExponentialHistogram[float64]:
					for _, p := range data.DataPoints {
						add(p.Attributes, int64(p.Count))
					}
				}
			}
		}
	}
	if !found {
		return -1
	}
	return sum
}

// Connections of the test appear in every metric. Others may be made on the host meanwhile, so the test's are the least.
func TestTCPExports(t *testing.T) {
	const n, size = 20, 100_000
	v := newTCPView(t)
	v.collect()
	names := map[string][]attribute.KeyValue{
		"connections": {keyTCPOpen.String("passive"), keyTCPPeer.String("loopback")}, "connect.duration": nil, "rtt": nil,
		"connect.failures":       {keyErrorType.String("connection_refused"), keyTCPPeer.String("loopback")},
		"io":                     {keyDirection.String("receive"), keyTCPPeer.String("loopback")},
		"retransmitted_segments": nil, "reset_segments": {keyDirection.String("receive")},
	}
	before := map[string]int64{}
	for name, attrs := range names {
		if before[name] = v.value("system.network.tcp.linux."+name, attrs...); before[name] < 0 {
			t.Fatalf("%s is not exported", name)
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		tcpTalk(t, l, size)
	}
	l.Close()
	for range n {
		if c, err := net.Dial("tcp4", l.Addr().String()); err == nil {
			c.Close()
			t.Fatal("somebody listens")
		}
	}
	want := map[string]int64{"connections": n, "connect.duration": n, "connect.failures": n, "io": n * size, "reset_segments": n}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		v.collect()
		missing := ""
		for name, least := range want {
			if v.value("system.network.tcp.linux."+name, names[name]...)-before[name] < least {
				missing = name
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s grew from %d to %d, want %d more", missing, before[missing],
				v.value("system.network.tcp.linux."+missing, names[missing]...), want[missing])
		}
	}
	if rows := v.Verdicts(); len(rows) != 1 || rows[0].Name != TCPName || rows[0].State == verdict.Unavailable {
		t.Errorf("got verdicts %+v", rows)
	}
}

// tcpTalk makes a connection, sends some bytes and ends it.
func tcpTalk(t *testing.T, l net.Listener, size int) {
	t.Helper()
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = client.Write(make([]byte, size)) // the other end sees what arrives
		client.Close()
	}()
	got, buf := 0, make([]byte, 1<<16)
	for {
		n, err := server.Read(buf)
		got += n
		if err != nil {
			break
		}
	}
	server.Close()
	if got != size {
		t.Fatalf("%d bytes arrived", got)
	}
}

func TestTCPCollectAllocatesNothing(t *testing.T) {
	v := newTCPView(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	v.collect() // the first time may make registers
	c := v.tcp
	n := allocations(func() {
		c.next = time.Time{}
		_ = c.Collect(context.Background(), time.Now())
	})
	if n != 0 {
		t.Errorf("Collect allocates %v times", n)
	}
}

// A sweep that took long is followed by a rest.
func TestTCPSweepRests(t *testing.T) {
	v := newTCPView(t)
	c := v.tcp
	now := time.Now()
	if err := c.sweep(now); err != nil {
		t.Fatal(err)
	}
	next := c.next
	if !next.After(now) {
		t.Errorf("the next sweep is %v after this one", next.Sub(now))
	}
	c.next = now.Add(time.Hour)
	if err := c.sweep(now.Add(time.Minute)); err != nil || !c.next.Equal(now.Add(time.Hour)) {
		t.Errorf("it swept too early: %v", err)
	}
}

// An owner has a series for a cause of failures from the first failure on, and the host has all from the start.
func TestTCPFailuresOfOwners(t *testing.T) {
	const name = "network.tcp.linux.connect.failures"
	v := newTCPView(t)
	v.collect()
	if got := v.value("system."+name, keyErrorType.String("timeout"), keyTCPPeer.String("remote")); got < 0 {
		t.Error("the host has no series for timeouts")
	}
	r := declareTCP(v.env.Metrics, "container")(v.env.Metrics.Entity(v.env.Host, time.Now()))
	var counts bpf.TCPCounts
	r.store(&counts, time.Now())
	if got := v.value("container." + name); got >= 0 {
		t.Errorf("%d failures of an owner that has none", got)
	}
	counts.Failed[bpf.TCPTimeout][bpf.TCPRemote] = 3
	counts.RTT.Buckets[10], counts.RTT.SumNs = 7, 7000
	r.store(&counts, time.Now())
	if got := v.value("container."+name, keyErrorType.String("timeout"), keyTCPPeer.String("remote")); got != 3 {
		t.Errorf("%d timeouts, want 3", got)
	}
	if got := v.value("container." + name); got != 3 {
		t.Errorf("%d failures, want 3", got)
	}
	if got := v.value("container.network.tcp.linux.rtt"); got != 7 {
		t.Errorf("%d round-trip times, want 7", got)
	}
}

func BenchmarkTCPCollect(b *testing.B) {
	v := newTCPView(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Collect(context.Background(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
