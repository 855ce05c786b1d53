package bpf

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	// dropsReasons is how many counters a slot has, and dropsSubsystems the first of those of subsystems
	// (drops.bpf.c).
	dropsReasons, dropsSubsystems = 256, 240
	// dropsOther is the counter of reasons that have none.
	dropsOther = 0
)

// DropsCounts is what the probe counted for an owner, and for a host when they are added up: packets, by the numbers of
// Drops.Reasons.
type DropsCounts struct {
	Packets [dropsReasons]uint64
}

// Drops is the probe that counts dropped packets by reason. See drops.bpf.c. It takes 2 KB for each owner and shard.
type Drops struct {
	*Probe
	Table[DropsCounts]
	reasons [dropsReasons]string
}

// Reason returns the name of a reason: the kernel's own in lower case, without the prefix that all have; "" for one that
// it does not have.
func (d *Drops) Reason(i int) string { return d.reasons[i] }

// dropsRungs are the ways to count.
func dropsRungs() []rung {
	return []rung{
		{
			hook:        "tp_btf/kfree_skb",
			programs:    []string{gen.DropsProgDropsReceived},
			tracepoints: []tracepoint{{"kfree_skb", []string{"sk_buff", "", "", "sock"}}},
		},
		{
			hook:        "tp_btf/kfree_skb",
			programs:    []string{gen.DropsProgDropsFreed},
			tracepoints: []tracepoint{{"kfree_skb", []string{"sk_buff", "", ""}}},
			lacks:       "received packets belong to no unit or container, since the kernel does not tell the socket",
		},
	}
}

// NewDrops loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something (reasons: Linux 5.17), the error is a *verdict.UnavailableError.
func NewDrops(k *Kernel, opts SocketOptions) (*Drops, error) {
	return newDrops(k, opts, dropsRungs())
}

func newDrops(k *Kernel, opts SocketOptions, rungs []rung) (*Drops, error) {
	slots := k.slots()
	d := design{
		name: "the probe of dropped packets", spec: gen.LoadDrops, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
	}
	reasons, err := dropReasons(k)
	if err != nil {
		return nil, unavailable("load "+d.name, err, d.needs...)
	}
	d.prepare = func(spec *ebpf.CollectionSpec, _ *rung) error {
		return errors.Join(
			shareTable(spec, gen.DropsMapDropsTable, slots),
			setVariables(spec, map[string]any{
				gen.DropsVarOnlyNetns:        opts.OnlyNetns,
				gen.DropsVarDropsConsumed:    reasons.consumed,
				gen.DropsVarDropsUnspecified: reasons.unspecified,
			}))
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[DropsCounts](p.collection.Maps[gen.DropsMapDropsTable], slots)
	if err != nil {
		return nil, errors.Join(unavailable("read the probe of dropped packets", err, d.needs...), p.Close())
	}
	return &Drops{p, table, reasons.names}, nil
}

// A dropTable is what the running kernel calls the reasons for which it frees packets.
type dropTable struct {
	names                 [dropsReasons]string
	consumed, unspecified uint32 // numbers of the reasons that are no drops; ^0 if the kernel has none
}

// The kernel's names (include/net/dropreason-core.h).
const (
	dropConsumed    = "SKB_CONSUMED"
	dropUnspecified = "SKB_DROP_REASON_NOT_SPECIFIED"
	dropPrefix      = "SKB_DROP_REASON_"
	subsystemPrefix = "SKB_DROP_REASON_SUBSYS_"
)

// dropReasons reads the kernel's enums of reasons and of the subsystems that have reasons of their own.
func dropReasons(k *Kernel) (dropTable, error) {
	t := dropTable{consumed: ^uint32(0), unspecified: ^uint32(0)}
	types, err := k.types()
	if err != nil {
		return t, err
	}
	var core, subsystems *btf.Enum
	if err := types.TypeByName("skb_drop_reason", &core); errors.Is(err, btf.ErrNotFound) {
		return t, &verdict.UnavailableError{Reason: "the kernel does not tell why it drops packets"}
	} else if err != nil {
		return t, fmt.Errorf("look up the reasons for drops in the kernel's types: %w", err)
	}
	t.addReasons(core)
	// Kernels before 6.4 have no subsystems.
	if err := types.TypeByName("skb_drop_reason_subsys", &subsystems); err == nil {
		t.addSubsystems(subsystems)
	}
	t.names[dropsOther] = "other"
	return t, nil
}

// addReasons takes the names of the kernel's own reasons. Its last values are no reasons: a number of them, a mask.
func (t *dropTable) addReasons(e *btf.Enum) {
	for _, v := range e.Values {
		switch v.Name {
		case dropConsumed:
			t.consumed = uint32(v.Value)
			continue
		case dropUnspecified:
			t.unspecified = uint32(v.Value)
			continue
		case dropPrefix + "MAX", dropPrefix + "SUBSYS_MASK":
			continue
		}
		if name, ok := strings.CutPrefix(v.Name, dropPrefix); ok && v.Value < dropsSubsystems {
			t.names[v.Value] = strings.ToLower(name)
		}
	}
}

// addSubsystems takes the names of subsystems. Number 0 stands for the kernel's own reasons.
func (t *dropTable) addSubsystems(e *btf.Enum) {
	for _, v := range e.Values {
		name, ok := strings.CutPrefix(v.Name, subsystemPrefix)
		if ok && name != "NUM" && v.Value > 0 && v.Value < dropsReasons-dropsSubsystems {
			t.names[dropsSubsystems+v.Value] = "subsys_" + strings.ToLower(name)
		}
	}
}
