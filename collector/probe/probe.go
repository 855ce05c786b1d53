// Package probe asks servers again and again and measures how they answer: whether, with what, and how long it took
// from the moment at which the attempt was due.
//
// Each probe has a schedule of its own (schedule.go): a goroutine starts an attempt at every multiple of the interval,
// whatever became of those before, so a server that stalls shows in as many attempts as it delayed. An attempt asks by
// http, tcp, tls, grpc, dns or icmp (a file each), notes its phases (timeline.go) and ends in exactly one outcome
// (outcome.go). The goroutines add to tallies of fixed size; Collect copies those into registers.
//
// It reads no kernel file. Probing costs what the target's protocol costs: with both ends on one host, 0.25 ms of CPU
// for an attempt by http and 1.1 ms for one with TLS (BenchmarkAttempt). A probe holds 30 KiB, 4 KiB more for each kind
// of failure that it met; an attempt under way holds 30 KiB, 50 with TLS or gRPC (BenchmarkUnderWay). Collect takes 3 to
// 7 us a probe. ICMP needs net.ipv4.ping_group_range or CAP_NET_RAW, the others nothing.
package probe

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/schedule"
	"github.com/slid-agent/slid/internal/verdict"
)

// Name is the name of the collector in verdicts; a probe's own begins with it.
const Name = "service/probe"

// maxAttempts bounds the attempts of all probes that are under way at once: 7 MB of memory.
const maxAttempts = 128

// Options are one probe. They must be sound: internal/config has checked them.
type Options struct {
	Name     string
	Service  string        // the service.name of its metrics
	Target   *url.URL      // its scheme is the kind: http, https, tcp, tls, grpc, grpcs, dns, icmp
	Interval time.Duration // between two attempts
	Timeout  time.Duration // of an attempt, from its start

	Method  string            // of http and https; empty: GET
	Headers map[string]string // likewise
	Status  []string          // codes and classes (2xx) that are a success; empty: 2xx and 3xx
	Body    string            // what the body must contain

	CA         string // PEM file of the authorities to trust; empty: the host's
	ServerName string // whom the certificate must be for; empty: the host of the target
}

// Probes asks servers by the key probes of the configuration: by http and https, tcp, tls, the health check of grpc, dns
// and icmp. Each probe has a resource of its own. Attempts start at fixed times, whatever became of those before;
// durations count from those times, and their phases, of which schedule is slid's own delay, add up to them. What
// could not start for a reason of slid's own is counted as missed and says nothing of the target. Every attempt has
// one outcome: a timeout is the target's, a name that is not resolved in time is dns; status is also an answer of
// grpc or dns that says no; closed is a connection that broke, protocol an answer that is none.
//
// The requests of http probes are marked by the User-Agent slid/VERSION (probe). One to a server on the same host is
// counted by service/traffic, too, like any other. It implements collector.Collector.
type Probes struct {
	probes []*prober
	stop   context.CancelFunc
	tasks  *sync.WaitGroup
}

// NewProbes starts the probes of the configuration; without any it is off. ICMP needs CAP_NET_RAW, or slid's group in
// the sysctl net.ipv4.ping_group_range: without, and for files that cannot be read, the probe's own verdict says so.
func NewProbes(env collector.Env, version string, list []Options) (collector.Collector, error) {
	ctx, stop := context.WithCancel(context.Background())
	c := &Probes{stop: stop, tasks: &sync.WaitGroup{}}
	families := declare(env.Metrics)
	slots := make(chan struct{}, maxAttempts)
	hostID := cmp.Or(attributeOf(env.Host, "host.id"), attributeOf(env.Host, "host.name"))
	now := time.Now()
	for _, o := range list {
		p := newProber(o, env.Log, slots)
		var err error
		if p.ask, err = newAsk(o, "slid/"+version+" (probe)"); err != nil {
			stop()
			return nil, fmt.Errorf("probe %s: %w", o.Name, err)
		}
		p.registers = families.registersOf(p, env.Metrics.Entity(resourceOf(o, env.Host, hostID), now))
		p.schedule.Offset = schedule.Offset(hostID, o.Name, o.Interval)
		c.probes = append(c.probes, p)
	}
	for _, p := range c.probes {
		c.tasks.Go(func() { p.run(ctx, c.tasks) })
	}
	return c, nil
}

// newAsk returns how to ask the target.
func newAsk(o Options, agent string) (ask, error) {
	switch o.Target.Scheme {
	case "http", "https":
		return askHTTP(o, agent)
	case "tcp":
		return askTCP(o), nil
	case "tls":
		return askTLS(o), nil
	case "grpc", "grpcs":
		return askGRPC(o, agent), nil
	case "dns":
		return askDNS(o)
	case "icmp":
		return askICMP(o), nil
	}
	return nil, fmt.Errorf("there is no kind of probe %q", o.Target.Scheme)
}

