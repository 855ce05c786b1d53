package slo

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// noon is when the tests begin.
func noon() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func simple(method Method) Objective {
	o := Objective{
		Name: "fast", Service: "shop", Target: 0.99, Window: Window{Span: Span{7, Day}}, Method: method,
		Members: []Member{{Indicator: Indicator{Name: "fast"}, Target: 0.99, Weight: 1}},
	}
	if method != Occurrences {
		o.Slice, o.SliceTarget = 5*time.Minute, 0.95
	}
	return o
}

// A tick is what was counted until a time.
type tick struct {
	at     time.Time
	counts []Counts // of each member
}

// run draws ticks of uneven length and traffic, with gaps.
func run(t *rapid.T, members int) []tick {
	var list []tick
	now := noon()
	for range rapid.IntRange(1, 300).Draw(t, "ticks") {
		step := time.Duration(rapid.IntRange(1, 900).Draw(t, "step")) * time.Second
		now = now.Add(step)
		tk := tick{at: now}
		for range members {
			tk.counts = append(tk.counts, Counts{
				Good: rapid.Uint64Range(0, 50).Draw(t, "good"), Bad: rapid.Uint64Range(0, 3).Draw(t, "bad"), Measured: step,
			})
		}
		list = append(list, tk)
		now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 0, 0, 0, 7, 4000, 50000}).Draw(t, "gap")) * time.Second)
	}
	return list
}

// model is the brute-force twin of a tracker: it keeps every tick and adds up what the definition says.
type model struct {
	o     Objective
	ticks []tick
}

// badAndAll returns the bad units and all units between two times of one member, or of all with Timeslices.
func (m model) badAndAll(member int, from, to time.Time) (bad, all float64) {
	inside := func(at time.Time) bool { return at.After(from) && !at.After(to) }
	if m.o.Method == Occurrences {
		for _, tk := range m.ticks {
			if inside(tk.at) {
				bad += float64(tk.counts[member].Bad)
				all += float64(tk.counts[member].Total())
			}
		}
		return bad, all
	}
	sliceOf := func(at time.Time) int64 { return (at.UnixNano() - 1) / int64(m.o.Slice) }
	for i := 0; i < len(m.ticks); {
		number := sliceOf(m.ticks[i].at)
		good, total := make([]float64, len(m.o.Members)), make([]float64, len(m.o.Members))
		for ; i < len(m.ticks) && sliceOf(m.ticks[i].at) == number; i++ {
			for k, c := range m.ticks[i].counts {
				good[k] += float64(c.Good)
				total[k] += float64(c.Total())
			}
		}
		if i == len(m.ticks) || !inside(time.Unix(0, (number+1)*int64(m.o.Slice))) {
			continue // not over, or not in the window
		}
		b, a := m.slice(member, good, total)
		bad, all = bad+b, all+a
	}
	return bad, all
}

func (m model) slice(member int, good, total []float64) (bad, all float64) {
	if m.o.Method == RatioTimeslices {
		if total[member] == 0 {
			return 0, 0
		}
		return 1 - good[member]/total[member], 1
	}
	for k := range total {
		if total[k] == 0 {
			continue
		}
		all = 1
		if good[k]/total[k] < m.o.SliceTarget-1e-12 {
			bad = 1
		}
	}
	return bad, all
}

// burn is the rate over a window by the definition: bad units among all, over what is allowed, weighted.
func (m model) burn(from, to time.Time) (rate float64, known bool) {
	for k, member := range m.o.Members {
		if m.o.Method == Timeslices && k > 0 {
			break
		}
		weight := member.Weight
		if m.o.Method == Timeslices {
			weight = 1
		}
		if bad, all := m.badAndAll(k, from, to); all > 0 {
			rate += weight * bad / all / (1 - member.Target)
			known = true
		}
	}
	return rate, known
}

