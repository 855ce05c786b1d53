package probe

import (
	"sync"
	"time"
)

// A phase is a part of an attempt. Phases follow each other in this order; not every kind of probe has all.
type phase uint8

const (
	phaseSchedule  phase = iota // from the time that was due to the start: slid's own delay
	phaseDNS                    // looking up the name of the target
	phaseConnect                // TCP
	phaseTLS                    // the handshake
	phaseFirstByte              // sending the question, until the first byte of the answer
	phaseTransfer               // the rest of the answer
	phases
)

var phaseNames = [phases]string{"schedule", "dns", "connect", "tls", "first_byte", "transfer"}

// A timeline cuts the time of an attempt into phases, which add up to its duration: what is not over when it ends
// belongs to the phase it was in. Libraries call from goroutines of their own, also after the end; that changes nothing.
type timeline struct {
	mu      sync.Mutex // guards the fields below until the end
	phase   phase
	since   time.Time // of the phase
	over    bool
	spent   [phases]time.Duration
	entered [phases]bool
	expiry  time.Time // of the certificate; zero if none was seen
}

// newTimeline begins an attempt that was due at a time, in its first phase.
func newTimeline(due time.Time, first phase) *timeline {
	t := &timeline{phase: phaseSchedule, since: due}
	t.entered[phaseSchedule] = true
	t.enter(first)
	return t
}

// enter ends the present phase and begins another. There is no way back: a second address that is tried, or a second
// part of an answer, does not begin a phase anew.
func (t *timeline) enter(next phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || next <= t.phase {
		return
	}
	t.cut()
	t.phase = next
	t.entered[next] = true
}

// cut gives the time since the last cut to the present phase.
func (t *timeline) cut() {
	now := time.Now()
	t.spent[t.phase] += max(now.Sub(t.since), 0)
	t.since = now
}

// end ends the attempt. After it the fields do not change.
func (t *timeline) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut()
	t.over = true
}

// certificate notes when the target's certificate ends.
func (t *timeline) certificate(expiry time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.expiry = expiry
	}
}

// duration returns the time from when the attempt was due to its end.
func (t *timeline) duration() (sum time.Duration) {
	for _, d := range t.spent {
		sum += d
	}
	return sum
}
