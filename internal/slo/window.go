package slo

import (
	"fmt"
	"strconv"
	"time"
)

// A Unit is what a span is counted in: the letter of OpenSLO's duration shorthand. Case matters: m is a minute, M a
// month.
type Unit byte

// The units of OpenSLO v1.
const (
	Minute  Unit = 'm'
	Hour    Unit = 'h'
	Day     Unit = 'd'
	Week    Unit = 'w'
	Month   Unit = 'M'
	Quarter Unit = 'Q'
	Year    Unit = 'Y'
)

// A Span is a number of units, e.g. 28d.
type Span struct {
	Count int // positive
	Unit  Unit
}

// maxSpan bounds a span in time: longer than any period that is kept.
const maxSpan = 10 * 366 * 24 * time.Hour

// ParseSpan reads OpenSLO's duration shorthand. ok tells whether it is one, and not longer than ten years.
func ParseSpan(s string) (span Span, ok bool) {
	if s == "" {
		return Span{}, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 24)
	span = Span{int(n), Unit(s[len(s)-1])}
	if err != nil || n == 0 || span.unit() == 0 || time.Duration(n) > maxSpan/span.unit() {
		return Span{}, false
	}
	return span, true
}

// unit returns the length of one unit: 30 days for a month, 90 for a quarter and 365 for a year, as OpenSLO's SDK takes
// them where no calendar says more. An unknown unit has none.
func (s Span) unit() time.Duration {
	const day = 24 * time.Hour
	switch s.Unit {
	case Minute:
		return time.Minute
	case Hour:
		return time.Hour
	case Day:
		return day
	case Week:
		return 7 * day
	case Month:
		return 30 * day
	case Quarter:
		return 90 * day
	case Year:
		return 365 * day
	}
	return 0
}

// Duration returns the length of the span; of a month, quarter or year the nominal one.
func (s Span) Duration() time.Duration { return time.Duration(s.Count) * s.unit() }

// String writes the span in OpenSLO's shorthand.
func (s Span) String() string { return strconv.Itoa(s.Count) + string(rune(s.Unit)) }

// A Window is the period over which an objective's budget counts.
type Window struct {
	Span Span
	// Start makes the window a calendar one: periods of Span follow each other from then on, in its time zone. The zero
	// time makes it a rolling one, which always ends now.
	Start time.Time
}

// Rolling tells whether the window moves along with the time.
func (w Window) Rolling() bool { return w.Start.IsZero() }

// String says the window in words.
func (w Window) String() string {
	if w.Rolling() {
		return w.Span.String()
	}
	return fmt.Sprintf("%s from %s", w.Span, w.Start.Format("2006-01-02 15:04 MST"))
}

// Bounds returns the period that now is in: of a rolling window the one that ends now. Before the start of a calendar
// window that is the one that would have come before.
func (w Window) Bounds(now time.Time) (from, to time.Time) {
	if w.Rolling() {
		return now.Add(-w.Span.Duration()), now
	}
	n := int(now.Sub(w.Start) / w.Span.Duration())
	for w.period(n).After(now) { // months are longer and shorter than their nominal length
		n--
	}
	for !w.period(n + 1).After(now) {
		n++
	}
	return w.period(n), w.period(n + 1)
}

// period returns the start of the n-th period. It counts from the first, so that a month that is too short for its day
// does not shift those that follow.
func (w Window) period(n int) time.Time {
	n *= w.Span.Count
	switch w.Span.Unit {
	case Minute, Hour:
		return w.Start.Add(time.Duration(n) * w.Span.unit())
	case Day:
		return w.Start.AddDate(0, 0, n)
	case Week:
		return w.Start.AddDate(0, 0, 7*n)
	case Quarter:
		n *= 3
	case Year:
		n *= 12
	}
	y, m, d := w.Start.Date()
	last := time.Date(y, m+time.Month(n)+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return time.Date(y, m+time.Month(n), min(d, last), w.Start.Hour(), w.Start.Minute(), w.Start.Second(), 0, w.Start.Location())
}
