package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// The limits of an objective's window. The slots of a history are as wide as an hour; a year is the longest that a
// team plans for.
const (
	minWindow = time.Hour
	maxWindow = 366 * 24 * time.Hour
)

// nameForm is what objectives and OpenSLO's objects may be called (RFC 1123, section 2.1: a label of a host name).
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// name decodes the name of an objective or of an OpenSLO object.
func (d *decoder) name(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if !nameForm.MatchString(s) {
		d.wrong(v, show(s)+" is no name", "use up to 63 lower-case letters, digits and dashes, no dash at the ends")
		return
	}
	*into = s
}

// slos decodes the short form of objectives.
func (d *decoder) slos(v value, c *Config) {
	first := make(map[string]string) // the path of the first objective of a name
	d.list(v, func(v value) {
		o, sound := d.slo(v)
		if other := first[o.Name]; other != "" {
			d.wrong(v, fmt.Sprintf("has the name %s, as has %s", o.Name, other), "give each its own name")
			return
		} else if o.Name != "" {
			first[o.Name] = v.path
		}
		if sound {
			c.SLOs = append(c.SLOs, o)
			c.places = append(c.places, *d.problem(v.node, v.path, "", ""))
		}
	})
}

// slo decodes one objective and tells whether nothing is wrong with it.
func (d *decoder) slo(v value) (o slo.Objective, sound bool) {
	before := len(d.problems)
	i := slo.Indicator{Select: slo.Selection{Methods: slo.AllMethods}}
	at := make(map[string]value) // the keys whose meaning depends on the source
	keep := func(key string) func(value) { return func(v value) { at[key] = v } }
	seen := d.mapping(v, []field{
		{"name", "checkout-fast", func(v value) { d.name(v, &o.Name) }},
		{"service", "checkout", func(v value) { o.Service, _ = d.text(v) }},
		{"scrape", "{url: http://127.0.0.1:9090/metrics, good: up_total, total: all_total}", keep("scrape")},
		{"unit", "checkout.service", keep("unit")},
		{"resource", "{figure: memory}", keep("resource")},
		{"route", "/pay/", keep("route")},
		{"methods", "[GET, HEAD]", keep("methods")},
		{"good", goodExample, keep("good")},
		{"target", "99.9%", func(v value) { d.percentage(v, &o.Target) }},
		{"window", "28d", func(v value) { d.window(v, &o.Window.Span) }},
	})
	if seen != nil {
		d.sourceOf(v, at, &i)
	}
	for _, f := range []struct{ key, example string }{
		{"name", "checkout-fast"},
		{"service", "checkout"},
		{"good", goodExample},
		{"target", "99.9%"},
		{"window", "28d"},
	} {
		if f.key != "good" || i.Source() == slo.TrafficSource {
			d.require(v, seen, f.key, "add e.g. "+f.key+": "+f.example)
		}
	}
	if seen == nil || len(d.problems) > before {
		return o, false
	}
	i.Name, i.Select.Service = o.Name, o.Service
	o.Members = []slo.Member{{Indicator: i, Target: o.Target, Weight: 1}}
	place, said := at["good"]
	if !said {
		place = v
	}
	return o, d.measurable(place, i)
}

// goodExample is a good condition on requests.
const goodExample = `"status < 500 && duration <= 300ms"`

// sourceOf decodes the keys that say what is counted: of requests, or of another source.
func (d *decoder) sourceOf(v value, at map[string]value, i *slo.Indicator) {
	var sources []string
	for _, key := range []string{"scrape", "unit", "resource"} {
		if _, ok := at[key]; ok {
			sources = append(sources, key)
		}
	}
	if len(sources) > 1 {
		d.wrong(v, "has both "+sources[0]+" and "+sources[1], "write another objective for one of them")
	}
	means := map[string]func(value){
		"route":   func(v value) { d.route(v, &i.Select.Route) },
		"methods": func(v value) { d.methods(v, &i.Select.Methods) },
		"good":    func(v value) { d.condition(v, &i.Good) },
	}
	if len(sources) > 0 {
		means = map[string]func(value){}
	}
	for _, source := range sources {
		switch source {
		case "scrape":
			i.Scrape = &slo.Scrape{}
			means[source] = func(v value) { d.scrape(v, i.Scrape) }
		case "unit":
			i.Unit = &slo.Running{}
			means[source] = func(v value) { d.running(v, i.Unit) }
		case "resource":
			i.Resource = &slo.Resource{}
			means[source] = func(v value) { d.resource(v, i.Resource) }
			means["good"] = func(v value) { d.bound(v, &i.Resource.Bound) }
			if _, ok := at["good"]; !ok {
				d.wrong(v, "good is missing", `add e.g. good: "<= 90%"`)
			}
		}
	}
	for _, key := range []string{"scrape", "unit", "resource", "route", "methods", "good"} {
		switch place, ok := at[key]; {
		case !ok:
		case means[key] == nil && key == "good":
			d.wrong(place, "means nothing with "+sources[0]+", which says by itself what is good", "remove it")
		case means[key] == nil:
			d.wrong(place, "means nothing with "+sources[0]+": it is about requests", "remove it")
		default:
			if key == "good" && i.Resource != nil {
				place.example = `good: "<= 90%"`
			}
			means[key](place)
		}
	}
}

