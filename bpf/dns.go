package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/verdict"
)

// DNSOptions says where to listen.
type DNSOptions struct {
	Cgroup  string        // the cgroup2 directory whose sockets are clients: the root, for all of the host's
	port    uint16        // of servers; 0: 53
	timeout time.Duration // after which a query is not answered any more; 0: 10 s
}

// DNSCounts is what the probe counted for an owner, and for a host when they are added up.
type DNSCounts struct {
	Duration  Hist      // from the first sending of a query to its answer
	Responses [5]uint64 // answers by response code, see the constants
	Truncated uint64    // answers that say that there is more, by TCP
	SentAgain uint64    // queries that were sent once more
	Timeouts  uint64    // queries without an answer within 10 s
	Abandoned uint64    // queries whose socket was closed before
	TCP       uint64    // TCP connections that were tried
}

// Response codes: the indexes of DNSCounts.Responses.
const (
	DNSNoError = iota
	DNSNXDomain
	DNSServFail
	DNSRefused
	DNSOther
)

// DNS is the probe that measures how long DNS queries take. See dns.bpf.c. It takes 2.2 KB for each owner and shard, and
// some 300 bytes for each socket that sent a query.
type DNS struct {
	*Probe
	Table[DNSCounts]
	sweep *link.Iter
	walk  walking
}

// dnsWalker looks for queries without an answer.
var dnsWalker = walker{gen.DNSProgDnsSweep, gen.DNSProgDnsSweepFiles, gen.DNSMapDnsSockets}

// dnsRungs are the ways to listen.
func dnsRungs() []rung {
	fields := []field{{"sock", "sk_cgrp_data", "CONFIG_SOCK_CGROUP_DATA=y"}}
	return []rung{
		{
			hook: "cgroup_skb, cgroup/sock_release",
			// Ingress first: a query that is seen is one whose answer is.
			programs: []string{gen.DNSProgDnsIngress, gen.DNSProgDnsRelease, gen.DNSProgDnsEgress},
			fields:   fields,
		},
		{
			hook:     "cgroup_skb",
			programs: []string{gen.DNSProgDnsIngress, gen.DNSProgDnsEgress},
			fields:   fields,
			lacks:    "queries whose socket was closed before the answer are not counted",
		},
	}
}

// NewDNS loads the probe and attaches it. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN. Without them, or on a kernel
// that lacks something, the error is a *verdict.UnavailableError.
func NewDNS(k *Kernel, opts DNSOptions) (*DNS, error) { return newDNS(k, opts, dnsRungs()) }

func newDNS(k *Kernel, opts DNSOptions, rungs []rung) (*DNS, error) {
	slots := k.slots()
	d := design{
		name: "the DNS probe", spec: gen.LoadDNS, needs: []capability{capBPF, capPerfmon, capNetAdmin}, rungs: rungs,
		cgroup: opts.Cgroup,
		prepare: func(spec *ebpf.CollectionSpec, _ *rung) error {
			dnsWalker.choose(k, spec)
			return errors.Join(shareTable(spec, gen.DNSMapDnsTable, slots), opts.set(spec))
		},
	}
	p, err := d.open(k)
	if err != nil {
		return nil, err
	}
	n := &DNS{Probe: p, walk: k.walking()}
	n.Table, err = openTable[DNSCounts](p.collection.Maps[gen.DNSMapDnsTable], slots)
	if err == nil {
		n.sweep, err = dnsWalker.attach(p.collection)
	}
	if err != nil {
		return nil, errors.Join(unavailable("read the DNS probe", err, d.needs...), n.Close())
	}
	return n, nil
}

// set sets what is not as the programs have it.
func (o DNSOptions) set(spec *ebpf.CollectionSpec) error {
	values := map[string]any{}
	if o.port != 0 {
		values[gen.DNSVarDnsPort] = o.port
	}
	if o.timeout != 0 {
		values[gen.DNSVarDnsTimeoutNs] = uint64(o.timeout)
	}
	return setVariables(spec, values)
}

// Verdict says by which hooks the probe measures, and what it lacks.
func (n *DNS) Verdict(name string) verdict.Verdict { return n.walk.qualify(n.Probe.Verdict(name)) }

// Sweep counts the queries that wait for too long. It takes three system calls, and some 200 ns for each socket that sent
// a query and is open.
func (n *DNS) Sweep() error {
	if err := iterate(n.sweep); err != nil {
		return fmt.Errorf("look for queries without an answer: %w", err)
	}
	return nil
}

// Close detaches and unloads the probe.
func (n *DNS) Close() error {
	var err error
	if n.sweep != nil {
		err = n.sweep.Close()
	}
	return errors.Join(err, n.Probe.Close())
}
