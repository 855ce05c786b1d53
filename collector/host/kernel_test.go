package host

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	kernelVM     = "kernel/linux-6.18-vm"
	kernelServer = "kernel/linux-4.18-server"
)

func TestKernelValues(t *testing.T) {
	r := start(t, copyOf(t, kernelServer), NewKernel)
	p := r.must()
	for key, value := range map[string]float64{
		"system.file_handle.linux.usage":                  18272,
		"system.file_handle.linux.limit":                  9223372036854775807,
		"system.aio.linux.usage":                          65000,
		"system.aio.linux.limit":                          65536,
		"system.pty.linux.usage":                          12,
		"system.pty.linux.limit":                          4096,
		"system.process.limit":                            1029827,
		"system.entropy.linux.available":                  3182,
		"system.entropy.linux.limit":                      4096,
		"system.kernel.linux.tainted{proprietary_module}": 1,
		"system.kernel.linux.tainted{machine_check}":      1,
		"system.kernel.linux.tainted{staging_driver}":     1,
		"system.kernel.linux.tainted{out_of_tree_module}": 1,
		"system.kernel.linux.tainted{unsigned_module}":    1,
		"system.kernel.linux.tainted{bit_31}":             1,
		"system.kernel.linux.tainted{bad_page}":           0,
		"system.kernel.linux.tainted{died}":               0,
		"system.kernel.linux.tainted{warning}":            0,
		"system.kernel.linux.tainted{soft_lockup}":        0,
	} {
		p.want(t, key, value)
	}
	p.without(t, "hung_tasks") // before Linux 6.13
	if len(p) != 20 {
		t.Errorf("%d series, want 20: %v", len(p), p)
	}
	r.verdict(verdict.Active)
}

func TestKernelVM(t *testing.T) {
	r := start(t, copyOf(t, kernelVM), NewKernel)
	p := r.must()
	p.want(t, "system.process.limit", 32768) // pid_max, below threads-max
	p.want(t, "system.process.linux.hung_tasks", 0)
	p.without(t, "entropy") // a pool of 256 bits tells nothing
	p.want(t, "system.kernel.linux.tainted{died}", 0)
	p.without(t, "out_of_tree_module")
	r.write("proc/sys/kernel/tainted", "640\n")
	r.write("proc/sys/kernel/hung_task_detect_count", "3\n")
	p = r.must()
	p.want(t, "system.kernel.linux.tainted{died}", 1)
	p.want(t, "system.kernel.linux.tainted{warning}", 1)
	p.want(t, "system.process.linux.hung_tasks", 3)
	r.write("proc/sys/kernel/hung_task_detect_count", "0\n") // somebody set it back
	before := r.ticks
	if s := r.must()["system.process.linux.hung_tasks"].start; !s.Equal(tick(before - 1)) {
		t.Errorf("counts from %v after a fall, want %v", s, tick(before-1))
	}
	r.verdict(verdict.Active)
}

// TestKernelLosesAFile: an error once, a verdict until it is back, and everything else goes on.
func TestKernelLosesAFile(t *testing.T) {
	for content, reason := range map[string]string{
		"": "cut short", "12": "cut short", "1 2\n": "cut short", "1 x 3\n": "not a number", "\x00\xff\n": "not a number",
		"99999999999999999999 0 1\n": "64 bits",
	} {
		r := start(t, copyOf(t, kernelVM), NewKernel)
		handles := r.must()["system.file_handle.linux.usage"]
		r.write("proc/sys/fs/file-nr", content)
		r.write("proc/sys/fs/aio-nr", "77\n")
		p := r.fails("fs/file-nr", reason)
		p.want(t, "system.file_handle.linux.usage", handles.value)
		p.want(t, "system.aio.linux.usage", 77)
		r.must()
		r.verdict(verdict.Degraded, "fs/file-nr", reason)
		r.write("proc/sys/fs/file-nr", "5\t0\t9\n")
		r.must().want(t, "system.file_handle.linux.usage", 5)
		r.verdict(verdict.Active)
	}
}

