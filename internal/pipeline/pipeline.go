// Package pipeline runs the collectors in time, takes snapshots of what they recorded and hands these to the
// exporters. It owns all goroutines on the way and all memory that is reused from tick to tick.
//
// Collectors run in lanes: core once before each export and derived after these, burst every 200 ms, slow every minute. Core ticks lie on
// multiples of the interval on the wall clock plus a phase of the host's own, so that the windows of one host agree
// from start to start and thousands of hosts do not export in the same second.
//
// Each collector has a goroutine of its own. A tick waits for the collectors at most a quarter of the interval and at
// most two seconds; one that is slow, failing or hanging delays nobody else, its values keep their age, and its state
// shows in the agent's own metrics (see self.go).
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/exporter"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	// DefaultInterval is the time between core ticks when Options.Interval is 0.
	DefaultInterval = 10 * time.Second
	// shutdownTimeout bounds the last export, the delivery of what is queued and the closing of the collectors.
	shutdownTimeout = 5 * time.Second
	// maxPatience is the longest a tick waits for its collectors.
	maxPatience = 2 * time.Second
)

// A Collector is an opened source with its place in the schedule.
type Collector struct {
	Name  string
	Lane  collector.Lane
	Group *metric.Group
	collector.Collector
}

// A Destination is an exporter and what it is to get.
type Destination struct {
	Name     string
	Exporter exporter.Exporter
	// Interval is the time between exports. Each goes out with the first core tick in it; 0 and anything up to
	// Options.Interval mean every tick.
	Interval time.Duration
	Classes  []metric.Class // empty: all
	Names    metric.Names   // empty: as declared
	Metrics  []string       // the names of those it gets; empty: all of its classes
}

// Options says what a pipeline runs.
type Options struct {
	Interval time.Duration // between core ticks; 0 means DefaultInterval
	Phase    time.Duration // see PhaseOf
	Registry *metric.Registry

	Collectors   []Collector
	Unavailable  []verdict.Verdict // sources that could not be opened
	Destinations []Destination

	Agent *resource.Resource // describes slid itself
	Log   *slog.Logger
	// Progress, if not nil, is called after each core tick and every few seconds between, from the goroutine that
	// ticks: when the calls cease, the pipeline hangs.
	Progress func()
}

// A Pipeline collects and exports. Either Run drives it, or Start, Collect, Tick and Shutdown, called from one goroutine.
// Only Verdicts may be called from others.
type Pipeline struct {
	opts     Options
	log      *slog.Logger
	clock    func() time.Time
	patience time.Duration
	timer    *time.Timer // of await

	runners      []*runner
	core         *lane
	derived      []*runner // run after the core lane
	background   []*lane   // burst and slow, where they have collectors
	destinations []*destination
	self         *self

	stopCollectors context.CancelFunc
	stopLanes      context.CancelFunc
	lanes          sync.WaitGroup
}

// destination is a Destination at work.
type destination struct {
	Destination
	schedule schedule // interval 0: due at every tick
	last     int64    // the index in the schedule of the last export
	snapshot *metric.Snapshot
	failing  bool // the last export failed
}

// New returns a pipeline that has not started. It takes over the collectors and exporters: Shutdown closes them.
// Groups of the registry made after this call have no slid.series metrics.
func New(o Options) *Pipeline {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	p := &Pipeline{
		opts:     o,
		log:      o.Log,
		clock:    time.Now,
		patience: min(o.Interval/4, maxPatience),
		timer:    time.NewTimer(0),
	}
	<-p.timer.C
	for _, c := range o.Collectors {
		p.runners = append(p.runners, newRunner(c, o.Log))
	}
	p.self = newSelf(o.Registry, o.Agent, p.runners, p.clock())
	p.core = p.newLane(collector.Core, o.Interval)
	p.core.progress = o.Progress
	for _, r := range p.runners {
		if r.Lane == collector.Derived {
			p.derived = append(p.derived, r)
		}
	}
	for _, l := range []*lane{p.newLane(collector.Burst, collector.BurstPeriod), p.newLane(collector.Slow, slowPeriod)} {
		if len(l.runners) > 0 {
			l.tick = l.start
			p.background = append(p.background, l)
		}
	}
	for _, d := range o.Destinations {
		p.destinations = append(p.destinations, p.newDestination(d))
	}
	return p
}

func (p *Pipeline) newLane(kind collector.Lane, period time.Duration) *lane {
	l := &lane{kind: kind, schedule: newSchedule(period, p.opts.Phase)}
	for _, r := range p.runners {
		if r.Lane == kind {
			l.runners = append(l.runners, r)
		}
	}
	if kind == collector.Core || len(l.runners) > 0 {
		l.missed = p.self.missed(laneName(kind))
	}
	return l
}

func (p *Pipeline) newDestination(d Destination) *destination {
	dest := &destination{Destination: d, last: math.MinInt64}
	dest.snapshot = p.opts.Registry.NewSnapshot(d.Classes...).Named(d.Names).Only(d.Metrics...)
	if d.Interval > p.opts.Interval {
		dest.schedule = newSchedule(d.Interval, p.opts.Phase)
	}
	return dest
}

// Run collects and exports on schedule until ctx ends; then it collects and exports a last time and shuts down. It
// returns what went wrong at shutdown.
func (p *Pipeline) Run(ctx context.Context) error {
	p.Start(ctx)
	// Sources that discover what is there, and the base of every difference, should not wait for the first tick.
	steady := context.WithoutCancel(ctx) // the end comes between ticks
	p.Collect(steady, p.clock())
	p.core.tick = func(now time.Time) { _ = p.Tick(steady, now) } // what failed is logged
	p.core.loop(ctx, p.clock)

	last, cancel := context.WithTimeout(steady, shutdownTimeout)
	defer cancel()
	now := p.clock()
	p.Collect(last, now)
	return errors.Join(p.export(last, now, true), p.Shutdown(last))
}

