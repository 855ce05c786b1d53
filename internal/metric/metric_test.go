package metric

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"pgregory.net/rapid"
)

var (
	boot = time.Unix(1000, 0)
	tick = time.Unix(2000, 0)
	host = resource.NewSchemaless(attribute.String("host.name", "h"))
)

func newGroup(t testing.TB, budget int) (*Registry, *Group) {
	t.Helper()
	r := NewRegistry(instrumentation.Scope{Name: "slid"})
	g := r.Group("test", ClassHost, budget)
	g.Collected(tick)
	return r, g
}

// rootPower returns 2^(k/8) to 200 bits by three square roots.
func rootPower(k int) *big.Float {
	f := new(big.Float).SetPrec(200).SetInt64(1 << k)
	for range 3 {
		f.Sqrt(f)
	}
	return f
}

func TestRootsAreTheLargestFloatsBelowTheBounds(t *testing.T) {
	for k := 1; k < perOctave; k++ {
		bound := rootPower(k)
		r := roots[k-1]
		if big.NewFloat(r).Cmp(bound) > 0 || big.NewFloat(math.Nextafter(r, 2)).Cmp(bound) <= 0 {
			t.Errorf("roots[%d] = %x is not the largest float64 below 2^(%d/8)", k-1, r, k)
		}
	}
}

// TestIndexFollowsOpenTelemetry checks 2^(i/8) < v <= 2^((i+1)/8) in 200-bit arithmetic, for random values and for
// those on and beside the bucket edges.
func TestIndexFollowsOpenTelemetry(t *testing.T) {
	check := func(t interface{ Errorf(string, ...any) }, v float64) {
		i := Index(v)
		octave, k := i>>Scale, i&(perOctave-1)
		low := new(big.Float).SetMantExp(rootPower(k), octave)
		octave, k = (i+1)>>Scale, (i+1)&(perOctave-1)
		high := new(big.Float).SetMantExp(rootPower(k), octave)
		x := big.NewFloat(v)
		if k == 0 {
			high = big.NewFloat(math.Ldexp(1, octave))
		}
		if x.Cmp(low) <= 0 || x.Cmp(high) > 0 {
			t.Errorf("Index(%x) = %d, whose bucket does not hold it", v, i)
		}
	}
	for exp := -40; exp <= 40; exp++ {
		for k := range perOctave {
			edge := UpperBound(exp*perOctave + k)
			check(t, edge)
			check(t, math.Nextafter(edge, 0))
			check(t, math.Nextafter(edge, math.Inf(1)))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, math.Exp2(rapid.Float64Range(-60, 60).Draw(t, "log2")))
	})
}

func TestHistogramKeepsCountAndSum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, g := newGroup(t, 10)
		h := g.Histogram(Desc{Name: "d", Unit: "s"}).With(g.Entity(host, boot))
		values := rapid.SliceOf(rapid.Float64Range(-1, 1000)).Draw(rt, "values")
		var sum float64
		for _, v := range values {
			h.Record(v)
			sum += max(v, 0)
		}
		h.Record(math.NaN())
		s := r.NewSnapshot()
		s.Take(tick)
		p := s.Resources[0].ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0]
		var inBuckets uint64
		for _, n := range p.PositiveBucket.Counts {
			inBuckets += n
		}
		if p.Count != uint64(len(values)) || inBuckets+p.ZeroCount != p.Count {
			rt.Fatalf("%d values: count %d, buckets %d + zeros %d", len(values), p.Count, inBuckets, p.ZeroCount)
		}
		if math.Abs(p.Sum-sum) > 1e-9*(1+sum) {
			rt.Fatalf("sum %v, want %v", p.Sum, sum)
		}
	})
}

func TestHistogramOutsideItsRange(t *testing.T) {
	_, g := newGroup(t, 10)
	h := g.Histogram(Desc{Name: "d", Unit: "s"}).With(g.Entity(host, boot))
	h.Record(math.Ldexp(1, -24)) // on the threshold: zero
	h.Record(256)                // on the upper bound: inside
	h.Record(257)
	counts, offset, count, zero, _ := h.copyInto(nil)
	if zero != 1 || count != 3 || h.Overflowed() != 1 {
		t.Errorf("zero %d, count %d, overflow %d; want 1, 3, 1", zero, count, h.Overflowed())
	}
	if want := []uint64{2}; !cmp.Equal(counts, want) || offset != 8*perOctave-1 {
		t.Errorf("buckets %v from %d, want %v from %d", counts, offset, want, 8*perOctave-1)
	}
}

