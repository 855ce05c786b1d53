package slo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestConditions(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"status < 500 && duration <= 300ms", "status < 500 && duration <= 300ms"},
		{"status<500&&duration<=0.3s", "status < 500 && duration <= 300ms"},
		{"duration < 300ms", "duration <= 299.999999ms"},
		{"!(status >= 500 || duration > 300ms)", "status < 500 && duration <= 300ms"},
		{"status < 400 || status == 404", "(status < 400 || status == 404)"},
		{"status != 429", "status != 429"},
		{"status in [404, 410]", "status in [404, 410]"},
		{"method == GET || method == HEAD", "method in [GET, HEAD]"},
		{"method != OPTIONS", "!(method in [OPTIONS])"},
		{`route == "/pay/" && status < 500`, `status < 500 && route == "/pay/"`},
		{`route in ["/b", '/a', "/a"]`, `route in ["/a", "/b"]`},
		{`route in ["/a", "/a/b"]`, `route == "/a"`},
		{`route == "/a" && route != "/a/b"`, `route == "/a" && route != "/a/b"`},
		{`route == "/a" && route != "/b"`, `route == "/a"`},
		{`route == "/a" && route == "/a/b"`, `route == "/a/b"`},
		{`!(route == "/a" && route != "/a/b")`, `route != "/a" || route == "/a/b"`},
		{`route == "/a" && route != "/a/b" || route == "/a/b"`, `route == "/a"`},
		{`!(route == "/healthz")`, `route != "/healthz"`},
		{"duration > 1s && duration <= 2s || duration > 1500ms && duration <= 3s", "duration > 1s && duration <= 3s"},
		{"status == 404 || method == OPTIONS", "method == OPTIONS || status == 404"},
		{"status >= 100", "status >= 100"},
		{"duration >= 1ns", "status >= 100 && duration > 0s"},
	} {
		c, err := ParseCondition(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		again, err := ParseCondition(c.String())
		if err != nil || again.String() != c.String() {
			t.Errorf("%s: written as %s, which reads as %s (%v)", tt.text, c, again, err)
		}
		want, err := ParseCondition(tt.want)
		if err != nil || want.String() != c.String() {
			t.Errorf("%s: is %s, want %s (%v)", tt.text, c, want, err)
		}
	}
}

func TestKernelFormIsExact(t *testing.T) {
	c, err := ParseCondition("status < 500 && duration < 0.3s && method in [GET, POST]")
	if err != nil || len(c.Clauses) != 1 {
		t.Fatal(c, err)
	}
	got := c.Clauses[0]
	if got.UpTo != 299_999_999 || got.Above != -1 || got.Methods != 0b101 || !got.Routes.Has("/any") {
		t.Errorf("%+v", got)
	}
	if !got.Status.Has(100) || !got.Status.Has(499) || got.Status.Has(500) || got.Status.Has(599) || got.Status.Has(99) || got.Status.Has(600) {
		t.Errorf("statuses %v", got.Status)
	}
}

