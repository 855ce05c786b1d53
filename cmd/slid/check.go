package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/pipeline"
)

// A statusError ends slid with a status of its own. Without a cause there is nothing more to say.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %v", e.status, e.err) }
func (e *statusError) Unwrap() error { return e.err }

// The exit statuses of slid check, by state; the status of all is the gravest.
var checkStatus = map[string]int{"ok": 0, "burning": 1, "breached": 2, "unknown": exitUnknown}

const exitUnknown = 3

// gravest are the states from the worst on: what is certain comes before what is not.
var gravest = []string{"breached", "burning", "unknown", "ok"}

type checkFlags struct {
	config string
	name   string
	total  period
}

func checkCommand() command {
	return command{
		name: "check", summary: "tell by the exit status whether objectives are kept: a gate for deployments",
		about: `Prints a line for each objective and exits with
  0  all are ok
  1  one is burning: its budget goes too fast
  2  one is breached: its budget is used up
  3  one is unknown: nothing was measured, too much was not understood, or there are no objectives
Of several the gravest counts: breached, burning, unknown, ok. A wrong command line (2) and a wrong configuration
(78) print nothing on stdout.

A running agent (slid run) is asked, which knows the past. Without one, and with --for or --config, slid measures for a
while by itself and judges by that alone.`,
		setup: func(flags *flag.FlagSet) action {
			f := &checkFlags{}
			flags.StringVar(&f.name, "slo", "", "look at the objective `NAME` alone")
			flags.Var(&f.total, "for", "measure for this `TIME` instead of asking the agent (default 10s)")
			flags.StringVar(&f.config, "config", "", "read `FILE` (default "+config.DefaultPath+", if it exists)")
			return f.run
		},
	}
}

func (f *checkFlags) run(ctx context.Context, t terminal, _ []string) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if f.total == 0 && f.config == "" {
		if r := askAgentOrSay(ctx, t, func(*text.Report) bool { return true }); r != nil {
			sayAsked(t)
			return f.judge(t, r.SLOs)
		}
	}
	list, err := f.measure(ctx, t)
	if err != nil {
		return err
	}
	return f.judge(t, list)
}

// measure measures the objectives of the configuration. What goes wrong leaves them unknown.
func (f *checkFlags) measure(ctx context.Context, t terminal) ([]text.SLO, error) {
	c, err := loadConfig(f.config)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, o := range c.SLOs {
		names = append(names, o.Name)
	}
	if err := f.known(names); err != nil || len(names) == 0 {
		return nil, err
	}
	limitMemory(0)
	log := t.quiet()
	parts := open(ctx, c, log, func() {})
	p := pipeline.New(parts.options(pipeline.DefaultInterval, log))
	steady := context.WithoutCancel(ctx) // a signal ends the measuring, not what comes after
	p.Start(steady)
	p.Collect(steady, time.Now())
	show := newProgress(t.stderr)
	show.print("measuring")
	length := time.Duration(f.total)
	if length == 0 {
		length = defaultFor
	}
	select {
	case <-time.After(length):
	case <-ctx.Done():
	}
	show.erase()
	p.Collect(steady, time.Now())
	list := parts.slos()
	last, cancel := context.WithTimeout(steady, time.Second)
	defer cancel()
	if err := errors.Join(p.Shutdown(last), parts.close()); err != nil {
		fmt.Fprintln(t.stderr, "slid:", err)
	}
	return list, nil
}

// known says whether the objective that is asked for is one of those there are.
func (f *checkFlags) known(names []string) error {
	if f.name == "" || slices.Contains(names, f.name) {
		return nil
	}
	what := fmt.Sprintf("there is no objective %q", f.name)
	if len(names) > 0 {
		what += ": " + strings.TrimSuffix(config.Suggest(f.name, names, "there are"), "?")
	}
	return &usageError{what: what, command: "check"}
}

// judge prints the objectives and returns the status as an error.
func (f *checkFlags) judge(t terminal, list []text.SLO) error {
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	if err := f.known(names); err != nil {
		return err
	}
	found := map[string]bool{}
	for i := range list {
		if f.name != "" && list[i].Name != f.name {
			continue
		}
		found[list[i].State] = true
		if _, err := fmt.Fprintln(t.stdout, list[i].Line()); err != nil {
			return &statusError{exitUnknown, err}
		}
	}
	for _, state := range gravest {
		switch {
		case found[state] && state == "ok":
			return nil
		case found[state]:
			return &statusError{status: checkStatus[state]}
		}
	}
	return &statusError{exitUnknown, errors.New("there are no objectives")}
}
