package host

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	frequencyServer = "frequency/linux-5.10-server"
	frequencyARM    = "frequency/linux-6.1-arm"
	frequencyOld    = "frequency/linux-3.10-old"
	frequencyVM     = "frequency/linux-6.18-vm"
	sysCPU          = "sys/devices/system/cpu/"
)

func TestFrequencyValues(t *testing.T) {
	r := start(t, copyOf(t, frequencyServer), NewFrequency)
	p := r.must()
	for key, value := range map[string]float64{
		"system.cpu.frequency":                        1.9e9,
		"system.cpu.linux.frequency.min":              1e9,
		"system.cpu.linux.frequency.max":              2.8e9,
		"system.cpu.linux.throttle.core.events":       10 + 20 + 30 + 40, // each core once, not each thread
		"system.cpu.linux.throttle.package.events{0}": 100,
		"system.cpu.linux.throttle.package.events{1}": 200,
		"system.cpu.linux.throttle.package.time{0}":   5,
		"system.cpu.linux.throttle.package.time{1}":   10,
	} {
		p.want(t, key, value)
	}
	if v := p["system.cpu.linux.frequency.limit"].value; int64(v) != 3342857142 { // (4 x 3.6 + 3 x 3.0) / 7 GHz
		t.Errorf("limit %v", v)
	}
	if len(p) != 9 {
		t.Errorf("%d series, want 9: %v", len(p), p)
	}
	r.verdict(verdict.Active)
}

// TestFrequencyOfClusters: processors share a frequency; there is no throttling, and that is no fault.
func TestFrequencyOfClusters(t *testing.T) {
	r := start(t, copyOf(t, frequencyARM), CPUOptions{PerCPU: true}.NewFrequency)
	p := r.must()
	p.want(t, "system.cpu.frequency{3}", 6e8)
	p.want(t, "system.cpu.frequency{4}", 1.8e9)
	p.want(t, "system.cpu.linux.frequency.limit", 1.8e9) // (4 x 1.5 + 2 x 2.4) / 6
	p.without(t, "throttle")
	if len(p) != 6+3 {
		t.Errorf("%d series, want 9: %v", len(p), p)
	}
	r.verdict(verdict.Active)
	start(t, copyOf(t, frequencyARM), NewFrequency).must().want(t, "system.cpu.frequency", 1e9)
}

// TestFrequencyOfAnOldKernel: the policies are below the processors, and two of them show the same.
func TestFrequencyOfAnOldKernel(t *testing.T) {
	p := start(t, copyOf(t, frequencyOld), NewFrequency).must()
	p.want(t, "system.cpu.frequency", (2*2e9+1e9)/3)
	p.want(t, "system.cpu.linux.frequency.min", 1e9)
}

func TestFrequencyUnavailable(t *testing.T) {
	for tree, want := range map[string]string{
		frequencyVM: "usual in virtual machines", pagingVM: "does not show it",
	} {
		env := copyOf(t, tree)
		env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("x", metric.ClassHost, 100)
		files := frequencyDescriptors(t)
		_, err := NewFrequency(env)
		v := verdict.FromError("host/frequency", err)
		if err == nil || v.State != verdict.Unavailable || !strings.Contains(v.Reason, want) {
			t.Errorf("%s: %+v", tree, v)
		}
		if n := frequencyDescriptors(t); n != files {
			t.Errorf("%s: %d open files, %d before", tree, n, files)
		}
	}
}

// frequencyDescriptors returns the number of this process's descriptors.
func frequencyDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestFrequencyGivesFilesBack: one per policy and limit, core and package, and none after Close.
func TestFrequencyGivesFilesBack(t *testing.T) {
	before := frequencyDescriptors(t)
	env := copyOf(t, frequencyServer)
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("x", metric.ClassHost, 100)
	c, err := NewFrequency(env)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if err := c.Collect(t.Context(), tick(n)); err != nil {
			t.Fatal(err)
		}
	}
	const want = 1 + 2*7 + 4 + 2*2 // online, policies, cores, packages with their times
	if n := frequencyDescriptors(t) - before; n != want {
		t.Errorf("%d files are kept open, want %d", n, want)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := frequencyDescriptors(t); n != before {
		t.Errorf("%d open files, %d before", n, before)
	}
}

