// Package service collects service level indicators.
//
// Traffic is the source that needs nobody's help: it counts the HTTP/1.x requests of every server on the host in the
// kernel (bpf/http.bpf.c), and finds out here which service each belongs to. Reading costs a copy of 16 KiB for each
// service and a pass of the kernel over the open connections, about 1 us each. It needs CAP_BPF, CAP_PERFMON and
// CAP_NET_ADMIN to count, and CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH to find the command behind a port.
package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	trafficName = "service/traffic"

	// pruneEvery is how often Traffic looks for services that are gone.
	pruneEvery = time.Minute
	// idleAfter is how long a service without traffic is kept before it is looked at whether it still listens.
	idleAfter = 15 * time.Minute
	// crowded is the number of slots from which on services without traffic since the last collection are looked at after
	// each that found new ones: a host where many short-lived servers come and go.
	crowded = bpf.HTTPSlots / 2
)

// Traffic counts the requests of this host's servers. It implements collector.Collector.
type Traffic struct {
	env       collector.Env
	overrides []Override
	// objectives are what services promise, expected the endpoints that the kernel knows to be of services with some.
	objectives *Objectives
	expected   map[bpf.HTTPEndpoint]uint32
	listening  map[endpoint]uint64 // sockets as they were when expected was made

	probe    *bpf.HTTP
	attached map[int]string // interfaces the probe is attached to, where it is not at a cgroup
	unwatch  func()
	view     view
	tree     *cgroup.Tree
	families families

	slots     [bpf.HTTPSlots]slot
	served    map[endpointKey]*served
	resources map[identity]*resource.Resource
	noMemory  *metric.Int
	noSlot    *metric.Int

	cells  []cell
	noCell *metric.Int

	scratch   bpf.HTTPService
	counts    bpf.HTTPCell
	losses    bpf.HTTPLosses
	events    bpf.HTTPEvents
	times     bpf.HTTPHist
	collected time.Time // of the previous collection, or when the probe was attached
	pruned    time.Time
}

// A slot is what is known of a slot of the kernel's.
type slot struct {
	generation uint32 // of the service in it; 0 when it is free
	key        bpf.HTTPKey
	of         *served
	routed     uint64 // responses that cells counted
	activity   uint64 // responses and connections, as last seen by prune
	active     time.Time

	set  uint32          // of its service
	void *bpf.HTTPEvents // what it counted by those of another; nil if nothing
}

// NewTraffic loads the probe and starts to count; objectives may be nil. The error is a *verdict.UnavailableError where this
// machine does not allow it.
func NewTraffic(env collector.Env, kernel *bpf.Kernel, meter *bpf.Meter, overrides []Override, objectives *Objectives) (collector.Collector, error) {
	started := time.Now()
	if objectives == nil {
		objectives = &Objectives{}
	}
	t := &Traffic{
		env: env, overrides: overrides, objectives: objectives, view: viewOf(env), collected: started, pruned: started,
		tree:      cgroup.NewTree(env.Cgroup),
		families:  declare(env.Metrics),
		attached:  map[int]string{},
		served:    map[endpointKey]*served{},
		resources: map[identity]*resource.Resource{},
	}
	if err := t.attach(kernel); err != nil {
		return nil, err
	}
	t.cells = make([]cell, t.probe.Cells())
	t.unwatch = meter.Watch(bpf.Watched{Name: trafficName, Counts: t.probe.Counts, Programs: t.probe.Programs(), Memory: t.probe.Memory})
	t.declareLosses(started)
	objectives.register(&t.families, env.Metrics, env.Host, started)
	return t, nil
}

// attach loads the probe where the view says.
func (t *Traffic) attach(kernel *bpf.Kernel) (err error) {
	t.probe, err = bpf.NewHTTP(kernel, bpf.HTTPOptions{
		Cgroup: t.view.cgroup, OnlyNetns: t.view.only, Sets: t.objectives.sets(t.expectFirst()),
	})
	if err != nil || t.view.cgroup != "" {
		return err
	}
	err = t.followInterfaces()
	if len(t.attached) > 0 {
		return nil // one that refuses shows in each collection
	}
	if u, ok := errors.AsType[*verdict.UnavailableError](err); ok && u.Missing == "" {
		u.Missing = t.view.missing // interfaces take a newer kernel than cgroups do
	}
	return errors.Join(err, t.probe.Close())
}

