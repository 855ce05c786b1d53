package bpf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/testneed"
)

// newHTTP attaches the probe to the root of the cgroup2 tree.
func newHTTP(tb testing.TB) *HTTP {
	tb.Helper()
	return newHTTPWith(tb, nil)
}

func newHTTPWith(tb testing.TB, objectives *HTTPSets) *HTTP {
	tb.Helper()
	testneed.Root(tb, "to load BPF programs")
	mount, err := cgroup.Mount("/")
	if err != nil {
		tb.Skip(err)
	}
	return openHTTP(tb, HTTPOptions{Cgroup: mount, Sets: objectives})
}

// openHTTP loads the probe until the test ends.
func openHTTP(tb testing.TB, opts HTTPOptions) *HTTP {
	tb.Helper()
	return openHTTPOn(tb, &Kernel{}, opts)
}

func openHTTPOn(tb testing.TB, k *Kernel, opts HTTPOptions) *HTTP {
	tb.Helper()
	h, err := NewHTTP(k, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// newHTTPAtInterfaces attaches the probe to the loopback interface, as a sidecar without the host's cgroup2 tree does.
func newHTTPAtInterfaces(tb testing.TB) *HTTP {
	tb.Helper()
	return atInterfaces(tb, nil)
}

func atInterfaces(tb testing.TB, objectives *HTTPSets) *HTTP {
	tb.Helper()
	testneed.Root(tb, "to load BPF programs")
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		tb.Skip(err)
	}
	h := openHTTP(tb, HTTPOptions{Sets: objectives})
	err = h.AttachInterface(lo.Index)
	if errors.Is(err, ebpf.ErrNotSupported) { // a kernel before 6.6
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// counted is what the kernel counted for a port.
type counted struct {
	Codes                                        map[int]uint64
	HTTP, Opaque, Aborted, Unknown, Untimed, Cut uint64
	FirstBytes, Durations                        uint64
	FirstByteSum, DurationSum                    time.Duration
}

// countOf returns what the probe has for the port, of any address and namespace.
func countOf(tb testing.TB, h *HTTP, port int) counted {
	tb.Helper()
	c := counted{Codes: map[int]uint64{}}
	var s HTTPService
	for slot := 1; slot < HTTPSlots; slot++ {
		if _, used := h.InUse(slot); !used {
			continue
		}
		if err := h.Service(slot, &s); err != nil {
			tb.Fatal(err)
		}
		if int(s.Key.Port) == port {
			c.add(&s)
		}
	}
	return c
}

func (c *counted) add(s *HTTPService) {
	for i, n := range &s.Codes {
		if n != 0 {
			c.Codes[HTTPFirstStatus+i] += n
		}
	}
	c.HTTP += s.HttpConnections
	c.Opaque += s.OpaqueConnections
	c.Aborted += s.Aborted
	c.Unknown += s.Unknown
	c.Untimed += s.Untimed
	c.Cut += s.Cut
	c.FirstBytes += observations(&s.FirstByte)
	c.FirstByteSum += time.Duration(s.FirstByte.SumNs)
	for i := range s.Duration {
		c.Durations += observations(&s.Duration[i])
		c.DurationSum += time.Duration(s.Duration[i].SumNs)
	}
}

func observations(h *HTTPHist) uint64 {
	n := h.Zero
	for _, b := range &h.Buckets {
		n += b
	}
	return n
}

// A talk is one connection whose two ends the test holds, so that each write is a segment of its own.
type talk struct {
	tb             testing.TB
	client, server *net.TCPConn
	port           int
}

// connect opens a connection to a listener of its own on the address, e.g. 127.0.0.1 or ::1.
func connect(tb testing.TB, address string) *talk {
	tb.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		tb.Skipf("needs the address %s: %v", address, err)
	}
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	t := &talk{tb: tb, client: client.(*net.TCPConn), server: server.(*net.TCPConn), port: l.Addr().(*net.TCPAddr).Port}
	tb.Cleanup(func() {
		t.close()
		l.Close()
	})
	return t
}

// say sends data from one end and waits until it has reached the other.
func (t *talk) say(from, to *net.TCPConn, data string) {
	t.tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	_ = from.SetDeadline(deadline)
	_ = to.SetDeadline(deadline)
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(from, data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(to, got); err != nil {
		t.tb.Fatal(err)
	}
	if err := <-sent; err != nil || string(got) != data {
		t.tb.Fatalf("sent %.40q, got %.40q, error %v", data, got, err)
	}
}

func (t *talk) request(data string) { t.tb.Helper(); t.say(t.client, t.server, data) }
func (t *talk) answer(data string)  { t.tb.Helper(); t.say(t.server, t.client, data) }

func (t *talk) close() {
	t.client.Close()
	t.server.Close()
}

const (
	get = "GET /path HTTP/1.1\r\nHost: test\r\n\r\n"
	ok  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

func post(length int) string {
	return fmt.Sprintf("POST /path HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n", length)
}

// TestHTTPConversations plays whole connections, segment by segment, and compares everything that was counted, at each
// kind of hook.
func TestHTTPConversations(t *testing.T) {
	for hook, probe := range map[string]func(testing.TB) *HTTP{"cgroup": newHTTP, "tcx": newHTTPAtInterfaces} {
		t.Run(hook, func(t *testing.T) { playConversations(t, probe(t)) })
	}
}

func playConversations(t *testing.T, h *HTTP) {
	once := counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1}
	for name, test := range map[string]struct {
		play func(*talk)
		want counted
	}{
		"one request": {func(c *talk) { c.request(get); c.answer(ok) }, once},
		"keep-alive": {func(c *talk) {
			for range 5 {
				c.request(get)
				c.answer(ok)
			}
		}, counted{Codes: map[int]uint64{200: 5}, HTTP: 1, FirstBytes: 5, Durations: 5}},
		"all classes": {func(c *talk) {
			for _, status := range []string{"204", "301", "404", "503", "599", "299"} {
				c.request("DELETE /x HTTP/1.1\r\n\r\n")
				c.answer("HTTP/1.1 " + status + " X\r\n\r\n")
			}
		}, counted{
			Codes: map[int]uint64{204: 1, 301: 1, 404: 1, 503: 1, 599: 1, 299: 1},
			HTTP:  1, FirstBytes: 6, Durations: 6,
		}},
		"request byte by byte": {func(c *talk) {
			for _, b := range get {
				c.request(string(b))
			}
			c.answer(ok)
		}, once},
		"status line byte by byte": {func(c *talk) {
			c.request(get)
			for _, b := range ok {
				c.answer(string(b))
			}
		}, once},
		"two split requests": {func(c *talk) {
			for range 2 {
				c.request("PO")
				c.request("ST /a HT")
				c.request("TP/1.1\r\nContent-Length: 0\r\n\r\n")
				c.answer("HTTP/1.")
				c.answer("1 201 Created\r\n\r\n")
			}
		}, counted{Codes: map[int]uint64{201: 2}, HTTP: 1, FirstBytes: 2, Durations: 2}},
		"body full of requests": {func(c *talk) {
			body := strings.Repeat(get, 50)
			c.request(post(100 * len(body)))
			for range 100 {
				c.request(body)
			}
			c.answer(ok)
		}, once},
		"body that looks like a further answer: not attributed": {func(c *talk) {
			c.request(get)
			c.answer("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
			c.answer(strings.Repeat("HTTP/1.1 500 Text ", 100))
		}, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1, Unknown: 1}},
		"10 MB of headers": {func(c *talk) {
			c.request("GET / HTTP/1.1\r\n")
			line := "X-Long: " + strings.Repeat("GET / HTTP/1.1", 4680) + "\r\n"
			for range 160 {
				c.request(line)
			}
			c.request("\r\n")
			c.answer("HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n")
		}, counted{Codes: map[int]uint64{431: 1}, HTTP: 1, FirstBytes: 1, Durations: 1}},
		"100-continue, body full of requests": {func(c *talk) {
			c.request(post(10 * len(get)))
			c.answer("HTTP/1.1 100 Continue\r\n\r\n")
			for range 10 {
				c.request(get)
			}
			c.answer(ok)
		}, once},
		"100 and 200 in one segment": {func(c *talk) {
			c.request(post(2) + "ab")
			c.answer("HTTP/1.1 100 Continue\r\n\r\n" + ok)
		}, once},
		"early hints": {func(c *talk) {
			c.request(get)
			c.answer("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
			c.answer(ok)
		}, once},
		"websocket": {func(c *talk) {
			c.request(get)
			c.answer("HTTP/1.1 101 Switching Protocols\r\n\r\n")
			c.request(get) // frames may look like anything
			c.answer(ok)
		}, counted{Codes: map[int]uint64{101: 1}, HTTP: 1, FirstBytes: 1, Durations: 1}},
		"tunnel": {func(c *talk) {
			c.request("CONNECT db:5432 HTTP/1.1\r\n\r\n")
			c.answer("HTTP/1.1 200 Connected\r\n\r\n")
			c.request(get)
			c.answer(ok)
		}, once},
		"chunks": {func(c *talk) {
			c.request(get)
			c.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 10 {
				c.answer("5\r\nhello\r\n")
			}
			c.answer("0\r\n\r\n")
		}, once},
		"early error, rest of the body follows": {func(c *talk) {
			c.request(post(1000))
			c.answer("HTTP/1.1 413 Too Large\r\n\r\n")
			c.request(get) // is the rest of the body; the server closes without a further answer
		}, counted{Codes: map[int]uint64{413: 1}, HTTP: 1, FirstBytes: 1, Durations: 1, Unknown: 1}},
		"aborted by the client": {func(c *talk) {
			c.request(get)
			c.client.Close()
		}, counted{Aborted: 1}},
		"aborted by a reset": {func(c *talk) {
			c.request(get)
			_ = c.client.SetLinger(0)
			c.client.Close()
		}, counted{Aborted: 1}},
		"half-closed by the client, answered": {func(c *talk) {
			c.request(get)
			if err := c.client.CloseWrite(); err != nil {
				c.tb.Fatal(err)
			}
			c.answer(ok)
		}, once},
		"timeout of an unfinished request": {func(c *talk) {
			c.request("GET")
			c.answer("HTTP/1.1 408 Request Timeout\r\n\r\n")
		}, counted{Codes: map[int]uint64{408: 1}, HTTP: 1, FirstBytes: 1, Durations: 1}},
		"pipelined: the second answer is not attributed": {func(c *talk) {
			c.request(get + get)
			c.answer(ok)
			c.answer(ok)
		}, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1, Unknown: 1}},
		"TLS": {func(c *talk) {
			c.request("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
			c.answer("\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")
			c.request(get)
			c.answer(ok)
		}, counted{Opaque: 1}},
		"HTTP/2": {func(c *talk) {
			c.request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			c.answer("\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		}, counted{Opaque: 1}},
		"Redis": {func(c *talk) {
			c.request("*2\r\n$3\r\nGET\r\n$1\r\na\r\n")
			c.answer("$-1\r\n")
		}, counted{Opaque: 1}},
		"Redis, inline, in disguise": {func(c *talk) {
			c.request("GET /path HTTP/1.1\r\n")
			c.answer("-ERR wrong number of arguments\r\n")
			c.request("GET /path\r\n")
			c.answer("HTTP/1.1 200 OK\r\n\r\n")
		}, counted{Opaque: 1}},
		"server speaks first": {func(c *talk) {
			c.answer("220 mail ESMTP\r\n")
			c.request("EHLO test\r\n")
		}, counted{Opaque: 1}},
		"server speaks first, in disguise": {func(c *talk) {
			c.answer("HTTP/1.1 200 OK\r\n\r\n")
			c.request(get)
			c.answer(ok)
		}, counted{Opaque: 1}},
		"nonsense status": {func(c *talk) {
			c.request(get)
			c.answer("HTTP/1.1 999 What\r\n\r\n")
		}, counted{Opaque: 1}},
		"nothing": {func(*talk) {}, counted{}},
	} {
		for _, address := range []string{"127.0.0.1", "::1"} {
			t.Run(name+" on "+address, func(t *testing.T) {
				c := connect(t, address)
				test.play(c)
				c.close()
				checkCount(t, h, c.port, test.want)
				forget(t, h, c.port)
			})
		}
	}
}

// checkCount waits until the kernel's counts are as wanted, sums of time aside: the end of a connection may still be
// on its way.
func checkCount(t *testing.T, h *HTTP, port int, want counted) {
	t.Helper()
	if want.Codes == nil {
		want.Codes = map[int]uint64{}
	}
	var diff string
	for range 200 {
		got := countOf(t, h, port)
		got.FirstByteSum, got.DurationSum = 0, 0
		if diff = cmp.Diff(want, got); diff == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("counted (-want +got):\n%s", diff)
}

// TestHTTPTimes compares with the test's own clock: first byte in to first byte out, and to the last one.
func TestHTTPTimes(t *testing.T) {
	h := newHTTP(t)
	c := connect(t, "127.0.0.1")
	var firstByte, whole time.Duration
	for range 5 {
		began := time.Now()
		c.request(get)
		time.Sleep(30 * time.Millisecond)
		c.answer("HTTP/1.1 200 OK\r\n\r\n")
		firstByte += time.Since(began)
		time.Sleep(40 * time.Millisecond)
		c.answer("last")
		whole += time.Since(began)
		time.Sleep(5 * time.Millisecond) // belongs to no request
	}
	c.close()
	checkCount(t, h, c.port, counted{Codes: map[int]uint64{200: 5}, HTTP: 1, FirstBytes: 5, Durations: 5})
	got := countOf(t, h, c.port)
	// The test reads its clock outside of the hooks: its figures are the larger ones, by the cost of a few system calls.
	if got.FirstByteSum > firstByte || got.FirstByteSum < 150*time.Millisecond {
		t.Errorf("first byte: %v, the test says at most %v", got.FirstByteSum, firstByte)
	}
	if got.DurationSum > whole || got.DurationSum < 350*time.Millisecond {
		t.Errorf("duration: %v, the test says at most %v", got.DurationSum, whole)
	}
}

// TestHTTPQuietResponses has the iterator close responses whose connections stay open.
func TestHTTPQuietResponses(t *testing.T) {
	h := newHTTP(t)
	c := connect(t, "127.0.0.1")
	c.request(get)
	c.answer(ok)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	checkCount(t, h, c.port, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1}) // may go on yet
	time.Sleep(1100 * time.Millisecond)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	checkCount(t, h, c.port, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1})
	if got := countOf(t, h, c.port).DurationSum; got > time.Second {
		t.Errorf("the silence counts into the duration: %v", got)
	}
	c.answer("it did go on")
	c.answer("and on")
	c.request(get)
	c.answer(ok)
	c.close()
	checkCount(t, h, c.port, counted{Codes: map[int]uint64{200: 2}, HTTP: 1, FirstBytes: 2, Durations: 2, Cut: 1})
}

// TestHTTPJoinedConnections opens connections before the probe exists.
func TestHTTPJoinedConnections(t *testing.T) {
	testneed.Root(t, "to load BPF programs")
	var c [5]*talk
	for i := range c {
		c[i] = connect(t, "127.0.0.1")
	}
	idle, hasty, receiving, sending, fresh := c[0], c[1], c[2], c[3], c[4]
	idle.request(get)
	time.Sleep(20 * time.Millisecond) // some jiffies, by which TCP tells which side spoke last
	idle.answer(ok)
	hasty.request(get)
	hasty.answer(ok)              // in the same jiffy, most of the time
	receiving.request(post(1000)) // amid the body of a request
	sending.request(get)          // amid the body of a response
	sending.answer("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
	time.Sleep(20 * time.Millisecond)

	h := newHTTP(t)
	for range 3 {
		idle.request(get)
		idle.answer(ok)
		hasty.request(get)
		hasty.answer(ok)
	}
	receiving.request(get) // the body
	receiving.answer(ok)   // to the request whose start was not seen
	sending.answer(ok)     // the body
	fresh.request(get)
	fresh.answer(ok)
	for _, c := range c {
		c.close()
	}
	if got := countOf(t, h, hasty.port); got.Codes[200] != 3 || got.Unknown != 0 || got.Untimed > 1 {
		t.Errorf("answered in the jiffy of the request: %+v, want 3 responses, at most one of them untimed", got)
	}
	checkCount(t, h, idle.port, counted{Codes: map[int]uint64{200: 3}, HTTP: 1, FirstBytes: 3, Durations: 3})
	checkCount(t, h, receiving.port, counted{Unknown: 1})
	checkCount(t, h, sending.port, counted{Unknown: 1})
	checkCount(t, h, fresh.port, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1})
}

// TestHTTPClientsAreNotServers checks that the client's end of connections has no service.
func TestHTTPClientsAreNotServers(t *testing.T) {
	h := newHTTP(t)
	c := connect(t, "127.0.0.1")
	c.request(get)
	c.answer(ok)
	c.close()
	local := c.client.LocalAddr().(*net.TCPAddr).Port
	checkCount(t, h, c.port, counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1})
	checkCount(t, h, local, counted{})
}

func TestHTTPRetiredSlotsAreFreeAgain(t *testing.T) {
	h := newHTTP(t)
	slots := map[int]uint32{}
	for range 3 * HTTPSlots { // more services than slots, one after the other
		c := connect(t, "127.0.0.1")
		c.request(get)
		c.answer(ok)
		c.close()
		slot := slotOf(t, h, c.port)
		if slot == 0 {
			t.Fatalf("port %d has no slot", c.port)
		}
		generation, _ := h.InUse(slot)
		if generation == slots[slot] {
			t.Fatalf("slot %d has generation %d twice", slot, generation)
		}
		slots[slot] = generation
		if err := h.Retire(slot); err != nil {
			t.Fatal(err)
		}
		if got := countOf(t, h, c.port); got.HTTP != 0 {
			t.Fatalf("a retired service still has counts: %+v", got)
		}
	}
	var losses HTTPLosses
	if err := h.Losses(&losses); err != nil || losses != (HTTPLosses{}) {
		t.Errorf("losses %+v, %v", losses, err)
	}
}

// forget retires the slot of a port, as the next listener may get the same port.
func forget(tb testing.TB, h *HTTP, port int) {
	tb.Helper()
	if slot := slotOf(tb, h, port); slot != 0 {
		if err := h.Retire(slot); err != nil {
			tb.Fatal(err)
		}
	}
}

// slotOf returns the slot of a port, or 0.
func slotOf(tb testing.TB, h *HTTP, port int) int {
	tb.Helper()
	var s HTTPService
	for slot := 1; slot < HTTPSlots; slot++ {
		if _, used := h.InUse(slot); used && h.Service(slot, &s) == nil && int(s.Key.Port) == port {
			return slot
		}
	}
	return 0
}

func TestHTTPServicesOverTheSlotsAreCountedTogether(t *testing.T) {
	h := newHTTP(t)
	const surplus = 10
	for range HTTPSlots - 1 + surplus { // slots 1 to HTTPSlots-1, and some; others on this machine may take slots too
		c := connect(t, "127.0.0.1")
		c.request(get)
		c.answer(ok)
		c.close()
	}
	var losses HTTPLosses
	err := h.Losses(&losses)
	if err != nil || losses.NoSlot < surplus {
		t.Errorf("%d connections without a slot, want at least %d; error %v", losses.NoSlot, surplus, err)
	}
	var other HTTPService
	if err := h.Service(0, &other); err != nil || other.Codes[200-HTTPFirstStatus] < surplus {
		t.Errorf("slot 0 has %d responses, want at least %d; error %v", other.Codes[200-HTTPFirstStatus], surplus, err)
	}
}

func TestHTTPReadingAllocatesNothing(t *testing.T) {
	h := newHTTP(t)
	var s HTTPService
	var l HTTPLosses
	if n := testing.AllocsPerRun(10, func() {
		_ = h.Flush()
		_, _ = h.InUse(1)
		_ = h.Service(1, &s)
		_ = h.Losses(&l)
		_ = h.Counts()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// TestHTTPDeferredAccept has a listener that accepts a connection with its first data (TCP_DEFER_ACCEPT, as Apache's
// does): the request is seen on the listening socket, before its connection has a socket.
func TestHTTPDeferredAccept(t *testing.T) {
	h := newHTTP(t)
	port, ask := deferredServer(t)
	for range 3 {
		ask(get)
	}
	ask("")
	checkCount(t, h, port, counted{
		Codes: map[int]uint64{200: 3}, HTTP: 1, FirstBytes: 3, Durations: 3,
	})
}

// deferredServer has a listener that accepts connections with their first data. ask sends a request over the one connection
// to it and reads the answer; an empty one closes it.
func deferredServer(t *testing.T) (port int, ask func(request string)) {
	t.Helper()
	deferAccept := func(_, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10)
		})
		return errors.Join(controlErr, err)
	}
	config := net.ListenConfig{Control: deferAccept}
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		request := make([]byte, len(get))
		for {
			if _, err := io.ReadFull(conn, request); err != nil {
				return
			}
			if _, err := io.WriteString(conn, ok); err != nil {
				return
			}
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	answer := make([]byte, len(ok))
	return l.Addr().(*net.TCPAddr).Port, func(request string) {
		t.Helper()
		if request == "" {
			conn.Close()
			return
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			t.Fatal(err)
		}
	}
}
