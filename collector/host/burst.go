package host

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// burstPeriod is the time between two samples: that of the burst lane. Shorter would not do: /proc/stat counts in
// ticks of 10 ms, and over 100 ms one processor's use is already off by up to a fifth.
const burstPeriod = collector.BurstPeriod

// burstSaturated is the share of a resource from which on it counts as saturated.
const burstSaturated = 0.9

// burstRetry is after how many samples a source that could not be opened is tried again: 5 s.
const burstRetry = 25

// burstLogPeriod is the shortest time between two messages about one source.
const burstLogPeriod = time.Minute

// Burst samples the resources of the host five times a second into histograms, so that what happens inside an
// export interval shows: a processor that is full for 400 ms in 10 s has an average of 4 % and a maximum of 100 %.
// A burst of twice the period or longer always fills one sample; a shorter one may be cut in two.
//
// The distribution of X is called X.distribution and has the unit and the attributes of X, which is a gauge or an
// amount of the semantic conventions (system.cpu.utilization) or in their pattern. Each sample is an average over
// the time that really passed since the one before, so a late sample shows no burst; samples that are missing are
// counted in slid.sample.missed. Sums count from the first sample; they add up over intervals and hosts.
// X.saturated_time is the time in samples above 90 %, exact where a histogram's bucket (9 % wide) is not.
//
// The limit beside each: system.cpu.logical.count for the run queue, system.disk.pending_operations.limit,
// hw.network.bandwidth.limit, system.memory.limit. Shares are of 1.
type Burst struct {
	health
	env     collector.Env
	clock   burstClock
	sources []*burstSource
}

// burstClock is a monotonic clock: the time since some moment. Wall clocks jump.
type burstClock func() time.Duration

// A burstSampler reads one source.
type burstSampler interface {
	// sample reads once and says whether that gave a sample: the first reading, and one after a counter fell,
	// give only a base for the next. now is the tick it belongs to.
	sample(now time.Time) (recorded bool, err error)
	close() error
}

// burstSource is a source with how it fares.
type burstSource struct {
	name    string // cpu
	open    func() (burstSampler, error)
	sampler burstSampler // nil while it cannot be opened
	wait    int          // samples to let pass before it is opened again
	begun   bool
	tried   time.Duration // the end of the last reading
	err     error         // of the last reading
	logged  time.Time
	missed  *metric.Int
}

// NewBurst opens what is sampled. What the machine has not (pressure stall information, disks) is left out; what
// cannot be opened is tried again every few seconds and makes the verdict degraded.
func NewBurst(env collector.Env) (collector.Collector, error) {
	begin := time.Now()
	return newBurst(env, func() time.Duration { return time.Since(begin) })
}

func newBurst(env collector.Env, clock burstClock) (collector.Collector, error) {
	b := &Burst{env: env, clock: clock}
	b.name, b.hook = "host/burst", strings.Join([]string{
		filepath.Join(env.Proc, "stat"), filepath.Join(env.Proc, "meminfo"), filepath.Join(env.Proc, "pressure"),
		filepath.Join(env.Sys, "block"), filepath.Join(env.Sys, "class/net"),
	}, ", ")
	opened := 0
	for _, s := range burstSources(env, clock) {
		s.sampler, s.err = s.open()
		if s.err != nil && strings.HasPrefix(s.name, "pressure/") && burstAbsent(s.err) {
			continue // host/pressure tells
		}
		if s.err == nil {
			opened++
		}
		s.log(env, time.Now(), nil)
		s.wait = burstRetry
		b.sources = append(b.sources, s)
	}
	if opened == 0 {
		return nil, unavailable(b.errors())
	}
	b.declareMissed()
	b.judge()
	return b, nil
}

// burstAbsent says whether an error means that the kernel has no such thing.
func burstAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP)
}

// burstSources returns the list of what is sampled.
func burstSources(env collector.Env, clock burstClock) []*burstSource {
	list := []*burstSource{
		{name: "cpu", open: func() (burstSampler, error) { return openBurst(newBurstCPU(env, clock)) }},
		{name: "memory", open: func() (burstSampler, error) { return openBurst(newBurstMemory(env, clock)) }},
		{name: "disk", open: func() (burstSampler, error) { return openBurst(newBurstDisks(env, clock)) }},
		{name: "network", open: func() (burstSampler, error) { return openBurst(newBurstLinks(env, clock)) }},
	}
	for _, resource := range [...]string{"cpu", "memory", "io", "irq"} {
		list = append(list, &burstSource{name: "pressure/" + resource, open: func() (burstSampler, error) {
			return openBurst(newBurstPressure(env, clock, resource))
		}})
	}
	return list
}

