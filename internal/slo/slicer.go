package slo

import "time"

// ratioUnits is how many units a slice has with RatioTimeslices: its share of good events is kept in millionths.
const ratioUnits = 1_000_000

// units returns how many units of Counts make a slice.
func (m Method) units() uint64 {
	if m == RatioTimeslices {
		return ratioUnits
	}
	return 1
}

// A slicer turns counts of events into what a budgeting method counts. With Occurrences these are the events
// themselves. With slices it is one good or bad unit (or a million shared between both) when a slice ends; a slice
// without an event is neither good nor bad.
type slicer struct {
	method  Method
	width   time.Duration
	target  float64
	number  int64    // of the open slice, the time since 1970 in widths
	members []Counts // what the open slice has of each member
	ended   Slices
}

// Slices counts time slices that ended.
type Slices struct{ Good, Bad, NoData uint64 }

// add takes what each member counted until now, and returns what that is for the history; with slices Good and Bad are
// none until a slice ends. closed is the slice that ended before now, if one did, and end is when.
func (s *slicer) add(now time.Time, deltas []Counts) (c, closed Counts, end time.Time) {
	for _, d := range deltas {
		d.Events = d.Total()
		d.Measured = 0 // all members are measured at the same time
		c = c.Plus(d)
	}
	c.Measured = deltas[0].Measured
	if s.method == Occurrences {
		return c, Counts{}, time.Time{}
	}
	c.Good, c.Bad = 0, 0
	if s.members == nil {
		s.members = make([]Counts, len(deltas))
	}
	if n := (now.UnixNano() - 1) / int64(s.width); n != s.number {
		closed.Good, closed.Bad = s.close()
		s.count(closed, n)
		end = time.Unix(0, (s.number+1)*int64(s.width))
		s.number = n
		clear(s.members)
	}
	for i, d := range deltas {
		s.members[i] = s.members[i].Plus(d)
	}
	return c, closed, end
}

// count counts the open slice, which is closed, and those between it and slice n: nobody looked at them, as when the host
// slept.
func (s *slicer) count(closed Counts, n int64) {
	switch {
	case s.number == 0: // there is none yet
		return
	case closed.Bad > 0:
		s.ended.Bad++
	case closed.Good > 0:
		s.ended.Good++
	default:
		s.ended.NoData++
	}
	if n > s.number+1 {
		s.ended.NoData += uint64(n - s.number - 1)
	}
}

// close returns the units of the open slice.
func (s *slicer) close() (good, bad uint64) {
	data := false
	for _, m := range s.members {
		e, ok := m.ErrorRatio()
		switch {
		case !ok:
		case s.method == RatioTimeslices:
			bad = uint64(e*ratioUnits + 0.5)
			return ratioUnits - bad, bad
		case sliceIsBad(m, s.target):
			return 0, 1
		}
		data = data || ok
	}
	if !data {
		return 0, 0
	}
	return 1, 0
}

// sliceIsBad tells whether the share of good events is below the target. Multiplying instead of dividing keeps 99 of
// 100 at 0.99 good.
func sliceIsBad(c Counts, target float64) bool {
	const rounding = 1e-9 // of an event
	return float64(c.Good) < target*float64(c.Total())-rounding
}
