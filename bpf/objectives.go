package bpf

import (
	"errors"
	"fmt"
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
	httpEndpoints  = 1024 // whose service is known beforehand
	httpRoutesBits = 32   // of the key of a route that are not its path
)

// Numbers of sets of objectives. Those of HTTPObjectives begin with HTTPFirstSet.
const (
	HTTPUnbound  uint32 = iota // it is not known yet which service a slot belongs to
	HTTPNoSet                  // a service without objectives
	HTTPFirstSet               // HTTPObjectives.Sets[0]
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

// A HTTPSet has the objectives of one service.
type HTTPSet struct {
	// Steps decide them, those of one objective in a row and at most HTTPSteps together.
	Steps []HTTPStep
	// Routes are starts of paths, at most 64 bytes each; the longest that fits is the route of a request. Routes[i] is
	// bit i+1 of HTTPStep.Routes; bit 0 stands for paths that none fits.
	Routes []string
}

// HTTPObjectives are the objectives of all services. They are constant for the life of a probe.
type HTTPObjectives struct {
	Sets []HTTPSet
	// Expected are the endpoints whose services are known beforehand, and their sets: their events count from the first
	// one on.
	Expected map[HTTPEndpoint]uint32
}

func (o *HTTPObjectives) enabled() uint32 {
	if o == nil {
		return 0
	}
	return 1
}

// size sets the sizes of the maps. What is not used has one element.
func (o *HTTPObjectives) size(maps map[string]*ebpf.MapSpec) {
	if o == nil {
		return
	}
	var steps, routes int
	for _, s := range o.Sets {
		steps += len(s.Steps)
		routes += len(s.Routes)
	}
	maps[gen.HTTPMapHttpSets].MaxEntries = HTTPFirstSet + uint32(len(o.Sets))
	maps[gen.HTTPMapHttpSteps].MaxEntries = uint32(max(1, steps))
	maps[gen.HTTPMapHttpRoutes].MaxEntries = uint32(max(1, routes))
	maps[gen.HTTPMapHttpEventCounts].MaxEntries = HTTPSlots
	maps[gen.HTTPMapHttpExpected].MaxEntries = httpEndpoints
}

// fill writes the objectives into the maps.
func (o *HTTPObjectives) fill(maps map[string]*ebpf.Map) error {
	if o == nil {
		return nil
	}
	step := uint32(0)
	for i, s := range o.Sets {
		number := HTTPFirstSet + uint32(i)
		if len(s.Steps) > HTTPSteps || len(s.Routes) > HTTPRoutes {
			return fmt.Errorf("set %d has %d steps and %d routes", i, len(s.Steps), len(s.Routes))
		}
		set := gen.HTTPHttpSet{First: step, Steps: uint32(len(s.Steps)), Routes: uint32(len(s.Routes))}
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
