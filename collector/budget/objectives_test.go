package budget

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"pgregory.net/rapid"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

// promise returns an objective of 99 % over 7 days on an indicator of its own name.
func promise(name, service string) slo.Objective {
	return slo.Objective{
		Name: name, Service: service, Target: 0.99, Window: slo.Window{Span: slo.Span{Count: 7, Unit: slo.Day}},
		Members: []slo.Member{{
			Target: 0.99, Weight: 1, Indicator: slo.Indicator{Name: name, Select: slo.Selection{Service: service}},
		}},
	}
}

// A bench is a registry with made-up counters and objectives that read them. Its clocks are its own: mono goes on, wall
// may jump.
type bench struct {
	t        interface{ Fatal(args ...any) }
	registry *metric.Registry
	counted  *metric.Group
	o        *Objectives
	wall     time.Time
	mono     time.Duration

	events, excluded, lost metric.IntFamily
	coverage               metric.FloatFamily
	taken                  model // what the first indicator took
}

func newBench(t interface{ Fatal(args ...any) }, list ...slo.Objective) *bench {
	b := &bench{t: t, registry: metric.NewRegistry(instrumentation.Scope{SchemaURL: metric.SchemaURL})}
	b.wall = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	b.counted = b.registry.Group("made-up", metric.ClassService, 1000)
	b.events = b.counted.Int(metric.Desc{Name: eventsName, Kind: metric.Counter})
	b.excluded = b.counted.Int(metric.Desc{Name: excludedName, Kind: metric.Counter})
	b.lost = b.counted.Int(metric.Desc{Name: lostName, Kind: metric.Counter})
	b.coverage = b.counted.Float(metric.Desc{Name: coverageName, Kind: metric.Gauge})
	var err error
	b.o, err = newObjectives(collector.Env{
		Metrics: b.registry.Group(Name, metric.ClassSLO, 1000), Host: resource.Empty(),
		Log: slog.New(slog.DiscardHandler),
	}, list)
	if err != nil {
		t.Fatal(err)
	}
	b.o.reader.began = b.wall.Round(0)
	b.o.elapsed = func() time.Duration { return b.mono }
	return b
}

// service describes a service as a collector would.
func (b *bench) service(name string) *metric.Entity {
	return b.counted.Entity(resource.NewSchemaless(attribute.String("service.name", name), attribute.String("host.id", "x")), b.wall)
}

// outcome returns the counter of an indicator's good or bad events.
func (b *bench) outcome(e *metric.Entity, name, outcome string) *metric.Int {
	return b.events.With(e, indicatorKey.String(name), outcomeKey.String(outcome))
}

func (b *bench) pass(d time.Duration) { b.wall, b.mono = b.wall.Add(d), b.mono+d }

// tick is a collection of the counters and of the objectives.
func (b *bench) tick() {
	b.counted.Collected(b.wall)
	b.evaluate()
}

// evaluate is a tick in which the counters were not read.
func (b *bench) evaluate() {
	if err := b.o.Collect(context.Background(), b.wall); err != nil {
		b.t.Fatal(err)
	}
	b.o.env.Metrics.Collected(b.wall)
	c := b.o.reader.indicators[0].counts
	b.taken = b.taken.plus(model{c.Good, c.Bad, c.Missed, c.Measured})
}

func (b *bench) status(i int) slo.Status { return b.o.Standings()[i].Status }

// exported returns the values of a metric by an attribute, and the service of its resource.
func (b *bench) exported(name string, key attribute.Key) (values map[string]float64, service string) {
	s := b.registry.NewSnapshot(metric.ClassSLO)
	s.Take(b.wall)
	values = map[string]float64{}
	for _, rm := range s.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			if m.Name != name {
				continue
			}
			service = textOf(rm.Resource.Set(), serviceKey)
			switch data := m.Data.(type) {
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					values[textOf(&p.Attributes, key)] = p.Value
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					values[textOf(&p.Attributes, key)] = float64(p.Value)
				}
			}
		}
	}
	return values, service
}

