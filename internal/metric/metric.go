// Package metric is slid's vocabulary: registers that collectors write and snapshots that exporters read.
//
// A collector declares each metric once (a family), asks for one register per series, and from then on only
// stores numbers: recording takes a few nanoseconds and allocates nothing. The pipeline copies all registers into
// a Snapshot, which is memory of its own, in the OpenTelemetry SDK's metricdata types: cumulative, with true start
// times, one ResourceMetrics per resource. Nothing in a snapshot aliases a register, so collecting goes on while
// an exporter still reads.
//
// Series live and die with their Entity (a disk, a network interface, a service): removing it takes all of its
// series out of the next snapshot. A Group is one collector's share of the registry and has a budget of series;
// what goes over it is counted and not exported.
package metric

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
)

// Kind says how the values of a metric behave over time (OpenTelemetry metrics data model).
type Kind uint8

const (
	// Counter is a monotonic cumulative sum.
	Counter Kind = iota
	// UpDownCounter is a cumulative sum that may fall: amounts that add up over attributes.
	UpDownCounter
	// Gauge is a last value that does not add up.
	Gauge
	// Histogram is a base-2 exponential histogram of scale 3.
	Histogram
)

// String returns the kind as OpenTelemetry spells it.
func (k Kind) String() string {
	return [...]string{"Counter", "UpDownCounter", "Gauge", "Histogram"}[k]
}

// Class groups metrics by who wants them; destinations select by it (config key export.select).
type Class string

// The classes of metrics.
const (
	ClassHost    Class = "host"    // hardware and operating system
	ClassLatency Class = "latency" // kernel latencies
	ClassService Class = "service" // requests, statuses and durations per service
	ClassSLO     Class = "slo"     // objectives: what is promised, and how it stands on this host
	ClassAgent   Class = "agent"   // slid's own state and cost; every destination gets it
)

// Desc declares a metric. It is written once, beside the code that collects it.
type Desc struct {
	Name        string // OpenTelemetry name, e.g. system.cpu.time
	Unit        string // UCUM, e.g. s, By, {request}
	Kind        Kind
	Description string          // one sentence: what one unit of it means
	Attributes  []attribute.Key // the keys that every series of it carries
	Source      string          // where the numbers come from: kernel file, tracepoint, system call
	Range       Range           // histograms only; zero means Durations
}

// A Registry holds every register of the process. Its methods may be called concurrently.
type Registry struct {
	scope instrumentation.Scope

	mu       sync.Mutex // guards all structure: groups, families, entities and their series; not values
	groups   []*Group
	entities []*Entity

	version atomic.Uint64 // grows with every structural change; snapshots compare it
}

// NewRegistry returns an empty registry whose snapshots carry the given instrumentation scope.
func NewRegistry(scope instrumentation.Scope) *Registry {
	return &Registry{scope: scope}
}

// Group adds a collector's share: metrics of one class with at most budget live series.
func (r *Registry) Group(name string, class Class, budget int) *Group {
	g := &Group{registry: r, name: name, class: class, budget: budget}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = append(r.groups, g)
	return g
}

// Groups returns all groups in the order of their making.
func (r *Registry) Groups() []*Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.groups)
}

// A Group is the share of the registry that belongs to one collector.
type Group struct {
	registry *Registry
	name     string
	class    Class
	budget   int

	families []*family // guarded by registry.mu
	live     int       // guarded by registry.mu

	dropped   atomic.Uint64
	collected atomic.Int64 // unix ns of the last good collection; 0 before the first
}

// Name returns the collector's name.
func (g *Group) Name() string { return g.name }

// Dropped returns how many series were refused because the budget was spent.
func (g *Group) Dropped() uint64 { return g.dropped.Load() }

// Live returns how many series the group has.
func (g *Group) Live() int {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	return g.live
}

// Collected marks all registers of the group as read at the given time. Data points carry it as their time, so
// that the values of a collector that fails or hangs keep the age they have.
// Before the first call nothing of the group is exported.
func (g *Group) Collected(at time.Time) {
	if g.collected.Swap(at.UnixNano()) == 0 {
		g.registry.version.Add(1)
	}
}

