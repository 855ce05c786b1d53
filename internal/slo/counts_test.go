package slo

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const day = 24 * time.Hour

// near fails unless got is within a share of want.
func near(t *testing.T, what string, got, want, share float64) {
	t.Helper()
	if math.Abs(got-want) > share*math.Abs(want) {
		t.Errorf("%s: got %v, want %v within %g %%", what, got, want, 100*share)
	}
}

// TestWorkedExamples reproduces the figures of docs/slo.md.
func TestWorkedExamples(t *testing.T) {
	o := Objective{Target: 0.999, Method: Timeslices, Slice: time.Minute, Window: Window{Span: Span{30, Day}}}
	budget := time.Duration(o.Allowed() * float64(o.Period())).Round(time.Second)
	if budget != 43*time.Minute+12*time.Second {
		t.Errorf("budget of 30 days at 99.9 %%: %v", budget)
	}

	// 1 bad of 60: the ratio says little.
	c := Counts{Good: 59, Bad: 1}
	e, _ := c.ErrorRatio()
	low, high := c.Interval()
	near(t, "e", e, 0.0167, 0.01)
	near(t, "low", low, 0.0030, 0.02)
	near(t, "high", high, 0.089, 0.01)
	b, _ := BurnRate(c, 0.999)
	near(t, "burn", b, 16.7, 0.01)
	near(t, "low burn", low/0.001, 3.0, 0.02)
	near(t, "high burn", high/0.001, 88.6, 0.01)

	// 10 requests an hour: one failure.
	b, _ = BurnRate(Counts{Good: 9, Bad: 1}, 0.999)
	near(t, "burn of one failure in 10 requests", b, 100, 1e-9)
	b, _ = BurnRate(Counts{Bad: 1}, 0.999)
	near(t, "burn of one failure alone", b, 1000, 1e-9)
	occurrences := Objective{Target: 0.999, Window: Window{Span: Span{30, Day}}}
	near(t, "its share of the budget", occurrences.Spent(Counts{Good: 7199, Bad: 1, Measured: 30 * day}, 0.999), 0.139, 0.01)

	// A clock that stood still: more was measured than there is time, and it is not extrapolated.
	near(t, "measured twice", occurrences.Spent(Counts{Good: 999, Bad: 1, Measured: 60 * day}, 0.999), 1, 1e-9)

	// Events an hour for which the first page means three failures or more.
	for target, want := range map[float64]float64{0.99: 21, 0.999: 209, 0.9999: 2084} {
		first := StandardAlerts(30*day, target)[0]
		near(t, fmt.Sprint("events at ", target), math.Ceil(MinBad/(first.Threshold*(1-target))-1e-6), want, 1e-9)
	}
}

func TestStandardThresholdsScaleWithThePeriod(t *testing.T) {
	for period, want := range map[time.Duration][]float64{
		7 * day:  {3.36, 1.4}, // of the others, 0.7 and 0.233, nothing would be left to warn of
		28 * day: {13.44, 5.6, 2.8},
		30 * day: {14.4, 6, 3, 1},
		90 * day: {43.2, 18, 9, 3},
	} {
		var got []float64
		for _, a := range StandardAlerts(period, 0.999) {
			got = append(got, a.Threshold)
			if a.Long/a.Short != 12 {
				t.Errorf("windows %v, %v", a.Long, a.Short)
			}
		}
		if !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("%v: %v, want %v", period, got, want)
		}
	}
	if n := len(StandardAlerts(30*day, 0.93)); n != 3 {
		t.Errorf("%d alerts at 93 %%, where 14.4 cannot fire", n)
	}
	want := []string{"page-1h (burn 14.4 in 1h): even if all is bad the budget burns slower"}
	if got := Skipped(30*day, 0.9306); len(got) != 0 {
		t.Errorf("14.4 can fire above 93.056 %%: %v", got)
	}
	if got := Skipped(30*day, 0.9305); !slices.Equal(got, want) {
		t.Errorf("skipped: %v", got)
	}
}

func TestDetection(t *testing.T) {
	page := StandardAlerts(30*day, 0.999)[0]
	for _, tt := range []struct {
		target, e float64
		want      time.Duration
	}{
		{0.999, 1, 51840 * time.Millisecond},
		{0.999, 0.1, 518400 * time.Millisecond},
		{0.9999, 1, 5184 * time.Millisecond},
		{0.999, 0.0143, 0},
	} {
		got, ok := page.Detection(tt.target, tt.e)
		if got.Round(time.Millisecond) != tt.want || ok != (tt.want > 0) {
			t.Errorf("%+v: %v %v", tt, got, ok)
		}
	}
}

