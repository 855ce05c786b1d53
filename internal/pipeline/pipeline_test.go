package pipeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

var errPlanned = errors.New("planned failure")

func TestHangingCollectorDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		release := make(chan struct{})
		r.add("hang", collector.Core, func(context.Context, time.Time) error { <-release; return nil })
		var good atomic.Int32
		r.add("good", collector.Core, func(context.Context, time.Time) error { good.Add(1); return nil })
		p, stop := r.run(t)
		time.Sleep(65 * time.Second)

		if n := len(r.sink.exports()); n != 6 {
			t.Errorf("%d exports in 65 s, want 6", n)
		}
		if n := good.Load(); n != 7 { // one at start
			t.Errorf("the good collector ran %d times, want 7", n)
		}
		if v := p.Verdicts(); len(v) != 2 || v[0].State != verdict.Active || v[1].State != verdict.Degraded || v[1].Reason == "" {
			t.Errorf("verdicts %+v, want good active and hang degraded with a reason", v)
		}
		began := time.Now()
		if err := stop(); err == nil {
			t.Error("shutdown with a hanging collector: want an error that names it")
		}
		if took := time.Since(began); took > shutdownTimeout {
			t.Errorf("shutdown took %v, want at most %v", took, shutdownTimeout)
		}
		for key, want := range map[string]float64{
			"slid.collector.success{slid.collector.name=good}":                       1,
			"slid.collector.success{slid.collector.name=hang}":                       0,
			"slid.collector.skipped{slid.collector.name=hang}":                       7,
			"slid.collector.skipped{slid.collector.name=good}":                       0,
			"slid.source.state{slid.source.name=hang,slid.source.state=degraded}":    1,
			"slid.source.state{slid.source.name=hang,slid.source.state=active}":      0,
			"slid.collector.staleness{slid.collector.name=good}":                     0,
			"slid.collector.staleness{slid.collector.name=hang}":                     65,
			"slid.tick.missed{slid.lane=core}":                                       0,
			"slid.series.live{slid.collector.name=hang}":                             0,
			"slid.series.dropped{slid.collector.name=hang}":                          0,
			"slid.collector.failures{slid.collector.name=hang}":                      0,
			"slid.source.state{slid.source.name=good,slid.source.state=unavailable}": 0,
			"slid.source.state{slid.source.name=good,slid.source.state=active}":      1,
		} {
			if got := r.sink.value(t, key); got != want {
				t.Errorf("%s = %v, want %v", key, got, want)
			}
		}
		if n := r.logs.count("still busy"); n != 1 {
			t.Errorf("%d log lines on the hanging collector, want 1", n)
		}
		close(release)
	})
}

func TestFailuresAndPanicsAreCountedAndLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		var runs atomic.Int32 // 3 good, 3 that fail, 3 that panic, then good
		r.add("shaky", collector.Core, func(context.Context, time.Time) error {
			switch n := runs.Add(1); {
			case n > 3 && n <= 6:
				return errPlanned
			case n > 6 && n <= 9:
				panic("planned panic")
			}
			return nil
		})
		p, stop := r.run(t)
		time.Sleep(75 * time.Second) // the 8th run was at 70 s
		if v := p.Verdicts()[0]; v.State != verdict.Degraded || v.Reason != "last run failed: panic: planned panic" {
			t.Errorf("verdict %+v while the collector panics", v)
		}
		time.Sleep(50 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]int{"collector failed": 1, "panicked": 0, "works again": 1} {
			if n := r.logs.count(text); n != want {
				t.Errorf("%q logged %d times, want %d", text, n, want)
			}
		}
		if n := r.sink.value(t, "slid.collector.failures{slid.collector.name=shaky}"); n != 6 {
			t.Errorf("%v failures counted, want 6", n)
		}
		if n := r.sink.value(t, "slid.collector.success{slid.collector.name=shaky}"); n != 1 {
			t.Errorf("success is %v after the recovery", n)
		}
	})
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		r.add("bad", collector.Core, func(context.Context, time.Time) error { panic("planned panic") })
		r.Collectors[0].Collector.(*fake).close = func() error { panic("planned panic in close") }
		_, stop := r.run(t)
		time.Sleep(35 * time.Second)
		if err := stop(); err == nil {
			t.Error("want the panic of Close as an error")
		}
		if n := r.logs.count("collector panicked"); n != 1 {
			t.Errorf("panic logged %d times, want once", n)
		}
		if r.logs.count("pipeline_test.go") == 0 {
			t.Error("the log does not say where the panic was")
		}
	})
}