func TestObjectiveFollowsItsCounters(t *testing.T) {
	b := newBench(t, promise("fast", "shop"), promise("other", "cart"))
	b.tick()
	if s := b.status(0); s.State != slo.Unknown || s.Reason != "nothing was measured" {
		t.Errorf("without counters: %+v", s)
	}
	if values, service := b.exported("slo.local.burn_rate", windowKey); len(values) != 0 {
		t.Errorf("burn rates of nothing: %v on %s", values, service)
	}
	if values, _ := b.exported("slo.objective.target", objectiveKey); values["fast"] != 0.99 || values["other"] != 0.99 {
		t.Errorf("targets %v", values)
	}
	shop := b.service("shop")
	good, bad := b.outcome(shop, "fast", "good"), b.outcome(shop, "fast", "bad")
	b.excluded.With(shop, indicatorKey.String("fast"), attribute.String("sli.exclusion.reason", "filter")).Add(5)
	for range 6 {
		b.pass(10 * time.Second)
		good.Add(90)
		bad.Add(10)
		b.tick()
	}
	s := b.status(0)
	if s.Counts.Good != 540 || s.Counts.Bad != 60 || s.Counts.Excluded != 5 || s.Counts.Measured != time.Minute || s.State != slo.Burning {
		t.Errorf("%+v", s)
	}
	if got := b.o.Standings()[0]; got.Sources != 3 || got.At != b.wall || got.Objective.Name != "fast" {
		t.Errorf("%+v", got)
	}
	if other := b.status(1); other.State != slo.Unknown {
		t.Errorf("the other: %+v", other)
	}
	burns, service := b.exported("slo.local.burn_rate", windowKey)
	if len(burns) != 7 || math.Abs(burns["5m"]-10) > 1e-9 || math.Abs(burns["3d"]-10) > 1e-9 || service != "shop" {
		t.Errorf("burn rates %v on %s", burns, service)
	}
	if states, _ := b.exported("slo.local.status", stateKey); states["burning"] != 1 && states["unknown"] != 1 {
		t.Errorf("states %v", states)
	}
	// When the service goes, what was measured stays; the metrics move to a description made up of its name.
	shop.Remove()
	b.pass(2 * time.Hour)
	b.tick()
	if s := b.status(0); s.Counts.Total() != 600 || s.State != slo.Unknown || s.Reason != "no data in the last hour" {
		t.Errorf("gone: %+v", s)
	}
	if burns, service := b.exported("slo.local.burn_rate", windowKey); service != "shop" || len(burns) != 3 { // 6h, 1d, 3d
		t.Errorf("gone: burn rates %v on %s", burns, service)
	}
}

// TestOneResourcePerService: the metrics of objectives stand beside those of the service, not on a copy of it.
func TestOneResourcePerService(t *testing.T) {
	b := newBench(t, promise("fast", "shop"))
	b.outcome(b.service("shop"), "fast", "good").Add(1)
	b.tick()
	b.tick()
	s := b.registry.NewSnapshot()
	s.Take(b.wall)
	if len(s.Resources) != 1 {
		t.Errorf("%d resources", len(s.Resources))
	}
}

// A model of what was counted: every growth with the time of the tick that saw it.
type model struct {
	good, bad, lost uint64
	measured        time.Duration
}

