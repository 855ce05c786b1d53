package slo

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Selector names series as PromQL does: a metric and what its labels must be like, e.g. http_requests_total{code!~"5.."}.
type Selector struct {
	Metric   string
	Matchers []Matcher // in the order of their labels
}

// A Matcher compares a label; one that a series has not counts as empty.
type Matcher struct {
	Label string
	Op    MatchOp
	Value string // a text, or a regular expression (RE2) for the whole of it
}

// A MatchOp is a comparison of PromQL.
type MatchOp string

// The comparisons.
const (
	Equal       MatchOp = "="
	NotEqual    MatchOp = "!="
	Matching    MatchOp = "=~"
	NotMatching MatchOp = "!~"
)

// The bounds of selectors, which are compared with every line that a service shows.
const (
	MaxSelector = 512 // bytes
	maxMatchers = 16
)

// BucketLabel is the label with the upper bound of a bucket of a histogram.
const BucketLabel = "le"

// String writes the selector as PromQL.
func (s Selector) String() string {
	if len(s.Matchers) == 0 {
		return s.Metric
	}
	list := make([]string, len(s.Matchers))
	for i, m := range s.Matchers {
		list[i] = m.String()
	}
	return s.Metric + "{" + strings.Join(list, ",") + "}"
}

// String writes the matcher as PromQL.
func (m Matcher) String() string { return m.Label + string(m.Op) + strconv.Quote(m.Value) }

// With returns the selector with one matcher more, and of another metric.
func (s Selector) With(metric string, more ...Matcher) Selector {
	return Selector{metric, sorted(slices.Concat(s.Matchers, more))}
}

// within tells whether the selector has all matchers of another one: what it selects is a part of what that one does.
func (s Selector) within(o Selector) bool {
	for _, m := range o.Matchers {
		if !slices.Contains(s.Matchers, m) {
			return false
		}
	}
	return true
}

