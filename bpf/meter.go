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
// a run, so it is on for a second only: at the start, some seconds later, then once a minute, and when the governor
// changed something.
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
	// Outcomes says whether the probe tells here what became of its events. Else the numbers below are zero.
	Outcomes  bool
	Recorded  uint64 // counted
	Unmatched uint64 // of unknown length: they began before the probe did
	Discarded uint64 // of impossible length
	Lost      uint64 // without memory or room
	Skipped   uint64 // left out by sampling; the recorded ones have more weight instead
}

// Cost is what one probe takes, summed over its programs.
type Cost struct {
	Name   string
	Counts Counts
	// Known says whether one run was measured yet. Until then the fields below are zero; the runs so far are added
	// to Seconds afterwards.
	Known      bool
	RunSeconds float64 // mean of one run, lately
	Seconds    float64 // estimate for all runs: exact number of runs times the mean of their time

	// Missed is how many runs the kernel left out because a program was running on the CPU already, as of the last
	// measurement. Their events are not counted anywhere else.
	Missed uint64
	Memory uint64 // of its maps in bytes, as of the last measurement

	Governed bool // the governor may change what it records
	Throttle Throttle
}

// Watched is a probe under measurement.
type Watched struct {
	Name     string
	Counts   func() Counts
	Programs []*ebpf.Program // closed only after the probe was taken out again
	Memory   func() uint64   // nil: not known

	// How the governor makes it cheaper; it leaves a probe without Detach alone.
	Sample         func(shift uint32) error // nil: it can only be detached
	Detach, Attach func() error
}

// Watched returns the probe as a Meter takes it. sampled says whether its programs can leave out events.
func (p *Probe) Watched(name string, sampled bool) Watched {
	w := Watched{
		Name: name, Counts: p.Counts, Programs: p.Programs(), Memory: p.Memory, Detach: p.Detach, Attach: p.Attach,
	}
	if sampled {
		w.Sample = p.Sample
	}
	return w
}

// A Meter measures what probes cost the kernel: the mean time of a run, from bpf statistics that are on for a second a
// minute, times the exact number of runs, which the probe counts itself. Statistics need CAP_SYS_ADMIN; without it the
// mean comes from the runs that a program times itself, if it does. What the measuring itself takes is subtracted.
//
// The time is that of the program, and of reading the clock in cold caches, which stands for the way into the program: 10
// to 50 ns. What the program does to the caches of others is not in it.
// A meter with a budget is also the governor: it makes probes that take too much sample or detaches them.
// Its methods may be called concurrently.
type Meter struct {
	start  time.Time
	period time.Duration // of the governor

	mu       sync.Mutex // guards the fields below and what probes points to
	probes   []*metered
	governor governor
	clock    calibration
	refused  error // why the kernel does not measure; nil if it does
	stop     chan struct{}
	done     chan struct{}
}

// metered is a probe under measurement.
type metered struct {
	Watched
	cost Cost

	counted    uint64 // runs that are in cost.Seconds
	timed      Counts // the probe's own timing when last looked at
	statsRuns  uint64 // the kernel's when last looked at
	statsTime  time.Duration
	fromKernel bool // the mean is the kernel's
	governed   governed
}

// NewMeter returns a meter without probes. budget is the share of all CPUs, 0 to 1, that the probes together may take;
// 0 means that they may take what they do.
func NewMeter(budget float64) *Meter {
	return &Meter{start: time.Now(), period: governPeriod, governor: governor{share: budget}}
}

// Start returns when the meter was made.
func (m *Meter) Start() time.Time { return m.start }

// Watch adds a probe. The returned function takes it out again; call it before the probe is closed. The first Watch
// starts the measurements, Close ends them.
func (m *Meter) Watch(w Watched) (unwatch func()) {
	p := &metered{Watched: w, cost: Cost{Name: w.Name, Governed: w.Detach != nil}}
	m.mu.Lock()
	m.probes = append(m.probes, p)
	first := m.stop == nil
	if first {
		m.stop, m.done = make(chan struct{}), make(chan struct{})
		m.clock.open()
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
	if stop == nil {
		return nil
	}
	close(stop)
	<-done
	return m.clock.close()
}

// run measures and governs until stop is closed, for the first time with the given statistics.
func (m *Meter) run(stats io.Closer, stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	pause := meterFirst
	for m.measure(stats, stop) {
		for again := time.Now().Add(pause); time.Now().Before(again); {
			if !wait(min(m.period, time.Until(again)), stop) {
				return
			}
			if m.govern(time.Now()) {
				break // what a run takes is another now
			}
		}
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
	if stats != nil {
		m.clock.measure()
	}
	seen := false
	for _, p := range m.probes {
		seen = p.takeStats(&m.clock, stats != nil) || seen
		if p.Memory != nil {
			p.cost.Memory = p.Memory()
		}
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
func (p *metered) takeStats(clock *calibration, permitted bool) bool {
	var runs, missed uint64
	var spent time.Duration
	for _, program := range p.Programs {
		s, err := program.Stats()
		if err != nil {
			return false // the program is closed
		}
		runs += s.RunCount
		spent += s.Runtime
		missed += s.RecursionMisses
	}
	p.cost.Missed = missed
	dRuns, dTime := runs-p.statsRuns, spent-p.statsTime
	p.statsRuns, p.statsTime = runs, spent
	if dRuns == 0 {
		p.fromKernel = p.fromKernel && permitted
		return false
	}
	p.fromKernel = true
	p.account(clock) // the runs so far cost what they were thought to
	p.setMean(dTime.Seconds()/float64(dRuns), clock.stats)
	return true
}

// Costs appends the cost of each probe to dst. It reads the probes' counts and allocates nothing if dst has room.
func (m *Meter) Costs(dst []Cost) []Cost {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.probes {
		p.account(&m.clock)
		dst = append(dst, p.cost)
	}
	return dst
}

// account adds the runs since the last time to the probe's kernel time.
func (p *metered) account(clock *calibration) {
	c := p.Counts()
	p.cost.Counts = c
	if n := c.TimedRuns - p.timed.TimedRuns; n > 0 && !p.fromKernel {
		p.setMean(float64(c.TimedNS-p.timed.TimedNS)/1e9/float64(n), clock.timed)
	}
	p.timed = c
	if p.cost.Known {
		p.cost.Seconds += float64(c.Runs-p.counted) * p.cost.RunSeconds
		p.counted = c.Runs
	}
}

// leastRun is what a run takes at least: a few instructions.
const leastRun = 2e-9

// setMean takes the mean time of a run, of which measuring took a part.
func (p *metered) setMean(seconds, measuring float64) {
	p.cost.RunSeconds, p.cost.Known = max(seconds-measuring, leastRun), true
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

// Governed returns the verdict on a probe with what the governor did to it, if anything.
func (m *Meter) Governed(name string, v verdict.Verdict) verdict.Verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.probes {
		if p.cost.Name != name || p.cost.Throttle.Reason == "" {
			continue
		}
		v.State = verdict.Degraded
		if v.Reason != "" {
			v.Reason += "; "
		}
		v.Reason += p.cost.Throttle.Reason
		if p.cost.Throttle.Detached {
			v.State = verdict.Unavailable
		}
	}
	return v
}
