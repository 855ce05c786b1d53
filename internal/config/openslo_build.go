package config

import (
	"fmt"
	"reflect"
	"time"

	"github.com/slid-agent/slid/internal/slo"
)

// A builder makes objectives of decoded SLOs.
type builder struct {
	set        *documentSet
	docs       *Documents
	indicators map[string]knownIndicator // by name: counters carry it
	names      map[string]string         // of objectives, and the place of each
}

// knownIndicator is an indicator and where it was first used.
type knownIndicator struct {
	indicator slo.Indicator
	place     string
}

// slo makes objectives of an SLO, or notes who measures it.
func (b *builder) slo(o *object) {
	s := o.slo
	if o.broken {
		b.alerts(o) // dangling references are worth knowing at once
		return
	}
	base := slo.Objective{
		Name: o.name, Service: s.service, Description: s.description, Window: s.window, Method: s.method, Alerts: b.alerts(o),
	}
	if s.objectives[0].composite() {
		b.composite(o, base)
		return
	}
	sli := b.sli(o.d, s.indicator, s.indicatorRef)
	if sli == nil {
		return
	}
	if sli.sli.threshold != nil && len(s.objectives) > 1 {
		o.d.wrong(s.objectives[1].at, "an SLO with a thresholdMetric has one objective", "write another SLO for this one")
		return
	}
	for i, spec := range s.objectives {
		obj := base
		if len(s.objectives) > 1 {
			obj.Name = fmt.Sprintf("%s-%d", o.name, i+1)
		}
		member, other, ok := b.member(o.d, sli, spec, &obj)
		if other != "" {
			b.notLocal(o, other)
			return
		}
		if ok {
			obj.Members, obj.Target = []slo.Member{member}, member.Target
			b.take(o, spec.at, obj)
		}
	}
}

// composite makes one objective of members that have an indicator each.
func (b *builder) composite(o *object, obj slo.Objective) {
	for _, spec := range o.slo.objectives {
		sli := b.sli(o.d, spec.indicator, spec.indicatorRef)
		if sli == nil {
			return
		}
		member, other, ok := b.member(o.d, sli, spec, &obj)
		if other != "" {
			b.notLocal(o, other)
			return
		}
		if !ok {
			return
		}
		obj.Members = append(obj.Members, member)
		obj.Target = max(obj.Target, member.Target)
	}
	if first := o.slo.objectives[0]; obj.Method != slo.Occurrences {
		for _, spec := range o.slo.objectives {
			judgedAlike := spec.target == first.target && spec.sliceTarget == first.sliceTarget && spec.weight == 1
			if spec.slice != first.slice || obj.Method == slo.Timeslices && !judgedAlike {
				o.d.wrong(spec.at, "the slices of a composite are not the same for all",
					"give all the same timeSliceWindow; with Timeslices also the same target, timeSliceTarget and weight 1")
				return
			}
		}
	}
	b.take(o, o.slo.objectives[0].at, obj)
}

// take adds an objective if its name is free and its alerts can fire.
func (b *builder) take(o *object, at value, obj slo.Objective) {
	place := o.d.problem(at.node, at.path, "", "")
	if other := b.names[obj.Name]; other != "" {
		o.d.wrong(at, fmt.Sprintf("has the name %s, as has the objective at %s", obj.Name, other),
			"objectives of an SLO are numbered; rename the SLO")
		return
	}
	b.names[obj.Name] = place.place()
	for i, a := range obj.Alerts {
		if a.OnBurn && !a.CanFire(obj.Target) {
			o.d.wrong(o.slo.policies[i].place(o), fmt.Sprintf(
				"the alert %s can never fire: even if all is bad, the budget of a target of %g burns %.4g times too fast, not %g",
				a.Name, obj.Target, 1/obj.Allowed(), a.Threshold), "lower the threshold or raise the target")
		}
	}
	b.docs.Objectives = append(b.docs.Objectives, obj)
	b.docs.places = append(b.docs.places, *place)
}

// place returns where an SLO uses a policy.
func (u policyUse) place(o *object) value {
	if u.policy != nil {
		return u.policy.at
	}
	if u.ref.at.node != nil {
		return u.ref.at
	}
	return o.at
}

