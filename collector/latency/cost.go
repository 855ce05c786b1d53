package latency

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// CostName is the cost collector's name in verdicts.
const CostName = "latency/cost"

// Attribute keys of the probes' own metrics.
const (
	keyProbe   = attribute.Key("slid.probe.name")
	keyOutcome = attribute.Key("slid.probe.outcome")
)

// cost collects what every probe of a meter costs and loses.
type cost struct {
	meter  *bpf.Meter
	entity *metric.Entity
	costs  []bpf.Cost            // reused
	probes map[string]*probeCost // by probe name

	kernelTime  metric.FloatFamily
	runDuration metric.FloatFamily
	events      metric.IntFamily
}

// probeCost has the registers of one probe.
type probeCost struct {
	// Nil until a run was measured: an unknown cost is not zero.
	kernelTime, runDuration *metric.Float
	// Nil if the probe does not tell.
	recorded, unmatched, discarded *metric.Int
}

// NewCost collects what the probes watched by meter cost and lose: five series each. Env.Host is the resource they
// belong to. The collector does not own the meter.
func NewCost(env collector.Env, meter *bpf.Meter) (collector.Collector, error) {
	return &cost{
		meter:  meter,
		entity: env.Metrics.Entity(env.Host, meter.Start()), // no probe began before
		probes: make(map[string]*probeCost),
		kernelTime: env.Metrics.Float(metric.Desc{
			Name:        "slid.probe.kernel_time",
			Unit:        "s",
			Kind:        metric.Counter,
			Description: "CPU time of a probe's kernel programs: the exact number of runs times their mean time.",
			Attributes:  []attribute.Key{keyProbe},
			Source:      bpf.MeterHook,
		}),
		runDuration: env.Metrics.Float(metric.Desc{
			Name:        "slid.probe.run.duration",
			Unit:        "s",
			Kind:        metric.Gauge,
			Description: "Mean CPU time of one run of a probe's kernel programs, lately.",
			Attributes:  []attribute.Key{keyProbe},
			Source:      bpf.MeterHook,
		}),
		events: env.Metrics.Int(metric.Desc{
			Name:        "slid.probe.events",
			Unit:        "{event}",
			Kind:        metric.Counter,
			Description: "Events a probe saw: recorded, unmatched (of unknown length) or discarded (of impossible length).",
			Attributes:  []attribute.Key{keyProbe, keyOutcome},
			Source:      "the probe's own counters",
		}),
	}, nil
}

// Collect stores the costs of all probes. Registers are made for what is new since the last time.
func (c *cost) Collect(_ context.Context, now time.Time) error {
	c.costs = c.meter.Costs(c.costs[:0])
	for i := range c.costs {
		of := &c.costs[i]
		p := c.probes[of.Name]
		if p == nil {
			p = c.register(of)
		}
		if of.Known {
			c.storeTime(p, of, now)
		}
		if of.Counts.Outcomes {
			p.recorded.Observe(of.Counts.Recorded, now)
			p.unmatched.Observe(of.Counts.Unmatched, now)
			p.discarded.Observe(of.Counts.Discarded, now)
		}
	}
	return nil
}

// register makes the registers for the events of a probe.
func (c *cost) register(of *bpf.Cost) *probeCost {
	p := &probeCost{}
	if of.Counts.Outcomes {
		name := keyProbe.String(of.Name)
		p.recorded = c.events.With(c.entity, name, keyOutcome.String("recorded"))
		p.unmatched = c.events.With(c.entity, name, keyOutcome.String("unmatched"))
		p.discarded = c.events.With(c.entity, name, keyOutcome.String("discarded"))
	}
	c.probes[of.Name] = p
	return p
}

// storeTime stores a probe's kernel time, once it is known.
func (c *cost) storeTime(p *probeCost, of *bpf.Cost, now time.Time) {
	if p.kernelTime == nil {
		name := keyProbe.String(of.Name)
		p.kernelTime, p.runDuration = c.kernelTime.With(c.entity, name), c.runDuration.With(c.entity, name)
	}
	p.kernelTime.Observe(of.Seconds, now)
	p.runDuration.Set(of.RunSeconds)
}

// Verdicts says how the cost is measured.
func (c *cost) Verdicts() []verdict.Verdict { return []verdict.Verdict{c.meter.Verdict(CostName)} }

// Close leaves the meter to its owner.
func (c *cost) Close() error { return nil }
