package slo

import (
	"fmt"
	"hash/fnv"
	"time"
)

// A Tracker follows one objective: it takes what its members count and knows how the objective stands. Not safe for
// concurrent use.
type Tracker struct {
	objective Objective
	tracks    []track
	alerts    []Alert
	windows   []time.Duration
}

// A track is a history and what fills it: one for each member, or one for all where slices are judged together.
type track struct {
	slicer  *slicer
	history *History
	target  float64
	weight  float64
}

// NewTracker returns a tracker without a past.
func NewTracker(o Objective) *Tracker {
	t := &Tracker{objective: o, alerts: o.Alerts, windows: BurnWindows()}
	if len(o.Alerts) == 0 {
		t.alerts = StandardAlerts(o.Period(), o.Target)
	}
	newTrack := func(target, weight float64) track {
		return track{
			slicer:  &slicer{method: o.Method, width: o.Slice, target: o.SliceTarget},
			history: NewHistory(o.Period()), target: target, weight: weight,
		}
	}
	if o.Method == Timeslices {
		t.tracks = []track{newTrack(o.Target, 1)}
		return t
	}
	for _, m := range o.Members {
		t.tracks = append(t.tracks, newTrack(m.Target, m.Weight))
	}
	return t
}

// Objective returns what is tracked.
func (t *Tracker) Objective() Objective { return t.objective }

// Slices returns how many slices ended since the tracker was made. They are good or bad by the judgement of Timeslices, and so
// mean something for objectives of that method.
func (t *Tracker) Slices() Slices { return t.tracks[0].slicer.ended }

// Add takes what was counted since the last call for each member, in their order. It ends now.
func (t *Tracker) Add(now time.Time, members []Counts) {
	for i, tr := range t.tracks {
		deltas := members
		if len(t.tracks) > 1 {
			deltas = members[i : i+1]
		}
		c, closed, end := tr.slicer.add(now, deltas)
		tr.history.Add(now, c)
		if closed != (Counts{}) {
			tr.history.put(end, closed)
		}
	}
}

// fingerprint tells whether counts of the past mean the same as those of today: it changes with what is counted, not
// with the target or the period.
func (t *Tracker) fingerprint() uint64 {
	o := t.objective
	h := fnv.New64a()
	fmt.Fprintln(h, o.Method, o.Slice, o.SliceTarget)
	for _, m := range o.Members {
		i := m.Indicator
		fmt.Fprintln(h, i.Select.Service, i.Select.Route, i.Select.Methods, i.Good, i.Exclude)
		switch i.Source() {
		case ScrapeSource:
			fmt.Fprintln(h, i.Scrape)
		case UnitSource:
			fmt.Fprintln(h, i.Unit)
		case ResourceSource:
			fmt.Fprintln(h, i.Resource)
		}
	}
	return h.Sum64()
}
