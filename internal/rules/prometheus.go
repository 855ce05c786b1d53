// Package rules writes objectives for the centre: as rules of Prometheus that evaluate over all hosts what each host
// evaluates for itself, and as OpenSLO v1 documents.
//
// The rules read counters (sli_events_total) and add them up over hosts before they divide: ratios of hosts do not add
// up. They record the burn rate of each window and what is left of the budget, and alert as internal/slo does.
package rules

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// The series of Prometheus that the rules read, and those they record.
const (
	eventsSeries    = "sli_events_total"           // sli.events
	coverageSeries  = "sli_coverage_ratio"         // sli.coverage
	incrementSeries = "sli:events:increase5m"      // events of five minutes, by sli_outcome
	sliceSeries     = "slo:slice_bad:ratio"        // how bad a time slice was: 0 or 1 with Timeslices
	budgetSeries    = "slo:budget_remaining:ratio" // what is left of the budget, 1 to minus infinity
	burnSeries      = "slo:burn_rate:"             // and the window
	increment       = 5 * time.Minute              // width of incrementSeries
	direct          = 2 * time.Hour                // windows up to this are read from the counters themselves
	refresh         = 30 * time.Second             // how often burn rates are computed
	silence         = "15m"                        // how long data must be absent or not covered to alert
	someBad         = float64(slo.MinBad) - 1.0/2  // increase() extrapolates: three events may count 2.99
	header          = "# Rules for Prometheus, made by slid rules. They add up the counters of all hosts.\n"
)

type (
	file struct {
		Groups []group `yaml:"groups"`
	}
	group struct {
		Name     string `yaml:"name"`
		Interval string `yaml:"interval"`
		Rules    []rule `yaml:"rules"`
	}
	rule struct {
		Record      string            `yaml:"record,omitempty"`
		Alert       string            `yaml:"alert,omitempty"`
		Expr        string            `yaml:"expr"`
		For         string            `yaml:"for,omitempty"`
		Labels      map[string]string `yaml:"labels,omitempty"`
		Annotations map[string]string `yaml:"annotations,omitempty"`
	}
)

// Prometheus writes recording and alerting rules for the objectives: a group for the increments of all indicators and
// one or two for each objective.
func Prometheus(w io.Writer, objectives []slo.Objective) error {
	f := file{Groups: []group{}}
	if increments := incrementRules(objectives); len(increments) > 0 {
		f.Groups = append(f.Groups, group{Name: "slid-increments", Interval: slo.Shorthand(increment), Rules: increments})
	}
	var notes strings.Builder
	notes.WriteString(header)
	for _, o := range objectives {
		b := builder{o: o}
		f.Groups = append(f.Groups, b.groups()...)
		for _, n := range b.notes() {
			fmt.Fprintf(&notes, "# %s: %s.\n", o.Name, n)
		}
	}
	if _, err := io.WriteString(w, notes.String()); err != nil {
		return err
	}
	return encode(w, f)
}

func encode(w io.Writer, document any) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(document); err != nil {
		return err
	}
	return e.Close()
}

// incrementRules records the events of five minutes of each indicator, so that windows of weeks add up 12 samples an
// hour instead of reading every sample of every host. Increments add up exactly; ratios would not.
func incrementRules(objectives []slo.Objective) []rule {
	var list []rule
	var seen []string
	for _, o := range objectives {
		for _, m := range o.Members {
			name := m.Indicator.Name
			if o.Method != slo.Occurrences || slices.Contains(seen, name) {
				continue
			}
			seen = append(seen, name)
			list = append(list, rule{
				Record: incrementSeries,
				Labels: map[string]string{"sli_name": name},
				Expr: fmt.Sprintf("sum by (sli_outcome) (increase(%s[%s]))",
					selector(eventsSeries, name, ""), slo.Shorthand(increment)),
			})
		}
	}
	return list
}

// selector selects the series of an indicator: of one outcome, or of all if it is empty.
func selector(series, indicator, outcome string) string {
	s := fmt.Sprintf("%s{sli_name=%q", series, indicator)
	if outcome != "" {
		s += fmt.Sprintf(",sli_outcome=%q", outcome)
	}
	return s + "}"
}

// A builder writes the rules of one objective.
type builder struct{ o slo.Objective }

func (b builder) groups() []group {
	var list []group
	if b.o.Method != slo.Occurrences {
		list = append(list, group{
			Name: "slid-slices-" + b.o.Name, Interval: slo.Shorthand(b.o.Slice), Rules: b.slices(),
		})
	}
	var rules []rule
	for _, w := range b.windows() {
		rules = append(rules, rule{Record: burnSeries + slo.Shorthand(w), Expr: b.burn(w), Labels: b.labels()})
	}
	if b.o.Window.Rolling() {
		rules = append(rules, rule{Record: budgetSeries, Expr: b.budget(), Labels: b.labels()})
	}
	rules = append(rules, b.alerts()...)
	return append(list, group{Name: "slid-" + b.o.Name, Interval: slo.Shorthand(refresh), Rules: rules})
}

