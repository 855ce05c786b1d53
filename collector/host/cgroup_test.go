package host

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// cgroupBudget is what the list of collectors gives host/cgroup.
const cgroupBudget = 20000

// cgroupRig is the collector on a tree of its own.
type cgroupRig struct {
	t        testing.TB
	c        *Cgroups
	env      collector.Env
	registry *metric.Registry
	snapshot *metric.Snapshot
	ticks    int
	log      *strings.Builder
}

// cgroupTreeAt unpacks a recorded tree.
func cgroupTreeAt(t testing.TB, name string) collector.Env {
	t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata/cgroup", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(root, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return envAt(root)
}

func startCgroups(t testing.TB, env collector.Env) *cgroupRig {
	t.Helper()
	r := &cgroupRig{t: t, log: &strings.Builder{}}
	registry := metric.NewRegistry(instrumentation.Scope{Name: "test"})
	env.Metrics = registry.Group("host/cgroup", metric.ClassHost, cgroupBudget)
	env.Host = resource.NewSchemaless(attribute.String("host.id", "h1"))
	env.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.env = env
	c, err := NewCgroups(env)
	if err != nil {
		t.Fatal(err)
	}
	r.c, _ = c.(*Cgroups)
	r.registry, r.snapshot = registry, registry.NewSnapshot()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// tick collects once.
func (r *cgroupRig) tick() cgroupPoints {
	r.t.Helper()
	now := tick(r.ticks)
	r.ticks++
	if err := r.c.Collect(r.t.Context(), now); err != nil {
		r.t.Fatal(err)
	}
	r.env.Metrics.Collected(now)
	return r.points()
}

// cgroupPoints are the exported values by service and by name{attribute values}. The services named other have their
// path behind a colon.
type cgroupPoints map[string]points

func (r *cgroupRig) points() cgroupPoints {
	r.snapshot.Take(tick(r.ticks))
	all := cgroupPoints{}
	for _, res := range r.snapshot.Resources {
		service := cgroupAttribute(res.Resource, "service.name")
		if path := cgroupAttribute(res.Resource, "cgroup.path"); path != "" {
			service += ":" + path
		}
		if all[service] != nil {
			r.t.Fatalf("two resources are %s", service)
		}
		p := points{}
		for _, m := range res.ScopeMetrics[0].Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				addPoints(p, m.Name, data.DataPoints)
			case metricdata.Sum[float64]:
				addPoints(p, m.Name, data.DataPoints)
			default:
				r.t.Fatalf("%s: unexpected %T", m.Name, m.Data)
			}
		}
		all[service] = p
	}
	return all
}

func cgroupAttribute(r *resource.Resource, key attribute.Key) string {
	v, _ := r.Set().Value(key)
	return v.AsString()
}

// resource returns the resource of a service.
func (r *cgroupRig) resource(service string) *resource.Resource {
	for _, res := range r.snapshot.Resources {
		if cgroupAttribute(res.Resource, "service.name") == service {
			return res.Resource
		}
	}
	r.t.Fatalf("no resource of %s", service)
	return nil
}

// want checks values of a service.
func (p cgroupPoints) want(t testing.TB, service string, values map[string]float64) {
	t.Helper()
	if p[service] == nil {
		var names []string
		for name := range p {
			names = append(names, name)
		}
		t.Fatalf("no resource of %s, only of %q", service, names)
	}
	for key, value := range values {
		got, ok := p[service][key]
		if diff := got.value - value; !ok || diff > 1e-6 || diff < -1e-6 {
			t.Errorf("%s: %s = %v (exported: %v), want %v", service, key, got.value, ok, value)
		}
	}
}

// sum adds a series up over all services.
func (p cgroupPoints) sum(key string) (sum float64) {
	for _, series := range p {
		sum += series[key].value
	}
	return sum
}

