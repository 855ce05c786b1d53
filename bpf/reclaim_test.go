package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// reclaimLimit is little more than what the load's process needs itself.
const reclaimLimit = 24 << 20

// tasksOf returns how many threads a process has.
func tasksOf(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// A load at the limit of its group is stalled, in that group and for that reason: no longer than it ran, and as long as
// the kernel's own account of it says (PSI), which has some more around the stalls in it. Each reclaim answers one event
// of the limit, by the memory controller's own count.
func TestReclaimAtLimit(t *testing.T) {
	g := newTestGroup(t, nil, "reclaim", reclaimLimit)
	k := attributed(t, g)
	r, err := NewReclaim(k)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := startGroupLoad(t, g, "lazy")
	before, pressure, hits := readSlot(t, &r.Table, 1), mustStall(t, g), g.limitHits(t)
	report := l.work()
	after, threads := readSlot(t, &r.Table, 1), tasksOf(t, l.Process.Pid)
	stalls := after.Stall[ReclaimCgroup].Count() - before.Stall[ReclaimCgroup].Count()
	stalled := time.Duration(after.Stall[ReclaimCgroup].SumNs - before.Stall[ReclaimCgroup].SumNs)
	psi, hits := mustStall(t, g)-pressure, g.limitHits(t)-hits
	t.Logf("%d stalls of %v in %v; memory.pressure %v; limit hit %d times; %+v", stalls, stalled, report.Took, psi, hits, r.Counts())
	if stalls == 0 || stalled > report.Took*time.Duration(threads) {
		t.Errorf("%d stalls of %v in %v of %d threads", stalls, stalled, report.Took, threads)
	}
	if c := r.Counts(); c.Discarded+c.Lost+c.Skipped != 0 {
		t.Errorf("losses: %+v", c)
	}
	most := 2 * psi // of several CPUs it is a mean, weighted with the work of the group's other threads
	if runtime.NumCPU() == 1 {
		most = psi
	}
	if _, ok := g.stalled(t); ok && (stalled > most || stalled < psi/2) {
		t.Errorf("%v of stalls, memory.pressure says %v", stalled, psi)
	}
	if !g.v1 && (stalls > hits || stalls < hits-hits/10) {
		t.Errorf("%d stalls, the limit was hit %d times", stalls, hits)
	}
	if rest := readSlot(t, &r.Table, RestSlot); rest.Stall[ReclaimCgroup].Count() > stalls/10 {
		t.Errorf("%d stalls belong to nobody", rest.Stall[ReclaimCgroup].Count())
	}
}

// limitHits returns how often the group met its limit; version 1 counts it in another way.
func (g *testGroup) limitHits(t *testing.T) uint64 {
	t.Helper()
	if g.v1 {
		return 0
	}
	return keyed(t, filepath.Join(g.memory, "memory.events"), "max")
}

func mustStall(t *testing.T, g *testGroup) time.Duration {
	t.Helper()
	d, _ := g.stalled(t)
	return d
}

// When the host has no memory left, tasks are stalled as often as the kernel says (allocstall in /proc/vmstat).
func TestReclaimOfHost(t *testing.T) {
	total := keyed(t, "/proc/meminfo", "MemTotal:") << 10
	if total > 2<<30 {
		t.Skip("needs a machine of its own with at most 2 GiB of memory")
	}
	g := newTestGroup(t, nil, "flood", 0)
	r, err := NewReclaim(attributed(t, g))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := startGroupLoad(t, g, fmt.Sprint("flood ", 2*total))
	before := allocStalls(t)
	report := l.work()
	threads, own := tasksOf(t, l.Process.Pid), readSlot(t, &r.Table, 1).Stall[ReclaimGlobal]
	stalls, rest := allocStalls(t)-before, readSlot(t, &r.Table, RestSlot).Stall[ReclaimGlobal]
	t.Logf("%d stalls of %v in %v; %d of others; allocstall %d", own.Count(), time.Duration(own.SumNs), report.Took, rest.Count(), stalls)
	if own.Count() == 0 || time.Duration(own.SumNs) > report.Took*time.Duration(threads) {
		t.Errorf("%d stalls of %v in %v of %d threads", own.Count(), time.Duration(own.SumNs), report.Took, threads)
	}
	// A reclaim that found nothing starts again, and is two for the kernel.
	if n := own.Count() + rest.Count(); n > stalls || n < stalls-stalls/10 {
		t.Errorf("%d stalls, the kernel says %d", n, stalls)
	}
}

// allocStalls returns how often tasks reclaimed for want of the host's memory.
func allocStalls(t *testing.T) (sum uint64) {
	t.Helper()
	for line := range strings.Lines(readText(t, "/proc/vmstat")) {
		if name, n, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(name, "allocstall") {
			sum += parseUint(t, n)
		}
	}
	return sum
}

// A probe that is detached and attached again goes on, and takes no stall of before for one of now.
func TestReclaimAttachedAgain(t *testing.T) {
	g := newTestGroup(t, nil, "again", reclaimLimit)
	r, err := NewReclaim(attributed(t, g))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := monotonic()
	if err := errors.Join(r.Detach(), r.Attach()); err != nil {
		t.Fatal(err)
	}
	var since uint64
	if err := r.collection.Variables[probeSince].Get(&since); err != nil || since < before || since > monotonic() {
		t.Errorf("it sees everything since %d, it was attached after %d (%v)", since, before, err)
	}
	startGroupLoad(t, g, "lazy").work()
	if after := readSlot(t, &r.Table, 1); after.Stall[ReclaimCgroup].Count() == 0 {
		t.Error("no stall after it was attached again")
	}
}

// Without the tracepoints of control groups, the host's remain.
func TestReclaimOfHostOnly(t *testing.T) {
	requireCapabilities(t)
	r, err := newReclaim(new(Kernel), reclaimRungs()[1:])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if v := r.Verdict("reclaim"); v.Reason == "" {
		t.Errorf("verdict %+v", v)
	}
}