func TestCanFire(t *testing.T) {
	for _, tt := range []struct {
		op        Op
		threshold float64
		target    float64
		want      bool
	}{
		{GT, 10, 0.9, false},
		{GTE, 10, 0.9, true},
		{GTE, 10.1, 0.9, false},
		{GT, 9.9, 0.9, true},
		{LT, 2, 0.9, true},
	} {
		if got := (Alert{Op: tt.op, Threshold: tt.threshold}).CanFire(tt.target); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// TestHostsMerge: ten hosts, one of them slow and with a tenth of the traffic. The mean of their ratios is not the ratio
// of the service; the sum of their counts is.
func TestHostsMerge(t *testing.T) {
	hosts := slices.Repeat([]Counts{{Good: 99_935, Bad: 65}}, 9)
	hosts = append(hosts, Counts{Good: 2_031, Bad: 7_969})
	var whole Counts
	mean := 0.0
	for _, h := range hosts {
		e, _ := h.ErrorRatio()
		mean += (1 - e) / float64(len(hosts))
		whole = whole.Plus(h)
	}
	e, _ := whole.ErrorRatio()
	near(t, "service", 1-e, 0.9906, 0.0001)
	near(t, "mean of hosts", mean, 0.9197, 0.0001)
}

// TestNightOutage: half an hour of outage at night, when a hundredth of the day's traffic comes, and the same by day.
// Steady errors of 0.02 % take 20 % of the budget.
func TestNightOutage(t *testing.T) {
	for _, tt := range []struct {
		name        string
		at          int     // slot of the outage in its day
		events      float64 // share of the budget spent, by events
		meanOfRatio float64 // and by the mean of 5-minute ratios
	}{
		{"night", 200, 0.21, 0.89},
		{"day", 50, 1.58, 0.89},
	} {
		o := Objective{Target: 0.999, Window: Window{Span: Span{30, Day}}}
		sliced := o
		sliced.Method, sliced.Slice = RatioTimeslices, 5*time.Minute
		s := slicer{method: RatioTimeslices, width: 5 * time.Minute}
		var events, slicesOf Counts
		now := time.Unix(0, 0).UTC()
		for slot := range 30*288 + 1 {
			n := uint64(600_000) // a thousand times the traffic, so that 0.02 % are whole events
			if slot%288 >= 144 {
				n = 5_000
			}
			bad := n / 5000
			if slot >= 15*288+tt.at && slot < 15*288+tt.at+6 {
				bad = n
			}
			now = now.Add(5 * time.Minute)
			c := Counts{Good: n - bad, Bad: bad, Measured: 5 * time.Minute}
			if slot < 30*288 {
				events = events.Plus(c)
			}
			_, closed, _ := s.add(now, []Counts{c})
			slicesOf = slicesOf.Plus(closed)
		}
		near(t, tt.name+" by events", o.Spent(events, 0.999), tt.events, 0.02)
		near(t, tt.name+" by mean of ratios", sliced.Spent(slicesOf, 0.999), tt.meanOfRatio, 0.01)
	}
}

func TestIntervalHoldsTheRatio(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Counts{Good: rapid.Uint64Range(0, 1e6).Draw(t, "good"), Bad: rapid.Uint64Range(0, 1e6).Draw(t, "bad")}
		low, high := c.Interval()
		e, ok := c.ErrorRatio()
		if low < 0 || high > 1 || low > high || ok && (e < low || e > high) {
			t.Fatalf("%+v: %v in %v to %v", c, e, low, high)
		}
		more := Counts{Good: 4 * c.Good, Bad: 4 * c.Bad}
		if l, h := more.Interval(); ok && h-l >= high-low {
			t.Fatalf("%+v: four times the events make the interval no narrower", c)
		}
	})
}

// TestBudgetIsAdditive: what parts of a period spend is together what the period spends.
func TestBudgetIsAdditive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Objective{Target: rapid.Float64Range(0.5, 0.9999).Draw(t, "target"), Window: Window{Span: Span{28, Day}}}
		parts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Counts {
			n := rapid.Uint64Range(1, 1000).Draw(t, "n")
			bad := rapid.Uint64Range(0, n).Draw(t, "bad")
			return Counts{Good: n - bad, Bad: bad}
		}), 1, 20).Draw(t, "parts")
		var whole Counts
		for i := range parts {
			whole = whole.Plus(parts[i])
		}
		whole.Measured = o.Period()
		sum := 0.0
		for _, p := range parts {
			// c = b_w*N_w/N_P: time weighted by the part's share of the events
			b, _ := BurnRate(p, o.Target)
			sum += b * float64(p.Total()) / float64(whole.Total())
		}
		if got := o.Spent(whole, o.Target); math.Abs(got-sum) > 1e-9*max(1, sum) {
			t.Fatalf("whole %v, parts %v", got, sum)
		}
	})
}

func TestCoverage(t *testing.T) {
	for _, tt := range []struct {
		c    Counts
		want float64
	}{
		{Counts{}, 1},
		{Counts{Events: 99, Missed: 1}, 0.99},
		{Counts{Events: 90, Excluded: 9, Missed: 1}, 0.99},
		{Counts{Missed: 1}, 0},
	} {
		if got := tt.c.Coverage(); got != tt.want {
			t.Errorf("%+v: %v", tt.c, got)
		}
	}
}
