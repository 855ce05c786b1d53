package bpf

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// The kinds of reclaim: the indexes of ReclaimCounts.Stall.
const (
	ReclaimGlobal = iota // the host had no free memory left
	ReclaimCgroup        // a control group had reached its limit
)

// ReclaimCounts is what the probe counted for an owner, and for a host when they are added up.
type ReclaimCounts struct {
	Stall [2]Hist // how long tasks freed memory before they got some
}

// Reclaim is the probe that measures how long tasks are held up by direct reclaim. See reclaim.bpf.c. It takes 4.1 KB
// for each owner, and some 100 bytes for each task that ever had to reclaim.
type Reclaim struct {
	*Probe
	Table[ReclaimCounts]
}

// reclaimRungs are the ways to measure reclaim.
func reclaimRungs() []rung {
	any1 := []string{""}
	global := []tracepoint{{"mm_vmscan_direct_reclaim_begin", any1}, {"mm_vmscan_direct_reclaim_end", any1}}
	cgroup := []tracepoint{{"mm_vmscan_memcg_reclaim_begin", any1}, {"mm_vmscan_memcg_reclaim_end", any1}}
	return []rung{
		{
			hook: "tp_btf/mm_vmscan_direct_reclaim_begin, mm_vmscan_memcg_reclaim_begin",
			programs: []string{
				gen.ReclaimProgReclaimEnd, gen.ReclaimProgReclaimBegin,
				gen.ReclaimProgReclaimCend, gen.ReclaimProgReclaimCbegin,
			},
			tracepoints: append(cgroup, global...),
		},
		{
			hook:        "tp_btf/mm_vmscan_direct_reclaim_begin",
			programs:    []string{gen.ReclaimProgReclaimEnd, gen.ReclaimProgReclaimBegin},
			tracepoints: global,
			lacks:       "reclaim at the limits of control groups is not seen",
		},
	}
}

// NewReclaim loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewReclaim(k *Kernel) (*Reclaim, error) { return newReclaim(k, reclaimRungs()) }

func newReclaim(k *Kernel, rungs []rung) (*Reclaim, error) {
	d := design{
		name: "the reclaim probe", spec: gen.LoadReclaim, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			return sizeTable(spec, gen.ReclaimMapReclaimTable, k.slots(), 1) // it is rare: CPUs share
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[ReclaimCounts](p.collection.Maps[gen.ReclaimMapReclaimTable], k.slots())
	if err != nil {
		return nil, errors.Join(unavailable("read the reclaim probe", err, d.needs...), p.Close())
	}
	return &Reclaim{p, table}, nil
}
