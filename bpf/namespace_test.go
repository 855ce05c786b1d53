package bpf

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// A namespace is a network namespace of a test's own, where only the loopback interface is up. Nobody else's packets
// are there.
type namespace struct {
	inode uint32 // of /proc/PID/ns/net
	calls chan func()
	open  map[int]bool // descriptors that end with the test
}

// newNamespace makes a namespace that ends with the test and with the sockets in it.
func newNamespace(tb testing.TB) *namespace {
	tb.Helper()
	testneed.Root(tb, "to make a network namespace")
	n := &namespace{calls: make(chan func()), open: map[int]bool{}}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		inode, err := enterNamespace()
		n.inode = inode
		ready <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		close(n.calls)
		for fd := range n.open {
			unix.Close(fd)
		}
	})
	return n
}

// enterNamespace moves the thread to a new namespace.
func enterNamespace() (inode uint32, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return 0, err
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return 0, err
	}
	var stat unix.Stat_t
	err = unix.Stat("/proc/thread-self/ns/net", &stat)
	return uint32(stat.Ino), err
}

// do runs f on a thread in the namespace. Sockets that it makes stay there.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// socket makes a socket in the namespace that ends with the test.
func (n *namespace) socket(tb testing.TB, family, kind int) (fd int) {
	tb.Helper()
	var err error
	n.do(func() { fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0) })
	must(tb, err)
	n.open[fd] = true
	patience := unix.Timeval{Sec: 30} // for accept, connect, read and write; accepted sockets inherit it
	must(tb, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	must(tb, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
	return fd
}

// close closes a socket before the test ends.
func (n *namespace) close(tb testing.TB, fd int) {
	tb.Helper()
	delete(n.open, fd)
	must(tb, unix.Close(fd))
}

// reset closes a TCP connection by a reset (socket(7), SO_LINGER).
func (n *namespace) reset(tb testing.TB, fd int) {
	tb.Helper()
	must(tb, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	n.close(tb, fd)
}

// accept takes a connection of a server, by accept or accept4 in turn.
func (n *namespace) accept(tb testing.TB, server, turn int) (fd int) {
	tb.Helper()
	var err error
	if turn%2 == 0 {
		fd, _, err = unix.Accept4(server, unix.SOCK_CLOEXEC)
	} else {
		fd, _, err = unix.Accept(server)
	}
	must(tb, err)
	n.open[fd] = true
	return fd
}

var loopback = [4]byte{127, 0, 0, 1}

// listen makes a TCP server with room for some connections in its queue.
func (n *namespace) listen(tb testing.TB, room int) (fd, port int) {
	tb.Helper()
	fd = n.socket(tb, unix.AF_INET, unix.SOCK_STREAM)
	must(tb, unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback}))
	must(tb, unix.Listen(fd, room))
	name, err := unix.Getsockname(fd)
	must(tb, err)
	return fd, name.(*unix.SockaddrInet4).Port
}

// connect makes a TCP connection.
func (n *namespace) connect(tb testing.TB, port int) (fd int) {
	tb.Helper()
	fd = n.socket(tb, unix.AF_INET, unix.SOCK_STREAM)
	must(tb, unix.Connect(fd, &unix.SockaddrInet4{Addr: loopback, Port: port}))
	return fd
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// await waits until something holds.
func await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 20 s: %s", what)
		}
	}
}

// A span is the bounds, by the test's own clock, of what the kernel measures.
type span struct{ least, most time.Duration }

// add adds the bounds of one duration: it began after began0 and before began1, and ended likewise.
func (s *span) add(began0, began1, ended0, ended1 time.Time) {
	s.least += max(ended0.Sub(began1), 0)
	s.most += ended1.Sub(began0)
}

// check compares a histogram with the number and the sum of the test's durations.
func (s *span) check(tb testing.TB, h *Hist, n uint64) {
	tb.Helper()
	sum := time.Duration(h.SumNs)
	tb.Logf("%d durations of %v, by the test %v to %v", h.Count(), sum, s.least, s.most)
	if h.Count() != n || sum < s.least || sum > s.most {
		tb.Errorf("%d durations of %v in sum, want %d of %v to %v", h.Count(), sum, n, s.least, s.most)
	}
}

// kernelOfOwnGroup returns a kernel that counts the events of the test's own control group in slot 1.
func kernelOfOwnGroup(tb testing.TB) *Kernel {
	tb.Helper()
	requireCapabilities(tb)
	k := &Kernel{}
	owners, err := NewOwners(k, 4)
	must(tb, err)
	tb.Cleanup(func() { owners.Close() })
	mount, err := cgroup.Mount("/")
	if err != nil {
		tb.Skip(err)
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	must(tb, err)
	for line := range strings.Lines(string(groups)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		var stat unix.Stat_t
		must(tb, unix.Stat(filepath.Join(mount, path), &stat))
		must(tb, owners.Assign(stat.Ino, 1))
		k.Attribute(owners)
		return k
	}
	tb.Skip("the test is in no group of the cgroup2 tree")
	return nil
}

// read returns the counts of a slot.
func read[T any](tb testing.TB, t *Table[T], slot int) (counts T) {
	tb.Helper()
	must(tb, t.Read(slot, &counts))
	return counts
}

// runTime reports what one run of a program took by bpf statistics while work ran.
func runTime(b *testing.B, p *Probe, work func()) {
	b.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skip("bpf statistics:", err)
	}
	defer stats.Close()
	work()
	for i, program := range p.Programs() {
		s, err := program.Stats()
		must(b, err)
		if s.RunCount > 0 {
			b.ReportMetric(float64(s.Runtime.Nanoseconds())/float64(s.RunCount), "ns/"+p.rung.programs[i])
		}
	}
}

// Each of the probes names the capability that it lacks.
func TestNetworkProbesNameCapabilities(t *testing.T) {
	requireCapabilities(t)
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	for name, test := range map[string]struct {
		open    func() (io.Closer, error)
		dropped []capability
		want    string
	}{
		"accept":  {func() (io.Closer, error) { return NewAccept(&Kernel{}, SocketOptions{}) }, []capability{capPerfmon}, "CAP_PERFMON"},
		"pktread": {func() (io.Closer, error) { return NewPacketRead(&Kernel{}, SocketOptions{}) }, []capability{capBPF}, "CAP_BPF"},
		"drops":   {func() (io.Closer, error) { return NewDrops(&Kernel{}, SocketOptions{}) }, []capability{capBPF}, "CAP_BPF"},
		"dns": {
			func() (io.Closer, error) { return NewDNS(&Kernel{}, DNSOptions{Cgroup: mount}) },
			[]capability{capNetAdmin},
			"CAP_NET_ADMIN",
		},
	} {
		without(t, func() {
			_, err := test.open()
			if u, ok := errors.AsType[*verdict.UnavailableError](err); !ok || u.Missing != test.want {
				t.Errorf("%s: %v, want missing %s", name, err, test.want)
			}
		}, append(test.dropped, capSysAdmin)...)
		// And it needs no more than these: not CAP_SYS_ADMIN.
		without(t, func() {
			p, err := test.open()
			if err != nil {
				t.Errorf("%s without CAP_SYS_ADMIN: %v", name, err)
				return
			}
			must(t, p.Close())
		}, capSysAdmin)
	}
}
