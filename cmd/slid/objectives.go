package main

import (
	"time"

	"github.com/slid-agent/slid/collector/budget"
	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/slo"
)

// slos returns how the objectives stand, for reports.
func (p *parts) slos() []text.SLO {
	o := p.objectives()
	if o == nil {
		return nil
	}
	standings := o.Standings()
	list := make([]text.SLO, len(standings))
	for i, s := range standings {
		list[i] = describe(s)
	}
	return list
}

// describe puts a standing into the words of a report.
func describe(st budget.Standing) text.SLO {
	o, s := st.Objective, &st.Status
	d := text.SLO{
		Name: o.Name, Service: o.Service, Target: o.Target, Window: o.Window.String(),
		Good: s.Counts.Good, Bad: s.Counts.Bad, Unit: unitOf(o.Method), Excluded: s.Counts.Excluded,
		State: s.State.String(), Reason: s.Reason, Firing: []string{}, BurnRate: map[string]float64{},
		MeasuredSeconds: s.Counts.Measured.Round(time.Millisecond).Seconds(), Over: s.Over(o, st.At),
	}
	if e, ok := s.Counts.ErrorRatio(); ok {
		low, high := s.Counts.Interval()
		if o.Method != slo.Occurrences { // slices are no independent draws
			low, high = e, e
		}
		d.Ratio, d.RatioLow, d.RatioHigh = new(1-e), new(1-high), new(1-low)
	}
	if s.Counts.Measured == 0 {
		d.Over = "not measured"
		if st.Sources == 0 {
			d.Reason += ": " + uncounted(o.Members[0].Indicator)
		}
	} else {
		d.Coverage, d.BudgetRemaining = new(s.Counts.Coverage()), new(s.Remaining)
	}
	for _, a := range s.Firing {
		d.Firing = append(d.Firing, a.Name)
	}
	for _, b := range s.Burns {
		if b.Known {
			d.BurnRate[slo.Shorthand(b.Window)] = b.Rate
		}
	}
	if e := s.Exhaustion; e.Known && !e.Never {
		d.ExhaustedInSeconds = new(e.After.Seconds())
	}
	if !s.Began.IsZero() {
		began := s.Began.UTC().Truncate(time.Second)
		d.Since = &began
	}
	return d
}

// uncounted says why an indicator has no events at all.
func uncounted(i slo.Indicator) string {
	if source := i.Source(); source != slo.TrafficSource {
		return "nothing could be told by its source yet; slid doctor says why, behind service/" + source
	}
	return "nobody counts its events here, as when the service has not been seen yet"
}

// unitOf says what the counts of a budgeting method count.
func unitOf(m slo.Method) string {
	return map[slo.Method]string{
		slo.Occurrences: "events", slo.Timeslices: "slices", slo.RatioTimeslices: "slice_millionths",
	}[m]
}
