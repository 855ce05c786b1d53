package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/slid-agent/slid/exporter/text"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/pipeline"
	"github.com/slid-agent/slid/internal/verdict"
)

// defaultFor is how long slid sli measures when nothing else is said: long enough for percentiles, short enough to wait.
const defaultFor = 10 * time.Second

// sliFlags are the flags of slid sli. A period of 0 was not given.
type sliFlags struct {
	config     string
	total      period
	watch      period
	formatting *text.Format
}

func sliCommand() command {
	return command{
		name: "sli", summary: "measure for a while and print the service levels of this host",
		about: `Measures for 10 seconds, prints the result and exits. Nothing needs to be configured, nothing is sent
anywhere. A running agent (slid run) is asked instead for what it measured in its last interval, and knows
what is left of the budgets; --for, --watch, --config and -o openmetrics measure anew. With --watch it prints a result again and again, until --for is over or Ctrl-C.
Ctrl-C ends a measurement early and prints what there is; a second one prints nothing.

Requests and kernel latencies need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (root has them). Without,
slid prints what it may see, and what it cannot see and why.`,
		setup: func(flags *flag.FlagSet) action {
			f := &sliFlags{}
			flags.Var(&f.total, "for", "measure for this `TIME` (default 10s; with --watch without end)")
			flags.Var(&f.watch, "watch", "print a result each time this `TIME` has passed")
			f.formatting = choose(flags, "o", "print as `FORMAT`", formats())
			flags.StringVar(&f.config, "config", "", "read `FILE` (default "+config.DefaultPath+", if it exists)")
			return f.run
		},
	}
}

func (f *sliFlags) run(ctx context.Context, t terminal, _ []string) error {
	if f.watch > 0 && f.total > 0 && f.watch > f.total {
		return &usageError{what: "--watch must not be longer than --for", command: "sli"}
	}
	c, unread, err := lenientConfig(f.config)
	if err != nil {
		return err
	}
	if unread {
		fmt.Fprintf(t.stderr, "slid: not allowed to read %s: measuring with defaults\n", config.DefaultPath)
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	if f.total == 0 && f.watch == 0 && f.config == "" && *f.formatting != text.OpenMetrics {
		if r := askAgentOrSay(ctx, t, hasWindow); r != nil {
			sayAsked(t)
			return r.Write(t.stdout, text.Options{Format: *f.formatting, Width: width(t.stdout), Color: colored(t.stdout)})
		}
	}
	return f.measure(ctx, t, c)
}

// hasWindow says whether a report is about any time.
func hasWindow(r *text.Report) bool { return r.WindowSeconds > 0 }

// measure opens everything, measures until the time is over or ctx ends, and closes everything.
func (f *sliFlags) measure(ctx context.Context, t terminal, c config.Config) error {
	log := t.quiet()
	show := newProgress(t.stderr)
	defer show.erase()
	show.print("measuring: starting")
	limitMemory(0)
	parts := open(ctx, c, log, func() {})

	m := &measurement{length: f.windowLength(), end: f.end(), show: show, counts: newCounts(parts.registry)}
	var verdicts func() []verdict.Verdict
	options := parts.options(m.length, log)
	options.Destinations = []pipeline.Destination{{Name: "stdout", Exporter: text.New(text.Options{
		Format: *f.formatting, Writer: t.stdout, Width: width(t.stdout), Color: colored(t.stdout),
		Verdicts: func() []verdict.Verdict { return verdicts() }, SLOs: parts.slos,
	})}}
	m.pipeline = pipeline.New(options)
	verdicts = m.pipeline.Verdicts

	steady := context.WithoutCancel(ctx) // a signal ends the measuring, not what comes after
	m.pipeline.Start(steady)
	err := m.run(ctx, steady)
	last, cancel := context.WithTimeout(steady, closing)
	defer cancel()
	return errors.Join(err, m.pipeline.Shutdown(last), parts.close())
}

// windowLength returns the time between two results.
func (f *sliFlags) windowLength() time.Duration {
	switch {
	case f.watch > 0:
		return time.Duration(f.watch)
	case f.total > 0:
		return time.Duration(f.total)
	}
	return defaultFor
}

// end returns how long to measure in all; 0 means until a signal comes.
func (f *sliFlags) end() time.Duration {
	if f.watch > 0 || f.total > 0 {
		return time.Duration(f.total)
	}
	return defaultFor
}

// measurement is slid sli at work: one window after the other.
type measurement struct {
	pipeline *pipeline.Pipeline
	length   time.Duration // of a window
	end      time.Duration // of all; 0: none
	show     *progress
	counts   *counts
}

// run takes the base and prints each window. When ctx ends, the window that is open is printed as it is.
func (m *measurement) run(ctx, steady context.Context) error {
	if ended(ctx) {
		return nil
	}
	start := time.Now()
	if err := m.pipeline.Tick(steady, start); err != nil {
		return err
	}
	for until := m.length; ; until += m.length {
		if m.end > 0 {
			until = min(until, m.end)
		}
		m.wait(ctx, start.Add(until))
		m.show.erase()
		if err := m.pipeline.Tick(steady, time.Now()); err != nil {
			return err
		}
		if ended(ctx) || until == m.end {
			return nil
		}
	}
}

func ended(ctx context.Context) bool { return ctx.Err() != nil }

// wait waits until the deadline or the end of ctx and shows each second what was seen so far.
func (m *measurement) wait(ctx context.Context, deadline time.Time) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	end := time.NewTimer(time.Until(deadline))
	defer end.Stop()
	for {
		if m.show.visible() {
			m.show.print(m.line(ctx, time.Until(deadline)))
		}
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-second.C:
		}
	}
}

// line says how long the window lasts still and what was seen. Somebody watches, so the collectors may work more often
// than the result needs.
func (m *measurement) line(ctx context.Context, left time.Duration) string {
	m.pipeline.Collect(ctx, time.Now())
	return fmt.Sprintf("measuring: %.0fs left, %s", left.Seconds(), m.counts.take())
}
