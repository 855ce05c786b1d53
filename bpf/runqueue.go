package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// RunQueueOptions narrows what the probe records.
type RunQueueOptions struct {
	OnlyTGID uint32 // the process whose threads alone are recorded; 0 means all
}

// RunQueueCounts is what the probe counted for an owner, and for a host when they are added up.
type RunQueueCounts struct {
	Wait Hist
	// Preempted waits, of tasks that another one took the CPU from, and their time: see the constants.
	Preempted, PreemptedNS [3]uint64
}

// Who took the CPU: the indexes of RunQueueCounts.Preempted.
const (
	PreemptedByOwn    = iota // a task of the same owner, or nobody: a quota of CPU time was used up
	PreemptedByOther         // a task of another owner
	PreemptedBySystem        // a task of the kernel
)

// RunQueue is the probe that measures how long tasks wait for a CPU. See runqueue.bpf.c. It takes 2.2 KB for each owner
// and shard, 256 KB for tasks, and some 100 bytes for each task that finds no place there.
type RunQueue struct {
	*Probe
	Table[RunQueueCounts]
}

// runQueueRungs are the ways to measure waits.
func runQueueRungs() []rung {
	switches := tracepoint{"sched_switch", []string{"", "task_struct", "task_struct", ""}}
	moves := tracepoint{"cgroup_attach_task", []string{"cgroup"}}
	frees := tracepoint{"sched_process_free", []string{"task_struct"}}
	return []rung{
		{
			hook: "tp_btf/sched_switch",
			programs: []string{
				gen.RunqueueProgRunqueueFreed, // first: who gets a seat gives it back
				gen.RunqueueProgRunqueueSwitch, gen.RunqueueProgRunqueueMoved,
			},
			fields: []field{
				{"sched_info", "run_delay", "CONFIG_SCHED_INFO=y"},
				{"sched_info", "last_queued", "CONFIG_SCHED_INFO=y"},
				{"sched_info", "pcount", "CONFIG_SCHED_INFO=y"},
				{"sched_entity", "cfs_rq", "CONFIG_FAIR_GROUP_SCHED=y"},
				{"cfs_rq", "rq", "CONFIG_FAIR_GROUP_SCHED=y"},
			},
			tracepoints: []tracepoint{switches, moves, frees},
		},
		{
			hook: "tp_btf/sched_wakeup, sched_wakeup_new, sched_switch",
			programs: []string{
				gen.RunqueueProgRunqueueFreed, gen.RunqueueProgRunqueueChange, gen.RunqueueProgRunqueueWakeup,
				gen.RunqueueProgRunqueueNew, gen.RunqueueProgRunqueueMoved,
			},
			tracepoints: []tracepoint{
				switches, moves, frees,
				{"sched_wakeup", []string{"task_struct"}},
				{"sched_wakeup_new", []string{"task_struct"}},
			},
			lacks: "measured at three hooks, at four times the cost",
		},
	}
}

// NewRunQueue loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that
// lacks something, the error is a *verdict.UnavailableError.
func NewRunQueue(k *Kernel, opts RunQueueOptions) (*RunQueue, error) {
	return newRunQueue(k, opts, runQueueRungs())
}

func newRunQueue(k *Kernel, opts RunQueueOptions, rungs []rung) (*RunQueue, error) {
	slots := k.slots()
	d := design{
		name: "the run-queue probe", spec: gen.LoadRunqueue, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		attaching: emptySeats,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			cpus := int(spec.Maps[probeCPUs].MaxEntries)
			table := spec.Maps[gen.RunqueueMapRunqueueTable]
			shards := tableShards(slots*int(table.ValueSize), cpus)
			return errors.Join(
				sizeTable(spec, table.Name, slots, shards),
				setVariables(spec, map[string]any{
					gen.RunqueueVarExclusive: shards >= cpus, gen.RunqueueVarOnlyTgid: opts.OnlyTGID,
				}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[RunQueueCounts](p.collection.Maps[gen.RunqueueMapRunqueueTable], slots)
	if err != nil {
		return nil, errors.Join(unavailable("read the run-queue probe", err, d.needs...), p.Close())
	}
	return &RunQueue{p, table}, nil
}

// runQueueSeat has the size of struct runqueue_seat (bpf/runqueue.bpf.c).
type runQueueSeat [4]uint64

// emptySeats makes the probe forget the tasks in its seats: those that ended while it was detached would keep theirs.
func emptySeats(p *Probe) error {
	if p.start.IsZero() {
		return nil // nobody was ever seated
	}
	const batch = 512 // divides their number
	seats := p.collection.Maps[gen.RunqueueMapRunqueueSeats]
	keys, empty := make([]uint32, batch), make([]runQueueSeat, batch)
	for first := uint32(0); first < seats.MaxEntries(); first += batch {
		for i := range keys {
			keys[i] = first + uint32(i)
		}
		if _, err := seats.BatchUpdate(keys, empty, nil); err != nil {
			return fmt.Errorf("empty the seats of tasks: %w", err)
		}
	}
	return nil
}

// Moved tells the probe that owners got other slots: what it remembers of tasks is out of date.
func (r *RunQueue) Moved() error {
	v := r.collection.Variables[gen.RunqueueVarOwnerEpoch]
	var epoch uint32
	if err := v.Get(&epoch); err != nil {
		return err
	}
	return v.Set(epoch + 1)
}
