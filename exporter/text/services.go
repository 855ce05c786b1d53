package text

import (
	"cmp"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
)

// Protocols with a meaning of their own.
const (
	protocolHTTP   = "http"
	protocolOpaque = "opaque" // slid cannot read it
)

// services returns all ports of all services, worst first.
func (w window) services() []Service {
	list := []Service{}
	for _, t := range w.to.targets {
		for _, port := range t.ports() {
			list = append(list, w.service(t, port))
		}
	}
	slices.SortStableFunc(list, worstFirst)
	return list
}

// worstFirst orders services by their share of errors, then by traffic, then by name.
func worstFirst(a, b Service) int {
	return cmp.Or(
		cmp.Compare(b.errorRatio(), a.errorRatio()),
		cmp.Compare(valueOr(b.Requests, -1), valueOr(a.Requests, -1)),
		cmp.Compare(valueOr(b.Connections, -1), valueOr(a.Connections, -1)),
		cmp.Compare(a.Service, b.Service),
		cmp.Compare(a.Port, b.Port),
	)
}

// errorRatio returns the share of errors among the requests, or 0 if there were none.
func (s *Service) errorRatio() float64 {
	if s.Requests == nil || s.Errors == nil {
		return 0
	}
	return ratio(*s.Errors, *s.Requests)
}

// ratio returns the share of a part, or 0 of nothing.
func ratio(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// ports returns all ports of which the target has metrics, in order.
func (t *target) ports() []int {
	var list []int
	for _, name := range []string{httpResponses, connections, httpAborted, sliCoverage} {
		for _, n := range t.numbers[name] {
			if v, ok := n.attrs.Value(keyPort); ok && v.Type() == attribute.INT64 {
				list = append(list, int(v.AsInt64()))
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (w window) service(t *target, port int) Service {
	here := having(keyPort, strconv.Itoa(port))
	s := Service{
		Service:        t.text(keyServiceName),
		Port:           port,
		Protocol:       t.protocol(here),
		Aborted:        count(w.changes(t, httpAborted), here),
		Connections:    count(w.changes(t, connections), here),
		LatencySeconds: w.quantiles(t, httpDuration, here),
		TTFBSeconds:    w.quantiles(t, httpFirstByte, here),
		Coverage:       t.level(sliCoverage, here),
		EventsLost:     count(w.changes(t, sliLost), here),
		DurationsLost:  count(w.changes(t, sliUntimed), here),
		Unit:           t.text(keyUnit),
		Container:      t.text(keyContainer),
	}
	// A status has no series before its first response. So no series means no response if the port was watched.
	watched := s.Aborted != nil || s.Connections != nil || count(w.changes(t, httpResponses), here) != nil
	if watched && s.Protocol != protocolOpaque {
		s.addResponses(w.changes(t, httpResponses), here)
		s.Routes = w.routes(t, here)
	}
	return s
}

// routes returns the routes of a port that were asked for, worst first.
func (w window) routes(t *target, here func(attribute.Set) bool) []Route {
	var list []Route
	seen := map[string]bool{"": true}
	responses := w.changes(t, httpResponses)
	for _, c := range responses {
		name := text(c.attrs, keyRoute)
		if seen[name] || !here(c.attrs) {
			continue
		}
		seen[name] = true
		there := func(attrs attribute.Set) bool { return here(attrs) && text(attrs, keyRoute) == name }
		var s Service
		if s.addResponses(responses, there); *s.Requests > 0 {
			list = append(list, Route{
				Route: name, Requests: *s.Requests, Errors: *s.Errors, StatusCodes: s.StatusCodes,
				LatencySeconds: w.quantiles(t, httpDuration, there),
			})
		}
	}
	slices.SortFunc(list, func(a, b Route) int {
		return cmp.Or(
			cmp.Compare(ratio(b.Errors, b.Requests), ratio(a.Errors, a.Requests)),
			cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Route, b.Route))
	})
	return list
}

// protocol returns the protocol that the port speaks, or "" if no connection told yet. A port on which HTTP was once
// answered counts as such, whatever else connects to it.
func (t *target) protocol(here func(attribute.Set) bool) string {
	if n := t.level(httpResponses, here); n != nil && *n > 0 {
		return protocolHTTP
	}
	var best string
	var most float64
	for _, n := range t.numbers[connections] {
		if here(n.attrs) && n.value > most {
			best, most = text(n.attrs, keyProtocol), n.value
		}
	}
	return best
}

// addResponses counts the responses by status.
func (s *Service) addResponses(list []change, here func(attribute.Set) bool) {
	var requests, errors int64
	s.Status, s.StatusCodes = map[string]int64{}, map[string]int64{}
	for _, c := range list {
		n := int64(c.value)
		if !here(c.attrs) || n == 0 {
			continue
		}
		code := text(c.attrs, keyStatus)
		class := statusClass(code)
		requests += n
		s.StatusCodes[code] += n
		s.Status[class] += n
		if class == "5xx" {
			errors += n
		}
	}
	s.Requests, s.Errors = &requests, &errors
}

// statusClass returns "2xx" for "204", and "other" for what is no status.
func statusClass(code string) string {
	if len(code) != 3 || code[0] < '1' || code[0] > '9' {
		return "other"
	}
	return code[:1] + "xx"
}

// quantiles returns the quantiles of the histograms of a metric, or nil if they counted nothing.
func (w window) quantiles(t *target, name string, match func(attribute.Set) bool) *Quantiles {
	d, _ := w.distribution(t, name, match)
	return d.quantiles()
}

// valueOr returns *p, or missing if p is nil.
func valueOr[N int64 | float64](p *N, missing N) N {
	if p == nil {
		return missing
	}
	return *p
}
