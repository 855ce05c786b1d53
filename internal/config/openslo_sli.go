package config

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// sliSpec is the spec of an SLI: a threshold metric or a ratio.
type sliSpec struct {
	threshold             *metricSource
	good, bad, total, raw *metricSource
}

// A metricSource is where a number comes from.
type metricSource struct {
	at   value
	ref  reference // to a DataSource
	typ  string    // of the source; empty: the DataSource's
	spec value     // the source's own words
}

func (d *decoder) sliSpec(v value, description field) sliSpec {
	var s sliSpec
	seen := d.mapping(v, []field{
		description,
		{"thresholdMetric", "{metricSource: {type: slid}}", func(v value) { s.threshold = d.leaf(v) }},
		{"ratioMetric", "{counter: true}", func(v value) { d.ratio(v, &s) }},
	})
	if seen != nil && seen["thresholdMetric"] == seen["ratioMetric"] {
		what := "has neither thresholdMetric nor ratioMetric"
		if seen["ratioMetric"] {
			what = "has both thresholdMetric and ratioMetric"
		}
		d.wrong(v, what, "give one of the two")
	}
	return s
}

// ratio decodes a ratio: good or bad events among all, or a raw ratio.
func (d *decoder) ratio(v value, s *sliSpec) {
	seen := d.mapping(v, []field{
		{"counter", "true", func(v value) { var counter bool; d.truth(v, &counter) }},
		{"good", "{metricSource: {type: slid}}", func(v value) { s.good = d.leaf(v) }},
		{"bad", "{metricSource: {type: slid}}", func(v value) { s.bad = d.leaf(v) }},
		{"total", "{metricSource: {type: slid}}", func(v value) { s.total = d.leaf(v) }},
		{"raw", "{metricSource: {type: Prometheus}}", func(v value) { s.raw = d.leaf(v) }},
		{"rawType", "success", func(v value) { d.oneOf(v, "success", "failure") }},
	})
	switch {
	case seen == nil:
	case seen["good"] && seen["bad"]:
		d.wrong(v, "has both good and bad", "keep one of the two")
	case seen["raw"] && (seen["good"] || seen["bad"] || seen["total"]):
		d.wrong(v, "has raw beside good, bad or total", "give raw alone, or good and total")
	case seen["raw"] && !seen["rawType"]:
		d.wrong(v, "rawType is missing", "add rawType: success or rawType: failure")
	case seen["rawType"] && !seen["raw"]:
		d.wrong(v, "has rawType without raw", "remove rawType")
	case seen["total"] && !seen["good"] && !seen["bad"]:
		d.wrong(v, "has a total without good or bad", "add good")
	case (seen["good"] || seen["bad"]) && !seen["total"]:
		d.wrong(v, "total is missing", "add total")
	case !seen["raw"] && !seen["total"]:
		d.wrong(v, "is empty", "add good and total")
	}
}

// oneOf decodes one of some words.
func (d *decoder) oneOf(v value, words ...string) string {
	s, ok := d.text(v)
	if !ok {
		return ""
	}
	if slices.Contains(words, s) {
		return s
	}
	d.wrong(v, "there is no "+show(s), suggest(s, words, "write one of"))
	return ""
}

// leaf decodes what holds a metricSource.
func (d *decoder) leaf(v value) *metricSource {
	m := &metricSource{at: v}
	seen := d.mapping(v, []field{{"metricSource", "{type: slid}", func(v value) {
		m.at = v
		seen := d.mapping(v, []field{
			{"metricSourceRef", "my-datasource", func(v value) { m.ref = d.reference(v) }},
			{"type", "slid", func(v value) { m.typ, _ = d.text(v) }},
			{"spec", "{source: traffic}", func(v value) { m.spec = v }},
		})
		if seen != nil && !seen["type"] && !seen["metricSourceRef"] {
			d.wrong(v, "has neither type nor metricSourceRef", "add e.g. type: slid")
		}
		d.require(v, seen, "spec", "add spec:")
	}}})
	d.require(v, seen, "metricSource", "add metricSource:")
	return m
}

// ownType is the type of the sources that slid measures itself.
const ownType = "slid"

func own(typ string) bool { return strings.EqualFold(typ, ownType) }

// ownSpec is the spec of a source of our own: what it selects stands in the indicator.
type ownSpec struct {
	source     string
	indicator  slo.Indicator
	metric     slo.Selector // of a scrape
	metricAt   value
	where      slo.Condition
	bound      slo.Bound // of a resource
	whereAt    value     // node nil: there is none
	exclude    slo.Condition
	percentile float64 // of a threshold metric, 0 to 1
}

// at returns the place that says what is good or bad.
func (s ownSpec) at() value {
	if s.metricAt.node != nil {
		return s.metricAt
	}
	return s.whereAt
}

// ownSpec decodes the spec of a source of our own. Which keys it may have depends on the source and on the role of the metric:
// "good", "bad", "total" or "threshold".
func (d *decoder) ownSpec(m *metricSource, role, service string) (s ownSpec, sound bool) {
	before := len(d.problems)
	s.indicator.Select = slo.Selection{Service: service, Methods: slo.AllMethods}
	s.source = slo.TrafficSource
	if n := child(m.spec.node, "source"); n != nil && slices.Contains(slo.Sources(), n.Value) {
		s.source = n.Value
	}
	fields := slices.Concat([]field{
		{"source", "traffic", func(v value) { d.oneOf(v, slo.Sources()...) }},
		{"select", "{service: checkout, route: /pay/}", func(v value) { d.selection(v, &s) }},
	}, d.roleFields(&s, role))
	seen := d.mapping(m.spec, fields)
	d.require(m.spec, seen, "source", "add source: traffic")
	if seen != nil {
		d.checkRole(m.spec, seen, s, role)
	}
	return s, seen != nil && len(d.problems) == before
}

