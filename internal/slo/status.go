package slo

import (
	"fmt"
	"time"
)

// State is how an objective stands, in the order of its exit codes.
type State int

// The states. Breached and burning are said only of what is certain, unknown of all that cannot be trusted.
const (
	OK       State = iota
	Burning        // an alert fires: the budget goes too fast
	Breached       // the budget is used up
	Unknown        // no data, or too much was not understood
)

// String returns the state's word.
func (s State) String() string { return [...]string{"ok", "burning", "breached", "unknown"}[s] }

// MinCoverage is the share of the events that must be understood for a state to be known.
const MinCoverage = 0.99

// judged is the window that must have data for a state to be known, and whose burn rate time to exhaustion assumes.
const judged = time.Hour

// A Burn is how fast the budget goes in a window.
type Burn struct {
	Window time.Duration
	Counts Counts  // of all members
	Known  bool    // there is data
	Rate   float64 // 1 uses the budget up in exactly the period
	// Low and High bound the true rate at 95 %: few events say little.
	Low, High float64
}

// An Exhaustion says when the budget is used up if all goes on like in the last hour.
type Exhaustion struct {
	Known bool          // there is data and budget left
	Never bool          // not at this rate: what leaves the window burnt as fast, or the calendar period ends before
	After time.Duration // if it is known and not never
	// Soonest and Latest are After for the bounds of the burn rate; 0 means never.
	Soonest, Latest time.Duration
}

// A Status is how an objective stands at a time, on this host.
type Status struct {
	State  State
	Reason string // why, in words
	// From is the start of the period; Counts is what was counted since then, of which Counts.Measured was measured.
	From       time.Time
	Counts     Counts
	Began      time.Time // when measuring began, if that is after From
	Remaining  float64   // share of the period's budget that is left, negative if more went: at most this (see Spent)
	Burns      []Burn    // over BurnWindows
	Firing     []Alert
	Exhaustion Exhaustion
}

// Status tells how the objective stands now.
func (t *Tracker) Status(now time.Time) Status {
	var s Status
	t.Update(now, &s)
	s.Reason = t.reason(&s, now)
	return s
}

// Update is Status without the Reason, in memory that is used again: it allocates nothing but for the first time.
func (t *Tracker) Update(now time.Time, s *Status) {
	o := &t.objective
	from, until := o.Window.Bounds(now)
	*s = Status{From: from, Remaining: 1, Burns: s.Burns[:0], Firing: s.Firing[:0]}
	for i, tr := range t.tracks {
		c := tr.history.Sum(from, now)
		s.Remaining -= tr.weight * o.Spent(c, tr.target)
		if i > 0 {
			c.Measured = 0 // all members are measured at the same time
		}
		s.Counts = s.Counts.Plus(c)
		if began := tr.history.Began(); began.After(from) {
			s.Began = began
		}
	}
	for _, w := range t.windows {
		s.Burns = append(s.Burns, t.burn(w, now))
	}
	for i := range t.alerts {
		if t.fires(&t.alerts[i], now) {
			s.Firing = append(s.Firing, t.alerts[i])
		}
	}
	s.Exhaustion = t.exhaustion(s.Remaining, now, until)
	s.State, _ = t.judge(s, now)
}

// burn returns the burn rate over a window that ends now: of a composite, its members' times their weights.
func (t *Tracker) burn(window time.Duration, now time.Time) Burn {
	return t.burnBetween(now.Add(-t.objective.Widened(window)), now, window)
}

func (t *Tracker) burnBetween(from, to time.Time, window time.Duration) Burn {
	b := Burn{Window: window}
	for i, tr := range t.tracks {
		c := tr.history.Sum(from, to)
		if i > 0 {
			c.Measured = 0 // all members are measured at the same time
		}
		b.Counts = b.Counts.Plus(c)
		rate, ok := BurnRate(c, tr.target)
		if !ok {
			continue
		}
		b.Known = true
		low, high := c.Interval()
		if t.objective.Method != Occurrences {
			low, high = rate*(1-tr.target), rate*(1-tr.target) // slices are no independent draws
		}
		b.Rate += tr.weight * rate
		b.Low += tr.weight * low / (1 - tr.target)
		b.High += tr.weight * high / (1 - tr.target)
	}
	return b
}

