package bpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/cgroup"
)

// A resolver is a DNS server of a test's own, on a port of its own: nobody else's packets go there.
type resolver struct {
	tb   testing.TB
	conn *net.UDPConn
	port uint16
}

func newResolver(tb testing.TB, address string) *resolver {
	tb.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address)})
	must(tb, err)
	tb.Cleanup(func() { conn.Close() })
	must(tb, conn.SetDeadline(time.Now().Add(30*time.Second)))
	return &resolver{tb, conn, uint16(conn.LocalAddr().(*net.UDPAddr).Port)}
}

// receive returns the next query.
func (r *resolver) receive() (query []byte, from netip.AddrPort) {
	r.tb.Helper()
	buf := make([]byte, 512)
	n, from, err := r.conn.ReadFromUDPAddrPort(buf)
	must(r.tb, err)
	return buf[:n], from
}

// answer answers a query with the given flags (RFC 1035, section 4.1.1), the response bit besides.
func (r *resolver) answer(query []byte, to netip.AddrPort, flags uint16) {
	r.tb.Helper()
	reply := append([]byte(nil), query...)
	binary.BigEndian.PutUint16(reply[2:], 0x8000|flags)
	_, err := r.conn.WriteToUDPAddrPort(reply, to)
	must(r.tb, err)
}

// dial makes a client of the resolver.
func (r *resolver) dial() *net.UDPConn {
	r.tb.Helper()
	c, err := net.DialUDP("udp", nil, r.conn.LocalAddr().(*net.UDPAddr))
	must(r.tb, err)
	r.tb.Cleanup(func() { c.Close() })
	must(r.tb, c.SetDeadline(time.Now().Add(30*time.Second)))
	return c
}

// question returns a query of the given number for the address of example.org.
func question(id uint16) []byte {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	return append(q, "\x07example\x03org\x00\x00\x01\x00\x01"...)
}

func send(tb testing.TB, c net.Conn, datagram []byte) {
	tb.Helper()
	_, err := c.Write(datagram)
	must(tb, err)
}

// hear waits for a datagram.
func hear(tb testing.TB, c net.Conn) {
	tb.Helper()
	_, err := c.Read(make([]byte, 512))
	must(tb, err)
}

// openDNS opens the probe for the clients of a resolver.
func openDNS(tb testing.TB, k *Kernel, r *resolver, timeout time.Duration) *DNS {
	tb.Helper()
	requireCapabilities(tb)
	mount, err := cgroup.Mount("/")
	if err != nil {
		tb.Skip(err)
	}
	d, err := NewDNS(k, DNSOptions{Cgroup: mount, port: r.port, timeout: timeout})
	must(tb, err)
	tb.Cleanup(func() { d.Close() })
	return d
}

// The durations agree with the clocks of client and server, and the response codes with what the server sent.
func TestDNSDurations(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		r := newResolver(t, address)
		d := openDNS(t, &Kernel{}, r, 0)
		c := r.dial()
		codes := []uint16{0, 3, 0, 2, 0, 5, 4, 0, 1, 0}
		want := span{}
		for i, code := range codes {
			asked := time.Now()
			send(t, c, question(uint16(i)))
			query, from := r.receive()
			received := time.Now()
			time.Sleep(time.Duration(i) * time.Millisecond)
			answered := time.Now()
			r.answer(query, from, code)
			hear(t, c)
			want.add(asked, received, answered, time.Now())
		}
		counts := read(t, &d.Table, RestSlot)
		want.check(t, &counts.Duration, uint64(len(codes)))
		if want := [...]uint64{DNSNoError: 5, DNSNXDomain: 1, DNSServFail: 1, DNSRefused: 1, DNSOther: 2}; counts.Responses != want {
			t.Errorf("%s: responses %v, want %v", address, counts.Responses, want)
		}
		if c := d.Counts(); c.Recorded != uint64(len(codes)) || c.Unmatched+c.Discarded+c.Lost != 0 {
			t.Errorf("%s: %+v", address, c)
		}
	}
}

