package bpf

import (
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

// When the kernel measures programs. While it does, every program on the host, not slid's alone, reads the clock twice
// a run, so it is on for a second only: at the start, some seconds later, and then once a minute.
const (
	meterOn    = time.Second
	meterFirst = 4 * time.Second
	meterOff   = 59 * time.Second
)

// MeterHook is how the kernel is asked to measure programs (bpf(2)).
const MeterHook = "BPF_ENABLE_STATS"

// Counts is what a probe counts about itself, as totals since it was attached.
type Counts struct {
	Runs uint64 // runs of its programs
	// TimedRuns of them measured their own time, TimedNS nanoseconds in sum.
	TimedRuns, TimedNS uint64
	// Outcomes says whether the probe tells here what became of its events: recorded in the histogram; unmatched, of
	// unknown length; discarded, of impossible length. Else these are zero.
	Outcomes                       bool
	Recorded, Unmatched, Discarded uint64
}

// Cost is the kernel time of one probe, summed over its programs.
type Cost struct {
	Name   string
	Counts Counts
	// Known says whether one run was measured yet. Until then the fields below are zero; the runs so far are added
	// to Seconds afterwards.
	Known      bool
	RunSeconds float64 // mean of one run, lately
	Seconds    float64 // estimate for all runs: exact number of runs times the mean of their time
}

// A Meter measures what probes cost the kernel: the mean time of a run, from bpf statistics that are on for a second a
// minute, times the exact number of runs, which the probe counts itself. Statistics need CAP_SYS_ADMIN; without it the
// mean comes from the runs that a program times itself, if it does.
//
// The time is that of the program alone: it excludes the way into it, some 10 to 50 ns, and what it does to caches.
// Its methods may be called concurrently.
type Meter struct {
	start time.Time

	mu      sync.Mutex // guards the fields below and what probes points to
	probes  []*metered
	refused error // why the kernel does not measure; nil if it does
	stop    chan struct{}
	done    chan struct{}
}

// metered is a probe under measurement.
type metered struct {
	counts   func() Counts
	programs []*ebpf.Program
	cost     Cost

	counted    uint64 // runs that are in cost.Seconds
	timed      Counts // the probe's own timing when last looked at
	statsRuns  uint64 // the kernel's when last looked at
	statsTime  time.Duration
	fromKernel bool // the mean is the kernel's
}

// NewMeter returns a meter without probes.
func NewMeter() *Meter { return &Meter{start: time.Now()} }

// Start returns when the meter was made.
func (m *Meter) Start() time.Time { return m.start }

// Watch adds a probe that counts its runs: programs may be several, counts tells of them all. The returned function
// takes the probe out again; call it before the programs are closed. The first Watch starts the measurements, Close ends
// them.
func (m *Meter) Watch(name string, counts func() Counts, programs ...*ebpf.Program) (unwatch func()) {
	p := &metered{counts: counts, programs: programs, cost: Cost{Name: name}}
	m.mu.Lock()
	m.probes = append(m.probes, p)
	first := m.stop == nil
	if first {
		m.stop, m.done = make(chan struct{}), make(chan struct{})
	}
	stop, done := m.stop, m.done
	m.mu.Unlock()
	if first {
		go m.run(m.begin(), stop, done)
	}
	return func() { m.unwatch(p) }
}

func (m *Meter) unwatch(p *metered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, q := range m.probes {
		if p == q {
			m.probes = append(m.probes[:i], m.probes[i+1:]...)
			return
		}
	}
}

// Close ends the measurements.
func (m *Meter) Close() error {
	m.mu.Lock()
	stop, done := m.stop, m.done
	m.stop, m.done = nil, nil
	m.mu.Unlock()
	if stop != nil {
		close(stop)
		<-done
	}
	return nil
}

// run measures until stop is closed, for the first time with the given statistics.
func (m *Meter) run(stats io.Closer, stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	pause := meterFirst
	for m.measure(stats, stop) && wait(pause, stop) {
		stats, pause = m.begin(), meterOff
	}
}

// begin makes the kernel measure all programs until the returned value is closed. It needs CAP_SYS_ADMIN and Linux
// 5.8; else it returns nil and the meter remembers why.
func (m *Meter) begin() io.Closer {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = err
	if err != nil {
		return nil
	}
	return stats
}

// wait returns true after d, false when stop is closed before.
func wait(d time.Duration, stop <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}

// measure takes the means of all probes after a while, and ends stats. It returns false when stop was closed meanwhile.
func (m *Meter) measure(stats io.Closer, stop <-chan struct{}) bool {
	goOn := wait(meterOn, stop)
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := false
	for _, p := range m.probes {
		seen = p.takeStats(stats != nil) || seen
	}
	if stats != nil {
		_ = stats.Close() // closing the descriptor of statistics cannot fail
	}
	if seen { // without permission of our own, someone else may have them on: kernel.bpf_stats_enabled
		m.refused = nil
	}
	return goOn
}

// takeStats takes the mean run time from the kernel's statistics, and says whether it measured any run since the last
// time. permitted says that it measures whenever the program runs.
func (p *metered) takeStats(permitted bool) bool {
	var runs uint64
	var spent time.Duration
	for _, program := range p.programs {
		s, err := program.Stats()
		if err != nil {
			return false // the program is closed
		}
		runs += s.RunCount
		spent += s.Runtime
	}
	dRuns, dTime := runs-p.statsRuns, spent-p.statsTime
	p.statsRuns, p.statsTime = runs, spent
	if dRuns == 0 {
		p.fromKernel = p.fromKernel && permitted
		return false
	}
	p.fromKernel = true
	p.account() // the runs so far cost what they were thought to
	p.setMean(dTime.Seconds() / float64(dRuns))
	return true
}

// Costs appends the cost of each probe to dst. It reads the probes' counts and allocates nothing if dst has room.
func (m *Meter) Costs(dst []Cost) []Cost {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.probes {
		p.account()
		dst = append(dst, p.cost)
	}
	return dst
}

// account adds the runs since the last time to the probe's kernel time.
func (p *metered) account() {
	c := p.counts()
	p.cost.Counts = c
	if n := c.TimedRuns - p.timed.TimedRuns; n > 0 && !p.fromKernel {
		p.setMean(float64(c.TimedNS-p.timed.TimedNS) / 1e9 / float64(n))
	}
	p.timed = c
	if p.cost.Known {
		p.cost.Seconds += float64(c.Runs-p.counted) * p.cost.RunSeconds
		p.counted = c.Runs
	}
}

func (p *metered) setMean(seconds float64) {
	p.cost.RunSeconds, p.cost.Known = seconds, true
}

// Verdict says how kernel time is measured.
func (m *Meter) Verdict(name string) verdict.Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := verdict.Verdict{Name: name, State: verdict.Active, Hook: MeterHook}
	switch {
	case m.refused == nil:
		return v
	case errors.Is(m.refused, unix.EPERM):
		v.Reason, v.Missing = "bpf statistics are not permitted", capSysAdmin.String()
	default:
		v.Reason = "bpf statistics do not work: " + errnoOf(m.refused).Error()
	}
	v.State = verdict.Degraded
	v.Reason += "; kernel time is estimated from the few runs that probes time themselves" + m.unknown()
	return v
}

// unknown names the probes without a measured run.
func (m *Meter) unknown() string {
	var names []string
	for _, p := range m.probes {
		if !p.cost.Known {
			names = append(names, p.cost.Name)
		}
	}
	if names == nil {
		return ""
	}
	return ", and unknown for " + strings.Join(names, ", ")
}