// TestObjectivesAgreeWithBruteForce runs random traffic past objectives, with ticks that are missed, collectors that
// fail, counters that begin anew, services that come and go and a clock that jumps, and compares the sums with those that
// a bystander keeps.
func TestObjectivesAgreeWithBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(t, promise("fast", "shop"))
		b.tick()
		var want model
		var shop *metric.Entity
		var good, bad, lost *metric.Int
		var pending model // counted and not read yet
		total, back, seen := uint64(0), false, false
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second
			if shop == nil && rapid.Bool().Draw(t, "comes") {
				shop = b.service("shop") // it begins now: the step is measured
				good, bad = b.outcome(shop, "fast", "good"), b.outcome(shop, "fast", "bad")
				lost = b.lost.With(shop, attribute.String("loss.reason", "map_full"))
				pending, total, seen = model{}, 0, false
			}
			b.pass(step)
			if shop != nil {
				g, x, l := rapid.Uint64Range(0, 9).Draw(t, "good"), rapid.Uint64Range(0, 2).Draw(t, "bad"), rapid.Uint64Range(0, 2).Draw(t, "lost")
				total += g
				good.Observe(total, b.wall)
				bad.Add(int64(x))
				lost.Add(int64(l))
				pending.good, pending.bad, pending.lost, pending.measured = pending.good+g, pending.bad+x, pending.lost+l, pending.measured+step
			}
			switch rapid.SampledFrom([]string{"tick", "tick", "tick", "missed", "failed", "goes", "anew", "jump"}).Draw(t, "event") {
			case "missed":
				continue
			case "failed":
				b.evaluate()
				if shop != nil && !seen { // what it found is shown in spite of the failure
					want, pending, seen = want.plus(pending), model{}, true
				}
				continue
			case "goes":
				if shop != nil { // what nobody read is nobody's to know
					shop.Remove()
					shop = nil
				}
				b.tick()
				continue
			case "anew":
				b.tick()
				if shop != nil {
					want, pending, seen = want.plus(pending), model{}, true
					total = 0
					good.Observe(total, b.wall)
				}
				continue
			case "jump":
				hours := rapid.IntRange(-5, 5).Draw(t, "hours")
				b.wall = b.wall.Add(time.Duration(hours) * time.Hour)
				back = back || hours < 0
				if !seen && hours != 0 { // nobody can tell when it began between two readings
					pending.measured = b.mono - b.o.reader.last
				}
			}
			b.tick()
			if shop != nil {
				want, pending, seen = want.plus(pending), model{}, true
			}
		}
		b.tick()
		if shop != nil {
			want = want.plus(pending)
		}
		if b.taken != want {
			t.Fatalf("took %+v, want %+v", b.taken, want)
		}
		// Where a clock goes back, a history may take an hour's counts twice or not at all.
		if h := b.status(0).Counts; !back && (model{h.Good, h.Bad, h.Missed, h.Measured}) != want {
			t.Fatalf("the history has %+v, want %+v", h, want)
		}
	})
}

func (m model) plus(o model) model {
	return model{m.good + o.good, m.bad + o.bad, m.lost + o.lost, m.measured + o.measured}
}

// TestCountsOfBeforeAreNotOurs: a counter that began long ago is counted from its first reading.
func TestCountsOfBeforeAreNotOurs(t *testing.T) {
	for _, jump := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour} {
		b := newBench(t, promise("fast", "shop"))
		scraped := b.counted.Entity(resource.NewSchemaless(attribute.String("service.name", "shop")), b.wall.Add(-24*time.Hour))
		good := b.outcome(scraped, "fast", "good")
		good.Add(1_000_000)
		b.tick()
		if s := b.status(0); s.Counts != (slo.Counts{}) {
			t.Errorf("a past of others was taken: %+v", s.Counts)
		}
		b.pass(10 * time.Second)
		b.wall = b.wall.Add(jump)
		good.Add(7)
		fresh := b.outcome(b.service("shop"), "fast", "bad") // began after us, whatever the clock says
		fresh.Add(2)
		b.tick()
		if s := b.status(0); s.Counts.Good != 7 || s.Counts.Bad != 2 || s.Counts.Measured != 10*time.Second {
			t.Errorf("after a jump of %v: %+v", jump, s.Counts)
		}
	}
}

