package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/slid-agent/slid/internal/verdict"
)

// walking is how programs get to see the state that sockets hold: see bpf/include/walk.h.
type walking int

const (
	walkUntried walking = iota
	walkStorage         // iter/bpf_sk_storage_map
	walkFiles           // iter/task_file, where the kernel refuses the former
)

// String returns the section of the programs.
func (w walking) String() string {
	if w == walkFiles {
		return "iter/task_file"
	}
	return "iter/bpf_sk_storage_map"
}

// qualify adds to a verdict what walking over files lacks.
func (w walking) qualify(v verdict.Verdict) verdict.Verdict {
	if w != walkFiles {
		return v
	}
	const lacks = "this kernel refuses iterators over maps, so that open files are walked over: sockets that no process holds as a " +
		"file (parts of MPTCP connections, the kernel's own, those of io_uring alone) are looked at only when they end"
	v.Hook += ", " + w.String()
	if v.Reason != "" {
		v.Reason += "; "
	}
	v.State, v.Reason = verdict.Degraded, v.Reason+lacks
	return v
}

// A walker is a pair of programs that do the same, one for each way to walk over the sockets that have an element in a map.
type walker struct {
	storage, files string // names of the programs
	sockets        string // name of the map
}

// choose leaves one of the two programs in a specification, by whether the kernel loads such a one at all.
func (w walker) choose(k *Kernel, spec *ebpf.CollectionSpec) {
	if k.walking() == walkFiles {
		delete(spec.Programs, w.storage)
	} else {
		delete(spec.Programs, w.files)
	}
}

// program returns the one that was loaded.
func (w walker) program(c *ebpf.Collection) *ebpf.Program {
	if p := c.Programs[w.storage]; p != nil {
		return p
	}
	return c.Programs[w.files]
}

// attach makes the iterator of the program that was loaded.
func (w walker) attach(c *ebpf.Collection) (*link.Iter, error) {
	options := link.IterOptions{Program: w.program(c)}
	if c.Programs[w.storage] != nil {
		options.Map = c.Maps[w.sockets]
	}
	iter, err := link.AttachIter(options)
	if err != nil {
		return nil, fmt.Errorf("walk over sockets: %w", err)
	}
	return iter, nil
}

// walking tries once whether the kernel loads iterators over the state of sockets. Whatever else it lacks shows when the
// real programs are loaded.
func (k *Kernel) walking() walking {
	if k.walks != walkUntried {
		return k.walks
	}
	k.walks = walkFiles
	p, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_sk_storage_map", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}, ebpf.ProgramOptions{})
	if err == nil {
		k.walks = walkStorage
		_ = p.Close() // it was never attached
	}
	return k.walks
}
