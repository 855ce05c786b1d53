package text

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/slid-agent/slid/internal/metric"
)

// exactQuantile returns the value of rank ceil(q*n).
func exactQuantile(sorted []float64, q float64) float64 {
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}

// TestQuantilesAreWithinOneBucket compares with the exact quantiles of random values.
func TestQuantilesAreWithinOneBucket(t *testing.T) {
	const bucket = 1.0905077326652577 * (1 + 1e-12) // 2^(1/8), and the rounding of a value on a bound
	rapid.Check(t, func(rt *rapid.T) {
		l := newLab(t, Options{})
		h := l.hist(l.latEnt, l.latency, "x.duration")
		exponents := rapid.SliceOfN(rapid.Float64Range(-23.9, 7.9), 1, 300).Draw(rt, "log2")
		var values []float64
		for _, e := range exponents {
			values = append(values, math.Exp2(e))
			h.Record(math.Exp2(e))
		}
		slices.Sort(values)
		l.latency.Collected(first)
		l.snapshot.Take(first)
		s, ok := newIndex(l.snapshot).targets[0].spread("x.duration", *emptySet())
		if !ok {
			rt.Fatal("no histogram")
		}
		for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 1} {
			got, want := s.quantile(q), exactQuantile(values, q)
			if got/want >= bucket || want/got >= bucket {
				rt.Errorf("q %v is %v, want %v", q, got, want)
			}
		}
		if top := s.top(); top < values[len(values)-1] || top/values[len(values)-1] >= bucket {
			rt.Errorf("top is %v, the largest value %v", top, values[len(values)-1])
		}
		var octaves int64
		for _, b := range s.octaves() {
			octaves += b.Count
			if b.Count != int64(countIn(values, b.LE/2, b.LE)) {
				rt.Errorf("octave up to %v has %d", b.LE, b.Count)
			}
		}
		if octaves != int64(len(values)) {
			rt.Errorf("the octaves have %d of %d values", octaves, len(values))
		}
	})
}

func countIn(values []float64, above, upTo float64) int {
	n := 0
	for _, v := range values {
		if v > above && v <= upTo {
			n++
		}
	}
	return n
}

func TestQuantileEdges(t *testing.T) {
	if q := (distribution{}).quantile(0.5); !math.IsNaN(q) {
		t.Errorf("of nothing: %v", q)
	}
	if q := (distribution{zero: 3}).quantile(0.99); q != 0 {
		t.Errorf("of zeros: %v", q)
	}
	if (distribution{}).quantiles() != nil || (distribution{}).octaves() != nil || (distribution{zero: 1}).top() != 0 {
		t.Error("an empty distribution has quantiles")
	}
}

