package host

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shirou/gopsutil/v3/mem"
	"go.opentelemetry.io/otel/sdk/instrumentation"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	pagingVM     = "paging/linux-6.18-vm"
	pagingServer = "paging/linux-5.10-server"
	pagingOld    = "paging/linux-3.10-old"
)

func TestPagingValues(t *testing.T) {
	r := start(t, copyOf(t, pagingServer), NewPaging)
	p := r.must()
	for key, value := range map[string]float64{
		"system.paging.faults{major}":                   182736,
		"system.paging.faults{minor}":                   71827364554 - 182736,
		"system.paging.operations{in,major}":            71827,
		"system.paging.operations{out,major}":           182736,
		"system.paging.linux.io{in}":                    918273645 * 1024,
		"system.paging.linux.io{out}":                   1827364554 * 1024,
		"system.memory.linux.reclaim.scanned{kswapd}":   99182736,
		"system.memory.linux.reclaim.scanned{direct}":   271826, // without pgscan_direct_throttle
		"system.memory.linux.reclaim.reclaimed{kswapd}": 81726354,
		"system.memory.linux.reclaim.reclaimed{direct}": 172635,
		"system.memory.linux.reclaim.stalls":            2000, // over zones
		"system.memory.linux.refaults{anon}":            91827,
		"system.memory.linux.refaults{file}":            5512736,
		"system.memory.linux.compaction.stalls":         1827,
		"system.memory.linux.compaction.failures":       1234,
		"system.memory.linux.oom_kills":                 4,
		"system.paging.usage{/dev/dm-1,used}":           1048576 * 1024,
		"system.paging.usage{/dev/dm-1,free}":           (8388604 - 1048576) * 1024,
		`system.paging.usage{/srv/swap file\one,used}`:  0,
		`system.paging.usage{/srv/swap file\one,free}`:  4194300 * 1024,
	} {
		p.want(t, key, value)
	}
	if len(p) != 20 {
		t.Errorf("%d series, want 20: %v", len(p), p)
	}
	if s := p["system.memory.linux.oom_kills"].start; !s.Equal(boot) {
		t.Errorf("counts from %v, want %v", s, boot)
	}
	r.verdict(verdict.Active)
}

// TestPagingOfAnOldKernel: reclaim is counted by zone, and there are no kills and no refaults of anonymous pages.
func TestPagingOfAnOldKernel(t *testing.T) {
	r := start(t, copyOf(t, pagingOld), NewPaging)
	p := r.must()
	p.want(t, "system.memory.linux.reclaim.scanned{kswapd}", 432)
	p.want(t, "system.memory.linux.reclaim.scanned{direct}", 87)
	p.want(t, "system.memory.linux.reclaim.reclaimed{kswapd}", 321)
	p.want(t, "system.memory.linux.reclaim.reclaimed{direct}", 65)
	p.want(t, "system.memory.linux.reclaim.stalls", 91)
	p.want(t, "system.memory.linux.refaults{file}", 4321)
	p.without(t, "oom_kills")
	p.without(t, "anon")
	r.verdict(verdict.Degraded, "oom_kill", "workingset_refault_anon", "proc/vmstat")
}

// TestPagingOneBadZone: half a sum is not stored.
func TestPagingOneBadZone(t *testing.T) {
	r := start(t, copyOf(t, pagingOld), NewPaging)
	r.must()
	r.replace("proc/vmstat", "pgscan_kswapd_normal 400", "pgscan_kswapd_normal 4x0")
	r.replace("proc/vmstat", "pgscan_direct_normal 80", "pgscan_direct_normal 81")
	p := r.fails("proc/vmstat", "line 29", "not a number", "pgscan_kswapd")
	p.want(t, "system.memory.linux.reclaim.scanned{kswapd}", 432)
	p.want(t, "system.memory.linux.reclaim.scanned{direct}", 88)
	r.verdict(verdict.Degraded, "pgscan_kswapd")
	r.replace("proc/vmstat", "pgscan_kswapd_normal 4x0", "pgscan_kswapd_normal 500")
	r.must().want(t, "system.memory.linux.reclaim.scanned{kswapd}", 532)
	r.verdict(verdict.Degraded, "oom_kill")
}