// TestCoverage: what was not understood makes the state unknown, told by the indicator's own gauge or else by the losses of
// the service.
func TestCoverage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		set    func(b *bench, e *metric.Entity)
		missed uint64
		state  slo.State
	}{
		{"whole", func(b *bench, e *metric.Entity) { b.coverage.With(e, indicatorKey.String("fast")).Set(1) }, 0, slo.OK},
		{"gauge", func(b *bench, e *metric.Entity) { b.coverage.With(e, indicatorKey.String("fast")).Set(0.8) }, 250, slo.Unknown},
		{"nothing", func(b *bench, e *metric.Entity) { b.coverage.With(e, indicatorKey.String("fast")).Set(0) }, 999_999_000, slo.Unknown},
		{"another's gauge", func(b *bench, e *metric.Entity) { b.coverage.With(e, indicatorKey.String("slow")).Set(0.5) }, 0, slo.OK},
		{"the port's gauge", func(b *bench, e *metric.Entity) { b.coverage.With(e, attribute.Int("server.port", 80)).Set(0.5) }, 0, slo.OK},
		{"losses of the service", func(b *bench, e *metric.Entity) { b.lost.With(e, attribute.Int("server.port", 80)).Add(20) }, 20, slo.Unknown},
		{"few losses", func(b *bench, e *metric.Entity) { b.lost.With(e, attribute.Int("server.port", 80)).Add(5) }, 5, slo.OK},
		{"losses and a gauge", func(b *bench, e *metric.Entity) {
			b.lost.With(e, attribute.Int("server.port", 80)).Add(20)
			b.coverage.With(e, indicatorKey.String("fast")).Set(1)
		}, 0, slo.OK},
		{"losses of the service and named ones", func(b *bench, e *metric.Entity) {
			b.lost.With(e, attribute.Int("server.port", 80)).Add(20)
			b.lost.With(e, indicatorKey.String("fast")).Add(3)
		}, 3, slo.OK},
		{"named losses and a gauge", func(b *bench, e *metric.Entity) {
			b.lost.With(e, indicatorKey.String("fast")).Add(20)
			b.coverage.With(e, indicatorKey.String("fast")).Set(1)
		}, 20, slo.Unknown},
		{"losses of another service", func(b *bench, _ *metric.Entity) {
			b.lost.With(b.service("cart"), attribute.Int("server.port", 80)).Add(20)
		}, 0, slo.OK},
	} {
		b := newBench(t, promise("fast", "shop"))
		shop := b.service("shop")
		b.outcome(shop, "fast", "good").Add(1000)
		tt.set(b, shop)
		b.pass(10 * time.Second)
		b.tick()
		if s := b.status(0); s.Counts.Missed != tt.missed || s.State != tt.state {
			t.Errorf("%s: missed %d, state %v", tt.name, s.Counts.Missed, s.State)
		}
		b.pass(10 * time.Second)
		b.tick() // nothing happened: the gauge is about the past
		if s := b.status(0); s.Counts.Missed != tt.missed {
			t.Errorf("%s: missed %d without events", tt.name, s.Counts.Missed)
		}
	}
}

// kept returns a bench whose objective has a past, and the folder it is kept in.
func kept(t *testing.T) (*bench, string) {
	t.Helper()
	folder := t.TempDir()
	b := newBench(t, promise("fast", "shop"))
	b.wall = time.Now()
	b.o.reader.began = b.wall.Round(0)
	b.o.Keep(folder)
	b.outcome(b.service("shop"), "fast", "good").Add(1000)
	b.pass(time.Second)
	b.tick()
	if err := b.o.Close(); err != nil {
		t.Fatal(err)
	}
	return b, folder
}

// again returns a new start with what is in the folder.
func again(t *testing.T, folder string) (b *bench, log string) {
	t.Helper()
	var text strings.Builder
	b = newBench(t, promise("fast", "shop"))
	b.wall = time.Now().Add(time.Second)
	b.o.env.Log = slog.New(slog.NewTextHandler(&text, nil))
	b.o.Keep(folder)
	b.evaluate()
	return b, text.String()
}

func TestThePastSurvivesARestart(t *testing.T) {
	_, folder := kept(t)
	b, log := again(t, folder)
	if s := b.status(0); s.Counts.Good != 1000 || log != "" {
		t.Errorf("%+v\n%s", s.Counts, log)
	}
	if v := b.o.Verdicts()[0]; v.State != verdict.Active || v.Hook != "1 from the counters sli.events, kept in "+folder+"/slo.state" {
		t.Errorf("%+v", v)
	}
}