// TestFrequencyHotplug: who speaks for a core goes offline, its sibling goes on; a package goes and returns.
func TestFrequencyHotplug(t *testing.T) {
	r := start(t, copyOf(t, frequencyServer), NewFrequency)
	const core, package1 = "system.cpu.linux.throttle.core.events", "system.cpu.linux.throttle.package.events{1}"
	set := func(cpu int, file string, value int) {
		r.write(sysCPU+"cpu"+strconv.Itoa(cpu)+"/thermal_throttle/"+file, strconv.Itoa(value)+"\n")
	}
	r.must().want(t, core, 100)
	set(0, "core_throttle_count", 13)
	r.must().want(t, core, 103)

	r.write(sysCPU+"online", "1-6\n") // cpu0 goes, cpu4 speaks for its core from now on
	remove(t, filepath.Join(r.env.Root, sysCPU, "cpu0/thermal_throttle"))
	r.write(sysCPU+"cpufreq/policy0/affected_cpus", "\n")
	set(4, "core_throttle_count", 5000) // what that counted before was counted already
	p := r.must()
	p.want(t, core, 103)
	p.want(t, "system.cpu.linux.frequency.min", 1.3e9)
	set(4, "core_throttle_count", 5002)
	p = r.must()
	p.want(t, core, 105)
	if !p[core].start.Equal(boot) {
		t.Error("the sum over cores restarted")
	}

	r.write(sysCPU+"online", "1,4-5\n") // all of package 1 goes
	r.must().without(t, package1)
	r.write(sysCPU+"online", "1-6\n")
	returned := r.ticks
	p = r.must()
	p.want(t, package1, 0)
	if s := p[package1].start; !s.Equal(tick(returned)) {
		t.Errorf("package 1 counts from %v, want %v", s, tick(returned))
	}
	set(2, "package_throttle_count", 207)
	p = r.must()
	p.want(t, package1, 7)
	p.want(t, core, 105)
	r.verdict(verdict.Active)
	kernelAllocs(t, "after hotplug", r)
}

// TestFrequencyBadFiles: an error once, the others go on, and it recovers.
func TestFrequencyBadFiles(t *testing.T) {
	for file, contents := range map[string][]string{
		"cpufreq/policy0/scaling_cur_freq":             {"<unknown>\n", "", "0\n", "-1\n", "\x00\xff", "99999999999999999999\n"},
		"cpufreq/policy0/scaling_max_freq":             {"x\n"},
		"cpu0/thermal_throttle/core_throttle_count":    {"x\n"},
		"cpu0/thermal_throttle/package_throttle_count": {"x\n"},
	} {
		for _, content := range contents {
			r := start(t, copyOf(t, frequencyServer), NewFrequency)
			good := r.file(sysCPU + file)
			before := r.must()
			r.write(sysCPU+file, content)
			p := r.fails(file)
			p.want(t, "system.cpu.linux.frequency.max", 2.8e9)
			r.must() // reported once
			r.verdict(verdict.Degraded, file)
			r.write(sysCPU+file, good)
			p = r.must()
			r.verdict(verdict.Active)
			for key, v := range before {
				if p[key].value != v.value {
					t.Errorf("%s with %q: %s = %v after recovery, want %v", file, content, key, p[key].value, v.value)
				}
			}
		}
	}
	r := start(t, copyOf(t, frequencyServer), NewFrequency)
	r.must()
	for _, content := range []string{"", "\n", "0-3", "x\n", "3-1\n", "0-99999\n", "1,,-\n"} {
		r.write(sysCPU+"online", content)
		r.fails("cpu/online").want(t, "system.cpu.linux.throttle.core.events", 100)
	}
}

// TestFrequencyPipe: opening a pipe must not wait for a writer.
func TestFrequencyPipe(t *testing.T) {
	r := start(t, copyOf(t, frequencyServer), NewFrequency)
	r.Close()
	path := filepath.Join(r.env.Root, sysCPU, "cpufreq/policy0/scaling_cur_freq")
	remove(t, path)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	file := sysNumber{path: path}
	if _, err := file.read(make([]byte, 8)); err == nil {
		t.Error("read a pipe")
	}
	if file.open {
		t.Error("keeps a file open after an error")
	}
}

func TestFrequencyAllocatesNothing(t *testing.T) {
	for _, tree := range []string{frequencyServer, frequencyARM, frequencyOld} {
		for _, o := range []CPUOptions{{}, {PerCPU: true}} {
			kernelAllocs(t, tree, start(t, copyOf(t, tree), o.NewFrequency))
		}
	}
}

func FuzzCPUList(f *testing.F) {
	f.Add("0-3,8")
	f.Add("0 1 2 3")
	f.Add("8191-8191,0-8191")
	f.Fuzz(func(t *testing.T, list string) {
		cpus, err := parseCPUList(list)
		if err != nil && cpus != nil || len(cpus) > 3*maxProcessors {
			t.Fatalf("%d processors, %v", len(cpus), err)
		}
		for _, cpu := range cpus {
			if cpu < 0 || cpu >= maxProcessors {
				t.Fatalf("processor %d", cpu)
			}
		}
	})
}

// BenchmarkFrequencyLargeHost reads 128 processors of 64 cores: 323 files of a disk's file system. The real /sys
// costs the kernel a little more for each, and before Linux 5.18 an interrupt to an idle processor.
func BenchmarkFrequencyLargeHost(b *testing.B) {
	root := b.TempDir()
	put := func(name, content string) {
		path := filepath.Join(root, sysCPU, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	put("online", "0-127")
	for n := range 128 {
		cpu, policy := "cpu"+strconv.Itoa(n)+"/", "cpufreq/policy"+strconv.Itoa(n)+"/"
		put(policy+"affected_cpus", strconv.Itoa(n))
		put(policy+"scaling_cur_freq", "2400000")
		put(policy+"scaling_max_freq", "3600000")
		put(cpu+"topology/physical_package_id", strconv.Itoa(n/32%2))
		put(cpu+"topology/core_id", strconv.Itoa(n%32))
		put(cpu+"thermal_throttle/core_throttle_count", "1")
		put(cpu+"thermal_throttle/package_throttle_count", "1")
	}
	r := start(b, envAt(root), NewFrequency)
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
