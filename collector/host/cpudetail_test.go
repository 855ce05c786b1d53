package host

import (
	"context"
	"strconv"
	"testing"

	"github.com/shirou/gopsutil/v3/cpu"

	"github.com/slid-agent/slid/internal/verdict"
)

func newPerCPU() factory { return CPUOptions{PerCPU: true}.New }

func TestCPUDetailValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), newPerCPU())
	p := r.must()
	p.want(t, "system.cpu.time{1,user}", 1012.01)
	p.want(t, "system.cpu.time{3,user}", 3000)
	p.want(t, "system.cpu.time{3,guest}", 3010)
	p.want(t, "system.cpu.time{3,interrupt}", 60)
	p.without(t, "system.cpu.time{2,")      // offline
	p.without(t, "system.cpu.time{1,guest") // no guest ran there
	p.without(t, "system.cpu.time{user}")   // else sums would count twice
	p.want(t, "system.cpu.logical.count", 3)
	r.verdict(verdict.Active)
}

// TestCPUDetailGoesOfflineAndReturns: the series of a processor go with it; when it is back it has new ones, which
// count from then, also if it was offline between two readings only.
func TestCPUDetailGoesOfflineAndReturns(t *testing.T) {
	const tail = "ctxt 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"
	line := func(n, idle string) string { return "cpu" + n + " 100 0 0 " + idle + " 0 0 0 0 0 0\n" }
	r := start(t, copyOf(t, treeVM), newPerCPU())
	none := -1.
	for i, step := range []struct {
		lines  string
		idle   float64 // of cpu1; none if it has no series
		start  int     // the tick that it counts from; -1 is boot
		broken bool
	}{
		{lines: line("0", "1000") + line("1", "2000"), idle: 20, start: -1},
		{lines: line("0", "1100") + line("1", "2100"), idle: 21, start: -1},
		{lines: line("0", "1200") + "cpu1 100 0 0 x\n", idle: 21, start: -1, broken: true}, // not gone for that
		{lines: line("0", "1200"), idle: none},
		{lines: line("0", "1300"), idle: none},
		{lines: line("0", "1400") + line("1", "50"), idle: 0, start: 5},
		{lines: line("0", "1500") + line("1", "150"), idle: 1, start: 5},
		{lines: line("0", "1500") + line("1", "145"), idle: 1, start: 5}, // an estimate steps back
		{lines: line("0", "1500") + line("1", "5000"), idle: 49.5, start: 5},
		{lines: line("0", "1600") + line("1", "9"), idle: 0, start: 9}, // 50 s back: it was away
		{lines: line("0", "1700") + line("1", "19"), idle: 0.1, start: 9},
	} {
		r.write("proc/stat", "cpu  1 1 1 1 1 1 1 1 1 1\n"+step.lines+tail)
		var p points
		if step.broken {
			p = r.fails("not a number")
		} else {
			p = r.must()
		}
		got, ok := p["system.cpu.time{1,idle}"]
		from := boot
		if step.start >= 0 {
			from = tick(step.start)
		}
		if step.idle == none {
			if ok {
				t.Errorf("step %d: idle %v of a processor that is offline", i, got.value)
			}
		} else if got.value != step.idle || !got.start.Equal(from) {
			t.Errorf("step %d: idle %v since %v, want %v since %v", i, got.value, got.start, step.idle, from)
		}
		if s := p["system.cpu.time{0,idle}"].start; !s.Equal(boot) {
			t.Errorf("step %d: the other processor counts from %v", i, s)
		}
	}
}

// TestCPUDetailOracle compares with gopsutil's times of each processor.
func TestCPUDetailOracle(t *testing.T) {
	compare(t, newPerCPU(), func(ctx context.Context) (points, error) {
		times, err := cpu.TimesWithContext(ctx, true)
		if err != nil {
			return nil, err
		}
		p := points{}
		for _, c := range times {
			put := func(mode string, seconds float64) {
				p.put("system.cpu.time{"+c.CPU[len("cpu"):]+","+mode+"}", seconds)
			}
			put("user", c.User-c.Guest)
			put("nice", c.Nice-c.GuestNice)
			put("system", c.System)
			put("idle", c.Idle)
			put("iowait", c.Iowait)
			put("interrupt", c.Irq+c.Softirq)
			put("steal", c.Steal)
		}
		return p, nil
	})
}

// TestCPUDetailChurnIsBounded takes processors offline and online many times: the series stay those online.
func TestCPUDetailChurnIsBounded(t *testing.T) {
	r := start(t, copyOf(t, treeVM), newPerCPU())
	const tail = "ctxt 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"
	r.must()
	for i := range 200 {
		r.write("proc/stat", "cpu0 1 1 1 1 1 1 1 1 0 0\ncpu"+strconv.Itoa(1+i%100)+" 5 5 5 5 5 5 5 5 0 0\n"+tail)
		r.must()
	}
	count := 0
	for key := range r.must() {
		if len(key) > 15 && key[:15] == "system.cpu.time" {
			count++
		}
	}
	if count != 2*modeGuest {
		t.Errorf("%d series, want %d", count, 2*modeGuest)
	}
	kernelAllocs(t, "churned", r)
}

func BenchmarkCPU(b *testing.B) { benchmarkKernel(b, NewCPU) }

// BenchmarkCPULargeHost has no cost of the kernel in it: the files are recorded ones.
func BenchmarkCPULargeHost(b *testing.B) {
	for name, open := range map[string]factory{"sum": NewCPU, "each": newPerCPU()} {
		b.Run(name, func(b *testing.B) {
			r := start(b, manyCPUs(b), open)
			r.must()
			ctx, now := b.Context(), tick(10)
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Collect(ctx, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
