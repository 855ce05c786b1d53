package bpf

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// governPeriod is how often the governor looks at what probes cost. It is one look in each probe's counters.
	governPeriod = 5 * time.Second
	// maxShift is the most that a probe samples: one of 64 events. Beyond that its way in costs more than its work.
	maxShift = 6
	// governCalm is how many looks in a row must find room before a probe may have more of it.
	governCalm = 6
	// governRest and governRestMax are how long a detached probe stays so: longer each time.
	governRest, governRestMax = 5 * time.Minute, 80 * time.Minute
)

// Throttle is what the governor did to a probe.
type Throttle struct {
	Share    float64 // of the CPUs that the probe takes lately, 0 to 1
	Shift    uint32  // one of 2^Shift events is recorded
	Detached bool    // it records nothing
	Reason   string  // in words; "" if it records everything
}

// Recorded returns the share of events that the probe records.
func (t Throttle) Recorded() float64 {
	if t.Detached {
		return 0
	}
	return math.Ldexp(1, -int(t.Shift))
}

// A governor holds probes to a budget of kernel time. It is a state machine without a clock or a kernel of its own.
type governor struct {
	share float64 // of the CPUs that all probes together may take, 0 to 1; 0: no limit
	cpus  int     // that are on
	last  time.Time
	calm  int // looks in a row that found room
}

// governed is what the governor remembers of a probe.
type governed struct {
	known   bool    // what a run takes was known when last looked at
	seconds float64 // of kernel time at that look
	rate    float64 // CPU seconds a second since then
	rest    time.Duration
	until   time.Time // when a detached probe may try again
}

// govern looks at what probes cost and changes what takes too much. It says whether something changed.
func (m *Meter) govern(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*metered
	for _, p := range m.probes {
		p.account(&m.clock)
		if p.Detach != nil {
			list = append(list, p)
		}
	}
	m.governor.cpus = onlineCPUs()
	return m.governor.look(now, list)
}

// look takes the rates since the last look and decides.
func (g *governor) look(now time.Time, list []*metered) bool {
	elapsed := now.Sub(g.last).Seconds()
	first := g.last.IsZero()
	g.last = now
	total, active := 0.0, 0
	for _, p := range list {
		p.governed.rate = (p.cost.Seconds - p.governed.seconds) / elapsed
		if !p.governed.known {
			p.governed.rate = 0 // the seconds are those of its whole life
		}
		p.governed.known, p.governed.seconds = p.cost.Known, p.cost.Seconds
		p.cost.Throttle.Share = p.governed.rate / float64(g.cpus)
		total += p.governed.rate
		if !p.cost.Throttle.Detached {
			active++
		}
	}
	budget := g.share * float64(g.cpus)
	if first || budget <= 0 {
		return false
	}
	if total > budget {
		g.calm = 0
		return g.tighten(now, list, budget/float64(active))
	}
	if total > budget/2 {
		g.calm = 0
	} else {
		g.calm++
	}
	changed := g.calm >= governCalm && g.relax(now, list, budget-total)
	if changed {
		g.calm = 0
	}
	for _, p := range list {
		p.redraw()
	}
	return changed
}

// tighten makes the probes cheaper that take more than a fair share.
func (g *governor) tighten(now time.Time, list []*metered, fair float64) (changed bool) {
	for _, p := range list {
		t := &p.cost.Throttle
		if t.Detached || p.governed.rate <= fair {
			continue
		}
		why := fmt.Sprintf("it took %.2g %% of the CPUs, all probes may take %.2g %%", 100*t.Share, 100*g.share)
		if p.Sample == nil || t.Shift >= maxShift {
			p.detach(now, why)
		} else {
			more := uint32(math.Ceil(math.Log2(p.governed.rate / fair)))
			p.sample(min(t.Shift+max(more, 1), maxShift), why)
		}
		changed = true
	}
	return changed
}

// relax gives one probe more room: the one that is throttled most, if the others leave enough.
func (g *governor) relax(now time.Time, list []*metered, room float64) bool {
	var most *metered
	for _, p := range list {
		t := p.cost.Throttle
		switch {
		case t.Detached && now.After(p.governed.until):
			p.attach()
			return true
		case t.Detached || t.Shift == 0 || p.governed.rate > room/2: // it would take twice as much
		case most == nil || t.Shift > most.cost.Throttle.Shift:
			most = p
		}
	}
	if most == nil {
		return false
	}
	most.sample(most.cost.Throttle.Shift-1, "it took too much before, and gets room step by step")
	return true
}

// sample makes a probe record one of 2^shift events.
func (p *metered) sample(shift uint32, why string) {
	t := &p.cost.Throttle
	if err := p.Sample(shift); err != nil {
		p.detach(time.Now(), "it cannot be made to sample: "+err.Error())
		return
	}
	t.Shift, t.Reason = shift, ""
	if shift > 0 {
		t.Reason = fmt.Sprintf("one of %d events is recorded, with that weight: %s", 1<<shift, why)
	}
}

// redraw changes the sample of a probe, so that it is not always the same tasks or sockets that stand for all.
func (p *metered) redraw() {
	if t := p.cost.Throttle; t.Shift > 0 && !t.Detached {
		_ = p.Sample(t.Shift) // if it fails, the sample stays as it is
	}
}

// detach makes a probe record nothing for a while.
func (p *metered) detach(now time.Time, why string) {
	t := &p.cost.Throttle
	p.governed.rest = min(max(2*p.governed.rest, governRest), governRestMax)
	p.governed.until = now.Add(p.governed.rest)
	t.Detached = true
	t.Reason = fmt.Sprintf("detached until %s: %s", p.governed.until.Format("15:04"), why)
	if err := p.Detach(); err != nil {
		t.Reason += "; detaching failed: " + err.Error()
	}
}

// attach lets a detached probe try again, sampling as much as it can.
func (p *metered) attach() {
	t := &p.cost.Throttle
	t.Detached, t.Reason = false, ""
	if p.Sample != nil {
		p.sample(maxShift, "it was detached before, and gets room step by step")
	}
	if t.Detached {
		return // it cannot be made to sample
	}
	if err := p.Attach(); err != nil {
		p.detach(time.Now(), "it cannot be attached again: "+err.Error())
	}
}

// onlineCPUs returns the number of CPUs that are on, at least one.
func onlineCPUs() int {
	list, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 1
	}
	return max(countCPUs(strings.TrimSpace(string(list))), 1)
}

// countCPUs returns the number of CPUs in a list such as 0-3,8 (cpuset(7), "List format"), or 0 if it is none.
func countCPUs(list string) (n int) {
	for part := range strings.SplitSeq(list, ",") {
		low, high, ok := strings.Cut(part, "-")
		if !ok {
			high = low
		}
		first, err1 := strconv.Atoi(low)
		last, err2 := strconv.Atoi(high)
		if err1 != nil || err2 != nil || last < first {
			return 0
		}
		n += last - first + 1
	}
	return n
}
