package text

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// window is the time between two snapshots.
type window struct{ from, to *index }

// change is what one counter counted within the window.
type change struct {
	attrs   attribute.Set
	value   float64
	seconds float64 // between the two readings, by the times at which the collector read them; always positive
}

// changes returns what the counters of a metric counted within the window. Those of which that is not known, for
// example because they were not read again, are left out.
func (w window) changes(t *target, name string) []change {
	list := make([]change, 0, len(t.numbers[name]))
	old := w.from.byID[t.attrs.Equivalent()]
	for _, now := range t.numbers[name] {
		before, known := old.number(name, now.attrs)
		seconds, ok := w.elapsed(now.stamp, before.stamp, known, func() bool { return countedHere(name) || old.has(name) })
		if !ok {
			continue
		}
		value := now.value
		if known && !restarted(now.stamp, before.stamp) && before.value <= now.value {
			value -= before.value
		}
		list = append(list, change{now.attrs, value, seconds})
	}
	return list
}

// everywhere returns the changes of a metric on all resources.
func (w window) everywhere(name string) []change {
	var list []change
	for _, t := range w.to.targets {
		list = append(list, w.changes(t, name)...)
	}
	return list
}

// distribution returns what the histograms of a metric counted within the window, over all series that match.
// ok is false if that is not known of any.
func (w window) distribution(t *target, name string, match func(attribute.Set) bool) (sum distribution, ok bool) {
	old := w.from.byID[t.attrs.Equivalent()]
	for _, now := range t.spreads[name] {
		if !match(now.attrs) {
			continue
		}
		before, known := old.spread(name, now.attrs)
		_, good := w.elapsed(now.stamp, before.stamp, known, func() bool { return countedHere(name) || old.has(name) })
		if !good {
			continue
		}
		ok = true
		d := now.distribution
		if known && !restarted(now.stamp, before.stamp) && before.within(d) {
			d = d.minus(before.distribution)
		}
		sum = sum.plus(d)
	}
	return sum, ok
}

// elapsed returns the seconds that a series counted within the window. ok is false if it is not known what it
// counted: it was not read again, or it is new to us and may have counted long before. A new series counts in full if
// it began within the window, or if fresh says that it can only have counted since the last snapshot.
func (w window) elapsed(now, before stamp, known bool, fresh func() bool) (seconds float64, ok bool) {
	if !known {
		if now.start.Before(w.from.at) && !fresh() {
			return 0, false
		}
		before.at = w.from.at
	}
	seconds = now.at.Sub(before.at).Seconds()
	return seconds, seconds > 0
}

// restarted says whether the counter began anew between the two readings. A counter that fell did so too, even if its
// start time does not tell.
func restarted(now, before stamp) bool { return now.start.After(before.start) }

// countedHere says whether slid itself counts the metric. Such a series appears with its first event, so all of it
// is news. The kernel's counters run since boot: a collector that failed at the baseline shows all of that at once.
func countedHere(name string) bool { return !strings.HasPrefix(name, kernelCounters) }

// changesBy returns the changes of a metric by the value of an attribute: the first of keys that a series has.
func (w window) changesBy(t *target, name string, keys ...attribute.Key) map[string][]change {
	list := map[string][]change{}
	for _, c := range w.changes(t, name) {
		for _, k := range keys {
			if v := text(c.attrs, k); v != "" {
				list[v] = append(list[v], c)
				break
			}
		}
	}
	return list
}

// sum returns the sum of the changes that match, or nil if there is none.
func sum(list []change, match func(attribute.Set) bool) *float64 {
	return total(list, match, func(c change) float64 { return c.value })
}

// rate returns the sum of the changes that match, per second, or nil if there is none.
func rate(list []change, match func(attribute.Set) bool) *float64 {
	return total(list, match, func(c change) float64 { return c.value / c.seconds })
}

func total(list []change, match func(attribute.Set) bool, value func(change) float64) *float64 {
	var sum float64
	var found bool
	for _, c := range list {
		if match(c.attrs) {
			sum += value(c)
			found = true
		}
	}
	if !found {
		return nil
	}
	return measured(sum)
}

// count is sum for whole things, exact up to 2^53.
func count(list []change, match func(attribute.Set) bool) *int64 {
	var sum int64
	var found bool
	for _, c := range list {
		if match(c.attrs) {
			sum += int64(c.value)
			found = true
		}
	}
	if !found {
		return nil
	}
	return &sum
}

// anySeries matches every series.
func anySeries(attribute.Set) bool { return true }

// having returns a test for series with the given attribute value.
func having(k attribute.Key, value string) func(attribute.Set) bool {
	return func(attrs attribute.Set) bool { return text(attrs, k) == value }
}
