package bpf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// A tcpRig is a network namespace of the test's own, and the probe that counts there alone. The kernel's counters of the
// namespace (/proc/net/snmp, netstat) are the oracle.
type tcpRig struct {
	testing.TB
	*TCP
}

// newTCPRig moves the test to a network namespace of its own, and opens the probe there unless the test does it later.
func newTCPRig(tb testing.TB, open bool) *tcpRig {
	tb.Helper()
	requireCapabilities(tb)
	testneed.Root(tb, "to make a network namespace")
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { // the thread may be the process's first, whose namespace /proc/self shows
		defer runtime.UnlockOSThread()
		defer home.Close()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			tb.Fatal(err)
		}
	})
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatal(err)
	}
	r := &tcpRig{TB: tb}
	r.must(r.ioctl("lo", unix.SIOCSIFFLAGS, func(i *unix.Ifreq) error {
		i.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return nil
	}))
	if open {
		r.open(r.netns())
	}
	return r
}

// netns returns the inode number of the thread's network namespace.
func (r *tcpRig) netns() uint32 {
	var s unix.Stat_t
	r.must(unix.Stat("/proc/thread-self/ns/net", &s))
	return uint32(s.Ino)
}

// open loads the probe until the test ends.
func (r *tcpRig) open(netns uint32) {
	r.Helper()
	r.openOn(&Kernel{}, netns)
}

func (r *tcpRig) openOn(k *Kernel, netns uint32) {
	r.Helper()
	probe, err := NewTCP(k, TCPOptions{OnlyNetns: netns})
	r.must(err)
	r.TCP = probe
	r.Cleanup(func() { r.must(probe.Close()) })
}

func (r *tcpRig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *tcpRig) ioctl(name string, request uint, set func(*unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	i, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return errors.Join(set(i), os.NewSyscallError("ioctl "+name, unix.IoctlIfreq(fd, request, i)))
}

// addAddress gives the loopback interface another address: a connection between two of them counts as remote.
func (r *tcpRig) addAddress(label string, a [4]byte) {
	r.Helper()
	r.must(r.ioctl(label, unix.SIOCSIFADDR, func(i *unix.Ifreq) error { return i.SetInet4Addr(a[:]) }))
}

// The addresses of remote connections, and that of others.
var (
	tcpHere, tcpThere = [4]byte{10, 99, 0, 1}, [4]byte{10, 99, 0, 2}
	tcpLocal          = [4]byte{127, 0, 0, 1}
)

func (r *tcpRig) addAddresses() {
	r.addAddress("lo:1", tcpHere)
	r.addAddress("lo:2", tcpThere)
}

// sysctl sets a variable of the network namespace.
func (r *tcpRig) sysctl(name, value string) {
	r.Helper()
	r.must(os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0))
}

// socket makes a socket that is closed when the test ends, if not before.
func (r *tcpRig) socket() *tcpSocket {
	r.Helper()
	return r.socketOf(unix.AF_INET, unix.IPPROTO_TCP)
}

func (r *tcpRig) socketOf(family, protocol int) *tcpSocket {
	r.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	r.must(err)
	return r.own(fd)
}

func (r *tcpRig) own(fd int) *tcpSocket {
	s := &tcpSocket{r, fd}
	r.Cleanup(func() { s.close() })
	return s
}

// A tcpSocket is one end of a connection.
type tcpSocket struct {
	*tcpRig
	fd int
}

func (s *tcpSocket) close() {
	if s.fd >= 0 {
		s.must(unix.Close(s.fd))
	}
	s.fd = -1
}

func (s *tcpSocket) set(level, option, value int) {
	s.Helper()
	s.must(os.NewSyscallError(fmt.Sprint("setsockopt ", level, option), unix.SetsockoptInt(s.fd, level, option, value)))
}

// abort closes the connection by a reset.
func (s *tcpSocket) abort() {
	s.must(unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	s.close()
}

// deaf makes the socket drop every segment that comes, as a bad line would; until it hears again.
func (s *tcpSocket) deaf() {
	drop := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	s.must(unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}))
}

func (s *tcpSocket) hear() { s.set(unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) }

// listener returns a listening socket and its address.
func (r *tcpRig) listener(a [4]byte, backlog int) (*tcpSocket, *unix.SockaddrInet4) {
	r.Helper()
	s := r.socket()
	r.must(unix.Bind(s.fd, &unix.SockaddrInet4{Addr: a}))
	r.must(unix.Listen(s.fd, backlog))
	address := s.address()
	return s, address
}

func (s *tcpSocket) address() *unix.SockaddrInet4 {
	s.Helper()
	name, err := unix.Getsockname(s.fd)
	s.must(err)
	return name.(*unix.SockaddrInet4)
}

func (s *tcpSocket) accept() *tcpSocket {
	s.Helper()
	fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
	s.must(err)
	return s.own(fd)
}

// pair returns the two ends of a connection to the address.
func (r *tcpRig) pair(a [4]byte) (client, server *tcpSocket) {
	r.Helper()
	return r.pairOver(a, a)
}

// pairOver returns the two ends of a connection to the address that a listener at another one has for its peers.
func (r *tcpRig) pairOver(listens, connects [4]byte) (client, server *tcpSocket) {
	r.Helper()
	l, address := r.listener(listens, 1)
	defer l.close()
	address.Addr = connects
	client = r.socket()
	if connects == tcpThere {
		r.must(unix.Bind(client.fd, &unix.SockaddrInet4{Addr: tcpHere}))
	}
	r.must(unix.Connect(client.fd, address))
	return client, l.accept()
}

