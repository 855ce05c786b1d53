package host

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v3/net"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestProtocolsValues(t *testing.T) {
	r := start(t, copyOf(t, netVM), NewProtocols)
	p := r.must()
	for key, want := range map[string]float64{ // read off the files by eye
		"system.network.tcp.linux.segments{receive}":       44033339,
		"system.network.tcp.linux.segments{transmit}":      44023284,
		"system.network.tcp.linux.active_opens":            672810,
		"system.network.tcp.linux.passive_opens":           130723,
		"system.network.tcp.linux.attempt_fails":           541996,
		"system.network.tcp.linux.retransmits":             53,
		"system.network.tcp.linux.resets":                  545887,
		"system.network.tcp.linux.syn_retransmits":         10,
		"system.network.tcp.linux.timeouts":                12,
		"system.network.tcp.linux.aborts{data}":            404,
		"system.network.tcp.linux.aborts{close}":           3349,
		"system.network.tcp.linux.data_segments":           42063176,
		"system.network.tcp.linux.zero_windows":            884,
		"system.network.tcp.linux.memory.pressure_time":    0,
		"system.network.tcp.linux.listen_overflows":        0,
		"system.network.udp.linux.datagrams{receive,ipv4}": 180,
		"system.network.ip.linux.io{receive,ipv4}":         8877968927,
		"system.network.ip.linux.io{transmit,ipv6}":        247191046,
		"system.network.ip.linux.forwarding":               0,
		"system.network.icmp.linux.receive_errors{ipv6}":   1,
	} {
		p.want(t, key, want)
	}
	r.verdict(verdict.Active)

	r = start(t, copyOf(t, netServer), NewProtocols)
	p = r.must()
	p.want(t, "system.network.ip.linux.forwarding", 1)
	p.want(t, "system.network.tcp.linux.memory.pressure_time", 81.234)
	p.without(t, "memory_errors{ipv6}") // Linux 5.10 has none
	r.verdict(verdict.Active)
}

// TestProtocolsOracle compares with gopsutil, which reads snmp only: equal on each tree, and on this machine between
// what gopsutil says before and after.
func TestProtocolsOracle(t *testing.T) {
	ask := func(t *testing.T, root string) points {
		t.Helper()
		stats, err := net.ProtoCountersWithContext(oracle(root), []string{"ip", "icmp", "tcp", "udp"})
		if err != nil {
			t.Fatal(err)
		}
		p := points{}
		for _, proto := range stats {
			start := strings.ToUpper(proto.Protocol[:1]) + proto.Protocol[1:]
			for _, m := range protocolMetrics() {
				for _, s := range m.series {
					line, name, _ := strings.Cut(s.key, " ")
					if v, ok := proto.Stats[name]; ok && line == start && m.convert == nil {
						p.put(pointKey(m.desc.Name, s), float64(v))
					}
				}
			}
		}
		if len(p) < 25 {
			t.Fatalf("gopsutil gives only %d values", len(p))
		}
		return p
	}
	for _, tree := range []string{netVM, netServer, netOld} {
		env := copyOf(t, tree)
		if tree != netOld {
			asSeenByOthers(t, env)
		}
		got := start(t, env, NewProtocols).must()
		for key, p := range ask(t, env.Root) {
			got.want(t, key, p.value)
		}
	}
	r := start(t, envAt("/"), NewProtocols)
	before := ask(t, "/")
	got := r.must()
	after := ask(t, "/")
	for key, low := range before {
		if p, ok := got[key]; !ok || p.value < low.value || p.value > after[key].value {
			t.Errorf("%s = %v (exported: %v), want %v to %v", key, p.value, ok, low.value, after[key].value)
		}
	}
}

