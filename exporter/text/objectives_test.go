package text

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/slid-agent/slid/exporter"
)

var _ exporter.Exporter = (*Keeper)(nil)

// standings are objectives in every state, worst last.
func standings() []SLO {
	since := began
	return []SLO{
		{
			Name: "cron-freshness", Service: "cron", Target: 0.99, Window: "28d", Unit: "events", State: "unknown",
			Reason: "nothing was measured", Firing: []string{}, BurnRate: map[string]float64{}, Over: "not measured",
		},
		{
			Name: "login-availability-of-all-customers", Service: "login", Target: 0.9995, Window: "28d", Unit: "events", Good: 512,
			Ratio: new(1.0), RatioLow: new(0.9926), RatioHigh: new(1.0), Coverage: new(1.0), State: "ok", Reason: "within the budget", Firing: []string{},
			BurnRate: map[string]float64{"5m": 0, "1h": 0, "6h": 0}, BudgetRemaining: new(1.0), MeasuredSeconds: 2419200, Over: "28d",
		},
		{
			Name: "checkout-fast", Service: "checkout", Target: 0.999, Window: "28d", Unit: "events", Good: 1980, Bad: 20,
			Ratio: new(0.99), RatioLow: new(0.985), RatioHigh: new(0.993), Coverage: new(1.0), State: "burning",
			Reason: "page-1h: 15.2 times too fast in 1h", Firing: []string{"page-1h"},
			BurnRate:        map[string]float64{"5m": 29, "1h": 15.2, "6h": 3.1},
			BudgetRemaining: new(0.6298), ExhaustedInSeconds: new(61300.0), Since: &since, MeasuredSeconds: 240, Over: "since start (4m)",
		},
		{
			Name: "search-p99", Service: "search", Target: 0.95, Window: "7d", Unit: "slices", Good: 3, Bad: 900, Excluded: 7,
			Ratio: new(0.0033), RatioLow: new(0.0033), RatioHigh: new(0.0033), Coverage: new(0.999), State: "breached",
			Reason: "the budget is used up: 893 % of it", Firing: []string{}, BurnRate: map[string]float64{"5m": 1000},
			BudgetRemaining: new(-7.93), MeasuredSeconds: 300000, Over: "3d of 7d",
		},
	}
}

// TestObjectivesGolden shows objectives in every form, worst budget first.
func TestObjectivesGolden(t *testing.T) {
	for file, o := range map[string]Options{
		"slos80.txt": {}, "slos60.txt": {Width: 60}, "slos_color.txt": {Color: true}, "slos.json": {Format: JSON},
	} {
		o.SLOs = standings
		l := newLab(t, o)
		l.exportOnly(first)
		l.exportOnly(later)
		golden(t, file, l.out.Bytes())
		if n := widest(l.out.String()); o.Format == Table && !o.Color && n > max(o.Width, 60) && n > 80 {
			t.Errorf("%s: a line has %d columns", file, n)
		}
	}
}

// TestRatiosAreNeverFlattered: what is not whole does not read so.
func TestRatiosAreNeverFlattered(t *testing.T) {
	for v, want := range map[float64]string{
		0.999: "99.9%", 0.9995: "99.95%", 0.99999: "99.999%", 0.9999999: "99.999%", 1: "100%", 0: "0%", 0.29: "29%", 1.0 / 3: "33.333%",
	} {
		if got := formatRatio(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{1: "100%", 0.999: "99%", 0.004: "0%", -0.001: "-1%", -7.93: "-793%", 0.29: "29%"} {
		if got := formatBudget(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0.0", 0.04: "0.0", 15.23: "15.2", 99.94: "99.9", 99.96: "100", 1000: "1k"} {
		if got := formatBurn(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{3: "3s", 61: "1m", 61300: "17h", 86400 * 26.9: "26d"} {
		if got := span(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	want := []string{
		"cron-freshness unknown: nothing was measured, not measured",
		"login-availability-of-all-customers ok, 100% of the budget left, 28d",
		"checkout-fast burning: page-1h: 15.2 times too fast in 1h, 62% of the budget left, since start (4m)",
		"search-p99 breached: the budget is used up: 893 % of it, -793% of the budget left, 3d of 7d",
	}
	for i, s := range standings() {
		if got := s.Line(); got != want[i] {
			t.Errorf("got  %s\nwant %s", got, want[i])
		}
	}
}

// kept returns a keeper that has seen what the lab's exporter has.
func kept(t *testing.T) (*Keeper, *lab) {
	t.Helper()
	l := full(t, Options{SLOs: standings})
	k := NewKeeper(Options{SLOs: standings, Verdicts: l.exporter.options.Verdicts})
	k.window.to = l.exporter.previous // the fixture has moved on since
	l.export(later)
	if err := k.Export(t.Context(), l.snapshot); err != nil {
		t.Fatal(err)
	}
	return k, l
}

// TestMetricsAreAllThatReportsNeed compares a report of all metrics with one of those that are named.
func TestMetricsAreAllThatReportsNeed(t *testing.T) {
	all, few := full(t, Options{Format: JSON}), full(t, Options{Format: JSON})
	few.snapshot = few.registry.NewSnapshot().Only(Metrics()...)
	all.export(later)
	few.export(later)
	if bytes.Contains(all.out.Bytes(), []byte(`"requests": 0`)) {
		t.Fatal("nothing happened in the window")
	}
	if diff := cmp.Diff(all.out.String(), few.out.String()); diff != "" {
		t.Errorf("(-all +named):\n%s", diff)
	}
}

func TestKeeper(t *testing.T) {
	empty := NewKeeper(Options{SLOs: standings})
	if r := empty.Report(); r.WindowSeconds != 0 || len(r.SLOs) != 4 || len(r.Services) != 0 {
		t.Errorf("before the first snapshot: %+v", r)
	}
	k, _ := kept(t)
	r := k.Report()
	if r.WindowSeconds != 10 || len(r.Services) != 4 || len(r.SLOs) != 4 || r.Host != "web-17" {
		t.Errorf("%+v", r)
	}
	// What a client decodes is what the agent had, and looks the same.
	data, err := k.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, &got, cmpopts.IgnoreUnexported(Owner{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-agent +client):\n%s", diff)
	}
	for _, o := range []Options{{}, {Format: JSON}, {Format: NDJSON}, {Width: 120, Color: true}} {
		var at, from bytes.Buffer
		if err := r.Write(&at, o); err != nil {
			t.Fatal(err)
		}
		if err := got.Write(&from, o); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(at.String(), from.String()); diff != "" {
			t.Errorf("%+v (-agent +client):\n%s", o, diff)
		}
	}
}

// TestOneAnswerInAWindow: however many ask, the report is made once.
func TestOneAnswerInAWindow(t *testing.T) {
	k, l := kept(t)
	made := 0
	k.options.SLOs = func() []SLO { made++; return standings() }
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() { _, _ = k.JSON() })
	}
	clients.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	s := l.registry.NewSnapshot()
	s.Take(later.Add(time.Second))
	if err := k.Export(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := k.JSON(); err != nil || made != 2 {
		t.Errorf("the next window: made %d times, %v", made, err)
	}
}

func TestScreen(t *testing.T) {
	k, _ := kept(t)
	var text string
	for _, line := range k.Report().Screen(Options{Width: 80}, 20) {
		text += line + "\n"
	}
	golden(t, "screen80.txt", []byte(text))
	if n := widest(text); n > 80 {
		t.Errorf("a line has %d columns", n)
	}
	if n := len(k.Report().Screen(Options{}, 0)); n <= 20 {
		t.Errorf("without a bound there are %d lines", n)
	}
}