// send sends n bytes, and the other end reads them.
func (s *tcpSocket) send(n int, to *tcpSocket) {
	s.Helper()
	var buf [4096]byte
	for n > 0 {
		sent, err := unix.Write(s.fd, buf[:min(n, len(buf))])
		s.must(err)
		for left := sent; left > 0; {
			got, err := unix.Read(to.fd, buf[:left])
			s.must(err)
			if got == 0 {
				s.Fatal("the connection ended early")
			}
			left -= got
		}
		n -= sent
	}
}

// full returns the address of a listener that answers no further request: its queue is full.
func (r *tcpRig) full() (l *tcpSocket, address *unix.SockaddrInet4) {
	r.Helper()
	l, address = r.listener(tcpLocal, 0)
	r.must(unix.Connect(r.socket().fd, address))
	return l, address
}

// tries starts to connect to the address and does not wait.
func (r *tcpRig) tries(address unix.Sockaddr) *tcpSocket {
	r.Helper()
	s := r.socket()
	r.must(unix.SetNonblock(s.fd, true))
	if err := unix.Connect(s.fd, address); err != unix.EINPROGRESS {
		r.Fatal(err)
	}
	return s
}

// counts returns what the probe has, all owners together.
func (r *tcpRig) counts() (c TCPCounts) {
	r.Helper()
	r.must(r.Read(RestSlot, &c))
	return c
}

// missed returns the runs that the kernel left out, since a program was running on the CPU: nobody can count these.
func (r *tcpRig) missed() (n uint64) {
	for _, p := range r.Programs() {
		s, err := p.Stats()
		r.must(err)
		n += s.RecursionMisses
	}
	return n
}

// is checks a count. It may fall short by the runs that the kernel left out.
func (r *tcpRig) is(what string, got, want uint64) {
	r.Helper()
	if got > want || got+r.missed() < want {
		r.Errorf("%s: got %d, want %d (the kernel left out %d runs)", what, got, want, r.missed())
	}
}

// await waits until the condition holds.
func (r *tcpRig) await(what string, holds func() bool) {
	r.Helper()
	for end := time.Now().Add(60 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatal("not in a minute: ", what)
		}
	}
}

// kernel returns a counter of the thread's network namespace.
func (r *tcpRig) kernel(group, name string) uint64 {
	r.Helper()
	for _, file := range []string{"snmp", "netstat"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		r.must(err)
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j, n := range names {
				if names[0] == group+":" && n == name {
					return parseTCPCount(r, values[j])
				}
			}
		}
	}
	r.Fatal("the kernel has no counter ", group, name)
	return 0
}

func parseTCPCount(tb testing.TB, s string) (n uint64) {
	tb.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// Go and C have the same idea of a slot.
func TestTCPCountsHaveTheKernelsShape(t *testing.T) {
	var c TCPCounts
	var k gen.TCPTcpSlot
	if unsafe.Sizeof(c) != unsafe.Sizeof(k) || unsafe.Offsetof(c.Failed) != unsafe.Offsetof(k.Failed) ||
		unsafe.Offsetof(c.ResetsReceived) != unsafe.Offsetof(k.ResetsReceived) {
		t.Errorf("%d bytes, the kernel has %d", unsafe.Sizeof(c), unsafe.Sizeof(k))
	}
}

// A thousand connections, each of which carries something both ways: all counts are exact, and connecting took no longer
// than the test waited for it.
func TestTCPCountsConnections(t *testing.T) {
	const n, there, back = 1000, 1500, 70
	r := newTCPRig(t, true)
	l, address := r.listener(tcpLocal, 16)
	var waited time.Duration
	for range n {
		client := r.socket()
		began := time.Now()
		r.must(unix.Connect(client.fd, address))
		waited += time.Since(began)
		server := l.accept()
		client.send(there, server)
		server.send(back, client)
		client.close()
		server.close()
	}
	r.await("the end of all connections", func() bool { return r.Counts().Recorded+r.missed() >= 4*n })
	c := r.counts()
	r.is("asked for", c.Opened[TCPActive][TCPLoopback], n)
	r.is("accepted", c.Opened[TCPPassive][TCPLoopback], n)
	r.is("durations", c.Connect[TCPLoopback].Count(), n)
	r.is("the kernel's ActiveOpens", c.Opened[TCPActive][TCPLoopback], r.kernel("Tcp", "ActiveOpens"))
	r.is("the kernel's PassiveOpens", c.Opened[TCPPassive][TCPLoopback], r.kernel("Tcp", "PassiveOpens"))
	if r.missed() == 0 && (c.Sent[TCPLoopback] != n*(there+back) || c.Received[TCPLoopback] != n*(there+back)) {
		t.Errorf("sent %d, received %d bytes, want %d", c.Sent[TCPLoopback], c.Received[TCPLoopback], n*(there+back))
	}
	if took := time.Duration(c.Connect[TCPLoopback].SumNs); took <= 0 || took > waited {
		t.Errorf("connecting took %v, the test waited %v", took, waited)
	}
	if o := r.Counts(); o.Unmatched > r.missed() || o.Lost != 0 || o.Discarded != 0 || c.Failed != [TCPCauses][tcpPeers]uint64{} {
		t.Errorf("losses %+v, failures %v", o, c.Failed)
	}
	if c.RTT.Count() != 0 || c.Opened[TCPActive][TCPRemote] != 0 || c.Sent[TCPRemote] != 0 {
		t.Error("something went to a remote host")
	}
}

// Failures are told apart by cause, and each is counted once.
func TestTCPFailuresByCause(t *testing.T) {
	const refused = 100
	r := newTCPRig(t, true)
	l, nobody := r.listener(tcpLocal, 0)
	l.close()
	for range refused {
		s := r.socket()
		if err := unix.Connect(s.fd, nobody); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
		s.close()
	}
	_, full := r.full()
	r.tries(full).close()

	s := r.socket()
	s.set(unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1)
	if err := unix.Connect(s.fd, full); !errors.Is(err, unix.ETIMEDOUT) {
		t.Fatal(err)
	}
	r.unreachable(full, 1, unix.EHOSTUNREACH)
	r.unreachable(full, 0, unix.ENETUNREACH)
	_, other := r.listener(tcpLocal, 4)
	r.sysctl("ip_local_port_range", "40000 40000")
	r.must(unix.Connect(r.socket().fd, other))
	if err := unix.Connect(r.socket().fd, other); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatal(err)
	}

	c := r.counts()
	for cause, want := range [TCPCauses]uint64{
		TCPRefused: refused, TCPTimeout: 1, TCPHostUnreachable: 1, TCPNetUnreachable: 1, TCPAborted: 1, TCPNotSent: 1,
	} {
		r.is(fmt.Sprint("failures of cause ", cause), c.Failed[cause][TCPLoopback], want)
	}
	r.is("connections", c.Opened[TCPActive][TCPLoopback], 2)
	r.is("requests sent again", c.Retransmitted, r.kernel("Tcp", "RetransSegs"))
}

