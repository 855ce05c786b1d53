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

type topFlags struct {
	config   string
	interval period
}

func topCommand() command {
	return command{
		name: "top", summary: "show objectives, services and who waits for what, live; worst budget first",
		about: `Shows objectives, services, units and containers with what they wait for in the kernel, and what slid cannot see,
again each second until q or Ctrl-C. Where the output is no terminal it prints one text after the other.

A running agent (slid run) is asked: its figures are those of its last interval, and it knows what is left of the
budgets. Without one, and with --config, slid measures by itself.`,
		setup: func(flags *flag.FlagSet) action {
			f := &topFlags{interval: period(time.Second)}
			flags.Var(&f.interval, "interval", "show anew after this `TIME` (default 1s)")
			flags.StringVar(&f.config, "config", "", "read `FILE` (default "+config.DefaultPath+", if it exists)")
			return f.run
		},
	}
}

func (f *topFlags) run(ctx context.Context, t terminal, _ []string) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if f.config == "" {
		if r := askAgentOrSay(ctx, t, func(*text.Report) bool { return true }); r != nil {
			return f.follow(ctx, t, r)
		}
	}
	c, unread, err := lenientConfig(f.config)
	if err != nil {
		return err
	}
	if unread {
		fmt.Fprintf(t.stderr, "slid: not allowed to read %s: measuring with defaults\n", config.DefaultPath)
	}
	return f.measure(ctx, t, c)
}

// follow shows what the running agent says, from its first report on.
func (f *topFlags) follow(ctx context.Context, t terminal, r *text.Report) error {
	s, ctx, err := openScreen(ctx, t)
	if err != nil {
		return err
	}
	defer s.close()
	note := "asked the running agent"
	for {
		if err := s.show(r, note); err != nil || !f.wait(ctx) {
			return err
		}
		next, err := askAgent(ctx)
		switch {
		case ended(ctx):
			return nil
		case err != nil:
			note = "the figures are old: " + err.Error()
		default:
			r, note = next, "asked the running agent"
		}
	}
}

// measure opens everything and shows each window of an interval.
func (f *topFlags) measure(ctx context.Context, t terminal, c config.Config) error {
	log := t.quiet()
	limitMemory(0)
	show := newProgress(t.stderr)
	show.print("measuring: starting")
	parts := open(ctx, c, log, func() {})
	var p *pipeline.Pipeline
	keeper, destination := parts.keeper(func() []verdict.Verdict { return p.Verdicts() })
	options := parts.options(time.Duration(f.interval), log)
	options.Destinations = []pipeline.Destination{destination}
	p = pipeline.New(options)
	steady := context.WithoutCancel(ctx) // a signal ends the measuring, not what comes after
	p.Start(steady)
	err := p.Tick(steady, time.Now())
	show.erase()
	if err == nil {
		err = f.loop(ctx, t, func() (*text.Report, error) {
			err := p.Tick(steady, time.Now())
			return keeper.Report(), err
		})
	}
	last, cancel := context.WithTimeout(steady, time.Second)
	defer cancel()
	return errors.Join(err, p.Shutdown(last), parts.close())
}

// loop shows a report after each interval until ctx ends.
func (f *topFlags) loop(ctx context.Context, t terminal, next func() (*text.Report, error)) error {
	s, ctx, err := openScreen(ctx, t)
	if err != nil {
		return err
	}
	defer s.close()
	for f.wait(ctx) {
		r, err := next()
		if err != nil {
			return err
		}
		if err := s.show(r, "measured by this command"); err != nil {
			return err
		}
	}
	return nil
}

// wait waits for an interval and says whether to go on.
func (f *topFlags) wait(ctx context.Context) bool {
	timer := time.NewTimer(time.Duration(f.interval))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