// TestPagingMinorFaultsNeverFall: a major fault may be counted before it is counted among all.
func TestPagingMinorFaultsNeverFall(t *testing.T) {
	r := start(t, copyOf(t, pagingOld), NewPaging)
	r.must()
	r.replace("proc/vmstat", "pgmajfault 2736", "pgmajfault 2737")
	p := r.must()
	p.want(t, "system.paging.faults{minor}", 7364554-2736)
	if s := p["system.paging.faults{minor}"].start; !s.Equal(boot) {
		t.Errorf("minor faults restarted at %v", s)
	}
}

func TestPagingSwapDevicesComeAndGo(t *testing.T) {
	r := start(t, copyOf(t, pagingVM), NewPaging)
	head := r.file("proc/swaps")
	r.must().without(t, "system.paging.usage")
	r.verdict(verdict.Active)
	r.write("proc/swaps", head+"/dev/zram0 partition 1000 10 100\n/swapfile file 500 0 -2\n")
	p := r.must()
	p.want(t, "system.paging.usage{/dev/zram0,used}", 10*1024)
	p.want(t, "system.paging.usage{/swapfile,free}", 500*1024)
	r.write("proc/swaps", head+"/swapfile file 500 x -2\n") // damaged: nobody is taken to be gone
	p = r.fails("proc/swaps", "line 2", "not a number")
	p.want(t, "system.paging.usage{/dev/zram0,used}", 10*1024)
	r.write("proc/swaps", head+"/swapfile file 500 600 -2\n")
	p = r.must()
	p.without(t, "zram0")
	p.want(t, "system.paging.usage{/swapfile,free}", 0)
	r.write("proc/swaps", string(make([]byte, 5<<20))) // cannot be read: an error once
	r.fails("proc/swaps").without(t, "system.paging.usage")
	r.must()
	r.verdict(verdict.Degraded, "swap devices", "proc/swaps")
	r.write("proc/swaps", head)
	r.must()
	r.verdict(verdict.Active)
}

func TestPagingWithoutSwaps(t *testing.T) {
	env := copyOf(t, pagingServer)
	remove(t, filepath.Join(env.Proc, "swaps"))
	r := start(t, env, NewPaging)
	r.must().without(t, "system.paging.usage")
	r.verdict(verdict.Active) // CONFIG_SWAP=n
}

