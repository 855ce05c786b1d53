package bpf

import (
	"math"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/slid-agent/slid/internal/verdict"
)

// A mean applies to all runs before it that no earlier one applied to.
func TestMeterAccounts(t *testing.T) {
	var c Counts
	p := &metered{Watched: Watched{Counts: func() Counts { return c }}}
	var clock calibration
	step := func(counts Counts, wantKnown bool, wantSeconds float64) {
		t.Helper()
		c = counts
		p.account(&clock)
		if p.cost.Known != wantKnown || math.Abs(p.cost.Seconds-wantSeconds) > 1e-12 {
			t.Errorf("%+v: got %+v, want known %v and %v s", counts, p.cost, wantKnown, wantSeconds)
		}
	}
	step(Counts{Runs: 1000}, false, 0)
	step(Counts{Runs: 2000, TimedRuns: 2, TimedNS: 200}, true, 2000*100e-9)
	step(Counts{Runs: 3000, TimedRuns: 2, TimedNS: 200}, true, 3000*100e-9)
	step(Counts{Runs: 4000, TimedRuns: 4, TimedNS: 800}, true, 3000*100e-9+1000*300e-9)

	p.fromKernel = true
	p.setMean(80e-9, 30e-9)
	step(Counts{Runs: 5000, TimedRuns: 9, TimedNS: 9e9}, true, 3000*100e-9+1000*300e-9+1000*50e-9)
}

// The meter's figures for the run-queue probe come from the kernel where that is permitted.
func TestMeterMeasures(t *testing.T) {
	defer goleak.VerifyNone(t)
	if have, err := effective(); err != nil || !have.has(capSysAdmin) {
		t.Skip("bpf statistics need CAP_SYS_ADMIN")
	}
	r := openRunQueue(t, RunQueueOptions{})
	m := NewMeter(0)
	defer m.Close()
	unwatch := m.Watch(r.Watched("runqueue", true))
	c := awaitKernelMean(t, m)
	if c.RunSeconds <= 0 || c.RunSeconds > 1e-3 || c.Seconds <= 0 || c.Counts.Runs == 0 {
		t.Errorf("implausible cost %+v", c)
	}
	if got, want := c.Seconds/float64(c.Counts.Runs), c.RunSeconds; got > 100*want || want > 100*got {
		t.Errorf("%v s a run in all, %v s lately", got, want)
	}
	if v := m.Verdict("latency/cost"); v.State != verdict.Active {
		t.Errorf("got verdict %+v", v)
	}
	t.Logf("%.1f ns a run, %d runs, %.6f s", c.RunSeconds*1e9, c.Counts.Runs, c.Seconds)

	unwatch()
	if costs := m.Costs(nil); len(costs) != 0 {
		t.Errorf("unwatched, but has cost %+v", costs)
	}
}

// awaitKernelMean waits for the first mean by bpf statistics.
func awaitKernelMean(tb testing.TB, m *Meter) Cost {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		m.mu.Lock()
		done := m.probes[0].fromKernel
		m.mu.Unlock()
		if done {
			return m.Costs(nil)[0]
		}
		time.Sleep(20 * time.Millisecond)
	}
	tb.Fatal("no bpf statistics in 20 s")
	return Cost{}
}

// Without CAP_SYS_ADMIN the meter says so, uses what the probe timed itself, and knows nothing of a probe that did not.
func TestMeterWithoutSysAdmin(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := openRunQueue(t, RunQueueOptions{})
	m := NewMeter(0)
	defer m.Close()
	without(t, func() {
		m.Watch(r.Watched("runqueue", true))
		m.Watch(Watched{Name: "silent", Counts: func() Counts { return Counts{Runs: 5} }})
	}, capSysAdmin)

	v := m.Verdict("latency/cost")
	if v.State == verdict.Active {
		t.Skip("bpf statistics are permitted without CAP_SYS_ADMIN")
	}
	if v.State != verdict.Degraded || v.Missing != "CAP_SYS_ADMIN" || !strings.Contains(v.Reason, "not permitted") {
		t.Errorf("got verdict %+v", v)
	}
	awaitTimed(t, r)
	costs := m.Costs(nil)
	if !costs[0].Known || costs[0].RunSeconds <= 0 || costs[0].Seconds <= 0 {
		t.Errorf("run queue, timed by itself: got %+v", costs[0])
	}
	if costs[1].Known || costs[1].Seconds != 0 || costs[1].Counts.Runs != 5 {
		t.Errorf("silent probe: got %+v", costs[1])
	}
	if v := m.Verdict("latency/cost"); !strings.HasSuffix(v.Reason, "unknown for silent") {
		t.Errorf("got verdict %+v", v)
	}
	t.Logf("%.1f ns a run by the probe's own timing", costs[0].RunSeconds*1e9)
}

// awaitTimed waits until the probe has timed a run.
func awaitTimed(t *testing.T, r *RunQueue) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for r.Counts().TimedRuns == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no timed run in 20 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestMeterCostsAllocatesNothing(t *testing.T) {
	m := NewMeter(0)
	defer m.Close()
	m.Watch(Watched{Name: "one", Counts: func() Counts { return Counts{Runs: 1} }})
	m.Watch(Watched{Name: "two", Counts: func() Counts { return Counts{Runs: 2} }})
	costs := make([]Cost, 0, 2)
	if n := testing.AllocsPerRun(100, func() { costs = m.Costs(costs[:0]) }); n != 0 {
		t.Errorf("Costs allocates %v times", n)
	}
}
