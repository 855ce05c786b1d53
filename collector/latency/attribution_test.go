package latency

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// A rig has an attribution and a run-queue probe over this machine's cgroup2 tree.
type rig struct {
	t           *testing.T
	registry    *metric.Registry
	snapshot    *metric.Snapshot
	deps        Deps
	attribution *Attribution
	collectors  []collector.Collector
	groups      []*metric.Group
	now         time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip("needs a cgroup2 mount:", err)
	}
	r := &rig{t: t, registry: metric.NewRegistry(instrumentation.Scope{Name: "test"}), now: time.Now()}
	r.snapshot = r.registry.NewSnapshot()
	d := newDeps(t)
	r.deps, r.attribution = d, d.Attribution
	env, _ := newEnv(metric.ClassLatency)
	env.Root, env.Proc, env.Sys, env.Cgroup = "/", "/proc", "/sys", mount
	r.add(env, d.NewAttribution)
	r.add(env, d.NewRunQueue)
	return r
}

// add opens a collector.
func (r *rig) add(env collector.Env, constructor func(collector.Env) (collector.Collector, error)) {
	r.t.Helper()
	env.Metrics = r.registry.Group(fmt.Sprint(len(r.groups)), metric.ClassLatency, 5000)
	r.groups = append(r.groups, env.Metrics)
	r.collectors = append(r.collectors, open(r.t, env, constructor))
}

// tick runs all collectors once.
func (r *rig) tick() {
	r.t.Helper()
	r.now = r.now.Add(10 * time.Second)
	for i, c := range r.collectors {
		if err := c.Collect(r.t.Context(), r.now); err != nil {
			r.t.Fatal(err)
		}
		r.groups[i].Collected(r.now)
	}
	r.snapshot.Take(r.now)
}

// waits returns the run-queue histogram of the host, or of the services by their name and path.
func (r *rig) waits() (host histPoint, services map[string]histPoint) {
	services = map[string]histPoint{}
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			h, ok := m.Data.(metricdata.ExponentialHistogram[float64])
			switch {
			case !ok:
			case m.Name == "system.cpu.linux.runqueue.duration":
				host = h.DataPoints[0]
			case m.Name == "container.cpu.linux.runqueue.duration":
				services[nameOf(res.Resource)] = h.DataPoints[0]
			}
		}
	}
	return host, services
}

type histPoint = metricdata.ExponentialHistogramDataPoint[float64]

// nameOf returns the service's name, and its path if that tells it apart.
func nameOf(r *resource.Resource) string {
	name, _ := r.Set().Value("service.name")
	path, _ := r.Set().Value("cgroup.path")
	return strings.TrimSpace(name.AsString() + " " + path.AsString())
}

func (r *rig) verdict() verdict.Verdict { return r.attribution.Verdicts()[0] }

// A testGroup is a control group for the time of a test.
type testGroup struct {
	t    *testing.T
	dir  string
	name string // of the unit, without its type
}

// makeUnit makes a control group that names a service.
func makeUnit(t *testing.T, name string) *testGroup {
	t.Helper()
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	g := &testGroup{t, filepath.Join(mount, name+".service"), name}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Skipf("needs a cgroup2 tree to write to: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(g.dir) }) // the test may have removed it
	return g
}

// remove removes the group when its processes are gone.
func (g *testGroup) remove() {
	g.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := os.Remove(g.dir)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatal(err)
		}
	}
}

func unitName(t *testing.T, suffix string) string {
	return fmt.Sprintf("slidtest-%d-%s", os.Getpid(), suffix)
}

// start runs this test binary as a load in the group until the returned function is called.
func (g *testGroup) start() (pid int, stop func()) {
	g.t.Helper()
	dir, err := os.Open(g.dir)
	if err != nil {
		g.t.Fatal(err)
	}
	defer dir.Close()
	self, err := os.Executable()
	if err != nil {
		g.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), loadEnv+"=1", "GOMAXPROCS=4")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		}
	}
	g.t.Cleanup(stop)
	return cmd.Process.Pid, stop
}

// loadEnv, when set, makes the test binary a load: threads that spin and sleep by turns until stdin ends.
const loadEnv = "SLID_TEST_LOAD"

func makeLoad() {
	for range 4 {
		go func() {
			for {
				for end := time.Now().Add(2 * time.Millisecond); time.Now().Before(end); {
				}
				time.Sleep(time.Millisecond)
			}
		}()
	}
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // its end is what is waited for
}

// schedstatWait returns the time that the threads of a process waited for a CPU.
func schedstatWait(t *testing.T, pid int) (sum float64) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no schedstat of process %d: %v", pid, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		ns, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += ns / 1e9
	}
	return sum
}

