package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

const (
	fsyncCalls  = 40 // of each kind
	fsyncFailed = 7  // calls for a pipe
)

// fsyncLoad waits for a file in the given directory by fsync, fdatasync and writes with O_DSYNC, in turn, and measures.
// It does so on a thread of its own without the scheduler of Go, which would hand the processor on meanwhile.
func fsyncLoad(t *testing.T, dir string) (report loadReport) {
	fd := openFile(t, dir, "fsync", 0)
	defer unix.Close(fd)
	direct := openFile(t, dir, "dsync", unix.O_DSYNC)
	defer unix.Close(direct)
	report.Waits = make([]loadWaits, 3)
	for i := range uint64(fsyncCalls) {
		for kind := range report.Waits {
			if _, err := unix.Pwrite(fd, []byte{byte(i)}, int64(i)*4096); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if errno := waitForDisk(kind, fd, direct, i); errno != 0 {
				t.Fatal(errno)
			}
			report.Waits[kind].add(begun)
		}
	}
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	for range fsyncFailed {
		_, _, _ = unix.RawSyscall(unix.SYS_FSYNC, 1<<20, 0, 0) // EBADF, which is no wait
		begun := time.Now()
		if _, _, errno := unix.RawSyscall(unix.SYS_FSYNC, uintptr(pipe[0]), 0, 0); errno == unix.EINVAL {
			report.Failed.add(begun)
		}
	}
	return report
}

// add counts a wait that ends now.
func (w *loadWaits) add(begun time.Time) {
	w.Took += time.Since(begun)
	w.Count++
}

// plus adds the waits of another kind.
func (w *loadWaits) plus(o loadWaits) {
	w.Took += o.Took
	w.Count += o.Count
}

