package latency

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// Calls that the test makes are in the histogram, and their failures by name. Others on the machine may make some, too.
func TestSyscallsExports(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	d := newDeps(t)
	c := open(t, env, d.NewSyscalls([]string{"flock", "fsync", "nothing"}))
	collect(t, c, env)
	before := spreads(t, registry, "system.linux.syscall.duration")["linux.syscall.name=flock"]
	for range 100 {
		if err := unix.Flock(-1, unix.LOCK_EX); !errors.Is(err, unix.EBADF) {
			t.Fatal(err)
		}
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	collect(t, c, env)
	calls := spreads(t, registry, "system.linux.syscall.duration")
	flock, fsync := calls["linux.syscall.name=flock"], calls["linux.syscall.name=fsync"]
	if flock.count < before.count+100 || flock.sum <= before.sum || fsync.count == 0 || fsync.sum <= 0 {
		t.Errorf("got %+v", calls)
	}
	failed := sumOf[int64](t, registry, "system.linux.syscall.errors")
	if n := failed["error.type=EBADF,linux.syscall.name=flock"]; n < 100 {
		t.Errorf("%d failed with EBADF: %v", n, failed)
	}
	v := c.Verdicts()
	if len(v) != 1 || v[0].State != verdict.Degraded || v[0].Name != SyscallsName ||
		!strings.Contains(v[0].Reason, "does not have: nothing") || !strings.Contains(v[0].Reason, "takes longer") {
		t.Errorf("got verdicts %+v", v)
	}
	collectsWithoutAllocating(t, "syscalls", env, c)
}

// Calls of a unit are its own: the unit of a service that a shell works in.
func TestSyscallsAttributes(t *testing.T) {
	testneed.Root(t, "to make a control group")
	env, registry := newEnv(metric.ClassLatency)
	env.Proc, env.Root = "/proc", "/"
	var err error
	if env.Cgroup, err = cgroup.Mount("/"); err != nil {
		t.Skip("needs a cgroup2 tree:", err)
	}
	unit := fmt.Sprintf("slidtest-%d.service", os.Getpid())
	dir := filepath.Join(env.Cgroup, unit)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("needs to make a control group:", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	d := newDeps(t)
	attribution := open(t, env, d.NewAttribution)
	c := open(t, env, d.NewSyscalls([]string{"openat"}))
	for range 3 {
		collect(t, attribution, env)
		collect(t, c, env)
	}
	// Each turn opens a file that is there and one that is not.
	script := "echo $$ >" + dir + "/cgroup.procs; i=0; while [ $i -lt 50 ]; do i=$((i+1)); true </dev/null; true </none; done 2>/dev/null; true"
	if out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	collect(t, attribution, env)
	collect(t, c, env)
	calls, failed := callsOf(registry, unit, "container.linux.syscall.calls"), callsOf(registry, unit, "container.linux.syscall.errors")
	t.Logf("%s made %d calls, %d failed", unit, calls, failed)
	if calls < 100 || calls > 130 || failed < 50 || failed > 60 {
		t.Errorf("%s made %d calls and %d failed, want 100 and 50 and some of the shell's", unit, calls, failed)
	}
}

// callsOf returns the sum of a counter on the resource of a unit.
func callsOf(registry *metric.Registry, unit, name string) (n int64) {
	s := registry.NewSnapshot()
	s.Take(time.Now())
	for _, r := range s.Resources {
		if of, _ := r.Resource.Set().Value("systemd.unit.name"); of.AsString() != unit {
			continue
		}
		for _, scope := range r.ScopeMetrics {
			for _, m := range scope.Metrics {
				if m.Name != name {
					continue
				}
				for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
					n += p.Value
				}
			}
		}
	}
	return n
}

func TestSyscallsNeedsOneThatExists(t *testing.T) {
	env, _ := newEnv(metric.ClassLatency)
	_, err := newDeps(t).NewSyscalls([]string{"nothing"})(env)
	if u, ok := errors.AsType[*verdict.UnavailableError](err); !ok || !strings.Contains(u.Reason, "none of") {
		t.Errorf("got %v", err)
	}
}

func TestErrorName(t *testing.T) {
	for number, want := range map[int]string{0: "_OTHER", 2: "ENOENT", 11: "EAGAIN", 133: "EHWPOISON"} {
		if got := errorName(number); got != want {
			t.Errorf("%d: got %s, want %s", number, got, want)
		}
	}
}
