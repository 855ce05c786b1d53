package bpf

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/loadtest"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// A testGroup is a control group of the cgroup2 tree, which tells owners apart. Where the memory controller is with
// version 1 there is one of the same name in that hierarchy.
type testGroup struct {
	dir    string // in the cgroup2 tree
	memory string // where the memory controller is
	v1     bool   // it is with version 1
}

// newTestGroup makes a group below parent, or below the root if parent is nil. limit is in bytes, 0 for none. The name is
// not that of a unit, so that tests of others do not see it come and go.
func newTestGroup(t testing.TB, parent *testGroup, name string, limit int) *testGroup {
	t.Helper()
	testneed.Root(t, "to make control groups")
	if parent == nil {
		name = fmt.Sprintf("slidtest%d-%s", os.Getpid(), name)
		parent = rootGroup(t)
	}
	g := &testGroup{dir: filepath.Join(parent.dir, name), memory: filepath.Join(parent.memory, name), v1: parent.v1}
	g.make(t, g.dir)
	if g.v1 {
		g.make(t, g.memory)
	}
	if limit == 0 {
		return g
	}
	if g.v1 {
		g.write(t, "memory.limit_in_bytes", strconv.Itoa(limit))
		return g
	}
	g.write(t, "memory.max", strconv.Itoa(limit))
	_ = os.WriteFile(filepath.Join(g.memory, "memory.swap.max"), []byte("0"), 0o600) // not there without swap
	return g
}

// rootGroup returns the root of the cgroup2 tree, and of the memory controller's, or skips the test.
func rootGroup(t testing.TB) *testGroup {
	t.Helper()
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	g := &testGroup{dir: mount, memory: mount}
	if err := os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+memory"), 0o600); err == nil {
		return g
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range cgroup.ParseMounts(string(info), "/") {
		if !h.V2 && h.Has("memory") {
			g.memory, g.v1 = h.Dir, true
			return g
		}
	}
	t.Skip("needs the memory controller of control groups")
	return nil
}

func (g *testGroup) make(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("needs control groups that may be written: %v", err)
	}
	t.Cleanup(func() { // when its processes are buried
		var err error
		for range 1000 {
			if err = unix.Rmdir(dir); err == nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Errorf("remove %s: %v", dir, err)
	})
}

// id returns the number by which the kernel knows the group.
func (g *testGroup) id(t testing.TB) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(g.dir, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func (g *testGroup) write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.memory, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// oomKills returns what the memory controller says of processes that it had killed.
func (g *testGroup) oomKills(t *testing.T) uint64 {
	t.Helper()
	if g.v1 {
		return keyed(t, filepath.Join(g.memory, "memory.oom_control"), "oom_kill")
	}
	return keyed(t, filepath.Join(g.memory, "memory.events"), "oom_kill")
}

// stalled returns the time in which a task of the group waited for memory, by memory.pressure, and whether the kernel
// tells.
func (g *testGroup) stalled(t *testing.T) (time.Duration, bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "memory.pressure"))
	if err != nil {
		return 0, false // no CONFIG_PSI, or switched off
	}
	line, _, _ := strings.Cut(string(text), "\n")
	_, total, ok := strings.Cut(line, "total=")
	if !ok {
		t.Fatalf("memory.pressure says %q", text)
	}
	return time.Duration(parseUint(t, total)) * time.Microsecond, true
}

// keyed returns the number behind a key in a file of lines "key number", some with a unit.
func keyed(t *testing.T, file, key string) uint64 {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			return parseUint(t, f[1])
		}
	}
	t.Fatalf("%s has no %s", file, key)
	return 0
}

// groupLoadEnv makes the test binary a load in a group: TestGroupLoad.
const groupLoadEnv = "SLID_TEST_GROUP_LOAD"

// A loadReport is what a load says of itself.
type loadReport struct {
	Took   time.Duration // by its own clock
	Waits  []loadWaits   // of the fsync load
	Failed loadWaits     // calls that failed, as they shall
}

type loadWaits struct {
	Count uint64
	Took  time.Duration // sum of all calls
}

