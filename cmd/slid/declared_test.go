package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/exporter/otlp"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/pipeline"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

// A declaration is what one part of slid declares.
type declaration struct {
	collector.Factory
	descs []metric.Desc
	// optional are attributes by metric that it has only if the configuration says so.
	optional map[string][]attribute.Key
	err      error // why it could not be opened here; then descs is empty
}

// full returns the declarations with the optional attributes.
func (d *declaration) full() []metric.Desc {
	list := slices.Clone(d.descs)
	for i := range list {
		list[i].Attributes = slices.Concat(list[i].Attributes, d.optional[list[i].Name])
	}
	return list
}

// hostData has recorded trees of machines.
const hostData = "../../collector/host/testdata"

// declarations opens every collector on every recorded tree, whatever the machine, and gathers what they declare: what
// one kernel does not have another may. Only kernel probes need this machine to allow them. The agent's own parts
// come last.
func declarations(t *testing.T) []declaration {
	t.Helper()
	probes := latency.NewDeps(0)
	t.Cleanup(func() { probes.Meter.Close() })
	roots := recordedRoots(t)
	optional := config.Default()
	optional.Host.PerCPU = true
	optional.SLOs = []slo.Objective{{
		Name: "x", Target: 0.9, Window: slo.Window{Span: slo.Span{Count: 7, Unit: slo.Day}},
		Members: []slo.Member{
			{Target: 0.9, Weight: 1},
			{Indicator: slo.Indicator{Name: "scrape", Scrape: &slo.Scrape{URL: "http://127.0.0.1:1/metrics"}}},
			{Indicator: slo.Indicator{Name: "unit", Unit: &slo.Running{Command: "init"}}},
			{Indicator: slo.Indicator{Name: "resource", Resource: &slo.Resource{Figure: slo.Memory}}},
		},
	}}
	list := make([]declaration, len(collectors(latency.Deps{}, optional)))
	for _, c := range []config.Config{config.Default(), optional} {
		for i, f := range collectors(probes, c) {
			d := &list[i]
			d.Factory = f
			if !strings.HasPrefix(f.Name, "host/") {
				if d.descs == nil {
					d.open(t, environment(c, slog.New(slog.DiscardHandler)))
				}
				continue
			}
			for _, root := range roots {
				d.open(t, recordedEnv(root))
			}
			if d.err != nil { // nothing of it is recorded
				d.open(t, environment(c, slog.New(slog.DiscardHandler)))
			}
		}
	}
	return slices.Concat(list, ownDeclarations(t))
}

// recordedRoots returns the folders below hostData that look like the root of a machine.
func recordedRoots(t *testing.T) []string {
	t.Helper()
	var roots []string
	for _, depth := range []string{"*", "*/*", "*/*/*"} {
		for _, inside := range []string{"proc", "sys", "cgroup"} {
			found, err := filepath.Glob(filepath.Join(hostData, depth, inside))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				if root := filepath.Dir(f); !slices.Contains(roots, root) {
					roots = append(roots, root)
				}
			}
		}
	}
	if len(roots) == 0 {
		t.Fatal("no recorded trees in " + hostData)
	}
	slices.Sort(roots)
	return roots
}

func recordedEnv(root string) collector.Env {
	env := collector.Env{
		Root: root, Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"),
		Log: slog.New(slog.DiscardHandler),
	}
	for _, folder := range []string{"cgroup", "sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, folder)); err == nil {
			env.Cgroup = filepath.Join(root, folder)
		}
	}
	return env
}

// open adds what the collector declares on one tree, at once and while it collects.
func (d *declaration) open(t *testing.T, env collector.Env) {
	t.Helper()
	r := metric.NewRegistry(instrumentation.Scope{})
	env.Metrics, env.Host, env.Boot = r.Group(d.Name, d.Class, d.Budget), resource.Empty(), time.Unix(1, 0)
	c, err := d.New(env)
	if err != nil {
		d.note(err)
		return
	}
	for range 2 {
		_ = c.Collect(t.Context(), time.Now()) // a tree may lack what a metric needs, and has it declared
	}
	if err := c.Close(); err != nil {
		t.Errorf("%s: close: %v", d.Name, err)
	}
	d.add(env.Metrics.Descs())
}

// note keeps the first error as long as there is nothing better.
func (d *declaration) note(err error) {
	if d.err == nil && d.descs == nil {
		d.err = err
	}
}

// add adds what is new.
func (d *declaration) add(descs []metric.Desc) {
	d.err = nil
	for _, desc := range descs {
		i := slices.IndexFunc(d.descs, func(other metric.Desc) bool { return other.Name == desc.Name })
		if i < 0 {
			d.descs = append(d.descs, desc)
			continue
		}
		for _, key := range desc.Attributes {
			if !slices.Contains(d.full()[i].Attributes, key) {
				if d.optional == nil {
					d.optional = map[string][]attribute.Key{}
				}
				d.optional[desc.Name] = append(d.optional[desc.Name], key)
			}
		}
	}
}

// ownDeclarations returns those of the pipeline and the exporter.
func ownDeclarations(t *testing.T) []declaration {
	t.Helper()
	r := metric.NewRegistry(instrumentation.Scope{})
	log := slog.New(slog.DiscardHandler)
	group := r.Group("export", metric.ClassAgent, 50)
	e, err := otlp.New(t.Context(), otlp.Options{
		Name: "x", Endpoint: defaultEndpoint, Metrics: group, Agent: resource.Empty(), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := pipeline.New(pipeline.Options{
		Registry: r, Agent: resource.Empty(), Log: log,
		Collectors:   []pipeline.Collector{{Name: "x", Group: group, Collector: idle{}}},
		Destinations: []pipeline.Destination{{Exporter: e}},
	})
	p.Start(t.Context())
	p.Collect(t.Context(), time.Now())
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var list []declaration
	for _, g := range r.Groups() {
		d := declaration{Factory: collector.Factory{Name: g.Name(), Class: metric.ClassAgent}}
		d.add(g.Descs())
		list = append(list, d)
	}
	return list
}

// idle is a collector that does nothing.
type idle struct{}

func (idle) Collect(context.Context, time.Time) error { return nil }
func (idle) Verdicts() []verdict.Verdict {
	return []verdict.Verdict{{Name: "x", State: verdict.Active}}
}
func (idle) Close() error { return nil }
