package host

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/shirou/gopsutil/v3/docker"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/loadtest"
	"github.com/slid-agent/slid/internal/testneed"
)

// cgroupLoadEnv makes the test binary the load of a live test: TestCgroupLoad.
const cgroupLoadEnv = "SLID_TEST_CGROUP_LOAD"

// cgroupLoadReport is what the load says of itself.
type cgroupLoadReport struct {
	CPU    time.Duration
	Bytes  int
	Faults int64
}

// TestCgroupLoad is not a test but the load that others start: it waits for a line, works, reports, and waits for the
// end of its input.
func TestCgroupLoad(t *testing.T) {
	_, file, started := strings.Cut(os.Getenv(cgroupLoadEnv), " ")
	if !started {
		return // not started as a load
	}
	fmt.Println("ready") // what it took to start shall not be in any group
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	before := cgroupUsage(t)
	memory, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); {
		for range 1000 {
			_ = unix.Getppid()
		}
	}
	after := cgroupUsage(t)
	if file != "" {
		cgroupWriteDirectly(t, file, 4<<20)
	}
	report, _ := json.Marshal(cgroupLoadReport{
		CPU:   time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()),
		Bytes: len(memory), Faults: after.Minflt - before.Minflt,
	})
	fmt.Printf("%s\n", report)
	_, _ = io.Copy(io.Discard, in)
	_ = unix.Munmap(memory)
}

func cgroupUsage(t testing.TB) (u unix.Rusage) {
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// cgroupWriteDirectly writes past the page cache, so that the group is charged at once.
func cgroupWriteDirectly(t testing.TB, file string, size int) {
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CREAT|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	const block = 1 << 20
	buf := make([]byte, 2*block)
	at := block - int(uintptr(unsafe.Pointer(&buf[0])))%block
	for range size / block {
		if _, err := unix.Write(fd, buf[at:at+block]); err != nil {
			t.Fatal(err)
		}
	}
	_ = unix.Close(fd)
}

// cgroupLoad is a running TestCgroupLoad.
type cgroupLoad struct {
	*loadtest.Load
	t testing.TB
}

// startCgroupLoad starts a load, which is in no group of the test's yet. It writes to a file if there is one.
func startCgroupLoad(t testing.TB, file string) *cgroupLoad {
	t.Helper()
	l := &cgroupLoad{loadtest.Start(t, "TestCgroupLoad", cgroupLoadEnv+"=on "+file, -1), t}
	if line, err := l.Answer(); err != nil {
		t.Fatalf("load: %v: %s", err, line)
	}
	return l
}

// join moves the load into groups.
func (l *cgroupLoad) join(dirs ...string) {
	l.t.Helper()
	for _, dir := range dirs {
		writeCgroupFile(l.t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(l.Process.Pid))
	}
}

// work lets it run and returns what it says of itself. It keeps its memory until end.
func (l *cgroupLoad) work() (report cgroupLoadReport) {
	l.t.Helper()
	l.Report("go", &report)
	return report
}

// tasks returns how many threads it has. Go starts some, and ends none.
func (l *cgroupLoad) tasks() int {
	l.t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", l.Process.Pid))
	if err != nil {
		l.t.Fatal(err)
	}
	return len(tasks)
}

func writeCgroupFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// v1CgroupRoot returns where a controller of version 1 is mounted, or skips the test.
func v1CgroupRoot(t testing.TB, controller string) string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Skip(err)
	}
	for _, h := range cgroup.ParseMounts(string(info), "/") {
		if h.Has(controller) {
			return h.Dir
		}
	}
	t.Skipf("needs the %s controller of cgroup version 1", controller)
	return ""
}

// v1Cgroup makes a group in hierarchies of version 1 and returns its directories by controller.
func v1Cgroup(t testing.TB, path string, controllers ...string) map[string]string {
	t.Helper()
	testneed.Root(t, "to make control groups")
	dirs := map[string]string{}
	for _, controller := range controllers {
		dirs[controller] = filepath.Join(v1CgroupRoot(t, controller), path)
		makeCgroup(t, dirs[controller])
	}
	return dirs
}

// makeCgroup makes a group and those above it, to be removed with the test.
func makeCgroup(t testing.TB, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Dir(dir)); errors.Is(err, os.ErrNotExist) {
		makeCgroup(t, filepath.Dir(dir))
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Skipf("needs control groups that may be written: %v", err)
	}
	t.Cleanup(func() { removeCgroup(t, dir) })
}