// TestGroupLoad is not a test but the load that others start: at each line of its input it works and reports.
func TestGroupLoad(t *testing.T) {
	work, args, _ := strings.Cut(os.Getenv(groupLoadEnv), " ")
	if work == "" {
		return // not started as a load
	}
	runtime.LockOSThread()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var report loadReport
		begun := time.Now()
		switch work {
		case "lazy":
			lazyLoad(t, 240<<20)
		case "flood":
			floodLoad(t, int(parseUint(t, args)))
		case "hold":
			holdLoad(t, args)
		case "fsync":
			report = fsyncLoad(t, args)
		}
		report.Took = time.Since(begun)
		line, _ := json.Marshal(report)
		fmt.Printf("%s\n", line)
	}
}

// lazyLoad fills memory that the kernel may take back at once when it needs some (MADV_FREE).
func lazyLoad(t *testing.T, size int) {
	const chunk = 4 << 20
	for range size / chunk {
		memory := anonymous(t, chunk)
		touch(memory)
		if err := unix.Madvise(memory, unix.MADV_FREE); err != nil {
			t.Fatal(err)
		}
	}
}

// floodLoad does so until tasks reclaimed a number of times, at a priority that leaves the kernel no time to do it in the
// background.
func floodLoad(t *testing.T, most int) {
	realtime := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if err := unix.SchedSetAttr(0, &realtime, 0); err != nil {
		t.Fatal(err)
	}
	const part = 16 << 20
	for before := allocStalls(t); allocStalls(t) < before+20 && most > 0; most -= part {
		lazyLoad(t, part)
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0); err != nil {
		t.Fatal(err)
	}
}

// holdLoad takes a number of bytes and keeps them.
func holdLoad(t *testing.T, bytes string) {
	touch(anonymous(t, int(parseUint(t, bytes))))
}

func anonymous(t *testing.T, size int) []byte {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	return memory
}

func touch(memory []byte) {
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
}

// A groupLoad is a running TestGroupLoad.
type groupLoad struct {
	*loadtest.Load
	t testing.TB
}

// startGroupLoad starts a load in a group: "lazy", "flood BYTES", "hold BYTES", "fsync DIRECTORY".
func startGroupLoad(t testing.TB, g *testGroup, work string) *groupLoad {
	t.Helper()
	dir, err := os.Open(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	l := &groupLoad{loadtest.Start(t, "TestGroupLoad", groupLoadEnv+"="+work, int(dir.Fd())), t}
	if g.v1 {
		g.write(t, "cgroup.procs", strconv.Itoa(l.Process.Pid))
	}
	return l
}

// work lets it run once and returns what it says of itself.
func (l *groupLoad) work() (report loadReport) {
	l.t.Helper()
	l.Report("go", &report)
	return report
}

// killed lets it run, and says whether it was killed.
func (l *groupLoad) killed() bool {
	l.t.Helper()
	if _, err := l.Ask("go"); err == nil {
		return false // it reported
	}
	l.awaitKill()
	return true
}

// awaitKill waits until it is killed.
func (l *groupLoad) awaitKill() {
	l.t.Helper()
	err := l.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		l.t.Fatalf("the load was not killed: %v", err)
	}
}

// attributed returns a kernel whose probes count events of the groups in the slots 1, 2 and so on.
func attributed(t testing.TB, groups ...*testGroup) *Kernel {
	t.Helper()
	k := new(Kernel)
	owners := openOwners(t, k)
	for i, g := range groups {
		if err := owners.Assign(g.id(t), i+1); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// skipRefused skips a test of a rung that this kernel's policy does not allow, or ends it if it was to work.
func skipRefused(t *testing.T, err error) {
	t.Helper()
	u, ok := errors.AsType[*verdict.UnavailableError](err)
	if ok && (errors.Is(u.Err, unix.EPERM) || u.Missing == configFprobe || u.Missing == configKprobes) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readSlot reads a slot of a table.
func readSlot[T any](t *testing.T, table *Table[T], slot int) (v T) {
	t.Helper()
	if err := table.Read(slot, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
