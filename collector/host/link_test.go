package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

const linkArea = "system.network.link.linux."

func TestLinkValues(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewLink)
	p := r.must()
	for key, want := range map[string]float64{
		"hw.network.bandwidth.limit{eno1,eno1}":         1.25e9,
		"hw.network.bandwidth.limit{bond0,bond0}":       1.25e9,
		"hw.network.up{eno1,eno1}":                      1,
		"hw.network.up{eno2,eno2}":                      0,
		linkArea + "enabled{eno2}":                      1,
		linkArea + "carrier_changes{eno2}":              18,
		linkArea + "half_duplex{eno1}":                  0,
		linkArea + "mtu{bond0}":                         9000,
		"system.network.bond.linux.members{bond0,up}":   1,
		"system.network.bond.linux.members{bond0,down}": 1,
	} {
		p.want(t, key, want)
	}
	for _, part := range []string{"limit{eno2", "veth", "docker0", "{lo", virtualName} {
		p.without(t, part)
	}
	r.verdict(verdict.Active)
}

// TestLinkComesAndGoes: the speed is there while there is a carrier; half duplex shows; a bond gets its member back.
func TestLinkComesAndGoes(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewLink)
	r.must()
	const class = "sys/class/net/"
	r.write(class+"eno1/carrier", "0\n")
	r.write(class+"eno1/carrier_changes", "4\n")
	p := r.must()
	p.want(t, "hw.network.up{eno1,eno1}", 0)
	p.want(t, linkArea+"carrier_changes{eno1}", 4)
	p.without(t, "limit{eno1")
	r.write(class+"eno1/carrier", "1\n")
	r.write(class+"eno1/speed", "100\n")
	r.write(class+"eno1/duplex", "half\n")
	r.write(class+"eno2/bonding_slave/mii_status", "up\n")
	p = r.must()
	p.want(t, "hw.network.bandwidth.limit{eno1,eno1}", 12.5e6)
	p.want(t, linkArea+"half_duplex{eno1}", 1)
	p.want(t, "system.network.bond.linux.members{bond0,up}", 2)
	r.write(class+"bond0/bonding/slaves", "eno1\n")
	p = r.must()
	p.want(t, "system.network.bond.linux.members{bond0,up}", 1)
	p.want(t, "system.network.bond.linux.members{bond0,down}", 0)
	r.write(class+"eno1/flags", "0x1802\n") // disabled: nothing else counts
	p = r.must()
	p.want(t, linkArea+"enabled{eno1}", 0)
	p.want(t, "hw.network.up{eno1,eno1}", 0)
	r.verdict(verdict.Active)
}

func TestLinkSpeeds(t *testing.T) {
	for in, want := range map[string]int64{
		"10000\n": 10000, "-1\n": 0, "4294967295\n": 0, "0\n": 0, "2500": 2500,
	} {
		if got, err := parseSpeed([]byte(in)); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "\n", "fast\n", "-\n", "-x\n"} {
		if got, err := parseSpeed([]byte(in)); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

// TestLinkRemoved: an interface that goes takes its series with it, also if its files go before its line.
func TestLinkRemoved(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewLink)
	whole := r.file("proc/1/net/dev")
	r.must()
	link := r.Collector.(*Link)
	for _, f := range link.links.byName["eno2"].T.files {
		_ = f.Close() // as if the device behind it were gone
	}
	remove(t, r.env.Sys+"/class/net/eno2")
	r.write("sys/class/net/bond0/bonding/slaves", "eno1\n")
	r.must() // it may be about to go
	i, j := strings.Index(whole, "  eno2:"), strings.Index(whole, " bond0:")
	r.write("proc/1/net/dev", whole[:i]+whole[j:])
	r.must().without(t, "eno2")
	r.verdict(verdict.Active)
	r.write("proc/1/net/dev", whole)
	r.must().without(t, "eno2")
	r.verdict(verdict.Degraded, "another network namespace", "eno2", "/sys")
	r.write("proc/1/net/dev", whole[:i]+whole[j:])
	r.must()
	r.verdict(verdict.Active)
}

// TestLinkFilesGone: attributes that stay away are an error, though not at once.
func TestLinkFilesGone(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewLink)
	r.must()
	file := r.Collector.(*Link).links.byName["eno1"].T.files[linkFlags]
	_ = file.Close()
	remove(t, file.Path())
	r.must()
	r.fails("eno1/flags")
	r.verdict(verdict.Degraded, "eno1/flags")
}

func TestLinkDamagedAttribute(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewLink)
	before := r.must()
	for _, attribute := range []string{"flags", "carrier", "carrier_changes", "speed", "duplex", "mtu"} {
		path := "sys/class/net/eno1/" + attribute
		good := r.file(path)
		for _, bad := range []string{"", "\x00\xff", "0xzz\n"} {
			r.write(path, bad)
			after := r.fails(path)
			for key, p := range before {
				if after[key] != p {
					t.Errorf("%q: %s = %v, want %v", bad, key, after[key], p)
				}
			}
		}
		r.write(path, good)
		r.must()
	}
	r.verdict(verdict.Active)
}

func TestLinkWithoutSys(t *testing.T) {
	env := copyOf(t, netServer)
	remove(t, env.Sys)
	_, err := NewLink(env)
	if v := verdict.FromError("host/link", err); v.State != verdict.Unavailable || v.Missing != "the host's /sys" {
		t.Errorf("%+v", v)
	}
}

