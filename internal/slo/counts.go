package slo

import (
	"math"
	"time"
)

// Counts are what was counted in some time. With Timeslices they count slices, with RatioTimeslices millionths of
// slices (see Slicer); everything else is the same.
type Counts struct {
	Good, Bad uint64
	Events    uint64        // good and bad events, whatever Good and Bad count
	Missed    uint64        // events that the source knows of and did not understand: neither good nor bad
	Excluded  uint64        // events that do not count by the objective's own words
	Measured  time.Duration // how much of the time the source was at work, by a clock that does not jump
}

// Plus returns the counts of both: of two times, or of two hosts but for the time measured, which is each host's own.
func (c Counts) Plus(o Counts) Counts {
	return Counts{
		Good: c.Good + o.Good, Bad: c.Bad + o.Bad, Events: c.Events + o.Events,
		Missed: c.Missed + o.Missed, Excluded: c.Excluded + o.Excluded, Measured: c.Measured + o.Measured,
	}
}

// Total returns N.
func (c Counts) Total() uint64 { return c.Good + c.Bad }

// ErrorRatio returns e = B/N, and whether there is one: 0/0 is no data, neither good nor bad.
func (c Counts) ErrorRatio() (e float64, ok bool) {
	if c.Total() == 0 {
		return 0, false
	}
	return float64(c.Bad) / float64(c.Total()), true
}

// Coverage returns the share of the events that were understood, 1 if there were none.
func (c Counts) Coverage() float64 {
	if c.Missed == 0 {
		return 1
	}
	understood := c.Events + c.Excluded
	return float64(understood) / float64(understood+c.Missed)
}

// z95 is the quantile of the normal distribution for a two-sided interval of 95 %.
const z95 = 1.959963984540054

// Interval returns the bounds of the true error ratio at 95 % (Wilson's score interval, which holds for small counts
// and for ratios near 0 too). Without events it is anything: 0 to 1.
func (c Counts) Interval() (low, high float64) {
	n := float64(c.Total())
	if n == 0 {
		return 0, 1
	}
	p := float64(c.Bad) / n
	const z2 = z95 * z95
	scale := 1 + z2/n
	centre := (p + z2/(2*n)) / scale
	half := z95 / scale * math.Sqrt(p*(1-p)/n+z2/(4*n*n))
	low, high = max(0, centre-half), min(1, centre+half)
	switch c.Bad { // what rounding leaves
	case 0:
		low = 0
	case c.Total():
		high = 1
	}
	return low, high
}

// BurnRate returns b = e/beta, how many times faster than allowed the budget goes, and whether there is data to tell.
func BurnRate(c Counts, target float64) (b float64, ok bool) {
	e, ok := c.ErrorRatio()
	return e / (1 - target), ok
}

// Spent returns the share of the budget of a whole period that the counts used up. Occurrences: B/(beta*N_P), where the
// period has as many events N_P as its measured part promises, N*P/Measured; measured in whole it is exact. Slices are
// time, so their budget is beta*P whatever the traffic. What was not measured spends nothing: the true share is this or
// more.
func (o Objective) Spent(c Counts, target float64) float64 {
	if c.Bad == 0 {
		return 0
	}
	if o.Method == Occurrences {
		e, _ := c.ErrorRatio()
		return e / (1 - target) * min(1, float64(c.Measured)/float64(o.Period()))
	}
	bad := float64(c.Bad) / float64(o.Method.units())
	return bad * float64(o.Slice) / ((1 - target) * float64(o.Period()))
}
