// Package resource judges figures of the host and of units by limits of objectives: processor time, memory, filesystems,
// pressure.
//
// It reads what other collectors stored in registers in the same tick (collector/host), as collector/budget does, and no
// file of its own: a figure is the same number that is exported, and needs no more privilege. Each new reading of it makes
// one event. A tick takes 0.1 us for each indicator, besides a snapshot of the series that they are about, and allocates
// nothing unless series come or go.
package resource

import (
	"context"
	"fmt"
	"time"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/sli"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	// Name is the name of the collector in verdicts; an indicator's own begins with it.
	Name = "service/resource"
	// SeriesPerIndicator is how many series an indicator has.
	SeriesPerIndicator = sli.Fixed + lossReasons
	// stale is the age from which on a figure counts as missing: collectors of the slow lane read once a minute.
	stale = 150 * time.Second
)

// Why a figure cannot be judged.
const (
	absent = iota // nobody reads it
	old           // it was not read for some time
	lossReasons
)

// Reasons returns the values of loss.reason, in the order of their registers.
func Reasons() []string { return []string{"absent", "old"} }

// Figures judges the indicators of objectives whose source is resource: each new reading of the figure is an event, good if
// it is within its limit: one at each tick, of filesystems one a minute. A figure that nobody reads (absent) or that was not
// read for 150 s (old) is lost at each tick, and neither good nor bad. It implements collector.Collector.
type Figures struct {
	env      collector.Env
	snapshot *metric.Snapshot
	bound    bool
	layout   uint64
	list     []*watched
	elapsed  func() time.Duration // since the start, by a clock that does not jump
}

// watched is an indicator at work.
type watched struct {
	slo.Resource
	name      string // of the indicator
	registers *sli.Registers
	formula   formula
	above     sum
	below     sum
	instead   sum
	at        time.Time     // of the last reading, as its collector says
	elapsed   time.Duration // of the last reading, since the start
	missing   bool          // nobody reads it
	stale     bool
}

// NewFigures takes the indicators of a list whose source is resource; without one it is off. A figure needs the collector that
// reads it: where that is switched off or unavailable, the indicator's own verdict says so.
func NewFigures(env collector.Env, list []slo.Indicator) (collector.Collector, error) {
	started := time.Now()
	f := &Figures{env: env, elapsed: func() time.Duration { return time.Since(started) }}
	families := sli.Declare(env.Metrics, sli.Declaration{
		Source: slo.ResourceSource, From: "slid's own metrics", Reasons: Reasons(),
		Event:   "Readings of a figure of the host or a unit, by whether it was within its limit.",
		Lost:    "Ticks at which nobody reads the figure (absent), or at which it was not read for 150 s (old).",
		Covered: "1 if the figure was there when it was looked for last, else 0.",
	})
	var names []string
	for _, i := range list {
		if i.Source() != slo.ResourceSource {
			continue
		}
		w := &watched{
			Resource: *i.Resource, name: i.Name, formula: formulaOf(*i.Resource),
			registers: families.Of(i.Name, i.Select.Service, env.Host, started),
		}
		names = append(names, w.formula.metrics()...)
		f.list = append(f.list, w)
	}
	if len(f.list) == 0 {
		return nil, &verdict.UnavailableError{Reason: "no objective is about a resource"}
	}
	f.snapshot = env.Metrics.Snapshot(names...)
	return f, nil
}

// Collect judges every figure that was read since the last time.
func (f *Figures) Collect(_ context.Context, now time.Time) error {
	f.snapshot.Take(now)
	if layout := f.snapshot.Layout(); !f.bound || layout != f.layout {
		f.bound, f.layout = true, layout
		f.bind()
	}
	elapsed := f.elapsed()
	for _, w := range f.list {
		w.judge(now, elapsed)
	}
	return nil
}

// bind finds the series of all indicators.
func (f *Figures) bind() {
	for _, w := range f.list {
		w.above.unbind()
		w.below.unbind()
		w.instead.unbind()
		for _, rm := range f.snapshot.Resources {
			fits, ofHost := fitsOf(w.Resource, rm.Resource, f.env.Host), fitsOf(slo.Resource{}, rm.Resource, f.env.Host)
			for _, m := range rm.ScopeMetrics[0].Metrics {
				w.above.bindAll(w.formula.above, m, fits)
				w.below.bindAll(w.formula.below, m, fits)
				w.instead.bindAll(w.formula.instead, m, ofHost)
			}
		}
	}
}

// judge counts an event if there is a new reading of the figure, and a loss if there is none for too long.
func (w *watched) judge(now time.Time, elapsed time.Duration) {
	below := &w.below
	if below.size() == 0 {
		below = &w.instead
	}
	w.missing = w.above.size() == 0 || below.size() == 0 && len(w.formula.below) > 0
	if w.missing {
		w.registers.Lose(absent)
		w.above.members = 0 // what comes back begins anew
		w.at = time.Time{}
		return
	}
	at := w.above.at()
	if at.Equal(w.at) {
		if w.stale = elapsed-w.elapsed > stale; w.stale {
			w.registers.Lose(old)
		}
		return
	}
	w.at = at
	took := elapsed - w.elapsed
	w.elapsed, w.stale = elapsed, false
	if share, ok := w.share(below, took); ok {
		w.registers.Add(w.Bound.Holds(share), now)
	}
}

// share computes the figure, of counters over the time that passed since the last reading.
func (w *watched) share(below *sum, took time.Duration) (share float64, ok bool) {
	whole, wholeOK := 1.0, true
	if below.size() > 0 {
		whole, wholeOK = below.read()
	}
	part, partOK := w.above.read()
	if w.formula.perTime {
		whole *= took.Seconds()
	}
	if !partOK || !wholeOK || !(whole > 0) {
		return 0, false
	}
	share = max(0, min(part/whole, 1)) // readings are some ms apart
	if w.formula.rest {
		share = 1 - share
	}
	return share, true
}

// Verdicts has a row for all figures, and one for each that is missing.
func (f *Figures) Verdicts() []verdict.Verdict {
	list := []verdict.Verdict{{Name: Name, State: verdict.Active, Hook: fmt.Sprintf("%d from slid's own metrics", len(f.list))}}
	for _, w := range f.list {
		v := verdict.Verdict{Name: Name + "/" + w.name, State: verdict.Unavailable, Hook: w.String(), Missing: "the collector " + w.formula.from}
		switch {
		case w.missing && w.Unit != "":
			v.Reason = "nobody reads the figure: does the unit " + w.Unit + " run?"
		case w.missing && w.Mount != "":
			v.Reason = "nobody reads the figure: is " + w.Mount + " a mount point?"
		case w.missing:
			v.Reason = "nobody reads the figure"
		case w.stale:
			v.Reason = "the figure was not read for " + stale.String()
		default:
			continue
		}
		list = append(list, v)
	}
	return list
}

// Close has nothing to give back.
func (f *Figures) Close() error { return nil }
