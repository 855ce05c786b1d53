package slo

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Condition tells which events are meant, e.g. "status < 500 && duration <= 300ms". The language has
//
//	status    100 to 599        == != < <= > >= in
//	duration  300ms, 1.5s, 2m   < <= > >=
//	method    GET, POST, ...    == != in
//	route     "/pay/"           == != in      the path begins so
//
// and joins comparisons by &&, ||, ! and parentheses. A list is [404, 410]. Conditions are sets: two that hold for the
// same events are the same, however they are written.
type Condition struct {
	Clauses []Clause // holds if one of them does; never empty, merged as far as they can be
}

// Always is the condition that holds for every event.
func Always() Condition { return Condition{[]Clause{anyEvent()}} }

// String writes the condition in its language.
func (c Condition) String() string {
	var list []string
	for _, clause := range c.Clauses {
		list = append(list, clause.String())
	}
	return strings.Join(list, " || ")
}

// And holds where both conditions do. It is empty if they have no event in common.
func (c Condition) And(o Condition) Condition { return Condition{both(c.Clauses, o.Clauses)} }

// Not holds where c does not.
func (c Condition) Not() Condition { return Condition{neither(c.Clauses)} }

// Empty tells whether the condition holds for no event.
func (c Condition) Empty() bool { return len(c.Clauses) == 0 }

// A ConditionError says what is wrong with a condition, where, and what to write instead.
type ConditionError struct {
	At     int // the character it begins at, from 1
	What   string
	Remedy string
}

// Error returns the whole message.
func (e *ConditionError) Error() string {
	return fmt.Sprintf("at character %d: %s; %s", e.At, e.What, e.Remedy)
}

// MaxCondition bounds the text of a condition in bytes, and by it the depth of the parser.
const MaxCondition = 512

// ParseCondition reads a condition. The error is a *ConditionError.
func ParseCondition(text string) (Condition, error) {
	if len(text) > MaxCondition {
		what := fmt.Sprintf("the condition has %d bytes", len(text))
		return Condition{}, &ConditionError{1, what, fmt.Sprintf("%d are allowed", MaxCondition)}
	}
	tokens, err := scan(text)
	if err != nil {
		return Condition{}, err
	}
	p := &parser{tokens: tokens}
	list, err := p.anyOf()
	if err == nil && p.peek().kind != end {
		err = p.unexpected("&& or ||")
	}
	if err != nil {
		return Condition{}, err
	}
	if len(list) == 0 {
		return Condition{}, &ConditionError{1, "no event can meet the condition", "remove the comparisons that exclude each other"}
	}
	return Condition{list}, nil
}

type tokenKind int

const (
	end    tokenKind = iota
	word             // status, 500, 300ms, GET
	text             // "quoted", without its quotes
	symbol           // && || ! ( ) [ ] , == != < <= > >=
)

// A token is a part of a condition; at is the character it begins at, from 1.
type token struct {
	kind tokenKind
	text string
	at   int
}

func (t token) is(symbols ...string) bool {
	return t.kind == symbol && slices.Contains(symbols, t.text)
}

func (t token) fault(what, remedy string) error { return &ConditionError{t.at, what, remedy} }

// symbols lists those of the language, the longer first.
func symbols() []string {
	return []string{"&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ","}
}

// scan splits a condition into tokens, the last of kind end.
func scan(s string) ([]token, error) {
	var list []token
	for i := 0; i < len(s); {
		rest, at := s[i:], 1+utf8.RuneCountInString(s[:i])
		length := 0
		switch rest[0] {
		case ' ', '\t', '\n':
			i++
			continue
		case '"', '\'':
			n := strings.IndexByte(rest[1:], rest[0])
			if n < 0 {
				return nil, &ConditionError{at, "the quote is not closed", "add " + rest[:1] + " behind the text"}
			}
			list = append(list, token{text, rest[1 : 1+n], at})
			i += n + 2
			continue
		}
		for _, sym := range symbols() {
			if length == 0 && strings.HasPrefix(rest, sym) {
				length = len(sym)
				list = append(list, token{symbol, sym, at})
			}
		}
		if length == 0 {
			if length = wordLength(rest); length == 0 {
				return nil, strayCharacter(rest, at)
			}
			list = append(list, token{word, rest[:length], at})
		}
		i += length
	}
	return append(list, token{end, "", 1 + utf8.RuneCountInString(s)}), nil
}

// wordLength returns how many bytes at the start of s make a word.
func wordLength(s string) int {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("_.-+", rune(c)) {
			return i
		}
	}
	return len(s)
}

