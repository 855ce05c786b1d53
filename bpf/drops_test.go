package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
)

// openDrops opens the probe for a namespace.
func openDrops(tb testing.TB, k *Kernel, ns *namespace, rungs []rung) *Drops {
	tb.Helper()
	requireCapabilities(tb)
	d, err := newDrops(k, SocketOptions{OnlyNetns: ns.inode}, rungs)
	must(tb, err)
	tb.Cleanup(func() { d.Close() })
	return d
}

// dropped returns the counts of a slot by reason, without those that are 0.
func (d *Drops) dropped(tb testing.TB, slot int) map[string]uint64 {
	tb.Helper()
	counts, byReason := read(tb, &d.Table, slot), map[string]uint64{}
	for i, n := range &counts.Packets {
		if n > 0 {
			byReason[d.Reason(i)] += n
		}
	}
	return byReason
}

// snmp returns a counter of UDP in a namespace (/proc/net/snmp).
func (n *namespace) snmp(tb testing.TB, counter string) uint64 {
	tb.Helper()
	var text []byte
	var err error
	n.do(func() { text, err = os.ReadFile("/proc/thread-self/net/snmp") })
	must(tb, err)
	var names []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "Udp:" && names == nil {
			names = f
		} else if f[0] == "Udp:" {
			var value uint64
			_, err := fmt.Sscan(f[slices.Index(names, counter)], &value)
			must(tb, err)
			return value
		}
	}
	tb.Fatal("no UDP in /proc/net/snmp")
	return 0
}

// flood sends n datagrams to a port.
func (n *namespace) flood(tb testing.TB, port, datagrams int) {
	tb.Helper()
	fd := n.socket(tb, unix.AF_INET, unix.SOCK_DGRAM)
	for range datagrams {
		must(tb, unix.Sendto(fd, make([]byte, 100), 0, &unix.SockaddrInet4{Addr: loopback, Port: port}))
	}
}

// fullSocket makes a socket that takes a few datagrams only.
func (n *namespace) fullSocket(tb testing.TB) (fd, port int) {
	tb.Helper()
	fd = n.socket(tb, unix.AF_INET, unix.SOCK_DGRAM)
	must(tb, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	must(tb, unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback}))
	name, err := unix.Getsockname(fd)
	must(tb, err)
	return fd, name.(*unix.SockaddrInet4).Port
}

// floodFull sends n datagrams to a full socket, and returns how many were dropped when all are dealt with.
func (n *namespace) floodFull(tb testing.TB, datagrams int) (dropped uint64) {
	tb.Helper()
	fd, port := n.fullSocket(tb)
	n.flood(tb, port, datagrams)
	taken := 0
	await(tb, "all datagrams are dealt with", func() bool {
		for {
			if _, _, err := unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT); err != nil {
				break
			}
			taken++
		}
		dropped = n.snmp(tb, "RcvbufErrors")
		return int(dropped)+taken == datagrams
	})
	return dropped
}

const closedPort = 9 // nobody listens in a namespace of a test's own

// For each way to count that the kernel has: datagrams to a port without a server and to a full socket, as the kernel's
// own counters have them.
func TestDropsAgreeWithSNMP(t *testing.T) {
	for i, r := range dropsRungs() {
		t.Run(r.programs[0], func(t *testing.T) {
			ns := newNamespace(t)
			d := openDrops(t, &Kernel{}, ns, dropsRungs()[i:])
			const n = 300
			ns.flood(t, closedPort, n)
			full := ns.floodFull(t, n)
			noPorts, got := ns.snmp(t, "NoPorts"), d.dropped(t, RestSlot)
			t.Logf("kernel: %d to no port, %d to a full socket; probe: %v", noPorts, full, got)
			if noPorts != n || full == 0 {
				t.Fatalf("the kernel counted %d and %d", noPorts, full)
			}
			if got["no_socket"] != noPorts || got["socket_rcvbuff"]+got["proto_mem"] != full {
				t.Errorf("got %v, want %d without a socket, %d to a full one", got, noPorts, full)
			}
			if c := d.Counts(); c.Recorded < noPorts+full || c.Lost != 0 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// A packet filter's drops are counted as such.
func TestDropsOfFilter(t *testing.T) {
	iptables := testneed.Tool(t, "iptables")
	ns := newNamespace(t)
	d := openDrops(t, &Kernel{}, ns, dropsRungs())
	var out []byte
	var err error
	ns.do(func() {
		out, err = exec.Command(iptables, "-A", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP").CombinedOutput()
	})
	if err != nil {
		t.Skipf("needs a kernel with iptables: %v: %s", err, out)
	}
	ns.flood(t, closedPort, 50)
	if got := d.dropped(t, RestSlot); got["netfilter_drop"] != 50 {
		t.Errorf("got %v", got)
	}
}

// A full socket's drops belong to the group of the socket, where the kernel tells it.
func TestDropsOwner(t *testing.T) {
	ns := newNamespace(t)
	d := openDrops(t, kernelOfOwnGroup(t), ns, dropsRungs())
	if d.rung.lacks != "" {
		t.Skip(d.rung.lacks)
	}
	full := ns.floodFull(t, 300)
	if got := d.dropped(t, 1); got["socket_rcvbuff"]+got["proto_mem"] != full {
		t.Errorf("own group: %v, want %d", got, full)
	}
}

// The names come from the running kernel.
func TestDropReasons(t *testing.T) {
	reasons, err := dropReasons(&Kernel{})
	must(t, err)
	n := 0
	for i, name := range reasons.names {
		if name == "" {
			continue
		}
		n++
		if name != strings.ToLower(name) || slices.Index(reasons.names[:], name) != i {
			t.Errorf("reason %d has the name %q", i, name)
		}
	}
	if n < 10 || reasons.unspecified == ^uint32(0) || !slices.Contains(reasons.names[:], "no_socket") {
		t.Errorf("%d names: %v, unspecified %d", n, reasons.names, reasons.unspecified)
	}
	if i := slices.Index(reasons.names[:], "max"); i >= 0 {
		t.Error("the number of reasons is taken for one")
	}
}

// BenchmarkDropsDatagram reports what a run takes for a datagram to a port without a server.
func BenchmarkDropsDatagram(b *testing.B) {
	ns := newNamespace(b)
	d := openDrops(b, &Kernel{}, ns, dropsRungs())
	fd := ns.socket(b, unix.AF_INET, unix.SOCK_DGRAM)
	runTime(b, d.Probe, func() {
		for b.Loop() {
			must(b, unix.Sendto(fd, []byte{1}, 0, &unix.SockaddrInet4{Addr: loopback, Port: closedPort}))
		}
	})
}