// TestProtocolsLinesComeAndChange: the kernel shows IcmpMsg only once it has something to say, and puts columns into
// the middle of others from version to version.
func TestProtocolsLinesComeAndChange(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewProtocols)
	const file = "proc/1/net/snmp"
	before := r.must()
	for _, change := range [][2]string{
		{"IcmpMsg: InType0", "IcmpMsg: InType4 InType0"},
		{"IcmpMsg: ", "IcmpMsg: 77 "}, // the first in the file is of the names; see below
		{"Tcp: RtoAlgorithm", "New: A\nNew: 1\nTcp: RtoAlgorithm"},
	} {
		whole := r.file(file)
		if change[1] == "IcmpMsg: 77 " {
			i := strings.LastIndex(whole, change[0])
			r.write(file, whole[:i]+change[1]+whole[i+len(change[0]):])
		} else {
			r.replace(file, change[0], change[1])
		}
		if strings.Contains(change[1], "InType4") {
			continue // one value is missing until the next change
		}
		after := r.must()
		for key, p := range before {
			if after[key] != p {
				t.Errorf("%q: %s = %v, want %v", change[1], key, after[key], p)
			}
		}
	}
	r.replace(file, "ActiveOpens PassiveOpens", "PassiveOpens ActiveOpens")
	after := r.must()
	after.want(t, "system.network.tcp.linux.active_opens", before["system.network.tcp.linux.passive_opens"].value)
	after.want(t, "system.network.tcp.linux.passive_opens", before["system.network.tcp.linux.active_opens"].value)
}

// TestProtocolsDamagedLine: a line that is too short says nothing, whatever it has; others go on.
func TestProtocolsDamagedLine(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewProtocols)
	before := r.must()
	whole := r.file("proc/1/net/snmp")
	i := strings.LastIndex(whole, "Tcp: ")
	r.write("proc/1/net/snmp", whole[:i]+"Tcp: 1 200 120000 -1 5 6\n"+whole[i+strings.Index(whole[i:], "\n")+1:])
	after := r.fails("proc/1/net/snmp", `line of "Tcp:"`, "column 7")
	for key, p := range before {
		if after[key] != p {
			t.Errorf("%s = %v, want %v", key, after[key], p)
		}
	}
	r.verdict(verdict.Degraded, "Tcp")
	upToTCP, _, _ := strings.Cut(whole, "Tcp: ")
	r.write("proc/1/net/snmp", upToTCP)
	r.fails("no longer there: Tcp InSegs", "more")
	r.write("proc/1/net/snmp", whole)
	r.must()
	r.verdict(verdict.Active)
}

func TestProtocolsWithoutIPv6(t *testing.T) {
	env := copyOf(t, netServer)
	remove(t, env.Proc+"/1/net/snmp6")
	r := start(t, env, NewProtocols)
	r.must().without(t, "ipv6")
	r.verdict(verdict.Active)
}

func TestProtocolsWithoutNetstat(t *testing.T) {
	env := copyOf(t, netServer)
	remove(t, env.Proc+"/1/net/netstat")
	r := start(t, env, NewProtocols)
	p := r.must()
	p.without(t, "listen")
	if _, ok := p["system.network.tcp.linux.retransmits"]; !ok {
		t.Error("nothing of snmp is shown")
	}
	r.verdict(verdict.Degraded, "1/net/netstat")
}

func TestProtocolsOfAnOldKernel(t *testing.T) {
	r := start(t, copyOf(t, netOld), NewProtocols)
	p := r.must()
	for _, newer := range []string{"rcvq", "syn_retransmits", "memory.pressure_time", "data_segments", "ipv6"} {
		p.without(t, newer)
	}
	p.want(t, "system.network.ip.linux.forwarding", 0)
	r.verdict(verdict.Degraded, "namespace of slid")
}

func TestProtocolsNowhere(t *testing.T) {
	env := envAt(t.TempDir())
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("test", metric.ClassHost, 1000)
	for _, open := range []factory{NewProtocols, NewSockets, NewSoftnet, NewLink} {
		_, err := open(env)
		v := verdict.FromError("x", err)
		if err == nil || v.State != verdict.Unavailable || !strings.Contains(v.Reason, env.Root) {
			t.Errorf("%+v, want unavailable with the file", v)
		}
	}
}

