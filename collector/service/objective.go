package service

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

// Objectives are what services promise about their traffic, and the routes by which it is counted, in the form in which the
// kernel counts. The zero value has none. It belongs to one Traffic at a time.
type Objectives struct {
	services []*promises // in the order of the kernel's sets
	total    int         // indicators of all
}

// promises are the indicators and routes of one service and what was counted for them.
type promises struct {
	service    string
	indicators []slo.Indicator
	routes     []string // by which it is counted, sorted
	set        bpf.HTTPSet
	first      int // number of the first indicator among those of all

	// Counts by the number of the indicator and outcome; Unbound are events that came before the service was known.
	base      bpf.HTTPEvents // of slots that were given up
	sum       bpf.HTTPEvents // of all
	registers []*indicatorRegisters
}

// Add adds the indicators of an objective. It says what is wrong with it and what to do about it if the kernel cannot count
// it besides those that were added before; nothing if it can. Indicators that are not about traffic are passed over.
func (o *Objectives) Add(objective slo.Objective) (what, remedy string) {
	for _, m := range objective.Members {
		if m.Indicator.Source() != slo.TrafficSource {
			continue // others count it
		}
		if what, remedy = o.add(m.Indicator); what != "" {
			return what, remedy
		}
	}
	return "", ""
}

func (o *Objectives) add(i slo.Indicator) (what, remedy string) {
	p := o.orNew(i.Select.Service)
	if slices.ContainsFunc(p.indicators, func(other slo.Indicator) bool { return other.Name == i.Name }) {
		return "", "" // several objectives may be about one indicator
	}
	if o.total == bpf.HTTPAllRules {
		return fmt.Sprintf("is one too many: %d indicators of traffic are counted at most", bpf.HTTPAllRules), "remove objectives"
	}
	if what, remedy = o.take(p, append(slices.Clone(p.indicators), i), p.routes); what == "" {
		o.total++
	}
	return what, remedy
}

// take gives a service indicators and routes, unless they are too many.
func (o *Objectives) take(p *promises, list []slo.Indicator, routes []string) (what, remedy string) {
	set := compile(list, routes)
	const few = "remove objectives, or give parts of the service names of their own by services:"
	switch {
	case len(list) > bpf.HTTPRules:
		return fmt.Sprintf("is one too many for %s: %d indicators of a service are counted at most", p.service, bpf.HTTPRules), few
	case len(set.Routes) > bpf.HTTPRoutes:
		return fmt.Sprintf("%s has %d routes with it: %d are told apart at most", p.service, len(set.Routes), bpf.HTTPRoutes), few
	case len(set.Steps) > bpf.HTTPSteps:
		return fmt.Sprintf("the conditions for %s are too many with it: %d parts, and %d are allowed", p.service, len(set.Steps), bpf.HTTPSteps),
			"make those of exclude simpler, or remove objectives"
	}
	if o.of(p.service) == nil {
		o.services = append(o.services, p)
	}
	p.indicators, p.routes, p.set = list, routes, set
	return "", ""
}

// orNew returns the promises of a service, or new ones that take adds.
func (o *Objectives) orNew(service string) *promises {
	if p := o.of(service); p != nil {
		return p
	}
	return &promises{service: service}
}

// none says whether no service has a set.
func (o *Objectives) none() bool { return len(o.services) == 0 }

// of returns the promises of a service, or nil if there are none.
func (o *Objectives) of(service string) *promises {
	for _, p := range o.services {
		if p.service == service {
			return p
		}
	}
	return nil
}

// number returns the number of the kernel's set for a service.
func (o *Objectives) number(service string) uint32 {
	for i, p := range o.services {
		if p.service == service {
			return bpf.HTTPFirstSet + uint32(i)
		}
	}
	return bpf.HTTPNoSet
}

// at returns the promises of a set, or nil if there are none.
func (o *Objectives) at(set uint32) *promises {
	if set < bpf.HTTPFirstSet {
		return nil
	}
	return o.services[set-bpf.HTTPFirstSet]
}