func TestSnapshotContents(t *testing.T) {
	r, g := newGroup(t, 10)
	svc := resource.NewSchemaless(attribute.String("service.name", "nginx"))
	e, other := g.Entity(host, boot), g.Entity(svc, tick)
	read := attribute.String("direction", "read")
	io := g.Int(Desc{Name: "io", Unit: "By", Kind: Counter, Description: "bytes"})
	io.With(e, read).Add(7)
	io.With(other).Add(1)
	g.Float(Desc{Name: "share", Unit: "1", Kind: Gauge}).With(e).Set(0.5)
	g.Int(Desc{Name: "silent", Kind: Gauge}).With(e) // never set: not exported
	g.Int(Desc{Name: "used", Unit: "By", Kind: UpDownCounter}).With(e).Set(-3)

	s := r.NewSnapshot()
	s.Take(tick.Add(time.Second))
	if len(s.Resources) != 2 || s.Resources[0].Resource != host || s.Resources[1].Resource != svc {
		t.Fatalf("resources: %v", s.Resources)
	}
	want := []metricdata.Metrics{
		{Name: "io", Unit: "By", Description: "bytes", Data: metricdata.Sum[int64]{
			Temporality: metricdata.CumulativeTemporality, IsMonotonic: true,
			DataPoints: []metricdata.DataPoint[int64]{
				{Attributes: attribute.NewSet(read), StartTime: boot, Time: tick, Value: 7},
			},
		}},
		{Name: "share", Unit: "1", Data: metricdata.Gauge[float64]{
			DataPoints: []metricdata.DataPoint[float64]{{StartTime: boot, Time: tick, Value: 0.5}},
		}},
		{Name: "used", Unit: "By", Data: metricdata.Sum[int64]{
			Temporality: metricdata.CumulativeTemporality,
			DataPoints:  []metricdata.DataPoint[int64]{{StartTime: boot, Time: tick, Value: -3}},
		}},
	}
	equalSets := cmp.Comparer(func(a, b attribute.Set) bool { return a.Equals(&b) })
	if diff := cmp.Diff(want, s.Resources[0].ScopeMetrics[0].Metrics, equalSets); diff != "" {
		t.Error(diff)
	}
}

func TestCounterThatFallsStartsAnew(t *testing.T) {
	r, g := newGroup(t, 10)
	e := g.Entity(host, boot)
	c := g.Int(Desc{Name: "n", Kind: Counter}).With(e)
	f := g.Float(Desc{Name: "t", Kind: Counter}).With(e)
	for i, total := range []float64{100, 200, 5} {
		at := tick.Add(time.Duration(i) * time.Second)
		c.Observe(uint64(total), at)
		f.Observe(total, at)
	}
	s := r.NewSnapshot()
	s.Take(tick)
	metrics := s.Resources[0].ScopeMetrics[0].Metrics
	n := metrics[0].Data.(metricdata.Sum[int64]).DataPoints[0]
	d := metrics[1].Data.(metricdata.Sum[float64]).DataPoints[0]
	start := tick.Add(time.Second) // the last time the old counter was seen
	if n.Value != 5 || !n.StartTime.Equal(start) || d.Value != 5 || !d.StartTime.Equal(start) {
		t.Errorf("after the fall: %v since %v, %v since %v; want 5 since %v", n.Value, n.StartTime, d.Value, d.StartTime, start)
	}
}

func TestRemovedEntityLeavesTheSnapshotAndTheBudget(t *testing.T) {
	r, g := newGroup(t, 2)
	disk := g.Int(Desc{Name: "io", Kind: Counter})
	s := r.NewSnapshot()
	for i := range 5 { // devices come and go: never more than the budget at once, so none is dropped
		e := g.Entity(host, boot)
		disk.With(e, attribute.Int("device", i))
		disk.With(e, attribute.Int("part", i))
		s.Take(tick)
		if n := len(s.Resources[0].ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints); n != 2 {
			t.Fatalf("%d points, want 2", n)
		}
		e.Remove()
		e.Remove() // harmless
	}
	s.Take(tick)
	if len(s.Resources) != 0 || g.Live() != 0 || g.Dropped() != 0 {
		t.Errorf("after all is gone: %d resources, %d live, %d dropped", len(s.Resources), g.Live(), g.Dropped())
	}
}