// TestProtocolsSeeWhatHappens provokes, in a network namespace of its own: a refused connection, an overflowing
// queue of a listening socket and the retransmissions that follow, a datagram for nobody and a full receive buffer.
// All numbers must be those of nstat of iproute2.
func TestProtocolsSeeWhatHappens(t *testing.T) {
	n := newNamespace(t)
	nstat := testneed.Tool(t, "nstat")
	r := start(t, n.env(), NewProtocols)
	before := r.must()
	n.do(provokeTrouble)
	after := r.must()
	const again = "system.network.tcp.linux.syn_retransmits" // which the kernel does after a second
	for deadline := time.Now().Add(time.Minute); after[again].value == before[again].value; after = r.must() {
		if time.Now().After(deadline) {
			t.Fatal("the kernel does not ask again for a connection")
		}
		time.Sleep(50 * time.Millisecond)
	}
	for key, least := range map[string]float64{
		"system.network.tcp.linux.active_opens":                1 + 4,
		"system.network.tcp.linux.attempt_fails":               1,
		"system.network.tcp.linux.resets":                      1,
		"system.network.tcp.linux.listen_overflows":            1,
		"system.network.tcp.linux.listen_drops":                1,
		"system.network.tcp.linux.retransmits":                 1,
		"system.network.tcp.linux.timeouts":                    1,
		"system.network.udp.linux.no_ports{ipv4}":              1,
		"system.network.udp.linux.receive_buffer_errors{ipv4}": 1,
		"system.network.udp.linux.datagrams{transmit,ipv4}":    100,
		"system.network.icmp.linux.messages{receive,ipv4}":     1,
	} {
		if grown := after[key].value - before[key].value; grown < least {
			t.Errorf("%s grew by %v, want at least %v", key, grown, least)
		}
	}
	low := n.nstat(nstat)
	after = r.must()
	high, pairs := n.nstat(nstat), 0
	for _, m := range protocolMetrics() {
		for _, s := range m.series {
			name := strings.ReplaceAll(s.key, " ", "")
			most, ok := high[name]
			key := pointKey(m.desc.Name, s)
			if m.convert != nil || !ok {
				continue
			}
			pairs++
			if got := after[key].value; got < low[name] || got > most {
				t.Errorf("%s = %v, nstat's %s was %v before and %v after", key, got, name, low[name], most)
			}
		}
	}
	if pairs < 60 {
		t.Errorf("only %d pairs were compared: %v", pairs, high)
	}
	t.Logf("%d pairs", pairs)
}

// nstat returns the numbers that nstat shows of the namespace.
func (n *netNamespace) nstat(path string) map[string]float64 {
	values := map[string]float64{}
	for line := range strings.Lines(n.run(path + " -az --noupdate --ignore")) {
		if fields := strings.Fields(line); len(fields) == 3 {
			if v, err := strconv.ParseFloat(fields[1], 64); err == nil {
				values[strings.TrimPrefix(fields[0], "TcpExtTcpExt")] = v
			}
		}
	}
	return values
}

// provokeTrouble makes protocols count.
func provokeTrouble() error {
	listener, err := listenWithout(1)
	if err != nil {
		return err
	}
	address, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	for range 4 { // two fit into a queue of one
		if err := connectTo(address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
	}
	refused := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1}
	if err := connectTo(refused); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return floodDatagrams(refused)
}

// listenWithout listens without ever accepting. The socket ends with the test.
func listenWithout(backlog int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	return fd, unix.Listen(fd, backlog)
}

func connectTo(address unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return unix.Connect(fd, address)
}