// sets returns what the kernel needs, or nil if that is nothing.
func (o *Objectives) sets(expected map[bpf.HTTPEndpoint]uint32) *bpf.HTTPSets {
	if o.none() {
		return nil
	}
	k := &bpf.HTTPSets{Expected: expected}
	for _, p := range o.services {
		if len(k.Sets) > 0 {
			before := o.services[len(k.Sets)-1]
			p.first = before.first + len(before.indicators)
		}
		k.Sets = append(k.Sets, p.set)
	}
	return k
}

// compile makes a set of the indicators and routes of a service. Each indicator becomes clauses of which the first that
// holds decides: those that exclude, those of the good ones, those of all.
func compile(list []slo.Indicator, routes []string) bpf.HTTPSet {
	set := bpf.HTTPSet{Routes: slices.Clone(routes)}
	type decision struct {
		rule, outcome int
		slo.Clause
	}
	var decisions []decision
	for rule, i := range list {
		all := i.Select.Condition()
		for _, part := range []struct {
			outcome int
			slo.Condition
		}{{bpf.HTTPExcluded, i.Exclude.And(all)}, {bpf.HTTPGood, i.Good.And(all)}, {bpf.HTTPBad, all}} {
			for _, c := range part.Clauses {
				decisions = append(decisions, decision{rule, part.outcome, c})
				set.Routes = slices.Concat(set.Routes, c.Routes.Within, c.Routes.Without)
			}
		}
	}
	slices.Sort(set.Routes)
	set.Routes = slices.DeleteFunc(slices.Compact(set.Routes), func(r string) bool { return r == "" })
	set.Counts = counts(set.Routes, routes)
	for n, d := range decisions {
		step := stepOf(d.Clause, set.Routes)
		step.Rule, step.Outcome = uint8(d.rule), uint8(d.outcome)
		if n+1 == len(decisions) || decisions[n+1].rule != d.rule {
			step.Last = 1
		}
		set.Steps = append(set.Steps, step)
	}
	return set
}

// stepOf makes a step of a clause. A route stands for the paths of which it is the longest start that the set knows: a
// path that begins with a longer one has that one's bit.
func stepOf(c slo.Clause, routes []string) bpf.HTTPStep {
	step := bpf.HTTPStep{Statuses: c.Status, Methods: uint16(c.Methods), Least: uint64(c.Above + 1), Most: uint64(c.UpTo)}
	if c.Status == slo.AllStatuses() {
		step.AllStatuses = 1
	}
	if c.Routes.All() {
		step.Routes = ^uint64(0)
		return step
	}
	for i, r := range append([]string{""}, routes...) {
		if i <= bpf.HTTPRoutes && c.Routes.Has(r) {
			step.Routes |= 1 << i
		}
	}
	return step
}

const (
	sliNameKey   attribute.Key = "sli.name"
	outcomeKey   attribute.Key = "sli.outcome"
	exclusionKey attribute.Key = "sli.exclusion.reason"
)

// indicatorRegisters are the series of one indicator.
type indicatorRegisters struct {
	good, bad *metric.Int
	times     [bpf.HTTPBad + 1]*metric.Hist // of good and bad events
	excluded  *metric.Int                   // nil if the indicator excludes nothing
	lost      [bpf.HTTPOutcomes]*metric.Int
	late      *metric.Int
	noSlot    *metric.Int
	coverage  *metric.Float

	known, seen uint64 // of the previous sum
}

// lostReasons names the outcomes from bpf.HTTPUnknown on.
func lostReasons() []string { return []string{"unknown", "head", "untimed", "cut", "aborted"} }

// register makes the series of all indicators, at zero, each on a resource of its service's name. It is the same whether
// the service was seen yet or not, and however often it is started anew elsewhere on the host: the promise is the
// service's.
func (o *Objectives) register(f *families, g *metric.Group, host *resource.Resource, start time.Time) {
	for _, p := range o.services {
		if len(p.indicators) == 0 {
			continue
		}
		e := g.Entity(cgroup.Service{Name: p.service}.Resource(host), start)
		for _, i := range p.indicators {
			p.registers = append(p.registers, newIndicatorRegisters(f, e, i))
		}
		p.store(0, start)
	}
}

