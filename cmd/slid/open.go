package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/budget"
	"github.com/slid-agent/slid/collector/host"
	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/pipeline"
	"github.com/slid-agent/slid/internal/verdict"
)

// parts is what run, sli and doctor have in common: the opened collectors and what they share. The collectors go to a
// pipeline, which closes them; close does the rest.
type parts struct {
	env      collector.Env // what the collectors have in common
	registry *metric.Registry
	host     *resource.Resource
	agent    *resource.Resource
	probes   latency.Deps

	collectors  []pipeline.Collector
	unavailable []verdict.Verdict // what this machine has not or does not allow
	disabled    []verdict.Verdict // what the configuration switches off
}

// closing is how long collectors may take to close: detaching a program from a function of the kernel takes up to 0.1 s.
const closing = 5 * time.Second

// open finds out about the host and opens every collector that is not disabled. What cannot be opened gets a verdict
// and is left out. progress is called before each collector: loading a probe takes up to a second.
func open(ctx context.Context, c config.Config, log *slog.Logger, progress func()) *parts {
	env := environment(c, log)
	facts, err := host.Facts(env.Root, env.Proc)
	if err != nil {
		log.Warn("host is described in part only", "error", err)
	}
	p := &parts{
		env: env,
		registry: metric.NewRegistry(instrumentation.Scope{
			Name: "github.com/slid-agent/slid", Version: version, SchemaURL: metric.SchemaURL,
		}),
		host:   describeHost(ctx, facts.Resource, log),
		probes: latency.NewDeps(c.Latency.CPUBudget),
	}
	p.agent = describeAgent(p.host)
	env.Host, env.Boot = p.host, facts.Boot
	for _, f := range collectors(p.probes, c) {
		if ctx.Err() != nil {
			break
		}
		progress()
		if why := switchedOff(c, f); why != "" {
			p.disabled = append(p.disabled, verdict.Verdict{
				Name: f.Name, State: verdict.Unavailable, Reason: why, Off: true,
			})
			continue
		}
		p.open(f, env)
	}
	p.probes.Kernel.Release()
	debug.FreeOSMemory() // the kernel's types took megabytes and are not needed any more
	return p
}

// open opens one collector.
func (p *parts) open(f collector.Factory, env collector.Env) {
	env.Metrics = p.registry.Group(f.Name, f.Class, f.Budget)
	if f.Class == metric.ClassAgent {
		env.Host = p.agent // what slid says of itself belongs to itself
	}
	env.Log = env.Log.With("collector", f.Name)
	c, err := f.New(env)
	if err != nil {
		v := verdict.FromError(f.Name, err)
		if v.Absent {
			env.Log.Info("this machine has no such source", "reason", v.Reason)
		} else {
			env.Log.Warn("collector is unavailable", "reason", v.Reason, "missing", v.Missing)
		}
		p.unavailable = append(p.unavailable, v)
		return
	}
	p.collectors = append(p.collectors, pipeline.Collector{Name: f.Name, Lane: f.Lane, Group: env.Metrics, Collector: c})
}

// environment returns where the host's files are seen. A sidecar may have nothing of the host's below root but the
// cgroup2 tree; for the rest it has its own, which are its pod's.
func environment(c config.Config, log *slog.Logger) collector.Env {
	root := c.Host.Root
	mount, err := cgroup.Mount(root)
	if err != nil {
		log.Warn("sockets cannot be told apart by cgroup", "error", err)
	}
	return collector.Env{
		Root: root, Proc: mounted(root, "proc", "self"), Sys: mounted(root, "sys", "kernel"), Cgroup: mount, Log: log,
	}
}

// mounted returns the folder of a kernel file system below root, or slid's own if root lacks it, which the missing
// entry shows.
func mounted(root, name, entry string) string {
	folder := filepath.Join(root, name)
	if _, err := os.Lstat(filepath.Join(folder, entry)); err != nil {
		return filepath.Join("/", name)
	}
	return folder
}

// describeHost returns the resource of the host: its facts and OTEL_RESOURCE_ATTRIBUTES; where both name an attribute,
// the user's word counts. The service attributes make the job and the instance of its series in Prometheus, without
// which those of several hosts would be the same.
func describeHost(ctx context.Context, facts *resource.Resource, log *slog.Logger) *resource.Resource {
	users, err := resource.New(ctx, resource.WithFromEnv())
	if err != nil {
		log.Warn("OTEL_RESOURCE_ATTRIBUTES is used in part only", "error", err)
	}
	attrs := facts.Attributes()
	for _, kv := range users.Attributes() {
		if !isService(kv) { // the host is not the service that the user speaks of
			attrs = append(attrs, kv)
		}
	}
	instance := cmp.Or(attributeOf(facts, "host.id"), attributeOf(facts, "host.name"))
	attrs = append(attrs, attribute.String("service.name", "host"), attribute.String("service.instance.id", instance))
	return resource.NewSchemaless(attrs...)
}

func isService(kv attribute.KeyValue) bool { return strings.HasPrefix(string(kv.Key), "service.") }

// describeAgent returns the resource of slid itself: a service on the host.
func describeAgent(on *resource.Resource) *resource.Resource {
	attrs := []attribute.KeyValue{
		attribute.String("service.name", "slid"),
		attribute.String("service.version", version),
		attribute.String("service.instance.id", instanceID(on)),
	}
	for _, kv := range on.Attributes() {
		if key := string(kv.Key); !isService(kv) && !strings.HasPrefix(key, "os.") && !strings.HasPrefix(key, "host.cpu.") {
			attrs = append(attrs, kv)
		}
	}
	return resource.NewSchemaless(attrs...)
}

// instanceID tells agents apart and stays the same when one is started again: the host's id, and the name of the
// container if slid runs in one.
func instanceID(on *resource.Resource) string {
	id := attributeOf(on, "host.id")
	hostName, _ := os.Hostname()
	if id == "" {
		return hostName
	}
	if hostName != attributeOf(on, "host.name") {
		id += "/" + hostName
	}
	return id
}

func attributeOf(r *resource.Resource, key attribute.Key) string {
	v, _ := r.Set().Value(key)
	return v.AsString()
}

// objectives returns the collector that evaluates objectives, or nil if there are none.
func (p *parts) objectives() *budget.Objectives {
	for _, c := range p.collectors {
		if o, ok := c.Collector.(*budget.Objectives); ok {
			return o
		}
	}
	return nil
}

// close ends what the collectors shared. Call it after their pipeline has shut down.
func (p *parts) close() error { return p.probes.Meter.Close() }

// options returns what any pipeline over the parts needs.
func (p *parts) options(interval time.Duration, log *slog.Logger) pipeline.Options {
	return pipeline.Options{
		Interval: interval, Registry: p.registry, Collectors: p.collectors, Unavailable: p.unavailable,
		Agent: p.agent, Log: log,
	}
}