func sorted(list []Matcher) []Matcher {
	slices.SortStableFunc(list, func(a, b Matcher) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// Bucket returns the bound of the bucket that the selector names by le="..."; ok tells whether it names one.
func (s Selector) Bucket() (bound float64, ok bool) {
	if !strings.HasSuffix(s.Metric, "_bucket") {
		return 0, false
	}
	for _, m := range s.Matchers {
		if m.Label == BucketLabel && m.Op == Equal {
			bound, err := strconv.ParseFloat(m.Value, 64)
			return bound, err == nil
		}
	}
	return 0, false
}

// ParseSelector reads a selector. The error is a *ConditionError.
func ParseSelector(text string) (Selector, error) {
	if len(text) > MaxSelector {
		return Selector{}, &ConditionError{1, fmt.Sprintf("the selector has %d bytes", len(text)), fmt.Sprintf("%d are allowed", MaxSelector)}
	}
	p := &selectorParser{text: text}
	p.blanks()
	s := Selector{Metric: p.name(":")}
	if s.Metric == "" {
		return s, p.fault("no metric", `begin with its name, e.g. http_requests_total{code!~"5.."}`)
	}
	p.blanks()
	if p.take("{") {
		var err error
		if s.Matchers, err = p.matchers(); err != nil {
			return Selector{}, err
		}
	}
	if p.blanks(); p.rest() != "" {
		return Selector{}, p.fault("more than a selector", "remove it: functions and ranges are not for a counter that slid reads itself")
	}
	s.Matchers = sorted(s.Matchers)
	return s, nil
}

// A selectorParser reads from a place in the text.
type selectorParser struct {
	text string
	at   int // in bytes
}

func (p *selectorParser) rest() string { return p.text[p.at:] }

func (p *selectorParser) blanks() { p.at = len(p.text) - len(strings.TrimLeft(p.rest(), " \t")) }

func (p *selectorParser) take(symbol string) bool {
	if !strings.HasPrefix(p.rest(), symbol) {
		return false
	}
	p.at += len(symbol)
	return true
}

// fault says that something is wrong at the present place.
func (p *selectorParser) fault(what, remedy string) error {
	return &ConditionError{1 + utf8.RuneCountInString(p.text[:p.at]), what, remedy}
}

// name takes the name of a metric or of a label: letters, digits (not the first), _ and what else is given.
func (p *selectorParser) name(more string) string {
	rest := p.rest()
	n := strings.IndexFunc(rest, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && !strings.ContainsRune(more, r)
	})
	if n < 0 {
		n = len(rest)
	}
	if n > 0 && rest[0] >= '0' && rest[0] <= '9' {
		n = 0
	}
	p.at += n
	return rest[:n]
}

// matchers takes what is behind the opening brace. A comma may stand behind the last one.
func (p *selectorParser) matchers() (list []Matcher, err error) {
	for {
		p.blanks()
		if p.take("}") {
			return list, nil
		}
		if len(list) == maxMatchers {
			return nil, p.fault("more matchers than allowed", fmt.Sprintf("%d are allowed", maxMatchers))
		}
		m, err := p.matcher()
		if err != nil {
			return nil, err
		}
		list = append(list, m)
		p.blanks()
		if !p.take(",") && !strings.HasPrefix(p.rest(), "}") {
			return nil, p.fault("the matchers do not end", "write , or } here")
		}
	}
}

func (p *selectorParser) matcher() (m Matcher, err error) {
	if m.Label = p.name(""); m.Label == "" {
		return m, p.fault("no label", `write e.g. code!~"5.."`)
	}
	if m.Label == "__name__" {
		return m, p.fault("the name of the metric as a label", "write it before the brace")
	}
	p.blanks()
	for _, op := range [...]MatchOp{Matching, NotMatching, NotEqual, Equal} { // the longer first
		if m.Op == "" && p.take(string(op)) {
			m.Op = op
		}
	}
	if m.Op == "" {
		return m, p.fault("the label is not compared", "write =, !=, =~ or !~ behind it")
	}
	p.blanks()
	if p.take("=") {
		return m, p.fault("there is no operator ==", "write = to compare")
	}
	begin := p.at
	if m.Value, err = p.quoted(); err != nil {
		return m, err
	}
	if m.Op == Matching || m.Op == NotMatching {
		if _, err := m.Regexp(); err != nil {
			p.at = begin
			return m, p.fault(strconv.Quote(m.Value)+" is no regular expression", "write it as RE2 has it: "+complaint(err))
		}
	}
	return m, nil
}

// complaint returns the reason of an error of the regexp package without its preamble.
func complaint(err error) string { return strings.TrimPrefix(err.Error(), "error parsing regexp: ") }

// quoted takes a text in quotes, with Go's escapes as in PromQL.
func (p *selectorParser) quoted() (string, error) {
	rest := p.rest()
	if rest == "" || !strings.ContainsRune("\"'`", rune(rest[0])) {
		return "", p.fault("the value has no quotes", `put it in quotes, e.g. code="200"`)
	}
	quote := rest[0]
	for i := 1; i < len(rest); i++ {
		switch {
		case rest[i] == '\\' && quote != '`':
			i++
		case rest[i] == quote:
			value, ok := unquote(rest[1:i], quote)
			if !ok || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
				return "", p.fault("the value has an escape that is none", `write \\ for a backslash`)
			}
			p.at += i + 1
			return value, nil
		}
	}
	return "", p.fault("the quote is not closed", "add "+string(quote)+" behind the value")
}

func unquote(s string, quote byte) (string, bool) {
	if quote == '`' {
		return s, true
	}
	var b strings.Builder
	for s != "" {
		r, multibyte, tail, err := strconv.UnquoteChar(s, quote)
		if err != nil {
			return "", false
		}
		if s = tail; r < utf8.RuneSelf || !multibyte {
			b.WriteByte(byte(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String(), true
}

// Regexp returns the expression that the whole value of a label must match, or must not.
func (m Matcher) Regexp() (*regexp.Regexp, error) { return regexp.Compile("^(?s:" + m.Value + ")$") }