// TestDistributionsAddUp checks minus and plus: what two windows saw is what the whole saw.
func TestDistributionsAddUp(t *testing.T) {
	gen := rapid.Custom(func(rt *rapid.T) distribution {
		return distribution{
			zero: rapid.Uint64Range(0, 9).Draw(rt, "zero"), offset: rapid.IntRange(-9, 9).Draw(rt, "offset"),
			counts: rapid.SliceOfN(rapid.Uint64Range(0, 9), 0, 9).Draw(rt, "counts"),
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		a, b := gen.Draw(rt, "a"), gen.Draw(rt, "b")
		both := a.plus(b)
		if !a.within(both) || !b.within(both) || both.count() != a.count()+b.count() {
			rt.Fatalf("%v + %v = %v", a, b, both)
		}
		rest := both.minus(a)
		if !rest.within(b) || !b.within(rest) {
			rt.Fatalf("%v - %v = %v, want %v", both, a, rest, b)
		}
	})
}

// report runs two exports with a change between and returns the report.
func report(t *testing.T, before, after func(l *lab)) *Report {
	t.Helper()
	l := newLab(t, Options{Format: JSON})
	before(l)
	l.export(first)
	after(l)
	l.export(later)
	var r Report
	if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestCounterResets(t *testing.T) {
	var p port
	var run *metric.Hist
	r := report(t, func(l *lab) {
		p = l.port(l.service.Entity(serviceResource("web"), began), 80)
		p.responses(200, 1000, first)
		p.connections("http", 10, first)
		run = l.hist(l.latEnt, l.latency, "system.cpu.linux.runqueue.duration")
		run.RecordN(1e-3, 100)
	}, func(*lab) {
		p.responses(200, 30, later)
		p.connections("http", 12, later)
		// The probe was loaded anew: its buckets begin at zero.
		run.Load(0, 0, 0, func(i int) uint64 {
			if i == 0 {
				return 7
			}
			return 0
		})
	})
	if s := r.Services[0]; *s.Requests != 30 || *s.Connections != 2 {
		t.Errorf("%d requests and %d connections after a reset, want 30 and 2", *s.Requests, *s.Connections)
	}
	if n := r.Latency[0].Count; n != 7 {
		t.Errorf("%d values after a reset, want 7", n)
	}
}

// TestHiddenReset has a counter that began anew and already passed its old value: only the start time tells.
func TestHiddenReset(t *testing.T) {
	var old *metric.Entity
	r := report(t, func(l *lab) {
		old = l.service.Entity(serviceResource("web"), began)
		l.port(old, 80).responses(200, 50, first)
	}, func(l *lab) {
		old.Remove()
		l.port(l.service.Entity(serviceResource("web"), first.Add(time.Second)), 80).responses(200, 60, later)
	})
	if n := *r.Services[0].Requests; n != 60 {
		t.Errorf("%d requests, want 60", n)
	}
}

// TestNewSeries: what appears within the window counts in full if slid counts it, and not if the kernel counted it
// since boot and the collector only failed at first.
func TestNewSeries(t *testing.T) {
	r := report(t, func(*lab) {}, func(l *lab) {
		p := l.port(l.service.Entity(serviceResource("late"), began), 80)
		p.responses(404, 5, later)
		l.observeHost(1, later)
	})
	if s := r.Services[0]; *s.Requests != 5 || *s.Errors != 0 || s.Status["4xx"] != 5 || s.StatusCodes["404"] != 5 {
		t.Errorf("service: %+v", s)
	}
	if s := r.System; s.CPUUtilization != nil || s.Disks[0].Read != nil || len(s.Pressure) != 0 || *s.Memory.Limit != 8482560409 {
		t.Errorf("the kernel's counters since boot were taken for the window's: %+v", s)
	}
	hotplug := report(t, func(l *lab) { l.observeHost(0, first) }, func(l *lab) {
		l.observeHost(1, later)
		l.int(l.hostEnt, l.host, metric.Counter, "system.disk.io", 1000, later, str("system.device", "sdz"), str("disk.io.direction", "read"))
	})
	i := slices.IndexFunc(hotplug.System.Disks, func(d Disk) bool { return d.Device == "sdz" })
	if i < 0 || *hotplug.System.Disks[i].Read != 100 {
		t.Errorf("a new disk: %+v", hotplug.System.Disks)
	}
}

// TestStaleSeriesAreAbsent: a collector that did not run again measured nothing, which is not 0.
func TestStaleSeriesAreAbsent(t *testing.T) {
	l := full(t, Options{Format: JSON})
	l.agent.Collected(later)
	l.exportOnly(later)
	var r Report
	if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if s := r.Services[0]; s.Requests != nil || s.Status != nil || s.Errors != nil || s.Aborted != nil {
		t.Errorf("service: %+v", s)
	}
	if len(r.Latency) != 0 || r.System.CPUUtilization != nil || r.System.Networks[0].Received != nil {
		t.Errorf("latency %+v, system %+v", r.Latency, r.System)
	}
	if *r.Agent.CPUSeconds != 0.03 {
		t.Errorf("agent: %+v", r.Agent)
	}
}

// TestSystemFigures checks the arithmetic of the host against the fixture's own numbers.
func TestSystemFigures(t *testing.T) {
	r := report(t, func(l *lab) { l.observeHost(0, first) }, func(l *lab) { l.observeHost(1, later) })
	s := r.System
	disk, network := s.Disks[0], s.Networks[0]
	near := func(what string, got *float64, want float64) {
		t.Helper()
		if got == nil || math.Abs(*got-want) > 1e-4*math.Abs(want) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	near("cpu", s.CPUUtilization, .424)
	near("read", disk.Read, 1258291.2)
	near("write", disk.Written, 3565158.4)
	near("operations", disk.Operations, 120)
	near("busy", disk.Utilization, .032)
	near("await", disk.Await, .0004)
	near("received", network.Received, 3.4e6)
	near("sent", network.Sent, 6.8e6)
	near("packets", network.ReceivedPkt, 2500)
	near("cpu pressure", s.Pressure["cpu"].Some, .012)
	near("io pressure of all", s.Pressure["io"].Full, .001)
	if *s.CPUs != 2 || *s.Memory.Used != 5476083302 || s.Load["5m"] != .4 || *network.Dropped != 6 || *network.Errors != 0 {
		t.Errorf("%+v", s)
	}
	if idle := s.Disks[1]; idle.Await != nil || *idle.Utilization != 0 {
		t.Errorf("idle disk: %+v", idle)
	}
}

// An owner's report has what its tasks waited for within the window, the longest first.
func TestOwnersWaits(t *testing.T) {
	l := full(t, Options{Format: JSON})
	l.export(later)
	var r Report
	if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Owners) != 2 || r.Owners[0].Service != "nginx" || r.Owners[0].Unit != "nginx.service" || r.Owners[1].Service != "other" {
		t.Fatalf("got %+v", r.Owners)
	}
	o := r.Owners[0]
	run, disk := o.Delays["runqueue"], o.Delays["disk"]
	if run.Count != 4500 || disk.Count != 450 || run.P99 == nil || *run.P99 <= *run.P50 || len(o.Delays) != 2 {
		t.Errorf("got %+v", o.Delays)
	}
	// A lognormal distribution of sigma 1 has the mean of its median times e^0.5.
	if mean := run.Seconds / float64(run.Count); mean < 20e-6*1.5 || mean > 20e-6*1.8 {
		t.Errorf("mean wait %v s", mean)
	}
	if share := o.Preempted["other"] / run.Seconds; share < 0.2 || share > 0.25 || len(o.Preempted) != 2 {
		t.Errorf("preempted %v of %v s", o.Preempted, run.Seconds)
	}
}
