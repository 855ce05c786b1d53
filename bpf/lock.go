package bpf

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// Kinds of locks. Those up to LockTaskKinds are waited for by tasks, the others by CPUs.
const (
	LockMutex       = iota // the task slept
	LockMutexSpin          // the task did nothing but spin
	LockRWSemRead          // a read-write semaphore, e.g. of an address space or a folder
	LockRWSemWrite         // likewise
	LockPerCPURead         // a read-write semaphore that is cheap for readers, e.g. of control groups
	LockPerCPUWrite        // likewise
	LockRTMutex            // with PREEMPT_RT, spin locks too
	LockSpin
	LockRWLockRead
	LockRWLockWrite
	LockKinds

	LockTaskKinds = LockSpin
)

// LockOptions narrows what the probe records.
type LockOptions struct {
	OnlyTGID uint32 // the process whose threads alone are recorded; 0 means all
}

// LockCounts is what the probe counted for an owner, by kind.
type LockCounts struct {
	Waits, WaitNS [LockTaskKinds]uint64
}

// Lock is the probe that measures contention for the kernel's locks. See lock.bpf.c. It takes 112 bytes for each owner
// and 21 KB for the histograms of all kinds, for each shard; 320 KB for tasks that wait; and 192 bytes for each CPU.
type Lock struct {
	*Probe
	Table[LockCounts]             // a slot for each owner
	Kinds             Table[Hist] // of the host, a slot for each kind
}

// NewLock loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewLock(k *Kernel, opts LockOptions) (*Lock, error) {
	slots := k.slots()
	d := design{
		name: "the lock probe", spec: gen.LoadLock, needs: []capability{capBPF, capPerfmon},
		rungs: []rung{{
			hook:     "tp_btf/contention_begin, contention_end",
			programs: []string{gen.LockProgLockEnd, gen.LockProgLockBegin},
			tracepoints: []tracepoint{
				{"contention_begin", []string{"", ""}}, {"contention_end", []string{""}},
			},
		}},
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			cpus := int(spec.Maps[probeCPUs].MaxEntries)
			spec.Maps[gen.LockMapLockCpus].MaxEntries = uint32(cpus)
			table, kinds := spec.Maps[gen.LockMapLockTable], spec.Maps[gen.LockMapLockKinds]
			shards := tableShards(slots*int(table.ValueSize)+LockKinds*int(kinds.ValueSize), cpus)
			kinds.MaxEntries = uint32(LockKinds * shards)
			return errors.Join(
				sizeTable(spec, table.Name, slots, shards),
				setVariables(spec, map[string]any{gen.LockVarOnlyTgid: opts.OnlyTGID}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err1 := openTable[LockCounts](p.collection.Maps[gen.LockMapLockTable], slots)
	kinds, err2 := openTable[Hist](p.collection.Maps[gen.LockMapLockKinds], LockKinds)
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(unavailable("read the lock probe", err, d.needs...), p.Close())
	}
	return &Lock{p, table, kinds}, nil
}
