package bpf

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

// A design says how a probe is loaded.
type design struct {
	name  string // for messages, e.g. "the run-queue probe"
	spec  func() (*ebpf.CollectionSpec, error)
	needs []capability
	rungs []rung // ways to measure, the best first
	// cgroup is the directory that programs of control groups are attached to.
	cgroup string
	// prepare sets sizes and variables of the specification, for the rung that is tried; nil if there are none.
	prepare func(*ebpf.CollectionSpec, *rung) error
	// attaching is called before the programs are attached, the first time and after each Detach; nil if there is
	// nothing to do.
	attaching func(*Probe) error
}

// A rung of the ladder is one way to measure. Its needs are looked up in the kernel's types before anything is loaded.
type rung struct {
	hook        string   // for verdicts, e.g. tp_btf/sched_switch
	programs    []string // attached in this order; the others of the object that tracing could attach are left out
	fields      []field
	tracepoints []tracepoint
	functions   []string // of the kernel, that programs attach to
	extras      []extra
	// lacks says what the measurement lacks against the first rung; "" for the first.
	lacks string
	// alone says that programs for kprobe.multi are attached as one kprobe each.
	alone bool
}

// An extra is what a rung attaches only while there is something that needs it: see Extend.
type extra struct {
	hook        string
	programs    []string
	tracepoints []tracepoint
}

// A Probe is a collection of programs and maps that was loaded and attached. Its methods may be called concurrently, but
// Close.
type Probe struct {
	collection *ebpf.Collection
	specs      map[string]*ebpf.ProgramSpec // of what may be attached
	attaching  func(*Probe) error
	rung       rung
	refused    error // why no better rung is in use; nil if there is none
	start      time.Time
	cpus       Table[probeCPU] // a slot for each CPU
	needs      []capability
	name       string
	cgroup     string
	shared     map[string]*ebpf.Map // the maps it has in common with others
	lacking    []error              // by extra: why it cannot be attached; nil if it can

	mu       sync.Mutex // guards what follows
	attached bool
	salt     uint32 // of the present sample
	links    []io.Closer
	wanted   []bool        // by extra
	extended [][]io.Closer // by extra: its links
}

// probeCPUs is the map of include/probe.h that every probe has.
const probeCPUs = "probe_cpus"

// probeCPU is struct probe_cpu (include/probe.h).
type probeCPU struct {
	Runs, TimedRuns, TimedNS                      uint64
	Recorded, Unmatched, Discarded, Lost, Skipped uint64
}

// open loads and attaches a probe by the first rung that works. If none does, the error is a *verdict.UnavailableError
// with what the best of them needs that can be had: a kernel that has not what the first needs may still work by the
// second, and lack a capability for it.
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
	for _, err := range refused {
		if u, ok := errors.AsType[*verdict.UnavailableError](err); ok && strings.HasPrefix(u.Missing, "CAP_") {
			return nil, err
		}
	}
	return nil, refused[0]
}

