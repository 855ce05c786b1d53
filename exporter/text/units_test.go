package text

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
)

func emptySet() *attribute.Set { return attribute.EmptySet() }

func TestFormats(t *testing.T) {
	cases := []struct {
		got, want string
	}{
		{FormatDuration(0), "0 s"},
		{FormatDuration(59.6e-9), "59.6 ns"},
		{FormatDuration(12e-6), "12 µs"},
		{FormatDuration(0.0113), "11.3 ms"},
		{FormatDuration(0.00041), "410 µs"},
		{FormatDuration(0.0009999), "1.00 ms"},
		{FormatDuration(1.234), "1.23 s"},
		{FormatDuration(256), "256 s"},
		{FormatDuration(3600), "3600 s"},
		{FormatBytes(0), "0 B"},
		{FormatBytes(1023), "1.00 KiB"},
		{FormatBytes(999), "999 B"},
		{FormatBytes(3.4 * 1024 * 1024), "3.40 MiB"},
		{FormatBytes(19000000), "18.1 MiB"},
		{FormatBytes(1 << 62), "4096 PiB"},
		{FormatCount(0), "0"},
		{FormatCount(7.25), "7.25"},
		{FormatCount(999.7), "1.00k"},
		{FormatCount(1234), "1.23k"},
		{FormatCount(74375), "74.4k"},
		{FormatCount(3e6), "3M"},
		{FormatShare(0), "0%"},
		{FormatShare(1), "100%"},
		{FormatShare(0.01), "1%"},
		{FormatShare(0.0125), "1.25%"},
		{FormatShare(0.424), "42.4%"},
		{FormatShare(0.00001), "<0.01%"},
		{FormatShare(0.99999), ">99.99%"},
		{FormatShare(0.9996), "99.96%"},
		{FormatShare(0.9985), "99.9%"},
	}
	for _, c := range cases {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestRound(t *testing.T) {
	for v, want := range map[float64]float64{0: 0, 0.011300000000000001: 0.0113, 74375: 74375, -1.23456789: -1.23457} {
		if got := round(v); got != want {
			t.Errorf("round(%v) = %v", v, got)
		}
	}
	if measured(math.NaN()) != nil || measured(math.Inf(-1)) != nil {
		t.Error("what is no number was measured")
	}
}

func TestWrap(t *testing.T) {
	got := wrap("aa bb ccccccc  d 長長長", 4)
	if strings.Join(got, "|") != "aa|bb|cccc|ccc|d|長長|長" {
		t.Errorf("%q", got)
	}
}

func TestBars(t *testing.T) {
	for share, want := range map[float64]string{-1: "░░░░", 0: "░░░░", 0.5: "██░░", 0.53: "██▏░", 1: "████", 7: "████"} {
		full, rest := bar(share, 4)
		if full+rest != want {
			t.Errorf("bar(%v) = %s", share, full+rest)
		}
	}
	if got := sparkline([]Bucket{{1, 1}, {2, 0}, {4, 800}, {8, 400}}); got != "▁ █▄" {
		t.Errorf("sparkline %q", got)
	}
}

// FuzzTerminalText: no name gets a control character to the terminal, or more columns than it is given.
func FuzzTerminalText(f *testing.F) {
	f.Add("nginx", 5)
	f.Add("\x1b[31mred\u009b0m", 3)
	f.Add("長い名前\u0301\u202e", 4)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n &= 0x3f
		c := clean(s)
		for _, r := range c {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("control character %U", r)
			}
		}
		if clean(c) != c || !utf8.ValidString(c) {
			t.Fatalf("clean is not stable for %q", s)
		}
		if got := pad(s, n, false); width(got) != n {
			t.Fatalf("pad(%q, %d) has %d columns", s, n, width(got))
		}
		if n < 2 {
			return // a wide character needs two
		}
		for _, line := range wrap(c, n) {
			if width(line) > n {
				t.Fatalf("wrap(%q, %d) has a line of %d columns", s, n, width(line))
			}
		}
	})
}
