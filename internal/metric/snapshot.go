package metric

import (
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// A Snapshot is a copy of registers in memory of its own, filled by Take and overwritten by the next Take. An
// exporter may read it until its Export call returns and must not keep parts of it.
type Snapshot struct {
	// Time is when the snapshot was taken. The points carry the times at which their collectors read them.
	Time time.Time
	// Resources holds one entry per resource with at least one series, in the order in which they appeared.
	Resources []metricdata.ResourceMetrics

	registry *Registry
	classes  []Class  // empty: all
	only     []string // metrics; empty: all
	names    *nameTable
	pinned   map[*resource.Resource]*resource.Resource // the resources with the schema of the scope
	version  uint64
	ints     []column[int64, *Int]
	floats   []column[float64, *Float]
	hists    []histColumn
}

// column is one metric of one resource: the registers and, index by index, the points they are copied to. The
// points are shared with the metricdata.Aggregation in Resources, which is boxed once per layout, not per Take.
type column[N int64 | float64, S series] struct {
	registers []S
	points    []metricdata.DataPoint[N]
}

type histColumn struct {
	registers []*Hist
	points    []metricdata.ExponentialHistogramDataPoint[float64]
}

// NewSnapshot returns an empty snapshot of the metrics of the given classes, or of all if none is given. Agent
// metrics are always part of it.
func (r *Registry) NewSnapshot(classes ...Class) *Snapshot {
	return &Snapshot{registry: r, classes: classes}
}

// Snapshot returns an empty snapshot of the metrics of the given names in the whole registry, for a collector that
// computes something of what others count.
func (g *Group) Snapshot(names ...string) *Snapshot { return g.registry.NewSnapshot().Only(names...) }

// Only leaves out all metrics but those of the given names, from the first Take on. It returns the snapshot.
func (s *Snapshot) Only(names ...string) *Snapshot {
	s.only = names
	return s
}

// Layout returns a number that changes when series come or go. As long as it stays, every Take writes the same points.
func (s *Snapshot) Layout() uint64 { return s.version }

// Named makes the snapshot call the metrics as n says, from the first Take on. It returns the snapshot. The names are
// settled when series come or go, so they cost nothing in between.
func (s *Snapshot) Named(n Names) *Snapshot {
	s.names = n.table()
	return s
}

// Take copies all registers. It allocates only when series came or went since the last Take, or when a histogram
// spreads over more buckets than before.
func (s *Snapshot) Take(now time.Time) {
	s.Time = now
	if v := s.registry.version.Load(); v != s.version || s.Resources == nil {
		s.layout()
	}
	for i := range s.ints {
		takeNumbers(&s.ints[i], (*Int).Value)
	}
	for i := range s.floats {
		takeNumbers(&s.floats[i], (*Float).Value)
	}
	for i := range s.hists {
		s.hists[i].take()
	}
}

func takeNumbers[N int64 | float64, S series](c *column[N, S], value func(S) N) {
	for i, r := range c.registers {
		p, base := &c.points[i], r.base()
		p.StartTime = time.Unix(0, base.start.Load())
		p.Time = base.collected()
		p.Value = value(r)
	}
}

func (c *histColumn) take() {
	for i, h := range c.registers {
		p := &c.points[i]
		p.StartTime = time.Unix(0, h.start.Load())
		p.Time = h.collected()
		b := &p.PositiveBucket
		b.Counts, b.Offset, p.Count, p.ZeroCount, p.Sum = h.copyInto(b.Counts)
	}
}

// layout builds Resources and the columns anew after series came or went.
func (s *Snapshot) layout() {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	s.version = r.version.Load()
	clear(s.Resources) // what has gone must not be held by what comes
	s.Resources = s.Resources[:0]
	if s.Resources == nil {
		s.Resources = []metricdata.ResourceMetrics{}
	}
	s.ints, s.floats, s.hists = nil, nil, nil

	scope := r.scope
	if s.names != nil {
		scope.SchemaURL = "" // it is about the names of the semantic conventions
	}
	pinned := make(map[*resource.Resource]*resource.Resource, len(s.pinned))
	order, series := r.byResource()
	for _, res := range order {
		metrics := s.metricsOf(series[res.Equivalent()])
		if len(metrics) == 0 {
			continue
		}
		pinned[res] = s.pin(res)
		s.Resources = append(s.Resources, metricdata.ResourceMetrics{
			Resource:     pinned[res],
			ScopeMetrics: []metricdata.ScopeMetrics{{Scope: scope, Metrics: metrics}},
		})
	}
	s.pinned = pinned
}

// pin returns the resource with the schema that the registry's scope follows; resources keep their names in all maps.
func (s *Snapshot) pin(res *resource.Resource) *resource.Resource {
	schema := s.registry.scope.SchemaURL
	if schema == "" || res.SchemaURL() != "" {
		return res
	}
	if p := s.pinned[res]; p != nil {
		return p
	}
	return resource.NewWithAttributes(schema, res.Attributes()...)
}

// byResource sorts all exported series by resource and family. Resources of equal attributes are one. It returns the
// resources in order of appearance.
func (r *Registry) byResource() (order []*resource.Resource, list map[attribute.Distinct]map[*family][]series) {
	list = map[attribute.Distinct]map[*family][]series{}
	for _, e := range r.entities {
		families := list[e.resource.Equivalent()]
		if families == nil {
			families = map[*family][]series{}
			list[e.resource.Equivalent()] = families
			order = append(order, e.resource)
		}
		for _, s := range e.series {
			if b := s.base(); b.exported() {
				families[b.family] = append(families[b.family], s)
			}
		}
	}
	return order, list
}

// metricsOf returns the metrics of one resource in the order of their declaration and adds their columns.
func (s *Snapshot) metricsOf(byFamily map[*family][]series) []metricdata.Metrics {
	var sent outgoing
	for _, g := range s.registry.groups {
		if !s.selects(g) {
			continue
		}
		for _, f := range g.families {
			if len(s.only) == 0 || slices.Contains(s.only, f.desc.Name) {
				s.names.add(&sent, f, byFamily[f])
			}
		}
	}
	metrics := make([]metricdata.Metrics, len(sent.list))
	for i, m := range sent.list {
		metrics[i] = metricdata.Metrics{
			Name: m.name, Description: m.first.desc.Description, Unit: m.unit, Data: s.column(m),
		}
	}
	return metrics
}

func (s *Snapshot) selects(g *Group) bool {
	return len(s.classes) == 0 || g.class == ClassAgent || slices.Contains(s.classes, g.class)
}

// column makes the points for the registers of one metric and boxes them.
func (s *Snapshot) column(m *sentMetric) metricdata.Aggregation {
	switch m.series[0].(type) {
	case *Int:
		c := newColumn[int64, *Int](m)
		s.ints = append(s.ints, c)
		return numbers(m.first.desc.Kind, c.points)
	case *Float:
		c := newColumn[float64, *Float](m)
		s.floats = append(s.floats, c)
		return numbers(m.first.desc.Kind, c.points)
	default:
		c := newHistColumn(m)
		s.hists = append(s.hists, c)
		return metricdata.ExponentialHistogram[float64]{
			DataPoints: c.points, Temporality: metricdata.CumulativeTemporality,
		}
	}
}

func newColumn[N int64 | float64, S series](m *sentMetric) column[N, S] {
	c := column[N, S]{points: make([]metricdata.DataPoint[N], len(m.series))}
	for i, reg := range m.series {
		c.registers = append(c.registers, reg.(S))
		c.points[i].Attributes = m.attributes(i)
	}
	return c
}

func newHistColumn(m *sentMetric) histColumn {
	c := histColumn{points: make([]metricdata.ExponentialHistogramDataPoint[float64], len(m.series))}
	for i, reg := range m.series {
		c.registers = append(c.registers, reg.(*Hist))
		p := &c.points[i]
		p.Attributes = m.attributes(i)
		p.Scale = Scale
		p.ZeroThreshold = m.first.desc.Range.ZeroThreshold()
	}
	return c
}

func numbers[N int64 | float64](k Kind, points []metricdata.DataPoint[N]) metricdata.Aggregation {
	if k == Gauge {
		return metricdata.Gauge[N]{DataPoints: points}
	}
	return metricdata.Sum[N]{
		DataPoints: points, Temporality: metricdata.CumulativeTemporality, IsMonotonic: k == Counter,
	}
}