// unreachable lets an ICMP message with the given code end an attempt to connect.
func (r *tcpRig) unreachable(address *unix.SockaddrInet4, code byte, want unix.Errno) {
	r.Helper()
	sniffer, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	r.must(err)
	defer unix.Close(sniffer)
	s := r.tries(address)
	port, packet := s.address().Port, make([]byte, 1500)
	for n := 0; n < 28 || int(packet[20])<<8|int(packet[21]) != port; {
		n, err = unix.Read(sniffer, packet)
		r.must(err)
	}
	message := append([]byte{3, code, 0, 0, 0, 0, 0, 0}, packet[:28]...) // destination unreachable (RFC 792)
	sum := uint32(0)
	for i := 0; i < len(message); i += 2 {
		sum += uint32(message[i])<<8 | uint32(message[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	message[2], message[3] = byte(sum>>8), byte(sum)
	icmp, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	r.must(err)
	defer unix.Close(icmp)
	r.must(unix.Sendto(icmp, message, 0, &unix.SockaddrInet4{Addr: tcpLocal}))
	r.await("the attempt to connect ends", func() bool {
		errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return err == nil && unix.Errno(errno) == want
	})
	s.close()
}

// Retransmits equal RetransSegs, whoever sent what again: payload, a request, or an answer to one.
func TestTCPRetransmits(t *testing.T) {
	r := newTCPRig(t, true)
	client, server := r.pair(tcpLocal)
	server.deaf()
	_, err := unix.Write(client.fd, []byte("payload"))
	r.must(err)
	r.await("payload is sent again", func() bool { return r.kernel("Tcp", "RetransSegs") >= 2 })
	server.hear()
	var buf [16]byte
	_, err = unix.Read(server.fd, buf[:])
	r.must(err)
	r.must(r.Sweep())
	if c := r.counts(); c.Retransmitted < 2 || c.Sent[TCPLoopback] != 7 || c.Received[TCPLoopback] != 6 {
		t.Errorf("of a connection that goes on: %d sent again, %d bytes sent, %d received",
			c.Retransmitted, c.Sent[TCPLoopback], c.Received[TCPLoopback])
	}

	synRetransmits := r.kernel("TcpExt", "TCPSynRetrans")
	l, address := r.listener(tcpLocal, 4)
	late := r.socket()
	late.deaf()
	r.must(unix.SetNonblock(late.fd, true))
	_ = unix.Connect(late.fd, address)
	r.await("request and answer are sent again", func() bool {
		return r.kernel("TcpExt", "TCPSynRetrans") >= synRetransmits+3
	})
	late.hear()
	r.await("the connection opens", func() bool {
		_, err := unix.Getpeername(late.fd)
		return err == nil
	})
	l.accept().close()
	late.close()
	client.close()
	server.close()
	r.await("the end of all connections", func() bool { return r.Counts().Recorded+r.missed() >= 8 })
	r.is("segments sent again", r.counts().Retransmitted, r.kernel("Tcp", "RetransSegs"))
	t.Logf("%d segments were sent again, %d of them to connect", r.kernel("Tcp", "RetransSegs"), r.kernel("TcpExt", "TCPSynRetrans"))
}

// A long connection is visible before it ends, and its end adds what was not seen yet.
func TestTCPSweepCountsOnce(t *testing.T) {
	r := newTCPRig(t, true)
	r.addAddresses()
	client, server := r.pair(tcpThere)
	expect := func(sent, received, rtts uint64) {
		t.Helper()
		c := r.counts()
		if c.Sent[TCPRemote] != sent || c.Received[TCPRemote] != received {
			t.Errorf("sent %d, received %d bytes, want %d and %d", c.Sent[TCPRemote], c.Received[TCPRemote], sent, received)
		}
		if c.RTT.Count() != rtts {
			t.Errorf("%d round-trip times, want %d", c.RTT.Count(), rtts)
		}
	}
	expect(0, 0, 0)
	client.send(1_000_000, server)
	expect(0, 0, 0)
	r.must(r.Sweep())
	expect(1_000_000, 999_999, 2) // the last byte may be the FIN
	r.must(r.Sweep())
	expect(1_000_000, 999_999, 2) // nothing is new
	client.send(500_000, server)
	r.must(r.Sweep())
	expect(1_500_000, 1_499_999, 3) // the server sent nothing: its time is the old one
	server.send(70_000, client)
	client.close()
	server.close()
	r.await("the end of the connection", func() bool { return r.Counts().Recorded+r.missed() >= 4 })
	expect(1_570_000, 1_570_000, 4)
	r.must(r.Sweep())
	expect(1_570_000, 1_570_000, 4)
	if c := r.counts(); c.Opened[TCPActive][TCPRemote] != 1 || c.Connect[TCPRemote].Count() != 1 {
		t.Errorf("%d connections, %d durations", c.Opened[TCPActive][TCPRemote], c.Connect[TCPRemote].Count())
	}
}

// A sweep of more connections than it takes without a pause misses none: each read takes 16 for each byte of its buffer.
func TestTCPSweepOfMany(t *testing.T) {
	const n, files = 2200, 5000
	r := newTCPRig(t, true)
	var limit unix.Rlimit
	r.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < files {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: max(files, limit.Max)}); err != nil {
			t.Skipf("needs %d open files, the limit is %d", files, limit.Cur)
		}
	}
	l, address := r.listener(tcpLocal, 16)
	for range n {
		client := r.socket()
		r.must(unix.Connect(client.fd, address))
		_, err := unix.Write(client.fd, []byte("x"))
		r.must(err)
		l.accept()
	}
	for range 2 {
		r.must(r.Sweep())
		if c := r.counts(); c.Sent[TCPLoopback] != n-r.missed() {
			t.Errorf("%d bytes of %d connections", c.Sent[TCPLoopback], n)
		}
	}
	if runs := r.Counts().Runs; runs < 8*n-r.missed() { // four to open, and two sockets in each sweep
		t.Errorf("%d runs", runs)
	}
}

// Sweeps at the same time as ends lose nothing and count nothing twice.
func TestTCPSweepMeetsEnds(t *testing.T) {
	const n, size = 500, 3000
	r := newTCPRig(t, true)
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
				if err := r.Sweep(); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	l, address := r.listener(tcpLocal, 4)
	for range n {
		client := r.socket()
		r.must(unix.Connect(client.fd, address))
		server := l.accept()
		client.send(size, server)
		client.close()
		server.close()
	}
	close(stop)
	r.must(<-done)
	r.await("the end of all connections", func() bool { return r.Counts().Recorded+r.missed() >= 4*n })
	if c := r.counts(); r.missed() == 0 && (c.Sent[TCPLoopback] != n*size || c.Received[TCPLoopback] != n*size) {
		t.Errorf("sent %d, received %d bytes, want %d", c.Sent[TCPLoopback], c.Received[TCPLoopback], n*size)
	}
}

// With a delay on the line, connecting and the round trip take that long, by the test's own clock, and the round-trip
// times are those that the kernel tells the program (TCP_INFO).
func TestTCPTimesWithDelay(t *testing.T) {
	const delay = 20 * time.Millisecond
	r := newTCPRig(t, true)
	r.line(delay, 0)
	began := time.Now()
	client, server := r.pairOver(lineHere, lineThere)
	waited := time.Since(began)
	var told time.Duration
	for want := uint64(2); want <= 10; want += 2 {
		client.send(100, server)
		server.send(100, client)
		for _, s := range []*tcpSocket{client, server} {
			r.await("the acknowledgement arrives", func() bool { return s.info().Unacked == 0 })
			told += time.Duration(s.info().Rtt) * time.Microsecond
		}
		r.must(r.Sweep())
		c := r.counts()
		r.is("round-trip times", c.RTT.Count(), want)
		if sum := time.Duration(c.RTT.SumNs); sum < told || sum > told+time.Duration(want)*time.Microsecond {
			t.Errorf("the kernel told of round trips of %v together, the probe has %v", told, sum)
		}
	}
	c := r.counts()
	if took := time.Duration(c.Connect[TCPRemote].SumNs); took < 2*delay || took > waited {
		t.Errorf("connecting took %v, the line %v, the test waited %v", took, 2*delay, waited)
	}
	if told/10 < 2*delay {
		t.Errorf("the round trip took %v, the line %v", told/10, 2*delay)
	}
	t.Logf("connecting took %v, the round trip %v", time.Duration(c.Connect[TCPRemote].SumNs), told/10)
}

func (s *tcpSocket) info() *unix.TCPInfo {
	s.Helper()
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	s.must(err)
	return info
}

// The ends of a line: see line.
var lineHere, lineThere = [4]byte{192, 168, 77, 1}, [4]byte{192, 168, 77, 2}

// line makes an interface that leads to lineThere, which is lineHere again: what is sent there comes back after the delay
// as if lineThere had sent it, but for the lost share of it. So connections from here to there end here.
func (r *tcpRig) line(delay time.Duration, lost float64) {
	r.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		r.Skip("needs a kernel with CONFIG_TUN: ", err)
	}
	i, err := unix.NewIfreq("line")
	r.must(err)
	i.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	r.must(unix.IoctlIfreq(fd, unix.TUNSETIFF, i))
	r.addAddress("line", lineHere)
	r.must(r.ioctl("line", unix.SIOCSIFDSTADDR, func(i *unix.Ifreq) error { return i.SetInet4Addr(lineThere[:]) }))
	r.must(r.ioctl("line", unix.SIOCSIFFLAGS, func(i *unix.Ifreq) error {
		i.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return nil
	}))
	tun, done := os.NewFile(uintptr(fd), "tun"), make(chan struct{})
	type packet struct {
		bytes []byte
		due   time.Time
	}
	way := make(chan packet, 10000)
	go func() {
		defer close(way)
		draw := rand.New(rand.NewPCG(1, 2))
		for {
			p := make([]byte, 1500)
			n, err := tun.Read(p)
			if err != nil {
				return // closed
			}
			if n >= 20 && draw.Float64() >= lost {
				way <- packet{p[:n], time.Now().Add(delay)}
			}
		}
	}()
	go func() {
		defer close(done)
		for p := range way {
			time.Sleep(time.Until(p.due))
			from, to := p.bytes[12:16], p.bytes[16:20] // exchanging them leaves the checksums as they are
			for i := range from {
				from[i], to[i] = to[i], from[i]
			}
			_, _ = tun.Write(p.bytes) // a packet of another protocol, or at the end
		}
	}()
	r.Cleanup(func() {
		tun.Close()
		<-done
	})
}