func (b *builder) notLocal(o *object, source string) {
	b.docs.NotLocal = append(b.docs.NotLocal, NotLocal{SLO: o.name, Source: source, Place: o.place()})
}

// alerts returns the alerts of an SLO's policies.
func (b *builder) alerts(o *object) []slo.Alert {
	var list []slo.Alert
	for _, use := range o.slo.policies {
		policy := use.policy
		if policy == nil && use.ref.name != "" {
			policy = b.set.find(o.d, use.ref, "AlertPolicy")
		}
		if policy == nil {
			continue
		}
		if a, ok := b.alert(policy); ok {
			list = append(list, a)
		}
	}
	return list
}

// sli returns the SLI that is inline or referred to, or nil if there is none.
func (b *builder) sli(d *decoder, inline *object, ref reference) *object {
	if inline != nil {
		return inline
	}
	if ref.name == "" {
		return nil
	}
	return b.set.find(d, ref, "SLI")
}

// check looks at an SLI that no SLO may use, so that what is wrong with it is found.
func (b *builder) check(o *object) { b.indicator(o, "any") }

// member makes a member of an objective. other is the source of what is not measured here.
func (b *builder) member(
	d *decoder, sli *object, spec objectiveSpec, obj *slo.Objective,
) (m slo.Member, other string, ok bool) {
	i, threshold, other, ok := b.indicator(sli, obj.Service)
	if !ok {
		return m, other, false
	}
	obj.Slice, obj.SliceTarget = spec.slice, spec.sliceTarget
	switch {
	case threshold != nil:
		if !d.thresholdObjective(spec, obj, &i, threshold) {
			return m, "", false
		}
	case spec.seen["op"] || spec.seen["value"]:
		d.warn(spec.at, "op and value mean nothing with a ratioMetric", "remove them")
	}
	if known, is := b.indicators[i.Name]; !is {
		b.indicators[i.Name] = knownIndicator{i, d.problem(spec.at.node, "", "", "").place()}
	} else if !reflect.DeepEqual(known.indicator, i) {
		d.wrong(spec.at, fmt.Sprintf("the indicator %s is another one than at %s: %s",
			i.Name, known.place, difference(known.indicator, i)),
			"give each its own name: their counters carry it")
		return m, "", false
	}
	return slo.Member{Indicator: i, Target: spec.target, Weight: spec.weight}, "", true
}

// difference says in what two indicators of one name differ.
func difference(a, b slo.Indicator) string {
	switch {
	case a.Source() != b.Source():
		return "its source is " + a.Source() + " there, " + b.Source() + " here"
	case describeSelection(a) != describeSelection(b):
		return describeSelection(a) + " there, " + describeSelection(b) + " here"
	case describeGood(a) != describeGood(b):
		return "good is " + describeGood(a) + " there, " + describeGood(b) + " here"
	}
	return "they exclude other requests"
}

// describeGood says what is good, in the words of the source.
func describeGood(i slo.Indicator) string {
	switch i.Source() {
	case slo.ScrapeSource:
		return i.Scrape.String()
	case slo.ResourceSource:
		return i.Resource.Bound.String()
	}
	return i.Good.String()
}

// thresholdObjective makes a ratio of a threshold metric. "The 99th percentile of a slice is at most 300 ms" means the
// same as "at least 99 % of a slice's requests take at most 300 ms", and that is counted exactly. A figure is compared at each
// tick, and timeSliceTarget says how many of a slice's ticks must be good.
func (d *decoder) thresholdObjective(spec objectiveSpec, obj *slo.Objective, i *slo.Indicator, threshold *ownSpec) bool {
	isPercentile := threshold.source == slo.TrafficSource
	name, example := "a percentile", "op: lte and value: 0.3 (seconds)"
	if !isPercentile {
		name, example = "a figure", "op: lte and value: 0.9 (a share)"
	}
	switch {
	case obj.Method != slo.Timeslices:
		d.wrong(spec.at, name+" is one number for each slice, so "+obj.Method.String()+" has nothing to count",
			"use budgetingMethod: Timeslices")
		return false
	case !spec.seen["op"] || !spec.seen["value"]:
		d.wrong(spec.at, "op or value is missing, with which the metric is compared", "add e.g. "+example)
		return false
	case !isPercentile:
		i.Resource.Bound = slo.Bound{Op: spec.op, Limit: spec.value}
		return d.measurable(spec.at, *i)
	case spec.op == slo.GT || spec.op == slo.GTE:
		d.wrong(spec.at, "a service would have to be slow to be good", "use lte or lt")
		return false
	case spec.value <= 0 || spec.value > time.Hour.Seconds():
		d.wrong(spec.at, fmt.Sprintf("%g is no duration in seconds", spec.value), "use more than 0 and at most 3600")
		return false
	}
	good := slo.Always()
	good.Clauses[0].UpTo = time.Duration(spec.value*1e9 + 0.5)
	if spec.op == slo.LT {
		good.Clauses[0].UpTo--
	}
	i.Good, obj.SliceTarget = good, threshold.percentile
	return d.measurable(spec.at, *i)
}

