package text

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"
)

// An SLO is how an objective stands on this host.
type SLO struct {
	Name    string  `json:"name"`
	Service string  `json:"service"`
	Target  float64 `json:"target"` // share that must be good, 0 to 1
	Window  string  `json:"window"` // the period, e.g. 28d

	// Good and Bad are what was counted in the period, as far as it was measured.
	Good     uint64 `json:"good"`
	Bad      uint64 `json:"bad"`
	Unit     string `json:"unit"`     // of these: events, slices, or slice_millionths
	Excluded uint64 `json:"excluded"` // events that do not count by the objective's own words
	// Ratio is the share of the good ones, with bounds at 95 %; nil if there were none.
	Ratio     *float64 `json:"ratio,omitempty"`
	RatioLow  *float64 `json:"ratio_low,omitempty"`
	RatioHigh *float64 `json:"ratio_high,omitempty"`
	Coverage  *float64 `json:"coverage,omitempty"` // share of the events that was understood, 0 to 1

	State  string   `json:"state"` // ok, burning, breached, unknown
	Reason string   `json:"reason"`
	Firing []string `json:"firing"` // alerts
	// BurnRate is how many times faster than allowed the budget goes, by window; those without events are absent.
	BurnRate map[string]float64 `json:"burn_rate"`
	// BudgetRemaining is the share of the period's budget that is left at most, negative if more was spent; nil if
	// nothing was measured.
	BudgetRemaining *float64 `json:"budget_remaining,omitempty"`
	// ExhaustedInSeconds is when the budget will be used up at the rate of the last hour; nil: never, or nobody knows.
	ExhaustedInSeconds *float64 `json:"exhausted_in_seconds,omitempty"`

	Since           *time.Time `json:"since,omitempty"`  // when measuring began, if amid the period
	MeasuredSeconds float64    `json:"measured_seconds"` // how much of the period was measured
	Over            string     `json:"over"`             // that in words: 28d, since start (4m), 3h of 28d
}

// objectives returns the objectives of a report, worst budget first.
func objectives(o Options) []SLO {
	list := []SLO{}
	if o.SLOs != nil {
		list = append(list, o.SLOs()...)
	}
	slices.SortStableFunc(list, func(a, b SLO) int {
		return cmp.Or(
			cmp.Compare(valueOr(a.BudgetRemaining, 2), valueOr(b.BudgetRemaining, 2)), // unknown ones last
			cmp.Compare(b.BurnRate["1h"], a.BurnRate["1h"]),
			cmp.Compare(a.Name, b.Name),
		)
	})
	return list
}

// roomy is from how many columns on the table of objectives has all windows.
const roomy = 72

// without returns the grid without a column.
func (g grid) without(title string) grid {
	at := slices.Index(g.titles, title)
	rest := grid{titles: slices.Delete(slices.Clone(g.titles), at, at+1)}
	for _, row := range g.rows {
		rest.rows = append(rest.rows, slices.Delete(slices.Clone(row), at, at+1))
	}
	return rest
}

// objectives writes how the objectives stand.
func (p *page) objectives(list []SLO) {
	if len(list) == 0 {
		return
	}
	g := grid{titles: []string{"", "OBJECTIVES", "TARGET", "GOOD", "BURN 5M", "1H", "6H", "BUDGET", "OVER"}}
	for _, s := range list {
		g.rows = append(g.rows, s.row())
	}
	if p.layout.width < roomy {
		g = g.without("6H")
	}
	p.grid(g)
	for _, s := range list {
		if note := s.note(); note != "" {
			p.paragraph(s.style(), "  ", note)
		}
	}
}

func (s *SLO) row() []cell {
	row := []cell{
		s.mark(), {text: s.Name}, {text: formatRatio(s.Target)}, {text: optional(s.Ratio, formatRatio)},
	}
	for _, window := range []string{"5m", "1h", "6h"} {
		c := cell{text: none}
		if rate, ok := s.BurnRate[window]; ok {
			c.text = formatBurn(rate)
		}
		row = append(row, c)
	}
	budget := cell{text: optional(s.BudgetRemaining, formatBudget)}
	if s.BudgetRemaining != nil {
		budget.style = s.style()
	}
	return append(row, budget, cell{text: s.Over})
}

// mark says without colors how the objective stands.
func (s *SLO) mark() cell {
	switch s.State {
	case "ok":
		return cell{" ", plain}
	case "unknown":
		return cell{"?", yellow}
	}
	return cell{"!", red}
}

func (s *SLO) style() style {
	switch s.State {
	case "ok":
		return plain
	case "unknown":
		return yellow
	}
	return red
}

// note says in words what is wrong, or that something is about to be.
func (s *SLO) note() string {
	var end string
	if s.ExhaustedInSeconds != nil {
		end = "no budget left in " + span(*s.ExhaustedInSeconds) + " at the rate of the last hour"
	}
	switch {
	case s.State == "ok" && end == "":
		return ""
	case s.State == "ok":
		return s.Name + " ok, but " + end
	case end == "":
		return s.Name + " " + s.State + ": " + s.Reason
	}
	return s.Name + " " + s.State + ": " + s.Reason + "; " + end
}

// Line says in one line how the objective stands.
func (s *SLO) Line() string {
	line := clean(s.Name) + " " + s.State
	if s.State != "ok" {
		line += ": " + clean(s.Reason)
	}
	if s.BudgetRemaining != nil {
		line += ", " + formatBudget(*s.BudgetRemaining) + " of the budget left"
	}
	if s.Over != "" {
		line += ", " + clean(s.Over)
	}
	return line
}

// formatRatio writes a share as a percentage that is never better than the share: 99.9996 does not read 100.
func formatRatio(v float64) string {
	const rounding = 1e-9 // 0.999*100000 is 99900.00000000001 or a little less
	return strconv.FormatFloat(math.Floor(v*1e5+rounding)/1e3, 'f', -1, 64) + "%"
}

// formatBurn writes a burn rate: 0.4, 15.2, 1000.
func formatBurn(v float64) string {
	if v >= 99.95 {
		return FormatCount(v)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// formatBudget writes what is left of a budget, rounded down: nothing left does not read 1%.
func formatBudget(v float64) string {
	const rounding = 1e-9
	return strconv.FormatFloat(math.Floor(v*100+rounding), 'f', 0, 64) + "%"
}

// span writes a time that lasts in its largest unit: 17h, 26d.
func span(seconds float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{86400, "d"}, {3600, "h"}, {60, "m"}} {
		if seconds >= u.size {
			return strconv.FormatFloat(math.Floor(seconds/u.size), 'f', 0, 64) + u.name
		}
	}
	return strconv.FormatFloat(math.Floor(seconds), 'f', 0, 64) + "s"
}