// On a line that loses packets, retransmits equal RetransSegs and bytes are those that arrived.
func TestTCPRetransmitsOnLossyLine(t *testing.T) {
	const size = 1_000_000
	r := newTCPRig(t, true)
	r.line(time.Millisecond, 0.04)
	client, server := r.pairOver(lineHere, lineThere)
	client.send(size, server)
	r.must(r.Sweep())
	server.send(size/10, client)
	client.close()
	server.close()
	var c TCPCounts
	defer func() {
		t.Logf("%d segments sent again, the kernel counted %d", c.Retransmitted, r.kernel("Tcp", "RetransSegs"))
	}()
	r.await("all is counted", func() bool {
		c = r.counts()
		again := r.kernel("Tcp", "RetransSegs")
		return again > 0 && c.Retransmitted == again && c.Received[TCPRemote] == size*11/10
	})
	if c.Sent[TCPRemote] != size*11/10 {
		t.Errorf("sent %d bytes, want %d", c.Sent[TCPRemote], size*11/10)
	}
}

// Resets agree with the kernel's counters of those sent, and of connections that ended by one.
func TestTCPResets(t *testing.T) {
	const n = 20
	r := newTCPRig(t, true)
	l, nobody := r.listener(tcpLocal, 0)
	l.close()
	for range n {
		if err := unix.Connect(r.socket().fd, nobody); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
		client, server := r.pair(tcpLocal)
		server.abort()
		r.await("the reset arrives", func() bool {
			_, err := unix.Write(client.fd, []byte{0})
			return err != nil
		})
		client.close()
	}
	c := r.counts()
	r.is("received", c.ResetsReceived, 2*n)
	// Both ends of a connection ended by it, one at its own wish.
	r.is("EstabResets", c.ResetsReceived, n+r.kernel("Tcp", "EstabResets")/2)
	r.is("OutRsts of sockets", c.ResetsSent, r.kernel("Tcp", "OutRsts")-r.unseenResets(n))
}

