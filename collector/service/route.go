package service

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

const (
	routeKey  attribute.Key = "http.route"
	methodKey attribute.Key = "http.request.method"
)

// otherRoute is the http.route of requests to paths that no route of their service fits.
const otherRoute = "_OTHER"

// A routed is what an endpoint counted of one route, method and status.
type routed struct {
	routedKey
	base, sum bpf.HTTPCell // of slots that were given up, and of all
	responses *metric.Int
	duration  *metric.Hist
}

type routedKey struct {
	route, method string
	status        int
}

// routed returns the count of a cell's route, method and status, which is new if it occurs for the first time.
func (e *served) routed(k routedKey) *routed {
	if i := slices.IndexFunc(e.routes, func(r *routed) bool { return r.routedKey == k }); i >= 0 {
		return e.routes[i]
	}
	route, method, status := routeKey.String(k.route), methodKey.String(k.method), statusKey.Int(k.status)
	r := &routed{
		routedKey: k,
		responses: e.families.responses.With(e.entity, e.port, status, route, method),
		duration:  e.families.duration.With(e.entity, e.port, classOf(k.status), status, route, method),
	}
	e.routes = append(e.routes, r)
	return r
}

// classOf returns the class of a status, e.g. 2xx.
func classOf(status int) attribute.KeyValue {
	return classKey.String(string('0'+rune(status/100)) + "xx")
}

// routedResponses returns the responses that cells counted.
func (e *served) routedResponses() (n uint64) {
	for _, r := range e.routes {
		n += r.sum.Responses
	}
	return n
}

// storeRoutes brings what cells counted into the registers.
func (e *served) storeRoutes(now time.Time) {
	for _, r := range e.routes {
		r.responses.Observe(r.sum.Responses, now)
		load(r.duration, &r.sum.Duration)
	}
}

func addCell(sum, c *bpf.HTTPCell) {
	sum.Responses += c.Responses
	addHist(&sum.Duration, &c.Duration)
}

// A cell is what is known of a cell of the kernel's.
type cell struct {
	key  bpf.HTTPCellKey
	slot int     // 0: the cell is not in use
	of   *routed // nil: its service is another than was expected, so that its routes mean nothing
}

// readCells adds what the cells counted to what their endpoints did. It allocates only when something occurs for the first
// time.
func (t *Traffic) readCells() error {
	for i := range t.slots {
		t.slots[i].routed = 0
	}
	for i := range t.cells {
		c := &t.cells[i]
		key, used := t.probe.CellKey(i)
		if !used {
			*c = cell{}
			continue
		}
		if c.slot == 0 || c.key != key {
			if *c = t.cellOf(key); c.slot == 0 {
				continue // of a slot that is new, or given up
			}
		}
		if err := t.probe.Cell(i, &t.counts); err != nil {
			return fmt.Errorf("read cell %d: %w", i, err)
		}
		s := &t.slots[c.slot]
		s.routed += t.counts.Responses
		if c.of != nil {
			addCell(&c.of.sum, &t.counts)
		} else {
			addUnrouted(&s.of.total, key, &t.counts)
		}
	}
	return nil
}

// cellOf finds out what a cell counts for.
func (t *Traffic) cellOf(key bpf.HTTPCellKey) cell {
	i := int(key.Slot & 0xffff)
	s := &t.slots[i]
	if s.of == nil || uint16(s.generation) != uint16(key.Slot>>16) {
		return cell{}
	}
	c := cell{key: key, slot: i}
	if p := t.objectives.at(uint32(key.Set)); p != nil && uint32(key.Set) == s.set {
		c.of = s.of.routed(routedKey{
			route:  p.routeOf(int(key.Route)),
			method: slo.Methods()[min(bits.TrailingZeros16(key.Methods), len(slo.Methods())-1)],
			status: int(key.Status),
		})
	}
	return c
}

// addUnrouted counts a cell as if its route were not known.
func addUnrouted(s *bpf.HTTPService, key bpf.HTTPCellKey, c *bpf.HTTPCell) {
	s.Codes[key.Status-bpf.HTTPFirstStatus] += c.Responses
	addHist(&s.Duration[key.Status/100-1], &c.Duration)
}

// inCells returns the responses that the cells of a slot counted.
func (t *Traffic) inCells(slot int) (n uint64) {
	for i := range t.cells {
		if key, used := t.probe.CellKey(i); used && int(key.Slot&0xffff) == slot && t.probe.Cell(i, &t.counts) == nil {
			n += t.counts.Responses
		}
	}
	return n
}

// dropCells keeps what the cells of a slot counted, which was retired, and frees them. So it does with those that a program
// took for it at the last moment.
func (t *Traffic) dropCells(slot int) error {
	s := &t.slots[slot]
	for i := range t.cells {
		key, used := t.probe.CellKey(i)
		if !used || int(key.Slot&0xffff) != slot {
			continue
		}
		if err := t.probe.Cell(i, &t.counts); err != nil {
			return fmt.Errorf("read cell %d: %w", i, err)
		}
		if c := t.cellOf(key); c.of != nil {
			addCell(&c.of.base, &t.counts)
		} else if c.slot != 0 {
			addUnrouted(s.of.base, key, &t.counts)
		}
		t.cells[i] = cell{}
		if err := t.probe.FreeCell(i, key); err != nil {
			return err
		}
	}
	return nil
}

// AddRoutes has a service counted by routes, which are starts of paths; the longest that fits a request is its http.route.
// It says what is wrong and what to do about it if these are too many, besides those that were added before; nothing if
// they are not.
func (o *Objectives) AddRoutes(service string, routes []string) (what, remedy string) {
	if len(routes) == 0 {
		return "", ""
	}
	p := o.orNew(service)
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(p.routes, routes))))
	return o.take(p, p.indicators, all)
}

// routeOf returns the http.route by the number that counts gives it.
func (p *promises) routeOf(number int) string {
	if number == 0 || number > len(p.routes) {
		return otherRoute
	}
	return p.routes[number-1]
}

// counts returns the numbers by which a set's routes are counted, or nil if the service is not: 1 + the place of the longest
// counted route that each begins with.
func counts(set, counted []string) []uint8 {
	if len(counted) == 0 {
		return nil
	}
	numbers := make([]uint8, 1, 1+len(set))
	for _, r := range set {
		longest := 0
		for k, c := range counted {
			if strings.HasPrefix(r, c) && (longest == 0 || len(c) > len(counted[longest-1])) {
				longest = k + 1
			}
		}
		numbers = append(numbers, uint8(longest))
	}
	return numbers
}
