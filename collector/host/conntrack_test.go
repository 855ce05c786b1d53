package host

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/shirou/gopsutil/v3/net"

	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	trackArea = "system.network.conntrack."
	trackPath = "proc/1/net/stat/nf_conntrack"
)

func TestConntrackValues(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewConntrack)
	p := r.must()
	for name, want := range map[string]float64{
		"count": 0xbeef, "max": 262144, "linux.invalid": 17 + 0xfffffffe + 3 + 4, "linux.insert_failures": 3,
		"linux.drops": 20, "linux.early_drops": 1, "linux.search_restarts": 348,
	} {
		p.want(t, trackArea+name, want)
	}
	p.without(t, "clashes") // Linux 5.10 has none
	r.verdict(verdict.Active)
}

func TestConntrackOfANewerKernel(t *testing.T) {
	p := start(t, copyOf(t, netVM), NewConntrack).must()
	p.want(t, trackArea+"linux.clashes", 0)
	p.want(t, trackArea+"max", 262144)
}

// TestConntrackGoesRound: each processor's 32 bits fill by themselves.
func TestConntrackGoesRound(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewConntrack)
	before := r.must()[trackArea+"linux.invalid"].value
	r.replace(trackPath, "fffffffe", "00000003")
	r.must().want(t, trackArea+"linux.invalid", before+5)
}

// TestConntrackModuleComesAndGoes: without the module there is nothing, calmly; it is found within a minute, counts
// from there, and its series go when it is unloaded.
func TestConntrackModuleComesAndGoes(t *testing.T) {
	env := copyOf(t, netServer)
	stash := t.TempDir() + "/"
	move := func(from, to string) {
		t.Helper()
		for _, dir := range []string{"stat", "netfilter"} {
			source, target := env.Proc+"/1/net/stat", stash+dir
			if dir == "netfilter" {
				source = env.Proc + "/sys/net/netfilter"
			}
			if from == "stash" {
				source, target = target, source
			}
			if err := os.Rename(source, target); err != nil {
				t.Fatal(from, to, err)
			}
		}
	}
	move("tree", "stash")
	r := start(t, env, NewConntrack)
	if p := r.must(); len(p) != 0 {
		t.Errorf("%v without conntrack", p)
	}
	r.verdict(verdict.Active)
	if n := testing.AllocsPerRun(10, func() { _ = r.Collect(t.Context(), tick(1)) }); n != 0 {
		t.Errorf("%v allocations while there is nothing", n)
	}
	move("stash", "tree")
	for range 5 {
		if p := r.must(); len(p) != 0 {
			t.Fatal("looked for before a minute was over")
		}
	}
	p := r.must()
	p.want(t, trackArea+"count", 0xbeef)
	if s := p[trackArea+"linux.drops"].start; !s.Equal(tick(5)) {
		t.Errorf("counts since %v, want %v", s, tick(5))
	}
	move("tree", "stash")
	r.must().want(t, trackArea+"count", 0xbeef) // the open file of a tree stays; in /proc it does not
	if err := os.Truncate(stash+"stat/nf_conntrack", 0); err != nil {
		t.Fatal(err)
	}
	r.fails(trackPath)
}

// TestConntrackUnloaded: what the kernel leaves of an open file answers with an I/O error, as a directory in its
// place does with another; then the path tells that the module is gone.
func TestConntrackUnloaded(t *testing.T) {
	r := start(t, copyOf(t, netServer), NewConntrack)
	r.must()
	c := r.Collector.(*Conntrack)
	if err := c.stat.Close(); err != nil { // so that it must be opened again
		t.Fatal(err)
	}
	remove(t, r.env.Proc+"/1/net/stat")
	if p := r.must(); len(p) != 0 {
		t.Errorf("%v after the module is gone", p)
	}
	r.verdict(verdict.Active)
}

// TestConntrackWithoutStatistics: kernels without CONFIG_NF_CONNTRACK_PROCFS still tell the number.
func TestConntrackWithoutStatistics(t *testing.T) {
	env := copyOf(t, netServer)
	remove(t, env.Proc+"/1/net/stat")
	r := start(t, env, NewConntrack)
	p := r.must()
	p.want(t, trackArea+"count", 48879)
	p.want(t, trackArea+"max", 262144)
	p.without(t, "drops")
	r.verdict(verdict.Degraded, "CONFIG_NF_CONNTRACK_PROCFS")
}

// TestConntrackOracle compares with gopsutil, on the trees and on this machine.
func TestConntrackOracle(t *testing.T) {
	for _, tree := range []string{netVM, netServer} {
		env := copyOf(t, tree)
		asSeenByOthers(t, env)
		compareConntrack(t, oracle(env.Root), start(t, env, NewConntrack).must())
	}
	if _, err := os.Stat("/proc/1/net/stat/nf_conntrack"); err != nil {
		t.Skip("needs nf_conntrack: ", err)
	}
	compareConntrack(t, oracle("/"), start(t, envAt("/"), NewConntrack).must())
}

func compareConntrack(t *testing.T, ctx context.Context, p points) { //nolint:revive // the test comes first
	t.Helper()
	stats, err := net.ConntrackStatsWithContext(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	s := stats[0]
	for name, want := range map[string]uint32{
		"linux.insert_failures": s.InsertFailed, "linux.drops": s.Drop, "linux.early_drops": s.EarlyDrop,
		"linux.search_restarts": s.SearchRestart,
	} {
		p.want(t, trackArea+name, float64(want))
	}
}

// TestConntrackSeesConnections tracks the connections of a network namespace of the test's own.
func TestConntrackSeesConnections(t *testing.T) {
	testneed.File(t, "/proc/1/net/stat/nf_conntrack", "nf_conntrack")
	n := newNamespace(t)
	iptables := testneed.Tool(t, "iptables")
	if answer := n.run(iptables + " -A INPUT -m conntrack --ctstate INVALID -j ACCEPT"); answer != "" {
		t.Skip("needs a kernel that matches by connection: ", answer)
	}
	r := start(t, n.env(), NewConntrack)
	r.must().want(t, trackArea+"count", 0)
	n.do(provokeTrouble)
	answer := strings.TrimSpace(n.run("cat /proc/sys/net/netfilter/nf_conntrack_count"))
	p := r.must()
	if got := fmt.Sprint(p[trackArea+"count"].value); got != answer || p[trackArea+"count"].value < 4 {
		t.Errorf("count = %v, want the kernel's %s, at least 4", got, answer)
	}
}

func FuzzConntrack(f *testing.F) {
	for _, tree := range []string{netVM, netServer} {
		f.Add(readTree(f, tree, trackPath))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var table trackTable
		if err := table.parse(b); err != nil {
			return
		}
		if !table.has[trackEntries] || len(table.cpus) != strings.Count(string(b), "\n")-1 {
			t.Fatalf("%q: %d processors", b, len(table.cpus))
		}
		cpus := append([][trackColumns]uint32(nil), table.cpus...)
		if err := table.parse(b); err != nil || fmt.Sprint(cpus) != fmt.Sprint(table.cpus) {
			t.Fatalf("%q: read again: %v, %v, want %v", b, table.cpus, err, cpus)
		}
	})
}
