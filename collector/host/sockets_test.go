package host

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestSocketsValues(t *testing.T) {
	page := float64(os.Getpagesize())
	r := start(t, copyOf(t, netServer), NewSockets)
	p := r.must()
	for key, want := range map[string]float64{
		"system.network.connection.count{established,tcp}":      1234,
		"system.network.connection.count{time_wait,tcp}":        2311,
		"system.network.socket.linux.used":                      1874,
		"system.network.socket.linux.count{tcp,ipv6}":           37,
		"system.network.socket.linux.count{udp,ipv4}":           23,
		"system.network.socket.linux.count{raw,ipv4}":           2,
		"system.network.tcp.linux.orphan.count":                 7,
		"system.network.tcp.linux.orphan.limit":                 65536,
		"system.network.tcp.linux.time_wait.limit":              65536,
		"system.network.tcp.linux.memory.usage":                 1523 * page,
		"system.network.tcp.linux.memory.pressure_threshold":    251271 * page,
		"system.network.tcp.linux.memory.limit":                 376902 * page,
		"system.network.udp.linux.memory.limit":                 753810 * page,
		"system.network.ip.linux.reassembly.memory.usage{ipv4}": 98304,
		"system.network.ip.linux.reassembly.memory.limit{ipv6}": 4194304,
		"system.network.port.linux.ephemeral.limit":             28232,
	} {
		p.want(t, key, want)
	}
	r.verdict(verdict.Active)
}

// TestSocketsLimitsAreReadAgain: they change when an administrator says so, and are read once a minute.
func TestSocketsLimitsAreReadAgain(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewSockets)
	const file, key = "proc/sys/net/ipv4/tcp_max_orphans", "system.network.tcp.linux.orphan.limit"
	r.must()
	r.write(file, "99\n")
	r.must().want(t, key, 65536)
	for range 6 {
		r.must()
	}
	r.must().want(t, key, 99)
	r.write(file, "9x\n")
	for range 3 {
		r.must()
	}
	r.fails(file).want(t, key, 99)
	r.verdict(verdict.Degraded, file)
	r.write(file, "18446744073709551615\n")
	if p := r.must(); p[key].value < 1<<60 {
		t.Errorf("%s = %v, want as good as none", key, p[key].value)
	}
}

// TestSocketsOutOfTheHostsNamespace: the kernel shows tcp_mem in the first network namespace only; what it shows of
// the others' settings would not be the host's.
func TestSocketsOutOfTheHostsNamespace(t *testing.T) {
	env := copyOf(t, netServer)
	remove(t, env.Proc+"/sys/net/ipv4/tcp_mem")
	r := start(t, env, NewSockets)
	p := r.must()
	p.without(t, "limit")
	p.want(t, "system.network.tcp.linux.orphan.count", 7)
	r.verdict(verdict.Degraded, "limits", "hostNetwork")
}

func TestSocketsWithoutIPv6(t *testing.T) {
	env := copyOf(t, netServer)
	remove(t, env.Proc+"/1/net/sockstat6")
	r := start(t, env, NewSockets)
	r.must().without(t, "count{tcp,ipv6}")
	r.verdict(verdict.Active)
}

// TestSocketsSeeWhatHappens compares with ss, in a network namespace where the test makes all sockets.
func TestSocketsSeeWhatHappens(t *testing.T) {
	n := newNamespace(t)
	ss := testneed.Tool(t, "ss")
	r := start(t, n.env(), NewSockets)
	n.do(func() error {
		listener, err := listenWithout(5)
		if err != nil {
			return err
		}
		address, err := unix.Getsockname(listener)
		if err != nil {
			return err
		}
		for range 3 {
			if err := connectTo(address); err != nil && err != unix.EINPROGRESS { //nolint:errorlint // a plain errno
				return err
			}
		}
		_, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // not bound: not in use
		return err
	})
	p := r.must()
	p.want(t, "system.network.connection.count{established,tcp}", 6) // both ends
	p.want(t, "system.network.connection.count{time_wait,tcp}", 0)
	answer := n.run(ss + " -s")
	inUse := regexp.MustCompile(`(?m)^TCP\s+(\d+)\s+(\d+)\s+(\d+)`).FindStringSubmatch(answer)
	states := regexp.MustCompile(`estab (\d+), closed (\d+), orphaned (\d+), timewait (\d+)`).FindStringSubmatch(answer)
	if inUse == nil || states == nil {
		t.Fatalf("ss -s says %q", answer)
	}
	for key, text := range map[string]string{
		"system.network.connection.count{established,tcp}": states[1],
		"system.network.connection.count{time_wait,tcp}":   states[4],
		"system.network.socket.linux.count{tcp,ipv4}":      inUse[2],
		"system.network.socket.linux.count{tcp,ipv6}":      inUse[3],
	} {
		want, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		p.want(t, key, want)
	}
}

func FuzzSockstat(f *testing.F) {
	for _, name := range []string{"sockstat", "sockstat6"} {
		f.Add(readTree(f, netServer, "proc/1/net/"+name))
	}
	f.Add([]byte("TCP: inuse -1 tw 18446744073709551616\n"))
	set := fuzzSet()
	f.Fuzz(func(t *testing.T, b []byte) {
		set.begin()
		if err := parseSockstat(b, set); err == nil && (len(b) == 0 || b[len(b)-1] != '\n') {
			t.Fatalf("%q: a file that is cut short is no error", b)
		}
		for key := range set.seenValues() {
			start, name, _ := strings.Cut(key, " ")
			if !strings.Contains(string(b), start) || !strings.Contains(string(b), name) {
				t.Fatalf("%q: %s is not in it", b, key)
			}
		}
	})
}