func TestWrongConditions(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "at character 1: the condition ends too early; add a comparison such as status < 500"},
		{"latency <= 300ms", `at character 1: there is no field "latency"; write duration`},
		{"status < 500 && path == \"/\"", `at character 17: there is no field "path"; write route`},
		{"not status == 500", `at character 1: there is no field "not"; write ! for not`},
		{"fish == 1", `at character 1: there is no field "fish"; fields are status, duration, method and route`},
		{"status = 500", "at character 8: unexpected '='; write == to compare"},
		{"status < 500 & duration < 1s", "at character 14: unexpected '&'; write && for both"},
		{"status < 500 | duration < 1s", "at character 14: unexpected '|'; write || for one of both"},
		{"status < 500 and duration < 1s", "at character 14: there is no operator and; write &&"},
		{"status < 500 or duration < 1s", "at character 14: there is no operator or; write ||"},
		{"status < 500 duration < 1s", `at character 14: unexpected "duration"; write && or || here`},
		{"status < 500 &&", "at character 16: the condition ends too early; add a comparison such as status < 500"},
		{"status", "at character 7: status is not compared; write e.g. status < 500"},
		{"status < ", "at character 10: the condition ends too early; add a value"},
		{"status < 5xx", `at character 10: "5xx" is no status code; use 100 to 599`},
		{"status < 600", `at character 10: "600" is no status code; use 100 to 599`},
		{"status in 404", `at character 11: unexpected "404"; write a list such as [404, 410] here`},
		{"status in [404 410]", `at character 16: unexpected "410"; write , or ] here`},
		{"status in []", `at character 12: unexpected "]"; write a value here`},
		{"duration <= 300", `at character 13: "300" has no unit; write 300ms for milliseconds`},
		{"duration <= 300msec", `at character 13: "300msec" is no duration; write a number and ns, us, ms, s, m or h, e.g. 300ms`},
		{"duration <= -1s", `at character 13: "-1s" is not positive; write e.g. 300ms`},
		{"duration == 300ms", "at character 10: a duration cannot be compared by ==; write duration <= 300ms"},
		{"duration in [1s]", "at character 10: a duration cannot be compared by in; write duration <= 1s"},
		{"method == get", `at character 11: there is no method "get"; methods: GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH, _OTHER`},
		{"method < GET", "at character 8: a method cannot be compared by <; use ==, != or in"},
		{"route >= \"/a\"", "at character 7: a route cannot be compared by >=; use ==, != or in"},
		{"route == /pay/", `at character 10: unexpected '/'; put paths in quotes, e.g. route == "/pay/"`},
		{`route == "pay"`, `at character 10: "pay" is no route; begin it with /, e.g. /pay/`},
		{`route == "/pay/*"`, `at character 10: "/pay/*" has a "*"; write the start of the path, e.g. /pay/: all below it belongs to it`},
		{`route == "/pay`, `at character 10: the quote is not closed; add " behind the text`},
		{"(status < 500", "at character 14: the condition ends too early; add )"},
		{"status < 500)", `at character 13: unexpected ")"; write && or || here`},
		{"status < 200 && status > 300", "at character 1: no event can meet the condition; remove the comparisons that exclude each other"},
		{"ü == 1", "at character 1: unexpected 'ü'; write comparisons such as status < 500, joined by && or ||"},
		{strings.Repeat("(", 600), "at character 1: the condition has 600 bytes; 512 are allowed"},
	} {
		_, err := ParseCondition(tt.text)
		if _, ok := errors.AsType[*ConditionError](err); !ok || err.Error() != tt.want {
			t.Errorf("%s\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("status==%d&&duration<%ds", 100+i, i+1))
	}
	if _, err := ParseCondition(strings.Join(many[:17], "||")); err == nil || !strings.Contains(err.Error(), "more than 16 alternatives") {
		t.Errorf("17 alternatives: %v", err)
	}
}

// event is what a condition judges.
type event struct {
	status   int
	duration time.Duration
	method   string
	route    string
}

// has judges an event by the clauses, as a kernel program would.
func (c Condition) has(e event) bool {
	return slices.ContainsFunc(c.Clauses, func(c Clause) bool {
		set, _ := MethodsOf(e.method)
		return c.Status.Has(e.status) && c.Methods&set != 0 && c.Routes.Has(e.route) && c.Above < e.duration && e.duration <= c.UpTo
	})
}

// tree draws a condition and what it means, which shares no code with the parser.
func tree(t *rapid.T, depth int) (string, func(event) bool) {
	kind := rapid.IntRange(0, 6).Draw(t, "kind")
	if depth == 0 {
		kind = min(kind, 3)
	}
	op := rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">="})
	switch kind {
	case 0:
		o, code := op.Draw(t, "op"), rapid.SampledFrom([]int{100, 200, 404, 500, 599}).Draw(t, "code")
		return fmt.Sprintf("status %s %d", o, code), func(e event) bool { return compare(o, int64(e.status), int64(code)) }
	case 1:
		o := op.Filter(func(o string) bool { return o != "==" && o != "!=" }).Draw(t, "op")
		d := rapid.SampledFrom([]time.Duration{1, 1000, time.Millisecond}).Draw(t, "duration")
		return fmt.Sprintf("duration %s %s", o, d), func(e event) bool { return compare(o, int64(e.duration), int64(d)) }
	case 2:
		m := rapid.SampledFrom([]string{"GET", "POST", "_OTHER"}).Draw(t, "method")
		return "method == " + m, func(e event) bool { return e.method == m }
	case 3:
		r := rapid.SampledFrom([]string{"/a", "/a/b", "/a/b/c", "/b"}).Draw(t, "route")
		return fmt.Sprintf("route != %q", r), func(e event) bool { return !strings.HasPrefix(e.route, r) }
	case 4:
		text, f := tree(t, depth-1)
		return "!(" + text + ")", func(e event) bool { return !f(e) }
	}
	left, f := tree(t, depth-1)
	right, g := tree(t, depth-1)
	if kind == 5 {
		return "(" + left + ") && (" + right + ")", func(e event) bool { return f(e) && g(e) }
	}
	return left + " || (" + right + ")", func(e event) bool { return f(e) || g(e) }
}

