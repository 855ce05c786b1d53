// Package unit tells at each tick whether what shall run does: systemd units and containers by their control groups,
// programs by /proc.
//
// A unit runs if its control group has a process (cgroup.events, cgroup-v2.rst). That needs no bus and no privilege, and
// is what users have of it: one that failed, was stopped, or waits to be started anew has none. What a control group does
// not tell: whether a unit that still starts, or one that stops, serves already; whether it was stopped on purpose; and
// oneshot units that count as active without a process (RemainAfterExit=) have none. docs/adr/0017 weighs that against
// asking systemd.
//
// A tick reads two kept-open files for each unit and one for each program, 4 to 7 us each, and allocates nothing. What does not
// run is looked for at each tick: a walk of the control groups, or of /proc.
package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/sli"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

// Name is the name of the collector in verdicts; an indicator's own begins with it.
const Name = "service/unit"

// SeriesPerIndicator is how many series an indicator has.
const SeriesPerIndicator = sli.Fixed + lossReasons + 1

// Why it cannot be told whether a unit runs.
const (
	unreadable  = iota // the control groups or /proc cannot be read
	unknown            // nothing of the name was ever seen, and systemd has no such unit
	lossReasons        // how many there are
)

// Reasons returns the values of loss.reason, in the order of their registers.
func Reasons() []string { return []string{"unreadable", "unknown"} }

// Units judges the indicators of objectives whose source is unit: at each tick, one event is good if the unit, container or
// program runs, else bad. What cannot be told is lost: where the control groups are hidden (unreadable), and a systemd unit
// that neither ran since slid started nor has a unit file (unknown): a name that is mistyped shall not burn a budget.
// A restart is that the oldest process is another one than before. It implements collector.Collector.
type Units struct {
	env   collector.Env
	whole bool // the control groups are those of the whole host
	list  []*watched

	scanned bool     // in this tick
	groups  []string // all control groups, as of this tick, if scanned
}

// watched is an indicator at work.
type watched struct {
	slo.Running
	name      string // of the indicator
	registers *sli.Registers
	restarts  *metric.Int
	group     group   // for units and containers
	main      process // the oldest of the unit, or the program's
	seen      bool    // it ran once
	problem   problem // why it cannot be told, as of the last tick
}

// problem is why it cannot be told whether a unit runs; the zero value says that it can.
type problem struct {
	reason  int
	what    string // empty: none
	missing string // what would help
}

// NewUnits takes the indicators of a list whose source is unit; without one it is off. It needs the host's cgroup2 file system,
// and for programs of others /proc without hidepid; where that is missing, the indicator's own verdict says so.
func NewUnits(env collector.Env, list []slo.Indicator) (collector.Collector, error) {
	now := time.Now()
	u := &Units{env: env, whole: env.Cgroup != "" && cgroup.IsRoot(env.Cgroup)}
	families := sli.Declare(env.Metrics, sli.Declaration{
		Source: slo.UnitSource, From: "cgroup.events, /proc/[pid]/stat", Reasons: Reasons(),
		Event:   "Ticks, by whether the unit, container or program ran.",
		Lost:    "Ticks at which it could not be told whether it ran: its control group is hidden (unreadable), or there is no such unit (unknown).",
		Covered: "1 if it could be told at the last tick whether it ran, else 0.",
	})
	restarts := env.Metrics.Int(metric.Desc{
		Name: "sli.unit.restarts", Unit: "{restart}", Kind: metric.Counter, Source: "/proc/[pid]/stat",
		Description: "Times that the oldest process of the unit, container or program was another one than at the tick before.",
		Attributes:  []attribute.Key{"sli.name"},
	})
	for _, i := range list {
		if i.Source() != slo.UnitSource {
			continue
		}
		w := &watched{Running: *i.Unit, name: i.Name, registers: families.Of(i.Name, i.Select.Service, env.Host, now)}
		e := env.Metrics.Entity(cgroup.Service{Name: i.Select.Service}.Resource(env.Host), now)
		w.restarts = restarts.With(e, attribute.String("sli.name", i.Name))
		u.list = append(u.list, w)
	}
	if len(u.list) == 0 {
		return nil, &verdict.UnavailableError{Reason: "no objective is about a unit"}
	}
	return u, nil
}

