package budget

import (
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

// What objectives are measured by, whichever collector counts it.
const (
	eventsName   = "sli.events"
	excludedName = "sli.events.excluded"
	lostName     = "sli.events.lost"
	coverageName = "sli.coverage"

	indicatorKey attribute.Key = "sli.name"
	outcomeKey   attribute.Key = "sli.outcome"
	serviceKey   attribute.Key = "service.name"
)

// An indicator is what one sli.name counted in a tick.
type indicator struct {
	name, service string
	counts        slo.Counts
	coverage      float64 // of this tick; negative: not told
	covered       bool    // there is a gauge or a counter of its own that tells
	sources       int     // series of its events
}

// A reader takes the growth of the counters of all indicators. Its memory is reused from tick to tick.
type reader struct {
	snapshot   *metric.Snapshot
	indicators []*indicator
	began      time.Time // the start, or the earliest that it was by a clock that was set back

	last      time.Duration // of the last read, since the start
	laidOut   bool
	layout    uint64
	series    []*reading
	byID      map[readingID]*reading
	resources map[string]*resource.Resource // by service.name, the first
}

func newReader(g *metric.Group, followed []*followed, started time.Time) reader {
	r := reader{
		snapshot: g.Snapshot(eventsName, excludedName, lostName, coverageName), began: started.Round(0),
		byID: map[readingID]*reading{},
	}
	byName := map[string]*indicator{}
	for _, f := range followed {
		for _, m := range f.tracker.Objective().Members {
			i := byName[m.Indicator.Name]
			if i == nil {
				i = &indicator{name: m.Indicator.Name, service: m.Indicator.Select.Service}
				byName[i.name] = i
				r.indicators = append(r.indicators, i)
			}
			f.indicators = append(f.indicators, i)
		}
		f.counts = make([]slo.Counts, len(f.indicators))
	}
	return r
}

// A role is what a series says of its indicators.
type role uint8

const (
	good role = iota
	bad
	excluded
	lost
	coverage
)

// A readingID tells series apart, whatever snapshot they stand in.
type readingID struct {
	resource attribute.Distinct
	metric   string
	attrs    attribute.Distinct
}

// A reading is a series and what was last read of it.
type reading struct {
	role       role
	named      bool // it names its indicator
	of         []*indicator
	ints       *metricdata.DataPoint[int64] // one of the two
	floats     *metricdata.DataPoint[float64]
	start, at  time.Time     // of the last reading
	total      uint64        // at the last reading
	elapsed    time.Duration // when it was read last, since the start
	generation uint64        // of the layout that has it
}

// read takes what was counted until now, elapsed after the start, into the indicators. changed says that series came or
// went.
func (r *reader) read(now time.Time, elapsed time.Duration) (changed bool) {
	r.snapshot.Take(now)
	if byNow := now.Round(0).Add(-elapsed); byNow.Before(r.began) {
		r.began = byNow
	}
	if layout := r.snapshot.Layout(); !r.laidOut || layout != r.layout {
		r.laidOut, r.layout, changed = true, layout, true
		r.arrange(now, elapsed)
	}
	for _, i := range r.indicators {
		i.counts, i.coverage = slo.Counts{}, -1
	}
	for _, s := range r.series {
		s.read(elapsed)
	}
	for _, i := range r.indicators {
		i.cover()
	}
	r.last = elapsed
	return changed
}

// arrange finds the series of the indicators in a new layout. What is known already goes on from its last reading.
func (r *reader) arrange(now time.Time, elapsed time.Duration) {
	r.series = r.series[:0]
	r.resources = map[string]*resource.Resource{}
	for _, i := range r.indicators {
		i.sources, i.covered = 0, false
	}
	for _, rm := range r.snapshot.Resources {
		service := textOf(rm.Resource.Set(), serviceKey)
		if r.resources[service] == nil {
			r.resources[service] = rm.Resource
		}
		for _, m := range rm.ScopeMetrics[0].Metrics {
			r.arrangeMetric(rm.Resource, m, now, elapsed)
		}
	}
	for id, s := range r.byID {
		if s.generation != r.layout {
			delete(r.byID, id)
		}
	}
	for _, s := range r.series {
		if s.role == lost || s.role == coverage {
			continue
		}
		for _, i := range s.of {
			i.sources++
		}
	}
}

func (r *reader) arrangeMetric(res *resource.Resource, m metricdata.Metrics, now time.Time, elapsed time.Duration) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for i := range data.DataPoints {
			p := &data.DataPoints[i]
			if s := r.place(res, m.Name, &p.Attributes, p.StartTime, now, elapsed); s != nil {
				s.ints, s.floats = p, nil
			}
		}
	case metricdata.Sum[float64]:
		for i := range data.DataPoints {
			p := &data.DataPoints[i]
			if s := r.place(res, m.Name, &p.Attributes, p.StartTime, now, elapsed); s != nil {
				s.ints, s.floats = nil, p
			}
		}
	case metricdata.Gauge[float64]:
		for i := range data.DataPoints {
			p := &data.DataPoints[i]
			if s := r.place(res, m.Name, &p.Attributes, p.StartTime, now, elapsed); s != nil {
				s.ints, s.floats = nil, p
			}
		}
	}
}