// openBurst makes what a constructor returns a burstSampler, which is nil after an error.
func openBurst[S burstSampler](s S, err error) (burstSampler, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (b *Burst) declareMissed() {
	d := counter("slid.sample.missed", "{sample}", "the schedule of five samples a second",
		"Samples that are missing in the distributions: slid was not given the processor in time, "+
			"or the source could not be read.")
	d.Attributes = []attribute.Key{"slid.source.name"}
	missed, e := b.env.Metrics.Int(d), b.env.Metrics.Entity(b.env.Host, time.Now())
	for _, s := range b.sources {
		s.missed = missed.With(e, attribute.String("slid.source.name", s.name))
	}
}

// Collect implements collector.Collector. A source that fails leaves its distributions as they are, is logged,
// counted as missed and named in the verdict; the others go on. Only when all fail, that is an error.
func (b *Burst) Collect(_ context.Context, now time.Time) error {
	changed, failed := false, 0
	for _, s := range b.sources {
		before := s.err
		s.collect(b.clock, now)
		s.log(b.env, now, before)
		if s.err != nil {
			failed++
		}
		changed = changed || (s.err != nil) != (before != nil)
	}
	if changed {
		b.judge()
	}
	if failed < len(b.sources) {
		return b.collected(nil, true)
	}
	return b.collected(b.errors(), false)
}

// log tells when a source begins to fail, though not more often than once a minute.
func (s *burstSource) log(env collector.Env, now time.Time, before error) {
	if s.err == nil || before != nil || now.Sub(s.logged).Abs() < burstLogPeriod {
		return
	}
	s.logged = now
	env.Log.Warn("cannot sample for a distribution", "source", s.name, "error", s.err)
}

// collect takes one sample and counts those that are missing since the one before. When that came so late that
// this one would be of less than half a period, it waits for the next: over a few ticks of the kernel's clock, use
// is noise.
func (s *burstSource) collect(clock burstClock, now time.Time) {
	if s.begun && clock()-s.tried < burstPeriod/2 {
		return
	}
	recorded, err := s.read(now)
	end := clock()
	if s.begun {
		due := int64((end - s.tried + burstPeriod/2) / burstPeriod)
		if recorded {
			due--
		}
		s.missed.Add(max(due, 0))
	}
	s.begun, s.tried, s.err = true, end, err
}

// read takes a sample, after opening the source if need be.
func (s *burstSource) read(now time.Time) (recorded bool, err error) {
	if s.sampler == nil {
		if s.wait--; s.wait > 0 {
			return false, s.err
		}
		s.wait = burstRetry
		if s.sampler, err = s.open(); err != nil {
			return false, err
		}
	}
	return s.sampler.sample(now)
}

// judge keeps the reason of the verdict up to date.
func (b *Burst) judge() {
	b.reason, b.missing = "", ""
	if err := b.errors(); err != nil {
		b.reason, b.missing = "not everything is sampled: "+oneLine(err), remedy(err)
	}
}

// errors joins what is wrong with the sources at present.
func (b *Burst) errors() error {
	var errs error
	for _, s := range b.sources {
		errs = errors.Join(errs, s.err)
	}
	return errs
}

// Close implements collector.Collector.
func (b *Burst) Close() error {
	var errs error
	for _, s := range b.sources {
		if s.sampler != nil {
			errs = errors.Join(errs, s.sampler.close())
		}
	}
	return errs
}

// burstDistribution returns the declaration of a histogram.
func burstDistribution(name, unit, source, description string, rng metric.Range, keys ...attribute.Key) metric.Desc {
	return metric.Desc{
		Name: name + ".distribution", Unit: unit, Kind: metric.Histogram, Source: source,
		Description: description + " Sampled five times a second.", Range: rng, Attributes: keys,
	}
}

// burstTime returns the declaration of the time in which a share was above burstSaturated.
func burstTime(name, source, description string, keys ...attribute.Key) metric.Desc {
	d := counter(name+".saturated_time", "s", source, description+" By samples taken five times a second.")
	d.Attributes = keys
	return d
}

// burstShares is the range of a share: from a thousandth to all of it.
func burstShares() metric.Range { return metric.Range{MinExp: -10, MaxExp: 0} }

// burstCounts is the range of small whole numbers: 1 to 65,536; 0 is the zero of the histogram.
func burstCounts() metric.Range { return metric.Range{MinExp: -1, MaxExp: 16} }

// burstRates is the range of bytes per second: 1 KiB/s to 128 GiB/s.
func burstRates() metric.Range { return metric.Range{MinExp: 10, MaxExp: 37} }

// A burstShare is a distribution of shares and the time above burstSaturated.
type burstShare struct {
	distribution *metric.Hist
	saturated    *metric.Float
}

// record counts a share that held for the given time. What exceeds 1 comes from rounding of the kernel's clock.
func (s *burstShare) record(share float64, elapsed time.Duration) {
	share = min(share, 1)
	s.distribution.Record(share)
	if share > burstSaturated {
		s.saturated.Add(elapsed.Seconds())
	}
}

// A burstWatch measures the time between two readings of a source.
type burstWatch struct {
	clock   burstClock
	at      time.Duration
	running bool
}

// lap begins a new measurement and returns the time of the one before; ok is false at the first.
func (w *burstWatch) lap() (elapsed time.Duration, ok bool) {
	now := w.clock()
	elapsed, ok = now-w.at, w.running
	w.at, w.running = now, true
	return elapsed, ok && elapsed > 0
}

// burstLine returns the first line of a file that has at least one.
func burstLine(f *procfs.File) ([]byte, error) {
	b, err := f.Read()
	if err != nil {
		return nil, err
	}
	line, _, ok := procfs.Line(b)
	if !ok {
		return nil, parseError(f, procfs.ErrTruncated)
	}
	return line, nil
}