// write replaces a file in place.
func (r *cgroupRig) write(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.env.Root, "sys/fs/cgroup", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func TestCgroupSystemdHost(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
	p := r.tick()
	p.want(t, "nginx", map[string]float64{
		"container.cpu.time{user}": 40, "container.cpu.time{system}": 20,
		"container.cpu.linux.periods": 1000, "container.cpu.linux.throttled_periods": 25,
		"container.cpu.linux.throttled_time": 3.5, "container.cpu.linux.limit{self}": 1.5,
		"container.memory.usage": 9e8, "container.memory.rss": 3e8, "container.memory.working_set": 6.5e8,
		"container.memory.linux.swap": 8192, "container.memory.linux.limit{self}": 1 << 30,
		"container.memory.available":       1<<30 - 6.5e8,
		"container.memory.linux.oom_kills": 1, "container.memory.linux.high_events": 7, "container.memory.linux.max_events": 5,
		"container.paging.faults{minor}": 297_000, "container.paging.faults{major}": 3000,
		"container.disk.io{read,8:0}": 5e8, "container.disk.io{write,8:0}": 1e8,
		"container.disk.linux.operations{read,8:0}": 5000, "container.disk.linux.operations{write,8:0}": 1000,
		"container.task.linux.count": 5, "container.task.linux.limit{self}": 4915,
		"container.pressure.linux.stall_time{cpu,some}": 11, "container.pressure.linux.stall_time{cpu,full}": 10,
		"container.pressure.linux.stall_time{memory,some}": 9, "container.pressure.linux.stall_time{memory,full}": 8,
		"container.pressure.linux.stall_time{io,some}": 7, "container.pressure.linux.stall_time{io,full}": 6,
	})
	p.want(t, "my-app", map[string]float64{
		"container.memory.linux.limit{host}": 16384000 << 10, "container.disk.io{write,8:0}": 200,
		"container.task.linux.limit{self}": 4915, "container.disk.io{read,253:0}": 5,
	})
	p["my-app"].without(t, "253:8")
	p["my-app"].without(t, "container.memory.available") // nothing but the host limits it
	p["my-app"].without(t, "throttled")
	// Of nested owners each stands for its own; the slice between them limits all of them.
	p.want(t, "user@1000", map[string]float64{
		"container.cpu.time{user}": 3, "container.cpu.time{system}": 4, "container.memory.usage": 4e8,
		"container.memory.linux.limit{/user.slice/user-1000.slice}": 1 << 32, "container.task.linux.count": 20,
		"container.memory.available": 1<<32 - 9.5e8,
	})
	p.want(t, "web", map[string]float64{
		"container.cpu.time{user}": 5, "container.memory.linux.limit{/user.slice/user-1000.slice}": 1 << 32,
		"container.task.linux.limit{/user.slice/user-1000.slice}": 41000,
	})
	p.want(t, "session-4.scope", map[string]float64{"container.cpu.time{user}": 9})
	// What is left, as of jobs that are gone.
	p.want(t, "other:/system.slice", map[string]float64{
		"container.cpu.time{user}": 10, "container.cpu.time{system}": 5, "container.memory.linux.oom_kills": 2,
		"container.memory.usage": 1.5e9, "container.disk.io{read,8:0}": 299_999_900, "container.task.linux.count": 112,
	})
	p["other:/system.slice"].without(t, "pressure")
	p.want(t, "other:/user.slice", map[string]float64{"container.cpu.time{user}": 3, "container.memory.usage": 3e8})
	p.want(t, "other:/", map[string]float64{"container.cpu.time{user}": 9, "container.cpu.time{system}": 8})
	for key, want := range map[string]float64{
		"container.cpu.time{user}": 100, "container.cpu.time{system}": 50,
		"container.disk.io{read,8:0}": 9e8, "container.disk.linux.operations{write,8:0}": 7000,
	} {
		if got := p.sum(key); got != want {
			t.Errorf("the sum of %s is %v, want the root's %v", key, got, want)
		}
	}
	p.want(t, "", map[string]float64{"system.cgroup.linux.count{own}": 6, "system.cgroup.linux.count{folded}": 0})
	for key, want := range map[attribute.Key]string{
		"systemd.unit.name": "my-app.service", "container.id": "", "host.id": "h1",
	} {
		if got := cgroupAttribute(r.resource("my-app"), key); got != want {
			t.Errorf("my-app: %s = %q, want %q", key, got, want)
		}
	}
	if v := r.c.Verdicts()[0]; v.State != verdict.Active || v.Reason != "" {
		t.Errorf("verdict %+v", v)
	}
}

func TestCgroupKubernetesNode(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "kubernetes-6.1"))
	p := r.tick()
	p.want(t, "payments-api", map[string]float64{
		"container.cpu.time{user}": 499, "container.cpu.linux.limit{self}": 2, "container.cpu.linux.throttled_time": 60,
		"container.memory.linux.limit{self}": 2e9, "container.memory.available": 1.1e9,
		"container.task.linux.limit{/kubepods.slice/kubepods-pod8f3c2b1a_0d9e_4c7b_a6f5_e4d3c2b1a098.slice}": 1024,
	})
	for key, want := range map[attribute.Key]string{
		"container.id": strings.Repeat("a1", 32), "container.runtime.name": "containerd", "systemd.unit.name": "",
		"k8s.pod.uid": "8f3c2b1a-0d9e-4c7b-a6f5-e4d3c2b1a098", "k8s.pod.qos_class": "guaranteed",
	} {
		if got := cgroupAttribute(r.resource("payments-api"), key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	// A process that is out of sight, and a container whose runtime has not started it yet.
	p.want(t, "c3c3c3c3c3c3", map[string]float64{
		"container.memory.linux.limit{/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice}": 4.5e9,
	})
	if got := cgroupAttribute(r.resource("d4d4d4d4d4d4"), "k8s.pod.qos_class"); got != "besteffort" {
		t.Errorf("class %q", got)
	}
	if got := cgroupAttribute(r.resource("etcd"), "k8s.pod.uid"); got != "0123456789abcdef0123456789abcdef" {
		t.Errorf("static pod %q", got)
	}
	p.want(t, "other:/kubepods.slice", map[string]float64{
		"container.cpu.time{user}": 900 - 499 - 0.001 - 289 - 8 - 1, "container.memory.linux.oom_kills": 2,
	})
	if got := p.sum("container.cpu.time{user}"); got < 999.999 || got > 1000.001 {
		t.Errorf("the sum is %v", got)
	}
}

func TestCgroupDockerHost(t *testing.T) {
	p := startCgroups(t, cgroupTreeAt(t, "docker-5.10")).tick()
	p.want(t, "redis-server", map[string]float64{
		"container.disk.io{read,8:0}": 4096, "container.memory.linux.limit{self}": 1 << 29,
		"container.pressure.linux.stall_time{cpu,some}": 5e-6,
	})
	p["redis-server"].without(t, "cpu,full")
	p["redis-server"].without(t, "7:1")
	p.want(t, "postgres", map[string]float64{"container.cpu.time{user}": 2})
	p.want(t, "other:/machine.slice", map[string]float64{"container.cpu.time{user}": 1}) // the monitor is in it
	p.want(t, "cron", map[string]float64{"container.cpu.time{user}": 4})                 // in a container
}

func TestCgroupVersion1(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "hybrid-4.19"))
	p := r.tick()
	p.want(t, "mysql", map[string]float64{
		"container.cpu.time{user}": 60.123456789, "container.cpu.time{system}": 30,
		"container.cpu.linux.throttled_periods": 90, "container.cpu.linux.throttled_time": 9, "container.cpu.linux.limit{self}": 0.5,
		"container.memory.usage": 2e9, "container.memory.rss": 7e8, "container.memory.working_set": 1.6e9,
		"container.memory.linux.swap": 12288, "container.memory.linux.limit{/system.slice}": 4_000_002_048,
		"container.memory.linux.oom_kills": 2, "container.memory.linux.max_events": 17,
		"container.paging.faults{minor}": 299_700, "container.disk.io{write,8:0}": 1_200_000,
		"container.disk.linux.operations{read,8:0}": 70, "container.task.linux.count": 40,
		"container.pressure.linux.stall_time{cpu,some}": 4, "container.pressure.linux.stall_time{io,full}": 0.5,
	})
	p.want(t, "cron", map[string]float64{"container.memory.linux.limit{self}": 200_003_584})
	p["cron"].without(t, "disk")
	p.want(t, "only-pids", map[string]float64{"container.task.linux.count": 3}) // a group in one hierarchy
	p["only-pids"].without(t, "memory")
	p.want(t, "other:/system.slice", map[string]float64{
		"container.disk.io{write,8:0}": 300_000, "container.memory.usage": 3.9e9, "container.task.linux.count": 32,
	})
	if got := p.sum("container.cpu.time{user}") + p.sum("container.cpu.time{system}"); got != 200 {
		t.Errorf("the sum is %v", got)
	}
	if v := r.c.Verdicts()[0]; v.State != verdict.Active {
		t.Errorf("verdict %+v", v)
	}
}