func newIndicatorRegisters(f *families, e *metric.Entity, i slo.Indicator) *indicatorRegisters {
	name, traffic := sliNameKey.String(i.Name), sourceKey.String("traffic")
	lost := func(reason string) *metric.Int { return f.lost.With(e, name, traffic, reasonKey.String(reason)) }
	r := &indicatorRegisters{
		good:     f.events.With(e, name, traffic, outcomeKey.String("good")),
		bad:      f.events.With(e, name, traffic, outcomeKey.String("bad")),
		late:     lost("unidentified"),
		noSlot:   lost("no_slot"),
		coverage: f.coverage.With(e, name),
	}
	r.times[bpf.HTTPGood] = f.eventTime.With(e, name, outcomeKey.String("good"))
	r.times[bpf.HTTPBad] = f.eventTime.With(e, name, outcomeKey.String("bad"))
	if !i.Exclude.Empty() {
		r.excluded = f.excluded.With(e, name, exclusionKey.String("filter"))
	}
	for k, reason := range lostReasons() {
		r.lost[bpf.HTTPUnknown+k] = lost(reason)
	}
	return r
}

// store brings the sums into the registers. noSlot are events of services that could not be told apart.
func (p *promises) store(noSlot uint64, now time.Time) {
	for rule, r := range p.registers {
		n := &p.sum.Rules[rule]
		r.good.Observe(n[bpf.HTTPGood], now)
		r.bad.Observe(n[bpf.HTTPBad], now)
		if r.excluded != nil {
			r.excluded.Observe(n[bpf.HTTPExcluded], now)
		}
		known := n[bpf.HTTPGood] + n[bpf.HTTPBad] + n[bpf.HTTPExcluded]
		seen := known + p.sum.Unbound + noSlot
		for k := bpf.HTTPUnknown; k < bpf.HTTPOutcomes; k++ {
			r.lost[k].Observe(n[k], now)
			seen += n[k]
		}
		r.late.Observe(p.sum.Unbound, now)
		r.noSlot.Observe(noSlot, now)
		if seen > r.seen {
			r.coverage.Set(float64(known-r.known) / float64(seen-r.seen))
		}
		r.known, r.seen = known, seen
	}
}

// readObjectives sums up what the kernel counted for objectives. It allocates nothing.
func (t *Traffic) readObjectives(now time.Time) error {
	if t.objectives.total == 0 {
		return nil
	}
	for _, p := range t.objectives.services {
		p.sum = p.base
	}
	var errs error
	for i := 1; i < bpf.HTTPSlots; i++ {
		s := &t.slots[i]
		if p := t.objectives.at(s.set); p != nil {
			errs = errors.Join(errs, t.addEvents(i, s, &p.sum))
		}
	}
	if err := t.probe.Events(0, &t.events); err != nil {
		return errors.Join(errs, fmt.Errorf("read the events: %w", err))
	}
	for _, p := range t.objectives.services {
		p.store(t.events.Unbound, now)
		errs = errors.Join(errs, t.readTimes(p))
	}
	return errs
}

// readTimes reads how long the events of a service's indicators took.
func (t *Traffic) readTimes(p *promises) error {
	for i, r := range p.registers {
		for outcome, register := range r.times {
			if err := t.probe.EventTimes(p.first+i, outcome, &t.times); err != nil {
				return fmt.Errorf("read the durations of %s: %w", p.indicators[i].Name, err)
			}
			load(register, &t.times)
		}
	}
	return nil
}

// addEvents adds what a slot counted for its service's objectives to a sum.
func (t *Traffic) addEvents(i int, s *slot, sum *bpf.HTTPEvents) error {
	if err := t.probe.Events(i, &t.events); err != nil {
		return fmt.Errorf("read the events of slot %d: %w", i, err)
	}
	if s.void != nil {
		void := bpf.Words(s.void)
		for k, n := range bpf.Words(&t.events) {
			bpf.Words(&t.events)[k] = n - void[k]
		}
	}
	bpf.Plus(sum, &t.events)
	return nil
}

