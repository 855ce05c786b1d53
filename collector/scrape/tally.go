package scrape

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/slid-agent/slid/internal/slo"
)

const (
	// maxSeries bounds the series of a selector.
	maxSeries = 2000
	// A server counts an event first here and then there, and a scrape may come between. As many good events may come before
	// their total: a share of the total, and a few.
	aheadShare = 0.01
	aheadFew   = 10
)

// A tally is what the answers for one indicator add up to.
type tally struct {
	part, total *selection
	partIsBad   bool

	counting  bool      // there were series once
	base      time.Time // of the first answer; zero before
	last      time.Time // of the last answer that counted
	good, bad float64
	ahead     float64 // events of the part that came before their total
	started   float64 // of the server's process, as it says, in seconds since 1970; 0: it does not
}

// A selection is a selector at work and what its series were at the last answer.
type selection struct {
	slo.Selector
	bound       float64 // of the bucket that it names
	named       bool    // it names one
	expressions []*regexp.Regexp
	series      map[string]float64
}

// An outcome is what an answer brought.
type outcome struct {
	began bool    // counters began anew
	known float64 // the share of the time since the last answer that they tell of, if they began; to a second
	lost  uint64  // events that contradict others
}

func newTally(s slo.Scrape) tally {
	part, bad := s.Part()
	return tally{part: newSelection(part), total: newSelection(s.Total), partIsBad: bad}
}

func newSelection(s slo.Selector) *selection {
	c := &selection{Selector: s, series: map[string]float64{}}
	c.bound, c.named = s.Bucket()
	for _, m := range s.Matchers {
		var e *regexp.Regexp
		if m.Op == slo.Matching || m.Op == slo.NotMatching {
			e, _ = m.Regexp() // parsing the selector tried it
		}
		c.expressions = append(c.expressions, e)
	}
	return c
}

func (t *tally) wantsBucket() bool { return t.part.named || t.total.named }

// events returns the sums. Half events, which some counters have, are not counted before they are whole.
func (t *tally) events() (good, bad uint64) {
	const rounding = 1e-6
	return uint64(t.good + rounding), uint64(t.bad + rounding)
}

// take counts what the series grew by since the last answer. The error is a *failure if the answer cannot be counted. Another
// error says that there are no series yet.
func (t *tally) take(a *answer, at time.Time) (outcome, error) {
	part, err := t.part.find(a)
	total, alsoErr := t.total.find(a)
	if err := cmp.Or(err, alsoErr); err != nil {
		return outcome{}, err
	}
	anew := t.started != 0 && a.started > t.started
	first := t.base.IsZero()
	if len(total) == 0 && t.counting && !anew {
		return outcome{}, failed(missing, "no series matches %s any more", t.total.Selector)
	}
	if first {
		t.base = at
	}
	grownPart, began := t.part.grow(part, first, anew)
	grownTotal, alsoBegan := t.total.grow(total, first, anew)
	o := outcome{began: t.counting && (began || alsoBegan), known: 1}
	if o.began && a.started != 0 {
		since := at.Sub(time.UnixMicro(int64(a.started * 1e6)))
		o.known = max(0, min(since.Seconds()/at.Sub(t.last).Seconds(), 1))
	}
	if a.started != 0 {
		t.started = a.started
	}
	if len(total) == 0 {
		return o, fmt.Errorf("no series matches %s: nothing was counted yet, or it is mistyped", t.total.Selector)
	}
	t.counting, t.last = true, at
	err = t.count(grownPart, grownTotal, &o)
	return o, err
}

// count adds events, of which part are good, or bad.
func (t *tally) count(part, total float64, o *outcome) error {
	part += t.ahead
	t.ahead = 0
	if ahead := part - total; ahead > 0 {
		if ahead > total*aheadShare+aheadFew {
			o.lost = uint64(total)
			return failed(inconsistent, "%s grew by %g and %s by %g: it is no part of it", t.part.Selector, part, t.total.Selector, total)
		}
		t.ahead, part = ahead, total
	}
	if t.partIsBad {
		part = total - part
	}
	t.good += part
	t.bad += total - part
	return nil
}

// find returns the values of the selection's series in an answer. The error is a *failure.
func (s *selection) find(a *answer) (map[string]float64, error) {
	found := map[string]float64{}
	var bounds []float64 // of series that only the bucket's bound tells from the selection's
	for i := range a.samples {
		sample := &a.samples[i]
		if sample.metric != s.Metric || !s.matches(sample) {
			continue
		}
		if s.named {
			bound, err := strconv.ParseFloat(sample.label(slo.BucketLabel), 64)
			if err != nil || !same(bound, s.bound) {
				bounds = append(bounds, bound)
				continue
			}
		}
		key := keyOf(sample.labels)
		if _, twice := found[key]; twice {
			return nil, failed(duplicate, "a series is there twice: %s{%s}", s.Metric, key)
		}
		if !(sample.value >= 0 && sample.value < math.MaxUint64) {
			return nil, failed(protocol, "%s{%s} is %g, which no counter is", s.Metric, key, sample.value)
		}
		if found[key] = sample.value; len(found) > maxSeries {
			return nil, failed(tooLarge, "more than %d series match %s", maxSeries, s.Selector)
		}
	}
	if len(found) == 0 && len(bounds) > 0 {
		return nil, failed(bucket, "%s has no bucket of %g; its bounds are %s", s.Metric, s.bound, list(bounds))
	}
	return found, nil
}

// same tells whether two bounds are one: texts may have fewer digits.
func same(a, b float64) bool { return a == b || math.Abs(a-b) <= 1e-9*math.Abs(b) }

// list writes bounds in their order, each once.
func list(bounds []float64) string {
	slices.Sort(bounds)
	var texts []string
	for _, b := range slices.Compact(bounds) {
		texts = append(texts, strconv.FormatFloat(b, 'g', -1, 64))
	}
	if len(texts) > 40 {
		texts = append(texts[:40], "...")
	}
	return strings.Join(texts, ", ")
}

// matches compares all labels but the bucket's bound, which is a number.
func (s *selection) matches(of *sample) bool {
	for i, m := range s.Matchers {
		value, ok := of.label(m.Label), false
		switch m.Op {
		case slo.Equal:
			ok = value == m.Value || s.named && m.Label == slo.BucketLabel
		case slo.NotEqual:
			ok = value != m.Value
		case slo.Matching:
			ok = s.expressions[i].MatchString(value)
		case slo.NotMatching:
			ok = !s.expressions[i].MatchString(value)
		}
		if !ok {
			return false
		}
	}
	return true
}

// keyOf writes labels in their order.
func keyOf(labels []*dto.LabelPair) string {
	texts := make([]string, len(labels))
	for i, l := range labels {
		texts[i] = l.GetName() + "=" + strconv.Quote(l.GetValue())
	}
	slices.Sort(texts)
	return strings.Join(texts, ",")
}

// grow takes the new values of the series and returns by how much they grew in sum. A series that was not there before began
// at zero since, unless this is the first answer. One that fell, and all if the process is another one, began anew. One
// that has gone is remembered: it may come back.
func (s *selection) grow(found map[string]float64, first, anew bool) (growth float64, began bool) {
	if anew {
		clear(s.series)
		began = true
	}
	for key, value := range found {
		before, known := s.series[key]
		switch {
		case first:
		case known && value >= before:
			growth += value - before
		default:
			growth += value
			began = began || known
		}
		s.series[key] = value
	}
	if len(s.series) > 2*maxSeries {
		for key := range s.series {
			if _, is := found[key]; !is {
				delete(s.series, key)
			}
		}
	}
	return growth, began
}