// strayCharacter explains a character that the language does not have.
func strayCharacter(rest string, at int) error {
	r, _ := utf8.DecodeRuneInString(rest)
	remedy := "write comparisons such as status < 500, joined by && or ||"
	switch r {
	case '=':
		remedy = "write == to compare"
	case '&':
		remedy = "write && for both"
	case '|':
		remedy = "write || for one of both"
	case '/':
		remedy = `put paths in quotes, e.g. route == "/pay/"`
	}
	return &ConditionError{at, "unexpected " + strconv.QuoteRune(r), remedy}
}

// A parser reads tokens by recursive descent. Each of its methods returns the clauses of what it read.
type parser struct {
	tokens []token
	next   int
}

func (p *parser) peek() token { return p.tokens[p.next] }

func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != end {
		p.next++
	}
	return t
}

// unexpected says that the next token is not what should come.
func (p *parser) unexpected(want string) error {
	t := p.peek()
	switch {
	case t.kind == end:
		return t.fault("the condition ends too early", "add "+want)
	case t.kind == word && (t.text == "and" || t.text == "AND"):
		return t.fault("there is no operator "+t.text, "write &&")
	case t.kind == word && (t.text == "or" || t.text == "OR"):
		return t.fault("there is no operator "+t.text, "write ||")
	}
	return t.fault("unexpected "+strconv.Quote(t.text), "write "+want+" here")
}

func (p *parser) anyOf() ([]Clause, error) {
	list, err := p.allOf()
	for err == nil && p.peek().is("||") {
		at := p.take()
		var more []Clause
		if more, err = p.allOf(); err == nil {
			list, err = bounded(at, merge(append(slices.Clone(list), more...)))
		}
	}
	return list, err
}

func (p *parser) allOf() ([]Clause, error) {
	list, err := p.unary()
	for err == nil && p.peek().is("&&") {
		at := p.take()
		var more []Clause
		if more, err = p.unary(); err == nil {
			list, err = bounded(at, both(list, more))
		}
	}
	return list, err
}

func (p *parser) unary() ([]Clause, error) {
	switch t := p.peek(); {
	case t.is("!"):
		p.take()
		list, err := p.unary()
		if err != nil {
			return nil, err
		}
		return bounded(t, neither(list))
	case t.is("("):
		p.take()
		list, err := p.anyOf()
		if err == nil && !p.peek().is(")") {
			return nil, p.unexpected(")")
		}
		p.take()
		return list, err
	}
	return p.comparison()
}

// bounded refuses what would cost too much for each event.
func bounded(at token, list []Clause) ([]Clause, error) {
	if len(list) > maxClauses {
		return nil, at.fault(fmt.Sprintf("the condition needs more than %d alternatives", maxClauses), "make it simpler")
	}
	return list, nil
}

// comparison reads a field, an operator and a value or a list of values.
func (p *parser) comparison() ([]Clause, error) {
	field := p.peek()
	if field.kind != word {
		return nil, p.unexpected("a comparison such as status < 500")
	}
	p.take()
	compare, ok := map[string]func(field, op token, values []token) (Clause, error){
		"status": compareStatus, "duration": compareDuration, "method": compareMethod, "route": compareRoute,
	}[field.text]
	if !ok {
		return nil, unknownField(field)
	}
	op := p.take()
	var values []token
	var err error
	switch {
	case op.kind == word && op.text == "in":
		values, err = p.list()
	case op.is("==", "!=", "<", "<=", ">", ">="):
		values, err = p.value()
	default:
		err = op.fault(field.text+" is not compared", "write e.g. "+exampleOf(field.text))
	}
	if err != nil {
		return nil, err
	}
	clause, err := compare(field, op, values)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc([]Clause{clause}, Clause.empty), nil
}

// exampleOf returns a comparison of a field.
func exampleOf(field string) string {
	return map[string]string{
		"status": "status < 500", "duration": "duration <= 300ms", "method": "method == GET", "route": `route == "/pay/"`,
	}[field]
}

// unknownField explains a word that is no field, in the words people bring from elsewhere.
func unknownField(t token) error {
	remedy := "fields are status, duration, method and route"
	switch strings.ToLower(t.text) {
	case "latency", "time", "response_time", "dur":
		remedy = "write duration"
	case "code", "status_code", "http_status":
		remedy = "write status"
	case "path", "url", "uri":
		remedy = "write route"
	case "verb":
		remedy = "write method"
	case "not":
		remedy = "write ! for not"
	}
	return t.fault("there is no field "+strconv.Quote(t.text), remedy)
}

func (p *parser) value() ([]token, error) {
	if t := p.peek(); t.kind != word && t.kind != text {
		return nil, p.unexpected("a value")
	}
	return []token{p.take()}, nil
}