func cgroupCPUStat(user string) string {
	return "usage_usec 0\nuser_usec " + user + "\nsystem_usec 0\n"
}

// TestCgroupShortLived: what lives for less than a tick has no series, and its time is not lost.
func TestCgroupShortLived(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
	r.tick()
	r.write("system.slice/job.service/cpu.stat", cgroupCPUStat("3000000"))
	r.write("system.slice/cpu.stat", "usage_usec 0\nuser_usec 73000000\nsystem_usec 30000000\n")
	r.write("cpu.stat", "usage_usec 0\nuser_usec 103000000\nsystem_usec 50000000\n")
	p := r.tick()
	if p["job"] != nil {
		t.Error("a group has series at first sight")
	}
	p.want(t, "other:/system.slice", map[string]float64{"container.cpu.time{user}": 13})
	p.want(t, "", map[string]float64{"system.cgroup.linux.count{folded}": 1})

	// It lives on: from now on it counts for itself.
	p = r.tick()
	p.want(t, "job", map[string]float64{"container.cpu.time{user}": 0})
	if start := p["job"]["container.cpu.time{user}"].start; start != tick(2) {
		t.Errorf("it counts from %v, want %v", start, tick(2))
	}
	r.write("system.slice/job.service/cpu.stat", cgroupCPUStat("7000000"))
	r.write("system.slice/cpu.stat", "usage_usec 0\nuser_usec 78000000\nsystem_usec 30000000\n")
	r.write("cpu.stat", "usage_usec 0\nuser_usec 109000000\nsystem_usec 50000000\n")
	p = r.tick()
	p.want(t, "job", map[string]float64{"container.cpu.time{user}": 4})
	p.want(t, "other:/system.slice", map[string]float64{"container.cpu.time{user}": 14})
	p.want(t, "other:/", map[string]float64{"container.cpu.time{user}": 10})
	if got := p.sum("container.cpu.time{user}"); got != 109 {
		t.Errorf("the sum is %v, want 109", got)
	}
	live := r.env.Metrics.Live()

	// It ends, and what it used at last is what is left.
	remove(t, filepath.Join(r.env.Root, "sys/fs/cgroup/system.slice/job.service"))
	r.write("system.slice/cpu.stat", "usage_usec 0\nuser_usec 79000000\nsystem_usec 30000000\n")
	r.write("cpu.stat", "usage_usec 0\nuser_usec 110000000\nsystem_usec 50000000\n")
	p = r.tick()
	if p["job"] != nil || r.env.Metrics.Live() >= live {
		t.Error("a group that is gone has series")
	}
	p.want(t, "other:/system.slice", map[string]float64{"container.cpu.time{user}": 15})
}