// fires tells whether both windows of an alert are over its threshold, by enough bad events.
func (t *Tracker) fires(a *Alert, now time.Time) bool {
	long, short := t.burn(a.Long, now), t.burn(a.Short, now)
	if !long.Known || !short.Known {
		return a.OnNoData && !long.Known
	}
	if !a.OnBurn || t.objective.Method == Occurrences && long.Counts.Bad < MinBad && (a.Op == GT || a.Op == GTE) {
		return false
	}
	return a.Op.holds(long.Rate, a.Threshold) && a.Op.holds(short.Rate, a.Threshold)
}

// exhaustion returns when the remaining budget is used up: t = R*P/(b_now - b_leaving). A rolling window gains back
// what leaves it; a calendar window ends.
func (t *Tracker) exhaustion(remaining float64, now, until time.Time) Exhaustion {
	b := t.burn(judged, now)
	if !b.Known || remaining <= 0 {
		return Exhaustion{}
	}
	period := t.objective.Period()
	leaving := 0.0
	if t.objective.Window.Rolling() {
		old := now.Add(-period)
		if was := t.burnBetween(old, old.Add(judged), judged); was.Known {
			leaving = was.Rate
		}
	}
	after := func(rate float64) time.Duration {
		left := remaining * float64(period) / (rate - leaving)
		if rate <= leaving || left > float64(maxSpan) {
			return 0
		}
		if !t.objective.Window.Rolling() && now.Add(time.Duration(left)).After(until) {
			return 0
		}
		return time.Duration(left)
	}
	e := Exhaustion{Known: true, After: after(b.Rate), Soonest: after(b.High), Latest: after(b.Low)}
	e.Never = e.After == 0
	return e
}

// A cause is why an objective has its state.
type cause int

const (
	fine cause = iota
	nothingMeasured
	uncoveredOfLate
	uncovered
	noData
	spent
	noDataOfLate
	alerting
)

// judge returns the state and its cause.
func (t *Tracker) judge(s *Status, now time.Time) (State, cause) {
	recent := t.burn(judged, now)
	switch {
	case s.Counts.Measured == 0:
		return Unknown, nothingMeasured
	case recent.Counts.Coverage() < MinCoverage:
		return Unknown, uncoveredOfLate
	case s.Counts.Coverage() < MinCoverage:
		return Unknown, uncovered
	case s.Counts.Total() == 0:
		return Unknown, noData
	case s.Remaining <= 0 && (s.Counts.Bad >= MinBad || t.objective.Method != Occurrences):
		return Breached, spent
	case recent.Counts.Events == 0:
		return Unknown, noDataOfLate
	case len(s.Firing) > 0:
		return Burning, alerting
	}
	return OK, fine
}

// reason says in words why the objective has its state.
func (t *Tracker) reason(s *Status, now time.Time) string {
	switch _, why := t.judge(s, now); why {
	case nothingMeasured:
		return "nothing was measured"
	case uncoveredOfLate:
		return coverageReason(t.burn(judged, now).Counts, "in the last hour")
	case uncovered:
		return coverageReason(s.Counts, "in the period")
	case noData:
		return "no data in the period"
	case spent:
		return fmt.Sprintf("the budget is used up: %.0f %% of it", 100*(1-s.Remaining))
	case noDataOfLate:
		return "no data in the last hour"
	case alerting:
		a := s.Firing[0]
		return fmt.Sprintf("%s: %.1f times too fast in %s", a.Name, t.burn(a.Long, now).Rate, Shorthand(a.Long))
	}
	return "within the budget"
}

func coverageReason(c Counts, when string) string {
	return fmt.Sprintf("only %.1f %% of the events %s were understood", 100*c.Coverage(), when)
}

// Over says over how much of the period the numbers were measured: what was not measured is never shown as if it was.
func (s Status) Over(o Objective, now time.Time) string {
	elapsed := now.Sub(s.From)
	const whole = 0.99
	switch {
	case !s.Began.IsZero():
		return "since start (" + coarse(s.Counts.Measured) + ")"
	case float64(s.Counts.Measured) < whole*float64(elapsed):
		return coarse(s.Counts.Measured) + " of " + coarse(elapsed)
	}
	return o.Window.String()
}

// coarse writes a duration in its largest unit, rounded down: 4m, 3h, 26d.
func coarse(d time.Duration) string {
	for _, u := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		if d >= u {
			return Shorthand(d.Truncate(u))
		}
	}
	return Shorthand(d.Truncate(time.Second))
}