// TestLinkWithoutHardware: a machine or container without a physical interface has nothing to show, which is no
// fault.
func TestLinkWithoutHardware(t *testing.T) {
	env := copyOf(t, netServer)
	for _, entry := range []string{"eno1/device", "eno2/device", "bond0/bonding"} {
		remove(t, env.Sys+"/class/net/"+entry)
	}
	r := start(t, env, NewLink)
	if p := r.must(); len(p) != 0 {
		t.Errorf("%v", p)
	}
	r.verdict(verdict.Active)
}

// TestLinkDriverWithoutSpeed: a driver that does not tell is asked once, until the carrier changes.
func TestLinkDriverWithoutSpeed(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewLink)
	// Reading an attribute of this machine's lo says EINVAL.
	testneed.File(t, "/sys/class/net/lo/speed", "sysfs")
	path := r.env.Sys + "/class/net/eno1/speed"
	remove(t, path)
	if err := os.Symlink("/sys/class/net/lo/speed", path); err != nil {
		t.Fatal(err)
	}
	p := r.must()
	p.without(t, "limit{eno1")
	p.want(t, "hw.network.up{eno1,eno1}", 1)
	r.verdict(verdict.Active)
	if n := testing.AllocsPerRun(10, func() { _ = r.Collect(t.Context(), tick(9)) }); n != 0 {
		t.Errorf("%v allocations where the speed is not told", n)
	}
	remove(t, path)
	r.write("sys/class/net/eno1/speed", "1000\n")
	_ = r.Collector.(*Link).links.byName["eno1"].T.files[linkSpeed].Close()
	r.must().without(t, "limit{eno1")
	r.write("sys/class/net/eno1/carrier_changes", "5\n")
	r.must().want(t, "hw.network.bandwidth.limit{eno1,eno1}", 125e6)
}

// TestLinkLive compares with what the kernel answers to the system calls of interfaces, on this machine.
func TestLinkLive(t *testing.T) {
	r := start(t, envAt("/"), NewLink)
	p := r.must()
	if len(p) == 0 {
		t.Skip("needs a physical interface")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, member := range r.Collector.(*Link).links.byName {
		if !member.T.shown {
			continue
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
			t.Skip("slid is in another network namespace: ", err)
		}
		flags := request.Uint16()
		p.want(t, linkArea+"enabled{"+name+"}", float64(flags&unix.IFF_UP))
		p.want(t, "hw.network.up{"+name+","+name+"}", float64(flags&unix.IFF_RUNNING/unix.IFF_RUNNING))
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, request); err != nil {
			t.Fatal(err)
		}
		p.want(t, linkArea+"mtu{"+name+"}", float64(request.Uint32()))
	}
}

// TestLinkFiveHundredVeths makes 500 pairs of virtual interfaces in a network namespace of its own, and takes them
// away again: the series of the network stay few, and nothing of them is left.
func TestLinkFiveHundredVeths(t *testing.T) {
	n := newNamespace(t)
	network, link := start(t, n.env(), NewNetwork), start(t, n.env(), NewLink)
	const pairs = 500
	var batch strings.Builder
	for i := range pairs {
		fmt.Fprintf(&batch, "link add va%d group 77 type veth peer name vb%d\n", i, i)
	}
	file := t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	before := len(network.must())
	if answer := n.run("ip -batch " + file); answer != "" {
		t.Skip("needs a kernel with CONFIG_VETH: ", answer)
	}
	// A container's namespace has no physical interface: the first few virtual ones are named, all others added up.
	most := (1 + maxNamedVirtual + 1) * netDirections * netKinds
	p := network.must()
	if len(p) > most || len(p) <= before {
		t.Errorf("%d series, want at most %d", len(p), most)
	}
	if known := network.Collector.(*Network).interfaces.known(); known != 1+2*pairs {
		t.Errorf("%d interfaces are known, want %d", known, 1+2*pairs)
	}
	if p := link.must(); len(p) != 0 {
		t.Errorf("%v for virtual interfaces", p)
	}
	link.verdict(verdict.Active)                                     // /sys and /proc agree
	n.run("ip link delete group 77")                                 // all at once, and their peers with them
	if p := network.must(); len(p) > before+netDirections*netKinds { // the sum of the virtual ones stays
		t.Errorf("%d series after all are gone, want %d", len(p), before)
	}
	link.must()
	if known := link.Collector.(*Link).links.known(); known != 1 {
		t.Errorf("%d interfaces are known after all are gone, want lo", known)
	}
}

func FuzzLink(f *testing.F) {
	for _, s := range []string{"0x1003\n", "-1\n", "10000\n", "full\n", "half\n", "going down\n", "", "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseSpeed(b); err == nil && (v < 0 || v >= 1<<31-1) {
			t.Fatalf("%q: speed %d", b, v)
		}
		if up, err := parseFlags(b); err == nil {
			flags, want := strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 0, 32)
			if want != nil || up != (flags&1 == 1) {
				t.Fatalf("%q: enabled %v, want %x, %v", b, up, flags, want)
			}
		}
		if half, err := parseDuplex(b); err == nil && half != (string(b) == "half\n") {
			t.Fatalf("%q: half %v", b, half)
		}
		if up, err := parseMemberState(b); err == nil && up != strings.HasPrefix(string(b), "up") {
			t.Fatalf("%q: up %v", b, up)
		}
	})
}