// removeCgroup waits until the group's processes are buried.
func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	var err error
	for range 1000 {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("remove %s: %v", dir, err)
}

// A liveCgroup is a group of the version that has the controllers.
type liveCgroup struct {
	t    testing.TB
	dirs map[string]string // by controller of version 1; all the same with version 2
	v2   bool
}

// newLiveCgroup makes a group with controllers, which are given by their names of version 1.
func newLiveCgroup(t testing.TB, path string, controllers ...string) *liveCgroup {
	t.Helper()
	mount, err := cgroup.Mount("/")
	if err != nil || !enableCgroups(mount, controllers) {
		return &liveCgroup{t: t, dirs: v1Cgroup(t, path, controllers...)}
	}
	testneed.Root(t, "to make control groups")
	dir := filepath.Join(mount, path)
	makeCgroup(t, dir)
	g := &liveCgroup{t: t, dirs: map[string]string{}, v2: true}
	for above := filepath.Dir(dir); above != mount; above = filepath.Dir(above) {
		if !enableCgroups(above, controllers) {
			t.Fatalf("cannot enable controllers in %s", above)
		}
	}
	for _, controller := range controllers {
		g.dirs[controller] = dir
	}
	return g
}

// enableCgroups says whether the groups below a directory of version 2 have the controllers. CPU time needs none.
func enableCgroups(dir string, controllers []string) bool {
	for _, c := range controllers {
		if c == "blkio" {
			c = "io"
		}
		if c != "cpuacct" && os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o600) != nil {
			return false
		}
	}
	return true
}

// all returns each directory once.
func (g *liveCgroup) all() []string {
	return slices.Compact(slices.Sorted(maps.Values(g.dirs)))
}

// set writes a setting, which has a name in either version, of a group or of the one above it.
func (g *liveCgroup) set(dir, v1, v1Value, v2, v2Value string) {
	g.t.Helper()
	if g.v2 {
		v1, v1Value = v2, v2Value
	}
	writeCgroupFile(g.t, filepath.Join(dir, v1), v1Value)
}

func (g *liveCgroup) limitMemory(dir string, bytes int) {
	g.t.Helper()
	g.set(dir, "memory.limit_in_bytes", strconv.Itoa(bytes), "memory.max", strconv.Itoa(bytes))
}

func cgroupTestSlice(name string) string {
	return fmt.Sprintf("slidtest%d-%s.slice", os.Getpid(), name)
}

func cgroupLiveEnv() collector.Env {
	env := envAt("/")
	env.Cgroup, _ = cgroup.Mount("/")
	return env
}

