package latency

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.uber.org/goleak"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestMain(m *testing.M) {
	if os.Getenv(loadEnv) != "" {
		makeLoad()
		return
	}
	goleak.VerifyTestMain(m)
}

// newEnv returns an environment whose metrics go to a registry of its own.
func newEnv(class metric.Class) (collector.Env, *metric.Registry) {
	registry := metric.NewRegistry(instrumentation.Scope{Name: "test"})
	return collector.Env{
		Metrics: registry.Group("test", class, 100),
		Host:    resource.Empty(),
		Log:     slog.New(slog.DiscardHandler),
	}, registry
}

// newDeps returns what probes share, without attribution. It ends with the test.
func newDeps(tb testing.TB) Deps {
	tb.Helper()
	d := NewDeps(0)
	tb.Cleanup(func() {
		if err := d.Meter.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

// open opens a collector or skips the test, with the reason, where probes are not permitted.
func open(tb testing.TB, env collector.Env, constructor func(collector.Env) (collector.Collector, error)) collector.Collector {
	tb.Helper()
	c, err := constructor(env)
	if u, ok := errors.AsType[*verdict.UnavailableError](err); ok && u.Missing != "" {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// collect runs a collector once, as the pipeline does.
func collect(tb testing.TB, c collector.Collector, env collector.Env) {
	tb.Helper()
	now := time.Now()
	if err := c.Collect(context.Background(), now); err != nil {
		tb.Fatal(err)
	}
	env.Metrics.Collected(now)
}

// find returns the exported metric with the given name, or nil.
func find(registry *metric.Registry, name string) *metricdata.Metrics {
	s := registry.NewSnapshot()
	s.Take(time.Now())
	for _, r := range s.Resources {
		for _, scope := range r.ScopeMetrics {
			for i := range scope.Metrics {
				if scope.Metrics[i].Name == name {
					return &scope.Metrics[i]
				}
			}
		}
	}
	return nil
}

func TestRunQueueExportsHistogram(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	begin := time.Now()
	c := open(t, env, newDeps(t).NewRunQueue)
	opened := time.Now()
	collect(t, c, env)
	first := point(t, registry)
	if first.StartTime.Before(begin) || first.StartTime.After(opened) {
		t.Errorf("start time %v, the probe was attached between %v and %v", first.StartTime, begin, opened)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		collect(t, c, env)
		p := point(t, registry)
		if p.Count > first.Count && p.Sum > first.Sum && p.StartTime.Equal(first.StartTime) {
			t.Logf("%d waits, %.6f s in sum", p.Count, p.Sum)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no wait in 20 s: first %+v, last %+v", first, p)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if v := c.Verdicts(); len(v) != 1 || v[0].State != verdict.Active || v[0].Name != RunQueueName {
		t.Errorf("got verdicts %+v", v)
	}
}

// point returns the run-queue histogram.
func point(t *testing.T, registry *metric.Registry) metricdata.ExponentialHistogramDataPoint[float64] {
	t.Helper()
	m := find(registry, "system.cpu.linux.runqueue.duration")
	if m == nil {
		t.Fatal("system.cpu.linux.runqueue.duration is not exported")
	}
	h, ok := m.Data.(metricdata.ExponentialHistogram[float64])
	if !ok || len(h.DataPoints) != 1 || m.Unit != "s" {
		t.Fatalf("got %+v", m)
	}
	return h.DataPoints[0]
}

// The costs and outcomes of a probe that counts everything, and those of one that only counts runs.
func TestCostExports(t *testing.T) {
	env, registry := newEnv(metric.ClassAgent)
	d := newDeps(t)
	counts := bpf.Counts{
		Runs: 1000, TimedRuns: 2, TimedNS: 1e6, Outcomes: true,
		Recorded: 900, Unmatched: 60, Discarded: 40, Lost: 3, Skipped: 2,
	}
	d.Meter.Watch(bpf.Watched{
		Name: "full", Counts: func() bpf.Counts { return counts }, Detach: func() error { return nil },
	})
	d.Meter.Watch(bpf.Watched{Name: "silent", Counts: func() bpf.Counts { return bpf.Counts{Runs: 7} }})
	c := open(t, env, d.NewCost)
	collect(t, c, env)

	kernel := sumOf[float64](t, registry, "slid.probe.kernel_time")
	// 500 us a run, less what reading the clock takes.
	if got := kernel["slid.probe.name=full"]; len(kernel) != 1 || got > 1000*500e-6 || got < 1000*490e-6 {
		t.Errorf("kernel time: got %v", kernel)
	}
	events := sumOf[int64](t, registry, "slid.probe.events")
	want := map[string]int64{"recorded": 900, "unmatched": 60, "discarded": 40, "lost": 3, "skipped": 2, "missed": 0}
	for outcome, n := range want {
		if got := events["slid.probe.name=full,slid.probe.outcome="+outcome]; got != n {
			t.Errorf("%s events: got %d, want %d", outcome, got, n)
		}
	}
	if len(events) != len(want) {
		t.Errorf("events: got %v", events)
	}
	mean := find(registry, "slid.probe.run.duration").Data.(metricdata.Gauge[float64])
	if len(mean.DataPoints) != 1 || mean.DataPoints[0].Value != kernel["slid.probe.name=full"]/1000 {
		t.Errorf("run duration: got %+v", mean)
	}
	if sampling := find(registry, "slid.probe.sampling").Data.(metricdata.Gauge[float64]); len(sampling.DataPoints) != 1 ||
		sampling.DataPoints[0].Value != 1 {
		t.Errorf("sampling: got %+v", sampling)
	}
	if v := c.Verdicts(); len(v) != 1 || v[0].Name != CostName {
		t.Errorf("got verdicts %+v", v)
	}
}

// sumOf returns the values of a counter by their attributes.
func sumOf[N int64 | float64](t *testing.T, registry *metric.Registry, name string) map[string]N {
	t.Helper()
	m := find(registry, name)
	if m == nil {
		t.Fatalf("%s is not exported", name)
	}
	values := make(map[string]N)
	for _, p := range m.Data.(metricdata.Sum[N]).DataPoints {
		values[p.Attributes.Encoded(attribute.DefaultEncoder())] = p.Value
	}
	return values
}

func TestCollectAllocatesNothing(t *testing.T) {
	env, _ := newEnv(metric.ClassLatency)
	d := newDeps(t)
	for name, c := range map[string]collector.Collector{
		"run queue": open(t, env, d.NewRunQueue), "cost": open(t, env, d.NewCost),
	} {
		collectsWithoutAllocating(t, name, env, c)
	}
}

// collectsWithoutAllocating checks a collector in its steady state.
func collectsWithoutAllocating(t *testing.T, name string, env collector.Env, c collector.Collector) {
	t.Helper()
	collect(t, c, env) // the first time may make registers
	if n := allocations(func() { _ = c.Collect(context.Background(), time.Now()) }); n != 0 {
		t.Errorf("%s: Collect allocates %v times", name, n)
	}
}

// allocations returns how often f allocates. Other goroutines, such as the meter's, allocate now and then: the least of
// several rounds is f's own.
func allocations(f func()) float64 {
	least := testing.AllocsPerRun(50, f)
	for range 5 {
		least = min(least, testing.AllocsPerRun(50, f))
	}
	return least
}

func BenchmarkRunQueueCollect(b *testing.B) {
	env, _ := newEnv(metric.ClassLatency)
	c := open(b, env, newDeps(b).NewRunQueue)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Collect(context.Background(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
