package probe

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slid-agent/slid/internal/schedule"
)

// An ask asks the target once. It enters the phases of the timeline as it gets there. nil is a success; a *failure
// says which outcome an error is, for others the phase tells.
type ask func(ctx context.Context, t *timeline) error

// overlap returns how many attempts may be under way at once: those that have time left, and one that is being cleared
// away.
func overlap(o Options) int { return int((o.Timeout+o.Interval-1)/o.Interval) + 1 }

// run starts an attempt at each time that is due until ctx ends.
func (p *prober) run(ctx context.Context, tasks *sync.WaitGroup) {
	p.schedule.Run(ctx, tasks, p.attempt, p.miss)
}

func (p *prober) miss(why schedule.Missed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tallies.missed[why]++
}

// attempt asks once. One that is broken off because slid ends is not counted, and one that slid could not end in time,
// since it stood still itself, counts as missed: the answer may have lain there.
func (p *prober) attempt(ctx context.Context, due time.Time) {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	t := newTimeline(due, p.begin())
	err := p.guard(limited, t)
	t.end()
	switch {
	case ctx.Err() != nil:
		return
	case time.Since(begun) >= p.Timeout+p.schedule.Tolerance():
		p.miss(schedule.Late)
		return
	}
	p.note(t, classify(err, t.phase, limited.Err() != nil), err)
}

// guard turns a panic of a library over what a server sent into an outcome: nothing that a server does may end slid.
func (p *prober) guard(ctx context.Context, t *timeline) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("probe panicked: this is a defect of slid, please report it", "error", v, "stack", string(debug.Stack()))
			err = &failure{other, fmt.Errorf("panic: %v", v)}
		}
	}()
	return p.ask(ctx, t)
}

// begin returns the phase in which an attempt begins.
func (p *prober) begin() phase {
	switch {
	case p.named():
		return phaseDNS
	case p.Target.Scheme == "dns" || p.Target.Scheme == "icmp":
		return phaseFirstByte
	}
	return phaseConnect
}
