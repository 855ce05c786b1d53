package budget

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

const (
	objectiveKey attribute.Key = "slo.name"
	windowKey    attribute.Key = "slo.window"
	stateKey     attribute.Key = "slo.state"
	sliceKey     attribute.Key = "sli.slice.state"
)

// SeriesPerObjective bounds the series that an objective without members beside the first has; each member adds one.
const SeriesPerObjective = 20

// objectiveFamilies are the declared metrics of objectives.
type objectiveFamilies struct {
	target, period, burn, remaining metric.FloatFamily
	status, slices                  metric.IntFamily
}

func declareObjectives(g *metric.Group) objectiveFamilies {
	const configured, counted = "configuration", "growth of sli.events"
	return objectiveFamilies{
		target: g.Float(metric.Desc{
			Name: "slo.objective.target", Unit: "1", Kind: metric.Gauge, Source: configured,
			Description: "Share of events (or slices) that must be good.",
			Attributes:  []attribute.Key{objectiveKey, indicatorKey},
		}),
		period: g.Float(metric.Desc{
			Name: "slo.objective.period", Unit: "s", Kind: metric.Gauge, Source: configured,
			Description: "Length of the objective's window.", Attributes: []attribute.Key{objectiveKey},
		}),
		burn: g.Float(metric.Desc{
			Name: "slo.local.burn_rate", Unit: "1", Kind: metric.Gauge, Source: counted,
			Description: "How many times faster than allowed the budget goes, by the events of this host; none without events in the window.",
			Attributes:  []attribute.Key{objectiveKey, windowKey},
		}),
		remaining: g.Float(metric.Desc{
			Name: "slo.local.budget.remaining", Unit: "1", Kind: metric.Gauge, Source: counted,
			Description: "Share of the budget that is left at most, by what this host measured in the period; negative when more was spent.",
			Attributes:  []attribute.Key{objectiveKey},
		}),
		status: g.Int(metric.Desc{
			Name: "slo.local.status", Unit: "1", Kind: metric.UpDownCounter, Source: counted,
			Description: "1 for the state in which the objective is on this host (ok, burning, breached, unknown), 0 for the others.",
			Attributes:  []attribute.Key{objectiveKey, stateKey},
		}),
		slices: g.Int(metric.Desc{
			Name: "sli.slices", Unit: "{slice}", Kind: metric.Counter, Source: counted,
			Description: "Time slices of an objective of the method Timeslices that ended, by how this host's events in them were (good, bad, no_data). Slices of hosts do not add up to those of a service.",
			Attributes:  []attribute.Key{objectiveKey, sliceKey},
		}),
	}
}

// objectiveGauges are the registers of one objective.
type objectiveGauges struct {
	burns     []*metric.Float // over slo.BurnWindows
	remaining *metric.Float
	states    [slo.Unknown + 1]*metric.Int

	good, bad, noData *metric.Int // slices; nil if the objective is not judged by them
}

// of returns the registers of an objective, those of the definition already set.
func (f *objectiveFamilies) of(e *metric.Entity, o slo.Objective) objectiveGauges {
	name := objectiveKey.String(o.Name)
	for _, m := range o.Members {
		f.target.With(e, name, indicatorKey.String(m.Indicator.Name)).Set(m.Target)
	}
	f.period.With(e, name).Set(o.Period().Seconds())
	g := objectiveGauges{remaining: f.remaining.With(e, name)}
	for _, w := range slo.BurnWindows() {
		g.burns = append(g.burns, f.burn.With(e, name, windowKey.String(slo.Shorthand(w))))
	}
	for s := range g.states {
		g.states[s] = f.status.With(e, name, stateKey.String(slo.State(s).String()))
	}
	if o.Method == slo.Timeslices {
		slices := func(state string) *metric.Int { return f.slices.With(e, name, sliceKey.String(state)) }
		g.good, g.bad, g.noData = slices("good"), slices("bad"), slices("no_data")
	}
	return g
}

// storeSlices shows how slices ended.
func (g *objectiveGauges) storeSlices(s slo.Slices, now time.Time) {
	if g.good == nil {
		return
	}
	g.good.Observe(s.Good, now)
	g.bad.Observe(s.Bad, now)
	g.noData.Observe(s.NoData, now)
}

// store shows a status. Where nothing was measured there is no number, rather than a good one.
func (g *objectiveGauges) store(s *slo.Status) {
	for i, b := range s.Burns {
		if b.Known {
			g.burns[i].Set(b.Rate)
		} else {
			g.burns[i].Unset()
		}
	}
	if s.Counts.Measured > 0 {
		g.remaining.Set(s.Remaining)
	} else {
		g.remaining.Unset()
	}
	for i, register := range g.states {
		register.Set(0)
		if slo.State(i) == s.State {
			register.Set(1)
		}
	}
}
