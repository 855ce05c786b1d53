package host

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestCPUValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewCPU)
	p := r.must()
	for mode, ticks := range map[string]float64{
		"user": 803512 - 300000, "nice": 4011 - 1000, "system": 213711, "idle": 41920713, "iowait": 80112,
		"interrupt": 30411, "steal": 1210, "guest": 301000,
	} {
		p.want(t, "system.cpu.time{"+mode+"}", ticks/userHz)
	}
	p.want(t, "system.cpu.logical.count", 3)
	p.want(t, "system.cpu.linux.context_switches", 18273645546)
	p.want(t, "system.process.created", 1827364)
	p.want(t, "system.process.linux.running", 5)
	p.want(t, "system.process.linux.blocked", 2)
	p.want(t, "system.cpu.load_average.1m", 3.07)
	p.want(t, "system.cpu.load_average.5m", 2.5)
	p.want(t, "system.cpu.load_average.15m", 1.99)
	if s := p["system.cpu.time{user}"].start; !s.Equal(boot) {
		t.Errorf("counts from %v, want %v", s, boot)
	}
	r.verdict(verdict.Active)
}

func TestCPUWithoutGuestTimes(t *testing.T) {
	p := start(t, copyOf(t, treeOld), NewCPU).must()
	p.want(t, "system.cpu.time{user}", (1132+1123)/100.)
	p.want(t, "system.cpu.time{interrupt}", (127+438+18)/100.)
	p.without(t, "guest")
}

// TestCPUGoesOfflineAndReturns: the totals never fall, no time is counted twice, and the series does not restart.
func TestCPUGoesOfflineAndReturns(t *testing.T) {
	const tail = "ctxt 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"
	cpu := func(n, idle string) string { return "cpu" + n + " 100 0 0 " + idle + " 0 0 0 0 0 0\n" }
	r := start(t, copyOf(t, treeVM), NewCPU)
	for i, step := range []struct {
		lines string
		idle  float64
		count float64
	}{
		{cpu("0", "1000") + cpu("1", "2000"), 30, 2},
		{cpu("0", "1100") + cpu("1", "2100"), 32, 2},
		{cpu("0", "1200"), 33, 1},                         // cpu1 goes: its time stays
		{cpu("0", "1300"), 34, 1},                         //
		{cpu("0", "1400") + cpu("1", "50"), 35, 2},        // it returns with other times
		{cpu("0", "1500") + cpu("1", "150"), 37, 2},       // and goes on from there
		{cpu("0", "1490") + cpu("1", "250"), 38, 2},       // an estimate steps back by 100 ms: it waits
		{cpu("0", "1510") + cpu("1", "250"), 38.1, 2},     // until it has caught up
		{cpu("0", "1610") + cpu("1", "9"), 39.1, 2},       // 250 -> 9: less than 3 s
		{cpu("0", "510") + cpu("1", "260"), 39.2, 2},      // 11 s back: goes on from 510
		{cpu("0", "610") + cpu("1", "260"), 40.2, 2},      //
		{cpu("0", "610") + cpu("7", "99999999"), 40.2, 2}, // one that was never seen: not its past
		{cpu("0", "610") + cpu("7", "100000099"), 41.2, 2},
	} {
		r.write("proc/stat", "cpu  1 1 1 1 1 1 1 1 1 1\n"+step.lines+tail)
		p := r.must()
		if got := p["system.cpu.time{idle}"]; got.value != step.idle || !got.start.Equal(boot) {
			t.Errorf("step %d: idle %v since %v, want %v since boot", i, got.value, got.start, step.idle)
		}
		p.want(t, "system.cpu.logical.count", step.count)
	}
}

// TestCPUClockNeverFalls feeds processors with times that go up, down and away.
func TestCPUClockNeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c cpuClock
		var before cpuTimes
		for range rapid.IntRange(1, 20).Draw(t, "ticks") {
			var list []processor
			for n := range uint64(4) {
				if rapid.Bool().Draw(t, "online") {
					list = append(list, processor{number: n, times: cpuTimes{rapid.Uint64Range(0, 1000).Draw(t, "user")}})
				}
			}
			c.advance(list, rapid.Bool().Draw(t, "whole"))
			for mode, v := range c.total {
				if v < before[mode] {
					t.Fatalf("mode %d fell from %d to %d", mode, before[mode], v)
				}
			}
			before = c.total
		}
	})
}

func TestCPUOneBadLineKeepsTheOthers(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewCPU)
	before := r.must()
	r.replace("proc/stat", "cpu0 102311", "cpu0 102411")
	r.replace("proc/stat", "cpu3 600000", "cpu3 6000x0")
	p := r.fails("proc/stat", "not a number")
	p.want(t, "system.cpu.time{user}", before["system.cpu.time{user}"].value+1)
	p.want(t, "system.cpu.logical.count", 3)
	r.verdict(verdict.Degraded, "proc/stat")
}

func TestCPUWithoutLoadavg(t *testing.T) {
	env := copyOf(t, treeVM)
	loadavg := env.Proc + "/loadavg"
	remove(t, loadavg)
	r := start(t, env, NewCPU)
	r.verdict(verdict.Degraded, "load averages", loadavg)
	r.must().without(t, "load_average") // known since the start: no error in every tick
	r.verdict(verdict.Degraded, "load averages", loadavg)
	r.write("proc/loadavg", "1.00 2.00 3.00 1/2 3\n")
	r.must().want(t, "system.cpu.load_average.5m", 2)
	r.verdict(verdict.Active)
	r.write("proc/loadavg", "1.00 nan 3.00\n")
	r.fails(loadavg).want(t, "system.cpu.load_average.5m", 2)
	r.verdict(verdict.Degraded, loadavg)
	r.write("proc/loadavg", string(make([]byte, 5<<20))) // cannot be read at all: an error once, and no series
	r.fails(loadavg).without(t, "load_average")
	r.must().without(t, "load_average")
	r.verdict(verdict.Degraded, loadavg)
}

func FuzzStat(f *testing.F) {
	for _, tree := range []string{treeVM, treeServer, treeOld} {
		f.Add(readTree(f, tree, "proc/stat"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s stat
		var c cpuClock
		before := cpuTimes{}
		for _, content := range [][]byte{b, b[:len(b)/2], b} {
			whole, err := s.parse(content)
			if err == nil && !whole {
				t.Fatal("not whole, but no error")
			}
			c.advance(s.processors, whole)
			for mode := range c.total {
				if c.total[mode] < before[mode] && before[mode] < 1<<60 {
					t.Fatalf("mode %d fell", mode)
				}
			}
			before = c.total
		}
		_, _ = parseBoot(b)
	})
}

func FuzzLoadavg(f *testing.F) {
	f.Add(readTree(f, treeVM, "proc/loadavg"))
	f.Fuzz(func(t *testing.T, b []byte) {
		load, err := parseLoadavg(b)
		for _, v := range load {
			if err == nil && !(v >= 0) {
				t.Fatalf("load %v", v)
			}
		}
	})
}