// TestBurnAgreesWithBruteForce compares burn rates over every window, and the budget, with the model's.
func TestBurnAgreesWithBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := simple(Method(rapid.IntRange(0, 2).Draw(t, "method")))
		if rapid.Bool().Draw(t, "composite") {
			weight := 1.0
			if o.Method != Timeslices {
				weight = 2.5
			}
			o.Members = append(o.Members, Member{Indicator: Indicator{Name: "right"}, Target: 0.99, Weight: weight})
		}
		tracker, m := NewTracker(o), model{o: o, ticks: run(t, len(o.Members))}
		for _, tk := range m.ticks {
			tracker.Add(tk.at, tk.counts)
		}
		now := m.ticks[len(m.ticks)-1].at.Truncate(time.Hour).Add(time.Hour) // slots of every width end here
		s := tracker.Status(now)
		for _, b := range s.Burns {
			rate, known := m.burn(now.Add(-max(b.Window, 2*o.Slice)), now)
			if known != b.Known || math.Abs(rate-b.Rate) > 1e-4*max(1, rate) {
				t.Fatalf("%v over %v: burn %v %v, model %v %v", o.Method, b.Window, b.Rate, b.Known, rate, known)
			}
		}
		if got, want := s.Remaining, m.remaining(now); math.Abs(got-want) > 1e-4*max(1, math.Abs(want)) {
			t.Fatalf("%v: remaining %v, model %v", o.Method, got, want)
		}
	})
}

// remaining is 1 less the spent share of the budget: bad events among as many as the period has, or bad slices among as
// many as it has.
func (m model) remaining(now time.Time) float64 {
	period := m.o.Period()
	from := now.Add(-period)
	var measured time.Duration
	for _, tk := range m.ticks {
		if tk.at.After(from) {
			measured += tk.counts[0].Measured
		}
	}
	left := 1.0
	for k, member := range m.o.Members {
		bad, all := m.badAndAll(k, from, now)
		budget := (1 - member.Target) * float64(period) / float64(max(1, m.o.Slice))
		if m.o.Method == Occurrences {
			budget = (1 - member.Target) * all * float64(period) / float64(measured)
		}
		if bad > 0 {
			weight := member.Weight
			left -= weight * bad / budget
		}
		if m.o.Method == Timeslices {
			break
		}
	}
	return left
}

// TestHostsAddUp: the counts of two hosts, added up, are those of a host that has the traffic of both.
func TestHostsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, both := NewHistory(7*day), NewHistory(7*day), NewHistory(7*day)
		ticks := run(t, 2)
		for _, tk := range ticks {
			a.Add(tk.at, tk.counts[0])
			b.Add(tk.at, tk.counts[1])
			both.Add(tk.at, tk.counts[0].Plus(tk.counts[1]))
		}
		now := ticks[len(ticks)-1].at
		for _, w := range append(BurnWindows(), 7*day) {
			if got, want := a.Sum(now.Add(-w), now).Plus(b.Sum(now.Add(-w), now)), both.Sum(now.Add(-w), now); got != want {
				t.Fatalf("%v: %+v, want %+v", w, got, want)
			}
		}
	})
}

// TestSumIsWithinASlot: a window begins at most one slot early and loses nothing.
func TestSumIsWithinASlot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := NewHistory(7 * day)
		m := model{o: simple(Occurrences), ticks: run(t, 1)}
		for _, tk := range m.ticks {
			h.Add(tk.at, tk.counts[0])
		}
		now := m.ticks[len(m.ticks)-1].at
		w := time.Duration(rapid.Int64Range(1, int64(7*day)).Draw(t, "window"))
		width := wide
		switch {
		case w < time.Hour-narrow:
			width = narrow
		case w < 72*time.Hour:
			width = middle
		}
		got := float64(h.Sum(now.Add(-w), now).Total())
		_, least := m.badAndAll(0, now.Add(-w), now)
		_, most := m.badAndAll(0, now.Add(-w-width), now)
		if got < least || got > most {
			t.Fatalf("%v: %v, between %v and %v", w, got, least, most)
		}
	})
}

// feed adds the same counts every 10 s for a time.
func feed(tr *Tracker, from time.Time, d time.Duration, c Counts) time.Time {
	const step = 10 * time.Second
	c.Measured = step
	for end := from.Add(d); from.Before(end); {
		from = from.Add(step)
		tr.Add(from, []Counts{c})
	}
	return from
}