// bind gives a slot the set of the service that was found in it. Where another one was expected, what was counted
// until now was counted by wrong rules: it is void, and lost to the right ones.
func (t *Traffic) bind(i int, service string) error {
	if t.objectives.none() {
		return nil
	}
	s := &t.slots[i]
	s.set = t.objectives.number(service)
	was, err := t.probe.Bound(i)
	if err != nil || was == s.set {
		return err
	}
	if err := t.probe.Bind(i, s.set); err != nil {
		return err
	}
	if was == bpf.HTTPUnbound || t.objectives.total == 0 {
		return nil
	}
	s.void = &bpf.HTTPEvents{}
	if err := t.probe.Events(i, s.void); err != nil {
		return fmt.Errorf("read the events of slot %d: %w", i, err)
	}
	if p := t.objectives.at(s.set); p != nil && t.probe.Service(i, &t.scratch) == nil {
		p.base.Unbound += requests(&t.scratch) + t.inCells(i)
	}
	return nil
}

// giveUp keeps what a slot counted for objectives before it is retired.
func (t *Traffic) giveUp(i int) error {
	s := &t.slots[i]
	p := t.objectives.at(s.set)
	if p == nil || t.objectives.total == 0 {
		return nil
	}
	if err := t.addEvents(i, s, &p.base); err != nil {
		return err
	}
	s.set = bpf.HTTPNoSet // never twice, should retiring the slot fail
	return nil
}

// expect finds out which services listen on sockets that are new since the last time, and which of them have sets, so that
// their slots count from the first event on.
func (t *Traffic) expect() map[bpf.HTTPEndpoint]uint32 {
	found := map[bpf.HTTPEndpoint]uint32{}
	if t.objectives.none() {
		return found
	}
	var fresh []endpoint
	now := listeningSockets(t.env.Proc, t.view.only)
	for e, socket := range now {
		if t.listening[e] != socket {
			fresh = append(fresh, e)
		}
	}
	t.listening = now
	var processes map[endpoint]process
	if len(fresh) > 0 {
		processes = findListeners(t.env.Proc, fresh)
	}
	for _, e := range fresh {
		id := identify("", processes[e], t.view.netns, bpf.HTTPKey{Netns: e.netns, Port: e.port}, t.overrides)
		found[bpf.HTTPEndpoint{Netns: e.netns, Port: uint32(e.port)}] = t.objectives.number(id.name)
	}
	for _, o := range t.overrides {
		if o.Unit != "" || o.Container != "" || o.Command != "" {
			break // whether this one comes before the next is not known before there is a process
		}
		if set := t.objectives.number(o.Name); set >= bpf.HTTPFirstSet {
			found[bpf.HTTPEndpoint{Port: uint32(o.Port)}] = set
		}
	}
	return found
}

// manyExpected is the number of expected endpoints from which on those are forgotten where nobody listens.
const manyExpected = 512

// refreshExpected tells the kernel what changed among the expected services. What was expected of an endpoint stays so until
// another service listens there: a service that is restarted finds it again.
func (t *Traffic) refreshExpected() error {
	if t.objectives.none() {
		return nil
	}
	var errs []error
	for e, set := range t.expect() {
		if set < bpf.HTTPFirstSet {
			set = bpf.HTTPUnbound
		}
		if t.expected[e] == set {
			continue
		}
		errs = append(errs, t.probe.Expect(e, set))
		if t.expected[e] = set; set == bpf.HTTPUnbound {
			delete(t.expected, e)
		}
	}
	for e := range t.expected {
		listens := e.Netns == 0 || t.listening[endpoint{e.Netns, uint16(e.Port)}] != 0
		if !listens && len(t.expected) > manyExpected {
			errs = append(errs, t.probe.Expect(e, bpf.HTTPUnbound))
			delete(t.expected, e)
		}
	}
	return errors.Join(errs...)
}

// expectFirst returns what is expected when the probe starts.
func (t *Traffic) expectFirst() map[bpf.HTTPEndpoint]uint32 {
	t.expected = t.expect()
	for e, set := range t.expected {
		if set < bpf.HTTPFirstSet {
			delete(t.expected, e)
		}
	}
	return t.expected
}
