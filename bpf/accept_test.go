package bpf

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openAccept opens the probe by its best rung until the test ends.
func openAccept(tb testing.TB, k *Kernel, ns *namespace) *Accept {
	tb.Helper()
	requireCapabilities(tb)
	a, err := NewAccept(k, SocketOptions{OnlyNetns: ns.inode})
	must(tb, err)
	tb.Cleanup(func() { a.Close() })
	return a
}

// waitQueue waits until n connections are in the queue of a server (tcp_info(7): tcpi_unacked of a listener).
func waitQueue(tb testing.TB, fd, n int) {
	tb.Helper()
	await(tb, "the connections are in the queue", func() bool {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		must(tb, err)
		return int(info.Unacked) == n
	})
}

// For each way to measure that the kernel allows: the number of waits is exact, and their sum is what the test's clock
// says of a server that takes its connections late.
func TestAcceptWait(t *testing.T) {
	requireCapabilities(t)
	measured := 0
	for i, r := range acceptRungs() {
		ns := newNamespace(t)
		a, err := newAccept(&Kernel{}, SocketOptions{OnlyNetns: ns.inode}, acceptRungs()[i:i+1])
		if err != nil {
			t.Logf("%s: %v", r.programs[0], err)
			continue
		}
		measured++
		t.Run(r.programs[0], func(t *testing.T) { measureAccepts(t, ns, a) })
		must(t, a.Close())
	}
	if measured == 0 {
		t.Error("the probe works in no way")
	}
}

func measureAccepts(t *testing.T, ns *namespace, a *Accept) {
	const connections = 20
	var want span
	server, port := ns.listen(t, connections)
	var began [connections][2]time.Time
	for i := range began {
		began[i][0] = time.Now()
		ns.connect(t, port)
		waitQueue(t, server, i+1)
		began[i][1] = time.Now()
	}
	for i := range began {
		time.Sleep(2 * time.Millisecond)
		before := time.Now()
		ns.accept(t, server, i)
		want.add(began[i][0], began[i][1], before, time.Now())
	}
	counts := read(t, &a.Table, RestSlot)
	want.check(t, &counts.Wait, connections)
	if c := a.Counts(); counts.Ended != 0 || c.Unmatched+c.Discarded+c.Lost != 0 || c.Recorded != connections {
		t.Errorf("%d ended in the queue, %+v", counts.Ended, c)
	}
}

// Connections that are reset in the queue, and those of a server that goes away, are counted apart.
func TestAcceptEnded(t *testing.T) {
	ns := newNamespace(t)
	a := openAccept(t, &Kernel{}, ns)
	server, port := ns.listen(t, 10)
	client := ns.connect(t, port)
	waitQueue(t, server, 1)
	ns.reset(t, client)
	await(t, "the reset is counted", func() bool { return read(t, &a.Table, RestSlot).Ended == 1 })
	ns.accept(t, server, 0) // the server gets a dead connection: that is no wait of a client
	for i := range 3 {
		ns.connect(t, port)
		waitQueue(t, server, i+1)
	}
	ns.close(t, server)
	await(t, "the queue's end is counted", func() bool { return read(t, &a.Table, RestSlot).Ended == 4 })
	if counts, c := read(t, &a.Table, RestSlot), a.Counts(); counts.Wait.Count() != 0 || c.Unmatched != 0 {
		t.Errorf("%d waits, %+v", counts.Wait.Count(), c)
	}
}

// What began before the probe, or passed while it was detached, is of unknown length.
func TestAcceptUnmatched(t *testing.T) {
	ns := newNamespace(t)
	server, port := ns.listen(t, 10)
	ns.connect(t, port)
	waitQueue(t, server, 1)
	a := openAccept(t, &Kernel{}, ns)
	ns.accept(t, server, 0)
	if c := a.Counts(); c.Unmatched != 1 {
		t.Errorf("a connection from before the probe: %+v", c)
	}

	client := ns.connect(t, port)
	waitQueue(t, server, 1)
	must(t, a.Detach())
	conn := ns.accept(t, server, 0)
	must(t, a.Attach())
	ns.reset(t, client)
	ns.close(t, conn)
	await(t, "the end is seen", func() bool { return a.Counts().Unmatched == 2 })
	if counts := read(t, &a.Table, RestSlot); counts.Wait.Count() != 0 || counts.Ended != 0 {
		t.Errorf("%d waits, %d ended", counts.Wait.Count(), counts.Ended)
	}
}

