package text

import (
	"cmp"
	"slices"
)

// An Owner is a unit or container, or what is left on the host, and where its tasks waited in the kernel.
type Owner struct {
	Service   string           `json:"service"`
	Unit      string           `json:"unit"`
	Container string           `json:"container"`
	Delays    map[string]Delay `json:"delays"` // by kind: runqueue, disk, fsync, reclaim, tcp_connect, ...
	// Preempted is the part of the run queue's seconds in which a task waited because another one took its CPU: of the
	// same owner (own), of another (other), or of the kernel (system).
	Preempted map[string]float64 `json:"preempted_seconds,omitempty"`

	seconds float64 // of all delays
}

// A Delay is what an owner's tasks waited for one thing.
type Delay struct {
	Count   int64    `json:"count"`
	Seconds float64  `json:"seconds"` // of all together; several tasks may wait at a time
	P50     *float64 `json:"p50,omitempty"`
	P99     *float64 `json:"p99,omitempty"`
}

// owners returns those that waited, the longest first.
func (w window) owners() []Owner {
	list := []Owner{}
	for _, t := range w.to.targets {
		if o, ok := w.owner(t); ok {
			list = append(list, o)
		}
	}
	slices.SortStableFunc(list, func(a, b Owner) int {
		return cmp.Or(cmp.Compare(b.seconds, a.seconds), cmp.Compare(a.Service, b.Service))
	})
	return list
}

func (w window) owner(t *target) (o Owner, ok bool) {
	o = Owner{
		Service: t.text(keyServiceName), Unit: t.text(keyUnit), Container: t.text(keyContainer), Delays: map[string]Delay{},
	}
	for _, kind := range delays {
		d, known := w.distribution(t, kind.metric, anySeries)
		if !known || d.count() == 0 {
			continue
		}
		o.Delays[kind.name] = Delay{
			Count: int64(d.count()), Seconds: round(d.sum), P50: measured(d.quantile(0.5)), P99: measured(d.quantile(0.99)),
		}
		o.seconds += d.sum
	}
	for by, list := range w.changesBy(t, preemptedTime, keyPreemptedBy) {
		if s := sum(list, anySeries); s != nil {
			if o.Preempted == nil {
				o.Preempted = map[string]float64{}
			}
			o.Preempted[by] = *s
		}
	}
	return o, len(o.Delays) > 0
}

// mostOwners is how many owners the table has: the rest waited less.
const mostOwners = 10

// owners writes who waited for what: the 99th percentile and, behind it, how much of the time.
func (p *page) owners(r *Report) {
	if len(r.Owners) == 0 {
		return
	}
	g := grid{titles: []string{"", "WHO WAITED, P99", "BY OTHERS"}}
	for _, kind := range delays {
		if kind.title != "" {
			g.titles = append(g.titles, kind.title)
		}
	}
	for _, o := range r.Owners[:min(len(r.Owners), mostOwners)] {
		row := []string{o.Service, o.byOthers()}
		for _, kind := range delays {
			if kind.title == "" {
				continue
			}
			text := none
			if d, ok := o.Delays[kind.name]; ok {
				text = optional(d.P99, FormatDuration)
			}
			row = append(row, text)
		}
		g.add(row...)
	}
	p.grid(g)
	if more := len(r.Owners) - mostOwners; more > 0 {
		p.paragraph(dim, "  ", plural(int64(more), "other")+" waited less")
	}
}

// byOthers returns the share of the waits for a CPU, in time, that began when another owner's task took it.
func (o *Owner) byOthers() string {
	d, ok := o.Delays["runqueue"]
	if !ok || d.Seconds <= 0 || o.Preempted == nil {
		return none
	}
	return FormatShare(min(o.Preempted["other"]/d.Seconds, 1))
}