func openFile(t *testing.T, dir, name string, flags int) int {
	t.Helper()
	fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// waitForDisk waits in one of three ways.
func waitForDisk(kind, fd, direct int, at uint64) (errno syscall.Errno) {
	switch kind {
	case FsyncAll:
		_, _, errno = unix.RawSyscall(unix.SYS_FSYNC, uintptr(fd), 0, 0)
	case FsyncData:
		_, _, errno = unix.RawSyscall(unix.SYS_FDATASYNC, uintptr(fd), 0, 0)
	default:
		if _, err := unix.Pwrite(direct, []byte{1}, int64(at)*4096); err != nil {
			return unix.EIO
		}
	}
	return errno
}

// fsyncDir returns a directory to write files in, and the type of its file system. SLID_TEST_DIR names one on a disk for
// machines whose temporary folder is in memory.
func fsyncDir(t *testing.T) (dir string, fs int64) {
	t.Helper()
	if disk := os.Getenv("SLID_TEST_DIR"); disk != "" {
		t.Setenv("TMPDIR", disk)
	}
	dir = t.TempDir()
	return dir, fileSystem(t, dir)
}

// memoryDir returns a directory in memory.
func memoryDir(t *testing.T) string {
	t.Helper()
	for _, above := range []string{"/dev/shm", os.TempDir()} {
		var s unix.Statfs_t
		if err := unix.Statfs(above, &s); err == nil && s.Type == unix.TMPFS_MAGIC {
			t.Setenv("TMPDIR", above)
			return t.TempDir()
		}
	}
	t.Skip("needs a tmpfs at /dev/shm or as the temporary folder")
	return ""
}

func fileSystem(t *testing.T, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return s.Type
}

// fsyncGroup is a group for a load, which needs no controller.
func fsyncGroup(t *testing.T) *testGroup {
	g := newTestGroup(t, nil, "fsync", 0)
	g.v1 = false // it may stay in whichever group of version 1 it is
	return g
}

// fsyncAgrees runs the load in a directory and compares what the probe counts with what the load's clock says. direct
// and failed say whether the rung sees writes with O_DSYNC and calls for what has no disk.
func fsyncAgrees(t *testing.T, rung int, dir string, direct, failed bool) {
	t.Helper()
	g := fsyncGroup(t)
	f, err := newFsync(attributed(t, g), fsyncRungs()[rung:rung+1])
	skipRefused(t, err)
	defer f.Close()
	want := verdict.Active
	if rung != fsyncRungAll {
		want = verdict.Degraded
	}
	if v := f.Verdict("fsync"); v.State != want || v.Hook != fsyncRungs()[rung].hook {
		t.Errorf("got %+v", v)
	}
	report := startGroupLoad(t, g, "fsync "+dir).work()
	got := readSlot(t, &f.Table, 1)
	waits := [2]loadWaits{report.Waits[FsyncAll], report.Waits[FsyncData]}
	if direct {
		waits[FsyncData].plus(report.Waits[2])
	}
	var errs uint64
	if failed {
		errs = report.Failed.Count
		waits[FsyncAll].plus(report.Failed)
	}
	for kind := range got.Wait {
		n, sum := got.Wait[kind].Count(), time.Duration(got.Wait[kind].SumNs)
		t.Logf("kind %d: %d waits, %v; the test: %d, %v", kind, n, sum, waits[kind].Count, waits[kind].Took)
		unsynced := fileSystem(t, dir) == unix.TMPFS_MAGIC && kind == FsyncData && direct // O_DSYNC may mean nothing there
		if n != waits[kind].Count && !(unsynced && n == report.Waits[kind].Count) {
			t.Errorf("kind %d: %d waits, want %d", kind, n, waits[kind].Count)
		}
		if sum == 0 || sum > waits[kind].Took {
			t.Errorf("kind %d: %v, the test's clock says %v", kind, sum, waits[kind].Took)
		}
		// A disk takes longer than the ways in and out, but not so much longer in an emulated machine.
		if fileSystem(t, dir) != unix.TMPFS_MAGIC && sum < waits[kind].Took/2 {
			t.Errorf("kind %d: %v, the test's clock says %v", kind, sum, waits[kind].Took)
		}
	}
	if got.Errors[FsyncOther] != errs || got.Errors[FsyncEIO]+got.Errors[FsyncENOSPC]+got.Errors[FsyncEDQUOT] != 0 {
		t.Errorf("errors %v, want %d of an unnamed kind", got.Errors, errs)
	}
	if c := f.Counts(); c.Discarded+c.Lost+c.Skipped != 0 {
		t.Errorf("losses: %+v", c)
	}
}

func TestFsyncOnDisk(t *testing.T) {
	dir, fs := fsyncDir(t)
	if fs == unix.TMPFS_MAGIC {
		t.Skip("needs a folder on a disk: set SLID_TEST_DIR")
	}
	eachFsyncEntry(t, dir)
}

// eachFsyncEntry runs the load with the rungs that see all ways to a disk.
func eachFsyncEntry(t *testing.T, dir string) {
	t.Run("fentry", func(t *testing.T) { fsyncAgrees(t, fsyncRungAll, dir, true, true) })
	t.Run("kprobe.multi", func(t *testing.T) { fsyncAgrees(t, fsyncRungMulti, dir, true, true) })
	t.Run("kprobe", func(t *testing.T) { fsyncAgrees(t, fsyncRungAlone, dir, true, true) })
}

// Without fentry the best of the other ways is in use, and the verdict says why.
func TestFsyncWithoutEntry(t *testing.T) {
	requireCapabilities(t)
	rungs := fsyncRungs()
	rungs[fsyncRungAll].functions = []string{"no_such_function"}
	want := ""
	for _, r := range rungs {
		f, err := newFsync(&Kernel{}, []rung{r})
		if err == nil {
			f.Close()
			want = r.hook
			break
		}
		t.Log(err)
	}
	f, err := newFsync(&Kernel{}, rungs)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := f.Verdict("fsync")
	t.Logf("%+v", v)
	if v.State != verdict.Degraded || v.Hook != want || !strings.Contains(v.Reason, "no function no_such_function") {
		t.Errorf("got %+v, want the hook %s", v, want)
	}
}

func TestFsyncOnExt4(t *testing.T) {
	dir, fs := fsyncDir(t)
	if fs != unix.EXT4_SUPER_MAGIC {
		t.Skip("needs a folder on ext4: set SLID_TEST_DIR")
	}
	fsyncAgrees(t, fsyncRungExt4, dir, true, false)
}

// A wait on overlayfs, which containers write to, is one on the file system below as well, and counts once.
func TestFsyncOnOverlay(t *testing.T) {
	requireCapabilities(t)
	dir, fs := fsyncDir(t)
	if fs == unix.TMPFS_MAGIC || fs == unix.OVERLAYFS_SUPER_MAGIC {
		t.Skip("needs a folder on a disk: set SLID_TEST_DIR")
	}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Skip("needs overlayfs:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	eachFsyncEntry(t, merged)
	if fs == unix.EXT4_SUPER_MAGIC {
		t.Run("ext4", func(t *testing.T) { fsyncAgrees(t, fsyncRungExt4, merged, true, false) })
	}
}

func TestFsyncInMemory(t *testing.T) {
	eachFsyncEntry(t, memoryDir(t))
}

// fsyncTracefsEnv tells TestFsyncBySystemCalls that it runs in a mount namespace of its own.
const fsyncTracefsEnv = "SLID_TEST_TRACEFS"

// Tracepoints of system calls need tracefs, which need not be mounted: the test mounts it where nobody else sees it.
func TestFsyncBySystemCalls(t *testing.T) {
	requireCapabilities(t)
	if os.Getenv(fsyncTracefsEnv) != "" {
		fsyncBySystemCalls(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestFsyncBySystemCalls$", "-test.v")
	cmd.Env = append(os.Environ(), fsyncTracefsEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func fsyncBySystemCalls(t *testing.T) {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Skip("needs a mount namespace:", err)
	}
	if err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil && err != unix.EBUSY {
		t.Skip("needs tracefs:", err)
	}
	t.Run("disk", func(t *testing.T) {
		dir, _ := fsyncDir(t)
		fsyncAgrees(t, fsyncRungCalls, dir, false, true)
	})
	t.Run("memory", func(t *testing.T) { fsyncAgrees(t, fsyncRungCalls, memoryDir(t), false, true) })
}