func TestStates(t *testing.T) {
	healthy, outage := Counts{Good: 100}, Counts{Bad: 100}
	for _, tt := range []struct {
		name   string
		play   func(tr *Tracker) time.Time
		state  State
		reason string
		over   string
	}{
		{"nothing", func(*Tracker) time.Time { return noon() }, Unknown, "nothing was measured", "0s of 7d"},
		{
			"fresh",
			func(tr *Tracker) time.Time { return feed(tr, noon(), 4*time.Minute, healthy) },
			OK, "within the budget", "since start (4m)",
		},
		{
			"a fresh agent in an outage has not spent a budget of 7 days",
			func(tr *Tracker) time.Time { return feed(tr, noon(), 4*time.Minute, outage) },
			Burning, "page-1h: 100.0 times too fast in 1h", "since start (4m)",
		},
		{
			"burning",
			func(tr *Tracker) time.Time {
				return feed(tr, feed(tr, noon(), 8*day, healthy), 20*time.Minute, outage)
			},
			Burning, "page-1h: 33.3 times too fast in 1h", "7d",
		},
		{
			"over before the short window",
			func(tr *Tracker) time.Time {
				return feed(tr, feed(tr, feed(tr, noon(), 8*day, healthy), 20*time.Minute, outage), 40*time.Minute, healthy)
			},
			OK, "within the budget", "7d",
		},
		{
			"breached",
			func(tr *Tracker) time.Time {
				return feed(tr, feed(tr, noon(), 8*day, healthy), 2*time.Hour, outage)
			},
			Breached, "the budget is used up: 119 % of it", "7d",
		},
		{
			"no requests at all",
			func(tr *Tracker) time.Time { return feed(tr, noon(), time.Hour, Counts{}) },
			Unknown, "no data in the period", "since start (1h)",
		},
		{
			"no requests lately",
			func(tr *Tracker) time.Time {
				return feed(tr, feed(tr, noon(), 3*time.Hour, healthy), 2*time.Hour, Counts{})
			},
			Unknown, "no data in the last hour", "since start (5h)",
		},
		{
			"two of a hundred not understood",
			func(tr *Tracker) time.Time { return feed(tr, noon(), time.Hour, Counts{Good: 98, Missed: 2}) },
			Unknown, "only 98.0 % of the events in the last hour were understood", "since start (1h)",
		},
		{
			"away for two days",
			func(tr *Tracker) time.Time {
				return feed(tr, feed(tr, noon(), 5*day, healthy).Add(2*day), 2*day, healthy)
			},
			OK, "within the budget", "5d of 7d",
		},
		{
			"two bad events are no outage",
			func(tr *Tracker) time.Time {
				now := feed(tr, noon(), 8*day, Counts{})
				tr.Add(now.Add(time.Second), []Counts{{Good: 1, Bad: 2, Measured: time.Second}})
				return now.Add(time.Second)
			},
			OK, "within the budget", "7d",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := simple(Occurrences)
			tr := NewTracker(o)
			now := tt.play(tr)
			s := tr.Status(now)
			if s.State != tt.state || s.Reason != tt.reason {
				t.Errorf("%v: %s; want %v: %s", s.State, s.Reason, tt.state, tt.reason)
			}
			if got := s.Over(o, now); got != tt.over {
				t.Errorf("measured %q, want %q", got, tt.over)
			}
		})
	}
}

// TestThreeBadEventsPage: the third makes the page.
func TestThreeBadEventsPage(t *testing.T) {
	tr := NewTracker(simple(Occurrences))
	now := feed(tr, noon(), 2*time.Hour, Counts{})
	for bad := 1; bad <= 3; bad++ {
		now = now.Add(10 * time.Second)
		tr.Add(now, []Counts{{Good: 1, Bad: 1, Measured: 10 * time.Second}})
		if fires := len(tr.Status(now).Firing) > 0; fires != (bad == 3) {
			t.Errorf("%d bad events: fires %v", bad, fires)
		}
	}
}

