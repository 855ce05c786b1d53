package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/exporter/otlp"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/pipeline"
)

// defaultEndpoint is where OTLP over gRPC goes if nobody says otherwise (OpenTelemetry protocol exporter, "Configuration
// Options").
const defaultEndpoint = "http://localhost:4317"

func runCommand() command {
	return command{
		name: "run", summary: "measure all the time and send the metrics by OTLP",
		about: `Runs until SIGTERM or SIGINT; then it exports a last time. SIGHUP reads the configuration again and
starts anew with it; if it is bad, the old one stays in force.

Without destinations in the configuration the metrics go to OTEL_EXPORTER_OTLP_ENDPOINT, and without
that to ` + defaultEndpoint + `. OTEL_RESOURCE_ATTRIBUTES are honoured.
A configuration that cannot be used ends slid with status 78.`,
		setup: func(flags *flag.FlagSet) action {
			path := flags.String("config", "", "read `FILE` (default "+config.DefaultPath+", if it exists)")
			handler := choose(flags, "log", "write the log as `FORMAT`", logFormats())
			return func(ctx context.Context, t terminal, _ []string) error {
				return run(ctx, *path, slog.New((*handler)(t.stderr)))
			}
		},
	}
}

type logHandler = func(*os.File) slog.Handler

func logFormats() []option[logHandler] {
	return []option[logHandler]{
		{"text", func(f *os.File) slog.Handler { return slog.NewTextHandler(f, nil) }},
		{"json", func(f *os.File) slog.Handler { return slog.NewJSONHandler(f, nil) }},
	}
}

// run serves one configuration after the other until a signal ends it.
func run(ctx context.Context, path string, log *slog.Logger) error {
	c, err := loadConfig(path)
	if err != nil {
		return err
	}
	// A log reader that went away, such as a restarted journal, must not end the service.
	signal.Ignore(unix.SIGPIPE)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)
	ctx, stop := untilSignal(ctx)
	defer stop()

	s := &server{path: path, log: log, notify: newNotifier(log), reload: reload}
	s.notify.ready()
	defer s.notify.stopping()
	for ctx.Err() == nil {
		if c, err = s.serve(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// server is the agent in service.
type server struct {
	path   string // of the configuration
	log    *slog.Logger
	notify *notifier
	reload <-chan os.Signal
}

// serve runs with a configuration until ctx ends or a good new one is read, which it returns. A change of configuration
// is a new start in the same process: nothing of the old one is left, and all series count from zero again.
func (s *server) serve(ctx context.Context, c config.Config) (config.Config, error) {
	limitMemory(max(len(c.Export), 1))
	parts := open(ctx, c, s.log, s.notify.progress)
	options := parts.options(c.Interval, s.log)
	options.Progress = s.notify.progress
	var err error
	if options.Destinations, err = s.destinations(ctx, c, parts); err != nil {
		return c, errors.Join(err, closeAll(ctx, parts, options.Destinations))
	}
	options.Phase = pipeline.PhaseOf(attributeOf(parts.host, "host.id"), longest(options.Destinations))
	p := pipeline.New(options)
	s.notify.verdicts = p.Verdicts

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := make(chan config.Config, 1)
	go func() {
		defer cancel()
		next <- s.awaitReload(ctx, c)
	}()
	s.log.Info("slid runs", "version", version, "interval", c.Interval, "sources", summary(p.Verdicts()))
	if err := errors.Join(p.Run(ctx), parts.close()); err != nil {
		s.log.Warn("not everything ended well", "error", err)
	}
	cancel()
	return <-next, nil
}

// awaitReload returns the next good configuration, or the present one when ctx ends.
func (s *server) awaitReload(ctx context.Context, present config.Config) config.Config {
	for {
		select {
		case <-ctx.Done():
			return present
		case <-s.reload:
		}
		s.notify.reloading(monotonic())
		next, err := loadConfig(s.path)
		s.notify.ready()
		if err == nil {
			s.log.Info("configuration was read again")
			return next
		}
		s.log.Error("configuration cannot be used, the old one stays in force", "error", err)
	}
}

// destinations opens the exports of the configuration, or that of the environment if it has none.
func (s *server) destinations(ctx context.Context, c config.Config, p *parts) ([]pipeline.Destination, error) {
	wanted := c.Export
	if len(wanted) == 0 {
		wanted = []config.Destination{{Name: "otlp", Interval: c.Interval}}
		if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") == "" {
			wanted[0].Endpoint = defaultEndpoint
			s.log.Info("no export is configured: sending to the default of OpenTelemetry", "endpoint", defaultEndpoint)
		}
	}
	group := p.registry.Group("export", metric.ClassAgent, 50*len(wanted))
	var list []pipeline.Destination
	for _, d := range wanted {
		e, err := otlp.New(ctx, otlp.Options{
			Name: d.Name, Endpoint: d.Endpoint, Headers: d.Headers, Metrics: group, Agent: p.agent, Log: s.log,
		})
		if err != nil {
			return list, err
		}
		list = append(list, pipeline.Destination{
			Name: d.Name, Exporter: e, Interval: d.Interval, Classes: d.Select, Names: d.Names,
		})
	}
	return list, nil
}

// closeAll closes what was opened for a pipeline that will not be.
func closeAll(ctx context.Context, p *parts, destinations []pipeline.Destination) error {
	var errs []error
	for _, d := range destinations {
		errs = append(errs, d.Exporter.Shutdown(ctx))
	}
	for _, c := range p.collectors {
		if err := c.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close collector %s: %w", c.Name, err))
		}
	}
	return errors.Join(append(errs, p.close())...)
}

func longest(destinations []pipeline.Destination) time.Duration {
	var d time.Duration
	for _, dest := range destinations {
		d = max(d, dest.Interval)
	}
	return d
}

// monotonic returns the time systemd compares reloads by.
func monotonic() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return 0 // cannot happen on Linux
	}
	return time.Duration(t.Nano())
}
