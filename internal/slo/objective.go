package slo

import "time"

// A Method is how a budget is counted (OpenSLO's budgetingMethod).
type Method int

// The methods of OpenSLO v1.
const (
	Occurrences     Method = iota // the share of good events
	Timeslices                    // the share of time slices whose share of good events reaches the slice target
	RatioTimeslices               // the mean of the slices' shares of good events
)

// MethodNames returns the names of the methods in OpenSLO, in the order of their constants.
func MethodNames() []string { return []string{"Occurrences", "Timeslices", "RatioTimeslices"} }

// String returns the method's name in OpenSLO.
func (m Method) String() string { return MethodNames()[m] }

// A Selection says what an indicator is about: a service, and of traffic which of its requests.
type Selection struct {
	Service string    // the service.name of its metrics
	Route   string    // the start of their paths; empty: all
	Methods MethodSet // AllMethods, or some
}

// Condition returns the selection as a condition on the events of its service.
func (s Selection) Condition() Condition {
	c := anyEvent()
	c.Methods = s.Methods
	if s.Route != "" {
		c.Routes = routesBelow(s.Route)
	}
	return Condition{[]Clause{c}}
}

// An Indicator says which events count and which of them are good (an SLI). At most one of Scrape, Unit and Resource is set
// and says it all; without, the events are requests that the kernel counts, and Good and Exclude say it.
type Indicator struct {
	Name     string // the sli.name of its counters
	Select   Selection
	Scrape   *Scrape
	Unit     *Running
	Resource *Resource

	Good Condition
	// Exclude are events that do not count, such as those of a prober. They are counted as excluded, so that nobody can
	// make a budget look better unseen. Empty: none.
	Exclude Condition
}

// NarrowingFault says why the good condition does not tell good events from bad ones, and what to do about it; nothing
// if it does.
func (i Indicator) NarrowingFault() (what, remedy string) {
	switch i.Source() {
	case ScrapeSource:
		return i.Scrape.fault()
	case UnitSource:
		return "", ""
	case ResourceSource:
		return i.Resource.Bound.Fault()
	}
	total := i.Select.Condition()
	if !i.Exclude.Empty() {
		total = total.And(i.Exclude.Not())
	}
	const example = "write e.g. status < 500 && duration <= 300ms"
	switch {
	case total.Empty():
		return "every request is excluded", "exclude fewer"
	case i.Good.Empty(), total.And(i.Good).Empty():
		return "no request that counts can be good", example
	case total.And(i.Good.Not()).Empty():
		return "every request that counts is good: the condition does not narrow its total", example
	}
	return "", ""
}

// KernelFault says why the good condition on requests is refused; nothing if it is not. An objective has one set of statuses, one of
// methods, one of routes and one threshold, so that a page at night can name the threshold that was missed.
func (i Indicator) KernelFault() (what, remedy string) {
	switch {
	case len(i.Good.Clauses) > 1:
		return "good events are of more than one kind: " + i.Good.String(),
			"make it one range of statuses and one threshold joined by &&, or two objectives"
	case len(i.Good.Clauses) == 1 && i.Good.Clauses[0].Above != noFloor:
		return "a request would have to be slow to be good", "write duration <= for the longest that is good"
	}
	return "", ""
}

// An Objective is one promise.
type Objective struct {
	Name    string // unique, e.g. checkout-fast; the slo.name of its metrics
	Service string // whose promise it is
	// Description is what the owner wrote; may be empty.
	Description string
	Members     []Member // what is promised; more than one make a composite
	Target      float64  // of the good ones, above 0 and below 1
	Window      Window
	Method      Method
	Slice       time.Duration // length of a time slice; 0 with Occurrences
	SliceTarget float64       // Timeslices: the share of good events that makes a slice good
	Alerts      []Alert       // what burns too fast; empty: StandardAlerts
}

// A Member is an indicator of an objective and its weight in a composite: the composite burns by the sum of its members'
// burn rates, each times its weight. With Timeslices a slice that is bad for one member is bad, and weights are 1.
type Member struct {
	Indicator Indicator
	Target    float64 // its own
	Weight    float64 // positive
}

// Composite tells whether the objective has several members.
func (o Objective) Composite() bool { return len(o.Members) > 1 }

// Allowed returns beta, the share of events (or slices) that may be bad.
func (o Objective) Allowed() float64 { return 1 - o.Target }

// Period returns P, of a calendar window its nominal length.
func (o Objective) Period() time.Duration { return o.Window.Span.Duration() }

// Widened returns a window as wide as two slices, if it is shorter: one slice has ended inside it at any time.
func (o Objective) Widened(window time.Duration) time.Duration { return max(window, 2*o.Slice) }