// Connections for which there is no room are lost, and counted; the others are measured all the same.
func TestAcceptRoom(t *testing.T) {
	requireCapabilities(t)
	const connections, room = 8, 3
	ns := newNamespace(t)
	a, err := NewAccept(&Kernel{}, SocketOptions{OnlyNetns: ns.inode, room: room})
	must(t, err)
	defer a.Close()
	server, port := ns.listen(t, connections)
	for i := range connections {
		ns.connect(t, port)
		waitQueue(t, server, i+1)
	}
	for i := range connections {
		ns.accept(t, server, i)
	}
	counts, c := read(t, &a.Table, RestSlot), a.Counts()
	if counts.Wait.Count() != room || c.Lost != connections-room || c.Unmatched != connections-room {
		t.Errorf("%d waits, %+v", counts.Wait.Count(), c)
	}
}

// With one of 2^shift connections measured, each stands for as many.
func TestAcceptSample(t *testing.T) {
	const connections, shift = 200, 2
	ns := newNamespace(t)
	a := openAccept(t, &Kernel{}, ns)
	must(t, a.Sample(shift))
	server, port := ns.listen(t, 1)
	for i := range connections {
		client := ns.connect(t, port)
		conn := ns.accept(t, server, i)
		ns.reset(t, client)
		ns.close(t, conn)
	}
	counts, c := read(t, &a.Table, RestSlot), a.Counts()
	if counts.Wait.Count() != c.Recorded<<shift || c.Recorded+c.Skipped != connections || c.Unmatched != 0 {
		t.Errorf("%d waits, %+v", counts.Wait.Count(), c)
	}
	// A binomial distribution of mean 50 and deviation 6.1: these bounds are more than six deviations away.
	if c.Recorded < 10 || c.Recorded > 90 {
		t.Errorf("%d of %d connections were measured", c.Recorded, connections)
	}
}

// Waits belong to the group of the server.
func TestAcceptOwner(t *testing.T) {
	ns := newNamespace(t)
	a := openAccept(t, kernelOfOwnGroup(t), ns)
	server, port := ns.listen(t, 1)
	ns.connect(t, port)
	ns.accept(t, server, 0)
	if own, rest := read(t, &a.Table, 1), read(t, &a.Table, RestSlot); own.Wait.Count() != 1 || rest.Wait.Count() != 0 {
		t.Errorf("own group: %d waits, rest: %d", own.Wait.Count(), rest.Wait.Count())
	}
}

// BenchmarkAcceptConnection reports what a run of each program takes while connections are opened and taken.
func BenchmarkAcceptConnection(b *testing.B) {
	ns := newNamespace(b)
	a := openAccept(b, &Kernel{}, ns)
	server, port := ns.listen(b, 1)
	runTime(b, a.Probe, func() {
		for b.Loop() {
			client := ns.connect(b, port)
			conn := ns.accept(b, server, 0)
			ns.reset(b, client) // so that no port is left waiting
			ns.close(b, conn)
		}
	})
}

// BenchmarkAcceptOtherCalls reports what a run takes at the exit of a system call that is not accept, where the probe
// has to run at all of them.
func BenchmarkAcceptOtherCalls(b *testing.B) {
	ns := newNamespace(b)
	rungs := acceptRungs()
	a, err := newAccept(&Kernel{}, SocketOptions{OnlyNetns: ns.inode}, rungs[len(rungs)-1:])
	must(b, err)
	defer a.Close()
	runTime(b, a.Probe, func() {
		for b.Loop() {
			unix.Getppid()
		}
	})
}
