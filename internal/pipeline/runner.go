package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slid-agent/slid/internal/verdict"
)

// verdictPeriod is the shortest time between two questions for a collector's verdicts: they change seldom, and the
// burst lane should not ask five times a second.
const verdictPeriod = time.Second

// A runner owns one collector. Its goroutine makes all calls of the collector, so none overlap, and nobody else
// waits longer than they choose when the collector hangs.
type runner struct {
	Collector
	log  *slog.Logger
	work chan time.Time // capacity 1, so that start never blocks
	done chan struct{}  // capacity 1: the last run has ended
	gone chan struct{}  // closed when the collector is closed and the goroutine has ended

	awaited bool // the last start was obeyed; only the goroutine of the lane touches it

	mu    sync.Mutex // guards the fields below
	state state
	// verdicts is what the collector said last, at the time asked.
	verdicts []verdict.Verdict
	asked    time.Time
	closeErr error
}

// state is how a collector fares.
type state struct {
	busy     bool
	since    time.Time     // of the last start
	overdue  bool          // it was still busy when it should have started again
	duration time.Duration // of the last finished run
	err      error         // of the last finished run
	failures uint64
	skipped  uint64
}

// fresh says whether the registers of the collector hold what it should have read last.
func (s state) fresh() bool { return s.err == nil && !s.busy }

func newRunner(c Collector, log *slog.Logger) *runner {
	return &runner{
		Collector: c,
		log:       log.With("collector", c.Name),
		work:      make(chan time.Time, 1),
		done:      make(chan struct{}, 1),
		gone:      make(chan struct{}),
		verdicts:  c.Verdicts(),
	}
}

// loop collects on demand until stop, then closes the collector.
func (r *runner) loop(ctx context.Context) {
	defer close(r.gone)
	for now := range r.work {
		r.run(ctx, now)
	}
	err := guard(r.Close)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeErr = err
}

// start orders a run for the tick at now and notes whether it was obeyed: a collector that is still busy with an
// earlier one is skipped.
func (r *runner) start(now time.Time) {
	r.mu.Lock()
	busy, since, news := r.state.busy, r.state.since, false
	if busy {
		r.state.skipped++
		news = !r.state.overdue
		r.state.overdue = true
	} else {
		r.state.busy = true
		r.state.since = time.Now()
		select { // forget the end of a run that nobody waited for
		case <-r.done:
		default:
		}
		r.work <- now
	}
	r.mu.Unlock()

	r.awaited = !busy
	if news {
		r.log.Warn("collector is still busy with its last run: skipping it", "since", since)
	}
}

// stop lets the goroutine end after the run it is in. No start may follow.
func (r *runner) stop() { close(r.work) }

// run collects once and notes how it went.
func (r *runner) run(ctx context.Context, now time.Time) {
	begun := time.Now()
	err := guard(func() error { return r.Collect(ctx, now) })
	if err == nil {
		r.Group.Collected(now)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // told to stop
	}
	r.askVerdicts(begun)
	r.finish(time.Since(begun), err)
}

// askVerdicts asks the collector how it fares, if the last answer is old.
func (r *runner) askVerdicts(now time.Time) {
	if now.Sub(r.asked) < verdictPeriod {
		return
	}
	r.asked = now
	_ = guard(func() error { // on a panic the last answer stands
		list := r.Verdicts()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.verdicts = list
		return nil
	})
}

// finish stores the outcome of a run and logs when it differs from that of the run before.
func (r *runner) finish(took time.Duration, err error) {
	r.mu.Lock()
	before := r.state
	r.state.busy, r.state.overdue = false, false
	r.state.duration, r.state.err = took, err
	if err != nil {
		r.state.failures++
	}
	r.done <- struct{}{} // never blocks: start has emptied it
	r.mu.Unlock()

	switch {
	case err != nil && before.err == nil:
		r.logFailure(err)
	case err == nil && (before.err != nil || before.overdue):
		r.log.Info("collector works again", "duration", took)
	}
}

func (r *runner) logFailure(err error) {
	if p, ok := errors.AsType[*panicError](err); ok {
		r.log.Error("collector panicked: this is a defect of slid, please report it", "error", err, "stack", string(p.stack))
		return
	}
	r.log.Warn("collector failed", "error", err)
}

// status returns how the collector fares. While it is busy, its duration is at least the time the run has taken.
func (r *runner) status() state {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	if s.busy {
		s.duration = max(s.duration, time.Since(s.since))
	}
	return s
}

// appendVerdicts appends the collector's last verdicts to dst. Those that call an erring or hanging collector active
// are corrected.
func (r *runner) appendVerdicts(dst []verdict.Verdict) []verdict.Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.verdicts {
		if v.State == verdict.Active {
			switch {
			case r.state.overdue:
				v.State, v.Reason = verdict.Degraded, "does not answer; its values are old"
			case r.state.err != nil:
				v.State, v.Reason = verdict.Degraded, "last run failed: "+r.state.err.Error()
			}
		}
		dst = append(dst, v)
	}
	return dst
}

// A panicError is a panic of a collector.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// guard calls f and turns a panic into an error.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return f()
}