// cgroupNear checks a value against what the load says of itself.
func cgroupNear(t *testing.T, what string, got, want, share, slack float64) {
	t.Helper()
	t.Logf("%s: %v, want about %v", what, got, want)
	if math.Abs(got-want) > share*want+slack {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// TestCgroupLiveControllers compares what the groups of a load say with what the load and the kernel say of it.
func TestCgroupLiveControllers(t *testing.T) {
	slice := cgroupTestSlice("all")
	g := newLiveCgroup(t, slice+"/load.service", "cpu", "cpuacct", "memory", "pids")
	g.limitMemory(filepath.Dir(g.dirs["memory"]), 512<<20)
	writeCgroupFile(t, filepath.Join(g.dirs["pids"], "pids.max"), "500")
	r := startCgroups(t, cgroupLiveEnv())
	before := r.tick()["load"]
	l := startCgroupLoad(t, "")
	l.join(g.all()...)
	report, least := l.work(), l.tasks()
	p := r.tick()["load"]
	cgroupNear(t, "CPU time", p["container.cpu.time{user}"].value+p["container.cpu.time{system}"].value-
		before["container.cpu.time{user}"].value-before["container.cpu.time{system}"].value, report.CPU.Seconds(), 0.1, 0.05)
	cgroupNear(t, "rss", p["container.memory.rss"].value, float64(report.Bytes), 0.1, 16<<20)
	cgroupNear(t, "faults", p["container.paging.faults{minor}"].value, float64(report.Faults), 0.1, 2000)
	if n := p["container.task.linux.count"].value; n < float64(least) || n > float64(l.tasks()) {
		t.Errorf("%v tasks, there were %d before and %d after", n, least, l.tasks())
	}
	cgroupNear(t, "limit", p["container.memory.linux.limit{/"+slice+"}"].value, 512<<20, 0, 0)
	cgroupNear(t, "task limit", p["container.task.linux.limit{self}"].value, 500, 0, 0)
	if err := l.End(); err != nil {
		t.Error(err)
	}
}

// TestCgroupLiveThrottled gives a load a tenth of a CPU.
func TestCgroupLiveThrottled(t *testing.T) {
	g := newLiveCgroup(t, cgroupTestSlice("cpu")+"/slow.service", "cpu", "cpuacct")
	g.set(g.dirs["cpu"], "cpu.cfs_quota_us", "10000", "cpu.max", "10000 100000")
	r := startCgroups(t, cgroupLiveEnv())
	r.tick()
	l := startCgroupLoad(t, "")
	l.join(g.all()...)
	l.work()
	p := r.tick()["slow"]
	cgroupNear(t, "limit", p["container.cpu.linux.limit{self}"].value, 0.1, 0, 1e-9)
	if p["container.cpu.linux.throttled_periods"].value < 1 || p["container.cpu.linux.throttled_time"].value <= 0 ||
		p["container.cpu.linux.periods"].value < p["container.cpu.linux.throttled_periods"].value {
		t.Errorf("throttling does not show: %v", p)
	}
	if err := l.End(); err != nil {
		t.Error(err)
	}
}

// TestCgroupLiveOOM lets the kernel kill a load.
func TestCgroupLiveOOM(t *testing.T) {
	g := newLiveCgroup(t, cgroupTestSlice("oom")+"/greedy.service", "memory")
	g.limitMemory(g.dirs["memory"], 32<<20)
	r := startCgroups(t, cgroupLiveEnv())
	r.tick().want(t, "greedy", map[string]float64{"container.memory.linux.oom_kills": 0, "container.memory.linux.limit{self}": 32 << 20})
	l := startCgroupLoad(t, "")
	l.join(g.all()...)
	_, _ = l.Ask("go") // until it is killed
	if err := l.End(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Skipf("needs swap to be off: the load was not killed: %v", err)
	}
	p := r.tick()
	p.want(t, "greedy", map[string]float64{"container.memory.linux.oom_kills": 1})
	if p["greedy"]["container.memory.linux.max_events"].value < 1 {
		t.Error("no event of the limit")
	}
}

// TestCgroupLiveDisk writes to a file. A kernel from 6.9 on counts for version 1 only what it might throttle, hence the
// rule. SLID_TEST_DIR names a folder on a disk for machines whose temporary folder is in memory.
func TestCgroupLiveDisk(t *testing.T) {
	g := newLiveCgroup(t, cgroupTestSlice("io")+"/writer.service", "blkio")
	dir := t.TempDir()
	if disk := os.Getenv("SLID_TEST_DIR"); disk != "" {
		dir = disk
	}
	file := filepath.Join(dir, "slid-cgroup-live")
	t.Cleanup(func() { _ = os.Remove(file) })
	writeCgroupFile(t, file, "")
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	rule, text := "blkio.throttle.write_bps_device", device+" 10000000000"
	if g.v2 {
		rule, text = "io.max", device+" wbps=10000000000"
	}
	if err := os.WriteFile(filepath.Join(g.dirs["blkio"], rule), []byte(text), 0o600); err != nil {
		t.Skipf("needs a temporary folder on a disk: %v", err)
	}
	r := startCgroups(t, cgroupLiveEnv())
	r.tick()
	l := startCgroupLoad(t, file)
	l.join(g.all()...)
	l.work()
	p := r.tick()["writer"]
	name := r.c.deviceName(uint64(unix.Major(st.Dev))<<32 | uint64(unix.Minor(st.Dev)))
	cgroupNear(t, "written to "+name, p["container.disk.io{write,"+name+"}"].value, 4<<20, 0.05, 0)
	if p["container.disk.linux.operations{write,"+name+"}"].value < 1 {
		t.Error("no operation")
	}
	if err := l.End(); err != nil {
		t.Error(err)
	}
}

// TestCgroupLiveVersion2 looks at the files that a cgroup2 tree has without any controller.
func TestCgroupLiveVersion2(t *testing.T) {
	testneed.Root(t, "to make control groups")
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(mount, cgroupTestSlice("v2"), "load.service")
	makeCgroup(t, dir)
	env := envAt(t.TempDir()) // where no version 1 is in sight
	env.Cgroup, env.Proc, env.Sys = mount, "/proc/self/none", "/sys"
	r := startCgroups(t, env)
	r.tick()
	l := startCgroupLoad(t, "")
	l.join(dir)
	report := l.work()
	p := r.tick()
	cgroupNear(t, "CPU time", p["load"]["container.cpu.time{user}"].value+p["load"]["container.cpu.time{system}"].value, report.CPU.Seconds(), 0.1, 0.05)
	if _, err := os.Stat(filepath.Join(dir, "cpu.pressure")); err == nil {
		if _, ok := p["load"]["container.pressure.linux.stall_time{cpu,some}"]; !ok {
			t.Error("no pressure")
		}
	}
	if err := l.End(); err != nil {
		t.Error(err)
	}
}

// TestCgroupLiveChurn makes and removes 2,000 groups, a part of which live through several ticks. A first 500 warm the
// code and the runtime up.
func TestCgroupLiveChurn(t *testing.T) {
	c := &cgroupChurn{t: t, dirs: newLiveCgroup(t, cgroupTestSlice("churn"), "cpuacct", "memory", "pids").all(), cgroupRig: startCgroups(t, cgroupLiveEnv())}
	c.round(0, 500)
	before, heap, resident := c.points(), cgroupHeap(), cgroupResident(t)
	c.most, c.services = 0, 0
	for round := range 4 {
		c.round(round+1, 500)
	}
	if c.most > cgroupBudget || c.env.Metrics.Dropped() != 0 || c.services > maxCgroupOwners+maxCgroupRests+1 {
		t.Errorf("%d series of %d services, %d refused", c.most, c.services, c.env.Metrics.Dropped())
	}
	heapAfter, after := cgroupHeap(), cgroupResident(t)
	t.Logf("at most %d series of %d services, %d after; live heap %d KiB before, %d KiB after; resident %d KiB before, %d KiB after",
		c.most, c.services, c.env.Metrics.Live(), heap>>10, heapAfter>>10, resident>>10, after>>10)
	if heapAfter > heap+heap/10+(256<<10) {
		t.Error("the heap is not given back")
	}
	if after > resident+resident/10+(2<<20) && !raceDetector { // it may be in huge pages
		t.Error("resident memory is not given back")
	}
	for service, series := range c.points() {
		if !strings.HasPrefix(service, "job-") && !strings.Contains(service, cgroupTestSlice("churn")) {
			continue // the rest of the machine goes on
		}
		for key := range series {
			if _, known := before[service][key]; !known {
				t.Errorf("%s: %s is new", service, key)
			}
		}
	}
	if n := len(c.c.tree.watches); n > 1000 {
		t.Errorf("%d watches are left", n)
	}
}

// cgroupChurn makes and removes groups.
type cgroupChurn struct {
	*cgroupRig
	t              *testing.T
	dirs           []string
	most, services int
}

func (c *cgroupChurn) round(number, count int) {
	c.t.Helper()
	name := func(dir string, i int) string {
		return filepath.Join(dir, fmt.Sprintf("job-%d-%d.service", number, i))
	}
	for i := range count {
		for _, dir := range c.dirs {
			if err := os.Mkdir(name(dir, i), 0o755); err != nil {
				c.t.Fatal(err)
			}
		}
		if i%100 == 0 {
			services := len(c.tick())
			c.most, c.services = max(c.most, c.env.Metrics.Live()), max(c.services, services)
		}
	}
	for i := range count {
		for _, dir := range c.dirs {
			removeCgroup(c.t, name(dir, i))
		}
	}
	c.tick()
	c.snapshot = c.registry.NewSnapshot() // a snapshot keeps room for the most it ever had
	c.tick()
}

func cgroupHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestCgroupLiveJobs: CPU time of processes whose groups no tick ever saw is that of the slice.
func TestCgroupLiveJobs(t *testing.T) {
	slice := cgroupTestSlice("jobs")
	g := newLiveCgroup(t, slice, "cpuacct", "memory")
	r := startCgroups(t, cgroupLiveEnv())
	r.tick()
	var want time.Duration
	for i := range 3 {
		job := filepath.Join(g.dirs["cpuacct"], fmt.Sprintf("job-%d.service", i))
		makeCgroup(t, job)
		l := startCgroupLoad(t, "")
		l.join(job)
		want += l.work().CPU
		if err := l.End(); err != nil {
			t.Error(err)
		}
		removeCgroup(t, job)
	}
	p := r.tick()
	if p["job-0"] != nil {
		t.Error("a job has series")
	}
	rest := p["other:/"+slice]
	cgroupNear(t, "CPU time of the slice", rest["container.cpu.time{user}"].value+rest["container.cpu.time{system}"].value, want.Seconds(), 0.1, 0.2)
}

// cgroupResident returns how much of this process is resident once the garbage is collected.
func cgroupResident(t testing.TB) int {
	t.Helper()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestCgroupOracle compares with gopsutil, which knows containers of version 1.
func TestCgroupOracle(t *testing.T) {
	id := strings.Repeat("ab12", 16)
	dirs := v1Cgroup(t, "docker/"+id, "cpuacct", "memory")
	r := startCgroups(t, cgroupLiveEnv())
	r.tick()
	l := startCgroupLoad(t, "")
	l.join(dirs["cpuacct"], dirs["memory"])
	l.work()
	p := r.tick()[id[:12]]
	cpu, err := docker.CgroupCPU(id, filepath.Dir(dirs["cpuacct"]))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := docker.CgroupMem(id, filepath.Dir(dirs["memory"]))
	if err != nil {
		t.Fatal(err)
	}
	cgroupNear(t, "user and system", p["container.cpu.time{user}"].value+p["container.cpu.time{system}"].value, cpu.User+cpu.System, 0.05, 0.02)
	cgroupNear(t, "usage", p["container.cpu.time{user}"].value+p["container.cpu.time{system}"].value, cpu.Usage, 0.05, 0.02)
	cgroupNear(t, "rss", p["container.memory.rss"].value, float64(memory.TotalRSS), 0.05, 1<<20)
	cgroupNear(t, "usage", p["container.memory.usage"].value, float64(memory.MemUsageInBytes), 0.05, 1<<20)
	cgroupNear(t, "faults", p["container.paging.faults{minor}"].value, float64(memory.TotalPgFault-memory.TotalPgMajFault), 0.05, 100)
	if got := cgroupAttribute(r.resource(id[:12]), "container.runtime.name"); got != "docker" {
		t.Errorf("runtime %q", got)
	}
	if err := l.End(); err != nil {
		t.Error(err)
	}
}

// BenchmarkCgroupTick is a tick over 100 units with five hierarchies of version 1 on this machine.
func BenchmarkCgroupTick(b *testing.B) {
	for _, count := range []int{100, 400} {
		b.Run(strconv.Itoa(count), func(b *testing.B) {
			controllers := []string{"cpu", "cpuacct", "memory", "blkio", "pids"}
			slice := cgroupTestSlice("bench")
			for i := range count {
				v1Cgroup(b, fmt.Sprintf("%s/app-%d.service", slice, i), controllers...)
			}
			r := startCgroups(b, cgroupLiveEnv())
			ctx, now := b.Context(), tick(10)
			for range 10 {
				r.tick()
			}
			b.ReportAllocs()
			before := cgroupCPUTime(b)
			for b.Loop() {
				if err := r.c.Collect(ctx, now); err != nil {
					b.Fatal(err)
				}
			}
			used := cgroupCPUTime(b) - before
			b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(used)/float64(b.N)/float64(r.env.Metrics.Live()), "cpu-ns/series")
		})
	}
}

func cgroupCPUTime(b *testing.B) time.Duration {
	u := cgroupUsage(b)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCgroupDiscovery compares ways to learn that nothing changed in 1,000 directories.
func BenchmarkCgroupDiscovery(b *testing.B) {
	slice := cgroupTestSlice("walk")
	var dirs []string
	for i := range 1000 {
		dirs = append(dirs, v1Cgroup(b, fmt.Sprintf("%s/app-%d.service", slice, i), "memory")["memory"])
	}
	slices.Sort(dirs)
	tree := newCgroupTree([]cgroup.Hierarchy{{Dir: filepath.Dir(filepath.Dir(dirs[0])), Controllers: []string{"memory"}}})
	tree.found, tree.dropped = func(*cgroupNode) {}, func(*cgroupNode) {}
	b.Cleanup(func() { _ = tree.close() })
	update := func() {
		if err := tree.update(1); err != nil {
			b.Fatal(err)
		}
	}
	update()
	b.Run("inotify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			update()
		}
	})
	b.Run("getdents", func(b *testing.B) {
		for b.Loop() {
			tree.dirtyAll(tree.root)
			update()
		}
	})
	b.Run("stat", func(b *testing.B) {
		var st unix.Stat_t
		for b.Loop() {
			for _, dir := range dirs {
				if err := unix.Stat(dir, &st); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
