package config

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// sloSpec is the spec of an SLO.
type sloSpec struct {
	service      string
	description  string
	indicator    *object // inline
	indicatorRef reference
	window       slo.Window
	method       slo.Method
	methodKnown  bool
	objectives   []objectiveSpec
	policies     []policyUse
}

// objectiveSpec is an item of an SLO's objectives.
type objectiveSpec struct {
	at           value
	seen         map[string]bool
	target       float64
	op           slo.Op
	value        float64 // of a threshold metric
	sliceTarget  float64
	slice        time.Duration
	indicator    *object // of a composite, inline
	indicatorRef reference
	weight       float64
}

// composite tells whether the objective brings its own indicator.
func (o objectiveSpec) composite() bool { return o.seen["indicator"] || o.seen["indicatorRef"] }

func (d *decoder) sloSpec(v value) sloSpec {
	var s sloSpec
	seen := d.mapping(v, []field{
		{"description", "what it is", func(v value) { s.description = d.prose(v) }},
		{"service", "checkout", func(v value) { s.service, _ = d.text(v) }},
		{"indicator", "{metadata: {name: errors}}", func(v value) { s.indicator = d.object(v, "SLI") }},
		{"indicatorRef", "errors", func(v value) { s.indicatorRef = d.reference(v) }},
		{"timeWindow", "[{duration: 28d, isRolling: true}]", func(v value) { d.timeWindow(v, &s.window) }},
		{"budgetingMethod", "Occurrences", func(v value) { s.method, s.methodKnown = d.method(v) }},
		{"objectives", "[{target: 0.999}]", func(v value) {
			d.list(v, func(v value) { s.objectives = append(s.objectives, d.objective(v)) })
			if len(s.objectives) == 0 {
				d.wrong(v, "has no objective", "write it like this: "+v.example)
			}
		}},
		{"alertPolicies", "[{alertPolicyRef: page}]", func(v value) {
			d.list(v, func(v value) { s.policies = append(s.policies, d.policyUse(v)) })
		}},
	})
	d.require(v, seen, "service", "add e.g. service: checkout")
	d.require(v, seen, "timeWindow", "add e.g. timeWindow: [{duration: 28d, isRolling: true}]")
	d.require(v, seen, "budgetingMethod", "add e.g. budgetingMethod: Occurrences")
	d.require(v, seen, "objectives", "add e.g. objectives: [{target: 0.999}]")
	d.checkIndicators(v, seen, s)
	if s.methodKnown {
		for _, o := range s.objectives {
			d.checkSlices(o, s)
		}
	}
	return s
}

// checkIndicators checks that there is one indicator for all objectives or one for each.
func (d *decoder) checkIndicators(v value, seen map[string]bool, s sloSpec) {
	if seen == nil {
		return
	}
	composites := 0
	for _, o := range s.objectives {
		if o.composite() {
			composites++
		}
		if o.seen["indicator"] && o.seen["indicatorRef"] {
			d.wrong(o.at, "has both indicator and indicatorRef", "keep one of the two")
		}
		if o.seen["compositeWeight"] && !o.composite() {
			d.wrong(o.at, "has a compositeWeight and no indicator of its own", "remove compositeWeight")
		}
	}
	own := seen["indicator"] || seen["indicatorRef"]
	switch {
	case seen["indicator"] && seen["indicatorRef"]:
		d.wrong(v, "has both indicator and indicatorRef", "keep one of the two")
	case own && composites > 0:
		d.wrong(v, "has an indicator, and so have its objectives", "keep the one, or those of the objectives for a composite")
	case !own && composites == 0:
		d.wrong(v, "has no indicator", "add indicator or indicatorRef")
	case composites > 0 && composites < len(s.objectives):
		d.wrong(v, "some objectives of the composite have no indicator", "give each one")
	}
}

// timeWindow decodes the list of exactly one window.
func (d *decoder) timeWindow(v value, into *slo.Window) {
	n := 0
	d.list(v, func(v value) {
		if n++; n == 1 {
			d.windowItem(v, into)
		}
	})
	if v.node.Kind == yaml.SequenceNode && n != 1 {
		d.wrong(v, fmt.Sprintf("has %d windows", n), "an SLO has exactly one; write another SLO for another window")
	}
}

func (d *decoder) windowItem(v value, into *slo.Window) {
	var rolling bool
	var calendar value
	seen := d.mapping(v, []field{
		{"duration", "28d", func(v value) { d.window(v, &into.Span) }},
		{"isRolling", "true", func(v value) { d.truth(v, &rolling) }},
		{"calendar", `{startTime: "2026-01-01 00:00:00", timeZone: UTC}`, func(v value) { calendar = v; d.calendar(v, into) }},
	})
	d.require(v, seen, "duration", "add e.g. duration: 28d")
	switch {
	case seen == nil:
	case rolling && seen["calendar"]:
		d.wrong(calendar, "a rolling window has no calendar", "remove calendar, or write isRolling: false")
	case !rolling && !seen["calendar"]:
		d.wrong(v, "is neither rolling nor has it a calendar", "add isRolling: true, or calendar")
	}
}

