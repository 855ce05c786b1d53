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
	memory      metric.IntFamily
	sampling    metric.FloatFamily
}

// probeCost has the registers of one probe.
type probeCost struct {
	// Nil until a run was measured: an unknown cost is not zero.
	kernelTime, runDuration *metric.Float
	outcomes                [6]*metric.Int // nil if the probe does not tell
	memory                  *metric.Int    // nil until it is known
	sampling                *metric.Float  // nil if the probe is not governed
}

// NewCost collects what the probes watched by the meter cost and lose. Env.Host is the resource they belong to. The
// collector does not own the meter.
func (d Deps) NewCost(env collector.Env) (collector.Collector, error) {
	return &cost{
		meter:  d.Meter,
		entity: env.Metrics.Entity(env.Host, d.Meter.Start()), // no probe began before
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
			Name: "slid.probe.events",
			Unit: "{event}",
			Kind: metric.Counter,
			Description: "Events a probe saw: recorded, unmatched (of unknown length), discarded (of impossible length), lost " +
				"(without memory or room), skipped (by sampling; the recorded ones have more weight instead) or missed (the " +
				"program was running on the CPU already).",
			Attributes: []attribute.Key{keyProbe, keyOutcome},
			Source:     "the probe's own counters",
		}),
		memory: env.Metrics.Int(metric.Desc{
			Name:        "slid.probe.memory",
			Unit:        "By",
			Kind:        metric.Gauge,
			Description: "Kernel memory of a probe's maps.",
			Attributes:  []attribute.Key{keyProbe},
			Source:      "memlock in /proc/self/fdinfo",
		}),
		sampling: env.Metrics.Float(metric.Desc{
			Name: "slid.probe.sampling",
			Unit: "1",
			Kind: metric.Gauge,
			Description: "Share of the events that a probe records: 1, or less where it took too much of the CPUs, or 0 " +
				"where it was detached for that.",
			Attributes: []attribute.Key{keyProbe},
			Source:     "the governor",
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
			for i, n := range outcomesOf(of) {
				p.outcomes[i].Observe(n, now)
			}
		}
		if of.Memory > 0 {
			if p.memory == nil {
				p.memory = c.memory.With(c.entity, keyProbe.String(of.Name))
			}
			p.memory.Set(int64(of.Memory))
		}
		if p.sampling != nil {
			p.sampling.Set(of.Throttle.Recorded())
		}
	}
	return nil
}

// register makes the registers for the events of a probe.
func (c *cost) register(of *bpf.Cost) *probeCost {
	p := &probeCost{}
	if of.Counts.Outcomes {
		name := keyProbe.String(of.Name)
		for i, outcome := range [...]string{"recorded", "unmatched", "discarded", "lost", "skipped", "missed"} {
			p.outcomes[i] = c.events.With(c.entity, name, keyOutcome.String(outcome))
		}
	}
	if of.Governed {
		p.sampling = c.sampling.With(c.entity, keyProbe.String(of.Name))
	}
	c.probes[of.Name] = p
	return p
}

// outcomesOf returns the counts of what became of a probe's events, in the order of their registers.
func outcomesOf(of *bpf.Cost) [6]uint64 {
	n := &of.Counts
	return [6]uint64{n.Recorded, n.Unmatched, n.Discarded, n.Lost, n.Skipped, of.Missed}
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