// What becomes of queries that go wrong, and of answers that fit none.
func TestDNSTrouble(t *testing.T) {
	r := newResolver(t, "127.0.0.1")
	d := openDNS(t, &Kernel{}, r, 0)
	c := r.dial()
	send(t, c, question(1))
	send(t, c, question(1)) // once more
	query, from := r.receive()
	r.receive()
	r.answer(query, from, 0x0200) // truncated
	hear(t, c)
	r.answer(query, from, 0) // a second answer
	hear(t, c)
	query[0]++
	r.answer(query, from, 0) // an answer to another query
	hear(t, c)
	_, err := r.conn.WriteToUDPAddrPort([]byte{1, 2, 3}, from) // too short
	must(t, err)
	hear(t, c)
	send(t, c, []byte{1, 2, 3, 4, 5})
	update := question(7)
	update[2] = 5 << 3 // an update is no query
	send(t, c, update)
	stray := r.dial()
	_, err = r.conn.WriteToUDPAddrPort(append([]byte{0, 9, 0x80, 0}, make([]byte, 8)...), stray.LocalAddr().(*net.UDPAddr).AddrPort())
	must(t, err)
	hear(t, stray) // it never asked

	gone := r.dial()
	for id := range uint16(3) {
		send(t, gone, question(id))
	}
	must(t, gone.Close())

	counts, probe := read(t, &d.Table, RestSlot), d.Counts()
	if counts.Duration.Count() != 1 || counts.SentAgain != 1 || counts.Truncated != 1 || counts.Abandoned != 3 || counts.Timeouts != 0 {
		t.Errorf("%d answered, %d sent again, %d truncated, %d abandoned, %d timeouts",
			counts.Duration.Count(), counts.SentAgain, counts.Truncated, counts.Abandoned, counts.Timeouts)
	}
	if probe.Unmatched != 3 || probe.Discarded != 2 || probe.Lost != 0 {
		t.Errorf("%+v", probe)
	}
}

// A socket has room for 16 queries that wait; more are lost, and their answers fit none.
func TestDNSRoom(t *testing.T) {
	r := newResolver(t, "127.0.0.1")
	d := openDNS(t, &Kernel{}, r, time.Hour)
	c := r.dial()
	for id := range uint16(20) {
		send(t, c, question(id))
	}
	for range 20 {
		query, from := r.receive()
		r.answer(query, from, 0)
		hear(t, c)
	}
	counts, probe := read(t, &d.Table, RestSlot), d.Counts()
	if counts.Duration.Count() != 16 || probe.Lost != 4 || probe.Unmatched != 4 {
		t.Errorf("%d answered, %+v", counts.Duration.Count(), probe)
	}
}

// Queries without an answer are counted when their time is over; what is answered after that is not matched, nor what
// passed while the probe was detached.
func TestDNSTimeouts(t *testing.T) {
	const timeout = 50 * time.Millisecond
	r := newResolver(t, "127.0.0.1")
	d := openDNS(t, &Kernel{}, r, timeout)
	c := r.dial()
	for id := range uint16(16) {
		send(t, c, question(id))
	}
	query, from := r.receive()
	await(t, "the queries time out", func() bool {
		must(t, d.Sweep())
		return read(t, &d.Table, RestSlot).Timeouts == 16
	})
	r.answer(query, from, 0)
	hear(t, c)
	if n := d.Counts().Unmatched; n != 1 {
		t.Errorf("%d unmatched, want the late answer", n)
	}

	send(t, c, question(100))
	must(t, d.Detach())
	must(t, d.Attach())
	await(t, "the query from before is given up", func() bool {
		must(t, d.Sweep())
		return d.Counts().Unmatched == 2
	})
	if counts := read(t, &d.Table, RestSlot); counts.Timeouts != 16 || counts.Duration.Count() != 0 {
		t.Errorf("%d timeouts, %d answered", counts.Timeouts, counts.Duration.Count())
	}
}

// Connections over TCP are counted when they are tried, and belong to the group of the client as the queries do.
func TestDNSOwner(t *testing.T) {
	r := newResolver(t, "127.0.0.1")
	d := openDNS(t, kernelOfOwnGroup(t), r, 0)
	c := r.dial()
	send(t, c, question(1))
	query, from := r.receive()
	r.answer(query, from, 0)
	hear(t, c)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: loopback, Port: int(r.port)}) // most likely nobody listens
	own, rest := read(t, &d.Table, 1), read(t, &d.Table, RestSlot)
	if own.Duration.Count() != 1 || own.TCP != 1 || Any(&rest) {
		t.Errorf("own group: %d answered, %d TCP; rest: %d, %d", own.Duration.Count(), own.TCP, rest.Duration.Count(), rest.TCP)
	}
}