// notes says what the rules of the objective lack.
func (b builder) notes() []string {
	var list []string
	if len(b.o.Alerts) == 0 {
		for _, s := range slo.Skipped(b.o.Period(), b.o.Target) {
			list = append(list, "no alert "+s)
		}
	}
	if !b.o.Window.Rolling() {
		list = append(list, "no "+budgetSeries+", since Prometheus knows no calendar; each host does")
	}
	return list
}

func (b builder) labels() map[string]string {
	return map[string]string{"slo_name": b.o.Name, "service_name": b.o.Service}
}

// windows returns the windows of all burn rates: those that are shown and those of alerts.
func (b builder) windows() []time.Duration {
	var list []time.Duration
	for _, w := range slo.BurnWindows() {
		if w <= b.o.Period() {
			list = append(list, w)
		}
	}
	for _, a := range b.activeAlerts() {
		list = append(list, a.Long, a.Short)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (b builder) activeAlerts() []slo.Alert {
	if len(b.o.Alerts) > 0 {
		return b.o.Alerts
	}
	return slo.StandardAlerts(b.o.Period(), b.o.Target)
}

// number writes a number as it was configured.
func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// allowed writes beta. The subtraction keeps the target readable.
func allowed(target float64) string { return "(1 - " + number(target) + ")" }

// counted adds up the events of one outcome, or of all if it is empty, in a window over all hosts.
func counted(indicator, outcome string, window time.Duration) string {
	if window <= direct {
		return fmt.Sprintf("sum(increase(%s[%s]))", selector(eventsSeries, indicator, outcome), slo.Shorthand(window))
	}
	return recorded(indicator, outcome, window)
}

// recorded is counted for the recorded increments, however short the window.
func recorded(indicator, outcome string, window time.Duration) string {
	return fmt.Sprintf("sum(sum_over_time(%s[%s]))", selector(incrementSeries, indicator, outcome), slo.Shorthand(window))
}

// ratio divides the events of an outcome by all. Without events it is nothing, neither good nor bad.
func ratio(indicator, outcome string, window time.Duration) string {
	return fmt.Sprintf("%s / (%s > 0)", counted(indicator, outcome, window), counted(indicator, "", window))
}

// together joins the expressions of members by an aggregation. Members that have no data are left out.
func (b builder) together(aggregation string, member func(slo.Member) string) string {
	if !b.o.Composite() {
		return member(b.o.Members[0])
	}
	var parts []string
	for _, m := range b.o.Members {
		parts = append(parts, fmt.Sprintf(`label_replace(%s, "sli_name", %q, "", "")`, member(m), m.Indicator.Name))
	}
	return aggregation + "(" + strings.Join(parts, " or ") + ")"
}

// weighted multiplies by the weight of a member, if it has one.
func weighted(m slo.Member, expr string) string {
	if m.Weight == 1 {
		return expr
	}
	return number(m.Weight) + " * " + expr
}

// slices records how bad each time slice was. The group is evaluated once for each.
func (b builder) slices() []rule {
	if b.o.Method == slo.Timeslices {
		const rounding = "1e-9" // increase() extrapolates: 99 of 100 may be 0.98999...
		return []rule{{
			Record: sliceSeries, Labels: b.labels(),
			Expr: b.together("max", func(m slo.Member) string {
				return fmt.Sprintf("(%s + %s < bool %s)", ratio(m.Indicator.Name, "good", b.o.Slice), rounding, number(b.o.SliceTarget))
			}),
		}}
	}
	var list []rule
	for _, m := range b.o.Members {
		labels := b.labels()
		labels["sli_name"] = m.Indicator.Name
		list = append(list, rule{Record: sliceSeries, Expr: ratio(m.Indicator.Name, "bad", b.o.Slice), Labels: labels})
	}
	return list
}

// overSlices aggregates the recorded slices of a member (of all with Timeslices) over a window.
func (b builder) overSlices(function, indicator string, window time.Duration) string {
	labels := fmt.Sprintf("slo_name=%q", b.o.Name)
	if b.o.Method == slo.RatioTimeslices {
		labels += fmt.Sprintf(",sli_name=%q", indicator)
	}
	return fmt.Sprintf("sum(%s(%s{%s}[%s]))", function, sliceSeries, labels, slo.Shorthand(window))
}

// burn is the burn rate over a window.
func (b builder) burn(window time.Duration) string {
	switch b.o.Method {
	case slo.Timeslices:
		return b.overSlices("avg_over_time", "", b.o.Widened(window)) + " / " + allowed(b.o.Target)
	case slo.RatioTimeslices:
		return b.together("sum", func(m slo.Member) string {
			return weighted(m, b.overSlices("avg_over_time", m.Indicator.Name, b.o.Widened(window))+" / "+allowed(m.Target))
		})
	}
	return b.together("sum", func(m slo.Member) string {
		return weighted(m, ratio(m.Indicator.Name, "bad", window)+" / "+allowed(m.Target))
	})
}

// budget is what is left of the budget: slices are time, events are as many as the measured part of the period promises.
func (b builder) budget() string {
	period := b.o.Period()
	perSlice := fmt.Sprintf("%d / %d", int64(b.o.Slice/time.Second), int64(period/time.Second))
	switch b.o.Method {
	case slo.Timeslices:
		return "1 - " + b.overSlices("sum_over_time", "", period) + " * " + perSlice + " / " + allowed(b.o.Target)
	case slo.RatioTimeslices:
		return "1 - " + b.together("sum", func(m slo.Member) string {
			return weighted(m, b.overSlices("sum_over_time", m.Indicator.Name, period)+" * "+perSlice+" / "+allowed(m.Target))
		})
	}
	return "1 - " + b.together("sum", func(m slo.Member) string {
		measured := fmt.Sprintf("max(count_over_time(%s[%s])) / %d",
			selector(incrementSeries, m.Indicator.Name, ""), slo.Shorthand(period), int64(period/increment))
		return weighted(m, recorded(m.Indicator.Name, "bad", period)+" / ("+recorded(m.Indicator.Name, "", period)+" > 0) / "+
			allowed(m.Target)+" * "+measured)
	})
}

// alerts returns the alerts of the objective, and those that guard it: budget spent, data absent, coverage too low.
func (b builder) alerts() []rule {
	var list []rule
	for _, a := range b.activeAlerts() {
		if a.OnBurn {
			list = append(list, b.burnAlert(a))
		}
		if a.OnNoData {
			list = append(list, b.alert("SLONoData", a.Severity, silence,
				fmt.Sprintf("absent(%s%s{slo_name=%q})", burnSeries, slo.Shorthand(a.Long), b.o.Name),
				"has no data in "+slo.Shorthand(a.Long)))
		}
	}
	if b.o.Window.Rolling() {
		list = append(list, b.alert("SLOBudgetSpent", "ticket", "",
			fmt.Sprintf("%s{slo_name=%q} <= 0%s", budgetSeries, b.o.Name, b.enoughBad(b.o.Period())),
			"has used up its budget of "+b.o.Window.String()))
	}
	for _, m := range b.o.Members {
		name := m.Indicator.Name
		absent := b.alert("SLIAbsent", "ticket", silence, fmt.Sprintf("absent(%s)", selector(eventsSeries, name, "")),
			"is not measured: no host counts "+name)
		coverage := b.alert("SLICoverageLow", "ticket", silence,
			fmt.Sprintf("min(%s) < %g", selector(coverageSeries, name, ""), slo.MinCoverage),
			"cannot be trusted: a host does not understand all events of "+name)
		absent.Labels["sli_name"], coverage.Labels["sli_name"] = name, name
		list = append(list, absent, coverage)
	}
	return list
}

// alert makes an alert; what ends the sentence that begins with the objective.
func (b builder) alert(name, severity, wait, expr, what string) rule {
	labels := b.labels()
	service := literal(b.o.Service)
	labels["service_name"], labels["severity"] = service, literal(severity)
	return rule{
		Alert: name, Expr: expr, For: wait, Labels: labels,
		Annotations: map[string]string{"summary": fmt.Sprintf("%s of %s %s.", b.o.Name, service, what)},
	}
}

// literal keeps a text from being taken for a template, which labels and annotations of alerts are.
func literal(s string) string { return strings.ReplaceAll(s, "{{", `{{ "{{" }}`) }

func (b builder) burnAlert(a slo.Alert) rule {
	over := func(w time.Duration) string {
		return fmt.Sprintf("%s%s{slo_name=%q} %s %s", burnSeries, slo.Shorthand(w), b.o.Name, a.Op.Symbol(), number(a.Threshold))
	}
	expr := over(a.Long)
	if a.Short != a.Long {
		expr += " and " + over(a.Short)
	}
	if a.Op == slo.GT || a.Op == slo.GTE {
		expr += b.enoughBad(a.Long)
	}
	wait := ""
	if a.After > 0 {
		wait = slo.Shorthand(a.After)
	}
	r := b.alert("SLOBurn", a.Severity, wait, expr,
		fmt.Sprintf(`burns its budget of %s {{ printf "%%.1f" $value }} times too fast (in %s)`, b.o.Window, slo.Shorthand(a.Long)))
	r.Labels["slo_alert"] = a.Name
	return r
}

// enoughBad demands a minimum of bad events: single ones are no outage, however few good ones there are.
func (b builder) enoughBad(window time.Duration) string {
	if b.o.Method != slo.Occurrences {
		return ""
	}
	bad := b.together("sum", func(m slo.Member) string { return counted(m.Indicator.Name, "bad", window) })
	return fmt.Sprintf(" and on () (%s > %g)", bad, someBad)
}
