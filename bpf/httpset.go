package bpf

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// The kernel's limits on objectives.
const (
	HTTPRules      = 16   // objectives of a service
	HTTPSteps      = 64   // steps that decide them
	HTTPRoutes     = 63   // routes of a service; the 64th are all other paths
	HTTPAllRules   = 256  // objectives of all services together
	httpCells      = 4096 // of all services that are counted by route: HTTP_CELLS in http.bpf.c
	httpEndpoints  = 1024 // whose service is known beforehand
	httpRoutesBits = 32   // of the key of a route that are not its path
)

// Numbers of sets. Those of HTTPSets begin with HTTPFirstSet.
const (
	HTTPUnbound  uint32 = iota // it is not known yet which service a slot belongs to
	HTTPNoSet                  // a service without a set
	HTTPFirstSet               // HTTPSets.Sets[0]
)

// Outcomes of an event for an objective (enum http_outcome in http.bpf.c). From HTTPUnknown on the event is lost: what is
// known of it does not tell whether it was good.
const (
	HTTPGood     = iota
	HTTPBad      // not good
	HTTPExcluded // does not count by the objective's own words
	HTTPUnknown  // nothing is known of the request or of the response
	HTTPHead     // the first segment of the request did not tell route or method
	HTTPUntimed  // the request was not seen, so that the duration is unknown
	HTTPCut      // the response went on after it was counted
	HTTPAborted  // there was no response, nor was it late enough to be bad whatever it would have been
	HTTPOutcomes
)

// HTTPStep is a step of deciding an objective: see struct http_step in http.bpf.c.
type HTTPStep = gen.HTTPHttpStep

// HTTPEvents counts the events of a slot by objective and outcome.
type HTTPEvents = gen.HTTPHttpEvents

// HTTPEndpoint is where a server listens. Network namespace 0 stands for all.
type HTTPEndpoint = gen.HTTPHttpEndpoint

// A HTTPSet has the objectives of one service, and the routes by which it is counted.
type HTTPSet struct {
	// Steps decide them, those of one objective in a row and at most HTTPSteps together.
	Steps []HTTPStep
	// Routes are starts of paths, at most 64 bytes each; the longest that fits is the route of a request. Routes[i] is
	// bit i+1 of HTTPStep.Routes; bit 0 stands for paths that none fits.
	Routes []string
	// Counts are numbers of the caller's choice by which responses are counted in cells: Counts[0] those to paths that no
	// route fits, Counts[i+1] those to Routes[i]. Nil: the service is not counted by route.
	Counts []uint8
}

// HTTPSets are the sets of all services. They are constant for the life of a probe.
type HTTPSets struct {
	Sets []HTTPSet
	// Expected are the endpoints whose services are known beforehand, and their sets: their events count from the first
	// one on.
	Expected map[HTTPEndpoint]uint32
}