// TestValuesOfAFailingCollectorAge proves that data points keep the time at which they were read.
func TestValuesOfAFailingCollectorAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		failing := false
		g := r.add("c", collector.Core, func(context.Context, time.Time) error {
			if failing {
				return errPlanned
			}
			return nil
		})
		p := New(r.Options)
		p.Start(t.Context())
		first := time.Now()
		if err := p.Tick(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		failing = true
		_ = p.Tick(t.Context(), first.Add(30*time.Second))
		if !g.LastCollected().Equal(first) {
			t.Errorf("last collected %v, want %v", g.LastCollected(), first)
		}
		if n := r.sink.value(t, "slid.collector.staleness{slid.collector.name=c}"); n != 30 {
			t.Errorf("staleness %v s, want 30", n)
		}
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		count := func(n *atomic.Int32) func(context.Context, time.Time) error {
			return func(context.Context, time.Time) error { n.Add(1); return nil }
		}
		var burst, core, slow, long, atOnce atomic.Int32
		r.add("burst", collector.Burst, count(&burst))
		r.add("core", collector.Core, count(&core))
		r.add("slow", collector.Slow, count(&slow))
		r.add("long", collector.Burst, func(context.Context, time.Time) error { // as long as two and a half periods
			if atOnce.Add(1) > 1 {
				t.Error("two runs of one collector at once")
			}
			time.Sleep(500 * time.Millisecond)
			atOnce.Add(-1)
			long.Add(1)
			return nil
		})
		_, stop := r.run(t)
		time.Sleep(125*time.Second + time.Millisecond)
		for _, c := range []struct {
			name string
			got  int32
			want int32
		}{{"burst", burst.Load(), 625}, {"core", core.Load(), 13}, {"slow", slow.Load(), 3}, {"long", long.Load(), 208}} {
			if c.got != c.want {
				t.Errorf("%s ran %d times in 125 s, want %d", c.name, c.got, c.want)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]float64{
			"slid.collector.skipped{slid.collector.name=long}": 416,
			"slid.tick.missed{slid.lane=burst}":                0,
			"slid.tick.missed{slid.lane=slow}":                 0,
		} {
			if got := r.sink.value(t, key); got < want-1 || got > want+1 {
				t.Errorf("%s = %v, want %v", key, got, want)
			}
		}
	})
}

func TestDestinationsHaveIntervalsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		r.Phase = 43 * time.Second
		minute, odd := &sink{}, &sink{}
		r.Destinations = append(r.Destinations,
			Destination{Name: "minute", Exporter: minute, Interval: time.Minute},
			Destination{Name: "odd", Exporter: odd, Interval: 25 * time.Second})
		_, stop := r.run(t)
		time.Sleep(5 * time.Minute)
		base, perMinute, perOdd := len(r.sink.exports()), minute.exports(), len(odd.exports())
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if base != 30 || len(perMinute) != 6 || perOdd != 13 {
			t.Errorf("%d, %d and %d exports in 5 minutes, want 30, 6 and 13", base, len(perMinute), perOdd)
		}
		for _, at := range perMinute[1:] { // the first is as soon as there is something
			if at.Second() != 43 {
				t.Errorf("export at second %d, want the host's own, 43", at.Second())
			}
		}
		if last := minute.exports(); len(last) != 7 || minute.closed != 1 || r.sink.closed != 1 {
			t.Errorf("%d exports, %d shutdowns: want a last export and one shutdown each", len(last), minute.closed)
		}
	})
}

func TestExportErrorsAreLoggedPerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		_, stop := r.run(t)
		for _, err := range []error{nil, errPlanned, nil} {
			r.sink.mu.Lock()
			r.sink.err = err
			r.sink.mu.Unlock()
			time.Sleep(35 * time.Second)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n, m := r.logs.count("export failed"), r.logs.count("export works again"); n != 1 || m != 1 {
			t.Errorf("failure logged %d times, recovery %d times, want one each", n, m)
		}
	})
}

// stuckExporter never comes back from Shutdown.
type stuckExporter struct {
	sink
	release chan struct{}
}

func (s *stuckExporter) Shutdown(context.Context) error { <-s.release; return nil }

func TestStuckExporterDoesNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		stuck := &stuckExporter{release: make(chan struct{})}
		r.Destinations = append(r.Destinations, Destination{Name: "stuck", Exporter: stuck})
		_, stop := r.run(t)
		time.Sleep(time.Second)
		began := time.Now()
		if err := stop(); err == nil {
			t.Error("want an error on the exporter that hangs")
		}
		if took := time.Since(began); took > shutdownTimeout {
			t.Errorf("the end took %v", took)
		}
		if r.sink.closed != 1 {
			t.Error("the other exporter was not shut down")
		}
		close(stuck.release)
	})
}

func TestUnavailableSourcesHaveVerdictsAndStates(t *testing.T) {
	r := newRig(time.Second)
	r.Unavailable = []verdict.Verdict{{Name: "a/none", State: verdict.Unavailable, Missing: "CAP_BPF"}}
	r.add("b/some", collector.Core, nil)
	p := New(r.Options)
	p.Start(t.Context())
	if err := p.Tick(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if v := p.Verdicts(); len(v) != 2 || v[0].Missing != "CAP_BPF" || v[1].State != verdict.Active {
		t.Errorf("verdicts %+v", v)
	}
	if n := r.sink.value(t, "slid.source.state{slid.source.name=a/none,slid.source.state=unavailable}"); n != 1 {
		t.Errorf("state of the unavailable source is %v, want 1", n)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// nowhere is an exporter that costs nothing.
type nowhere struct{}

func (nowhere) Export(context.Context, *metric.Snapshot) error { return nil }
func (nowhere) Shutdown(context.Context) error                 { return nil }

// newLoaded returns a started pipeline with 5 collectors of 200 series each.
func newLoaded(t testing.TB) *Pipeline {
	t.Helper()
	r := newRig(10 * time.Second)
	r.Destinations = []Destination{{Name: "a", Exporter: nowhere{}}, {Name: "b", Exporter: nowhere{}, Interval: time.Minute}}
	host := resource.NewSchemaless(attribute.String("host.name", "h"))
	for _, name := range []string{"one", "two", "three", "four", "five"} {
		var registers []*metric.Int
		g := r.Registry.Group(name, metric.ClassHost, 200)
		f := g.Int(metric.Desc{Name: name, Unit: "1", Kind: metric.Gauge})
		e := g.Entity(host, time.Now())
		for i := range 200 {
			registers = append(registers, f.With(e, attribute.Int("i", i)))
		}
		r.Collectors = append(r.Collectors, Collector{Name: name, Group: g, Collector: &fake{
			verdicts: []verdict.Verdict{{Name: name, State: verdict.Active}},
			collect: func(_ context.Context, now time.Time) error {
				for _, reg := range registers {
					reg.Set(now.UnixNano())
				}
				return nil
			},
		}})
	}
	p := New(r.Options)
	p.Start(t.Context())
	t.Cleanup(func() {
		if err := p.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestTickAllocatesNothing(t *testing.T) {
	p := newLoaded(t)
	now := time.Now()
	tick := func() {
		now = now.Add(10 * time.Second)
		if err := p.Tick(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	if n := testing.AllocsPerRun(100, tick); n != 0 {
		t.Errorf("a tick with 1,000 series allocates %v times, want 0", n)
	}
}

// BenchmarkTick is one core tick of 5 collectors with 1,000 series, two destinations and the self-measurement.
func BenchmarkTick(b *testing.B) {
	p := newLoaded(b)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Second)
		_ = p.Tick(b.Context(), now)
	}
}

// TestDerivedRunAfterCore: what is computed of others' metrics sees those of the same tick.
func TestDerivedRunAfterCore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		var core, derived atomic.Int32
		r.add("budget", collector.Derived, func(context.Context, time.Time) error {
			if n := derived.Add(1); n != core.Load() {
				t.Errorf("run %d comes after %d of the core lane", n, core.Load())
			}
			return nil
		})
		r.add("traffic", collector.Core, func(context.Context, time.Time) error {
			time.Sleep(time.Second)
			core.Add(1)
			return nil
		})
		_, stop := r.run(t)
		time.Sleep(65 * time.Second)
		stop()
		if n := derived.Load(); n != 8 { // one at the start and one at the end
			t.Errorf("ran %d times", n)
		}
	})
}