// floodDatagrams sends one datagram to nobody and many to a socket that does not read.
func floodDatagrams(nobody *unix.SockaddrInet4) error {
	const flood = 200
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1024); err != nil {
		return err
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if err := unix.Sendto(fd, []byte("x"), 0, nobody); err != nil {
		return err
	}
	for range flood {
		if err := unix.Sendto(fd, make([]byte, 512), 0, self); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
	return nil
}

// FuzzProtocols compares the parser of pairs of lines with a plain one.
func FuzzProtocols(f *testing.F) {
	for _, tree := range []string{netVM, netServer} {
		for _, name := range []string{"snmp", "netstat"} {
			f.Add(readTree(f, tree, "proc/1/net/"+name))
		}
	}
	f.Add([]byte("Tcp: InSegs\nTcp: 18446744073709551616\n"))
	set := fuzzSet()
	f.Fuzz(func(t *testing.T, b []byte) {
		set.begin()
		var file pairFile
		err := file.parse(b, set)
		first := set.seenValues()
		if err == nil {
			if want := plainPairs(b, set.places); !maps.Equal(want, first) {
				t.Fatalf("%q: %v, want %v", b, first, want)
			}
		}
		set.begin()
		if again := file.parse(b, set); fmt.Sprint(again) != fmt.Sprint(err) || !maps.Equal(first, set.seenValues()) {
			t.Fatalf("%q: read again: %v, %v; want %v, %v", b, set.seenValues(), again, first, err)
		}
	})
}

func fuzzSet() *protoSet {
	g := metric.NewRegistry(instrumentation.Scope{}).Group("fuzz", metric.ClassHost, 1000)
	return newProtoSet(g, append(protocolMetrics(), socketMetrics()...))
}

// seenValues returns what the last reading saw.
func (s *protoSet) seenValues() map[string]uint64 {
	values := map[string]uint64{}
	for _, row := range s.rows {
		if row.seen {
			values[row.key] = row.value
		}
	}
	return values
}

// plainPairs reads a whole and good file.
func plainPairs(b []byte, known map[string]int) map[string]uint64 {
	values := map[string]uint64{}
	lines := strings.Split(string(b), "\n")
	blanks := func(r rune) bool { return r == ' ' || r == '\t' }
	for i := 0; i+1 < len(lines); i += 2 {
		names, numbers := strings.FieldsFunc(lines[i], blanks), strings.FieldsFunc(lines[i+1], blanks)
		for k := 1; k < min(len(names), len(numbers)); k++ {
			key := strings.TrimSuffix(names[0], ":") + " " + names[k]
			if _, ok := known[key]; !ok {
				continue
			}
			if v, err := strconv.ParseUint(numbers[k], 10, 64); err == nil {
				values[key] = v
			}
		}
	}
	return values
}

func FuzzSnmp6(f *testing.F) {
	f.Add(readTree(f, netVM, "proc/1/net/snmp6"))
	set := fuzzSet()
	f.Fuzz(func(t *testing.T, b []byte) {
		set.begin()
		if err := parseNamedNumbers(b, set); err == nil && (len(b) == 0 || b[len(b)-1] != '\n') {
			t.Fatalf("%q: a file that is cut short is no error", b)
		}
		for key, v := range set.seenValues() {
			if !strings.Contains(string(b), key) || !strings.Contains(string(b), strings.TrimLeft(strconv.FormatUint(v, 10), "0")) {
				t.Fatalf("%q: %s = %d", b, key, v)
			}
		}
	})
}

func TestSockstatParserTakesSums(t *testing.T) {
	set := fuzzSet()
	err := parseSockstat([]byte("TCP: inuse 5 orphan -3 tw 1\nUDP: inuse x mem 7\nUDP6: inuse 4\n"), set)
	if err == nil || !strings.Contains(err.Error(), `line of "UDP:"`) {
		t.Errorf("error %v", err)
	}
	want := map[string]uint64{"TCP inuse": 5, "TCP orphan": 0, "TCP tw": 1, "UDP6 inuse": 4}
	if got := set.seenValues(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
