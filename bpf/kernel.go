package bpf

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/verdict"
)

// A Kernel is what probes share: the kernel's types, which take megabytes while probes are loaded, and the owners of
// events. The zero Kernel is ready, and without owners: everything belongs to nobody. It is not safe for concurrent use.
type Kernel struct {
	cache  *btf.Cache
	owners *Owners
	walks  walking
}

// Release gives the kernel's types back. A probe that is loaded later reads them again.
func (k *Kernel) Release() { k.cache = nil }

// Attribute makes the probes that are loaded from now on tell apart the given owners. nil means none.
func (k *Kernel) Attribute(o *Owners) { k.owners = o }

// Attributed says whether the probes loaded now tell owners apart.
func (k *Kernel) Attributed() bool { return k.owners != nil }

// types returns the running kernel's type information: a mapping of /sys/kernel/btf/vmlinux, decoded as needed. The
// cache goes on to the loader, which needs the same.
func (k *Kernel) types() (*btf.Spec, error) {
	if k.cache == nil {
		k.cache = btf.NewCache()
	}
	types, err := k.cache.Kernel()
	if err != nil {
		return nil, &verdict.UnavailableError{
			Reason:  "the kernel has no type information in /sys/kernel/btf/vmlinux",
			Missing: "CONFIG_DEBUG_INFO_BTF=y",
			Err:     errnoOf(err),
		}
	}
	return types, nil
}

// slots returns how many owners a table has to tell apart.
func (k *Kernel) slots() int {
	if k.owners == nil {
		return 1
	}
	return k.owners.slots
}

// shared returns the maps that collections have in common.
func (k *Kernel) shared(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	if k.owners == nil || spec.Maps[gen.OwnerMapOwnerGroups] == nil {
		return nil
	}
	return map[string]*ebpf.Map{gen.OwnerMapOwnerGroups: k.owners.groups}
}