// LastCollected returns the time given to the last call of Collected, or the zero time.
func (g *Group) LastCollected() time.Time {
	ns := g.collected.Load()
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// Descs returns the declarations of all metrics of the group in the order of their making.
func (g *Group) Descs() []Desc {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	descs := make([]Desc, len(g.families))
	for i, f := range g.families {
		descs[i] = f.desc
	}
	return descs
}

// Entity adds something that has metrics, described by res and in existence since start: the cumulative series of
// the entity count from there. It lives until Remove.
func (g *Group) Entity(res *resource.Resource, start time.Time) *Entity {
	e := &Entity{group: g, resource: res, start: start}
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	g.registry.entities = append(g.registry.entities, e)
	return e
}

// EntityApart adds an entity that is read apart from the rest of the group, such as a server that may not answer while
// others do: its series carry the time of its own last Collected instead of the group's, and are not exported before the
// first.
func (g *Group) EntityApart(res *resource.Resource, start time.Time) *Entity {
	e := g.Entity(res, start)
	e.apart = true
	return e
}

// An Entity is the owner of series that come and go together.
type Entity struct {
	group     *Group
	resource  *resource.Resource
	start     time.Time
	series    []series     // guarded by registry.mu
	apart     bool         // it is read apart from its group
	collected atomic.Int64 // unix ns of its last good reading, if it is read apart; 0 before the first
}

// Collected marks the series of an entity that is read apart as read at the given time.
func (e *Entity) Collected(at time.Time) {
	if e.collected.Swap(at.UnixNano()) == 0 {
		e.group.registry.version.Add(1)
	}
}

// read returns when the series of the entity were read last, in unix ns; 0 before the first time.
func (e *Entity) read() int64 {
	group := e.group.collected.Load()
	if !e.apart || group == 0 {
		return group
	}
	return e.collected.Load()
}

// Remove takes the entity and its series out of the registry. Registers of it may still be written, in vain.
func (e *Entity) Remove() {
	r := e.group.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.entities, e)
	if i < 0 {
		return
	}
	r.entities = slices.Delete(r.entities, i, i+1)
	e.group.live -= len(e.series)
	e.series = nil
	r.version.Add(1)
}

// family is the part that all kinds of families share.
type family struct {
	desc  Desc
	group *Group
}

// declare adds a metric to the group, or returns the one of that name: several of a kind, such as exporters, may share
// a group.
func (g *Group) declare(d Desc) *family {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	for _, f := range g.families {
		if f.desc.Name == d.Name {
			return f
		}
	}
	f := &family{desc: d, group: g}
	g.families = append(g.families, f)
	return f
}

// series is what the registry needs to know of a register. It is implemented by Int, Float and Hist.
type series interface {
	base() *register
}

// register is the part that all kinds of registers share.
type register struct {
	family *family
	entity *Entity
	attrs  attribute.Set
	start  atomic.Int64 // unix ns
	seen   atomic.Bool  // a gauge without a value is not exported
	last   int64        // unix ns of the previous Observe; only the writer touches it
}

func (r *register) base() *register { return r }

// exported says whether the register has something to export: it was collected at least once; then sums
// count from zero, and gauges need a first value.
func (r *register) exported() bool {
	return r.entity.read() != 0 && (r.family.desc.Kind != Gauge || r.seen.Load())
}

// collected returns when the register was read last; it is exported.
func (r *register) collected() time.Time { return time.Unix(0, r.entity.read()) }

// firstValue makes a gauge visible.
func (r *register) firstValue() {
	if !r.seen.Swap(true) && r.family.desc.Kind == Gauge {
		r.family.group.registry.version.Add(1)
	}
}

// restart begins a new cumulative series: the counter behind it was seen to fall, so it began anew after the
// previous observation.
func (r *register) restart() { r.start.Store(r.last) }

// add links a register into its entity. It returns the existing register of the same family and attributes if
// there is one. Over the budget it counts the loss and leaves the new one unlinked: it can be written and is
// never exported.
func add[S series](e *Entity, f *family, attrs []attribute.KeyValue, fresh S) S {
	if e.group != f.group {
		panic(fmt.Sprintf("metric: %s belongs to group %s, not to %s", f.desc.Name, f.group.name, e.group.name))
	}
	reg := fresh.base()
	reg.family, reg.entity = f, e
	reg.attrs = attribute.NewSet(attrs...)
	reg.start.Store(e.start.UnixNano())
	reg.last = e.start.UnixNano()

	r := e.group.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range e.series {
		if b := s.base(); b.family == f && b.attrs.Equals(&reg.attrs) {
			return s.(S)
		}
	}
	if e.group.live >= e.group.budget {
		e.group.dropped.Add(1)
		return fresh
	}
	e.group.live++
	e.series = append(e.series, fresh)
	r.version.Add(1)
	return fresh
}