// The waits of a unit are its own, they agree with the scheduler's account of its threads, and all owners together have
// what the host has. When the unit is gone, its series stay for a moment and go then, and the host's never fall.
func TestUnitsAreToldApart(t *testing.T) {
	unit := makeUnit(t, unitName(t, "alone"))
	r := newRig(t)
	pid, stop := unit.start()
	before := r.await(unit.name)
	stat := schedstatWait(t, pid)
	time.Sleep(500 * time.Millisecond)
	wait := schedstatWait(t, pid) - stat
	r.tick()
	after := r.unit(unit.name)
	t.Logf("schedstat %.6f s, unit %.6f s in %d waits", wait, after.Sum-before.Sum, after.Count-before.Count)
	if grown := after.Sum - before.Sum; grown < 0.9*wait || after.Count <= before.Count {
		t.Errorf("waits of %v s in sum, the scheduler counted %v s meanwhile", grown, wait)
	}
	r.checkSums()
	if v := r.verdict(); v.State != verdict.Active {
		t.Errorf("verdict %+v", v)
	}

	stop()
	unit.remove()
	for gone := range 4 {
		host, _ := r.waits()
		r.tick()
		if now, _ := r.waits(); now.Count < host.Count || now.Sum < host.Sum {
			t.Errorf("the host's waits fell from %d (%v s) to %d (%v s)", host.Count, host.Sum, now.Count, now.Sum)
		}
		_, services := r.waits()
		if last, ok := services[unit.name]; ok != (gone < 3) || ok && last.Count < after.Count {
			t.Errorf("%d ticks after its end: %v, %d waits, before %d", gone, ok, last.Count, after.Count)
		}
	}
	if own := r.attribution.byPath["/"+unit.name+".service"]; own != nil {
		t.Error("the owner is still there")
	}
}

// unit returns the waits of a unit, which must be there.
func (r *rig) unit(name string) histPoint {
	r.t.Helper()
	_, services := r.waits()
	p, ok := services[name]
	if !ok {
		r.t.Fatalf("%s has no waits: %v", name, services)
	}
	return p
}

// await waits until a unit has waits.
func (r *rig) await(name string) histPoint {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		r.tick()
		if _, services := r.waits(); services[name].Count > 0 {
			return services[name]
		}
	}
	return r.unit(name)
}

// checkSums compares the host with the sum of all owners.
func (r *rig) checkSums() {
	r.t.Helper()
	host, services := r.waits()
	var count uint64
	sum := 0.0
	for _, p := range services {
		count += p.Count
		sum += p.Sum
	}
	if count != host.Count || sum < host.Sum*(1-1e-9) || sum > host.Sum*(1+1e-9) {
		r.t.Errorf("the host has %d waits of %v s, all owners %d of %v s", host.Count, host.Sum, count, sum)
	}
}

// A unit that is started again has another control group and is the same owner: its counts go on.
func TestUnitIsStartedAgain(t *testing.T) {
	unit := makeUnit(t, unitName(t, "again"))
	r := newRig(t)
	for round := range 4 {
		_, stop := unit.start()
		before := uint64(0)
		if _, services := r.waits(); round > 0 {
			before = services[unit.name].Count
		}
		r.tick() // a group gets a slot when it has lived through a tick
		p := r.await(unit.name)
		for p.Count == before {
			p = r.await(unit.name)
		}
		if p.Count < before || round > 0 && before == 0 {
			t.Errorf("round %d: %d waits, before %d", round, p.Count, before)
		}
		start := p.StartTime
		stop()
		unit.remove()
		if err := os.Mkdir(unit.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r.tick()
		if again := r.unit(unit.name); !again.StartTime.Equal(start) || again.Count < p.Count {
			t.Errorf("round %d: started again with %d waits since %v, before %d since %v",
				round, again.Count, again.StartTime, p.Count, start)
		}
		r.checkSums()
	}
}

// Groups that come and go by thousands, more than there is room for events, leave nothing behind.
func TestChurnLeavesNothing(t *testing.T) {
	slice := makeUnit(t, unitName(t, "churn"))
	r := newRig(t)
	r.tick()
	for round := range 5 {
		for i := range 1000 {
			dir := filepath.Join(slice.dir, fmt.Sprintf("run-%d-%d.scope", round, i))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
		}
		r.tick()
	}
	for range 4 {
		r.tick()
	}
	if lost, full := r.attribution.owners.Lost(); lost == 0 || full != 0 {
		t.Logf("%d events lost, %d groups without room", lost, full)
	}
	known := map[uint64]bool{}
	if err := r.attribution.owners.Groups(func(id uint64, _ int) { known[id] = true }); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.attribution.tree {
		if strings.Contains(g.path, unitName(t, "churn")+".service/") {
			t.Errorf("%s is still there", g.path)
		}
		if !known[g.id] {
			t.Errorf("the kernel does not know %s", g.path)
		}
	}
	for id := range known {
		if r.attribution.tree[id] == nil {
			t.Errorf("the kernel knows group %d, which is gone", id)
		}
	}
	for i, s := range r.attribution.slots {
		if s.owner != nil && strings.Contains(s.owner.Path, "/run-") {
			t.Errorf("slot %d belongs to %s", i, s.owner.Path)
		}
	}
}

// More units than slots: those over the number belong to what is above them, and slid says so.
func TestUnitsOverTheNumberAreFolded(t *testing.T) {
	r := newRig(t)
	var units []*testGroup
	for i := range leastSlots + 8 {
		units = append(units, makeUnit(t, unitName(t, fmt.Sprint("many-", i))))
	}
	r.tick()
	r.tick()
	v := r.verdict()
	if v.State != verdict.Degraded || !strings.Contains(v.Reason, "count as those around them: there are 64 slots") {
		t.Errorf("verdict %+v", v)
	}
	for _, u := range units {
		u.remove()
	}
	for range 5 {
		r.tick()
	}
	if v := r.verdict(); strings.Contains(v.Reason, "count as those around them") {
		t.Errorf("verdict %+v", v)
	}
}

// Containers of which the cgroup2 tree knows nothing must not make a giant of who started them.
func TestContainersOfVersion1(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	dirs, err := filepath.Glob("/sys/fs/cgroup/pids")
	if err != nil || len(dirs) == 0 {
		t.Skip("needs control groups of version 1")
	}
	unit := makeUnit(t, unitName(t, "manager"))
	r := newRig(t)
	_, stop := unit.start()
	defer stop()
	r.await(unit.name)

	dir := filepath.Join(dirs[0], "docker-"+id+".scope")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(dir)
	for range hiddenTurns + 4 {
		r.tick()
	}
	if v := r.verdict(); v.State != verdict.Degraded || !strings.HasPrefix(v.Reason, "attribution=none: containers live in cgroup version 1") {
		t.Errorf("verdict %+v", v)
	}
	if host, services := r.waits(); len(services) != 0 || host.Count == 0 {
		t.Errorf("%d waits of the host, services %v", host.Count, services)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for range hiddenTurns + 2 {
		r.tick()
	}
	r.await(unit.name)
}

// Where no unit and no container is, the host's latencies are those of the host, and nobody gets series.
func TestNobodyToAttributeTo(t *testing.T) {
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	err = filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != mount && cgroup.Named(path) {
			return fmt.Errorf("%s is there", path)
		}
		return nil
	})
	if err != nil {
		t.Skip("needs a cgroup2 tree without units:", err)
	}
	r := newRig(t)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r.tick()
		host, services := r.waits()
		if len(services) != 0 {
			t.Errorf("services %v", services)
		}
		if host.Count > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no waits of the host")
		}
	}
	v := r.verdict()
	if v.State != verdict.Degraded || !strings.HasPrefix(v.Reason, "attribution=none: the cgroup2 tree at ") {
		t.Errorf("verdict %+v", v)
	}
}