func TestBudgetIsKeptAndTheOverflowCounted(t *testing.T) {
	r, g := newGroup(t, 3)
	c := g.Int(Desc{Name: "n", Kind: Counter})
	e := g.Entity(host, boot)
	for i := range 10 {
		c.With(e, attribute.Int("i", i)).Add(1)
	}
	c.With(e, attribute.Int("i", 0)).Add(1) // exists: neither new nor dropped
	s := r.NewSnapshot()
	s.Take(tick)
	points := s.Resources[0].ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints
	if len(points) != 3 || g.Dropped() != 7 || points[0].Value != 2 {
		t.Errorf("%d points, %d dropped, first %d; want 3, 7, 2", len(points), g.Dropped(), points[0].Value)
	}
}

// TestSnapshotSharesNoMemory is the regression test for the SDK's producer trap: what a snapshot handed out must
// not change when registers do, nor when another snapshot is taken.
func TestSnapshotSharesNoMemory(t *testing.T) {
	r, g := newGroup(t, 10)
	e := g.Entity(host, boot)
	c := g.Int(Desc{Name: "n", Kind: Counter}).With(e)
	h := g.Histogram(Desc{Name: "d"}).With(e)
	c.Add(1)
	h.Record(1)
	a, b := r.NewSnapshot(), r.NewSnapshot()
	a.Take(tick)
	c.Add(10)
	h.Record(1)
	b.Take(tick)
	metrics := a.Resources[0].ScopeMetrics[0].Metrics
	n := metrics[0].Data.(metricdata.Sum[int64]).DataPoints[0].Value
	counts := metrics[1].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0].PositiveBucket.Counts
	if n != 1 || counts[0] != 1 {
		t.Errorf("snapshot changed after it was taken: %d, %v", n, counts)
	}
}

func TestSnapshotSelectsClasses(t *testing.T) {
	r, g := newGroup(t, 10)
	g.Int(Desc{Name: "host", Kind: Counter}).With(g.Entity(host, boot))
	for _, class := range []Class{ClassService, ClassAgent} {
		other := r.Group(string(class), class, 10)
		other.Int(Desc{Name: string(class), Kind: Counter}).With(other.Entity(host, boot))
		other.Collected(tick)
	}
	uncollected := r.Group("late", ClassHost, 10)
	uncollected.Int(Desc{Name: "late", Kind: Counter}).With(uncollected.Entity(host, boot))

	names := func(classes ...Class) (names []string) {
		s := r.NewSnapshot(classes...)
		s.Take(tick)
		for _, m := range s.Resources[0].ScopeMetrics[0].Metrics {
			names = append(names, m.Name)
		}
		return names
	}
	if got, want := names(), []string{"host", "service", "agent"}; !cmp.Equal(got, want) {
		t.Errorf("all: %v, want %v", got, want)
	}
	if got, want := names(ClassService), []string{"service", "agent"}; !cmp.Equal(got, want) {
		t.Errorf("service: %v, want %v", got, want)
	}
}

func TestConcurrentUse(t *testing.T) { // meaningful under -race
	r, g := newGroup(t, 1000)
	c := g.Int(Desc{Name: "n", Kind: Counter})
	h := g.Histogram(Desc{Name: "d"}).With(g.Entity(host, boot))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			e := g.Entity(host, boot)
			c.With(e, attribute.Int("i", i)).Add(1)
			h.Record(float64(i))
			g.Collected(tick)
			if i%2 == 0 {
				e.Remove()
			}
		}
	}()
	s := r.NewSnapshot()
	for {
		s.Take(tick)
		select {
		case <-done:
			if g.Live() != 101 {
				t.Errorf("%d live series, want 101", g.Live())
			}
			return
		default:
		}
	}
}