func boolean(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// steps returns the number of steps of all sets.
func (o *HTTPSets) steps() (n int) {
	if o == nil {
		return 0
	}
	for _, s := range o.Sets {
		n += len(s.Steps)
	}
	return n
}

// rules returns the number of objectives of the set.
func (s *HTTPSet) rules() (n int) {
	for _, step := range s.Steps {
		n = max(n, int(step.Rule)+1)
	}
	return n
}

// rules returns the number of objectives of all sets.
func (o *HTTPSets) rules() (n int) {
	for i := range o.Sets {
		n += o.Sets[i].rules()
	}
	return n
}

// cells returns how many cells there are: for each route that is counted, eight combinations of method and status.
func (o *HTTPSets) cells() (n int) {
	if o == nil {
		return 0
	}
	for _, s := range o.Sets {
		n += 8 * distinct(s.Counts)
	}
	if n == 0 {
		return 0
	}
	return min(max(n, 64), httpCells)
}

func distinct(list []uint8) int {
	return len(slices.Compact(slices.Sorted(slices.Values(list))))
}

// size sets the sizes of the maps. What is not used has one element.
func (o *HTTPSets) size(maps map[string]*ebpf.MapSpec) {
	if o == nil {
		return
	}
	routes := 0
	for _, s := range o.Sets {
		routes += len(s.Routes)
	}
	maps[gen.HTTPMapHttpSets].MaxEntries = HTTPFirstSet + uint32(len(o.Sets))
	maps[gen.HTTPMapHttpSteps].MaxEntries = uint32(max(1, o.steps()))
	maps[gen.HTTPMapHttpRoutes].MaxEntries = uint32(max(1, routes))
	if o.steps() > 0 {
		maps[gen.HTTPMapHttpEventCounts].MaxEntries = HTTPSlots
		maps[gen.HTTPMapHttpEventTimes].MaxEntries = 2 * uint32(o.rules())
	}
	cells := uint32(max(1, o.cells()))
	maps[gen.HTTPMapHttpCells].MaxEntries = cells
	maps[gen.HTTPMapHttpFreeCells].MaxEntries = cells
	maps[gen.HTTPMapHttpCellCounts].MaxEntries = cells
	maps[gen.HTTPMapHttpExpected].MaxEntries = httpEndpoints
}

// fill writes the sets into the maps.
func (o *HTTPSets) fill(maps map[string]*ebpf.Map) error {
	if o == nil {
		return nil
	}
	step, rule := uint32(0), uint32(0)
	for i, s := range o.Sets {
		number := HTTPFirstSet + uint32(i)
		if len(s.Steps) > HTTPSteps || len(s.Routes) > HTTPRoutes {
			return fmt.Errorf("set %d has %d steps and %d routes", i, len(s.Steps), len(s.Routes))
		}
		set := gen.HTTPHttpSet{
			First: step, Steps: uint32(len(s.Steps)), Routes: uint32(len(s.Routes)), Rule: rule, Counted: boolean(s.Counts != nil),
		}
		rule += uint32(s.rules())
		copy(set.Counts[:], s.Counts)
		if err := maps[gen.HTTPMapHttpSets].Put(number, &set); err != nil {
			return fmt.Errorf("store set %d: %w", i, err)
		}
		for k := range s.Steps {
			if err := maps[gen.HTTPMapHttpSteps].Put(step, &s.Steps[k]); err != nil {
				return fmt.Errorf("store a step of set %d: %w", i, err)
			}
			step++
		}
		for k, r := range s.Routes {
			key := gen.HTTPHttpRoute{Bits: httpRoutesBits + 8*uint32(len(r)), Set: number}
			copy(key.Path[:], r)
			if err := maps[gen.HTTPMapHttpRoutes].Put(&key, uint32(k+1)); err != nil {
				return fmt.Errorf("store the route %s: %w", r, err)
			}
		}
	}
	var errs []error
	for e, set := range o.Expected {
		errs = append(errs, maps[gen.HTTPMapHttpExpected].Put(&e, set))
	}
	return errors.Join(errs...)
}

// Expect tells to which set the next services at an endpoint belong; HTTPUnbound takes it back.
func (h *HTTP) Expect(e HTTPEndpoint, set uint32) error {
	m := h.collection.Maps[gen.HTTPMapHttpExpected]
	var err error
	if set == HTTPUnbound {
		if err = m.Delete(&e); errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
	} else {
		err = m.Put(&e, set)
	}
	if err != nil {
		return fmt.Errorf("expect a service on port %d: %w", e.Port, err)
	}
	return nil
}

// Bind gives a slot the objectives of its service. Bound returns the set it has. Events that the slot had while unbound are
// in HTTPEvents.Unbound.
func (h *HTTP) Bind(slot int, set uint32) error {
	number := [4]byte((*[4]byte)(unsafe.Pointer(&set))[:])
	_, err := h.services.WriteAt(number[:], setOffset(slot))
	if err != nil {
		return fmt.Errorf("bind slot %d: %w", slot, err)
	}
	return nil
}

// Bound returns the set of a slot.
func (h *HTTP) Bound(slot int) (set uint32, err error) {
	err = readAt(h.services, int(setOffset(slot)), &set)
	return set, err
}

func setOffset(slot int) int64 {
	var s HTTPService
	return int64(slot)*int64(unsafe.Sizeof(s)) + int64(unsafe.Offsetof(s.Set))
}

// Events copies the counts of a slot's objectives, 1 KiB, into e. There are none without objectives.
func (h *HTTP) Events(slot int, e *HTTPEvents) error { return readStruct(h.events, slot, e) }

// EventTimes copies the durations of the events with an outcome, HTTPGood or HTTPBad, of an objective into d: 2 KiB. rule is its
// number among those of all sets. They are of all slots of its service, and are never cleared.
func (h *HTTP) EventTimes(rule, outcome int, d *HTTPHist) error {
	return readStruct(h.times, 2*rule+outcome, d)
}

// clearEvents sets the counts of a slot to zero. Nobody may count in it meanwhile.
func (h *HTTP) clearEvents(slot int) error {
	m := h.collection.Maps[gen.HTTPMapHttpEventCounts]
	if m.MaxEntries() < HTTPSlots {
		return nil
	}
	if err := m.Put(uint32(slot), &HTTPEvents{}); err != nil {
		return fmt.Errorf("clear the events of slot %d: %w", slot, err)
	}
	return nil
}

// HTTPCell is what the kernel counted of one route, method and status of a slot: see struct http_cell in http.bpf.c.
type HTTPCell = gen.HTTPHttpCell

// HTTPCellKey tells cells apart.
type HTTPCellKey = gen.HTTPHttpCellKey

// Cells returns the number of cells, which is fixed; 0 if no service is counted by route.
func (h *HTTP) Cells() int { return h.cellCount }

// CellKey returns what a cell counts; ok says whether it is in use. It copies 16 bytes.
func (h *HTTP) CellKey(cell int) (key HTTPCellKey, ok bool) {
	var head struct {
		Key  HTTPCellKey
		Used uint32
	}
	err := readAt(h.cells, cell*int(unsafe.Sizeof(HTTPCell{})), &head)
	return head.Key, err == nil && head.Used != 0
}

// Cell copies the counts of a cell, 2 KiB, into c.
func (h *HTTP) Cell(cell int, c *HTTPCell) error { return readStruct(h.cells, cell, c) }

// FreeCell clears a cell of a slot that was retired, for another to use.
func (h *HTTP) FreeCell(cell int, key HTTPCellKey) error {
	maps := h.collection.Maps
	if err := maps[gen.HTTPMapHttpCells].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("free cell %d: %w", cell, err)
	}
	if err := maps[gen.HTTPMapHttpCellCounts].Put(uint32(cell), &HTTPCell{}); err != nil {
		return fmt.Errorf("free cell %d: %w", cell, err)
	}
	return maps[gen.HTTPMapHttpFreeCells].Put(nil, uint32(cell))
}
