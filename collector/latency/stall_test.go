package latency

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// histograms returns the data points of a metric by the name of the service, "" for the host, and their attributes.
func (r *rig) histograms(name string) map[string]histPoint {
	points := map[string]histPoint{}
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			if h, ok := m.Data.(metricdata.ExponentialHistogram[float64]); ok && m.Name == name {
				for _, p := range h.DataPoints {
					points[nameOf(res.Resource)+" "+p.Attributes.Encoded(attribute.DefaultEncoder())] = p
				}
			}
		}
	}
	return points
}

// fsyncChildEnv makes the test binary call fsync: TestFsyncChild.
const fsyncChildEnv = "SLID_TEST_FSYNC_CHILD"

// TestFsyncChild is not a test but the load of TestFsyncOfUnit.
func TestFsyncChild(t *testing.T) {
	name := os.Getenv(fsyncChildEnv)
	if name == "" {
		return // not started as a load
	}
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range 5 {
		if err := errors.Join(unix.Fdatasync(fd), unix.Fsync(fd), unix.Fsync(fd)); err != nil {
			t.Fatal(err)
		}
	}
}

// The waits of a unit are series of its own, and part of the host's.
func TestFsyncOfUnit(t *testing.T) {
	unit := makeUnit(t, unitName(t, "db"))
	r := newRig(t)
	env, _ := newEnv(metric.ClassLatency)
	r.add(env, r.deps.NewFsync)
	r.tick()
	r.tick() // now the group has lived through one

	dir := os.Getenv("SLID_TEST_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	file := filepath.Join(dir, "slid-fsync-unit")
	t.Cleanup(func() { _ = os.Remove(file) })
	unit.fsync(file)
	r.tick()
	owners := r.histograms("container.filesystem.linux.fsync.duration")
	hosts := r.histograms("system.filesystem.linux.fsync.duration")
	for kind, want := range map[string]uint64{"fsync": 10, "fdatasync": 5} {
		own, host := owners[unit.name+" linux.fsync.kind="+kind], hosts[" linux.fsync.kind="+kind]
		if own.Count != want || host.Count < want || own.Sum > host.Sum {
			t.Errorf("%s: %d waits of the unit in %v s, %d of the host in %v s, want %d",
				kind, own.Count, own.Sum, host.Count, host.Sum, want)
		}
	}
}

// fsync runs TestFsyncChild in the group.
func (g *testGroup) fsync(file string) {
	g.t.Helper()
	self, err := os.Executable()
	if err != nil {
		g.t.Fatal(err)
	}
	dir, err := os.Open(g.dir)
	if err != nil {
		g.t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command(self, "-test.run=^TestFsyncChild$")
	cmd.Env = append(os.Environ(), fsyncChildEnv+"="+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
}

func TestStallsCollectAllocateNothing(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	d := newDeps(t)
	for name, constructor := range map[string]func(collector.Env) (collector.Collector, error){
		ReclaimName: d.NewReclaim, OOMName: d.NewOOM, FsyncName: d.NewFsync,
	} {
		c := open(t, env, constructor)
		collectsWithoutAllocating(t, name, env, c)
		if v := c.Verdicts(); len(v) != 1 || v[0].Name != name || v[0].State == verdict.Unavailable || v[0].Hook == "" {
			t.Errorf("%s: verdicts %+v", name, v)
		}
	}
	for name, kinds := range map[string]int{
		"system.memory.linux.reclaim.duration": 2, "system.filesystem.linux.fsync.duration": 2,
	} {
		m := find(registry, name)
		if m == nil || len(m.Data.(metricdata.ExponentialHistogram[float64]).DataPoints) != kinds {
			t.Errorf("%s: got %+v, want %d series", name, m, kinds)
		}
	}
	if errors := sumOf[int64](t, registry, "system.filesystem.linux.fsync.errors"); len(errors) != 4 {
		t.Errorf("errors: %v", errors)
	}
	if victims := sumOf[int64](t, registry, "system.memory.linux.oom_victims"); len(victims) != 1 {
		t.Errorf("victims: %v", victims)
	}
}