func TestRecordingAllocatesNothing(t *testing.T) {
	_, g := newGroup(t, 10)
	e := g.Entity(host, boot)
	i := g.Int(Desc{Name: "i", Kind: Counter}).With(e)
	f := g.Float(Desc{Name: "f", Kind: Gauge}).With(e)
	h := g.Histogram(Desc{Name: "h"}).With(e)
	if n := testing.AllocsPerRun(100, func() {
		i.Add(1)
		i.Observe(5, tick)
		f.Set(1)
		f.Observe(2, tick)
		h.Record(0.25)
		h.Load(1, 0, 2, func(i int) uint64 { return uint64(i) })
	}); n != 0 {
		t.Errorf("%v allocations per recording, want 0", n)
	}
}

// thousand fills a registry with 1,000 series: 300 counters, 600 gauges and 100 histograms of 160 buckets.
func thousand(tb testing.TB) *Registry {
	r, g := newGroup(tb, 1000)
	for i := range 10 {
		e := g.Entity(resource.NewSchemaless(attribute.Int("service", i)), boot)
		for i := range 3 {
			c := g.Int(Desc{Name: fmt.Sprint("c", i), Kind: Counter})
			for k := range 10 {
				c.With(e, attribute.Int("k", k)).Add(1)
			}
		}
		for i := range 6 {
			f := g.Float(Desc{Name: fmt.Sprint("f", i), Kind: Gauge})
			for k := range 10 {
				f.With(e, attribute.Int("k", k)).Set(1)
			}
		}
		h := g.Histogram(Desc{Name: "h"})
		for k := range 10 {
			h.With(e, attribute.Int("k", k)).Load(0, 0, 1, func(i int) uint64 { return uint64(i % 160) })
		}
	}
	return r
}

func TestSnapshotAllocatesNothingInSteadyState(t *testing.T) {
	s := thousand(t).NewSnapshot()
	s.Take(tick)
	if n := testing.AllocsPerRun(20, func() { s.Take(tick) }); n != 0 {
		t.Errorf("%v allocations per snapshot, want 0", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	_, g := newGroup(b, 10)
	e := g.Entity(host, boot)
	c := g.Int(Desc{Name: "i", Kind: Counter}).With(e)
	h := g.Histogram(Desc{Name: "h"}).With(e)
	b.Run("counter", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Add(1)
		}
	})
	b.Run("histogram", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.Record(0.0123)
		}
	})
}

func BenchmarkSnapshot1000(b *testing.B) {
	s := thousand(b).NewSnapshot()
	b.ReportAllocs()
	for b.Loop() {
		s.Take(tick)
	}
}

// TestEntityApart: what is read apart from its group has a time of its own, and is nothing before it was read.
func TestEntityApart(t *testing.T) {
	r := NewRegistry(instrumentation.Scope{})
	g := r.Group("scrape", ClassService, 10)
	events := g.Int(Desc{Name: "events", Kind: Counter})
	start := time.Unix(1e9, 0)
	rest, apart := g.Entity(shop(), start), g.EntityApart(shop(), start)
	events.With(rest, attribute.String("of", "rest")).Add(1)
	events.With(apart, attribute.String("of", "apart")).Add(2)
	s := r.NewSnapshot()
	times := func(now time.Time) map[int64]time.Time {
		s.Take(now)
		got := map[int64]time.Time{}
		for _, rm := range s.Resources {
			for _, p := range rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
				got[p.Value] = p.Time.UTC()
			}
		}
		return got
	}
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second).UTC() }
	check := func(want map[int64]time.Time) {
		t.Helper()
		if got := times(at(9)); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	apart.Collected(at(1))
	check(map[int64]time.Time{}) // the group declares; it was never collected
	g.Collected(at(2))
	check(map[int64]time.Time{1: at(2), 2: at(1)})
	g.Collected(at(3))
	check(map[int64]time.Time{1: at(3), 2: at(1)})
	apart.Collected(at(4))
	check(map[int64]time.Time{1: at(3), 2: at(4)})
	events.With(g.EntityApart(shop(), start), attribute.String("of", "nobody")).Add(3)
	check(map[int64]time.Time{1: at(3), 2: at(4)})
}