// place returns the reading of a series, a new one if need be, or nil if no indicator is about it.
func (r *reader) place(res *resource.Resource, name string, attrs *attribute.Set, start, now time.Time, elapsed time.Duration) *reading {
	as, ok := roleOf(name, attrs)
	of := r.about(res, name, attrs)
	if !ok || len(of) == 0 {
		return nil
	}
	id := readingID{res.Equivalent(), name, attrs.Equivalent()}
	s := r.byID[id]
	if s == nil {
		s = &reading{elapsed: r.last}
		if age := now.Sub(start); age >= 0 { // else the clock was set back
			s.elapsed = min(max(r.last, elapsed-age), elapsed)
		}
		if start.Before(r.began) {
			s.elapsed = -1 // what it has, such as a server that is scraped, was counted when nobody listened
		}
		r.byID[id] = s
	}
	s.role, s.named, s.of, s.generation = as, attrs.HasValue(indicatorKey), of, r.layout
	r.series = append(r.series, s)
	return s
}

func roleOf(name string, attrs *attribute.Set) (role, bool) {
	switch name {
	case eventsName:
		outcome := textOf(attrs, outcomeKey)
		if outcome == "good" {
			return good, true
		}
		return bad, outcome == "bad"
	case excludedName:
		return excluded, true
	case lostName:
		return lost, true
	}
	return coverage, name == coverageName
}

// about returns the indicators that a series is about: the one it names, or, of losses that nobody could tell whose they
// were, all of the service.
func (r *reader) about(res *resource.Resource, metric string, attrs *attribute.Set) (list []*indicator) {
	name, service := textOf(attrs, indicatorKey), textOf(res.Set(), serviceKey)
	for _, i := range r.indicators {
		if name == i.name || name == "" && metric == lostName && service == i.service {
			list = append(list, i)
		}
	}
	if name != "" && (metric == coverageName || metric == lostName) {
		for _, i := range list {
			i.covered = true
		}
	}
	return list
}

func textOf(attrs *attribute.Set, key attribute.Key) string {
	v, _ := attrs.Value(key)
	return v.AsString()
}

// read adds what the series counted since its last reading to its indicators. One that its collector did not read
// again has nothing to say: that is no data, not zero.
func (s *reading) read(elapsed time.Duration) {
	var value float64
	var start, at time.Time
	if s.ints != nil {
		value, start, at = float64(s.ints.Value), s.ints.StartTime, s.ints.Time
	} else {
		value, start, at = s.floats.Value, s.floats.StartTime, s.floats.Time
	}
	if at.Equal(s.at) || math.IsNaN(value) {
		return
	}
	total := uint64(max(0, min(value, 1<<62)))
	if s.ints != nil {
		total = uint64(max(0, s.ints.Value)) // floats hold no more than 2^53
	}
	growth, measured := s.grow(total, start, elapsed)
	s.total, s.start, s.at, s.elapsed = total, start, at, elapsed
	for _, i := range s.of {
		if s.role != lost || s.named || !i.covered {
			i.take(s.role, growth, measured, value)
		}
	}
}

// grow returns what the counter counted since the last reading, and in which time. One that fell, or that says it began
// anew, did so.
func (s *reading) grow(total uint64, start time.Time, elapsed time.Duration) (growth uint64, measured time.Duration) {
	switch {
	case s.elapsed < 0:
		return 0, 0
	case s.at.IsZero() || total < s.total || !start.Equal(s.start):
		growth = total
	default:
		growth = total - s.total
	}
	return growth, elapsed - s.elapsed
}

func (i *indicator) take(r role, growth uint64, measured time.Duration, value float64) {
	switch r {
	case good:
		i.counts.Good += growth
	case bad:
		i.counts.Bad += growth
	case excluded:
		i.counts.Excluded += growth
	case lost:
		i.counts.Missed += growth
	case coverage:
		i.coverage = value
	}
	if r == good || r == bad {
		i.counts.Measured = max(i.counts.Measured, measured)
	}
}

// cover turns the share of the events that were understood into how many were not. Without events it says nothing: the
// share is that of an earlier time then.
func (i *indicator) cover() {
	if i.coverage < 0 || i.coverage >= 1 {
		return
	}
	const least = 1e-6
	understood := float64(i.counts.Good + i.counts.Bad + i.counts.Excluded)
	missed := understood * (1/max(i.coverage, least) - 1)
	i.counts.Missed = max(i.counts.Missed, uint64(math.Round(missed)))
}