func (p *parser) list() ([]token, error) {
	if !p.peek().is("[") {
		return nil, p.unexpected("a list such as [404, 410]")
	}
	p.take()
	var values []token
	for {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		values = append(values, v...)
		switch t := p.peek(); {
		case t.is("]"):
			p.take()
			return values, nil
		case t.is(","):
			p.take()
		default:
			return nil, p.unexpected(", or ]")
		}
	}
}

// holds compares two numbers.
func holds(op string, a, b int) bool {
	switch op {
	case "==":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	default:
		return a >= b
	}
}

func compareStatus(_, op token, values []token) (Clause, error) {
	c := anyEvent()
	c.Status = StatusSet{}
	for _, v := range values {
		code, err := strconv.Atoi(v.text)
		if err != nil || code < FirstStatus || code > LastStatus {
			return Clause{}, v.fault(strconv.Quote(v.text)+" is no status code", "use 100 to 599")
		}
		operator := op.text
		if operator == "in" {
			operator = "=="
		}
		one := statuses(func(s int) bool { return holds(operator, s, code) })
		c.Status = c.Status.combine(one, func(a, b uint64) uint64 { return a | b })
	}
	return c, nil
}

func compareDuration(_, op token, values []token) (Clause, error) {
	c := anyEvent()
	if !op.is("<", "<=", ">", ">=") {
		return c, op.fault("a duration cannot be compared by "+op.text, "write duration <= "+values[0].text)
	}
	v := values[0]
	limit, err := time.ParseDuration(v.text)
	switch {
	case err != nil && strings.Trim(v.text, "0123456789.") == "":
		return c, v.fault(strconv.Quote(v.text)+" has no unit", "write "+v.text+"ms for milliseconds")
	case err != nil:
		return c, v.fault(strconv.Quote(v.text)+" is no duration", "write a number and ns, us, ms, s, m or h, e.g. 300ms")
	case limit < 0, limit == 0 && !op.is(">"):
		return c, v.fault(strconv.Quote(v.text)+" is not positive", "write e.g. 300ms")
	}
	switch op.text {
	case "<":
		c.UpTo = limit - 1
	case "<=":
		c.UpTo = limit
	case ">":
		c.Above = limit
	case ">=":
		c.Above = limit - 1
	}
	return c, nil
}

func compareMethod(_, op token, values []token) (Clause, error) {
	c := anyEvent()
	if !op.is("==", "!=") && op.text != "in" {
		return c, op.fault("a method cannot be compared by "+op.text, "use ==, != or in")
	}
	c.Methods = 0
	for _, v := range values {
		set, ok := MethodsOf(v.text)
		if !ok {
			return c, v.fault("there is no method "+strconv.Quote(v.text), "methods: "+strings.Join(Methods(), ", "))
		}
		c.Methods |= set
	}
	if op.is("!=") {
		c.Methods = AllMethods &^ c.Methods
	}
	return c, nil
}

func compareRoute(_, op token, values []token) (Clause, error) {
	c := anyEvent()
	if !op.is("==", "!=") && op.text != "in" {
		return c, op.fault("a route cannot be compared by "+op.text, "use ==, != or in")
	}
	var names []string
	for _, v := range values {
		if what, remedy := RouteFault(v.text); what != "" {
			return c, v.fault(what, remedy)
		}
		names = append(names, v.text)
	}
	c.Routes = routesBelow(names...)
	if op.is("!=") {
		c.Routes = RouteSet{allRoutes().Within, names}.normal()
	}
	return c, nil
}

// maxRoute bounds a route in bytes: what a kernel program compares of a path.
const maxRoute = 64

// RouteFault says what is wrong with a text that should be a route, and what to do about it; nothing if it is one. A
// route is the start of a path, taken as it is: no wildcards, no query.
func RouteFault(route string) (what, remedy string) {
	switch i := strings.IndexAny(route, "*?#{} \t"); {
	case !strings.HasPrefix(route, "/"):
		return strconv.Quote(route) + " is no route", "begin it with /, e.g. /pay/"
	case len(route) > maxRoute:
		return fmt.Sprintf("the route has %d bytes", len(route)), fmt.Sprintf("%d are allowed", maxRoute)
	case i >= 0:
		return strconv.Quote(route) + " has a " + strconv.Quote(route[i:i+1]),
			"write the start of the path, e.g. /pay/: all below it belongs to it"
	case strings.ContainsFunc(route, func(r rune) bool { return r < ' ' || r >= 0x7f }):
		return strconv.Quote(route) + " has characters that a path cannot have",
			"encode them as they are in the request, e.g. %C3%BC"
	}
	return "", ""
}
