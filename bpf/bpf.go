// Package bpf is the kernel side of slid: one small program per probe, compiled into the binary (folder gen), loaded
// and attached here. Programs count into arrays that user space maps, so reading a probe is neither a system call nor
// an allocation.
//
// Each probe is a collection of its own: when the kernel refuses one, the others work, and the constructor's
// *verdict.UnavailableError says why and which capability or kernel option is missing. What a kernel can do is decided
// by its BTF and by trying, never by its version. Nothing is pinned: a probe lives as long as the process, and its
// counters begin when it is attached.
//
// No memory lock limit is raised. Kernels since 5.11 charge maps to the memory cgroup instead, and older ones lack what
// the probes need anyway.
package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/btf"

	"github.com/slid-agent/slid/internal/verdict"
)

// A field is a member of a kernel struct that a probe reads.
type field struct {
	structure, member string
	option            string // the kernel option that brings it
}

// requireFields checks that the kernel has all fields.
func requireFields(types *btf.Spec, fields []field) error {
	for _, f := range fields {
		var s *btf.Struct
		err := types.TypeByName(f.structure, &s)
		if err == nil && hasMember(s, f.member) {
			continue
		}
		if err != nil && !errors.Is(err, btf.ErrNotFound) {
			return fmt.Errorf("look up struct %s in the kernel's types: %w", f.structure, err)
		}
		return &verdict.UnavailableError{
			Reason:  fmt.Sprintf("the kernel's struct %s has no field %s", f.structure, f.member),
			Missing: f.option,
		}
	}
	return nil
}

// hasMember looks for a member by name, also inside anonymous structs and unions.
func hasMember(t btf.Type, name string) bool {
	var members []btf.Member
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name || m.Name == "" && hasMember(m.Type, name) {
			return true
		}
	}
	return false
}

// A tracepoint is one that a probe attaches to.
type tracepoint struct {
	name string
	// args holds, from the first argument on, the name of the struct that an argument points to, or "" where any type
	// will do. The tracepoint may have more.
	args []string
}

// requireTracepoint checks that the kernel has a tracepoint with the arguments that slid knows.
func requireTracepoint(types *btf.Spec, t tracepoint) error {
	var def *btf.Typedef
	name := t.name
	err := types.TypeByName("btf_trace_"+name, &def)
	if err != nil && !errors.Is(err, btf.ErrNotFound) {
		return fmt.Errorf("look up tracepoint %s in the kernel's types: %w", name, err)
	}
	if err != nil {
		return &verdict.UnavailableError{Reason: "the kernel has no tracepoint " + name}
	}
	if !takes(def, t.args) {
		return &verdict.UnavailableError{
			Reason: "the kernel's tracepoint " + name + " has other arguments than slid knows",
		}
	}
	return nil
}

// takes says whether the typedef of a tracepoint, a pointer to a function, has the wanted arguments behind the first,
// which is private to the tracepoint.
func takes(def *btf.Typedef, want []string) bool {
	pointer, ok := btf.UnderlyingType(def).(*btf.Pointer)
	if !ok {
		return false
	}
	proto, ok := btf.UnderlyingType(pointer.Target).(*btf.FuncProto)
	if !ok || len(proto.Params) <= len(want) {
		return false
	}
	for i, name := range want {
		if name != "" && pointsTo(proto.Params[i+1].Type) != name {
			return false
		}
	}
	return true
}

// pointsTo returns the name of the struct that t points to, or "".
func pointsTo(t btf.Type) string {
	pointer, ok := btf.UnderlyingType(t).(*btf.Pointer)
	if !ok {
		return ""
	}
	s, ok := btf.UnderlyingType(pointer.Target).(*btf.Struct)
	if !ok {
		return ""
	}
	return s.Name
}