func compare(op string, a, b int64) bool {
	return map[string]bool{"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
}

func drawEvent(t *rapid.T) event {
	return event{
		status:   rapid.SampledFrom([]int{100, 101, 200, 404, 499, 500, 598, 599}).Draw(t, "status"),
		duration: rapid.SampledFrom([]time.Duration{0, 1, 2, 999, 1000, 1001, 1e6, 1e6 + 1, 1e12}).Draw(t, "duration"),
		method:   rapid.SampledFrom([]string{"GET", "POST", "PUT", "_OTHER"}).Draw(t, "method"),
		route:    rapid.SampledFrom([]string{"", "/", "/a", "/ab", "/a/b", "/a/b/c/d", "/b"}).Draw(t, "route"),
	}
}

func TestConditionsMeanWhatTheySay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, means := tree(t, 3)
		c, err := ParseCondition(text)
		e := drawEvent(t)
		if err != nil {
			if bad, ok := errors.AsType[*ConditionError](err); !ok || strings.HasPrefix(bad.What, "no event") && means(e) {
				t.Fatalf("%s: %v, but it holds for %+v", text, err, e)
			}
			return
		}
		if c.has(e) != means(e) {
			t.Fatalf("%s is %s: wrong for %+v", text, c, e)
		}
		if len(c.Clauses) < maxClauses/2 && c.Not().has(e) == means(e) {
			t.Fatalf("not %s is %s: wrong for %+v", text, c.Not(), e)
		}
		if again, err := ParseCondition(c.String()); err == nil && again.has(e) != means(e) {
			t.Fatalf("%s is written %s: wrong for %+v", text, c, e)
		}
	})
}

func TestNarrowing(t *testing.T) {
	must := func(text string) Condition {
		if text == "" {
			return Condition{}
		}
		c, err := ParseCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, tt := range []struct{ good, exclude, route, want string }{
		{"status < 500", "", "", ""},
		{"status >= 100", "", "", "every request that counts is good: the condition does not narrow its total"},
		{"method == GET", "", "", ""},
		{"status < 500", "status >= 500", "", "every request that counts is good: the condition does not narrow its total"},
		{"status < 500", "status < 500", "", "no request that counts can be good"},
		{"status < 500", "status >= 100", "", "every request is excluded"},
		{`route == "/pay/"`, "", "/pay/", "every request that counts is good: the condition does not narrow its total"},
		{`route == "/cart/"`, "", "/pay/", "no request that counts can be good"},
		{`status < 500 && route == "/pay/"`, "status == 404", "/pay/", ""},
	} {
		i := Indicator{Select: Selection{Route: tt.route, Methods: AllMethods}, Good: must(tt.good), Exclude: must(tt.exclude)}
		if got, _ := i.NarrowingFault(); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

func TestKernelFault(t *testing.T) {
	for text, want := range map[string]string{
		"status < 500 && duration <= 1s":  "",
		"duration > 1s":                   "a request would have to be slow to be good",
		"status < 300 || duration <= 10s": "good events are of more than one kind: duration <= 10s || status < 300",
	} {
		c, err := ParseCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := (Indicator{Good: c}).KernelFault(); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func FuzzCondition(f *testing.F) {
	for _, seed := range []string{
		"status < 500 && duration <= 300ms", "!(status in [404, 410]) || method != GET", `route == "/pay/" && duration > 1.5s`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCondition(text)
		if err != nil {
			bad, ok := errors.AsType[*ConditionError](err)
			if !ok || bad.At < 1 || bad.At > utf8.RuneCountInString(text)+1 || bad.What == "" || bad.Remedy == "" {
				t.Errorf("no place or remedy in %q", err)
			}
			return
		}
		if c.Empty() || len(c.Clauses) > maxClauses || slices.ContainsFunc(c.Clauses, Clause.empty) {
			t.Errorf("%q is %v", text, c)
		}
	})
}
