package bpf

import (
	"errors"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/slid-agent/slid/bpf/gen"
)

// RunQueueHook is where the run-queue probe attaches.
const RunQueueHook = "tp_btf/sched_switch"

// runQueueFields are the fields that runqueue.bpf.c reads and some kernels lack.
var runQueueFields = []field{
	{"sched_info", "run_delay", "CONFIG_SCHED_INFO=y"},
	{"sched_info", "last_queued", "CONFIG_SCHED_INFO=y"},
	{"sched_info", "pcount", "CONFIG_SCHED_INFO=y"},
	{"sched_entity", "cfs_rq", "CONFIG_FAIR_GROUP_SCHED=y"},
	{"cfs_rq", "rq", "CONFIG_FAIR_GROUP_SCHED=y"},
}

// RunQueueOptions narrows what the probe records.
type RunQueueOptions struct {
	OnlyTGID uint32 // the process whose threads alone are recorded; 0 means all
}

// RunQueueTotals is what the probe counted on all CPUs since it was attached.
type RunQueueTotals struct {
	Wait      Hist
	Runs      uint64 // runs of the program: switches, those to the idle task included
	Unmatched uint64 // waits whose length is unknown, most of them begun before the probe
	Discarded uint64 // waits of negative length, by clocks of CPUs that disagree
	// TimedRuns, one of 256, measured their own time: TimedNS in sum.
	TimedRuns, TimedNS uint64
}

// Hist is a histogram of struct hist (include/hist.h). Bucket b counts durations in (2^((b-192)/8), 2^((b-191)/8)]
// seconds, the range of metric.Durations.
type Hist struct {
	Zero     uint64 // durations up to 2^-24 s; they are in no bucket
	Overflow uint64 // durations above 2^8 s; they are in the last bucket too
	SumNS    uint64
	Buckets  [256]uint64
}

// RunQueue is the loaded and attached probe that measures how long tasks wait for a CPU. See runqueue.bpf.c. It takes
// 2.1 KB for each possible CPU and some 100 bytes for each task. Its methods may be called concurrently, those that
// read even after Close.
type RunQueue struct {
	objects gen.RunqueueObjects
	link    link.Link
	slots   *ebpf.Memory
	cpus    int
	start   time.Time

	mu   sync.Mutex               // guards slot
	slot gen.RunqueueRunqueueSlot // the one that is read; here so that reading does not allocate
}

// NewRunQueue loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that
// lacks something, the error is a *verdict.UnavailableError.
func NewRunQueue(opts RunQueueOptions) (*RunQueue, error) {
	needs := []capability{capBPF, capPerfmon}
	r := &RunQueue{}
	if err := r.load(opts); err != nil {
		return nil, errors.Join(unavailable("load the run-queue probe", err, needs...), r.Close())
	}
	if err := r.attach(); err != nil {
		return nil, errors.Join(unavailable("attach to "+RunQueueHook, err, needs...), r.Close())
	}
	return r, nil
}

func (r *RunQueue) load(opts RunQueueOptions) error {
	cache := btf.NewCache()
	types, err := kernelTypes(cache)
	if err != nil {
		return err
	}
	if err := requireFields(types, runQueueFields); err != nil {
		return err
	}
	if err := requireTracepoint(types, "sched_switch", "", "task_struct", "task_struct"); err != nil {
		return err
	}
	spec, err := gen.LoadRunqueue()
	if err != nil {
		return err
	}
	if err := spec.Variables[gen.RunqueueVarOnlyTgid].Set(opts.OnlyTGID); err != nil {
		return err
	}
	if r.cpus, err = ebpf.PossibleCPU(); err != nil {
		return err
	}
	spec.Maps[gen.RunqueueMapRunqueueSlots].MaxEntries = uint32(r.cpus)
	if err := spec.LoadAndAssign(&r.objects, &ebpf.CollectionOptions{Cache: cache}); err != nil {
		return err
	}
	r.slots, err = r.objects.RunqueueSlots.Memory()
	return err
}

func (r *RunQueue) attach() (err error) {
	r.start = time.Now()
	r.link, err = link.AttachTracing(link.TracingOptions{Program: r.objects.RunqueueSwitch})
	return err
}

// Start returns when the probe was attached: when its counters began.
func (r *RunQueue) Start() time.Time { return r.start }

// Programs returns the programs of the probe.
func (r *RunQueue) Programs() []*ebpf.Program { return []*ebpf.Program{r.objects.RunqueueSwitch} }

// Read stores the sums over all CPUs in t. The counters run on meanwhile, so that a wait may be in one of them and not
// yet in another. It takes some 0.2 us for each possible CPU and allocates nothing.
func (r *RunQueue) Read(t *RunQueueTotals) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	*t = RunQueueTotals{}
	for cpu := range r.cpus {
		if err := readStruct(r.slots, cpu, &r.slot); err != nil {
			return err
		}
		t.add(&r.slot)
	}
	return nil
}

// Counts returns what the probe counts about itself, for a Meter.
func (r *RunQueue) Counts() Counts {
	var t RunQueueTotals
	if r.Read(&t) != nil {
		return Counts{}
	}
	return Counts{
		Runs: t.Runs, TimedRuns: t.TimedRuns, TimedNS: t.TimedNS,
		Outcomes: true, Recorded: t.Wait.Count(), Unmatched: t.Unmatched, Discarded: t.Discarded,
	}
}

// add adds what one CPU counted.
func (t *RunQueueTotals) add(s *gen.RunqueueRunqueueSlot) {
	t.Wait.Zero += s.Wait.Zero
	t.Wait.Overflow += s.Wait.Overflow
	t.Wait.SumNS += s.Wait.SumNs
	for b, n := range &s.Wait.Buckets {
		t.Wait.Buckets[b] += n
	}
	t.Runs += s.Runs
	t.Unmatched += s.Unmatched
	t.Discarded += s.Discarded
	t.TimedRuns += s.TimedRuns
	t.TimedNS += s.TimedNs
}

// Count returns the number of durations in the histogram.
func (h *Hist) Count() uint64 {
	n := h.Zero
	for _, c := range &h.Buckets {
		n += c
	}
	return n
}

// Close detaches and unloads the probe.
func (r *RunQueue) Close() error {
	var err error
	if r.link != nil {
		err = r.link.Close()
	}
	return errors.Join(err, r.objects.Close())
}
