package bpf

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/slid-agent/slid/internal/verdict"
)

// A design says how a probe is loaded.
type design struct {
	name  string // for messages, e.g. "the run-queue probe"
	spec  func() (*ebpf.CollectionSpec, error)
	needs []capability
	rungs []rung // ways to measure, the best first
	// prepare sets sizes and variables of the specification, for the rung that is tried; nil if there are none.
	prepare func(*ebpf.CollectionSpec, *rung) error
}

// A rung of the ladder is one way to measure. Its needs are looked up in the kernel's types before anything is loaded.
type rung struct {
	hook        string   // for verdicts, e.g. tp_btf/sched_switch
	programs    []string // attached in this order; the others of the object that tracing could attach are left out
	fields      []field
	tracepoints []tracepoint
	functions   []string // of the kernel, that programs attach to
	// lacks says what the measurement lacks against the first rung; "" for the first.
	lacks string
}

// A Probe is a collection of programs and maps that was loaded and attached. Its methods may be called concurrently, but
// Close, Detach and Attach.
type Probe struct {
	collection *ebpf.Collection
	specs      map[string]*ebpf.ProgramSpec // of what is attached
	links      []io.Closer
	rung       rung
	refused    error // why no better rung is in use; nil if there is none
	start      time.Time
	cpus       Table[probeCPU] // a slot for each CPU
	needs      []capability
	name       string
	shared     map[string]*ebpf.Map // the maps it has in common with others
}

// probeCPUs is the map of include/probe.h that every probe has.
const probeCPUs = "probe_cpus"

// probeCPU is struct probe_cpu (include/probe.h).
type probeCPU struct {
	Runs, TimedRuns, TimedNS                      uint64
	Recorded, Unmatched, Discarded, Lost, Skipped uint64
}

// open loads and attaches a probe by the first rung that works. If none does, the error is a *verdict.UnavailableError
// with what the best of them needs.
func (d *design) open(k *Kernel) (*Probe, error) {
	var refused []error
	for i := range d.rungs {
		p, err := d.try(k, &d.rungs[i])
		if err == nil {
			p.refused = errors.Join(refused...)
			return p, nil
		}
		refused = append(refused, err)
	}
	return nil, refused[0]
}

// try loads and attaches a probe by one rung.
func (d *design) try(k *Kernel, r *rung) (*Probe, error) {
	p := &Probe{rung: *r, needs: d.needs, name: d.name}
	if err := p.load(k, d); err != nil {
		return nil, errors.Join(unavailable("load "+d.name, err, d.needs...), p.Close())
	}
	if err := p.Attach(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Probe) load(k *Kernel, d *design) error {
	types, err := k.types()
	if err != nil {
		return err
	}
	if err := p.rung.check(types); err != nil {
		return err
	}
	spec, err := d.spec()
	if err != nil {
		return err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	if m := spec.Maps[probeCPUs]; m != nil {
		m.MaxEntries = uint32(cpus)
	}
	if d.prepare != nil {
		if err := d.prepare(spec, &p.rung); err != nil {
			return err
		}
	}
	p.selectPrograms(spec)
	p.shared = k.shared(spec)
	options := ebpf.CollectionOptions{Cache: k.cache, MapReplacements: p.shared}
	if p.collection, err = ebpf.NewCollectionWithOptions(spec, options); err != nil {
		return err
	}
	if m := p.collection.Maps[probeCPUs]; m != nil {
		p.cpus, err = openTable[probeCPU](m, cpus)
	}
	return err
}

// selectPrograms leaves out of a specification what another rung attaches.
func (p *Probe) selectPrograms(spec *ebpf.CollectionSpec) {
	p.specs = map[string]*ebpf.ProgramSpec{}
	for name, s := range spec.Programs {
		switch {
		case slices.Contains(p.rung.programs, name):
			p.specs[name] = s
		case s.AttachType != ebpf.AttachTraceIter: // iterators run when user space asks
			delete(spec.Programs, name)
		}
	}
}

// check looks up what the rung needs in the kernel's types.
func (r *rung) check(types *btf.Spec) error {
	if err := requireFields(types, r.fields); err != nil {
		return err
	}
	for _, t := range r.tracepoints {
		if err := requireTracepoint(types, t); err != nil {
			return err
		}
	}
	for _, name := range r.functions {
		var f *btf.Func
		if err := types.TypeByName(name, &f); err != nil {
			return &verdict.UnavailableError{Reason: "the kernel has no function " + name}
		}
	}
	return nil
}

// Attach attaches the programs again after Detach. What they noted before of operations under way is void then.
func (p *Probe) Attach() error {
	if err := p.newEpoch(); err != nil {
		return err
	}
	for _, name := range p.rung.programs {
		if p.start.IsZero() {
			p.start = time.Now()
		}
		l, err := attach(p.collection.Programs[name], p.specs[name])
		if err != nil {
			return errors.Join(unavailable("attach to "+p.rung.hook, err, p.needs...), p.Detach())
		}
		p.links = append(p.links, l)
	}
	return nil
}

// probeEpoch is the variable of include/span.h, which probes of operations with a begin and an end have.
const probeEpoch = "probe_epoch"

// newEpoch makes the programs forget what began before they were detached.
func (p *Probe) newEpoch() error {
	v := p.collection.Variables[probeEpoch]
	if v == nil {
		return nil
	}
	var epoch uint32
	if err := v.Get(&epoch); err != nil {
		return err
	}
	return v.Set(epoch + 1)
}

// attach attaches a program by the kind of it that its section names.
func attach(program *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	if program == nil {
		return nil, errors.New("there is no such program")
	}
	switch spec.Type {
	case ebpf.Tracing:
		return link.AttachTracing(link.TracingOptions{Program: program})
	case ebpf.RawTracepoint:
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: spec.AttachTo, Program: program})
	case ebpf.TracePoint:
		group, name, _ := strings.Cut(spec.AttachTo, "/")
		return link.Tracepoint(group, name, program, nil)
	default:
		return nil, fmt.Errorf("programs of the type %s are not attached here", spec.Type)
	}
}