// unseenResets returns how many of the resets for closed ports the rung in use cannot see.
func (r *tcpRig) unseenResets(closed uint64) uint64 {
	if r.Probe.Verdict("").State == verdict.Active {
		return 0
	}
	return closed
}

// A connection that was open before the probe: its own namespace's is counted from then on, others' are unmatched.
func TestTCPConnectionsBeforeTheProbe(t *testing.T) {
	r := newTCPRig(t, false)
	near, nearServer := r.pair(tcpLocal)
	near.send(100_000, nearServer)
	_, address := r.full()
	early := r.tries(address)
	r.open(r.netns())
	near.send(1000, nearServer)
	r.must(r.Sweep())
	near.send(100, nearServer)
	near.close()
	nearServer.close()
	early.close()
	r.await("the end of the connection", func() bool { return r.Counts().Recorded+r.missed() >= 3 })
	c := r.counts()
	r.is("failures", c.Failed[TCPAborted][TCPLoopback], 1)
	if c.Sent[TCPLoopback] != 1100 || c.Received[TCPLoopback] != 1100 || r.Counts().Unmatched > r.missed() {
		t.Errorf("sent %d, received %d, %+v", c.Sent[TCPLoopback], c.Received[TCPLoopback], r.Counts())
	}
}

func TestTCPConnectionsOfOtherNamespacesBeforeTheProbe(t *testing.T) {
	r := newTCPRig(t, false)
	client, server := r.pair(tcpLocal)
	client.send(100_000, server)
	inner := r.netns()
	done := make(chan struct{})
	go func() { // from another thread, whose namespace is the host's
		defer close(done)
		r.TCP, _ = NewTCP(&Kernel{}, TCPOptions{OnlyNetns: inner})
	}()
	<-done
	if r.TCP == nil {
		t.Fatal("the probe does not load")
	}
	defer r.TCP.Close()
	client.send(1000, server)
	r.must(r.Sweep())
	client.close()
	server.close()
	r.await("the end of the connection", func() bool { return r.Counts().Unmatched+r.missed() >= 2 })
	if c := r.counts(); Any(&c) {
		t.Errorf("counted of unknown connections: %+v", c)
	}
}