// calendar decodes from when on and in which time zone the periods of a window follow each other.
func (d *decoder) calendar(v value, into *slo.Window) {
	zone := time.UTC
	var start value
	seen := d.mapping(v, []field{
		{"startTime", `"2026-01-01 00:00:00"`, func(v value) { start = v }},
		{"timeZone", "Europe/Berlin", func(v value) {
			name, ok := d.text(v)
			if !ok {
				return
			}
			z, err := time.LoadLocation(name)
			if err != nil || name == "Local" {
				d.wrong(v, "this machine knows no time zone "+show(name),
					"use an IANA name such as Europe/Berlin (Debian has them in the package tzdata), or UTC")
				return
			}
			zone = z
		}},
	})
	d.require(v, seen, "startTime", `add e.g. startTime: "2026-01-01 00:00:00"`)
	d.require(v, seen, "timeZone", "add e.g. timeZone: UTC")
	if start.node == nil || !d.has(start, yaml.ScalarNode, "a time") {
		return
	}
	t, err := time.ParseInLocation(time.DateTime, start.node.Value, zone)
	if err != nil || t.Year() < 1970 || t.Year() > 2261 { // what nanoseconds since 1970 can say
		d.wrong(start, show(start.node.Value)+" is no time", `write it like this: startTime: "2026-01-01 00:00:00"`)
		return
	}
	into.Start = t
}

func (d *decoder) method(v value) (slo.Method, bool) {
	word := d.oneOf(v, slo.MethodNames()...)
	i := slices.Index(slo.MethodNames(), word)
	return slo.Method(max(i, 0)), i >= 0
}

func (d *decoder) objective(v value) objectiveSpec {
	o := objectiveSpec{at: v, weight: 1}
	o.seen = d.mapping(v, []field{
		{"displayName", "Most are fast", func(v value) { d.text(v) }},
		{"op", "lte", func(v value) { o.op = slo.Op(d.oneOf(v, slo.Ops()...)) }},
		{"value", "0.3", func(v value) { o.value, _ = d.number(v) }},
		{"target", "0.999", func(v value) { d.goal(v, 1, &o.target) }},
		{"targetPercent", "99.9", func(v value) { d.goal(v, 100, &o.target) }},
		{"timeSliceTarget", "0.95", func(v value) {
			if f, ok := d.number(v); ok && (f <= 0 || f > 1) {
				d.wrong(v, show(v.node.Value)+" is no share of a slice", "use more than 0 and at most 1")
			} else {
				o.sliceTarget = f
			}
		}},
		{"timeSliceWindow", "5m", func(v value) { d.slice(v, &o.slice) }},
		{"indicator", "{metadata: {name: errors}}", func(v value) { o.indicator = d.object(v, "SLI") }},
		{"indicatorRef", "errors", func(v value) { o.indicatorRef = d.reference(v) }},
		{"compositeWeight", "1", func(v value) {
			if f, ok := d.number(v); ok && f <= 0 {
				d.wrong(v, show(v.node.Value)+" is no weight", "use a number above 0")
			} else {
				o.weight = f
			}
		}},
	})
	if o.seen != nil && o.seen["target"] == o.seen["targetPercent"] {
		what := "has neither target nor targetPercent"
		if o.seen["target"] {
			what = "has both target and targetPercent"
		}
		d.wrong(v, what, "give one of the two")
	}
	return o
}

// goal decodes a target as a number of which whole is all.
func (d *decoder) goal(v value, whole float64, into *float64) {
	f, ok := d.number(v)
	if !ok {
		return
	}
	if whole == 100 {
		// As in percentage: the decimal point moves, nothing is divided.
		if exact, err := strconv.ParseFloat(v.node.Value+"e-2", 64); err == nil {
			f = exact
		} else {
			f /= whole
		}
	}
	d.target(v, f, true, whole == 100, into)
}

// slice decodes the length of a time slice: a number of minutes, or a duration.
func (d *decoder) slice(v value, into *time.Duration) {
	if v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!int" {
		minutes := *v.node
		minutes.Value += "m"
		v.node = &minutes
	}
	var span slo.Span
	if !d.span(v, &span) {
		return
	}
	if span.Duration() > 24*time.Hour {
		d.wrong(v, "a slice of "+span.String()+" is too long", "use 1m to 1d")
		return
	}
	*into = span.Duration()
}

// checkSlices checks the keys that depend on the budgeting method.
func (d *decoder) checkSlices(o objectiveSpec, s sloSpec) {
	if o.seen == nil {
		return
	}
	for _, k := range []struct {
		key, example string
		wanted       bool
	}{
		{"timeSliceTarget", "0.95", s.method == slo.Timeslices},
		{"timeSliceWindow", "5m", s.method != slo.Occurrences},
	} {
		switch {
		case k.wanted:
			d.require(o.at, o.seen, k.key, fmt.Sprintf("%s needs it: add e.g. %s: %s", s.method, k.key, k.example))
		case o.seen[k.key]:
			d.wrong(o.at, k.key+" means nothing with "+s.method.String(), "remove it")
		}
	}
	if p := s.window.Span; p.Count > 0 && o.slice*10 > p.Duration() {
		d.wrong(o.at, fmt.Sprintf("the window %s has less than ten slices", p), "use a shorter timeSliceWindow")
	}
}
