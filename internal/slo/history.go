package slo

import (
	"math"
	"time"
)

// An increment is what was counted in one slot. Its counts end at 2^32-1: in an hour that is a million events a second.
type increment struct {
	good, bad, events, missed, excluded uint32
	measured                            uint32 // milliseconds
}

func (i *increment) add(c Counts) {
	for _, f := range []struct {
		to *uint32
		by uint64
	}{
		{&i.good, c.Good},
		{&i.bad, c.Bad},
		{&i.events, c.Events},
		{&i.missed, c.Missed},
		{&i.excluded, c.Excluded},
		{&i.measured, uint64(max(0, c.Measured.Milliseconds()))},
	} {
		*f.to = uint32(min(uint64(*f.to)+min(f.by, math.MaxUint32), math.MaxUint32))
	}
}

// A ring keeps the increments of the last slots of a fixed width, aligned to the clock.
type ring struct {
	width  time.Duration
	slots  []increment
	head   int   // index of the newest slot
	newest int64 // its number: the time since 1970 in widths
}

func newRing(width, span time.Duration) *ring {
	return &ring{width: width, slots: make([]increment, span/width+2), newest: math.MinInt64}
}

// slotOf returns the number of the slot that ends at or after t: what is counted at a tick happened before it.
func (r *ring) slotOf(t time.Time) int64 { return (t.UnixNano() - 1) / int64(r.width) }

// start returns when the slot of a number begins.
func (r *ring) start(number int64) time.Time { return time.Unix(0, number*int64(r.width)) }

// at returns the slot of a number, or nil if it is not kept.
func (r *ring) at(number int64) *increment {
	age := r.newest - number
	if r.newest == math.MinInt64 || age < 0 || age >= int64(len(r.slots)) {
		return nil
	}
	i := r.head - int(age)
	if i < 0 {
		i += len(r.slots)
	}
	return &r.slots[i]
}

// advance makes the slot of a number the newest; those between are empty.
func (r *ring) advance(number int64) {
	if r.newest == math.MinInt64 {
		r.newest = number
		return
	}
	for range min(number-r.newest, int64(len(r.slots))) {
		r.head = (r.head + 1) % len(r.slots)
		r.slots[r.head] = increment{}
	}
	r.newest = max(r.newest, number)
}

// sum adds up the slots of numbers from first to last.
func (r *ring) sum(first, last int64) Counts {
	first, last = max(first, r.newest-int64(len(r.slots))+1), min(last, r.newest)
	if r.newest == math.MinInt64 || first > last {
		return Counts{}
	}
	var c Counts
	i := r.head - int(r.newest-last)
	for range last - first + 1 {
		if i < 0 {
			i += len(r.slots)
		}
		slot := &r.slots[i]
		c.Good += uint64(slot.good)
		c.Bad += uint64(slot.bad)
		c.Events += uint64(slot.events)
		c.Missed += uint64(slot.missed)
		c.Excluded += uint64(slot.excluded)
		c.Measured += time.Duration(slot.measured)
		i--
	}
	c.Measured *= time.Millisecond
	return c
}

// The widths of a history's slots and how far back each goes: narrow for the windows that page, wide for the period.
const (
	narrow, narrowSpan = 30 * time.Second, 70 * time.Minute
	middle, middleSpan = 5 * time.Minute, 73 * time.Hour
	wide               = time.Hour
)

// A History keeps what was counted for one indicator, for a period and not longer, in slots of 30 s for the last hour,
// of 5 min for the last three days and of an hour for the rest: 24 bytes each, 41 KiB for 28 days. It keeps increments,
// never ratios, so any window adds up to exactly what was counted in its slots. Not safe for concurrent use.
type History struct {
	rings []*ring // from narrow to wide; each has every increment of its span
	began time.Time
	last  time.Time // of the last Add
}

// NewHistory returns an empty history of a period.
func NewHistory(period time.Duration) *History {
	// A calendar month has up to 31 of its nominal 30 days.
	return &History{rings: []*ring{
		newRing(narrow, narrowSpan), newRing(middle, middleSpan), newRing(wide, period+period/20),
	}}
}

// Began returns when the first count was added; zero: none was.
func (h *History) Began() time.Time { return h.began }

// stepBack is how far back a clock is set before the history moves along. Less is a clock being disciplined.
const stepBack = time.Minute

// Add adds what was counted since the last call, which ends now.
//
// A clock that is set forward (or a machine that slept) leaves a gap that was not measured. One that is set back moves
// the whole history along, since what was counted just before is just before still; where its slots of different width
// meet, an hour's counts may then be taken twice or left out, once.
func (h *History) Add(now time.Time, c Counts) {
	back := h.last.Sub(now) > stepBack
	if h.began.IsZero() {
		h.began = now.Add(-c.Measured)
	} else if back {
		h.began = h.began.Add(now.Sub(h.last))
	}
	for _, r := range h.rings {
		if back {
			r.newest = r.slotOf(now)
		}
		r.advance(r.slotOf(now))
		r.at(r.newest).add(c)
	}
	h.last = now
}

// put adds what belongs to a time before the last Add, if that is still kept.
func (h *History) put(at time.Time, c Counts) {
	for _, r := range h.rings {
		if slot := r.at(min(r.slotOf(at), r.newest)); slot != nil {
			slot.add(c)
		}
	}
}

// Sum returns what was counted from one time to another, in whole slots: from the one that has from in it.
func (h *History) Sum(from, to time.Time) Counts { return h.sum(h.rings, from, to) }

// sum takes the narrowest slots that are kept for a time, and wider ones for what is before.
func (h *History) sum(rings []*ring, from, to time.Time) Counts {
	r := rings[0]
	first := from.UnixNano() / int64(r.width)
	if len(rings) == 1 {
		return r.sum(first, r.slotOf(to))
	}
	// since is where a slot of the next ring begins and this one is complete from.
	next := rings[1]
	oldest := r.start(r.slotOf(h.last) - int64(len(r.slots)) + 1)
	since := next.start((oldest.UnixNano() + int64(next.width) - 1) / int64(next.width))
	if !from.Before(since) {
		return r.sum(first, r.slotOf(to))
	}
	before := h.sum(rings[1:], from, minTime(since, to))
	if !to.After(since) {
		return before
	}
	return before.Plus(r.sum(since.UnixNano()/int64(r.width), r.slotOf(to)))
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
