package bpf

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// PacketReadShift is how many sockets a watched one stands for, as a power of two.
const PacketReadShift = 6

// PacketReadCounts is what the probe counted for an owner, and for a host when they are added up.
type PacketReadCounts struct {
	Wait Hist // from the arrival of data to the read of it; each measurement counts 2^PacketReadShift times
}

// PacketRead is the probe that measures how long data waits in TCP sockets for the application. See pktread.bpf.c. It
// takes 2.1 KB for each owner and shard, and some 100 bytes for each watched connection.
type PacketRead struct {
	*Probe
	Table[PacketReadCounts]
}

// pktreadRungs has the one way to measure.
func pktreadRungs() []rung {
	return []rung{{
		hook:     "tp_btf/tcp_probe, tcp_rcv_space_adjust",
		programs: []string{gen.PktreadProgPktreadRead, gen.PktreadProgPktreadArrive},
		fields: []field{
			{"sock_common", "skc_hash", ""},
			{"sock", "sk_cgrp_data", "CONFIG_SOCK_CGROUP_DATA=y"},
			{"sock_cgroup_data", "cgroup", ""},
			{"tcp_sock", "copied_seq", ""},
			{"tcp_sock", "rcv_nxt", ""},
			{"tcp_skb_cb", "seq", ""},
			{"tcp_skb_cb", "end_seq", ""},
		},
		tracepoints: []tracepoint{
			{"tcp_probe", []string{"sock", "sk_buff"}}, {"tcp_rcv_space_adjust", []string{"sock"}},
		},
	}}
}

// NewPacketRead loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that
// lacks something, the error is a *verdict.UnavailableError.
func NewPacketRead(k *Kernel, opts SocketOptions) (*PacketRead, error) {
	return newPacketRead(k, opts, PacketReadShift)
}

// newPacketRead watches one of 2^shift sockets.
func newPacketRead(k *Kernel, opts SocketOptions, shift uint32) (*PacketRead, error) {
	slots := k.slots()
	d := design{
		name: "the packet-to-read probe", spec: gen.LoadPktread, needs: []capability{capBPF, capPerfmon},
		rungs: pktreadRungs(),
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			return errors.Join(
				shareTable(spec, gen.PktreadMapPktreadTable, slots),
				setVariables(spec, map[string]any{
					gen.PktreadVarOnlyNetns: opts.OnlyNetns, gen.PktreadVarPktreadShift: shift,
				}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[PacketReadCounts](p.collection.Maps[gen.PktreadMapPktreadTable], slots)
	if err != nil {
		return nil, errors.Join(unavailable("read the packet-to-read probe", err, d.needs...), p.Close())
	}
	return &PacketRead{p, table}, nil
}
