package bpf

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPacketRead opens the probe for one of 2^shift sockets of a namespace.
func openPacketRead(tb testing.TB, k *Kernel, ns *namespace, shift uint32) *PacketRead {
	tb.Helper()
	requireCapabilities(tb)
	r, err := newPacketRead(k, SocketOptions{OnlyNetns: ns.inode}, shift)
	must(tb, err)
	tb.Cleanup(func() { r.Close() })
	return r
}

// A pipe is a TCP connection whose reader is slow.
type pipe struct {
	tb          testing.TB
	write, read int
	sent        [2]time.Time // before and after the last arrival
}

func (n *namespace) pipe(tb testing.TB) *pipe {
	tb.Helper()
	server, port := n.listen(tb, 1)
	defer n.close(tb, server)
	p := &pipe{tb: tb, write: n.connect(tb, port)}
	p.read = n.accept(tb, server, 0)
	must(tb, unix.SetsockoptInt(p.write, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	return p
}

// send sends n bytes and waits until they are all in the reader's socket.
func (p *pipe) send(n int) {
	p.tb.Helper()
	p.sent[0] = time.Now()
	before := p.unread()
	_, err := unix.Write(p.write, make([]byte, n))
	must(p.tb, err)
	await(p.tb, "the data arrives", func() bool { return p.unread() == before+n })
	p.sent[1] = time.Now()
}

// unread returns how many bytes wait for the reader.
func (p *pipe) unread() int {
	n, err := unix.IoctlGetInt(p.read, unix.TIOCINQ)
	must(p.tb, err)
	return n
}

// receive reads n bytes.
func (p *pipe) receive(n int) {
	p.tb.Helper()
	got, err := unix.Read(p.read, make([]byte, n))
	if err != nil || got != n {
		p.tb.Fatalf("read %d bytes of %d: %v", got, n, err)
	}
}

// The probe measures the time that a slow reader lets data wait, as the test's clock does.
func TestPacketReadWait(t *testing.T) {
	const rounds = 20
	ns := newNamespace(t)
	r := openPacketRead(t, &Kernel{}, ns, 0)
	p := ns.pipe(t)
	var want span
	for range rounds {
		p.send(100)
		time.Sleep(3 * time.Millisecond)
		before := time.Now()
		p.receive(100)
		want.add(p.sent[0], p.sent[1], before, time.Now())
	}
	counts := read(t, &r.Table, RestSlot)
	want.check(t, &counts.Wait, rounds)
	if c := r.Counts(); c.Recorded != rounds || c.Unmatched+c.Discarded+c.Lost != 0 {
		t.Errorf("%+v", c)
	}
}

// One segment is under watch at a time, a look at it is no read, and data that nobody reads has no wait.
func TestPacketReadSegments(t *testing.T) {
	ns := newNamespace(t)
	r := openPacketRead(t, &Kernel{}, ns, 0)
	p := ns.pipe(t)
	waits := func(want uint64, when string) {
		t.Helper()
		counts := read(t, &r.Table, RestSlot)
		if got := counts.Wait.Count(); got != want {
			t.Errorf("%s: %d waits, want %d", when, got, want)
		}
	}
	p.send(10)
	p.send(10)
	p.send(10)
	waits(0, "nothing read")
	_, _, err := unix.Recvfrom(p.read, make([]byte, 10), unix.MSG_PEEK)
	must(t, err)
	waits(0, "looked at")
	p.receive(1)
	waits(1, "first byte read")
	p.receive(29)
	waits(1, "all read")
	p.send(10)
	p.receive(10)
	waits(2, "the next one read")
	p.send(10)
	ns.close(t, p.read)
	waits(2, "closed unread")
}

// While the probe is detached, data may be read: its wait is unknown, and no giant.
func TestPacketReadUnmatched(t *testing.T) {
	ns := newNamespace(t)
	r := openPacketRead(t, &Kernel{}, ns, 0)
	p := ns.pipe(t)
	p.send(10)
	must(t, r.Detach())
	p.receive(10)
	must(t, r.Attach())
	p.send(10)
	p.receive(10)
	counts, c := read(t, &r.Table, RestSlot), r.Counts()
	if counts.Wait.Count() != 1 || c.Unmatched != 1 {
		t.Errorf("%d waits, %+v", counts.Wait.Count(), c)
	}
	// Another sample forgets what the former one watched.
	p.send(10)
	must(t, r.Sample(0))
	p.receive(10)
	counts, c = read(t, &r.Table, RestSlot), r.Counts()
	if counts.Wait.Count() != 1 || c.Unmatched != 2 {
		t.Errorf("after another sample: %d waits, %+v", counts.Wait.Count(), c)
	}
}

// Of many sockets about one of 2^shift is watched, and stands for as many.
func TestPacketReadSample(t *testing.T) {
	const sockets, shift = 400, 3
	ns := newNamespace(t)
	r := openPacketRead(t, &Kernel{}, ns, shift)
	for range sockets {
		p := ns.pipe(t)
		p.send(1)
		p.receive(1)
		ns.reset(t, p.write)
		ns.close(t, p.read)
	}
	counts, recorded := read(t, &r.Table, RestSlot), r.Counts().Recorded
	t.Logf("%d of %d sockets watched", recorded, sockets)
	if counts.Wait.Count() != recorded<<shift {
		t.Errorf("%d waits counted as %d", recorded, counts.Wait.Count())
	}
	// A binomial distribution of mean 50 and deviation 6.6: these bounds are more than six deviations away.
	if recorded < 10 || recorded > 95 {
		t.Errorf("%d of %d sockets were watched, want about %d", recorded, sockets, sockets>>shift)
	}
}

// Waits belong to the group of the reader.
func TestPacketReadOwner(t *testing.T) {
	ns := newNamespace(t)
	r := openPacketRead(t, kernelOfOwnGroup(t), ns, 0)
	p := ns.pipe(t)
	p.send(1)
	p.receive(1)
	own, rest := read(t, &r.Table, 1), read(t, &r.Table, RestSlot)
	if own.Wait.Count() != 1 || rest.Wait.Count() != 0 {
		t.Errorf("own group: %d waits, rest: %d", own.Wait.Count(), rest.Wait.Count())
	}
}

func benchmarkPacketRead(b *testing.B, shift uint32) {
	ns := newNamespace(b)
	r := openPacketRead(b, &Kernel{}, ns, shift)
	p := ns.pipe(b)
	buf := make([]byte, 1)
	runTime(b, r.Probe, func() {
		for b.Loop() {
			_, err := unix.Write(p.write, buf)
			must(b, err)
			_, err = unix.Read(p.read, buf)
			must(b, err)
		}
	})
}

// These report what a run of each program takes for a socket that is watched, and for one that most likely is not.
func BenchmarkPacketReadWatched(b *testing.B)   { benchmarkPacketRead(b, 0) }
func BenchmarkPacketReadUnwatched(b *testing.B) { benchmarkPacketRead(b, 31) }