// Detach detaches the programs; the counts stay. Nothing is lost by detaching twice.
func (p *Probe) Detach() error {
	var errs []error
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	p.links = nil
	return errors.Join(errs...)
}

// Start returns when the probe was attached first: when its counters began.
func (p *Probe) Start() time.Time { return p.start }

// Hook returns where the probe is attached, e.g. tp_btf/sched_switch.
func (p *Probe) Hook() string { return p.rung.hook }

// Memory returns what the maps of the probe take of the kernel's memory at present, in bytes.
func (p *Probe) Memory() uint64 { return mapMemory(p.collection, p.shared) }

// Programs returns the programs that events run.
func (p *Probe) Programs() []*ebpf.Program {
	var list []*ebpf.Program
	for _, name := range p.rung.programs {
		list = append(list, p.collection.Programs[name])
	}
	return list
}

// Counts returns what the probe counts about itself. It reads the kernel's memory and allocates nothing.
func (p *Probe) Counts() Counts {
	var sum probeCPU
	for cpu := range p.cpus.Slots() {
		if p.cpus.AddTo(cpu, &sum) != nil {
			return Counts{}
		}
	}
	return Counts{
		Runs: sum.Runs, TimedRuns: sum.TimedRuns, TimedNS: sum.TimedNS, Outcomes: true,
		Recorded: sum.Recorded, Unmatched: sum.Unmatched, Discarded: sum.Discarded, Lost: sum.Lost, Skipped: sum.Skipped,
	}
}

// Sample makes the probe record one of 2^shift events, with that weight. salt draws another sample of things that last.
func (p *Probe) Sample(shift, salt uint32) error {
	v := p.collection.Variables
	return errors.Join(v["sample_salt"].Set(salt), v["sample_shift"].Set(shift))
}

// Verdict says how the probe measures: by its best hook, or by another and why.
func (p *Probe) Verdict(name string) verdict.Verdict {
	v := verdict.Verdict{Name: name, State: verdict.Active, Hook: p.rung.hook}
	if p.rung.lacks == "" {
		return v
	}
	v.State, v.Reason = verdict.Degraded, p.rung.lacks
	if u, ok := errors.AsType[*verdict.UnavailableError](p.refused); ok {
		v.Reason += ": " + (&verdict.UnavailableError{Reason: u.Reason, Err: u.Err}).Error()
		v.Missing = u.Missing
	}
	return v
}

// Close detaches and unloads the probe.
func (p *Probe) Close() error {
	err := p.Detach()
	if p.collection != nil {
		p.collection.Close()
	}
	return err
}

// mapMemory adds up what the maps of a collection take at present, in bytes, without those it shares. Kernels before 6.4
// tell of some kinds what they take when they are full.
func mapMemory(c *ebpf.Collection, shared map[string]*ebpf.Map) (bytes uint64) {
	for name, m := range c.Maps {
		if shared[name] != nil {
			continue
		}
		if info, err := m.Info(); err == nil {
			memlock, _ := info.Memlock()
			bytes += memlock
		}
	}
	return bytes
}
