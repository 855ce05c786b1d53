package bpf

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/slid-agent/slid/internal/pairtest"
	"github.com/slid-agent/slid/internal/verdict"
)

// A fakeProbe costs what its events cost, as far as it records them.
type fakeProbe struct {
	*metered
	events   float64 // a second
	full     float64 // seconds for a recorded event
	skipped  float64 // seconds for one that is left out
	shift    uint32
	samples  int
	detached bool
}

func newFakeProbe(name string, events float64, sampled bool) *fakeProbe {
	f := &fakeProbe{metered: &metered{}, events: events, full: 100e-9, skipped: 4e-9}
	f.cost = Cost{Name: name, Known: true, Governed: true}
	if sampled {
		f.Sample = func(shift uint32) error {
			f.shift = shift
			f.samples++
			return nil
		}
	}
	f.Detach = func() error { f.detached = true; return nil }
	f.Attach = func() error { f.detached = false; return nil }
	return f
}

// rate is the kernel time of a second.
func (f *fakeProbe) rate() float64 {
	if f.detached {
		return 0
	}
	recorded := 1 / float64(uint64(1)<<f.shift)
	return f.events * (f.full*recorded + f.skipped*(1-recorded))
}

// A world has a governor over probes, on two CPUs, with a budget of half a percent.
type world struct {
	governor governor
	now      time.Time
	probes   []*fakeProbe
}

func newWorld(probes ...*fakeProbe) *world {
	w := &world{governor: governor{share: 0.005, cpus: 2}, now: time.Unix(1e9, 0), probes: probes}
	w.look()
	w.look()
	return w
}

// look passes a period and lets the governor look.
func (w *world) look() (changed bool) {
	w.now = w.now.Add(governPeriod)
	var list []*metered
	for _, p := range w.probes {
		p.cost.Seconds += p.rate() * governPeriod.Seconds()
		list = append(list, p.metered)
	}
	return w.governor.look(w.now, list)
}

func (w *world) rate() (sum float64) {
	for _, p := range w.probes {
		sum += p.rate()
	}
	return sum
}

func (w *world) budget() float64 { return w.governor.share * float64(w.governor.cpus) }

func TestGovernorLeavesCheapProbesAlone(t *testing.T) {
	w := newWorld(newFakeProbe("a", 20e3, true), newFakeProbe("b", 50e3, true))
	for range 100 {
		if w.look() {
			t.Fatal("it changed something")
		}
	}
	for _, p := range w.probes {
		if p.shift != 0 || p.detached || p.cost.Throttle.Reason != "" {
			t.Errorf("%s: %+v", p.cost.Name, p.cost.Throttle)
		}
	}
	if got := w.probes[0].cost.Throttle.Share; got < 0.00099 || got > 0.00101 {
		t.Errorf("20,000 events of 100 ns are %v of two CPUs, want 0.001", got)
	}
}

// A storm makes the probe that sees it sample, at once and no other, and the sample is drawn anew again and again. When
// the storm is over, the probe records everything again, step by step.
func TestGovernorSamplesInAStorm(t *testing.T) {
	storm, quiet := newFakeProbe("storm", 20e3, true), newFakeProbe("quiet", 1e3, true)
	w := newWorld(storm, quiet)
	storm.events = 500e3
	for looks := 1; w.rate() > w.budget(); looks++ {
		if w.look(); looks > 2 {
			t.Fatalf("still %v s a second after %d looks", w.rate(), looks)
		}
	}
	if storm.shift == 0 || storm.detached || quiet.shift != 0 || quiet.detached {
		t.Fatalf("storm %+v, quiet %+v", storm.cost.Throttle, quiet.cost.Throttle)
	}
	want := fmt.Sprintf("one of %d events is recorded, with that weight: it took 2.5 %% of the CPUs, all probes may take 0.5 %%", 1<<storm.shift)
	if got := storm.cost.Throttle.Reason; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	if got := storm.cost.Throttle.Recorded(); got != 1/float64(uint64(1)<<storm.shift) {
		t.Errorf("records %v of the events", got)
	}
	for range 50 {
		w.look()
	}
	if storm.samples < 25 {
		t.Errorf("%d samples in 50 looks", storm.samples)
	}
	storm.events = 20e3
	for range 10 * governCalm {
		w.look()
	}
	if storm.shift != 0 || storm.cost.Throttle.Reason != "" {
		t.Errorf("after the storm: %+v", storm.cost.Throttle)
	}
}

// What cannot sample, or costs too much even so, is detached, says until when, and tries again later, each time later.
func TestGovernorDetaches(t *testing.T) {
	for name, p := range map[string]*fakeProbe{
		"cannot sample":     newFakeProbe("a", 500e3, false),
		"too much for that": newFakeProbe("a", 50e6, true),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(p)
			var times []time.Time
			for before := false; len(times) < 4; before = p.detached {
				w.look()
				if p.detached && !before {
					times = append(times, w.now)
					if !strings.HasPrefix(p.cost.Throttle.Reason, "detached until ") || p.cost.Throttle.Recorded() != 0 {
						t.Fatalf("%+v", p.cost.Throttle)
					}
				}
			}
			for i := 2; i < len(times); i++ {
				if shorter, longer := times[i-1].Sub(times[i-2]), times[i].Sub(times[i-1]); longer < shorter {
					t.Errorf("detached again after %v, then after %v", shorter, longer)
				}
			}
			p.events = 0
			for range int(2*governRestMax/governPeriod) + 20*governCalm {
				w.look()
			}
			if p.detached || p.shift != 0 {
				t.Errorf("in peace: %+v", p.cost.Throttle)
			}
		})
	}
}

