package host

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestNetworkValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewNetwork)
	p := r.must()
	for key, want := range map[string]float64{
		"system.network.io{eno1,receive}":                 98172635444,
		"system.network.io{eno1,transmit}":                81726354433,
		"system.network.packet.count{receive,eno1}":       71625344,
		"system.network.packet.count{transmit,eno1}":      61524334,
		"system.network.errors{eno1,receive}":             12,
		"system.network.errors{eno1,transmit}":            1,
		"system.network.packet.dropped{eno1,receive}":     817,
		"system.network.packet.dropped{eno1,transmit}":    2,
		"system.network.io{lo,receive}":                   918273645,
		"system.network.io{bond0,transmit}":               82543617977,
		"system.network.io{virtual,receive}":              1000000 + 600000 + 400000,
		"system.network.packet.dropped{virtual,transmit}": 6 + 3 + 4,
	} {
		p.want(t, key, want)
	}
	p.without(t, "veth")
	p.without(t, "docker0")
	r.verdict(verdict.Active)
}

// TestNetworkOfManyContainers: 500 veth come and go within the same eight series, which never fall.
func TestNetworkOfManyContainers(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewNetwork)
	whole := r.file("proc/1/net/dev")
	r.must()
	veths := func(from, to, bytes int) string {
		var b strings.Builder
		b.WriteString(whole)
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, "veth%d: %d 1 0 0 0 0 0 0 %d 1 0 0 0 0 0 0\n", i, bytes, bytes)
		}
		return b.String()
	}
	const first = 2000000
	for i, step := range []struct {
		content string
		want    float64
	}{
		{veths(0, 500, 100), first + 500*100},
		{veths(0, 500, 150), first + 500*150},
		{veths(250, 750, 150), first + 750*150},         // 250 gone, 250 new
		{veths(250, 750, 10), first + 750*150 + 500*10}, // made anew
		{whole, first + 750*150 + 500*10},
	} {
		r.write("proc/1/net/dev", step.content)
		p := r.must()
		p.want(t, "system.network.io{virtual,receive}", step.want)
		if len(p) != 5*8 {
			t.Errorf("step %d: %d series, want 40", i, len(p))
		}
	}
	if n := r.Collector.(*Network).interfaces.known(); n != 7 {
		t.Errorf("%d interfaces are remembered, want 7", n)
	}
}

// TestNetworkOfAContainer: no physical interface, so the first virtual ones have series of their own.
func TestNetworkOfAContainer(t *testing.T) {
	env := copyOf(t, treeServer)
	for _, entry := range []string{"eno1/device", "eno2/device", "bond0/bonding"} {
		remove(t, env.Sys+"/class/net/"+entry)
	}
	r := start(t, env, NewNetwork)
	p := r.must()
	p.want(t, "system.network.io{eno1,receive}", 98172635444)
	p.want(t, "system.network.io{vethab12cd3,receive}", 600000)
	p.without(t, virtualName)
	var more strings.Builder
	for i := range 20 {
		fmt.Fprintf(&more, "tun%d: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n", i)
	}
	r.write("proc/1/net/dev", r.file("proc/1/net/dev")+more.String())
	p = r.must()
	if len(p) != (1+maxNamedVirtual+1)*8 {
		t.Errorf("%d series, want lo, %d virtual ones and the sum of the others", len(p), maxNamedVirtual)
	}
	p.want(t, "system.network.io{virtual,receive}", 18)
	r.verdict(verdict.Active)
}

func TestNetworkFallsBack(t *testing.T) {
	r := start(t, copyOf(t, treeOld), NewNetwork)
	r.must().want(t, "system.network.io{eth0,receive}", 300000)
	r.verdict(verdict.Degraded, "1/net/dev", "namespace of slid")
}

func TestNetworkWithoutSys(t *testing.T) {
	env := copyOf(t, treeServer)
	remove(t, env.Sys)
	r := start(t, env, NewNetwork)
	r.must().want(t, "system.network.io{eno1,receive}", 98172635444)
	r.verdict(verdict.Degraded, env.Sys, "physical")
}

func TestNetworkInterfaceComesAndGoes(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewNetwork)
	r.must()
	whole := r.file("proc/1/net/dev")
	i, j := strings.Index(whole, "  eno2:"), strings.Index(whole, " bond0:")
	r.write("proc/1/net/dev", whole[:i]+whole[j:])
	r.must().without(t, "eno2")
	r.write("proc/1/net/dev", whole)
	p := r.must()
	p.want(t, "system.network.io{eno2,receive}", 98172635)
	if s := p["system.network.io{eno2,receive}"].start; !s.Equal(tick(1)) {
		t.Errorf("an interface that returned counts since %v, want %v", s, tick(1))
	}
}

// TestNetworkCountersGoBack: all series of the interface begin anew together, those of others do not.
func TestNetworkCountersGoBack(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewNetwork)
	r.must()
	r.replace("proc/1/net/dev", "eno1:98172635444 71625344 ", "eno1:10 71625344 ")
	p := r.must()
	for key, point := range p {
		want := boot
		if strings.Contains(key, "eno1") {
			want = tick(0)
		}
		if !point.start.Equal(want) {
			t.Errorf("%s counts since %v, want %v", key, point.start, want)
		}
	}
	p.want(t, "system.network.io{eno1,receive}", 10)
}

func TestNetworkNameThatIsNoText(t *testing.T) {
	r := start(t, copyOf(t, treeVM), NewNetwork)
	if err := os.MkdirAll(r.env.Sys+"/class/net/e\xffth/device", 0o700); err != nil {
		t.Skip("this file system takes no such name: ", err)
	}
	r.write("proc/1/net/dev", r.file("proc/1/net/dev")+"e\xffth: 5 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n")
	r.must().want(t, "system.network.io{e?th,receive}", 5)
}

// TestNetworkSeenFromAnotherNamespace starts this test again in a network namespace of its own: it must see the
// interfaces of the host, as process 1 does.
func TestNetworkSeenFromAnotherNamespace(t *testing.T) {
	const child = "SLID_TEST_NETWORK_NAMESPACE"
	if os.Getenv(child) != "" {
		for key := range start(t, envAt("/"), NewNetwork).must() {
			fmt.Println(key)
		}
		return
	}
	testneed.Root(t, "to make a network namespace")
	list, err := os.ReadFile("/proc/1/net/dev")
	if err != nil || strings.Count(string(list), ":") < 2 {
		t.Skip("needs an interface besides lo")
	}
	cmd := exec.Command(testneed.Tool(t, "unshare"), "--net", os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("needs to make a network namespace: %v: %s", err, out)
	}
	for key := range start(t, envAt("/"), NewNetwork).must() {
		if !strings.Contains(string(out), key) {
			t.Errorf("%s is not seen from another network namespace", key)
		}
	}
}

func FuzzNetDev(f *testing.F) {
	for _, tree := range []string{treeVM, treeServer} {
		f.Add(readTree(f, tree, "proc/1/net/dev"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for line := range strings.SplitSeq(string(b), "\n") {
			var totals interfaceTotals
			name, err := parseInterface([]byte(line), &totals)
			if err == nil && (len(name) == 0 || len(name) > maxInterfaceName) {
				t.Fatalf("%q: name %q", line, name)
			}
		}
	})
}
