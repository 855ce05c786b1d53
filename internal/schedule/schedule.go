// Package schedule starts attempts to ask somebody at fixed times, whatever became of those before: a server that stalls
// gets the next question in time (docs/adr/0014). It bounds how many are under way at once, and says which were not made.
package schedule

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// Missed is why an attempt that was due was not made. None of the reasons says anything of who should have been asked.
type Missed uint8

// The reasons.
const (
	Late    Missed = iota // slid itself stood still
	Busy                  // too many attempts of the schedule's own were under way
	Crowded               // too many of all that share the slots were
)

// A Schedule says when attempts are due. Its methods may be called concurrently.
type Schedule struct {
	Interval time.Duration // between two attempts
	Timeout  time.Duration // how long one may take
	Offset   time.Duration // of the attempts from the multiples of the interval
	Own      chan struct{} // has a slot for each attempt that may be under way
	All      chan struct{} // likewise, shared with others
}

// Offset returns where in the interval attempts are: a stable place for each host and name, so that a thousand hosts do not
// ask a target in one moment.
func Offset(hostID, name string, interval time.Duration) time.Duration {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", hostID, name)
	// FNV spreads its last bytes badly over the upper bits; the finisher of MurmurHash3 mends that.
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return time.Duration((x ^ x>>33) % uint64(interval))
}

// FirstAfter returns the first time after now with the offset from the multiples of the interval. It has now's reading
// of the monotonic clock, and so have those that are counted from it: from here on, the wall clock may jump.
func FirstAfter(now time.Time, interval, offset time.Duration) time.Time {
	into := time.Duration(now.UnixNano()) % interval
	return now.Add((offset-into+interval-1)%interval + 1)
}

// Run starts an attempt at each time that is due until ctx ends. miss hears of those that are not made.
func (s *Schedule) Run(ctx context.Context, tasks *sync.WaitGroup, attempt func(context.Context, time.Time), miss func(Missed)) {
	due := FirstAfter(time.Now(), s.Interval, s.Offset)
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.Start(ctx, due, tasks, attempt, miss)
		due = due.Add(s.Interval)
		timer.Reset(time.Until(due))
	}
}

// Start starts the attempt that is due, unless there is no room for it or slid comes too late: after a standstill of
// its own, what was due in the meantime would tell of slid and not of the target.
func (s *Schedule) Start(ctx context.Context, due time.Time, tasks *sync.WaitGroup, attempt func(context.Context, time.Time), miss func(Missed)) {
	if time.Since(due) >= s.Tolerance() {
		miss(Late)
		return
	}
	select {
	case s.Own <- struct{}{}:
	default:
		miss(Busy)
		return
	}
	select {
	case s.All <- struct{}{}:
	default:
		<-s.Own
		miss(Crowded)
		return
	}
	tasks.Go(func() {
		defer func() { <-s.All; <-s.Own }()
		attempt(ctx, due)
	})
}

// Tolerance is the delay from which on slid counts as standing still.
func (s *Schedule) Tolerance() time.Duration { return min(s.Interval, s.Timeout) }