// indicator makes an indicator of an SLI. threshold is set if its good condition comes with the objective. other is the
// type of the source if slid does not measure it.
func (b *builder) indicator(o *object, service string) (i slo.Indicator, threshold *ownSpec, other string, ok bool) {
	s := o.sli
	if o.broken {
		return i, nil, "", false
	}
	leaves := []*metricSource{s.threshold, s.good, s.bad, s.raw, s.total}
	local, foreign := 0, 0
	for _, m := range leaves {
		if m == nil {
			continue
		}
		switch typ := b.typeOf(o.d, m); {
		case typ == "":
			return i, nil, "", false
		case own(typ):
			local++
		default:
			foreign++
			other = typ
		}
	}
	i = slo.Indicator{Name: o.name}
	switch {
	case local == 0:
		return i, nil, other, false
	case foreign > 0:
		o.d.wrong(o.at, "one part is measured by slid and the other by "+show(other), "take both from the same source")
		return i, nil, "", false
	case s.raw != nil:
		o.d.wrong(s.raw.at, "slid counts events and has no ratios of its own", "use good and total")
		return i, nil, "", false
	case s.threshold != nil:
		spec, sound := o.d.ownSpec(s.threshold, "threshold", service)
		i = spec.indicator
		i.Name, i.Exclude = o.name, spec.exclude
		return i, &spec, "", sound
	}
	ok = b.ratio(o, service, &i)
	return i, nil, "", ok
}

// ratio makes an indicator of a ratio metric of our own and checks that the one part is of the other.
func (b *builder) ratio(o *object, service string, i *slo.Indicator) bool {
	part, role := o.sli.good, "good"
	if part == nil {
		part, role = o.sli.bad, "bad"
	}
	p, sound := o.d.ownSpec(part, role, service)
	total, alsoSound := o.d.ownSpec(o.sli.total, "total", service)
	if !sound || !alsoSound {
		return false
	}
	if p.source != total.source {
		o.d.wrong(part.spec, fmt.Sprintf("%s events are not among the total: they are of %s, and the total is of %s", role,
			p.source, total.source), "take both from the same source")
		return false
	}
	if describeSelection(p.indicator) != describeSelection(total.indicator) {
		o.d.wrong(part.spec, fmt.Sprintf("%s events are not among the total: %s, and the total has %s", role,
			describeSelection(p.indicator), describeSelection(total.indicator)), "write the same select in both")
		return false
	}
	*i = total.indicator
	i.Name = o.name
	switch bad := role == "bad"; {
	case i.Scrape != nil && bad:
		i.Scrape.Bad, i.Scrape.Total = p.metric, total.metric
	case i.Scrape != nil:
		i.Scrape.Good, i.Scrape.Total = p.metric, total.metric
	case i.Resource != nil && bad:
		i.Resource.Bound = p.bound.Not()
	case i.Resource != nil:
		i.Resource.Bound = p.bound
	case i.Unit != nil:
	case bad:
		i.Good, i.Exclude = p.where.Not(), total.exclude
	default:
		i.Good, i.Exclude = p.where, total.exclude
	}
	return o.d.measurable(p.at(), *i)
}

// typeOf returns the type of a source, or nothing, noted, if its DataSource does not exist.
func (b *builder) typeOf(d *decoder, m *metricSource) string {
	if m.ref.name == "" {
		return m.typ
	}
	source := b.set.find(d, m.ref, "DataSource")
	switch {
	case source == nil:
		return ""
	case m.typ != "":
		return m.typ
	}
	return source.source
}