// What happens while the governor has the probe detached is not counted, and nothing of it becomes a giant afterwards.
func TestTCPDetachedForAWhile(t *testing.T) {
	r := newTCPRig(t, true)
	client, server := r.pair(tcpLocal)
	client.send(1000, server)
	r.must(r.Sweep())
	l, address := r.full()
	slow := r.tries(address)

	r.must(r.Detach())
	client.send(500, server)
	r.must(r.Sweep())
	fresh, freshServer := r.pair(tcpLocal)
	fresh.send(9000, freshServer)
	if c := r.counts(); c.Sent[TCPLoopback] != 1000 || c.Opened[TCPActive][TCPLoopback] != 2 {
		t.Errorf("counted while detached: %+v", c.Sent)
	}
	r.must(r.Attach())

	fresh.send(100, freshServer)
	l.accept()
	r.await("the slow connection opens", func() bool {
		_, err := unix.Getpeername(slow.fd)
		return err == nil
	})
	for _, s := range []*tcpSocket{client, server, fresh, freshServer} {
		s.close()
	}
	r.await("the end of the connections", func() bool { return r.Counts().Recorded+r.missed() >= 9 })
	c := r.counts()
	if c.Sent[TCPLoopback] != 1600 || c.Received[TCPLoopback] != 1600 {
		t.Errorf("sent %d, received %d bytes, want 1600", c.Sent[TCPLoopback], c.Received[TCPLoopback])
	}
	r.is("connections", c.Opened[TCPActive][TCPLoopback], 3)
	if c.Connect[TCPLoopback].Count() != 2 || r.Counts().Unmatched != 1 {
		t.Errorf("%d durations, %d unmatched; the request of one was sent before a gap",
			c.Connect[TCPLoopback].Count(), r.Counts().Unmatched)
	}
}

// A socket may connect again after it failed, and after it was disconnected.
func TestTCPSocketsUsedAgain(t *testing.T) {
	r := newTCPRig(t, true)
	l, nobody := r.listener(tcpLocal, 0)
	l.close()
	l, address := r.listener(tcpLocal, 4)
	s := r.socket()
	if err := unix.Connect(s.fd, nobody); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatal(err)
	}
	for range 3 {
		r.must(unix.Connect(s.fd, address))
		server := l.accept()
		s.send(5000, server)
		r.must(r.Sweep())
		var unspec [16]byte // AF_UNSPEC dissolves the association (connect(2))
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspec)), 16); errno != 0 {
			t.Fatal(errno)
		}
		server.close()
	}
	c := r.counts()
	r.is("failures", c.Failed[TCPRefused][TCPLoopback], 1)
	r.is("connections", c.Opened[TCPActive][TCPLoopback], 3)
	if c.Sent[TCPLoopback] != 15000 || c.Received[TCPLoopback] != 15000 {
		t.Errorf("sent %d, received %d", c.Sent[TCPLoopback], c.Received[TCPLoopback])
	}
}

// A socket that connects to itself asks and is asked at the same time: that is one connection.
func TestTCPSimultaneousOpen(t *testing.T) {
	r := newTCPRig(t, true)
	s := r.socket()
	r.must(unix.Bind(s.fd, &unix.SockaddrInet4{Addr: tcpLocal}))
	r.must(unix.Connect(s.fd, s.address()))
	s.send(300, s)
	s.close()
	r.await("the end of the connection", func() bool { return r.Counts().Recorded+r.missed() >= 2 })
	c := r.counts()
	r.is("asked for", c.Opened[TCPActive][TCPLoopback], 1)
	r.is("accepted", c.Opened[TCPPassive][TCPLoopback], 0)
	r.is("durations", c.Connect[TCPLoopback].Count(), 1)
	r.is("bytes", c.Received[TCPLoopback], 300)
}

// TCP Fast Open carries payload in the request, and SYN cookies leave no trace of it. Both count as usual.
func TestTCPFastOpenAndCookies(t *testing.T) {
	for name, set := range map[string][2]string{"fast open": {"tcp_fastopen", "519"}, "cookies": {"tcp_syncookies", "2"}} {
		t.Run(name, func(t *testing.T) {
			r := newTCPRig(t, true)
			r.sysctl(set[0], set[1])
			l, address := r.listener(tcpLocal, 4)
			client := r.socket()
			if name == "fast open" {
				l.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 4)
				r.must(unix.Sendto(client.fd, make([]byte, 200), unix.MSG_FASTOPEN, address))
			} else {
				r.must(unix.Connect(client.fd, address))
				_, err := unix.Write(client.fd, make([]byte, 200))
				r.must(err)
			}
			server := l.accept()
			var buf [256]byte
			_, err := unix.Read(server.fd, buf[:])
			r.must(err)
			server.send(100, client)
			client.close()
			server.close()
			r.await("the end of the connection", func() bool { return r.Counts().Recorded+r.missed() >= 4 })
			c := r.counts()
			r.is("asked for", c.Opened[TCPActive][TCPLoopback], 1)
			r.is("accepted", c.Opened[TCPPassive][TCPLoopback], 1)
			r.is("durations", c.Connect[TCPLoopback].Count(), 1)
			if c.Sent[TCPLoopback] != 300 || c.Received[TCPLoopback] != 300 || c.Retransmitted != 0 {
				t.Errorf("sent %d, received %d, %d segments again", c.Sent[TCPLoopback], c.Received[TCPLoopback], c.Retransmitted)
			}
			counter := map[string]string{"fast open": "TCPFastOpenPassive", "cookies": "SyncookiesRecv"}[name]
			if r.kernel("TcpExt", counter) != 1 {
				t.Error("the kernel did it in another way")
			}
		})
	}
}