// Collect copies what the attempts added up to. It allocates nothing, except when a probe fails in a way that is new.
func (c *Probes) Collect(_ context.Context, now time.Time) error {
	for _, p := range c.probes {
		p.store(now)
	}
	return nil
}

// Verdicts has a row for all probes, and one for each that slid itself cannot do.
func (c *Probes) Verdicts() []verdict.Verdict {
	all := verdict.Verdict{Name: Name, State: verdict.Active, Hook: c.hook()}
	list := []verdict.Verdict{all}
	for _, p := range c.probes {
		if err := p.obstacle(); err != nil {
			v := verdict.FromError(Name+"/"+p.Name, err)
			v.Hook, v.Absent = p.Target.Scheme, false
			list = append(list, v)
		}
	}
	return list
}

// hook says how many probes of which kinds there are, e.g. "dns 1, https 3".
func (c *Probes) hook() string {
	var kinds []string
	count := map[string]int{}
	for _, p := range c.probes {
		if count[p.Target.Scheme]++; count[p.Target.Scheme] == 1 {
			kinds = append(kinds, p.Target.Scheme)
		}
	}
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s %d", kind, count[kind])
	}
	return strings.Join(kinds, ", ")
}

// Close ends every attempt and waits for it. Attempts that it breaks off are not counted.
func (c *Probes) Close() error {
	c.stop()
	c.tasks.Wait()
	return nil
}

// A prober is one probe at work.
type prober struct {
	Options
	ask       ask
	log       *slog.Logger
	schedule  schedule.Schedule
	registers registers

	mu      sync.Mutex // guards the fields below
	tallies tallies
	local   error     // why the last attempt could not be made; nil if it could
	last    outcome   // of the last attempt
	logged  time.Time // when the outcome was logged last
}

func newProber(o Options, log *slog.Logger, all chan struct{}) *prober {
	p := &prober{Options: o, log: log.With("probe", o.Name), schedule: schedule.Schedule{
		Interval: o.Interval, Timeout: o.Timeout, Own: make(chan struct{}, overlap(o)), All: all,
	}}
	p.local = p.check() // to know it before the first attempt
	return p
}

// check returns what slid lacks for the probe, or nil.
func (p *prober) check() error {
	if p.Target.Scheme == "icmp" {
		return checkEcho(p.host())
	}
	_, err := newTrust(p.Options)
	return err
}

// obstacle returns why slid itself could not make the last attempt, or nil.
func (p *prober) obstacle() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.local
}

// logPeriod is the shortest time between two lines about a probe: one of a server that comes and goes.
const logPeriod = time.Minute

// note adds a finished attempt to the tallies.
func (p *prober) note(t *timeline, o outcome, err error) {
	now := time.Now()
	p.mu.Lock()
	news := o != p.last && now.Sub(p.logged) >= logPeriod
	if o == local {
		p.tallies.missed[missedLocal]++
		p.local = err
	} else {
		p.tallies.add(t, o)
		p.local = nil
	}
	p.last = o
	if news {
		p.logged = now
	}
	p.mu.Unlock()
	if news {
		p.log.Info("probe has another outcome", "outcome", o.String(), "error", err)
	}
}

// host returns the name or the address of the target.
func (o *Options) host() string { return o.Target.Hostname() }

// address returns host and port of the target.
func (o *Options) address(usual string) string {
	return net.JoinHostPort(o.host(), cmp.Or(o.Target.Port(), usual))
}

// named says whether the host of the target is a name that must be looked up.
func (o *Options) named() bool {
	_, err := netip.ParseAddr(o.host())
	return err != nil
}

// resourceOf describes the probe: the service that it belongs to as seen from this host. What the target has in its
// query stays here, as it may be a secret.
func resourceOf(o Options, host *resource.Resource, hostID string) *resource.Resource {
	shown := *o.Target
	if shown.Scheme != "dns" {
		shown.RawQuery, shown.ForceQuery = "", false
	}
	attrs := []attribute.KeyValue{
		attribute.String("service.name", o.Service),
		attribute.String("service.instance.id", hostID+"/probe/"+o.Name),
		attribute.String("probe.kind", o.Target.Scheme),
		attribute.String("probe.target", shown.String()),
	}
	for _, kv := range host.Attributes() {
		if !ofHostOnly(string(kv.Key)) {
			attrs = append(attrs, kv)
		}
	}
	return resource.NewWithAttributes(host.SchemaURL(), attrs...)
}

// ofHostOnly says whether an attribute describes the host's hardware or system, or the host as a service.
func ofHostOnly(key string) bool {
	return strings.HasPrefix(key, "os.") || strings.HasPrefix(key, "host.cpu.") || strings.HasPrefix(key, "service.")
}

func attributeOf(r *resource.Resource, key attribute.Key) string {
	v, _ := r.Set().Value(key)
	return v.AsString()
}