func TestKernelLosesAllFiles(t *testing.T) {
	r := start(t, copyOf(t, kernelVM), NewKernel)
	r.must()
	for number := range sysctls {
		r.write(filepath.Join("proc/sys", sysctlPath(number)), "?\n")
	}
	for range 2 {
		r.fails("fs/file-nr")
		r.verdict(verdict.Unavailable, "fs/file-nr")
	}
}

func TestKernelNotAllowed(t *testing.T) {
	env := copyOf(t, kernelVM)
	aio := filepath.Join(env.Proc, "sys", sysctlPath(sysctlAIO))
	if err := os.Chmod(aio, 0); err != nil {
		t.Fatal(err)
	}
	err := unprivileged(t, func() error {
		r := start(t, env, NewKernel)
		r.verdict(verdict.Degraded, aio, "CAP_DAC_READ_SEARCH")
		err := errors.Join(r.collect(), r.collect()) // known since the start: no error in every tick
		r.points().want(t, "system.aio.linux.limit", 65536)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestKernelUnavailable(t *testing.T) {
	env := envAt(t.TempDir())
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("x", metric.ClassHost, 100)
	_, err := NewKernel(env)
	if v := verdict.FromError("host/kernel", err); err == nil || !strings.Contains(v.Reason, "does not show it") {
		t.Errorf("%+v", v)
	}
}

// TestKernelUptime compares with /proc/uptime, read before and after.
func TestKernelUptime(t *testing.T) {
	r := start(t, envAt("/"), NewKernel)
	uptime := func() float64 {
		b, err := os.ReadFile("/proc/uptime")
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	low := uptime()
	got := r.must()["system.uptime"].value
	if high := uptime() + 0.01; got < low || got > high {
		t.Errorf("uptime %v, want %v to %v", got, low, high)
	}
}

// TestKernelCountsOpenFiles opens files and looks for them. The kernel counts them by processor and is inexact by
// up to 32 for each, so there are many.
func TestKernelCountsOpenFiles(t *testing.T) {
	const many = 2000
	r := start(t, envAt("/"), NewKernel)
	before := r.must()["system.file_handle.linux.usage"].value
	for i := range many {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Skipf("needs to open %d files, failed after %d: %v", many, i, err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
	if more := r.must()["system.file_handle.linux.usage"].value - before; more < many/2 {
		t.Errorf("%v more open files, want about %d", more, many)
	}
}

func TestKernelAllocatesNothing(t *testing.T) {
	kernelAllocs(t, "vm", start(t, copyOf(t, kernelVM), NewKernel))
	kernelAllocs(t, "server", start(t, copyOf(t, kernelServer), NewKernel))
	kernelAllocs(t, "live", start(t, envAt("/"), NewKernel))
}

func FuzzSysctl(f *testing.F) {
	f.Add([]byte("593\t0\t2466177\n"), 3)
	f.Add([]byte("32768\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, fields int) {
		var v [3]uint64
		n := int(uint(fields) % 4)
		if err := parseSysctl(b, v[:n]); err == nil && len(strings.Fields(string(b))) < n {
			t.Fatalf("%q gave %d numbers", b, n)
		}
	})
}

func BenchmarkKernel(b *testing.B) { benchmarkKernel(b, NewKernel) }

// TestKernelOracleNodeExporter compares with node_exporter's own /metrics, read between two ticks: counters must
// lie between them; what may rise and fall is compared with some room.
func TestKernelOracleNodeExporter(t *testing.T) {
	scrape := kernelNodeExporter(t)
	all := map[string]*rig{
		"cpu": start(t, envAt("/"), NewCPU), "paging": start(t, envAt("/"), NewPaging),
		"kernel": start(t, envAt("/"), NewKernel), "memory": start(t, envAt("/"), NewMemory),
	}
	if c, err := NewClock(kernelTestEnv()); err == nil {
		_ = c.Close()
		all["clock"] = start(t, envAt("/"), NewClock)
	} else {
		t.Log("without the clock: ", err)
	}
	ours := func() points {
		p := points{}
		for _, r := range all {
			maps.Copy(p, r.must())
		}
		return p
	}
	before, theirs, after := ours(), scrape(), ours()
	compared := 0
	for key, pair := range kernelPairs() {
		want, ok := theirs[pair.name]
		if _, have := before[key]; !have {
			t.Logf("%s: not on this machine", key)
			continue
		}
		if !ok {
			t.Errorf("node_exporter has no %s", pair.name)
			continue
		}
		compared++
		low, high := before[key].value-pair.room, after[key].value+pair.room
		if low > high {
			low, high = high, low
		}
		if want < low-1e-9 || want > high+1e-9 {
			t.Errorf("%s: %s = %v, we have %v to %v", key, pair.name, want, low, high)
		}
	}
	t.Logf("%d pairs compared", compared)
}

// kernelPair is a metric of node_exporter and how far it may be from ours.
type kernelPair struct {
	name string
	room float64
}

func kernelPairs() map[string]kernelPair {
	const memory = 256 << 20 // other programs come and go
	return map[string]kernelPair{
		"system.paging.faults{major}":         {"node_vmstat_pgmajfault", 0},
		"system.paging.operations{in,major}":  {"node_vmstat_pswpin", 0},
		"system.paging.operations{out,major}": {"node_vmstat_pswpout", 0},
		"system.memory.linux.oom_kills":       {"node_vmstat_oom_kill", 0},
		"system.cpu.linux.interrupts":         {"node_intr_total", 0},
		"system.cpu.linux.context_switches":   {"node_context_switches_total", 0},
		"system.process.created":              {"node_forks_total", 0},
		"system.file_handle.linux.usage":      {"node_filefd_allocated", 500},
		"system.file_handle.linux.limit":      {"node_filefd_maximum", 0},
		"system.memory.linux.commit.limit":    {"node_memory_CommitLimit_bytes", 0},
		"system.memory.linux.commit.usage":    {"node_memory_Committed_AS_bytes", memory},
		"system.memory.linux.dirty":           {"node_memory_Dirty_bytes", memory},
		"system.memory.linux.writeback":       {"node_memory_Writeback_bytes", memory},
		"system.process.linux.threads":        {"node_processes_threads", 100},
		"system.process.limit":                {"node_processes_max_processes", 0},
		"system.clock.linux.offset":           {"node_timex_offset_seconds", 1e-3},
		"system.clock.linux.estimated_error":  {"node_timex_estimated_error_seconds", 1e-3},
		"system.clock.linux.maximum_error":    {"node_timex_maxerror_seconds", 0.1},
		"system.clock.linux.sync_status":      {"node_timex_sync_status", 0},
	}
}

// kernelTestEnv returns an Env on this machine with a registry of its own.
func kernelTestEnv() (env collector.Env) {
	env = envAt("/")
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("x", metric.ClassHost, 1000)
	return env
}

// kernelNodeExporter starts node_exporter and returns how to read its metrics.
func kernelNodeExporter(t *testing.T) (scrape func() map[string]float64) {
	t.Helper()
	program := testneed.Tool(t, "prometheus-node-exporter")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	cmd := exec.CommandContext(t.Context(), program, "--web.listen-address="+address, "--collector.disable-defaults",
		"--collector.vmstat", "--collector.stat", "--collector.filefd", "--collector.meminfo", "--collector.timex",
		"--collector.processes")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	get := func() (map[string]float64, error) {
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(resp.Body)
		values := map[string]float64{}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				values[name] = v
			}
		}
		return values, errors.Join(err, resp.Body.Close())
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := get(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("node_exporter does not answer: ", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return func() map[string]float64 {
		values, err := get()
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
}
