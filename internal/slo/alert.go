package slo

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Alert fires while the budget burns faster than Threshold in a long and in a short window: the long one says that it
// matters, the short one that it goes on.
type Alert struct {
	Name        string
	Severity    string        // page, ticket, or what an OpenSLO document says
	Threshold   float64       // burn rate
	Op          Op            // how the burn rate is compared with the threshold
	Long, Short time.Duration // windows
	After       time.Duration // it must hold for so long first
	OnBurn      bool          // it fires when the budget burns
	OnNoData    bool          // it fires when there is nothing to tell by
}

// An Op compares a burn rate with a threshold; the words are OpenSLO's.
type Op string

// The comparisons of OpenSLO v1.
const (
	GT  Op = "gt"
	GTE Op = "gte"
	LT  Op = "lt"
	LTE Op = "lte"
)

// Ops returns the comparisons.
func Ops() []string { return []string{string(GT), string(GTE), string(LT), string(LTE)} }

// Symbol returns the comparison as Prometheus writes it.
func (o Op) Symbol() string {
	symbol := "<"
	if strings.HasPrefix(string(o), "g") {
		symbol = ">"
	}
	if strings.HasSuffix(string(o), "e") {
		symbol += "="
	}
	return symbol
}

// holds compares a burn rate with a threshold.
func (o Op) holds(burn, threshold float64) bool {
	switch o {
	case GT:
		return burn > threshold
	case LT:
		return burn < threshold
	case LTE:
		return burn <= threshold
	default:
		return burn >= threshold
	}
}

// MinBad is how many bad events an alert on events needs in its long window. At 10 requests an hour and 99.9 % a single
// one burns 1000 times too fast; with three, pages at night come from outages (docs/slo.md has the figures).
const MinBad = 3

// StandardAlerts returns the alerts of the SRE Workbook (chapter 5, table 5-8) for a period and target: a page when 2 %
// of the budget go in 1 h or 5 % in 6 h, a ticket when 10 % go in a day or in three. Thresholds scale with the period;
// the short windows are a twelfth of the long ones. Alerts that would fire while nothing is wrong (a threshold below 1)
// or that never could (all bad burns less) are left out; Skipped says which.
func StandardAlerts(period time.Duration, target float64) []Alert {
	return slices.DeleteFunc(allStandard(period), func(a Alert) bool { return a.skip(period, target) != "" })
}

// Skipped says in words which of the standard alerts make no sense for a period and target, and why.
func Skipped(period time.Duration, target float64) []string {
	var list []string
	for _, a := range allStandard(period) {
		if why := a.skip(period, target); why != "" {
			list = append(list, fmt.Sprintf("%s (burn %.3g in %s): %s", a.Name, a.Threshold, Shorthand(a.Long), why))
		}
	}
	return list
}

func allStandard(period time.Duration) []Alert {
	const hour = time.Hour
	list := []Alert{
		{Name: "page-1h", Severity: "page", Threshold: 0.02, Long: hour},
		{Name: "page-6h", Severity: "page", Threshold: 0.05, Long: 6 * hour},
		{Name: "ticket-1d", Severity: "ticket", Threshold: 0.10, Long: 24 * hour},
		{Name: "ticket-3d", Severity: "ticket", Threshold: 0.10, Long: 72 * hour},
	}
	for i := range list {
		a := &list[i]
		a.Threshold *= float64(period) / float64(a.Long)
		a.Short, a.Op, a.OnBurn = a.Long/12, GT, true
	}
	return list
}

// belowOne is a hair less than 1: a threshold of 1 computed in floating point counts as 1.
const belowOne = 1 - 1e-9

func (a Alert) skip(period time.Duration, target float64) string {
	switch {
	case a.Threshold < belowOne || a.Long > period:
		return "it would fire within the budget"
	case !a.CanFire(target):
		return "even if all is bad the budget burns slower"
	}
	return ""
}

// CanFire tells whether a burn rate can reach the threshold: at most everything is bad, which burns 1/beta. The SRE
// Workbook's 14.4 cannot fire below a target of 93.06 %.
func (a Alert) CanFire(target float64) bool {
	const rounding = 1e-9 // 1/(1-0.9) is 10.000000000000002
	switch most := 1 / (1 - target); a.Op {
	case GT:
		return most*(1-rounding) > a.Threshold
	case GTE:
		return most*(1+rounding) >= a.Threshold
	default:
		return true
	}
}

// BurnWindows returns the windows whose burn rates are shown.
func BurnWindows() []time.Duration {
	const hour = time.Hour
	return []time.Duration{5 * time.Minute, hour / 2, hour, 2 * hour, 6 * hour, 24 * hour, 72 * hour}
}

// Detection returns how long a step from nothing to the error ratio e burns until the alert's long window is over its
// threshold: t = b*beta*w/e; ok is false if it never is. (The short window is over it earlier.)
func (a Alert) Detection(target, e float64) (t time.Duration, ok bool) {
	needed := a.Threshold * (1 - target)
	if e < needed || e <= 0 {
		return 0, false
	}
	return time.Duration(needed / e * float64(a.Long)), true
}

// Shorthand writes a duration in its largest whole unit: 3d, 1h, 30m, 90s.
func Shorthand(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d%s", d/u.unit, u.name)
		}
	}
	return d.String()
}
