// Package budget evaluates the objectives of the configuration by what other collectors count: how fast each one's error
// budget burns on this host, and what is left of it.
package budget

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	// Name is the collector's.
	Name = "slo/objectives"
	// saveEvery is the time between two writings of the state file: a crash loses as much of the past.
	saveEvery = 5 * time.Minute
	// stateName is the state file's name in its folder.
	stateName = "slo.state"
)

// Objectives evaluates the objectives of the configuration: it reads the counters of good and bad events
// (sli.events, whoever counts them) after all others have collected, keeps their growth for the period of each
// objective and says how the budget stands on this host. The service's budget is the centre's to tell, of the counters
// of all hosts: the metrics named local must not be averaged. An objective costs 41 KiB and 20 us a tick.
// It implements collector.Collector.
type Objectives struct {
	env      collector.Env
	families objectiveFamilies
	reader   reader
	elapsed  func() time.Duration // since the start, by a clock that does not jump

	mu       sync.Mutex // guards the fields below; nobody waits for a disk with it
	followed []*followed
	now      time.Time // of the last collection
	state    state
}

// state is how the histories are kept on disk.
type state struct {
	path    string // empty: they are not kept
	wanted  bool   // somebody wants them to be kept
	saved   time.Time
	writing chan error // receives the end of a writing that goes on; nil: none does
	err     error      // of the last one
}

// NewObjectives begins without a past; slid run keeps it in $STATE_DIRECTORY, where that is set. It is unavailable where
// the configuration has no objectives.
func NewObjectives(env collector.Env, list []slo.Objective) (collector.Collector, error) {
	return newObjectives(env, list)
}

func newObjectives(env collector.Env, list []slo.Objective) (*Objectives, error) {
	if len(list) == 0 {
		return nil, &verdict.UnavailableError{Reason: "the configuration has no objectives"}
	}
	started := time.Now()
	o := &Objectives{
		env: env, families: declareObjectives(env.Metrics),
		elapsed: func() time.Duration { return time.Since(started) },
	}
	for _, objective := range list {
		o.followed = append(o.followed, &followed{tracker: slo.NewTracker(objective)})
	}
	o.reader = newReader(env.Metrics, o.followed, started)
	return o, nil
}

// Keep makes the histories last: they are read from a file in the folder, written there every few minutes and at the
// end. An empty folder means that there is none, which is a pity and said so. Call it before the first Collect.
func (o *Objectives) Keep(folder string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state.wanted = true
	if folder == "" {
		return
	}
	o.state.path = filepath.Join(folder, stateName)
	now := time.Now()
	o.state.saved = now
	if err := slo.Tidy(o.state.path); err != nil {
		o.env.Log.Warn("half-written state files remain", "error", err)
	}
	forgotten, err := slo.Load(o.state.path, o.trackers(), now)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		o.env.Log.Info("objectives begin without a past", "file", o.state.path)
	case err != nil:
		o.env.Log.Warn("the past of the objectives cannot be used", "error", err)
	}
	for _, name := range forgotten {
		o.env.Log.Warn("an objective begins without a past: its definition has changed", "objective", name)
	}
}

func (o *Objectives) trackers() []*slo.Tracker {
	list := make([]*slo.Tracker, len(o.followed))
	for i, f := range o.followed {
		list[i] = f.tracker
	}
	return list
}

// Collect takes the growth of the counters and evaluates every objective. It allocates nothing unless series come or go
// or the state is written.
func (o *Objectives) Collect(_ context.Context, now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = now
	if o.reader.read(now, o.elapsed()) {
		for _, f := range o.followed {
			f.settle(o, now)
		}
	}
	for _, f := range o.followed {
		f.evaluate(now)
	}
	o.save(now)
	return nil
}

