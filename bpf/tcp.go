package bpf

import (
	"errors"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/verdict"
)

// TCPOptions narrows what the probe counts.
type TCPOptions struct {
	OnlyNetns uint32 // the network namespace (inode number of /proc/PID/ns/net) that alone is counted; 0 means all
}

// Where the other end of a connection is: the last index of TCPCounts' fields.
const (
	TCPRemote   = iota
	TCPLoopback // 127.0.0.0/8, ::1, or the own address
	tcpPeers
)

// Who asked for a connection: the first index of TCPCounts.Opened.
const (
	TCPActive  = iota // this end
	TCPPassive        // the other end
	tcpOpens
)

// Why a connection could not be made: the first index of TCPCounts.Failed.
const (
	TCPRefused         = iota
	TCPTimeout         // no answer
	TCPHostUnreachable // told by ICMP, or no link address
	TCPNetUnreachable  // told by ICMP
	TCPAborted         // the program gave up, mostly at a timeout of its own
	TCPNotSent         // no request left the socket, mostly since all local ports are taken
	TCPOther
	TCPCauses
)

// TCPCounts is what the probe counted for an owner, and for a host when they are added up.
type TCPCounts struct {
	Connect        [tcpPeers]Hist // time from asking for a connection to having it
	RTT            Hist           // smoothed round-trip times of remote peers: see TCP.Sweep
	Opened         [tcpOpens][tcpPeers]uint64
	Failed         [TCPCauses][tcpPeers]uint64
	Sent, Received [tcpPeers]uint64 // bytes of payload, each once
	Retransmitted  uint64           // segments
	ResetsSent     uint64
	ResetsReceived uint64
}

// TCP is the probe that measures TCP connections. See tcp.bpf.c. It takes 6.4 KB for each owner and shard, and some
// 320 bytes for each connection. Its methods may be called concurrently, but Close.
type TCP struct {
	*Probe
	Table[TCPCounts]

	mu           sync.Mutex // guards what follows
	sweep, adopt *link.Iter
	detached     bool
	walk         walking
}

// tcpWalker takes what has grown of connections.
var tcpWalker = walker{gen.TCPProgTcpSweep, gen.TCPProgTcpSweepFiles, gen.TCPMapTcpConns}

// tcpRungs are the ways to measure connections.
func tcpRungs() []rung {
	tracepoints := func(reset ...string) []tracepoint {
		return []tracepoint{
			{"inet_sock_set_state", []string{"sock", "", ""}},
			{"tcp_retransmit_synack", []string{"sock", "request_sock"}},
			{"tcp_receive_reset", []string{"sock"}},
			{"tcp_send_reset", reset},
		}
	}
	whole := rung{
		hook: "tp_btf/inet_sock_set_state, tcp_retransmit_synack, tcp_send_reset, tcp_receive_reset",
		programs: []string{
			gen.TCPProgTcpState, gen.TCPProgTcpSynack, gen.TCPProgTcpReject, gen.TCPProgTcpRejected,
		},
		fields: []field{
			{"sock", "sk_cgrp_data", "CONFIG_SOCK_CGROUP_DATA=y"},
			{"sock_cgroup_data", "cgroup", ""},
			{"tcp_sock", "bytes_retrans", ""},
			{"tcp_sock", "bytes_sent", ""},
			{"tcp_sock", "fastopen_connect", ""},
		},
		// The kernels that give a reason call it for resets without a socket, too.
		tracepoints: tracepoints("sock", "sk_buff", ""),
	}
	part := whole
	part.tracepoints = tracepoints("sock", "sk_buff")
	part.lacks = "resets without a socket, as of closed ports, are not counted"
	return []rung{whole, part}
}

// NewTCP loads the probe and attaches it. It needs CAP_BPF and CAP_PERFMON. Without them, or on a kernel that lacks
// something, the error is a *verdict.UnavailableError.
func NewTCP(k *Kernel, opts TCPOptions) (*TCP, error) {
	return newTCP(k, opts, tcpRungs())
}

func newTCP(k *Kernel, opts TCPOptions, rungs []rung) (*TCP, error) {
	slots := k.slots()
	d := design{
		name: "the TCP probe", spec: gen.LoadTCP, needs: []capability{capBPF, capPerfmon}, rungs: rungs,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			cpus := int(spec.Maps[probeCPUs].MaxEntries)
			table := spec.Maps[gen.TCPMapTcpTable]
			tcpWalker.choose(k, spec)
			return errors.Join(
				sizeTable(spec, table.Name, slots, tableShards(slots*int(table.ValueSize), cpus)),
				setVariables(spec, map[string]any{gen.TCPVarOnlyNetns: opts.OnlyNetns}))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	t := &TCP{Probe: p, walk: k.walking()}
	if err := t.open(slots); err != nil {
		return nil, errors.Join(unavailable("read the TCP probe", err, d.needs...), t.Close())
	}
	return t, nil
}

// open maps the table and makes the iterators.
func (t *TCP) open(slots int) (err error) {
	if t.Table, err = openTable[TCPCounts](t.collection.Maps[gen.TCPMapTcpTable], slots); err != nil {
		return err
	}
	if t.sweep, err = tcpWalker.attach(t.collection); err != nil {
		return err
	}
	if t.adopt, err = link.AttachIter(link.IterOptions{Program: t.collection.Programs[gen.TCPProgTcpAdopt]}); err != nil {
		return err
	}
	return iterate(t.adopt)
}

// Programs returns the programs that events run, and the one that a sweep runs.
func (t *TCP) Programs() []*ebpf.Program {
	return append(t.Probe.Programs(), tcpWalker.program(t.collection))
}

// Verdict says by which hooks the probe measures, and what it lacks.
func (t *TCP) Verdict(name string) verdict.Verdict { return t.walk.qualify(t.Probe.Verdict(name)) }

// Watched returns the probe as a Meter takes it. Its programs cannot leave out events: a connection has a state.
func (t *TCP) Watched(name string) Watched {
	w := t.Probe.Watched(name, false)
	w.Programs, w.Detach, w.Attach = t.Programs(), t.Detach, t.Attach
	return w
}

// Sweep counts what the connections that are open now sent, received and retransmitted since the last sweep, and takes
// their round-trip time: of those that sent payload since, and of those that were not looked at before. It covers every
// network namespace, costs some 0.4 us for each connection, and allocates nothing. While the probe is detached it does
// nothing.
func (t *TCP) Sweep() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.detached {
		return nil
	}
	return iterate(t.sweep)
}

// Detach detaches the programs; the counts stay.
func (t *TCP) Detach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.detached = true
	return t.Probe.Detach()
}

// Attach attaches the programs again. Connections that were open all the time are counted as if they had been watched.
// Those that were made meanwhile count from now on if they are of the caller's network namespace, else not.
func (t *TCP) Attach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.Probe.Attach(); err != nil {
		return err
	}
	t.detached = false
	return iterate(t.adopt)
}

// Close detaches and unloads the probe.
func (t *TCP) Close() error {
	var errs []error
	for _, it := range []*link.Iter{t.sweep, t.adopt} {
		if it != nil {
			errs = append(errs, it.Close())
		}
	}
	return errors.Join(append(errs, t.Probe.Close())...)
}