// Collect judges every unit. It allocates only when one starts, stops or does not run.
func (u *Units) Collect(_ context.Context, now time.Time) error {
	u.scanned, u.groups = false, u.groups[:0]
	for _, w := range u.list {
		look := u.unit
		if w.Command != "" {
			look = u.program
		}
		runs, restarted, why := look(w)
		w.problem = why
		w.seen = w.seen || runs
		if restarted {
			w.restarts.Add(1)
		}
		if w.problem.what != "" {
			w.registers.Lose(w.problem.reason)
			continue
		}
		w.registers.Add(runs, now)
	}
	return nil
}

// unit tells whether a unit or a container has a process.
func (u *Units) unit(w *watched) (runs, restarted bool, p problem) {
	if u.env.Cgroup == "" {
		return false, false, problem{unreadable, "there is no cgroup2 file system", "a mounted cgroup2 file system"}
	}
	populated, err := w.group.populated()
	if errors.Is(err, fs.ErrNotExist) {
		if dir := u.find(w.Running); dir != "" {
			populated, err = w.group.follow(filepath.Join(u.env.Cgroup, dir))
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, false, u.absent(w)
	case err != nil:
		return false, false, problem{unreadable, err.Error(), "the host's cgroup2 file system, readable for the user slid runs as"}
	case !populated:
		return false, false, problem{}
	}
	if w.main.alive("") {
		return true, false, problem{}
	}
	return true, w.main.replace(oldest(u.env.Proc, w.group.processes(), "")), problem{}
}

// find returns the path of the unit's control group, or nothing.
func (u *Units) find(r slo.Running) string {
	if !u.scanned {
		u.scanned = true
		cgroup.Walk(u.env.Cgroup, func(group string) bool {
			if cgroup.Named(group) || filepath.Ext(group) != "" {
				u.groups = append(u.groups, group)
			}
			return true
		})
	}
	for _, g := range u.groups {
		if r.Unit != "" && cgroup.UnitOf(g) != r.Unit {
			continue
		}
		if r.Container != "" && !strings.HasPrefix(cgroup.Describe(g).Container, r.Container) {
			continue
		}
		return g
	}
	return ""
}

// absent says what it means that a unit has no control group: that it does not run, unless one cannot know.
func (u *Units) absent(w *watched) problem {
	switch {
	case !u.whole:
		return problem{unreadable, "not all control groups of the host are seen here, and none of this name", "the host's cgroup2 file system"}
	case w.seen || w.Unit == "" || exists(u.env.Root, w.Unit):
		return problem{}
	}
	return problem{unknown, w.Unit + " has neither a control group nor a unit file", "the name as systemctl list-units shows it"}
}

// exists tells whether systemd has a file for the unit (systemd.unit(5), unit file load path).
func exists(root, unit string) bool {
	names := []string{unit}
	if prefix, rest, ok := strings.Cut(unit, "@"); ok {
		names = append(names, prefix+"@"+filepath.Ext(rest)) // an instance is of its template
	}
	for _, folder := range []string{
		"etc/systemd/system", "run/systemd/system", "run/systemd/generator", "run/systemd/generator.late", "run/systemd/transient",
		"usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system.control",
	} {
		for _, name := range names {
			if _, err := os.Lstat(filepath.Join(root, folder, name)); err == nil {
				return true
			}
		}
	}
	return false
}

// program tells whether a process of the name runs, of the unit or container if one is given.
func (u *Units) program(w *watched) (runs, restarted bool, p problem) {
	if w.main.alive(w.Command) {
		return true, false, problem{}
	}
	found, err := findProgram(u.env.Proc, w.Running)
	if err != nil {
		return false, false, problem{unreadable, err.Error(), "CAP_SYS_PTRACE, or /proc mounted without hidepid"}
	}
	main := oldest(u.env.Proc, found, w.Command)
	if main.pid == 0 {
		return false, false, problem{}
	}
	return true, w.main.replace(main), problem{}
}

// Verdicts has a row for all units, and one for each that cannot be told.
func (u *Units) Verdicts() []verdict.Verdict {
	all := verdict.Verdict{Name: Name, State: verdict.Active, Hook: fmt.Sprintf("cgroup.events and /proc of %d", len(u.list))}
	list := []verdict.Verdict{all}
	for _, w := range u.list {
		if w.problem.what != "" {
			list = append(list, verdict.Verdict{
				Name: Name + "/" + w.name, State: verdict.Unavailable, Hook: w.String(), Reason: w.problem.what, Missing: w.problem.missing,
			})
		}
	}
	return list
}

// Close gives the files back.
func (u *Units) Close() error {
	var errs []error
	for _, w := range u.list {
		errs = append(errs, w.group.close(), w.main.close())
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}
