package slo

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Statuses are the HTTP status codes there can be (RFC 9110, section 15): from the first to the last.
const (
	FirstStatus = 100
	LastStatus  = 599
)

// StatusSet is a set of status codes; bit i stands for FirstStatus+i.
type StatusSet [8]uint64

// Has tells whether the set has the code.
func (s StatusSet) Has(code int) bool {
	i := code - FirstStatus
	return code >= FirstStatus && code <= LastStatus && s[i/64]&(1<<(i%64)) != 0
}

func (s *StatusSet) add(code int) {
	i := code - FirstStatus
	s[i/64] |= 1 << (i % 64)
}

// statuses returns the codes for which keep holds.
func statuses(keep func(code int) bool) StatusSet {
	var s StatusSet
	for code := FirstStatus; code <= LastStatus; code++ {
		if keep(code) {
			s.add(code)
		}
	}
	return s
}

// AllStatuses returns the set of all codes.
func AllStatuses() StatusSet { return statuses(func(int) bool { return true }) }

func (s StatusSet) combine(o StatusSet, with func(a, b uint64) uint64) StatusSet {
	for i := range s {
		s[i] = with(s[i], o[i])
	}
	return s
}

// MethodSet is a set of request methods; bit i stands for Methods()[i].
type MethodSet uint16

// Methods returns the methods that are told apart: those of OpenTelemetry's http.request.method, which calls every
// other one _OTHER.
func Methods() []string {
	return []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "_OTHER"}
}

// AllMethods is the set of all methods.
const AllMethods MethodSet = 1<<10 - 1

// MethodsOf returns the set of the given methods; ok tells whether all are known.
func MethodsOf(names ...string) (set MethodSet, ok bool) {
	for _, name := range names {
		i := slices.Index(Methods(), name)
		if i < 0 {
			return 0, false
		}
		set |= 1 << i
	}
	return set, true
}

