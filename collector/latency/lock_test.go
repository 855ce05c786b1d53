package latency

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// Threads that make and remove files in one folder wait for its semaphore.
func TestLockExportsKinds(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	c := open(t, env, newDeps(t).NewLock)
	collect(t, c, env)
	dir, stop := t.TempDir(), make(chan struct{})
	done := make(chan error)
	const threads = 4
	for i := range threads {
		go func() { done <- churn(filepath.Join(dir, strconv.Itoa(i)), stop) }()
	}
	var kinds map[string]spread
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		collect(t, c, env)
		kinds = spreads(t, registry, "system.linux.lock.wait_duration")
		if k := kinds["linux.lock.kind=rwsem_write"]; k.count > 0 && k.sum > 0 {
			break
		}
	}
	close(stop)
	for range threads {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%+v", kinds)
	if k := kinds["linux.lock.kind=rwsem_write"]; k.count == 0 || k.sum == 0 {
		t.Error("no wait for a semaphore in 30 s")
	}
	if v := c.Verdicts(); len(v) != 1 || v[0].State != verdict.Active || v[0].Name != LockName {
		t.Errorf("got verdicts %+v", v)
	}
	collectsWithoutAllocating(t, "lock", env, c)
}

// churn makes and removes a file until stop is closed.
func churn(name string, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		unix.Close(fd)
		if err := os.Remove(name); err != nil {
			return err
		}
	}
}

// Each kind of lock has a name of its own.
func TestLockKindsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for kind := range bpf.LockKinds {
		name := lockKind(kind).Value.AsString()
		if name == "" || seen[name] {
			t.Errorf("kind %d has the name %q", kind, name)
		}
		seen[name] = true
	}
}