// roleFields returns the keys that a metric has by its source and its role.
func (d *decoder) roleFields(s *ownSpec, role string) []field {
	part := role == "good" || role == "bad"
	where := func(example string, decode func(value)) []field {
		if !part {
			return nil
		}
		return []field{{"where", example, func(v value) { s.whereAt = v; decode(v) }}}
	}
	switch s.source {
	case slo.ScrapeSource:
		return []field{{"metric", selectorExample, func(v value) { s.metricAt = v; d.selector(v, &s.metric) }}}
	case slo.UnitSource:
		word := map[string]string{"good": "active", "bad": "inactive"}[role]
		return where(word, func(v value) { d.oneOf(v, word) })
	case slo.ResourceSource:
		return where(`"<= 90%"`, func(v value) { d.bound(v, &s.bound) })
	}
	if part {
		return where(goodExample, func(v value) { d.condition(v, &s.where) })
	}
	fields := []field{{"exclude", `"status == 404"`, func(v value) { d.condition(v, &s.exclude) }}}
	if role == "threshold" {
		fields = append(fields, field{"percentile", "99", func(v value) { d.percentile(v, &s.percentile) }})
	}
	return fields
}

// checkRole checks that a metric has what its source and its role need.
func (d *decoder) checkRole(v value, seen map[string]bool, s ownSpec, role string) {
	if s.source != slo.TrafficSource {
		d.require(v, seen, "select", "add "+map[string]string{
			slo.ScrapeSource: "select: {url: " + addressExample + "}", slo.UnitSource: "select: {unit: checkout.service}",
			slo.ResourceSource: "select: {figure: memory}",
		}[s.source])
	}
	example := map[string]string{
		slo.TrafficSource: goodExample, slo.UnitSource: "active", slo.ResourceSource: `"<= 90%"`,
	}[s.source]
	if role == "bad" && s.source == slo.UnitSource {
		example = "inactive"
	}
	switch {
	case role == "threshold" && s.source == slo.TrafficSource:
		d.require(v, seen, "percentile", "add e.g. percentile: 99")
	case role == "threshold" && s.source != slo.ResourceSource:
		d.wrong(v, "the source "+s.source+" has no figure that could be compared", "use a ratioMetric, or source: resource")
	case s.source == slo.ScrapeSource:
		d.require(v, seen, "metric", "add e.g. metric: "+selectorExample)
	case (role == "good" || role == "bad") && !seen["where"]:
		d.wrong(v, role+" has no where: it does not narrow its total", "add e.g. where: "+example)
	}
}

// selection decodes what a source selects.
func (d *decoder) selection(v value, s *ownSpec) {
	i := &s.indicator
	service := field{"service", "checkout", func(v value) {
		if name, ok := d.text(v); ok {
			i.Select.Service = name
		}
	}}
	switch s.source {
	case slo.ScrapeSource:
		i.Scrape = &slo.Scrape{}
		seen := d.mapping(v, []field{service, {"url", addressExample, func(v value) { d.address(v, &i.Scrape.URL) }}})
		d.require(v, seen, "url", "add e.g. url: "+addressExample)
	case slo.UnitSource:
		i.Unit = &slo.Running{}
		seen := d.mapping(v, append(runningFields(d, i.Unit), service))
		if seen != nil && !seen["unit"] && !seen["container"] && !seen["command"] {
			d.wrong(v, "selects nothing", "set unit, container or command")
		}
	case slo.ResourceSource:
		i.Resource = &slo.Resource{}
		seen := d.mapping(v, append(resourceFields(d, i.Resource), service))
		d.checkResource(v, seen, i.Resource)
	default:
		d.mapping(v, []field{
			service,
			{"route", "/pay/", func(v value) { d.route(v, &i.Select.Route) }},
			{"methods", "[GET, HEAD]", func(v value) { d.methods(v, &i.Select.Methods) }},
		})
	}
}

func (d *decoder) percentile(v value, into *float64) {
	f, ok := d.number(v)
	if !ok {
		return
	}
	if f <= 0 || f >= 100 {
		d.wrong(v, show(v.node.Value)+" is no percentile", "use a number between 0 and 100, e.g. percentile: 99")
		return
	}
	*into = f / 100
}

// number decodes a number, which YAML's .inf and .nan are not.
func (d *decoder) number(v value) (float64, bool) {
	if !d.has(v, yaml.ScalarNode, "a number") {
		return 0, false
	}
	var f float64
	if tag := v.node.ShortTag(); tag != "!!int" && tag != "!!float" || v.node.Decode(&f) != nil {
		d.mistyped(v, "a number")
		return 0, false
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		d.wrong(v, show(v.node.Value)+" is no number", "write it like this: "+v.example)
		return 0, false
	}
	return f, true
}

// describeSelection says in words what an indicator is about.
func describeSelection(i slo.Indicator) string {
	s := i.Select
	text := fmt.Sprintf("service %s", show(s.Service))
	switch i.Source() {
	case slo.ScrapeSource:
		return text + ", metrics of " + show(i.Scrape.URL)
	case slo.UnitSource:
		return text + ", " + show(i.Unit.String())
	case slo.ResourceSource:
		what := *i.Resource
		what.Bound = slo.Bound{Op: slo.LTE}
		return text + ", " + show(strings.TrimSuffix(what.String(), " "+what.Bound.String()))
	}
	if s.Route != "" {
		text += ", route " + show(s.Route)
	}
	if s.Methods != slo.AllMethods {
		text += ", " + strings.Join(s.Methods.Names(), " ")
	}
	return text
}