// Start lets the goroutines of the collectors and of the lanes burst and slow begin. Collectors of the slow lane run
// at once. The end of ctx does not end them; Shutdown does.
func (p *Pipeline) Start(ctx context.Context) {
	ctx, p.stopCollectors = context.WithCancel(context.WithoutCancel(ctx))
	for _, r := range p.runners {
		go r.loop(ctx)
	}
	laneCtx, stop := context.WithCancel(ctx)
	p.stopLanes = stop
	now := p.clock()
	for _, l := range p.background {
		if l.kind == collector.Slow {
			l.start(now)
			p.await(ctx, l.runners)
		}
		p.lanes.Go(func() { l.loop(laneCtx, p.clock) })
	}
}

// Tick collects and exports once. now is the time that the tick stands for. It returns the errors of the exports,
// which are also logged when they begin and end.
func (p *Pipeline) Tick(ctx context.Context, now time.Time) error {
	p.Collect(ctx, now)
	return p.export(ctx, now, false)
}

// Collect runs every core collector that is not busy, waits for them within bounds, does the same with what is derived
// of them, and measures the agent itself. It allocates nothing unless a collector does.
func (p *Pipeline) Collect(ctx context.Context, now time.Time) {
	p.core.start(now)
	p.await(ctx, p.core.runners)
	for _, r := range p.derived {
		r.start(now)
	}
	p.await(ctx, p.derived)
	p.self.collect(now, p.runners, p.opts.Unavailable)
}

// await waits until the runners that were started are done, for as long as patience or ctx allow.
func (p *Pipeline) await(ctx context.Context, runners []*runner) {
	p.timer.Reset(p.patience)
	defer p.timer.Stop()
	for _, r := range runners {
		if !r.awaited {
			continue
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return
		case <-p.timer.C:
			return
		}
	}
}

// due says whether it is the destination's turn, and notes that it had it. A period is entered by the clock going
// forth or back, so no change of the clock can hold exports up.
func (d *destination) due(now time.Time) bool {
	if d.schedule.interval == 0 {
		return true
	}
	i := d.schedule.index(now)
	entered := i != d.last
	d.last = i
	return entered
}

// export takes a snapshot for each destination that is due, or for all, and hands it over.
func (p *Pipeline) export(ctx context.Context, now time.Time, all bool) error {
	var errs []error
	for _, d := range p.destinations {
		if !d.due(now) && !all {
			continue
		}
		d.snapshot.Take(now)
		err := d.Exporter.Export(ctx, d.snapshot)
		if err != nil {
			err = fmt.Errorf("export to %s: %w", d.Name, err)
			errs = append(errs, err)
		}
		p.noteExport(d, err)
	}
	return errors.Join(errs...)
}

func (p *Pipeline) noteExport(d *destination, err error) {
	failing := err != nil
	if failing == d.failing {
		return
	}
	d.failing = failing
	if failing {
		p.log.Warn("export failed", "destination", d.Name, "error", err)
	} else {
		p.log.Info("export works again", "destination", d.Name)
	}
}

// Verdicts returns how every source fares, those included that could not be opened, sorted by name.
func (p *Pipeline) Verdicts() []verdict.Verdict {
	list := slices.Clone(p.opts.Unavailable)
	for _, r := range p.runners {
		list = r.appendVerdicts(list)
	}
	verdict.Sort(list)
	return list
}

// Shutdown ends the lanes, closes the collectors and lets the exporters deliver what they have queued, all until ctx
// ends. What hangs is left behind and named in the error. It is called once, after Start.
func (p *Pipeline) Shutdown(ctx context.Context) error {
	p.stopLanes()
	p.lanes.Wait() // lanes never block
	p.stopCollectors()
	for _, r := range p.runners {
		r.stop()
	}
	errs := []error{p.shutdownExporters(ctx)}
	for _, r := range p.runners {
		errs = append(errs, r.awaitGone(ctx))
	}
	return errors.Join(append(errs, p.self.close())...)
}

// shutdownExporters lets all exporters finish at the same time, so that a dead destination takes none of the time
// of the others.
func (p *Pipeline) shutdownExporters(ctx context.Context) error {
	deliver, cancel := shortened(ctx)
	defer cancel()
	results := make(chan error, len(p.destinations)) // room for all: an exporter that hangs blocks nobody
	for _, d := range p.destinations {
		go func() {
			err := d.Exporter.Shutdown(deliver)
			if err != nil {
				err = fmt.Errorf("shut down export to %s: %w", d.Name, err)
			}
			results <- err
		}()
	}
	var errs []error
	for range p.destinations {
		select {
		case err := <-results:
			errs = append(errs, err)
		case <-ctx.Done():
			return errors.Join(append(errs, errors.New("shut down exports: still busy at the deadline"))...)
		}
	}
	return errors.Join(errs...)
}

// shortened returns a context that ends when nine tenths of the time of ctx are over: what ends by it can still tell.
func shortened(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)*9/10)
}

// awaitGone waits until the collector is closed and returns the error of that, or that it hangs.
func (r *runner) awaitGone(ctx context.Context) error {
	select {
	case <-r.gone:
	default:
		select {
		case <-r.gone:
		case <-ctx.Done():
			return fmt.Errorf("close collector %s: still busy at the deadline", r.Name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closeErr != nil {
		return fmt.Errorf("close collector %s: %w", r.Name, r.closeErr)
	}
	return nil
}
