package host

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestInterruptsValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewCPU)
	p := r.must()
	p.want(t, "system.cpu.linux.interrupts", 912837465)
	for name, count := range map[string]float64{
		"HI": 2, "TIMER": 81726354, "NET_TX": 1827, "NET_RX": 1928374, "BLOCK": 1726354, "IRQ_POLL": 0,
		"TASKLET": 172635, "SCHED": 99182736, "HRTIMER": 8172, "RCU": 88172635,
	} {
		p.want(t, "system.cpu.linux.softirqs{"+name+"}", count)
	}
	p.want(t, "system.process.linux.threads", 812)
	r.verdict(verdict.Active)
}

// TestInterruptsOfAnOldKernel: with fewer types the order is another.
func TestInterruptsOfAnOldKernel(t *testing.T) {
	r := start(t, copyOf(t, treeOld), NewCPU)
	p := r.must()
	p.want(t, "system.cpu.linux.interrupts", 114930548)
	p.without(t, "softirqs")
	r.verdict(verdict.Active)
}

// TestInterruptsWrap: the kernel keeps soft interrupts in 32 bits and adds up hard ones from numbers of 32 bits.
func TestInterruptsWrap(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewCPU)
	set := func(hard, timer, netRX uint64) points {
		r.write("proc/stat", "cpu0 1 0 0 1 0 0 0 0 0 0\nintr "+strconv.FormatUint(hard, 10)+
			" 1 2 3\nctxt 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 7 0 "+
			strconv.FormatUint(timer, 10)+" 0 "+strconv.FormatUint(netRX, 10)+" 0 0 0 0 0 0\n")
		return r.must()
	}
	const full = 1 << 32
	set(10*full+1000, full-10, 500)
	p := set(9*full+1500, 5, 600) // one of many numbers behind it wrapped, and 500 came on top
	p.want(t, "system.cpu.linux.interrupts", 10*full+1500)
	p.want(t, "system.cpu.linux.softirqs{TIMER}", full+5)
	p.want(t, "system.cpu.linux.softirqs{NET_RX}", 600)
	p = set(9*full+1600, 15, 590) // too small a fall for a wrap: it goes on from there
	p.want(t, "system.cpu.linux.interrupts", 10*full+1600)
	p.want(t, "system.cpu.linux.softirqs{TIMER}", full+15)
	p.want(t, "system.cpu.linux.softirqs{NET_RX}", 600)
	p = set(9*full+1600, 15, 595)
	p.want(t, "system.cpu.linux.softirqs{NET_RX}", 605)
	for key, v := range p {
		if strings.Contains(key, "irqs") && !v.start.Equal(boot) {
			t.Errorf("%s restarted at %v", key, v.start)
		}
	}
}

func TestInterruptsWrappingIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w wrapping
		truth := rapid.Uint64Range(0, 1<<32-1).Draw(t, "first")
		w.advance(truth)
		for range rapid.IntRange(1, 50).Draw(t, "ticks") {
			truth += rapid.Uint64Range(0, 1<<31-1).Draw(t, "more")
			if got := w.advance(truth & (1<<32 - 1)); got != truth {
				t.Fatalf("total %d, want %d", got, truth)
			}
		}
	})
}

// TestInterruptsBadLine: what is before and what is after a damaged line.
func TestInterruptsBadLine(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewCPU)
	before := r.must()
	r.replace("proc/stat", "softirq 281726354 2", "softirq 281726354 x")
	r.replace("proc/stat", "ctxt 18273645546", "ctxt 18273645547")
	p := r.fails("proc/stat", "line of softirq")
	p.want(t, "system.cpu.linux.context_switches", 18273645547)
	p.want(t, "system.cpu.linux.softirqs{TIMER}", before["system.cpu.linux.softirqs{TIMER}"].value)
	r.verdict(verdict.Degraded, "softirq")
	r.replace("proc/stat", "softirq 281726354 x", "softirq 281726354 2")
	r.must()
	r.verdict(verdict.Active)
	r.write("proc/loadavg", "3.07 2.50 1.99 5 1827364\n")
	r.fails("proc/loadavg").want(t, "system.process.linux.threads", 812)
}

// TestInterruptsOracle compares with /proc/softirqs, where the kernel shows each processor, before and after.
func TestInterruptsOracle(t *testing.T) {
	r := start(t, envAt("/"), NewCPU)
	before := softirqTable(t)
	p := r.must()
	after := softirqTable(t)
	if len(before) != softirqTypes {
		t.Errorf("this kernel has %d types, we know %d", len(before), softirqTypes)
	}
	for name, low := range before {
		if v := p["system.cpu.linux.softirqs{"+name+"}"].value; v < low || v > after[name] {
			t.Errorf("%s = %v, want %v to %v", name, v, low, after[name])
		}
	}
}

func softirqTable(t *testing.T) map[string]float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/softirqs")
	if err != nil {
		t.Skip(err)
	}
	totals := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		name, counts, ok := strings.Cut(strings.TrimSpace(line), ":")
		for field := range strings.FieldsSeq(counts) {
			v, err := strconv.ParseFloat(field, 64)
			if err != nil {
				t.Fatal(err)
			}
			totals[name] += v
		}
		if !ok {
			delete(totals, name) // the head
		}
	}
	return totals
}

// TestInterruptsFileOfALargeHost: 128 processors and 1,200 interrupts are one read and no allocation.
func TestInterruptsFileOfALargeHost(t *testing.T) {
	for _, open := range []factory{NewCPU, CPUOptions{PerCPU: true}.New} {
		kernelAllocs(t, "large", start(t, manyCPUs(t), open))
	}
}

// manyCPUs returns a tree with 128 processors.
func manyCPUs(t testing.TB) (env collector.Env) {
	t.Helper()
	env = copyOf(t, treeVM)
	var b strings.Builder
	b.WriteString("cpu  1 1 1 1 1 1 1 1 1 1\n")
	for n := range 128 {
		b.WriteString("cpu" + strconv.Itoa(n) + " 102311 1002 51011 16010113 30011 0 18221 402 0 0\n")
	}
	b.WriteString("intr 912837465" + strings.Repeat(" 12345", 1200) + "\nctxt 1827364\nbtime 1700000000\n" +
		"processes 1827\nprocs_running 3\nprocs_blocked 0\nsoftirq 100 1 2 3 4 5 6 7 8 9 10\n")
	if err := os.WriteFile(filepath.Join(env.Proc, "stat"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return env
}

func FuzzInterrupts(f *testing.F) {
	f.Add([]byte("281726354 2 81726354 1827 1928374 1726354 0 172635 99182736 8172 88172635"))
	f.Add([]byte("5 1/812 18446744073709551615"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var c interruptCounts
		if err := c.parseHard(line); (err == nil) != c.hasHard {
			t.Fatalf("%q: %v, but %v", line, err, c.hasHard)
		}
		if err := c.parseSoft(line); err != nil && c.hasSoft {
			t.Fatalf("%q: %v, but read", line, err)
		}
		_, _ = parseThreads(append(line, '\n'))
	})
}
