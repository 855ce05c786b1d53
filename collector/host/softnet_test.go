package host

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

const (
	softnetArea = "system.network.softnet.linux."
	softnetPath = "proc/1/net/softnet_stat"
)

func TestSoftnetValues(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewSoftnet)
	p := r.must()
	for name, want := range map[string]float64{
		"processed": 0xfffffff0 + 0x10 + 77, "dropped": 13, "time_squeezes": 348, "wakeups": 1000 + 0xffffffff + 5,
		"flow_limits": 3, "backlog": 7,
	} {
		p.want(t, softnetArea+name, want)
	}
	r.verdict(verdict.Active)
}

// TestSoftnetOfOlderKernels: fewer columns mean fewer series.
func TestSoftnetOfOlderKernels(t *testing.T) {
	r := start(t, copyOf(t, netOld), NewSoftnet)
	p := r.must()
	p.want(t, softnetArea+"processed", 300)
	p.want(t, softnetArea+"flow_limits", 55)
	p.without(t, "backlog")
	r.verdict(verdict.Active) // though process 1 is hidden: processors have no namespace

	env := copyOf(t, netServer)
	r = start(t, env, NewSoftnet)
	r.write(softnetPath, "00000001 00000002 00000003 0 0 0 0 0 0\n")
	r = start(t, env, NewSoftnet)
	p = r.must()
	p.want(t, softnetArea+"time_squeezes", 3)
	p.without(t, "wakeups")
}

// TestSoftnetGoesRound: the kernel's 32 bits fill; the totals go on.
func TestSoftnetGoesRound(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewSoftnet)
	before := r.must()
	r.replace(softnetPath, "fffffff0", "00000010")
	after := r.must()
	after.want(t, softnetArea+"processed", before[softnetArea+"processed"].value+0x20)
	if after[softnetArea+"processed"].start != boot {
		t.Error("a counter that went round got a new start")
	}
	r.replace(softnetPath, "000003e8", "00000002") // 1000 wake-ups, then 2: began anew
	r.must().want(t, softnetArea+"wakeups", before[softnetArea+"wakeups"].value+2)
}

// TestSoftnetProcessorsComeAndGo: a processor that goes offline takes its line with it, and its numbers go on when
// it is back.
func TestSoftnetProcessorsComeAndGo(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewSoftnet)
	whole := r.file(softnetPath)
	lines := strings.SplitAfter(whole, "\n")
	before := r.must()[softnetArea+"processed"].value
	r.write(softnetPath, lines[0]+lines[2])
	r.must().want(t, softnetArea+"processed", before)
	r.write(softnetPath, lines[0]+strings.Replace(lines[1], "00000010", "00000018", 1)+lines[2])
	r.must().want(t, softnetArea+"processed", before+8)

	// Where the kernel does not number the lines, a change of their number is no progress.
	r = start(t, copyOf(t, netOld), NewSoftnet)
	const path = "proc/net/softnet_stat"
	lines = strings.SplitAfter(r.file(path), "\n")
	r.must()
	r.write(path, lines[1])
	r.must().want(t, softnetArea+"processed", 300)
	r.write(path, strings.Replace(lines[1], "000000c8", "000000d0", 1))
	r.must().want(t, softnetArea+"processed", 308)
}

func TestSoftnetDamagedLine(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewSoftnet)
	before := r.must()
	r.replace(softnetPath, "00000010", "0000001g")
	r.replace(softnetPath, "0000004d", "0000004e")
	after := r.fails(softnetPath, "line 2", "column 1")
	after.want(t, softnetArea+"processed", before[softnetArea+"processed"].value+1)
	r.verdict(verdict.Degraded, "line 2")
}

// TestSoftnetSeesPackets: 100 datagrams over lo are at least 100 packets.
func TestSoftnetSeesPackets(t *testing.T) {
	r := start(t, envAt("/"), NewSoftnet)
	before := r.must()
	if err := floodDatagrams(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1}); err != nil {
		t.Fatal(err)
	}
	after := r.must()
	if grown := after[softnetArea+"processed"].value - before[softnetArea+"processed"].value; grown < 100 {
		t.Errorf("processed grew by %v, want at least 100", grown)
	}
}

func FuzzSoftnet(f *testing.F) {
	for line := range strings.SplitSeq(string(readTree(f, netServer, softnetPath)), "\n") {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var l softnetLine
		if l.parse(line) != nil {
			return
		}
		fields := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
		for i := range l.columns {
			want, err := strconv.ParseUint(fields[i], 16, 32)
			if err != nil || want != uint64(l.v[i]) {
				t.Fatalf("%q: column %d = %x, want %x, %v", line, i, l.v[i], want, err)
			}
		}
	})
}

// TestSoftnetManyProcessors: 512 of them, a machine with all of its lines.
func TestSoftnetManyProcessors(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewSoftnet)
	var b strings.Builder
	for i := range 512 {
		fmt.Fprintf(&b, "%08x %08x 0 0 0 0 0 0 0 0 0 0 %08x 0 0\n", 5, 1, i)
	}
	r.write(softnetPath, b.String())
	r = start(t, r.env, NewSoftnet)
	p := r.must()
	p.want(t, softnetArea+"processed", 512*5)
	if len(p) != 6 {
		t.Errorf("%d series, want 6", len(p))
	}
}
