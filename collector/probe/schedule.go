package probe

import (
	"context"
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"sync"
	"time"
)

// An ask asks the target once. It enters the phases of the timeline as it gets there. nil is a success; a *failure
// says which outcome an error is, for others the phase tells.
type ask func(ctx context.Context, t *timeline) error

// offsetOf returns where in the interval a probe's attempts are: a stable place for each host and probe, so that a
// thousand hosts do not ask a target in one moment.
func offsetOf(hostID, name string, interval time.Duration) time.Duration {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", hostID, name)
	// FNV spreads its last bytes badly over the upper bits; the finisher of MurmurHash3 mends that.
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return time.Duration((x ^ x>>33) % uint64(interval))
}

// overlap returns how many attempts may be under way at once: those that have time left, and one that is being cleared
// away.
func overlap(o Options) int { return int((o.Timeout+o.Interval-1)/o.Interval) + 1 }

// firstAfter returns the first time after now with the offset from the multiples of the interval. It has now's reading
// of the monotonic clock, and so have those that are counted from it: from here on, the wall clock may jump.
func firstAfter(now time.Time, interval, offset time.Duration) time.Time {
	into := time.Duration(now.UnixNano()) % interval
	return now.Add((offset-into+interval-1)%interval + 1)
}

// run starts an attempt at each time that is due until ctx ends.
func (p *prober) run(ctx context.Context, tasks *sync.WaitGroup) {
	due := firstAfter(time.Now(), p.Interval, p.offset)
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		p.start(ctx, due, tasks)
		due = due.Add(p.Interval)
		timer.Reset(time.Until(due))
	}
}

// start starts the attempt that is due, unless there is no room for it or slid comes too late: after a standstill of
// its own, what was due in the meantime would tell of slid and not of the target.
func (p *prober) start(ctx context.Context, due time.Time, tasks *sync.WaitGroup) {
	if time.Since(due) >= p.tolerance() {
		p.miss(missedLate)
		return
	}
	select {
	case p.own <- struct{}{}:
	default:
		p.miss(missedBusy)
		return
	}
	select {
	case p.all <- struct{}{}:
	default:
		<-p.own
		p.miss(missedCrowded)
		return
	}
	tasks.Go(func() {
		defer func() { <-p.all; <-p.own }()
		p.attempt(ctx, due)
	})
}

// tolerance is the delay from which on slid counts as standing still.
func (p *prober) tolerance() time.Duration { return min(p.Interval, p.Timeout) }

func (p *prober) miss(why missed) {
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
	case time.Since(begun) >= p.Timeout+p.tolerance():
		p.miss(missedLate)
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
