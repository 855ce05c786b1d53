package slo

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSpans(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1m": time.Minute, "1M": 30 * day, "28d": 28 * day, "4w": 28 * day, "1Q": 90 * day, "1Y": 365 * day, "36h": 36 * time.Hour,
	} {
		s, ok := ParseSpan(text)
		if !ok || s.Duration() != want || s.String() != text {
			t.Errorf("%s: %v %v", text, s, s.Duration())
		}
	}
	for _, text := range []string{"", "d", "0d", "-1d", "1.5d", "10s", "1D", "28 d", "1y", "99999999999d", "20Y", "+1d"} {
		if s, ok := ParseSpan(text); ok {
			t.Errorf("%q is %v", text, s)
		}
	}
}

func TestBounds(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("needs the time zones of the world: apt-get install tzdata")
	}
	const form = "2006-01-02 15:04"
	at := func(s string) time.Time {
		v, err := time.ParseInLocation(form, s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct{ span, start, now, from, to string }{
		{"1M", "2026-01-01 00:00", "2026-11-25 13:00", "2026-11-01 00:00", "2026-12-01 00:00"},
		{"1M", "2026-01-31 00:00", "2026-03-01 12:00", "2026-02-28 00:00", "2026-03-31 00:00"},
		{"1M", "2026-01-31 00:00", "2026-04-30 12:00", "2026-04-30 00:00", "2026-05-31 00:00"},
		{"1Q", "2026-01-01 00:00", "2026-11-25 13:00", "2026-10-01 00:00", "2027-01-01 00:00"},
		{"1Y", "2024-02-29 00:00", "2026-11-25 13:00", "2026-02-28 00:00", "2027-02-28 00:00"},
		{"1w", "2026-10-19 00:00", "2026-10-25 23:00", "2026-10-19 00:00", "2026-10-26 00:00"}, // the clock goes back
		{"1d", "2026-03-01 00:00", "2026-03-29 12:00", "2026-03-29 00:00", "2026-03-30 00:00"}, // 23 hours
		{"2h", "2026-01-01 01:00", "2026-01-01 02:59", "2026-01-01 01:00", "2026-01-01 03:00"},
		{"1M", "2026-06-01 00:00", "2026-04-15 00:00", "2026-04-01 00:00", "2026-05-01 00:00"}, // before it starts
	} {
		span, _ := ParseSpan(tt.span)
		w := Window{Span: span, Start: at(tt.start)}
		from, to := w.Bounds(at(tt.now))
		if got := [2]string{from.Format(form), to.Format(form)}; got != [2]string{tt.from, tt.to} {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestEveryMomentIsInItsPeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Window{
			Span:  Span{rapid.IntRange(1, 40).Draw(t, "n"), rapid.SampledFrom([]Unit{Minute, Hour, Day, Week, Month, Quarter, Year}).Draw(t, "unit")},
			Start: time.Unix(rapid.Int64Range(0, 2e9).Draw(t, "start"), 0).UTC(),
		}
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0).UTC()
		from, to := w.Bounds(now)
		if from.After(now) || !to.After(now) {
			t.Fatalf("%v at %v: %v to %v", w, now, from, to)
		}
		if again, _ := w.Bounds(to); !again.Equal(to) {
			t.Fatalf("%v: the period after %v begins at %v", w, to, again)
		}
	})
}
