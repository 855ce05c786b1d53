package pipeline

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// slowPeriod is the time between two runs of a collector in the slow lane.
const slowPeriod = time.Minute

// heartbeat is the longest a lane sleeps without looking at the clock: it bounds the time in which a changed wall
// clock goes unnoticed, and is how often a waiting pipeline reports progress to a watchdog.
const heartbeat = 5 * time.Second

// PhaseOf returns a duration in [0, interval) that is the same for a host at every start and spreads hosts evenly.
// Give it the longest interval in use: ticks and exports of shorter intervals take the remainder.
func PhaseOf(hostID string, interval time.Duration) time.Duration {
	if interval <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(hostID)) // a hash never fails
	return time.Duration(h.Sum64() % uint64(interval))
}

// A schedule is the series of times k*interval + phase of the wall clock, counted from the Unix epoch.
type schedule struct{ interval, phase time.Duration }

func newSchedule(interval, phase time.Duration) schedule {
	return schedule{interval: interval, phase: phase % interval}
}

// index returns the number of the last time in the schedule that is not after t.
func (s schedule) index(t time.Time) int64 {
	return (t.UnixNano() - int64(s.phase)) / int64(s.interval)
}

// after returns the first time in the schedule after t.
func (s schedule) after(t time.Time) time.Time {
	return time.Unix(0, (s.index(t)+1)*int64(s.interval)+int64(s.phase))
}

// missed returns how many times of the schedule lie after planned and before next.
func (s schedule) missed(planned, next time.Time) int64 {
	return max(int64(next.Sub(planned)/s.interval)-1, 0)
}

// A lane calls its tick function on schedule. One goroutine runs it.
type lane struct {
	kind     collector.Lane
	schedule schedule
	runners  []*runner
	missed   *metric.Int
	tick     func(now time.Time)
	progress func() // called after each tick and at each heartbeat between; may be nil
}

// loop ticks until ctx ends. The clock gives wall time; timers run on the monotonic clock, so that a wall clock set
// back delays a tick by at most one interval. One set forward makes the next tick come at once; the times jumped
// over count as missed, and so do those that a stopped process or a slow tick let pass.
func (l *lane) loop(ctx context.Context, clock func() time.Time) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	planned := l.schedule.after(clock())
	for {
		wait := planned.Sub(clock())
		if wait > l.schedule.interval { // the wall clock went back
			planned = l.schedule.after(clock())
			wait = planned.Sub(clock())
		}
		timer.Reset(min(wait, heartbeat))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if now := clock(); !now.Before(planned) {
			l.tick(now)
			planned = l.advance(planned, clock())
		}
		if l.progress != nil {
			l.progress()
		}
	}
}

// advance returns the time to wait for after the tick planned for the given time is done, and counts those missed.
func (l *lane) advance(planned, now time.Time) time.Time {
	next := l.schedule.after(now)
	l.missed.Add(l.schedule.missed(planned, next))
	return next
}

// start gives every collector of the lane that is not busy the order to collect.
func (l *lane) start(now time.Time) {
	for _, r := range l.runners {
		r.start(now)
	}
}

func laneName(l collector.Lane) string {
	switch l {
	case collector.Burst:
		return "burst"
	case collector.Slow:
		return "slow"
	default:
		return "core"
	}
}