// Without a cgroup2 tree the verdict says so, and probes work.
func TestAttributionWithoutTree(t *testing.T) {
	d := newDeps(t)
	env, registry := newEnv(metric.ClassLatency)
	_, err := d.NewAttribution(env)
	v := verdict.FromError(AttributionName, err)
	if v.State != verdict.Unavailable || !strings.HasPrefix(v.Reason, "attribution=none: ") || v.Missing == "" {
		t.Errorf("verdict %+v", v)
	}
	c := open(t, env, d.NewRunQueue)
	collect(t, c, env)
	if find(registry, "system.cpu.linux.runqueue.duration") == nil {
		t.Error("no waits of the host")
	}
}

func TestAttributionAllocatesNothing(t *testing.T) {
	unit := makeUnit(t, unitName(t, "still"))
	r := newRig(t)
	_, stop := unit.start()
	defer stop()
	r.tick()
	r.tick()
	r.attribution.v1 = nil // the look for containers outside, once a minute, is no steady state
	names := []string{"attribution", "run queue"}
	for i, c := range r.collectors {
		if n := allocations(func() { _ = c.Collect(t.Context(), r.now) }); n > 0 {
			t.Errorf("%s: %v allocations", names[i], n)
		}
	}
}

func TestGroupsFollowEvents(t *testing.T) {
	tree := groups{1: {id: 1}}
	apply := func(want bool, e bpf.GroupEvent) {
		t.Helper()
		if got := tree.apply(e, 7); got != want {
			t.Errorf("%+v: got %v", e, got)
		}
	}
	apply(true, bpf.GroupEvent{Group: 2, Parent: 1, Name: "system.slice"})
	apply(true, bpf.GroupEvent{Group: 3, Parent: 2, Name: "a.service"})
	apply(true, bpf.GroupEvent{Group: 4, Parent: 3, Name: "worker"})
	apply(false, bpf.GroupEvent{Group: 9, Parent: 8, Name: "orphan"})
	apply(false, bpf.GroupEvent{Group: 9, Parent: 3})
	apply(true, bpf.GroupEvent{Group: 3, Parent: 2, Name: "told again"})
	if g := tree[4]; g.path != "/system.slice/a.service/worker" || g.born != 7 {
		t.Errorf("got %+v", g)
	}
	tree[3].slot = 5
	if got := tree.slotOf(tree[4]); got != 5 {
		t.Errorf("slot %d of what is below", got)
	}
	if got := tree.slotOf(tree[2]); got != bpf.RestSlot {
		t.Errorf("slot %d of what is above", got)
	}
	apply(true, bpf.GroupEvent{Group: 4})
	apply(true, bpf.GroupEvent{Group: 4})
	if len(tree) != 3 {
		t.Errorf("got %v", tree)
	}
}