func TestExhaustion(t *testing.T) {
	o := simple(Occurrences)
	tr := NewTracker(o)
	now := feed(tr, noon(), 8*day, Counts{Good: 1000})
	now = feed(tr, now, time.Hour, Counts{Good: 960, Bad: 40})
	s := tr.Status(now)
	// An hour at 4 times the budget of 168 hours: 4/168 are gone, and the rest lasts for (1-4/168)*168/4 hours.
	near(t, "remaining", s.Remaining, 1-4.0/168, 0.001)
	near(t, "exhaustion in hours", s.Exhaustion.After.Hours(), 41, 0.02)
	if e := s.Exhaustion; e.Never || !(e.Soonest < e.After && e.After < e.Latest) {
		t.Errorf("%+v", e)
	}

	// The same for as long as the window: what leaves it burnt as fast as what comes.
	even := NewTracker(o)
	now = feed(even, noon(), 8*day, Counts{Good: 1990, Bad: 10})
	if s := even.Status(now); !s.Exhaustion.Never || math.Abs(s.Remaining-0.5) > 0.01 {
		t.Errorf("remaining %v, %+v", s.Remaining, s.Exhaustion)
	}

	// What leaves the window burnt at half the speed: that much comes back.
	now = feed(even, now, time.Hour, Counts{Good: 1920, Bad: 80})
	s = even.Status(now)
	near(t, "exhaustion in hours with something leaving", s.Exhaustion.After.Hours(), s.Remaining*168/(4-0.5), 0.01)

	// A calendar period that ends before.
	o.Window.Start = noon()
	calendar := NewTracker(o)
	now = feed(calendar, noon(), 5*day, Counts{Good: 1990, Bad: 10})
	s = calendar.Status(now)
	near(t, "remaining of the calendar week", s.Remaining, 1-0.5*5/7, 0.01)
	if !s.Exhaustion.Never {
		t.Errorf("calendar: %+v", s.Exhaustion)
	}
}

// TestClockJumps: nothing counted is lost, and what a jump leaves out was not measured.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{3 * time.Hour, -3 * time.Hour, -2 * time.Second, 20 * time.Second} {
		tr := NewTracker(simple(Occurrences))
		now := feed(tr, noon(), 2*time.Hour, Counts{Good: 9, Bad: 1}).Add(jump)
		now = feed(tr, now, time.Hour+time.Minute, Counts{Good: 9, Bad: 1})
		s := tr.Status(now)
		ticks := uint64(3*360 + 6)
		if d := int64(s.Counts.Total()) - int64(10*ticks); d < -3600 || d > 3600 || jump > -time.Hour && d != 0 {
			t.Errorf("%v: %d events of %d", jump, s.Counts.Total(), 10*ticks)
		}
		if hour := s.Burns[2]; hour.Counts.Total() < 3600 || hour.Counts.Total() > 3640 || math.Abs(hour.Rate-10) > 1e-6 {
			t.Errorf("%v: the last hour has %d events, burn %v", jump, hour.Counts.Total(), hour.Rate)
		}
		if over := s.Over(simple(Occurrences), now); !strings.HasPrefix(over, "since start (") {
			t.Errorf("%v: measured %s", jump, over)
		}
	}
}

func TestMemoryOfAHistory(t *testing.T) {
	slots := 0
	for _, r := range NewHistory(28 * day).rings {
		slots += len(r.slots)
	}
	if kib := slots * 24 / 1024; kib > 41 {
		t.Errorf("a history of 28 days has %d slots, %d KiB", slots, kib)
	}
}

// TestAddDoesNotAllocate: a tracker is fed at every tick.
func TestAddDoesNotAllocate(t *testing.T) {
	for _, method := range []Method{Occurrences, Timeslices, RatioTimeslices} {
		tr, now := NewTracker(simple(method)), noon()
		counts := []Counts{{Good: 9, Bad: 1, Measured: 10 * time.Second}}
		tr.Add(now, counts)
		if n := testing.AllocsPerRun(1000, func() {
			now = now.Add(10 * time.Second)
			tr.Add(now, counts)
		}); n != 0 {
			t.Errorf("%v: %v allocations", method, n)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	tr, now := NewTracker(simple(Occurrences)), noon()
	counts := []Counts{{Good: 9, Bad: 1, Measured: 10 * time.Second}}
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Second)
		tr.Add(now, counts)
	}
}

func BenchmarkStatus(b *testing.B) {
	o := simple(Occurrences)
	o.Window.Span.Count = 28
	tr := NewTracker(o)
	now := feed(tr, noon(), 29*day, Counts{Good: 1000, Bad: 1})
	b.ReportAllocs()
	for b.Loop() {
		tr.Status(now)
	}
}
