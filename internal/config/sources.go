package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/slo"
)

// scrape decodes the short form of a scrape: counters of good (or bad) and all events, or a histogram and one of its bounds.
func (d *decoder) scrape(v value, s *slo.Scrape) {
	var histogram slo.Selector
	var bound string
	seen := d.mapping(v, []field{
		{"url", addressExample, func(v value) { d.address(v, &s.URL) }},
		{"good", selectorExample, func(v value) { d.selector(v, &s.Good) }},
		{"bad", `'http_requests_total{code=~"5.."}'`, func(v value) { d.selector(v, &s.Bad) }},
		{"total", "http_requests_total", func(v value) { d.selector(v, &s.Total) }},
		{"histogram", "http_request_duration_seconds", func(v value) { d.histogram(v, &histogram) }},
		{"le", "0.3", func(v value) { d.bucketBound(v, &bound) }},
	})
	d.require(v, seen, "url", "add e.g. url: "+addressExample)
	switch {
	case seen == nil:
	case seen["histogram"] && (seen["good"] || seen["bad"] || seen["total"]):
		d.wrong(v, "has histogram beside good, bad or total", "give histogram and le alone, or good and total")
	case seen["le"] && !seen["histogram"]:
		d.wrong(v, "has le without histogram", "add histogram, or name the bucket in good")
	case seen["histogram"]:
		d.require(v, seen, "le", "add the bound up to which events are good, e.g. le: 0.3")
		s.Good = histogram.With(histogram.Metric+"_bucket", slo.Matcher{Label: slo.BucketLabel, Op: slo.Equal, Value: bound})
		s.Total = histogram.With(histogram.Metric + "_count")
	case seen["good"] && seen["bad"]:
		d.wrong(v, "has both good and bad", "keep one of the two")
	case !seen["good"] && !seen["bad"]:
		d.wrong(v, "has neither good, bad nor histogram", "add e.g. good: "+selectorExample)
	default:
		d.require(v, seen, "total", "add e.g. total: http_requests_total")
	}
}

const (
	addressExample  = "http://127.0.0.1:9090/metrics"
	selectorExample = `'http_requests_total{code!~"5.."}'`
)

// address decodes the address of metrics. Messages do not repeat it: people put passwords into URLs.
func (d *decoder) address(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		d.wrong(v, "is no address of metrics", "write e.g. "+addressExample+", or https")
		return
	}
	what, remedy := targetFault(u)
	switch {
	case u.User != nil:
		what, remedy = "has a user name", "remove it: slid sends no credentials"
	case what != "":
	case u.Fragment != "":
		what, remedy = "has a fragment, which no server gets to see", "remove it"
	case u.Path == "":
		what, remedy = "has no path", "write e.g. "+addressExample
	}
	if what != "" {
		d.wrong(v, what, remedy)
		return
	}
	*into = s
}

// selector decodes the name of series in PromQL.
func (d *decoder) selector(v value, into *slo.Selector) {
	text, ok := d.line(v, slo.MaxSelector)
	if !ok {
		return
	}
	s, err := slo.ParseSelector(text)
	if bad, ok := errors.AsType[*slo.ConditionError](err); ok {
		d.wrong(v, fmt.Sprintf("at character %d: %s", bad.At, bad.What), bad.Remedy)
		return
	}
	*into = s
}

// histogram decodes the name of a histogram, without the ends that its series have.
func (d *decoder) histogram(v value, into *slo.Selector) {
	var s slo.Selector
	if d.selector(v, &s); s.Metric == "" {
		return
	}
	for _, end := range []string{"_bucket", "_count", "_sum"} {
		if whole, ok := strings.CutSuffix(s.Metric, end); ok {
			d.wrong(v, show(s.Metric)+" is a series of a histogram", "write the histogram itself: "+whole)
			return
		}
	}
	if slices.ContainsFunc(s.Matchers, func(m slo.Matcher) bool { return m.Label == slo.BucketLabel }) {
		d.wrong(v, "has a matcher for le", "write the bound as le: 0.3 beside the histogram")
		return
	}
	*into = s
}

// bucketBound decodes the bound of a bucket, in the unit of the histogram.
func (d *decoder) bucketBound(v value, into *string) {
	if v.node.Kind == yaml.ScalarNode && durationForm.MatchString(v.node.Value) {
		d.wrong(v, show(v.node.Value)+" is a duration, and bounds are numbers", "write it in the unit of the histogram, mostly seconds: le: 0.3")
		return
	}
	if f, ok := d.number(v); ok {
		*into = strconv.FormatFloat(f, 'g', -1, 64)
	}
}

// running decodes a unit, container or program: the name of a unit alone, or what must agree.
func (d *decoder) running(v value, r *slo.Running) {
	if v.node.Kind == yaml.ScalarNode && !isNull(v.node) {
		d.unit(v, &r.Unit)
		return
	}
	seen := d.mapping(v, runningFields(d, r))
	if isNull(v.node) || seen != nil && len(seen) == 0 {
		d.wrong(v, "is empty", "set unit, container or command")
	}
}

func runningFields(d *decoder, r *slo.Running) []field {
	return []field{
		{"unit", "nginx.service", func(v value) { d.unit(v, &r.Unit) }},
		{"container", "4c01db0b339c", func(v value) { r.Container, _ = d.text(v) }},
		{"command", "nginx", func(v value) { r.Command, _ = d.text(v) }},
	}
}

// resource decodes which figure of what is meant.
func (d *decoder) resource(v value, r *slo.Resource) {
	seen := d.mapping(v, resourceFields(d, r))
	if isNull(v.node) {
		seen = map[string]bool{}
	}
	d.checkResource(v, seen, r)
}

func resourceFields(d *decoder, r *slo.Resource) []field {
	return []field{
		{"figure", "memory", func(v value) { r.Figure = slo.Figure(d.oneOf(v, slo.Figures()...)) }},
		{"unit", "checkout.service", func(v value) { d.unit(v, &r.Unit) }},
		{"mount", "/var", func(v value) {
			if r.Mount, _ = d.text(v); r.Mount != "" && r.Mount[0] != '/' {
				d.wrong(v, show(r.Mount)+" is no mount point", "begin it with /, e.g. /var")
			}
		}},
	}
}

// checkResource checks that what is given fits the figure.
func (d *decoder) checkResource(v value, seen map[string]bool, r *slo.Resource) {
	d.require(v, seen, "figure", "add e.g. figure: memory")
	switch {
	case seen == nil || r.Figure == "":
	case r.Figure.Mounted():
		d.require(v, seen, "mount", "add e.g. mount: /var")
		if seen["unit"] {
			d.wrong(v, "a unit has no figure "+string(r.Figure), "remove unit")
		}
	case seen["mount"]:
		d.wrong(v, "mount means nothing to the figure "+string(r.Figure), "remove it, or use filesystem or inodes")
	case r.Unit == "" && !r.Figure.OfHost():
		d.wrong(v, "the host as a whole has no figure "+string(r.Figure), "add unit, or use "+string(slo.PressureCPUSome))
	}
}

// bound decodes what a share is compared with.
func (d *decoder) bound(v value, into *slo.Bound) {
	text, ok := d.text(v)
	if !ok {
		return
	}
	b, what, remedy := slo.ParseBound(text)
	if what != "" {
		d.wrong(v, what, remedy)
		return
	}
	*into = b
}