// followInterfaces attaches the probe to interfaces that are new, where it is not at a cgroup.
func (t *Traffic) followInterfaces() error {
	if t.view.cgroup != "" {
		return nil
	}
	present, err := ethernetInterfaces()
	if err != nil {
		return err
	}
	for index, name := range present {
		if t.attached[index] == "" {
			if attachErr := t.probe.AttachInterface(index); attachErr != nil {
				err = errors.Join(err, attachErr)
				continue
			}
			t.attached[index] = name
		}
	}
	maps.DeleteFunc(t.attached, func(index int, _ string) bool { return present[index] == "" })
	return err
}

func (t *Traffic) declareLosses(start time.Time) {
	lost := t.env.Metrics.Int(metric.Desc{
		Name: "slid.events.lost", Unit: "{event}", Kind: metric.Counter, Source: "bpf/http.bpf.c",
		Description: "Connections that could not be counted (no_memory) or not be given to their service (no_slot); responses that were counted without their route (no_cell).",
		Attributes:  []attribute.Key{"slid.source.name", reasonKey},
	})
	e := t.env.Metrics.Entity(t.env.Host, start)
	name := attribute.Key("slid.source.name").String(trafficName)
	t.noMemory = lost.With(e, name, reasonKey.String("no_memory"))
	t.noSlot = lost.With(e, name, reasonKey.String("no_slot"))
	t.noCell = lost.With(e, name, reasonKey.String("no_cell"))
}

// Collect reads what the kernel counted. New services are looked up, which may take some ms; otherwise it allocates
// nothing.
func (t *Traffic) Collect(_ context.Context, now time.Time) error {
	err := t.probe.Flush()
	came, discoverErr := t.discover(now)
	err = errors.Join(err, discoverErr, t.readServices(now), t.readObjectives(now), t.readLosses(now))
	switch {
	case now.Sub(t.pruned) >= pruneEvery:
		err = errors.Join(err, t.prune(now, idleAfter))
	case came && t.used() >= crowded:
		err = errors.Join(err, t.retireIdle(now, 0))
	}
	t.collected = now
	return err
}

// readServices reads what the kernel counted for services.
func (t *Traffic) readServices(now time.Time) error {
	for _, e := range t.served {
		if err := e.read(t.probe, &t.scratch); err != nil {
			return err
		}
	}
	if err := t.readCells(); err != nil {
		return err
	}
	for _, e := range t.served {
		e.store(now)
	}
	return nil
}

func (t *Traffic) readLosses(now time.Time) error {
	losses := &t.losses
	if err := t.probe.Losses(losses); err != nil {
		return fmt.Errorf("read the losses: %w", err)
	}
	t.noMemory.Observe(losses.NoStorage, now)
	t.noSlot.Observe(losses.NoSlot, now)
	t.noCell.Observe(losses.NoCell, now)
	if losses.NoSlot != 0 && t.slots[0].of == nil {
		t.slots[0].of = t.serve(identity{name: "other"}, 0)
		t.slots[0].of.slots = []int{0}
	}
	return nil
}

// discover finds the services that are new in the kernel's slots. came says whether there are any.
func (t *Traffic) discover(now time.Time) (came bool, err error) {
	var fresh []int
	for i := 1; i < bpf.HTTPSlots; i++ {
		generation, used := t.probe.InUse(i)
		if !used || generation == t.slots[i].generation {
			continue
		}
		if t.probe.Service(i, &t.scratch) != nil {
			continue
		}
		t.slots[i] = slot{generation: generation, key: t.scratch.Key, active: now}
		fresh = append(fresh, i)
	}
	if len(fresh) == 0 {
		return false, nil
	}
	var errs []error
	listeners := findListeners(t.env.Proc, t.endpoints(fresh))
	for _, i := range fresh {
		s := &t.slots[i]
		path, _ := t.tree.Path(s.key.Cgroup)
		id := identify(path, listeners[endpointOf(s.key)], t.view.netns, s.key, t.overrides)
		s.of = t.serve(id, s.key.Port)
		s.of.slots = append(s.of.slots, i)
		errs = append(errs, t.bind(i, id.name))
		t.env.Log.Debug("service found", "service", id.name, "port", s.key.Port, "unit", id.unit, "container", id.container)
	}
	return true, errors.Join(errs...)
}

// serve returns the endpoint of a service, which began to count at the previous collection if it is new.
func (t *Traffic) serve(id identity, port uint16) *served {
	key := endpointKey{id, port}
	e := t.served[key]
	if e == nil {
		res := t.resources[id]
		if res == nil {
			res = id.resourceFor(t.env.Host)
			t.resources[id] = res
		}
		e = newServed(&t.families, t.env.Metrics, res, port, t.collected)
		t.served[key] = e
	}
	return e
}

