package slo

import (
	"math"
	"reflect"
	"regexp"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSelector(t *testing.T) {
	for text, want := range map[string]Selector{
		"up":       {Metric: "up"},
		" up { } ": {Metric: "up"},
		`http:requests_total{code!~"5..", method = 'GET' ,}`: {"http:requests_total", []Matcher{
			{"code", NotMatching, "5.."}, {"method", Equal, "GET"},
		}},
		"a{path=`C:\\x`,b!=\"\\\"\\u00fc\\\\\"}": {"a", []Matcher{{"b", NotEqual, `"ü\`}, {"path", Equal, `C:\x`}}},
	} {
		got, err := ParseSelector(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestWrongSelectors(t *testing.T) {
	for text, want := range map[string]string{
		"":                   `at character 1: no metric; begin with its name, e.g. http_requests_total{code!~"5.."}`,
		"1a":                 `at character 1: no metric; begin with its name, e.g. http_requests_total{code!~"5.."}`,
		`{code="200"}`:       `at character 1: no metric; begin with its name, e.g. http_requests_total{code!~"5.."}`,
		"rate(a[5m])":        `at character 5: more than a selector; remove it: functions and ranges are not for a counter that slid reads itself`,
		"a[5m]":              `at character 2: more than a selector; remove it: functions and ranges are not for a counter that slid reads itself`,
		"a{":                 `at character 3: no label; write e.g. code!~"5.."`,
		`a{="x"}`:            `at character 3: no label; write e.g. code!~"5.."`,
		`a{__name__="x"}`:    `at character 11: the name of the metric as a label; write it before the brace`,
		`a{code>"5"}`:        `at character 7: the label is not compared; write =, !=, =~ or !~ behind it`,
		`a{code=="5"}`:       `at character 9: there is no operator ==; write = to compare`,
		`a{code=5}`:          `at character 8: the value has no quotes; put it in quotes, e.g. code="200"`,
		`a{ü="5"}`:           `at character 3: no label; write e.g. code!~"5.."`,
		`a{b="ü",code="5}`:   `at character 14: the quote is not closed; add " behind the value`,
		`a{code="\5"}`:       `at character 8: the value has an escape that is none; write \\ for a backslash`,
		`a{code="\xff"}`:     `at character 8: the value has an escape that is none; write \\ for a backslash`,
		`a{code=~"("}`:       "at character 9: \"(\" is no regular expression; write it as RE2 has it: missing closing ): `^(?s:()$`",
		`a{code="5" b="6"}`:  `at character 12: the matchers do not end; write , or } here`,
		`a{code="5"} or b{}`: `at character 13: more than a selector; remove it: functions and ranges are not for a counter that slid reads itself`,
	} {
		if _, err := ParseSelector(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v\nwant %s", text, err, want)
		}
	}
}

// FuzzParseSelector: whatever is accepted is written so that it reads as the same, and compiles.
func FuzzParseSelector(f *testing.F) {
	for _, text := range []string{"up", `a{code!~"5..",b='\'',}`, "a{path=`x`}", `a:b{le="0.3"}`, `a{b=~"(x|y)*"}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		if again, err := ParseSelector(s.String()); err != nil && len(s.String()) <= MaxSelector || err == nil && !reflect.DeepEqual(again, s) {
			t.Errorf("%q is %+v, written %q is %+v, %v", text, s, s.String(), again, err)
		}
		for _, m := range s.Matchers {
			if _, err := m.Regexp(); err != nil && (m.Op == Matching || m.Op == NotMatching) {
				t.Errorf("%+v: %v", m, err)
			}
		}
		s.Bucket()
	})
}

func TestBucketOfSelector(t *testing.T) {
	for text, want := range map[string]float64{
		`h_bucket{le="0.3"}`: 0.3, `h_bucket{code="x",le="+Inf"}`: math.Inf(1), `h_bucket{le!="0.3"}`: -1, `h_bucket`: -1, `h{le="0.3"}`: -1,
		`h_bucket{le="x"}`: -1,
	} {
		s, err := ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Bucket(); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
}

func TestScrapeFault(t *testing.T) {
	for _, tt := range []struct{ good, bad, total, want string }{
		{`a{code!~"5.."}`, "", "a", ""},
		{"", `a{code=~"5.."}`, "a", ""},
		{"ok", "", "a", ""},
		{"a", "", "a", "every event that counts is good: good and total are the same"},
		{"", `a{c="1"}`, `a{c='1'}`, "every event that counts is bad: bad and total are the same"},
		{`a{code!~"5.."}`, "", `a{route="/pay"}`, `good events are not among the total: a{code!~"5.."} has not all conditions of a{route="/pay"}`},
		{`a{code!~"5..",route="/pay"}`, "", `a{route="/pay"}`, ""},
	} {
		read := func(text string) (s Selector) {
			if text != "" {
				var err error
				if s, err = ParseSelector(text); err != nil {
					t.Fatal(err)
				}
			}
			return s
		}
		i := Indicator{Scrape: &Scrape{Good: read(tt.good), Bad: read(tt.bad), Total: read(tt.total)}}
		if what, remedy := i.NarrowingFault(); what != tt.want || (what == "") != (remedy == "") {
			t.Errorf("%+v: %q, %q", tt, what, remedy)
		}
	}
}

func TestParseBound(t *testing.T) {
	for text, want := range map[string]string{
		"<= 90%": "<= 90%", "<0.1": "< 10%", " >=  5 % ": ">= 5%", "> 0": "> 0%", "<= 12.5%": "<= 12.5%", "< 1": "< 100%",
	} {
		if b, what, _ := ParseBound(text); b.String() != want || what != "" {
			t.Errorf("%q is %s, %s", text, b, what)
		}
	}
	for text, want := range map[string]string{
		"":         `"" compares nothing`,
		"90%":      `"90%" compares nothing`,
		"== 1%":    `"== 1%" compares nothing`,
		"<= x":     `"<= x" has no share to compare with`,
		"<= NaN":   "NaN is no share",
		"<= 90":    "90 is no share",
		"<= -1%":   "-0.01 is no share",
		"<= 100%":  "every share is <= 100%",
		">= 0":     "every share is >= 0%",
		"< 0%":     "no share is < 0%",
		"> 1":      "no share is > 100%",
		"<= 1e-2%": `"<= 1e-2%" has no share to compare with`,
	} {
		if _, what, remedy := ParseBound(text); what != want || (what == "") != (remedy == "") {
			t.Errorf("%q: %q, %q", text, what, remedy)
		}
	}
}

// FuzzParseBound: what is accepted is written so that it reads as the same.
func FuzzParseBound(f *testing.F) {
	for _, text := range []string{"<= 90%", "<0.1", "> 33.333333333333333%", ">= 1e-3"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, what, _ := ParseBound(text)
		if what != "" {
			return
		}
		if again, what, _ := ParseBound(b.String()); what != "" || again != b {
			t.Errorf("%q is %+v, written %q is %+v, %s", text, b, b.String(), again, what)
		}
	})
}

// TestMatchersMatchTheWhole: an expression of PromQL is anchored.
func TestMatchersMatchTheWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		value := rapid.StringMatching(`[a-c\n]{0,4}`).Draw(rt, "value")
		expression := rapid.SampledFrom([]string{"a", "a|b", "a.*", ".+", "", "[ab]+"}).Draw(rt, "expression")
		re, err := Matcher{Op: Matching, Value: expression}.Regexp()
		if err != nil {
			rt.Fatal(err)
		}
		loc := regexp.MustCompile("(?s)(?:" + expression + ")")
		loc.Longest()
		whole := loc.FindStringIndex(value)
		if got, want := re.MatchString(value), len(whole) == 2 && whole[0] == 0 && whole[1] == len(value); got != want {
			rt.Errorf("%q matches %q: %v", expression, value, got)
		}
	})
}

// TestFingerprintOfSources: counts of the past are kept exactly as long as they mean the same.
func TestFingerprintOfSources(t *testing.T) {
	of := func(i Indicator) uint64 {
		return NewTracker(Objective{Members: []Member{{Indicator: i}}, Window: Window{Span: Span{28, Day}}}).fingerprint()
	}
	seen := map[uint64]int{}
	for n, i := range []Indicator{
		{},
		{Scrape: &Scrape{URL: "a"}},
		{Scrape: &Scrape{URL: "b"}},
		{Scrape: &Scrape{URL: "b", Good: Selector{Metric: "x"}}},
		{Scrape: &Scrape{URL: "b", Bad: Selector{Metric: "x"}}},
		{Unit: &Running{Unit: "a"}},
		{Unit: &Running{Command: "a"}},
		{Resource: &Resource{Figure: CPU}},
		{Resource: &Resource{Figure: CPU, Unit: "a"}},
		{Resource: &Resource{Figure: CPU, Bound: Bound{LTE, 0.5}}},
	} {
		f := of(i)
		if other, is := seen[f]; is {
			t.Errorf("%d and %d are the same", n, other)
		}
		seen[f] = n
		if of(i) != f {
			t.Errorf("%d differs from itself", n)
		}
	}
}
