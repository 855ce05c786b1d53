package bpf

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// OOMCounts is what the probe counted for an owner, and for a host when they are added up.
type OOMCounts struct {
	Victims uint64 // processes that the OOM killer chose
}

// OOM is the probe that counts the victims of the OOM killer. See oom.bpf.c. It takes 8 bytes for each owner.
type OOM struct {
	*Probe
	Table[OOMCounts]
}

const (
	oomFunction = "__oom_kill_process"
	// What follows are indexes of oomRungs.
	oomRungTask   = 0
	oomRungKill   = 1
	oomRungMulti  = 2
	oomRungAlone  = 3
	oomRungNumber = 4
)

// oomRungs are the ways to count victims.
func oomRungs() []rung {
	victim := []field{{"task_struct", "group_leader", ""}, {"css_set", "dfl_cgrp", "CONFIG_CGROUPS=y"}}
	const lacks = "a process that was about to end by itself when it was chosen is not counted"
	multi, alone := byKprobes(rung{
		programs: []string{gen.OOMProgOomProbe}, fields: victim, functions: []string{oomFunction}, lacks: lacks,
	}, oomFunction)
	return []rung{
		oomRungTask: {
			hook:        "tp_btf/mark_victim",
			programs:    []string{gen.OOMProgOomVictim},
			fields:      victim,
			tracepoints: []tracepoint{{"mark_victim", []string{"task_struct"}}},
		},
		oomRungKill: {
			hook:      "fentry/" + oomFunction,
			programs:  []string{gen.OOMProgOomKill},
			fields:    victim,
			functions: []string{oomFunction},
			lacks:     lacks,
		},
		oomRungMulti: multi,
		oomRungAlone: alone,
		oomRungNumber: {
			hook:        "tp_btf/mark_victim",
			programs:    []string{gen.OOMProgOomNumber},
			tracepoints: []tracepoint{{"mark_victim", []string{""}}},
			lacks: "victims count for the group of the task that ran out of memory, which need not be their own, and " +
				"once for each of their threads that does",
		},
	}
}

// NewOOM loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewOOM(k *Kernel) (*OOM, error) { return newOOM(k, oomRungs()) }

func newOOM(k *Kernel, rungs []rung) (*OOM, error) {
	d := design{
		name: "the OOM probe", spec: gen.LoadOOM, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			return sizeTable(spec, gen.OOMMapOomTable, k.slots(), 1)
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[OOMCounts](p.collection.Maps[gen.OOMMapOomTable], k.slots())
	if err != nil {
		return nil, errors.Join(unavailable("read the OOM probe", err, d.needs...), p.Close())
	}
	return &OOM{p, table}, nil
}