// A program may close a connection of TCP Fast Open before the other end has confirmed it: then it is never established,
// and a connection all the same. Answers to its request that were sent again are counted once.
func TestTCPFastOpenClosedEarly(t *testing.T) {
	r := newTCPRig(t, true)
	r.sysctl("tcp_fastopen", "519")
	l, address := r.listener(tcpLocal, 4)
	l.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 4)
	client := r.socket()
	client.deaf()
	r.must(unix.SetNonblock(client.fd, true))
	if err := unix.Sendto(client.fd, make([]byte, 200), unix.MSG_FASTOPEN, address); err != nil && err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	server := l.accept()
	var buf [256]byte
	_, err := unix.Read(server.fd, buf[:])
	r.must(err)
	server.close()
	r.await("the answer is sent again", func() bool { return r.kernel("TcpExt", "TCPSynRetrans") >= 1 })
	client.hear()
	r.await("the client's end is connected", func() bool {
		_, err := unix.Getpeername(client.fd)
		return err == nil
	})
	client.close()
	r.await("all is counted", func() bool {
		c := r.counts()
		return c.Received[TCPLoopback] == 200 && c.Sent[TCPLoopback] == 200 && c.Retransmitted == r.kernel("Tcp", "RetransSegs")
	})
	c := r.counts()
	r.is("asked for", c.Opened[TCPActive][TCPLoopback], 1)
	r.is("accepted", c.Opened[TCPPassive][TCPLoopback], 1)
	t.Logf("%d segments were sent again", c.Retransmitted)
}

// With TCP_FASTOPEN_CONNECT the request waits for the first write: how long is the program's affair.
func TestTCPDeferredConnect(t *testing.T) {
	r := newTCPRig(t, true)
	r.sysctl("tcp_fastopen", "519")
	l, address := r.listener(tcpLocal, 4)
	l.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 4)
	client := r.socket()
	client.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	r.must(unix.Connect(client.fd, address))
	_, err := unix.Write(client.fd, []byte("now"))
	r.must(err)
	l.accept()
	c := r.counts()
	r.is("asked for", c.Opened[TCPActive][TCPLoopback], 1)
	r.is("durations", c.Connect[TCPLoopback].Count(), 0)
	r.is("unmatched", r.Counts().Unmatched, 1)
}

// The subflows of MPTCP are TCP connections; what holds them together is not.
func TestTCPUnderMPTCP(t *testing.T) {
	r := newTCPRig(t, true)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skip("needs a kernel with CONFIG_MPTCP: ", err)
	}
	l := r.own(fd)
	r.must(unix.Bind(l.fd, &unix.SockaddrInet4{Addr: tcpLocal}))
	r.must(unix.Listen(l.fd, 4))
	client := r.socketOf(unix.AF_INET, unix.IPPROTO_MPTCP)
	r.must(unix.Connect(client.fd, l.address()))
	server := l.accept()
	client.send(1234, server)
	r.must(r.Sweep())
	if r.walk == walkFiles { // subflows are no files
		r.is("bytes of open subflows", r.counts().Sent[TCPLoopback], 0)
		client.close()
		server.close()
		r.await("the end of the subflows", func() bool { return r.counts().Sent[TCPLoopback] != 0 })
	}
	c := r.counts()
	r.is("asked for", c.Opened[TCPActive][TCPLoopback], 1)
	r.is("accepted", c.Opened[TCPPassive][TCPLoopback], 1)
	r.is("bytes", c.Sent[TCPLoopback], 1234)
}

// Addresses of version 6, and of version 4 in its clothes, are loopback or remote as they are.
func TestTCPPeersOfVersion6(t *testing.T) {
	for name, tt := range map[string]struct {
		address [16]byte
		peer    int
	}{
		"::1":              {[16]byte{15: 1}, TCPLoopback},
		"::ffff:127.0.0.1": {[16]byte{10: 0xff, 11: 0xff, 12: 127, 15: 1}, TCPLoopback},
		"::ffff:10.99.0.2": {[16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 99, 15: 2}, TCPRemote},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTCPRig(t, true)
			r.addAddresses()
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Skip("needs a kernel with CONFIG_IPV6: ", err)
			}
			l, client := r.own(fd), r.socketOf(unix.AF_INET6, 0)
			r.must(unix.Bind(l.fd, &unix.SockaddrInet6{Addr: tt.address}))
			r.must(unix.Listen(l.fd, 4))
			if tt.peer == TCPRemote { // from another address than the listener's
				r.must(unix.Bind(client.fd, &unix.SockaddrInet6{Addr: [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 99, 15: 1}}))
			}
			name, err := unix.Getsockname(l.fd)
			r.must(err)
			r.must(unix.Connect(client.fd, name))
			l.accept()
			c := r.counts()
			r.is("asked for", c.Opened[TCPActive][tt.peer], 1)
			r.is("accepted", c.Opened[TCPPassive][tt.peer], 1)
		})
	}
}

// tcpHelperEnv, when set, makes TestTCPHelper connect to the port on 127.0.0.1 that it names: TestTCPAttribution runs it
// in a control group.
const tcpHelperEnv = "SLID_TEST_TCP_PORT"

func TestTCPHelper(t *testing.T) {
	port := os.Getenv(tcpHelperEnv)
	if port == "" {
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	address := &unix.SockaddrInet4{Addr: tcpLocal, Port: int(parseTCPCount(t, port))}
	if err := errors.Join(unix.Connect(fd, address)); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, make([]byte, 4321)); err != nil {
		t.Fatal(err)
	}
}

