package slo

import (
	"fmt"
	"strconv"
	"strings"
)

// The sources of events, as sli.source of their counters and as OpenSLO's spec.source of ours name them.
const (
	TrafficSource  = "traffic"
	ScrapeSource   = "scrape"
	UnitSource     = "unit"
	ResourceSource = "resource"
)

// Sources returns the names of all sources.
func Sources() []string { return []string{TrafficSource, ScrapeSource, UnitSource, ResourceSource} }

// Source returns the name of what counts the events of the indicator.
func (i Indicator) Source() string {
	switch {
	case i.Scrape != nil:
		return ScrapeSource
	case i.Unit != nil:
		return UnitSource
	case i.Resource != nil:
		return ResourceSource
	}
	return TrafficSource
}

// A Scrape takes events from counters that a service shows by itself, in the format of Prometheus.
type Scrape struct {
	URL   string   // of its metrics: http or https
	Total Selector // the counters of all events
	// One of the two: the counters of the good events, or of the bad ones.
	Good, Bad Selector
}

// Part returns the counters of the good events or of the bad ones, and which.
func (s Scrape) Part() (part Selector, bad bool) {
	if s.Good.Metric == "" {
		return s.Bad, true
	}
	return s.Good, false
}

// String writes the scrape on one line; equal texts mean equal scrapes.
func (s Scrape) String() string {
	part, bad := s.Part()
	word := "good"
	if bad {
		word = "bad"
	}
	return fmt.Sprintf("%s: %s %s of %s", s.URL, word, part, s.Total)
}

// fault says what is wrong with the parts of the scrape, and what to do about it; nothing if nothing is.
func (s Scrape) fault() (what, remedy string) {
	part, bad := s.Part()
	word := "good"
	if bad {
		word = "bad"
	}
	switch {
	case part.String() == s.Total.String():
		return "every event that counts is " + word + ": " + word + " and total are the same",
			`add what tells them apart, e.g. {code!~"5.."}`
	case part.Metric == s.Total.Metric && !part.within(s.Total):
		return fmt.Sprintf("%s events are not among the total: %s has not all conditions of %s", word, part, s.Total),
			"write the matchers of total in " + word + ", too"
	}
	return "", ""
}

// Running is a systemd unit, a container or a program that shall run: a tick is good if it does. Every field that is set must agree;
// at least one is.
type Running struct {
	Unit      string // its systemd unit, e.g. nginx.service
	Container string // the id or the start of the id of its container
	Command   string // its program's name as in /proc/PID/comm
}

// String says which unit it is, in words.
func (u Running) String() string {
	var parts []string
	for _, p := range [...]struct{ name, value string }{{"unit", u.Unit}, {"container", u.Container}, {"command", u.Command}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	return strings.Join(parts, ", ")
}

// A Figure is a share of a resource, 0 to 1, of the host or of a unit.
type Figure string

// The figures.
const (
	CPU                Figure = "cpu"        // processor time that is used, of what there is; of a unit, of its limit or the host's
	Memory             Figure = "memory"     // memory that is not to be had any more, of all; of a unit, its working set of its limit
	Filesystem         Figure = "filesystem" // space that is used, of what is for everybody, as df shows it
	Inodes             Figure = "inodes"     // likewise of inodes
	PressureCPUSome    Figure = "pressure.cpu.some"
	PressureCPUFull    Figure = "pressure.cpu.full" // of units
	PressureMemorySome Figure = "pressure.memory.some"
	PressureMemoryFull Figure = "pressure.memory.full"
	PressureIOSome     Figure = "pressure.io.some"
	PressureIOFull     Figure = "pressure.io.full"
)

// Figures returns the names of all figures.
func Figures() []string {
	return []string{
		string(CPU), string(Memory), string(Filesystem), string(Inodes), string(PressureCPUSome), string(PressureCPUFull),
		string(PressureMemorySome), string(PressureMemoryFull), string(PressureIOSome), string(PressureIOFull),
	}
}

// OfHost tells whether the whole host has the figure.
func (f Figure) OfHost() bool { return f != PressureCPUFull }

// OfUnits tells whether units and containers have the figure.
func (f Figure) OfUnits() bool { return !f.Mounted() }

// Mounted tells whether the figure is that of a mount point.
func (f Figure) Mounted() bool { return f == Filesystem || f == Inodes }

// A Resource compares a figure with a limit at each tick: it is good if the comparison holds.
type Resource struct {
	Figure Figure
	Unit   string // whose it is: a systemd unit; empty: the host's
	Mount  string // the mount point of a filesystem; empty for other figures
	Bound  Bound  // holds when it is good
}

// String writes the resource on one line; equal texts mean equal resources.
func (r Resource) String() string {
	text := string(r.Figure)
	switch {
	case r.Mount != "":
		text += " " + r.Mount
	case r.Unit != "":
		text += " of " + r.Unit
	}
	return text + " " + r.Bound.String()
}

// A Bound compares a share with a limit.
type Bound struct {
	Op    Op
	Limit float64 // 0 to 1
}

// Holds tells whether a share is as it should be.
func (b Bound) Holds(share float64) bool {
	return b.Op.holds(share, b.Limit)
}

// Not holds where the bound does not.
func (b Bound) Not() Bound {
	b.Op = map[Op]Op{LT: GTE, LTE: GT, GT: LTE, GTE: LT}[b.Op]
	return b
}

// String writes the bound so that it is read as the same, e.g. <= 90%.
func (b Bound) String() string {
	percent := strconv.FormatFloat(100*b.Limit, 'g', 12, 64)
	if again, err := strconv.ParseFloat(percent+"e-2", 64); err == nil && again == b.Limit {
		return b.Op.Symbol() + " " + percent + "%"
	}
	return b.Op.Symbol() + " " + strconv.FormatFloat(b.Limit, 'g', -1, 64)
}

// ParseBound reads a bound: <, <=, > or >= and a share such as 90% or 0.9. It says what is wrong with the text and what to
// do about it if it is none.
func ParseBound(text string) (b Bound, what, remedy string) {
	const example = `write e.g. "<= 90%"`
	rest := strings.TrimSpace(text)
	number := strings.TrimLeft(rest, "<>=!")
	symbol := rest[:len(rest)-len(number)]
	for _, op := range [...]Op{LTE, LT, GTE, GT} {
		if op.Symbol() == symbol {
			b.Op = op
		}
	}
	if b.Op == "" {
		return b, strconv.Quote(text) + " compares nothing", example
	}
	number, percent := strings.CutSuffix(strings.TrimSpace(number), "%")
	number = strings.TrimSpace(number)
	if percent {
		number += "e-2" // exact, where a division by 100 is not
	}
	limit, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return b, strconv.Quote(text) + " has no share to compare with", example
	}
	b.Limit = limit
	what, remedy = b.Fault()
	return b, what, remedy
}

// Fault says why the bound tells nothing, and what to do about it; nothing if it tells something.
func (b Bound) Fault() (what, remedy string) {
	const remedyRange = "shares are from 0 to 1, that is 0% to 100%"
	switch {
	case !(b.Limit >= 0 && b.Limit <= 1):
		return strconv.FormatFloat(b.Limit, 'g', 12, 64) + " is no share", remedyRange
	case b.Op == LTE && b.Limit == 1, b.Op == GTE && b.Limit == 0:
		return "every share is " + b.String(), "use a limit that can be missed"
	case b.Op == LT && b.Limit == 0, b.Op == GT && b.Limit == 1:
		return "no share is " + b.String(), "use a limit that can be met"
	}
	return "", ""
}
