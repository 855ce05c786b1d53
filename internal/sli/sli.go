// Package sli has the registers of indicators whose events slid counts by itself, outside of the kernel: the counters of
// good and bad events, those of what could not be told, and the coverage. Objectives are evaluated from them, whoever
// writes them (docs/adr/0016).
package sli

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
)

const (
	nameKey    attribute.Key = "sli.name"
	outcomeKey attribute.Key = "sli.outcome"
	sourceKey  attribute.Key = "sli.source"
	reasonKey  attribute.Key = "loss.reason"
)

// Fixed is how many series an indicator has, besides one for each reason of loss.
const Fixed = 3

// A Declaration is what the metrics of a source are about, in words for their documentation.
type Declaration struct {
	Source  string   // sli.source
	From    string   // where the numbers come from
	Event   string   // what an event is, e.g. "Ticks at which ..."
	Lost    string   // what a lost event is
	Covered string   // of what the coverage is a share
	Reasons []string // of losses
}

// Families are the declared metrics of a source.
type Families struct {
	group    *metric.Group
	source   attribute.KeyValue
	reasons  []string
	events   metric.IntFamily
	lost     metric.IntFamily
	coverage metric.FloatFamily
}

// Declare declares the metrics of a source.
func Declare(g *metric.Group, d Declaration) *Families {
	return &Families{
		group: g, source: sourceKey.String(d.Source), reasons: d.Reasons,
		events: g.Int(metric.Desc{
			Name: "sli.events", Unit: "{event}", Kind: metric.Counter, Source: d.From, Description: d.Event,
			Attributes: []attribute.Key{nameKey, outcomeKey, sourceKey},
		}),
		lost: g.Int(metric.Desc{
			Name: "sli.events.lost", Unit: "{event}", Kind: metric.Counter, Source: d.From, Description: d.Lost,
			Attributes: []attribute.Key{nameKey, sourceKey, reasonKey},
		}),
		coverage: g.Float(metric.Desc{
			Name: "sli.coverage", Unit: "1", Kind: metric.Gauge, Source: d.From, Description: d.Covered,
			Attributes: []attribute.Key{nameKey},
		}),
	}
}

// Registers are the series of one indicator, on a resource of its service's name. Its events are read apart from the rest:
// while they cannot be told they keep the time of their last reading, and that time was not measured.
type Registers struct {
	families  *Families
	name      attribute.KeyValue
	resource  *resource.Resource
	told      *metric.Entity // nil before anything could be told
	good, bad *metric.Int
	lost      []*metric.Int
	coverage  *metric.Float
}

// Of makes the series of an indicator. Losses are there from the start on, at zero.
func (f *Families) Of(name, service string, host *resource.Resource, start time.Time) *Registers {
	r := &Registers{families: f, name: nameKey.String(name), resource: cgroup.Service{Name: service}.Resource(host)}
	e := f.group.Entity(r.resource, start)
	for _, reason := range f.reasons {
		r.lost = append(r.lost, f.lost.With(e, r.name, f.source, reasonKey.String(reason)))
	}
	r.coverage = f.coverage.With(e, r.name)
	return r
}

// Begin begins to count, from zero: what happened before start is not known. It does nothing after the first time.
func (r *Registers) Begin(start time.Time) {
	if r.told != nil {
		return
	}
	r.told = r.families.group.EntityApart(r.resource, start)
	r.good = r.families.events.With(r.told, r.name, outcomeKey.String("good"), r.families.source)
	r.bad = r.families.events.With(r.told, r.name, outcomeKey.String("bad"), r.families.source)
}

// Store stores what was counted in sum until a time, after Begin.
func (r *Registers) Store(good, bad uint64, at time.Time) {
	r.good.Observe(good, at)
	r.bad.Observe(bad, at)
	r.told.Collected(at)
}

// Add counts an event that was judged now.
func (r *Registers) Add(good bool, now time.Time) {
	r.Begin(now)
	if good {
		r.good.Add(1)
	} else {
		r.bad.Add(1)
	}
	r.told.Collected(now)
	r.coverage.Set(1)
}

// Lose counts an event that cannot be told, by the number of its reason.
func (r *Registers) Lose(reason int) {
	r.lost[reason].Add(1)
	r.coverage.Set(0)
}

// StoreLost stores how many were lost for a reason in sum.
func (r *Registers) StoreLost(reason int, sum uint64, at time.Time) { r.lost[reason].Observe(sum, at) }

// Cover stores which share of what happened since the last tick is known.
func (r *Registers) Cover(share float64) { r.coverage.Set(share) }