// What a process of a group does counts in the group's slot, also when the group is gone before the connection.
func TestTCPAttribution(t *testing.T) {
	const slot = 5
	r := newTCPRig(t, false)
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	k := &Kernel{}
	owners, err := NewOwners(k, 8)
	r.must(err)
	defer owners.Close()
	k.Attribute(owners)
	r.TCP, err = NewTCP(k, TCPOptions{OnlyNetns: r.netns()})
	r.must(err)
	defer r.TCP.Close()

	group := filepath.Join(mount, fmt.Sprintf("slidtest-tcp-%d.service", os.Getpid()))
	r.must(os.Mkdir(group, 0o755))
	defer os.Remove(group)
	dir, err := os.Open(group)
	r.must(err)
	defer dir.Close()
	var s unix.Stat_t
	r.must(unix.Fstat(int(dir.Fd()), &s))
	r.must(owners.Assign(s.Ino, slot))

	l, address := r.listener(tcpLocal, 4)
	self, err := os.Executable()
	r.must(err)
	cmd := exec.Command(self, "-test.run", "^TestTCPHelper$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", tcpHelperEnv, address.Port))
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.must(os.Remove(group)) // its end of the connection still waits for the server's
	server := l.accept()
	server.close()
	r.await("the end of the connection", func() bool { return r.Counts().Recorded+r.missed() >= 4 })

	var own, rest TCPCounts
	r.must(r.Read(slot, &own))
	r.must(r.Read(RestSlot, &rest))
	if own.Opened[TCPActive][TCPLoopback] != 1 || own.Connect[TCPLoopback].Count() != 1 || own.Sent[TCPLoopback] != 4321 {
		t.Errorf("of the group: %v connections, %d bytes sent", own.Opened, own.Sent)
	}
	if own.Opened[TCPPassive][TCPLoopback] != 0 || rest.Opened[TCPPassive][TCPLoopback] != 1 || rest.Opened[TCPActive][TCPLoopback] != 0 {
		t.Errorf("of the test: %v connections; of the group %v", rest.Opened, own.Opened)
	}
}

// A kernel whose resets have no reason is measured all the same, and the verdict says what is missing.
func TestTCPSecondRung(t *testing.T) {
	requireCapabilities(t)
	rungs := tcpRungs()
	rungs[0].fields = append(rungs[0].fields, field{"sock", "no_such_field", "CONFIG_SUCH=y"})
	p, err := newTCP(&Kernel{}, TCPOptions{}, rungs)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	v := p.Verdict("tcp")
	if v.State != verdict.Degraded || !strings.HasPrefix(v.Reason, "resets without a socket, as of closed ports") || v.Missing != "CONFIG_SUCH=y" {
		t.Errorf("got %+v", v)
	}
}

func TestTCPNamesTheMissingCapability(t *testing.T) {
	requireCapabilities(t)
	without(t, func() {
		_, err := NewTCP(&Kernel{}, TCPOptions{})
		u, ok := errors.AsType[*verdict.UnavailableError](err)
		if !ok || !strings.Contains(u.Missing, "CAP_PERFMON") {
			t.Errorf("got %v", err)
		}
	}, capPerfmon, capSysAdmin)
}

// CAP_BPF and CAP_PERFMON are all that it takes, for sweeps too.
func TestTCPWithTwoCapabilities(t *testing.T) {
	requireCapabilities(t)
	without(t, func() {
		p, err := NewTCP(&Kernel{}, TCPOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(p.Sweep(), p.Detach(), p.Attach(), p.Close()); err != nil {
			t.Error(err)
		}
	}, capNetAdmin, capSysAdmin)
}

func TestTCPSweepAllocatesNothing(t *testing.T) {
	r := newTCPRig(t, true)
	r.pair(tcpLocal)
	var c TCPCounts
	n := testing.AllocsPerRun(100, func() { _ = errors.Join(r.Sweep(), r.Read(RestSlot, &c)) })
	if n != 0 {
		t.Errorf("a sweep and a read allocate %v times", n)
	}
}

// BenchmarkTCPConnection reports the kernel's own figures (bpf statistics): what the programs take of a connection over
// loopback, both ends together, and how often they run for it.
func BenchmarkTCPConnection(b *testing.B) {
	r := newTCPRig(b, true)
	l, address := r.listener(tcpLocal, 16)
	enableTCPStats(b)
	for b.Loop() {
		client := r.socket()
		r.must(unix.Connect(client.fd, address))
		server := l.accept()
		client.send(100, server)
		client.close()
		server.close()
	}
	b.StopTimer()
	s, err := r.TCP.Probe.Programs()[0].Stats()
	r.must(err)
	b.ReportMetric(float64(s.Runtime.Nanoseconds())/float64(s.RunCount), "ns/run")
	b.ReportMetric(float64(s.Runtime.Nanoseconds())/float64(b.N), "bpf-ns/op")
	b.ReportMetric(float64(s.RunCount)/float64(b.N), "runs/op")
}

// BenchmarkTCPSweep reports what a sweep takes for each of 2,000 open sockets: by the test's clock, and its program alone.
func BenchmarkTCPSweep(b *testing.B) {
	const connections = 1000
	r := newTCPRig(b, true)
	for range connections {
		r.pair(tcpLocal)
	}
	enableTCPStats(b)
	b.ReportAllocs()
	for b.Loop() {
		r.must(r.Sweep())
	}
	b.StopTimer()
	programs := r.Programs()
	s, err := programs[len(programs)-1].Stats()
	r.must(err)
	b.ReportMetric(float64(s.Runtime.Nanoseconds())/float64(s.RunCount), "ns/run")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2*connections), "ns/socket")
}

func enableTCPStats(b *testing.B) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skip("bpf statistics: ", err)
	}
	b.Cleanup(func() { stats.Close() })
}
