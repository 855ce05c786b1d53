package latency

import (
	"context"
	"errors"
	"log/slog"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newEnv returns an environment whose metrics go to a registry of its own.
func newEnv(class metric.Class) (collector.Env, *metric.Registry) {
	registry := metric.NewRegistry(instrumentation.Scope{Name: "test"})
	return collector.Env{
		Metrics: registry.Group("test", class, 100),
		Host:    resource.Empty(),
		Log:     slog.New(slog.DiscardHandler),
	}, registry
}

// newMeter returns a meter that ends with the test.
func newMeter(tb testing.TB) *bpf.Meter {
	tb.Helper()
	m := bpf.NewMeter()
	tb.Cleanup(func() { m.Close() })
	return m
}

// openRunQueue opens the collector or skips the test, with the reason, where probes are not permitted.
func openRunQueue(tb testing.TB, env collector.Env, meter *bpf.Meter) collector.Collector {
	tb.Helper()
	c, err := NewRunQueue(env, meter)
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
	c := openRunQueue(t, env, newMeter(t))
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
	meter := newMeter(t)
	counts := bpf.Counts{Runs: 1000, TimedRuns: 2, TimedNS: 1000, Outcomes: true, Recorded: 900, Unmatched: 60, Discarded: 40}
	meter.Watch("full", func() bpf.Counts { return counts })
	meter.Watch("silent", func() bpf.Counts { return bpf.Counts{Runs: 7} })
	c, err := NewCost(env, meter)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	collect(t, c, env)

	kernel := sumOf[float64](t, registry, "slid.probe.kernel_time")
	if len(kernel) != 1 || kernel["slid.probe.name=full"] != 1000*500e-9 {
		t.Errorf("kernel time: got %v", kernel)
	}
	events := sumOf[int64](t, registry, "slid.probe.events")
	want := map[string]int64{"recorded": 900, "unmatched": 60, "discarded": 40}
	for outcome, n := range want {
		if got := events["slid.probe.name=full,slid.probe.outcome="+outcome]; got != n {
			t.Errorf("%s events: got %d, want %d", outcome, got, n)
		}
	}
	if len(events) != len(want) {
		t.Errorf("events: got %v", events)
	}
	mean := find(registry, "slid.probe.run.duration").Data.(metricdata.Gauge[float64])
	if len(mean.DataPoints) != 1 || mean.DataPoints[0].Value != 500e-9 {
		t.Errorf("run duration: got %+v", mean)
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
	meter := newMeter(t)
	queue := openRunQueue(t, env, meter)
	cost, err := NewCost(env, meter)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]collector.Collector{"run queue": queue, "cost": cost} {
		collect(t, c, env) // the first time may make registers
		n := testing.AllocsPerRun(100, func() { _ = c.Collect(context.Background(), time.Now()) })
		if n != 0 {
			t.Errorf("%s: Collect allocates %v times", name, n)
		}
	}
}

func BenchmarkRunQueueCollect(b *testing.B) {
	env, _ := newEnv(metric.ClassLatency)
	c := openRunQueue(b, env, newMeter(b))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Collect(context.Background(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