// Packets that are cut, or that lie about their lengths, pass and harm nobody. They are variants of a query over IPv4,
// IPv6 and IPv6 with a hop-by-hop header.
func TestDNSHostilePackets(t *testing.T) {
	r := newResolver(t, "127.0.0.1")
	d := openDNS(t, &Kernel{}, r, time.Hour)
	random := rand.New(rand.NewPCG(1, 2))
	frames := queryFrames(r.port)
	pass(t, d, frames[0][:14+20+8+4])
	if d.Counts().Discarded == 0 {
		t.Skip("this kernel's test runs of cgroup_skb show programs no packets")
	}
	for i := range 3000 {
		frame := slices.Clone(frames[i%len(frames)])
		if i >= len(frames) { // the first ones are as they should be
			for range 1 + random.IntN(3) {
				frame[14+random.IntN(len(frame)-14)] = byte(random.Uint32())
			}
			frame = frame[:14+max(20, random.IntN(len(frame)-14+1))]
		}
		pass(t, d, frame)
	}
	counts, probe := read(t, &d.Table, RestSlot), d.Counts()
	t.Logf("%d runs, %d discarded, %d unmatched", probe.Runs, probe.Discarded, probe.Unmatched)
	if probe.Runs < 3000 || counts.Duration.Count() != 0 {
		t.Errorf("%d runs, %d answered", probe.Runs, counts.Duration.Count())
	}
}

// queryFrames returns a query in Ethernet frames: over IPv4, IPv6, and IPv6 with a hop-by-hop header.
func queryFrames(port uint16) (frames [][]byte) {
	udp := binary.BigEndian.AppendUint16([]byte{4, 0}, port)
	udp = append(append(udp, 0, 37, 0, 0), question(1)...)
	addresses := make([]byte, 32)
	for _, packet := range []struct {
		ethertype uint16
		header    []byte
	}{
		{0x0800, []byte{0x45, 0, 0, 57, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1}},
		{0x86dd, append([]byte{0x60, 0, 0, 0, 0, 37, 17, 64}, addresses...)},
		{0x86dd, append(append([]byte{0x60, 0, 0, 0, 0, 45, 0, 64}, addresses...), 17, 0, 1, 4, 0, 0, 0, 0)},
	} {
		frame := binary.BigEndian.AppendUint16(make([]byte, 12), packet.ethertype)
		frames = append(frames, append(append(frame, packet.header...), udp...))
	}
	return frames
}

// pass runs a frame through the programs for packets, which have to let it pass.
func pass(t *testing.T, d *DNS, frame []byte) {
	t.Helper()
	for _, program := range d.Programs() {
		if program.Type() != ebpf.CGroupSKB {
			continue
		}
		verdict, err := program.Run(&ebpf.RunOptions{Data: frame})
		if errors.Is(err, unix.EINVAL) {
			continue // the kernel's own test of the frame refuses it
		}
		must(t, err)
		if verdict != 1 {
			t.Fatalf("frame %x: verdict %d", frame, verdict)
		}
	}
}

func TestDNSSweepAllocatesNothing(t *testing.T) {
	d := openDNS(t, &Kernel{}, newResolver(t, "127.0.0.1"), 0)
	if n := testing.AllocsPerRun(100, func() { _ = d.Sweep() }); n != 0 {
		t.Errorf("Sweep allocates %v times", n)
	}
}

// BenchmarkDNSQuery reports what a run of each program takes for queries and answers.
func BenchmarkDNSQuery(b *testing.B) {
	r := newResolver(b, "127.0.0.1")
	d := openDNS(b, &Kernel{}, r, 0)
	c := r.dial()
	runTime(b, d.Probe, func() {
		for id := uint16(0); b.Loop(); id++ {
			send(b, c, question(id))
			query, from := r.receive()
			r.answer(query, from, 0)
			hear(b, c)
		}
	})
}

// BenchmarkDNSOthers reports what a run of each program takes for datagrams that are no DNS.
func BenchmarkDNSOthers(b *testing.B) {
	r := newResolver(b, "127.0.0.1")
	d := openDNS(b, &Kernel{}, r, 0)
	other := newResolver(b, "127.0.0.1")
	c := other.dial()
	runTime(b, d.Probe, func() {
		for b.Loop() {
			send(b, c, question(1))
			other.receive()
		}
	})
}
