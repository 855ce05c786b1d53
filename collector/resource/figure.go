package resource

import (
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	otelresource "go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/slo"
)

const (
	unitKey     attribute.Key = "systemd.unit.name"
	mountKey    attribute.Key = "system.filesystem.mountpoint"
	resourceKey attribute.Key = "system.pressure.resource"
	scopeKey    attribute.Key = "system.pressure.scope"
)

// A term is series of one metric that are added up.
type term struct {
	metric string
	key    attribute.Key // what an attribute of the series must be; empty: anything
	values []string
}

// A formula makes a share of series: the sum of above by that of below. Of counters their growth is meant.
type formula struct {
	above, below []term
	// instead stands for below where there is no series of it; it is of the host.
	instead []term
	perTime bool   // below is per second, and 1 where it has no term
	rest    bool   // the share is what is left of the whole
	from    string // the collector that reads them
}

// formulaOf returns how a figure is computed, of a unit or of the host.
func formulaOf(r slo.Resource) formula {
	switch {
	case r.Figure == slo.CPU && r.Unit != "":
		return formula{
			above: []term{{metric: "container.cpu.time"}}, below: []term{{metric: "container.cpu.linux.limit"}},
			instead: []term{{metric: "system.cpu.logical.count"}}, perTime: true, from: "host/cgroup",
		}
	case r.Figure == slo.CPU:
		const cpu = "system.cpu.time"
		return formula{above: []term{{cpu, "cpu.mode", []string{"idle", "iowait"}}}, below: []term{{metric: cpu}}, rest: true, from: "host/cpu"}
	case r.Figure == slo.Memory && r.Unit != "":
		return formula{
			above: []term{{metric: "container.memory.working_set"}}, below: []term{{metric: "container.memory.linux.limit"}},
			from: "host/cgroup",
		}
	case r.Figure == slo.Memory:
		return formula{
			above: []term{{metric: "system.memory.linux.available"}}, below: []term{{metric: "system.memory.limit"}},
			rest: true, from: "host/memory",
		}
	case r.Figure.Mounted():
		usage := "system.filesystem.usage"
		if r.Figure == slo.Inodes {
			usage = "system.filesystem.inodes.usage"
		}
		const state = "system.filesystem.state"
		return formula{
			above: []term{{usage, state, []string{"used"}}}, below: []term{{usage, state, []string{"used", "free"}}},
			from: "host/filesystem",
		}
	case r.Unit != "":
		return formula{above: []term{{metric: "container.pressure.linux.stall_time"}}, perTime: true, from: "host/cgroup"}
	}
	return formula{above: []term{{metric: "system.pressure.linux.stall_time"}}, perTime: true, from: "host/pressure"}
}

// metrics returns the names of all metrics of the formula.
func (f formula) metrics() (names []string) {
	for _, list := range [...][]term{f.above, f.below, f.instead} {
		for _, t := range list {
			names = append(names, t.metric)
		}
	}
	return names
}

// A sum adds up series. It is bound anew when series come or go.
type sum struct {
	ints    []*metricdata.DataPoint[int64]
	floats  []*metricdata.DataPoint[float64]
	grows   bool // they are counters
	last    float64
	members int // series at the last reading
}

func (s *sum) unbind() { s.ints, s.floats = s.ints[:0], s.floats[:0] }

func (s *sum) size() int { return len(s.ints) + len(s.floats) }

// bindAll adds the series of a metric that one of the terms is about and that fit; nothing fits where fits is nil.
func (s *sum) bindAll(terms []term, m metricdata.Metrics, fits func(attribute.Set) bool) {
	for _, t := range terms {
		if fits != nil && t.metric == m.Name {
			s.bind(m, func(set attribute.Set) bool { return t.about(set) && fits(set) })
		}
	}
}

// about tells whether the attributes of a series are those of the term.
func (t term) about(set attribute.Set) bool {
	if t.key == "" {
		return true
	}
	v, _ := set.Value(t.key)
	return slices.Contains(t.values, v.AsString())
}

func (s *sum) bind(m metricdata.Metrics, wanted func(attribute.Set) bool) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		s.grows = data.IsMonotonic
		s.ints = keep(s.ints, data.DataPoints, wanted)
	case metricdata.Sum[float64]:
		s.grows = data.IsMonotonic
		s.floats = keep(s.floats, data.DataPoints, wanted)
	case metricdata.Gauge[int64]:
		s.ints = keep(s.ints, data.DataPoints, wanted)
	case metricdata.Gauge[float64]:
		s.floats = keep(s.floats, data.DataPoints, wanted)
	}
}

func keep[N int64 | float64](to []*metricdata.DataPoint[N], points []metricdata.DataPoint[N], wanted func(attribute.Set) bool) []*metricdata.DataPoint[N] {
	for i := range points {
		if wanted(points[i].Attributes) {
			to = append(to, &points[i])
		}
	}
	return to
}

// at returns when the series were read; those of one collector have one time.
func (s *sum) at() (at time.Time) {
	for _, p := range s.ints {
		at = p.Time
	}
	for _, p := range s.floats {
		at = p.Time
	}
	return at
}

// read returns the present sum, or of counters what they grew by since the last reading. ok is false where there is no such:
// at the first reading, when counters began anew, or when there are others than before.
func (s *sum) read() (value float64, ok bool) {
	for _, p := range s.ints {
		value += float64(p.Value)
	}
	for _, p := range s.floats {
		value += p.Value
	}
	if !s.grows {
		return value, true
	}
	growth, same := value-s.last, s.members == s.size()
	s.last, s.members = value, s.size()
	return growth, same && growth >= 0
}

// fitsOf returns which series of a resource a figure is about; nil: none of them.
func fitsOf(r slo.Resource, of, host *otelresource.Resource) func(attribute.Set) bool {
	if r.Unit != "" {
		if unit, _ := of.Set().Value(unitKey); unit.AsString() != r.Unit {
			return nil
		}
	} else if of.Equivalent() != host.Equivalent() {
		return nil
	}
	resource, scope := pressureOf(r.Figure)
	return func(set attribute.Set) bool {
		for _, want := range [...]struct {
			key   attribute.Key
			value string
		}{{mountKey, r.Mount}, {resourceKey, resource}, {scopeKey, scope}} {
			if v, _ := set.Value(want.key); want.value != "" && v.AsString() != want.value {
				return false
			}
		}
		return true
	}
}

// pressureOf returns the attributes of a figure of pressure.
func pressureOf(f slo.Figure) (resource, scope string) {
	switch f {
	case slo.PressureCPUSome:
		return "cpu", "some"
	case slo.PressureCPUFull:
		return "cpu", "full"
	case slo.PressureMemorySome:
		return "memory", "some"
	case slo.PressureMemoryFull:
		return "memory", "full"
	case slo.PressureIOSome:
		return "io", "some"
	case slo.PressureIOFull:
		return "io", "full"
	}
	return "", ""
}
