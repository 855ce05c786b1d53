package bpf

import (
	"errors"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
)

// SocketOptions narrows what the probes of sockets record.
type SocketOptions struct {
	OnlyNetns uint32 // the network namespace alone to look at, by the inode number of /proc/PID/ns/net; 0 means all
	room      uint32 // connections in accept queues that are told apart; 0: as many as the probe has room for
}

// AcceptCounts is what the probe counted for an owner, and for a host when they are added up.
type AcceptCounts struct {
	Wait  Hist   // from the handshake to accept(2)
	Ended uint64 // connections that ended before they were accepted
}

// Accept is the probe that measures how long connections wait in accept queues. See accept.bpf.c. It takes 2.1 KB for
// each owner and shard, and some 80 bytes for each connection that waits.
type Accept struct {
	*Probe
	Table[AcceptCounts]
}

// acceptRungs are the ways to see that a connection was accepted.
func acceptRungs() []rung {
	state := tracepoint{"inet_sock_set_state", []string{"sock", "", ""}}
	fields := []field{
		{"sock", "sk_protocol", ""},
		{"sock", "sk_cgrp_data", "CONFIG_SOCK_CGROUP_DATA=y"},
		{"sock_cgroup_data", "cgroup", ""},
	}
	atReturn := func(program string) rung {
		return rung{
			hook:      "tp_btf/inet_sock_set_state, fexit/inet_csk_accept",
			programs:  []string{program, gen.AcceptProgAcceptState},
			fields:    fields,
			functions: []string{"inet_csk_accept"}, tracepoints: []tracepoint{state},
		}
	}
	return []rung{
		atReturn(gen.AcceptProgAcceptReturn2),
		atReturn(gen.AcceptProgAcceptReturn4), // the same, as kernels before 6.10 have it
		{
			hook:     "tp_btf/inet_sock_set_state, sys_exit",
			programs: []string{gen.AcceptProgAcceptExit, gen.AcceptProgAcceptState},
			fields: append(fields,
				field{"files_struct", "fdt", ""}, field{"fdtable", "fd", ""}, field{"file", "private_data", ""},
				field{"socket", "sk", ""}),
			tracepoints: []tracepoint{state, {"sys_exit", []string{"pt_regs", ""}}},
			lacks:       "runs at each system call's exit, and misses connections accepted by io_uring, MPTCP or the kernel",
		},
	}
}

// NewAccept loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewAccept(k *Kernel, opts SocketOptions) (*Accept, error) {
	return newAccept(k, opts, acceptRungs())
}

func newAccept(k *Kernel, opts SocketOptions, rungs []rung) (*Accept, error) {
	slots := k.slots()
	d := design{
		name: "the accept-queue probe", spec: gen.LoadAccept, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			if opts.room != 0 {
				spec.Maps[gen.AcceptMapAcceptWaits].MaxEntries = opts.room
			}
			return errors.Join(
				shareTable(spec, gen.AcceptMapAcceptTable, slots),
				setVariables(spec, map[string]any{
					gen.AcceptVarOnlyNetns:   opts.OnlyNetns,
					gen.AcceptVarAcceptCall:  uint32(unix.SYS_ACCEPT),
					gen.AcceptVarAccept4Call: uint32(unix.SYS_ACCEPT4),
				}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	table, err := openTable[AcceptCounts](p.collection.Maps[gen.AcceptMapAcceptTable], slots)
	if err != nil {
		return nil, errors.Join(unavailable("read the accept-queue probe", err, d.needs...), p.Close())
	}
	return &Accept{p, table}, nil
}