// TestCrashAmidWriting: whatever part of the file a crash left, slid starts, with all of the past or with none and a word.
func TestCrashAmidWriting(t *testing.T) {
	_, folder := kept(t)
	path := filepath.Join(folder, stateName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		b, log := again(t, folder)
		if s := b.status(0); s.Counts.Good != 0 || s.State != slo.Unknown || strings.Count(log, "level=WARN") != 1 {
			t.Fatalf("%d of %d bytes: %+v\n%s", n, len(whole), s, log)
		}
		// What a crash really leaves: the old file, and part of the new one beside it.
		half := filepath.Join(folder, fmt.Sprintf(".slo-%d", n))
		for name, data := range map[string][]byte{path: whole, half: whole[:n]} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b, log = again(t, folder)
		if s := b.status(0); s.Counts.Good != 1000 || log != "" {
			t.Fatalf("%d bytes of the next: %+v\n%s", n, s, log)
		}
		if _, err := os.Stat(half); !os.IsNotExist(err) {
			t.Fatalf("%s is left: %v", half, err)
		}
	}
}

func TestForeignStates(t *testing.T) {
	_, folder := kept(t)
	path := filepath.Join(folder, stateName)
	for _, text := range []string{"", "hello", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, log := again(t, folder); b.status(0).Counts.Good != 0 || !strings.Contains(log, "starting without a past") {
			t.Errorf("%.10q: %s", text, log)
		}
	}
}

// TestStateIsWrittenNowAndThen: at a slow pace, in the background, and a folder that is gone costs the past alone.
func TestStateIsWrittenNowAndThen(t *testing.T) {
	b, folder := kept(t)
	path := filepath.Join(folder, stateName)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	written := func() bool {
		_, err := os.Stat(path)
		return err == nil
	}
	for range 29 {
		b.pass(10 * time.Second)
		b.tick()
	}
	if written() {
		t.Error("written before the time")
	}
	b.pass(20 * time.Second)
	b.tick()
	b.o.settleWriting(t)
	if !written() {
		t.Error("not written in time")
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	b.pass(saveEvery)
	b.tick()
	b.o.settleWriting(t)
	if v := b.o.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Reason, "cannot be kept") {
		t.Errorf("%+v", v)
	}
	if b.o.Close() == nil {
		t.Error("the last writing did not fail")
	}
}

// settleWriting waits until a writing has ended and notes it.
func (o *Objectives) settleWriting(t *testing.T) {
	t.Helper()
	if o.state.writing == nil {
		t.Fatal("nothing is being written")
	}
	o.state.err, o.state.writing = <-o.state.writing, nil
}

func TestObjectivesWithoutAFolder(t *testing.T) {
	b := newBench(t, promise("fast", "shop"))
	if v := b.o.Verdicts()[0]; v.State != verdict.Active {
		t.Errorf("nobody wants it kept: %+v", v)
	}
	b.o.Keep("")
	if v := b.o.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Missing, "STATE_DIRECTORY") {
		t.Errorf("%+v", v)
	}
	if _, err := NewObjectives(b.o.env, nil); !verdict.FromError("x", err).Absent {
		t.Errorf("without objectives: %v", err)
	}
}

func TestEvaluatingDoesNotAllocate(t *testing.T) {
	b := newBench(t, promise("fast", "shop"), promise("other", "shop"))
	shop := b.service("shop")
	good := b.outcome(shop, "fast", "good")
	b.lost.With(shop, attribute.Int("server.port", 80))
	b.coverage.With(shop, indicatorKey.String("fast")).Set(1)
	b.tick()
	if n := testing.AllocsPerRun(100, func() {
		b.pass(10 * time.Second)
		good.Add(1)
		b.tick()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObjectives(b *testing.B) {
	var list []slo.Objective
	for i := range 200 {
		list = append(list, promise(fmt.Sprint("fast", i), fmt.Sprint("shop", i)))
	}
	bench := newBench(b, list...)
	var counters []*metric.Int
	for i := range 200 {
		e := bench.service(fmt.Sprint("shop", i))
		counters = append(counters, bench.outcome(e, fmt.Sprint("fast", i), "good"), bench.outcome(e, fmt.Sprint("fast", i), "bad"))
	}
	bench.tick()
	b.ReportAllocs()
	for b.Loop() {
		bench.pass(10 * time.Second)
		for _, c := range counters {
			c.Add(3)
		}
		bench.tick()
	}
}