// try loads and attaches a probe by one rung.
func (d *design) try(k *Kernel, r *rung) (*Probe, error) {
	p := &Probe{
		rung: *r, needs: d.needs, name: d.name, cgroup: d.cgroup, attaching: d.attaching,
		wanted: make([]bool, len(r.extras)), extended: make([][]io.Closer, len(r.extras)),
	}
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
	for _, e := range p.rung.extras {
		p.lacking = append(p.lacking, requireTracepoints(types, e.tracepoints))
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
	programs := p.rung.all(p.lacking)
	for name, s := range spec.Programs {
		switch {
		case slices.Contains(programs, name):
			p.specs[name] = s
			if p.rung.alone && s.Type == ebpf.Kprobe {
				s.AttachType = ebpf.AttachNone
			}
		case s.AttachType != ebpf.AttachTraceIter: // iterators run when user space asks
			delete(spec.Programs, name)
		}
	}
}

// all returns the names of the rung's programs, with those of the extras that lack nothing.
func (r *rung) all(lacking []error) []string {
	programs := slices.Clone(r.programs)
	for i, e := range r.extras {
		if lacking[i] == nil {
			programs = append(programs, e.programs...)
		}
	}
	return programs
}

// byKprobes returns two rungs of one, for programs of the sections kprobe.multi and kretprobe.multi: kernels without the
// former may have kprobes. functions is the end of their hooks.
func byKprobes(r rung, functions string) (multi, alone rung) {
	multi, alone = r, r
	multi.hook = "kprobe.multi/" + functions
	alone.hook, alone.alone = "kprobe/"+functions, true
	return multi, alone
}

// check looks up what the rung needs in the kernel's types.
func (r *rung) check(types *btf.Spec) error {
	if err := requireFields(types, r.fields); err != nil {
		return err
	}
	if err := requireTracepoints(types, r.tracepoints); err != nil {
		return err
	}
	for _, name := range r.functions {
		var f *btf.Func
		if err := types.TypeByName(name, &f); err != nil {
			return &verdict.UnavailableError{Reason: "the kernel has no function " + name}
		}
	}
	return nil
}

func requireTracepoints(types *btf.Spec, list []tracepoint) error {
	for _, t := range list {
		if err := requireTracepoint(types, t); err != nil {
			return err
		}
	}
	return nil
}

// Attach attaches the programs again after Detach.
func (p *Probe) Attach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached {
		return nil
	}
	if err := p.prepare(); err != nil {
		return err
	}
	if p.start.IsZero() {
		p.start = time.Now()
	}
	p.attached = true
	err := p.draw() // what was on record when it was detached is old
	if err != nil {
		return err
	}
	if p.links, err = p.attachAll(p.links, p.rung.hook, p.rung.programs); err != nil {
		return errors.Join(err, p.detach())
	}
	for i := range p.wanted {
		if err := p.extend(i); err != nil {
			return err
		}
	}
	return p.sees(monotonic())
}

// probeSince is the variable of include/probe.h that tells the programs since when they see everything.
const probeSince = "probe_since"

// sees tells the programs since when they see everything, in ns of CLOCK_MONOTONIC.
func (p *Probe) sees(since uint64) error {
	v := p.collection.Variables[probeSince]
	if v == nil {
		return nil // none of them notes the beginning of something
	}
	if err := v.Set(since); err != nil {
		return fmt.Errorf("tell %s since when it is attached: %w", p.name, err)
	}
	return nil
}

// monotonic returns the time in ns, as bpf_ktime_get_ns does.
func monotonic() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // cannot happen on Linux
	}
	return uint64(ts.Nano())
}

// prepare does what comes before attaching.
func (p *Probe) prepare() error {
	if p.attaching == nil {
		return nil
	}
	if err := p.attaching(p); err != nil {
		return unavailable("prepare "+p.name, err, p.needs...)
	}
	return nil
}

// attachAll attaches programs and appends their links to a list.
func (p *Probe) attachAll(links []io.Closer, hook string, programs []string) ([]io.Closer, error) {
	for _, name := range programs {
		l, err := p.attach(p.collection.Programs[name], p.specs[name])
		if err != nil {
			return links, unavailable("attach to "+hook, err, p.needs...)
		}
		links = append(links, l)
	}
	return links, nil
}

// Extend attaches or detaches the programs of an extra, given by its place in the rung. While the probe is detached, they
// wait for Attach. The error is a *verdict.UnavailableError where the kernel lacks something.
func (p *Probe) Extend(i int, on bool) error {
	switch {
	case i < len(p.rung.extras) && p.lacking[i] == nil:
	case !on:
		return nil // it never was
	case i < len(p.rung.extras):
		return p.lacking[i]
	default:
		return &verdict.UnavailableError{Reason: p.rung.lacks}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted[i] == on {
		return nil
	}
	p.wanted[i] = on
	if !p.attached {
		return nil
	}
	if !on {
		return closeAll(&p.extended[i])
	}
	if err := p.prepare(); err != nil {
		p.wanted[i] = false
		return err
	}
	return p.extend(i)
}

// extend attaches an extra if it is wanted. If that fails, it is not wanted any more.
func (p *Probe) extend(i int) (err error) {
	if !p.wanted[i] {
		return nil
	}
	e := p.rung.extras[i]
	if p.extended[i], err = p.attachAll(nil, e.hook, e.programs); err != nil {
		p.wanted[i] = false
		return errors.Join(err, closeAll(&p.extended[i]))
	}
	return nil
}

// Extended says whether an extra is in use.
func (p *Probe) Extended(i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return i < len(p.wanted) && p.wanted[i]
}

// attach attaches a program by the kind of it that its section names.
func (p *Probe) attach(program *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	if program == nil {
		return nil, errors.New("there is no such program")
	}
	switch spec.Type {
	case ebpf.Tracing:
		return link.AttachTracing(link.TracingOptions{Program: program})
	case ebpf.RawTracepoint:
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: spec.AttachTo, Program: program})
	case ebpf.Kprobe:
		return attachFunction(program, spec)
	case ebpf.TracePoint:
		group, name, _ := strings.Cut(spec.AttachTo, "/")
		return link.Tracepoint(group, name, program, nil)
	case ebpf.CGroupSKB, ebpf.CGroupSock:
		return link.AttachCgroup(link.CgroupOptions{Path: p.cgroup, Attach: spec.AttachType, Program: program})
	default:
		return nil, fmt.Errorf("programs of the type %s are not attached here", spec.Type)
	}
}