// save begins to write the state if it is time, and notes the end of the last writing. A disk that hangs costs a
// goroutine and nothing else: what is measured goes on.
func (o *Objectives) save(now time.Time) {
	s := &o.state
	if s.writing != nil {
		select {
		case err := <-s.writing:
			if err != nil && s.err == nil {
				o.env.Log.Warn("objectives cannot be kept", "error", err)
			}
			s.writing, s.err = nil, err
		default:
			return
		}
	}
	if s.path == "" || now.Sub(s.saved).Abs() < saveEvery {
		return
	}
	s.saved = now
	path, data, done := s.path, slo.Encode(o.trackers()), make(chan error, 1)
	s.writing = done
	go func() { done <- slo.Store(path, data) }()
}

// Verdicts says how many objectives there are and where their past is kept.
func (o *Objectives) Verdicts() []verdict.Verdict {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := verdict.Verdict{
		Name: Name, State: verdict.Active, Hook: fmt.Sprintf("%d from the counters %s", len(o.followed), eventsName),
	}
	switch {
	case o.state.path != "":
		v.Hook += ", kept in " + o.state.path
	case o.state.wanted:
		v.State, v.Missing = verdict.Degraded, "a state directory ($STATE_DIRECTORY, of systemd's StateDirectory=)"
		v.Reason = "what is left of the budgets is forgotten when slid ends"
	}
	if o.state.err != nil {
		v.State, v.Reason = verdict.Degraded, "what is left of the budgets cannot be kept: "+o.state.err.Error()
	}
	return []verdict.Verdict{v}
}

// Close writes the state a last time.
func (o *Objectives) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state.writing != nil {
		o.state.err = <-o.state.writing // the older one must not replace what follows
	}
	if o.state.path == "" {
		return nil
	}
	return slo.Save(o.state.path, o.trackers())
}

// A Standing is how an objective stands.
type Standing struct {
	Objective slo.Objective
	Status    slo.Status
	At        time.Time // of the evaluation
	// Sources is how many series of good and bad events the objective is measured by.
	Sources int
}

// Standings says how every objective stood at the last collection, in the order of the configuration; nothing before the
// first. Any goroutine may call it.
func (o *Objectives) Standings() []Standing {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now.IsZero() {
		return nil
	}
	list := make([]Standing, len(o.followed))
	for i, f := range o.followed {
		list[i] = Standing{Objective: f.tracker.Objective(), Status: f.tracker.Status(o.now), At: o.now, Sources: f.sources()}
	}
	return list
}

// followed is an objective at work.
type followed struct {
	tracker    *slo.Tracker
	indicators []*indicator // of its members
	counts     []slo.Counts // of this tick, by member
	status     slo.Status

	entity   *metric.Entity
	resource *resource.Resource
	gauges   objectiveGauges
}

// sources returns the number of series of the objective's events.
func (f *followed) sources() (n int) {
	for _, i := range f.indicators {
		n += i.sources
	}
	return n
}

// evaluate gives the tracker what was counted, unless nothing was measured, and stores how the objective stands.
func (f *followed) evaluate(now time.Time) {
	measured := false
	for i, of := range f.indicators {
		f.counts[i] = of.counts
		measured = measured || of.counts != slo.Counts{}
	}
	if measured {
		f.tracker.Add(now, f.counts)
	}
	f.tracker.Update(now, &f.status)
	f.gauges.store(&f.status)
	f.gauges.storeSlices(f.tracker.Slices(), now)
}

// settle puts the metrics of the objective on the resource of the service, once that is known, or on one made up of its
// name. A service that comes or goes makes them move.
func (f *followed) settle(o *Objectives, now time.Time) {
	res := o.reader.resources[f.tracker.Objective().Service]
	if res == nil {
		res = cgroup.Service{Name: f.tracker.Objective().Service}.Resource(o.env.Host)
	}
	if f.resource != nil && f.resource.Equivalent() == res.Equivalent() {
		return
	}
	if f.entity != nil {
		f.entity.Remove()
	}
	f.resource, f.entity = res, o.env.Metrics.Entity(res, now)
	f.gauges = o.families.of(f.entity, f.tracker.Objective())
}
