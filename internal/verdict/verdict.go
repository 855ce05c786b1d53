// Package verdict is the vocabulary for what slid can and cannot see: one Verdict per collector source and kernel
// probe. Collectors give them, `slid doctor` and `slid sli` print them, and the pipeline exports them.
package verdict

import (
	"cmp"
	"errors"
	"slices"
	"strings"
)

// State says how much of its promise a source keeps.
type State string

// The states of a source.
const (
	Active      State = "active"      // everything it promises
	Degraded    State = "degraded"    // less than it promises, or by a fallback; Reason says what is missing
	Unavailable State = "unavailable" // nothing; Reason says why
)

// A Verdict is the state of one collector source or kernel probe.
type Verdict struct {
	Name   string `json:"name"`             // collector or probe, e.g. host/disk, latency/runqueue
	State  State  `json:"state"`            // active, degraded, unavailable
	Hook   string `json:"hook,omitempty"`   // what it reads or attaches to, e.g. tp_btf/sched_switch
	Reason string `json:"reason,omitempty"` // why it is not active, in words a user can act on
	// Missing names what would help: a capability (CAP_BPF), a kernel option (CONFIG_PSI=y) or a mount.
	Missing string `json:"missing,omitempty"`
	// Absent says of an unavailable source that the machine has no such thing: nothing is wrong, nothing would help.
	Absent bool `json:"absent,omitempty"`
	// Off says of an unavailable source that nobody asked for it: the configuration could.
	Off bool `json:"off,omitempty"`
}

// An UnavailableError says that a source cannot work on this machine, why, and what would help. A collector's
// constructor returns it instead of a plain error when nothing is wrong with slid itself. Without a cause and without
// anything that would help, the machine simply has no such thing.
type UnavailableError struct {
	Reason  string
	Missing string
	Err     error // the cause; may be nil
}

// Error returns the reason, what is missing, and the cause.
func (e *UnavailableError) Error() string {
	var b strings.Builder
	b.WriteString(e.Reason)
	if e.Missing != "" {
		b.WriteString(" (needs " + e.Missing + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// FromError returns the verdict on a source whose construction failed with err.
func FromError(name string, err error) Verdict {
	v := Verdict{Name: name, State: Unavailable, Reason: err.Error()}
	if u, ok := errors.AsType[*UnavailableError](err); ok {
		v.Reason, v.Missing = u.Reason, u.Missing
		v.Absent = u.Err == nil && u.Missing == ""
		if u.Err != nil {
			v.Reason += ": " + u.Err.Error()
		}
	}
	return v
}

// Sort orders verdicts by name.
func Sort(list []Verdict) {
	slices.SortStableFunc(list, func(a, b Verdict) int { return cmp.Compare(a.Name, b.Name) })
}