func (t *Traffic) endpoints(slots []int) []endpoint {
	list := make([]endpoint, len(slots))
	for i, s := range slots {
		list[i] = endpointOf(t.slots[s].key)
	}
	return list
}

func endpointOf(key bpf.HTTPKey) endpoint { return endpoint{key.Netns, key.Port} }

// used returns how many slots belong to services.
func (t *Traffic) used() (n int) {
	for i := 1; i < bpf.HTTPSlots; i++ {
		if t.slots[i].of != nil {
			n++
		}
	}
	return n
}

// prune follows what changed on the host: interfaces, who listens where, and services that are gone.
func (t *Traffic) prune(now time.Time, idle time.Duration) error {
	t.pruned = now
	return errors.Join(t.followInterfaces(), t.refreshExpected(), t.retireIdle(now, idle))
}

// retireIdle gives up the slots of services that are gone, and the endpoints that have had no slot since the last time.
// Services without traffic for the time idle are looked at.
func (t *Traffic) retireIdle(now time.Time, idle time.Duration) error {
	var errs []error
	for key, e := range t.served {
		if len(e.slots) == 0 {
			e.entity.Remove()
			delete(t.served, key)
		}
	}
	for _, i := range t.gone(now, idle) {
		errs = append(errs, t.retire(i))
	}
	t.forgetResources()
	return errors.Join(errs...)
}

// retire gives up a slot and keeps what it counted.
func (t *Traffic) retire(i int) error {
	if err := t.probe.Service(i, &t.scratch); err != nil {
		return err
	}
	if err := errors.Join(t.giveUp(i), t.probe.Retire(i)); err != nil {
		return err
	}
	t.slots[i].of.drop(i, &t.scratch)
	err := t.dropCells(i)
	t.slots[i] = slot{}
	return err
}

// gone returns the slots whose cgroup does not exist any more, and those on whose port nobody listens any more after a
// time without traffic.
func (t *Traffic) gone(now time.Time, idle time.Duration) []int {
	var dead, quiet []int
	for i := 1; i < bpf.HTTPSlots; i++ {
		s := &t.slots[i]
		if s.of == nil {
			continue
		}
		if _, exists := t.tree.Path(s.key.Cgroup); !exists {
			dead = append(dead, i)
		} else if t.isIdle(i, now, idle) {
			quiet = append(quiet, i)
		}
	}
	if len(quiet) > 0 {
		alive := anybodyListens(t.env.Proc, t.endpoints(quiet))
		for _, i := range quiet {
			if !alive[endpointOf(t.slots[i].key)] {
				dead = append(dead, i)
			}
			t.slots[i].active = now // look again after another such time
		}
	}
	return dead
}

// isIdle says whether the service in a slot had no traffic for a time.
func (t *Traffic) isIdle(i int, now time.Time, idle time.Duration) bool {
	s := &t.slots[i]
	if t.probe.Service(i, &t.scratch) != nil {
		return false
	}
	n := t.scratch.HttpConnections + t.scratch.OpaqueConnections + s.routed
	for _, c := range &t.scratch.Codes {
		n += c
	}
	if n != s.activity {
		s.activity, s.active = n, now
		return false
	}
	return now.Sub(s.active) >= idle
}

// forgetResources drops the descriptions of services that have no endpoint left.
func (t *Traffic) forgetResources() {
	used := map[identity]bool{}
	for key := range t.served {
		used[key.identity] = true
	}
	maps.DeleteFunc(t.resources, func(id identity, _ *resource.Resource) bool { return !used[id] })
}

// Verdicts says where the probe is attached, and what it cannot see from there.
func (t *Traffic) Verdicts() []verdict.Verdict {
	v := verdict.Verdict{Name: trafficName, State: verdict.Active, Hook: "cgroup_skb ingress and egress on " + t.view.cgroup}
	if t.view.cgroup == "" {
		v.Hook = "tcx ingress and egress on " + strings.Join(slices.Sorted(maps.Values(t.attached)), ", ")
	}
	if t.view.reason != "" {
		v.State, v.Reason, v.Missing = verdict.Degraded, t.view.reason, t.view.missing
	}
	return []verdict.Verdict{t.probe.Qualify(v)}
}

// Close detaches the probe.
func (t *Traffic) Close() error {
	t.unwatch()
	return t.probe.Close()
}
