package text

import (
	"math"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/internal/metric"
)

// index is a snapshot copied and arranged for looking up. It shares no memory with the snapshot that is written
// again later; attribute sets and resources are immutable.
type index struct {
	at      time.Time
	targets []*target // in order of appearance
	byID    map[attribute.Distinct]*target
}

// target is all that is known of one resource.
type target struct {
	attrs   *attribute.Set
	numbers map[string][]number // by metric
	spreads map[string][]spread // by metric
	numbAt  map[seriesID]int    // position in numbers
	spreAt  map[seriesID]int    // position in spreads
}

type seriesID struct {
	metric string
	attrs  attribute.Distinct
}

// stamp is the time a cumulative value covers: counted since start, read at at.
type stamp struct{ start, at time.Time }

// number is one point of a counter, an up-down counter or a gauge.
type number struct {
	stamp
	attrs attribute.Set
	value float64
}

// spread is one point of a histogram.
type spread struct {
	stamp
	attrs attribute.Set
	distribution
}

// newIndex copies the snapshot. Values that are not finite are left out.
func newIndex(s *metric.Snapshot) *index {
	x := &index{at: s.Time, byID: map[attribute.Distinct]*target{}}
	for _, rm := range s.Resources {
		t := x.add(rm.Resource.Set())
		for _, sm := range rm.ScopeMetrics {
			for _, m := range sm.Metrics {
				t.add(m)
			}
		}
	}
	return x
}

// add returns the target with the given attributes, a new one if need be.
func (x *index) add(attrs *attribute.Set) *target {
	if t, ok := x.byID[attrs.Equivalent()]; ok {
		return t
	}
	t := &target{
		attrs: attrs, numbers: map[string][]number{}, spreads: map[string][]spread{},
		numbAt: map[seriesID]int{}, spreAt: map[seriesID]int{},
	}
	x.byID[attrs.Equivalent()] = t
	x.targets = append(x.targets, t)
	return t
}

// find returns the first target for which ok holds, or an empty one.
func (x *index) find(ok func(*target) bool) *target {
	if i := slices.IndexFunc(x.targets, ok); i >= 0 {
		return x.targets[i]
	}
	return &target{attrs: attribute.EmptySet()}
}

func (t *target) add(m metricdata.Metrics) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		addNumbers(t, m.Name, data.DataPoints)
	case metricdata.Sum[float64]:
		addNumbers(t, m.Name, data.DataPoints)
	case metricdata.Gauge[int64]:
		addNumbers(t, m.Name, data.DataPoints)
	case metricdata.Gauge[float64]:
		addNumbers(t, m.Name, data.DataPoints)
	case metricdata.ExponentialHistogram[float64]:
		t.addSpreads(m.Name, data.DataPoints)
	}
}

func addNumbers[N int64 | float64](t *target, name string, points []metricdata.DataPoint[N]) {
	for _, p := range points {
		v := float64(p.Value)
		if !finite(v) {
			continue
		}
		t.numbAt[seriesID{name, p.Attributes.Equivalent()}] = len(t.numbers[name])
		t.numbers[name] = append(t.numbers[name], number{stamp{p.StartTime, p.Time}, p.Attributes, v})
	}
}

func (t *target) addSpreads(name string, points []metricdata.ExponentialHistogramDataPoint[float64]) {
	for _, p := range points {
		t.spreAt[seriesID{name, p.Attributes.Equivalent()}] = len(t.spreads[name])
		t.spreads[name] = append(t.spreads[name], spread{stamp{p.StartTime, p.Time}, p.Attributes, distribution{
			zero:   p.ZeroCount,
			offset: int(p.PositiveBucket.Offset),
			counts: slices.Clone(p.PositiveBucket.Counts),
			sum:    p.Sum,
		}})
	}
}

// number returns the point of a series; t may be nil.
func (t *target) number(name string, attrs attribute.Set) (number, bool) {
	if t == nil {
		return number{}, false
	}
	i, ok := t.numbAt[seriesID{name, attrs.Equivalent()}]
	if !ok {
		return number{}, false
	}
	return t.numbers[name][i], true
}

// spread returns the point of a series; t may be nil.
func (t *target) spread(name string, attrs attribute.Set) (spread, bool) {
	if t == nil {
		return spread{}, false
	}
	i, ok := t.spreAt[seriesID{name, attrs.Equivalent()}]
	if !ok {
		return spread{}, false
	}
	return t.spreads[name][i], true
}

// has says whether the target has any series of the metric; t may be nil.
func (t *target) has(name string) bool {
	return t != nil && len(t.numbers[name])+len(t.spreads[name]) > 0
}

// hasPrefix says whether the target has a metric whose name begins with prefix.
func (t *target) hasPrefix(prefix string) bool {
	for name := range t.numbers {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	for name := range t.spreads {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// text returns an attribute of the resource, or "".
func (t *target) text(k attribute.Key) string { return text(*t.attrs, k) }

// level returns the sum of the values of a metric over the series that match, or nil if there is none.
func (t *target) level(name string, match func(attribute.Set) bool) *float64 {
	var sum float64
	var found bool
	for _, n := range t.numbers[name] {
		if match(n.attrs) {
			sum += n.value
			found = true
		}
	}
	if !found {
		return nil
	}
	return &sum
}

// amount is level for whole things: bytes, processors.
func (t *target) amount(name string, match func(attribute.Set) bool) *int64 {
	v := t.level(name, match)
	if v == nil {
		return nil
	}
	n := int64(*v)
	return &n
}

// text returns the value of an attribute as text, or "".
func text(attrs attribute.Set, k attribute.Key) string {
	v, ok := attrs.Value(k)
	if !ok {
		return ""
	}
	return v.String()
}

// measured returns a value for a report, rounded to six digits, or nil if it is none.
func measured(v float64) *float64 {
	if !finite(v) {
		return nil
	}
	v = round(v)
	return &v
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