// Whatever the loads are, some looks later the probes keep to the budget, and no probe is throttled that takes less than
// its fair share of it.
func TestGovernorKeepsTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for i := range rapid.IntRange(1, 8).Draw(t, "probes") {
			events := rapid.Float64Range(0, 1e7).Draw(t, "events")
			w.probes = append(w.probes, newFakeProbe(fmt.Sprint(i), events, rapid.Bool().Draw(t, "sampled")))
		}
		fair := w.budget() / float64(len(w.probes))
		w.look()
		for range 20 {
			w.look()
		}
		if w.rate() > w.budget() {
			t.Errorf("%v s a second, the budget is %v", w.rate(), w.budget())
		}
		for _, p := range w.probes {
			if cheap := p.events*p.full <= fair; cheap && (p.shift > 0 || p.detached) {
				t.Errorf("%s takes %v s a second, its share is %v, and it is throttled: %+v",
					p.cost.Name, p.events*p.full, fair, p.cost.Throttle)
			}
		}
	})
}

// Without a budget nothing happens, and what a probe cost before its runs were measured is no load of the last period.
func TestGovernorWaitsForFigures(t *testing.T) {
	p := newFakeProbe("a", 1e3, true)
	p.cost.Known = false
	w := newWorld(p)
	p.cost.Known, p.cost.Seconds = true, 100
	for range 3 {
		if w.look() {
			t.Fatal("it changed something")
		}
	}
	w.governor.share = 0
	p.events = 1e9
	for range 3 {
		if w.look() {
			t.Fatal("without a budget it changed something")
		}
	}
}

func TestCountCPUs(t *testing.T) {
	for list, want := range map[string]int{
		"0": 1, "0-1": 2, "0-3,8": 5, "2,4,6-7": 4, "": 0, "x": 0, "3-1": 0, "0-": 0,
	} {
		if got := countCPUs(list); got != want {
			t.Errorf("%q: got %d, want %d", list, got, want)
		}
	}
}

// A storm of context switches over the budget makes the run-queue probe sample: it costs less then, says so, and its
// counts stand for all switches still.
func TestGovernorInARealStorm(t *testing.T) {
	requireCapabilities(t)
	r := openRunQueue(t, RunQueueOptions{})
	m := NewMeter(1e-6)
	m.period = 100 * time.Millisecond
	defer m.Close()
	m.Watch(r.Watched("runqueue", true))
	stop := startStorm(t)
	defer stop()

	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		cost := m.Costs(nil)[0]
		if cost.Throttle.Detached {
			break // the budget is next to nothing: it is sampled first, then detached
		}
		if time.Now().After(deadline) {
			t.Fatalf("not detached in 30 s: %+v", cost)
		}
	}
	counts := m.Costs(nil)[0].Counts
	if counts.Skipped == 0 {
		t.Errorf("it was detached without sampling first: %+v", counts)
	}
	v := m.Governed("runqueue", r.Verdict("latency/runqueue"))
	if v.State != verdict.Unavailable || !strings.HasPrefix(v.Reason, "detached until ") ||
		!strings.Contains(v.Reason, "of the CPUs, all probes may take 0.0001 %") {
		t.Errorf("verdict %+v", v)
	}
	time.Sleep(50 * time.Millisecond)
	before := r.Counts()
	time.Sleep(50 * time.Millisecond)
	if after := r.Counts(); after.Runs != before.Runs {
		t.Errorf("a detached probe ran %d times", after.Runs-before.Runs)
	}
}

// startStorm makes two threads on one CPU wake each other up until the returned function is called.
func startStorm(tb testing.TB) (stop func()) {
	tb.Helper()
	var there, back [2]int
	if err := errors.Join(unix.Pipe(there[:]), unix.Pipe(back[:])); err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{}, 2)
	var stopped atomic.Bool
	pass := func(from, to int) {
		pin(tb)
		var buf [1]byte
		for !stopped.Load() {
			if n, _ := unix.Read(from, buf[:]); n != 1 {
				break
			}
			_, _ = unix.Write(to, buf[:])
		}
		unix.Close(to) // the other one ends, too
		done <- struct{}{}
	}
	go pass(there[0], back[1])
	go pass(back[0], there[1])
	first, err := unix.Dup(there[1])
	if err != nil {
		tb.Fatal(err)
	}
	_, _ = unix.Write(first, []byte{0})
	unix.Close(first)
	return func() {
		stopped.Store(true)
		<-done
		<-done
		unix.Close(there[0])
		unix.Close(back[0])
	}
}

// BenchmarkSampling reports what a run of the run-queue probe takes by the meter's figures, when it records everything and
// when it records one task of 64. It takes three seconds a round.
func BenchmarkSampling(b *testing.B) {
	r := openRunQueue(b, RunQueueOptions{})
	stop := startStorm(b)
	defer stop()
	cost := func(shift uint32) float64 {
		if err := r.Sample(shift); err != nil {
			b.Fatal(err)
		}
		m := NewMeter(0)
		defer m.Close()
		m.Watch(r.Watched("runqueue", true))
		return awaitKernelMean(b, m).RunSeconds
	}
	var full, sampled []float64
	for b.Loop() {
		all, some := pairtest.Run(func(all bool) float64 {
			if all {
				return cost(0)
			}
			return cost(maxShift)
		})
		full, sampled = append(full, 1e9*all), append(sampled, 1e9*some)
	}
	pairtest.Report(b, full, "ns/run")
	pairtest.Report(b, sampled, "ns/sampled-run")
}
