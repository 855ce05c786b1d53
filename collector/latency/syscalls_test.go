package latency

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// Calls that the test makes are in the histogram, and their failures by name. Others on the machine may make some, too.
func TestSyscallsExports(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	d := newDeps(t)
	c := open(t, env, func(env collector.Env) (collector.Collector, error) {
		return d.NewSyscalls(env, []string{"flock", "fsync", "nothing"})
	})
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

func TestSyscallsNeedsOneThatExists(t *testing.T) {
	env, _ := newEnv(metric.ClassLatency)
	_, err := newDeps(t).NewSyscalls(env, []string{"nothing"})
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