// Names returns the methods of the set.
func (s MethodSet) Names() []string {
	var list []string
	for i, name := range Methods() {
		if s&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// NoLimit is the UpTo of a clause without an upper bound of the duration.
const NoLimit = time.Duration(math.MaxInt64)

// noFloor is the Above of a clause without a lower bound of the duration: no request takes less than nothing.
const noFloor = time.Duration(-1)

// A Clause holds for an event if all of its parts do. It is what a kernel program can check: a bit in a set of status
// codes, a bit in a set of methods, the number of a route, and two comparisons in nanoseconds.
type Clause struct {
	Status      StatusSet
	Methods     MethodSet
	Routes      RouteSet
	Above, UpTo time.Duration // Above < duration <= UpTo; -1 and NoLimit stand for no bound
}

// anyEvent holds for every event.
func anyEvent() Clause {
	return Clause{Status: AllStatuses(), Methods: AllMethods, Routes: allRoutes(), Above: noFloor, UpTo: NoLimit}
}

func (c Clause) empty() bool {
	return c.Status == (StatusSet{}) || c.Methods == 0 || c.Routes.empty() || c.Above >= c.UpTo
}

// and holds if both clauses do.
func (c Clause) and(o Clause) Clause {
	return Clause{
		Status:  c.Status.combine(o.Status, func(a, b uint64) uint64 { return a & b }),
		Methods: c.Methods & o.Methods,
		Routes:  c.Routes.and(o.Routes),
		Above:   max(c.Above, o.Above),
		UpTo:    min(c.UpTo, o.UpTo),
	}
}

// complement returns clauses of which one holds if c does not.
func (c Clause) complement() []Clause {
	status, methods, faster, slower := anyEvent(), anyEvent(), anyEvent(), anyEvent()
	status.Status = AllStatuses().combine(c.Status, func(a, b uint64) uint64 { return a &^ b })
	methods.Methods = AllMethods &^ c.Methods
	faster.UpTo = c.Above
	slower.Above = c.UpTo
	list := []Clause{status, methods, faster, slower}
	for _, r := range c.Routes.complement() {
		routes := anyEvent()
		routes.Routes = r
		list = append(list, routes)
	}
	return slices.DeleteFunc(list, Clause.empty)
}

// join returns one clause that holds if c or o does, if there is one: they must differ in one part alone.
func (c Clause) join(o Clause) (Clause, bool) {
	joined := c
	joined.Status = c.Status.combine(o.Status, func(a, b uint64) uint64 { return a | b })
	joined.Methods = c.Methods | o.Methods
	routes, one := c.Routes.or(o.Routes)
	joined.Routes = routes
	joined.Above, joined.UpTo = min(c.Above, o.Above), max(c.UpTo, o.UpTo)
	differ := 0
	for _, same := range []bool{
		c.Status == o.Status, c.Methods == o.Methods, c.Routes.equal(o.Routes), c.Above == o.Above && c.UpTo == o.UpTo,
	} {
		if !same {
			differ++
		}
	}
	touching := max(c.Above, o.Above) <= min(c.UpTo, o.UpTo)
	return joined, differ == 0 || differ == 1 && touching && one
}

// String writes the clause in the condition language, in one order whatever order it was written in.
func (c Clause) String() string {
	var parts []string
	if part := c.Status.String(); part != "" {
		parts = append(parts, part)
	}
	if c.Methods != AllMethods {
		parts = append(parts, oneOf("method", c.Methods.Names(), false))
	}
	if !slices.Equal(c.Routes.Within, allRoutes().Within) {
		parts = append(parts, oneOf("route", quoted(c.Routes.Within), false))
	}
	if len(c.Routes.Without) > 0 {
		parts = append(parts, oneOf("route", quoted(c.Routes.Without), true))
	}
	if c.Above != noFloor {
		parts = append(parts, "duration > "+c.Above.String())
	}
	if c.UpTo != NoLimit {
		parts = append(parts, "duration <= "+c.UpTo.String())
	}
	if len(parts) == 0 {
		return "status >= " + strconv.Itoa(FirstStatus)
	}
	return strings.Join(parts, " && ")
}

// String writes the set as a condition on status, or nothing if it has every code.
func (s StatusSet) String() string {
	single, ranges := s.runs()
	missing, rest := AllStatuses().combine(s, func(a, b uint64) uint64 { return a &^ b }).runs()
	switch {
	case len(missing)+len(rest) == 0:
		return ""
	case len(rest) == 0 && len(single)+len(ranges) > 1:
		return oneOf("status", missing, true)
	}
	if len(single) > 0 {
		ranges = append(ranges, oneOf("status", single, false))
	}
	if len(ranges) > 1 {
		return "(" + strings.Join(ranges, " || ") + ")"
	}
	return ranges[0]
}

// runs returns the codes of the set that stand alone, and conditions for those in a row.
func (s StatusSet) runs() (single, ranges []string) {
	for first := FirstStatus; first <= LastStatus; first++ {
		if !s.Has(first) {
			continue
		}
		next := first + 1
		for s.Has(next) {
			next++
		}
		switch {
		case next == first+1:
			single = append(single, strconv.Itoa(first))
		case first == FirstStatus:
			ranges = append(ranges, fmt.Sprintf("status < %d", next))
		case next > LastStatus:
			ranges = append(ranges, fmt.Sprintf("status >= %d", first))
		default:
			ranges = append(ranges, fmt.Sprintf("status >= %d && status < %d", first, next))
		}
		first = next
	}
	return single, ranges
}

// oneOf writes a condition that a field has, or has not, one of some values.
func oneOf(field string, values []string, except bool) string {
	switch {
	case len(values) == 1 && except:
		return field + " != " + values[0]
	case len(values) == 1:
		return field + " == " + values[0]
	case except:
		return "!(" + field + " in [" + strings.Join(values, ", ") + "])"
	}
	return field + " in [" + strings.Join(values, ", ") + "]"
}

func quoted(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strconv.Quote(s)
	}
	return out
}

// maxClauses bounds a condition: each is a comparison for every request.
const maxClauses = 16

// both returns clauses of which one holds if one of a and one of b does.
func both(a, b []Clause) []Clause {
	var list []Clause
	for _, x := range a {
		for _, y := range b {
			if c := x.and(y); !c.empty() {
				list = append(list, c)
			}
		}
	}
	return merge(list)
}

// neither returns clauses of which one holds if none of the list does.
func neither(list []Clause) []Clause {
	rest := []Clause{anyEvent()}
	for _, c := range list {
		if rest = both(rest, c.complement()); len(rest) > maxClauses {
			break // the caller refuses it
		}
	}
	return rest
}

// merge joins clauses as long as two can be one.
func merge(list []Clause) []Clause {
	for before := -1; before != len(list); {
		before = len(list)
		for i := 0; i < len(list); i++ {
			for j := i + 1; j < len(list); j++ {
				if joined, ok := list[i].join(list[j]); ok {
					list[i] = joined
					list = slices.Delete(list, j, j+1)
					j = i
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b Clause) int { return cmp.Compare(a.String(), b.String()) })
	return list
}
