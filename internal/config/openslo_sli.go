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

// ownSpec is the spec of a source of our own.
type ownSpec struct {
	selection  slo.Selection
	where      slo.Condition
	whereAt    value // node nil: there is none
	exclude    slo.Condition
	percentile float64 // of a threshold metric, 0 to 1
}

// ownSpec decodes the spec of a source of our own. Which keys it may have depends on the role of the metric: "good",
// "bad", "total" or "threshold".
func (d *decoder) ownSpec(m *metricSource, role, service string) (s ownSpec, sound bool) {
	before := len(d.problems)
	s.selection = slo.Selection{Service: service, Methods: slo.AllMethods}
	fields := []field{
		{"source", "traffic", func(v value) { d.oneOf(v, "traffic") }},
		{"select", "{service: checkout, route: /pay/}", func(v value) { d.selection(v, &s.selection) }},
	}
	switch role {
	case "good", "bad":
		fields = append(fields, field{"where", `"status < 500 && duration <= 300ms"`, func(v value) {
			s.whereAt = v
			d.condition(v, &s.where)
		}})
	case "threshold":
		fields = append(fields, field{"percentile", "99", func(v value) { d.percentile(v, &s.percentile) }})
		fallthrough
	case "total":
		fields = append(fields, field{"exclude", `"status == 404"`, func(v value) { d.condition(v, &s.exclude) }})
	}
	seen := d.mapping(m.spec, fields)
	d.require(m.spec, seen, "source", "add source: traffic")
	switch {
	case role == "threshold":
		d.require(m.spec, seen, "percentile", "add e.g. percentile: 99")
	case role != "total" && seen != nil && !seen["where"]:
		d.wrong(m.spec, role+" has no where: it does not narrow its total",
			`add e.g. where: "status < 500 && duration <= 300ms"`)
	}
	return s, seen != nil && len(d.problems) == before
}

func (d *decoder) selection(v value, s *slo.Selection) {
	d.mapping(v, []field{
		{"service", "checkout", func(v value) {
			if name, ok := d.text(v); ok {
				s.Service = name
			}
		}},
		{"route", "/pay/", func(v value) { d.route(v, &s.Route) }},
		{"methods", "[GET, HEAD]", func(v value) { d.methods(v, &s.Methods) }},
	})
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

// describeSelection says in words which requests are selected.
func describeSelection(s slo.Selection) string {
	text := fmt.Sprintf("service %s", show(s.Service))
	if s.Route != "" {
		text += ", route " + show(s.Route)
	}
	if s.Methods != slo.AllMethods {
		text += ", " + strings.Join(s.Methods.Names(), " ")
	}
	return text
}