func TestPagingSwapsNotAllowed(t *testing.T) {
	env := copyOf(t, pagingServer)
	if err := os.Chmod(filepath.Join(env.Proc, "swaps"), 0); err != nil {
		t.Fatal(err)
	}
	err := unprivileged(t, func() error {
		r := start(t, env, NewPaging)
		r.verdict(verdict.Degraded, "swap devices", "CAP_DAC_READ_SEARCH")
		return errors.Join(r.collect(), r.collect()) // known since the start: no error in every tick
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPagingUnavailable(t *testing.T) {
	for content, want := range map[string]string{
		"nr_free_pages 12\n":       "CONFIG_VM_EVENT_COUNTERS",
		"pgfault 12\npgmajfault 3": "cut short",
		"":                         "CONFIG_VM_EVENT_COUNTERS",
		"\x00\xff\x7fELF:\n9":      "cut short",
	} {
		env := copyOf(t, pagingVM)
		if err := os.WriteFile(filepath.Join(env.Proc, "vmstat"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("x", metric.ClassHost, 100)
		_, err := NewPaging(env)
		v := verdict.FromError("host/paging", err)
		if err == nil || v.State != verdict.Unavailable || !strings.Contains(v.Reason+v.Missing, want) {
			t.Errorf("%q: %+v, want unavailable with %q", content, v, want)
		}
	}
}

// TestPagingEveryPrefix cuts both files at every byte.
func TestPagingEveryPrefix(t *testing.T) {
	for _, file := range []string{"proc/vmstat", "proc/swaps"} {
		r := start(t, copyOf(t, pagingServer), NewPaging)
		whole := r.file(file)
		before := r.must()
		for n := range len(whole) {
			r.write(file, whole[:n])
			err := r.collect()
			allRead := strings.Contains(whole[:n], "compact_fail 1234\n") // what follows is not read
			if (n == 0 || whole[n-1] != '\n') && !allRead && (err == nil || !strings.Contains(err.Error(), file)) {
				t.Fatalf("%s cut after %d bytes: error %v", file, n, err)
			}
		}
		r.write(file, whole)
		after := r.must()
		for key, p := range before {
			if after[key] != p {
				t.Errorf("%s = %v after recovery, want %v", key, after[key], p)
			}
		}
		r.verdict(verdict.Active)
	}
}

func TestPagingOracle(t *testing.T) {
	for _, tree := range []string{pagingVM, pagingServer, pagingOld} {
		r := start(t, copyOf(t, tree), NewPaging)
		ctx := oracle(r.env.Root)
		swap, err := mem.SwapMemoryWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p := r.must()
		const gopsutilPage = 4096 // it multiplies each of them by that, those in kB too
		p.want(t, "system.paging.operations{in,major}", float64(swap.Sin/gopsutilPage))
		p.want(t, "system.paging.operations{out,major}", float64(swap.Sout/gopsutilPage))
		p.want(t, "system.paging.linux.io{in}", float64(swap.PgIn/gopsutilPage*1024))
		p.want(t, "system.paging.linux.io{out}", float64(swap.PgOut/gopsutilPage*1024))
		p.want(t, "system.paging.faults{minor}", float64((swap.PgFault-swap.PgMajFault)/gopsutilPage))
		p.want(t, "system.paging.faults{major}", float64(swap.PgMajFault/gopsutilPage))
		devices, err := mem.SwapDevicesWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			p.want(t, "system.paging.usage{"+unescape(d.Name)+",used}", float64(d.UsedBytes))
			p.want(t, "system.paging.usage{"+unescape(d.Name)+",free}", float64(d.FreeBytes))
		}
		t.Logf("%s: %d devices", tree, len(devices))
	}
}

// TestPagingCountsThisProcess touches pages and looks for their faults.
func TestPagingCountsThisProcess(t *testing.T) {
	r := start(t, envAt("/"), NewPaging)
	before := r.must()["system.paging.faults{minor}"].value
	const size = 64 << 20
	b := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		b[i] = 1
	}
	runtime.KeepAlive(b)
	// With huge pages a fault brings 512 pages.
	if faults := r.must()["system.paging.faults{minor}"].value - before; faults < size/(2<<20) {
		t.Errorf("%v faults for %d new pages", faults, size/4096)
	}
}

func TestPagingAllocatesNothing(t *testing.T) {
	for name, env := range map[string]func() *rig{
		"vm":     func() *rig { return start(t, copyOf(t, pagingVM), NewPaging) },
		"server": func() *rig { return start(t, copyOf(t, pagingServer), NewPaging) },
		"live":   func() *rig { return start(t, envAt("/"), NewPaging) },
	} {
		kernelAllocs(t, name, env())
	}
}

// kernelAllocs checks that a collector allocates nothing once it is warm.
func kernelAllocs(t *testing.T, name string, r *rig) {
	t.Helper()
	for range 3 {
		r.must()
	}
	ctx, now := t.Context(), tick(10)
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Collect(ctx, now); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%s: %v allocations per Collect, want 0", name, n)
	}
}

func FuzzVmstat(f *testing.F) {
	for _, tree := range []string{pagingVM, pagingServer, pagingOld} {
		f.Add(readTree(f, tree, "proc/vmstat"), 20)
	}
	f.Fuzz(func(t *testing.T, b []byte, most int) {
		var v vmstat
		bad := v.parse(b, most)
		found := 0
		for _, n := range v.lines {
			found += int(n)
		}
		if found > max(most, 0) && found < 200 {
			t.Fatalf("found %d lines of at most %d", found, most)
		}
		if bad.err == nil && v.missing(&v.lines) != nil {
			t.Fatal("lines are missing that were there")
		}
	})
}

func FuzzSwaps(f *testing.F) {
	f.Add([]byte(`/srv/swap\040file\134one file 4194300 0 -3`))
	f.Add([]byte("/dev/dm-1\tpartition\t8388604\t\t18446744073709551615\t\t-2"))
	f.Fuzz(func(t *testing.T, line []byte) {
		name, size, used, err := parseSwap(line)
		if err == nil && (size < 0 || used < 0 || len(name) == 0) {
			t.Fatalf("%q, %d, %d", name, size, used)
		}
		if n := len(unescape(string(name))); n > len(name) {
			t.Fatalf("%q grew to %d bytes", name, n)
		}
	})
}

func BenchmarkPaging(b *testing.B) { benchmarkKernel(b, NewPaging) }

// benchmarkKernel measures a tick on this machine, with the CPU time that the kernel spends too.
func benchmarkKernel(b *testing.B, open factory) {
	r := start(b, envAt("/"), open)
	r.must()
	ctx, now := b.Context(), tick(10)
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		if err := r.Collect(ctx, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}