// TestCgroupMadeAnew: a unit that was started again is another group, with a start of its own.
func TestCgroupMadeAnew(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
	before := r.tick()["nginx"]["container.cpu.time{user}"]
	dir := filepath.Join(r.env.Root, "sys/fs/cgroup/system.slice/nginx.service")
	if err := os.Rename(dir, filepath.Join(r.env.Root, "gone")); err != nil { // keeps its inode in use
		t.Fatal(err)
	}
	r.write("system.slice/nginx.service/cpu.stat", cgroupCPUStat("90000000"))
	r.tick()
	after := r.tick()["nginx"]["container.cpu.time{user}"]
	if before.start != boot || after.start != tick(2) || after.value != 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// TestCgroupFallingCounter: a small step back is a defect of the kernel's rounding, a large one a new beginning.
func TestCgroupFallingCounter(t *testing.T) {
	for _, test := range []struct{ before, now, grown, then, more uint64 }{
		{100, 150, 50, 160, 10},
		{100, 99, 0, 105, 5},
		{100, 30, 30, 40, 10},
		{0, 0, 0, 7, 7},
		{1 << 63, 1<<64 - 1, 1<<63 - 1, 1<<64 - 1, 0},
	} {
		previous := test.before
		if got := cgroupGrowth(&previous, test.now); got != test.grown {
			t.Errorf("%+v: grew by %d", test, got)
		}
		if got := cgroupGrowth(&previous, test.then); got != test.more {
			t.Errorf("%+v: grew by %d then", test, got)
		}
	}
}

// TestCgroupLimitMoves: when another group sets the limit, another series says so, and the old one ends.
func TestCgroupLimitMoves(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
	r.tick()
	r.write("system.slice/memory.max", "500000000\n")
	var p cgroupPoints
	for range 2 * cgroupLimitTurns {
		p = r.tick()
	}
	p.want(t, "nginx", map[string]float64{"container.memory.linux.limit{/system.slice}": 5e8, "container.memory.available": 0})
	p["nginx"].without(t, "container.memory.linux.limit{self}")
}

// TestCgroupBadFiles: a damaged file costs its own numbers, is logged once, and shows in the verdict.
func TestCgroupBadFiles(t *testing.T) {
	for name, content := range map[string]string{
		"cpu.stat": "user_usec 12x\n", "memory.stat": "anon 1", "memory.current": "\x00\xff\x7fELF", "io.stat": "8:0 rbytes=z\n",
		"cpu.pressure": "some avg10=0\n", "memory.events": "oom_kill 99999999999999999999999\n", "pids.current": "",
	} {
		r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
		before := r.tick()
		good := "memory.usage"
		if name == "memory.current" {
			good = "memory.rss"
		}
		file := "system.slice/nginx.service/" + name
		old, err := os.ReadFile(filepath.Join(r.env.Root, "sys/fs/cgroup", file))
		if err != nil {
			t.Fatal(err)
		}
		r.write(file, content)
		for range 3 {
			p := r.tick()
			if p["nginx"]["container."+good] != before["nginx"]["container."+good] ||
				len(p["my-app"]) != len(before["my-app"]) {
				t.Errorf("%s: other numbers suffer", name)
			}
		}
		v := r.c.Verdicts()[0]
		if v.State != verdict.Degraded || !strings.Contains(v.Reason, file) {
			t.Errorf("%s: %+v", name, v)
		}
		if n := strings.Count(r.log.String(), "\n"); n != 1 {
			t.Errorf("%s: %d lines of log, want 1:\n%s", name, n, r.log)
		}
		r.write(file, string(old))
		r.tick()
		if v := r.c.Verdicts()[0]; v.State != verdict.Active {
			t.Errorf("%s: %+v after recovery", name, v)
		}
	}
}

func TestCgroupNone(t *testing.T) {
	env := envAt(t.TempDir())
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("host/cgroup", metric.ClassHost, 100)
	_, err := NewCgroups(env)
	if v := verdict.FromError("host/cgroup", err); v.State != verdict.Unavailable || !strings.Contains(v.Reason, "sys/fs/cgroup") {
		t.Errorf("%+v", v)
	}
}

// TestCgroupWithoutMemoryController: some boards boot with it switched off.
func TestCgroupWithoutMemoryController(t *testing.T) {
	env := cgroupTreeAt(t, "systemd-6.12")
	if err := os.WriteFile(filepath.Join(env.Root, "sys/fs/cgroup/cgroup.controllers"), []byte("cpuset cpu io pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startCgroups(t, env)
	r.tick()
	if v := r.c.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Reason+v.Missing, "memory") {
		t.Errorf("%+v", v)
	}
}

// TestCgroupInsideAContainer: the root that slid sees may be a container's own group.
func TestCgroupInsideAContainer(t *testing.T) {
	env := cgroupTreeAt(t, "systemd-6.12")
	env.Cgroup = filepath.Join(env.Root, "sys/fs/cgroup/system.slice")
	r := startCgroups(t, env)
	r.tick().want(t, "nginx", map[string]float64{"container.cpu.time{user}": 40})
	if v := r.c.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Reason, "own container") {
		t.Errorf("%+v", v)
	}
}

// TestCgroupTooMany: groups over the bounds count as a part of what is above, and get series when there is room.
func TestCgroupTooMany(t *testing.T) {
	env := cgroupTreeAt(t, "systemd-6.12")
	dir := filepath.Join(env.Root, "sys/fs/cgroup/system.slice")
	for i := range maxCgroupOwners + 50 {
		name := filepath.Join(dir, "unit-"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+".service")
		if err := os.MkdirAll(name, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(name, "cpu.stat"), []byte(cgroupCPUStat("10000")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := startCgroups(t, env)
	p := r.tick()
	p.want(t, "", map[string]float64{"system.cgroup.linux.count{own}": maxCgroupOwners, "system.cgroup.linux.count{folded}": 56})
	if live := r.env.Metrics.Live(); live > cgroupBudget || r.env.Metrics.Dropped() != 0 {
		t.Errorf("%d series, %d refused", live, r.env.Metrics.Dropped())
	}
	if got := p.sum("container.cpu.time{user}"); got < 99.999 || got > 100.001 {
		t.Errorf("the sum is %v", got)
	}
	units, _ := filepath.Glob(filepath.Join(dir, "unit-*"))
	for _, unit := range units[:100] {
		remove(t, unit)
	}
	r.tick()
	r.tick().want(t, "", map[string]float64{"system.cgroup.linux.count{folded}": 0})

	r = startCgroups(t, env)
	r.c.tree.most = 20
	r.tick()
	if v := r.c.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Reason, "groups") || r.c.tree.nodes > 20 {
		t.Errorf("%+v with %d nodes", v, r.c.tree.nodes)
	}
}

// TestCgroupWithoutWatches: where no watch is to be had, directories are read in turns.
func TestCgroupWithoutWatches(t *testing.T) {
	env := cgroupTreeAt(t, "systemd-6.12")
	r := startCgroups(t, env)
	if err := r.c.tree.close(); err != nil {
		t.Fatal(err)
	}
	clear(r.c.tree.watches)
	r.c.tree.enter(r.c.tree.root, 0, 0)
	r.tick()
	r.write("system.slice/job.service/cpu.stat", cgroupCPUStat("3000000"))
	r.tick()
	if p := r.tick(); p["job"] == nil {
		t.Error("a new group is not found")
	}
	remove(t, filepath.Join(env.Root, "sys/fs/cgroup/system.slice/job.service"))
	if p := r.tick(); p["job"] != nil {
		t.Error("a group that is gone is still there")
	}
	for range 20 {
		r.tick()
	}
	if n := len(r.c.tree.polled); n > 20 {
		t.Errorf("%d directories are read in turns", n)
	}
}

// TestCgroupTwins: two users may have units of one name; their resources differ all the same.
func TestCgroupTwins(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
	r.write("user.slice/user-1001.slice/user@1001.service/app.slice/web.service/cpu.stat", cgroupCPUStat("3000000"))
	p := r.tick() // two resources with equal attributes would end the test
	if p["web"] == nil || p["web:/user.slice/user-1001.slice/user@1001.service/app.slice/web.service"] == nil {
		t.Error("one of the two is missing")
	}
}

func TestCgroupDescriptions(t *testing.T) {
	r := startCgroups(t, cgroupTreeAt(t, "systemd-6.12"))
	for _, d := range r.env.Metrics.Descs() {
		if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
			t.Errorf("incomplete declaration %+v", d)
		}
	}
	for _, res := range []cgroupPoints{r.tick()} {
		for service, series := range res {
			for key := range series {
				name, _, _ := strings.Cut(key, "{")
				if !slices.ContainsFunc(r.env.Metrics.Descs(), func(d metric.Desc) bool { return d.Name == name }) {
					t.Errorf("%s: %s is not declared", service, name)
				}
			}
		}
	}
}

func TestCgroupAllocatesNothing(t *testing.T) {
	for _, tree := range []string{"systemd-6.12", "kubernetes-6.1", "docker-5.10", "hybrid-4.19"} {
		for _, kept := range []int{0, maxKeptCgroupFiles} {
			r := startCgroups(t, cgroupTreeAt(t, tree))
			r.c.reader.left = kept
			for range 2 * cgroupLimitTurns {
				r.tick()
			}
			ctx, now := t.Context(), tick(100)
			if n := testing.AllocsPerRun(100, func() {
				if err := r.c.Collect(ctx, now); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s with %d kept files: %v allocations", tree, kept, n)
			}
		}
	}
}

// cgroupV1AndV2 returns hierarchies that have every file between them.
func cgroupV1AndV2() []cgroup.Hierarchy {
	return []cgroup.Hierarchy{{Controllers: []string{"cpu", "cpuacct", "memory", "blkio", "pids"}}, {V2: true}}
}

func FuzzCgroupFiles(f *testing.F) {
	f.Add([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4\n"), []byte("usage_usec 1\nuser_usec 2\n"))
	f.Add([]byte("7:1 7:0 8:0 rbytes=1\n"), []byte("150000 100000\n"))
	f.Add([]byte("8:0 Read 1\nTotal 7\n"), []byte("max 100000\n"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var s cgroupSample
		s.reset()
		files := slices.Concat(cgroupFilesOf(cgroupV1AndV2()), cgroupFilesOf([]cgroup.Hierarchy{{V2: true}}))
		for i := range files {
			_ = files[i].parse(&s, a)
			_ = files[i].parse(&s, b)
		}
		s.finish()
		if s.amount[cgWorkingSet] > s.amount[cgUsage] {
			t.Errorf("working set %d of %d", s.amount[cgWorkingSet], s.amount[cgUsage])
		}
		for i, limit := range s.limit {
			if limit > cgNoLimit {
				t.Errorf("limit %d is %d", i, limit)
			}
		}
		if len(s.devices) > maxCgroupSampleDevices {
			t.Errorf("%d devices", len(s.devices))
		}
		n := &cgroupNamed{whole: true}
		var adds [cgCounters]bool
		n.begin()
		n.account(&s, &adds)
	})
}