// What kprobes need.
const (
	configFprobe  = "CONFIG_FPROBE=y" // kprobe.multi
	configKprobes = "CONFIG_KPROBE_EVENTS=y"
	kprobeEvents  = "/sys/bus/event_source/devices/kprobe" // is there with the latter
)

// attachFunction attaches a program of the section kprobe.multi or kretprobe.multi to a function of the kernel.
func attachFunction(program *ebpf.Program, spec *ebpf.ProgramSpec) (io.Closer, error) {
	returns := strings.HasPrefix(spec.SectionName, "kretprobe")
	if spec.AttachType == ebpf.AttachTraceKprobeMulti {
		attach := link.KprobeMulti
		if returns {
			attach = link.KretprobeMulti
		}
		l, err := attach(program, link.KprobeMultiOptions{Symbols: []string{spec.AttachTo}})
		if errors.Is(err, ebpf.ErrNotSupported) {
			return nil, &verdict.UnavailableError{Reason: "the kernel has no kprobe.multi", Missing: configFprobe}
		}
		return l, err
	}
	if _, err := os.Stat(kprobeEvents); err != nil { // the other way, by tracefs, leaves things behind
		return nil, &verdict.UnavailableError{Reason: "the kernel has no kprobes", Missing: configKprobes, Err: errnoOf(err)}
	}
	attach := link.Kprobe
	if returns {
		attach = link.Kretprobe
	}
	return attach(spec.AttachTo, program, nil)
}

// Detach detaches the programs; the counts stay. Nothing is lost by detaching twice.
func (p *Probe) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.detach()
}

func (p *Probe) detach() error {
	p.attached = false
	err := closeAll(&p.links)
	if p.collection != nil {
		err = errors.Join(err, p.sees(math.MaxUint64))
	}
	for i := range p.extended {
		err = errors.Join(err, closeAll(&p.extended[i]))
	}
	return err
}

// closeAll closes all links of a list and empties it.
func closeAll(links *[]io.Closer) error {
	var errs []error
	for _, l := range *links {
		errs = append(errs, l.Close())
	}
	*links = nil
	return errors.Join(errs...)
}

// Start returns when the probe was attached first: when its counters began.
func (p *Probe) Start() time.Time { return p.start }

// Hook returns where the probe is attached, e.g. tp_btf/sched_switch.
func (p *Probe) Hook() string {
	hooks := []string{p.rung.hook}
	for i, e := range p.rung.extras {
		if p.Extended(i) {
			hooks = append(hooks, e.hook)
		}
	}
	return strings.Join(hooks, ", ")
}

// Memory returns what the maps of the probe take of the kernel's memory at present, in bytes.
func (p *Probe) Memory() uint64 { return mapMemory(p.collection, p.shared) }

// Programs returns the programs that events run, those of extras among them.
func (p *Probe) Programs() []*ebpf.Program {
	var list []*ebpf.Program
	for _, name := range p.rung.all(p.lacking) {
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

// Sample makes the probe record one of 2^shift events, with that weight. Each call draws another sample of things that
// last, such as tasks.
func (p *Probe) Sample(shift uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.draw(), p.collection.Variables["sample_shift"].Set(shift))
}

// draw makes the programs take what they have on record of things that last as out of date, and choose them anew.
func (p *Probe) draw() error {
	v := p.collection.Variables["sample_salt"]
	if v == nil {
		return nil // it is no probe of events
	}
	p.salt++
	return v.Set(p.salt)
}

// Verdict says how the probe measures: by its best hook, or by another and why.
func (p *Probe) Verdict(name string) verdict.Verdict {
	v := verdict.Verdict{Name: name, State: verdict.Active, Hook: p.Hook()}
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