// measurable tells whether an indicator can be counted and says something, and notes at v if not.
func (d *decoder) measurable(v value, i slo.Indicator) bool {
	for _, fault := range []func() (string, string){i.NarrowingFault, i.KernelFault} {
		if what, remedy := fault(); what != "" {
			d.wrong(v, what, remedy)
			return false
		}
	}
	return true
}

// condition decodes a condition on events.
func (d *decoder) condition(v value, into *slo.Condition) {
	s, ok := d.line(v, slo.MaxCondition)
	if !ok {
		return
	}
	c, err := slo.ParseCondition(s)
	if bad, ok := err.(*slo.ConditionError); ok { //nolint:errorlint // the function returns no other
		d.wrong(v, fmt.Sprintf("at character %d: %s", bad.At, bad.What), bad.Remedy)
		return
	}
	*into = c
}

// routes decodes the routes by which a service's requests are counted.
func (d *decoder) routes(v value) []string {
	var list []string
	d.words(v, func(v value, _ string) {
		var r string
		if d.route(v, &r); r != "" {
			list = append(list, r)
		}
	})
	return list
}

func (d *decoder) route(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if what, remedy := slo.RouteFault(s); what != "" {
		d.wrong(v, what, remedy)
		return
	}
	*into = s
}

// methods decodes a list of request methods.
func (d *decoder) methods(v value, into *slo.MethodSet) {
	var set slo.MethodSet
	before := len(d.problems)
	d.words(v, func(v value, word string) {
		m, ok := slo.MethodsOf(word)
		if !ok {
			d.wrong(v, "there is no method "+show(word), suggest(word, slo.Methods(), "methods"))
		}
		set |= m
	})
	if len(d.problems) > before {
		return
	}
	if set == 0 {
		d.wrong(v, "has no method", "list some or remove the key")
		return
	}
	*into = set
}

// percentage decodes a target: 99.9% or 0.999, above 0 and below 1.
func (d *decoder) percentage(v value, into *float64) {
	if !d.has(v, yaml.ScalarNode, "a percentage") {
		return
	}
	s := v.node.Value
	number, percent := strings.CutSuffix(s, "%")
	number = strings.TrimSpace(number)
	if percent {
		number += "e-2" // exact, where a division by 100 would make 0.9990000000000001 of 99.9
	}
	f, err := strconv.ParseFloat(number, 64)
	d.target(v, f, err == nil, percent, into)
}

// target checks a target between 0 and 1. percent tells whether it was written in percent.
func (d *decoder) target(v value, f float64, isNumber, percent bool, into *float64) {
	s := show(v.node.Value)
	switch {
	case !isNumber || math.IsNaN(f):
		d.wrong(v, s+" is no share of events", "write e.g. "+v.example)
	case f <= 0:
		d.wrong(v, "a target of "+s+" promises nothing", "write e.g. "+v.example)
	case f == 1:
		d.wrong(v, "a target of "+s+" leaves no budget: the first bad event breaks it", "write e.g. "+v.example)
	case f > 1 && f < 100 && !percent:
		d.wrong(v, s+" is more than 1, which is all", "write e.g. "+v.example)
	case f > 1:
		d.wrong(v, s+" is more than all", "write e.g. "+v.example)
	default:
		*into = f
	}
}

// window decodes how long a budget lasts.
func (d *decoder) window(v value, into *slo.Span) {
	var span slo.Span
	if !d.span(v, &span) {
		return
	}
	switch {
	case span.Unit == slo.Minute && span.Duration() < minWindow:
		d.wrong(v, span.String()+" means minutes, too short for a budget",
			fmt.Sprintf("write %dM for months, or at least 1h", span.Count))
	case span.Duration() < minWindow:
		d.wrong(v, span.String()+" is too short for a budget", "use 1h to 1Y")
	case span.Duration() > maxWindow:
		d.wrong(v, span.String()+" is too long for a budget", "use 1h to 1Y")
	default:
		*into = span
	}
}

// span decodes OpenSLO's duration shorthand.
func (d *decoder) span(v value, into *slo.Span) bool {
	if !d.has(v, yaml.ScalarNode, "a duration") {
		return false
	}
	span, ok := slo.ParseSpan(v.node.Value)
	if !ok {
		d.wrong(v, show(v.node.Value)+" is no duration",
			"write a whole number and m, h, d, w, M (month), Q or Y, e.g. "+v.example)
		return false
	}
	*into = span
	return true
}
