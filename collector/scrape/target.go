package scrape

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slid-agent/slid/internal/schedule"
	"github.com/slid-agent/slid/internal/sli"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

// A target is an address that is asked, and the indicators that are counted by its answers.
type target struct {
	url      *url.URL
	shown    string // the address without what may be a secret
	agent    string
	schedule schedule.Schedule
	log      *slog.Logger

	mu         sync.Mutex // guards what follows; nobody waits for a server with it
	indicators []*indicator
	history    chronicle
}

// An indicator is one at work.
type indicator struct {
	name      string
	registers *sli.Registers
	tally     tally
	lost      [reasons]uint64
	problem   error // why the last scrape did not count; nil if it did

	answered, failed int     // scrapes since the last tick
	known            float64 // of the time since the last tick: the least share that an answer told of
}

func newTarget(u *url.URL, agent string, log *slog.Logger, s schedule.Schedule) *target {
	shown := u.Scheme + "://" + u.Host + u.Path // a query may have a token
	log = log.With("address", shown)
	return &target{url: u, shown: shown, agent: agent, schedule: s, log: log, history: chronicle{log: log}}
}

// add adds an indicator. Call it before the first scrape.
func (t *target) add(i slo.Indicator, registers *sli.Registers) {
	t.indicators = append(t.indicators, &indicator{
		name: i.Name, registers: registers, tally: newTally(*i.Scrape), known: 1, problem: errors.New("no answer yet"),
	})
}

// run asks at once, as soon as there is a slot, and then whenever it is due, until ctx ends. At the start all addresses want
// one, and none shall count as missed for that.
func (t *target) run(ctx context.Context, tasks *sync.WaitGroup) {
	select {
	case t.schedule.All <- struct{}{}:
	case <-ctx.Done():
		return
	}
	t.attempt(ctx, time.Now())
	<-t.schedule.All
	t.schedule.Run(ctx, tasks, t.attempt, t.miss)
}

func (t *target) miss(schedule.Missed) {
	t.fail(&failure{missed, errors.New("slid itself did not ask in time")})
}

// attempt asks once. One that is broken off because slid ends is not counted.
func (t *target) attempt(ctx context.Context, _ time.Time) {
	limited, cancel := context.WithTimeout(ctx, t.schedule.Timeout)
	defer cancel()
	begun := time.Now()
	a, err := t.guard(limited)
	switch {
	case ctx.Err() != nil:
	case time.Since(begun) >= t.schedule.Timeout+t.schedule.Tolerance(): // the answer may have lain there
		t.miss(schedule.Late)
	case err != nil:
		t.fail(err)
	default:
		t.take(a, begun)
	}
}

// guard turns a panic of a library over what a server sent into a failure: nothing that a server does may end slid.
func (t *target) guard(ctx context.Context) (a *answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			t.log.Error("scrape panicked: this is a defect of slid, please report it", "error", v, "stack", string(debug.Stack()))
			err = failed(protocol, "panic: %v", v)
		}
	}()
	return t.fetch(ctx)
}

// fail notes that there is no answer.
func (t *target) fail(err error) {
	why := protocol
	if f, ok := errors.AsType[*failure](err); ok {
		why = f.reason
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.indicators {
		i.lose(why, 1, err)
		i.failed++
	}
	t.history.note(err)
}

// lose counts what is lost.
func (i *indicator) lose(why reason, events uint64, err error) {
	i.lost[why] += events
	i.problem = err
}

// take counts by an answer, which was asked for at the given time.
func (t *target) take(a *answer, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var first error
	for _, i := range t.indicators {
		i.take(a, at)
		if first == nil {
			first = i.problem
		}
	}
	t.history.note(first)
}

func (i *indicator) take(a *answer, at time.Time) {
	r, err := i.tally.take(a, at)
	if f, ok := errors.AsType[*failure](err); ok {
		i.lose(f.reason, max(r.lost, 1), err)
		i.failed++
		return
	}
	i.problem = err // a series that is not there yet
	i.answered++
	if r.began {
		i.lost[restart]++
		i.known = min(i.known, r.known)
	}
}

// store brings what was counted into the registers.
func (t *target) store(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.indicators {
		if c := &i.tally; c.counting {
			i.registers.Begin(c.base)
			good, bad := c.events()
			i.registers.Store(good, bad, c.last)
		}
		for r := range reasons {
			i.registers.StoreLost(int(r), i.lost[r], now)
		}
		if n := i.answered + i.failed; n > 0 {
			i.registers.Cover(float64(i.answered) / float64(n) * i.known)
			i.answered, i.failed, i.known = 0, 0, 1
		}
	}
}

// appendVerdicts adds a row for each indicator that is not counted at present.
func (t *target) appendVerdicts(list []verdict.Verdict) []verdict.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.indicators {
		if i.problem != nil {
			list = append(list, verdict.Verdict{
				Name: Name + "/" + i.name, State: verdict.Unavailable, Hook: t.shown, Reason: fmt.Sprint(i.problem),
			})
		}
	}
	return list
}
