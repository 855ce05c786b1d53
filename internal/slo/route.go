package slo

import (
	"slices"
	"strings"
)

// A RouteSet is a set of paths, told by their starts: those that begin with one of Within and with none of Without. Every
// path begins with "", so that this stands for all of them.
type RouteSet struct {
	Within  []string // sorted; none is the start of another
	Without []string // sorted; none is the start of another, and each begins with one of Within and is longer
}

func allRoutes() RouteSet { return RouteSet{Within: []string{""}} }

// routesBelow returns the paths that begin with one of some routes.
func routesBelow(routes ...string) RouteSet { return RouteSet{Within: routes}.normal() }

// Has tells whether the set has a path. A route stands for all paths below it that no other route of the set tells apart.
func (r RouteSet) Has(path string) bool {
	return startsWith(path, r.Within) && !startsWith(path, r.Without)
}

// All tells whether the set has every path.
func (r RouteSet) All() bool { return r.equal(allRoutes()) }

func (r RouteSet) empty() bool { return len(r.Within) == 0 }

func (r RouteSet) equal(o RouteSet) bool {
	return slices.Equal(r.Within, o.Within) && slices.Equal(r.Without, o.Without)
}

// startsWith tells whether the path begins with one of the routes.
func startsWith(path string, routes []string) bool {
	return slices.ContainsFunc(routes, func(r string) bool { return strings.HasPrefix(path, r) })
}

// normal returns the same set in the one form that it has.
func (r RouteSet) normal() RouteSet {
	within := slices.DeleteFunc(shortest(r.Within), func(w string) bool { return startsWith(w, r.Without) })
	without := slices.DeleteFunc(shortest(r.Without), func(w string) bool { return !startsWith(w, within) })
	return RouteSet{within, without}
}

// shortest returns the routes, sorted, without those that begin with another.
func shortest(routes []string) []string {
	var list []string
	for _, r := range slices.Sorted(slices.Values(routes)) {
		if !startsWith(r, list) {
			list = append(list, r)
		}
	}
	return list
}

// and returns the paths of both sets.
func (r RouteSet) and(o RouteSet) RouteSet {
	var within []string
	for _, a := range r.Within {
		for _, b := range o.Within {
			if strings.HasPrefix(a, b) {
				within = append(within, a)
			} else if strings.HasPrefix(b, a) {
				within = append(within, b)
			}
		}
	}
	return RouteSet{within, slices.Concat(r.Without, o.Without)}.normal()
}

// or returns the paths of either set; ok tells whether they are a RouteSet. A route that one set leaves out must be whole
// in the other, or not be there at all.
func (r RouteSet) or(o RouteSet) (union RouteSet, ok bool) {
	var without []string
	for _, pair := range [...]struct{ from, other RouteSet }{{r, o}, {o, r}} {
		for _, w := range pair.from.Without {
			both := routesBelow(w).and(pair.other)
			switch {
			case both.empty():
				without = append(without, w)
			case !both.equal(routesBelow(w)):
				return RouteSet{}, false
			}
		}
	}
	return RouteSet{slices.Concat(r.Within, o.Within), without}.normal(), true
}

// complement returns sets of which one has a path if r has not.
func (r RouteSet) complement() []RouteSet {
	outside := RouteSet{allRoutes().Within, r.Within}.normal()
	return slices.DeleteFunc([]RouteSet{outside, routesBelow(r.Without...)}, RouteSet.empty)
}
