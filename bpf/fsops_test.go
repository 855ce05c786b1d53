package bpf

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

// openFSOps opens the probe, or skips the test where the kernel's policy does not let programs into its functions.
func openFSOps(tb testing.TB, opts FSOpsOptions) *FSOps {
	tb.Helper()
	requireCapabilities(tb)
	f, err := NewFSOps(&Kernel{}, opts)
	if u, ok := errors.AsType[*verdict.UnavailableError](err); ok && strings.HasPrefix(u.Reason, "refused") {
		tb.Skip("needs a kernel that lets programs into its functions:", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

// mustRead returns what the probe counted of a type of filesystems.
func (f *FSOps) mustRead(tb testing.TB, fstype string) (c FSOpsCounts) {
	tb.Helper()
	for slot := range f.Slots() {
		name, err := f.Type(slot)
		if err != nil {
			tb.Fatal(err)
		}
		if name != fstype {
			continue
		}
		if err := f.Read(slot, &c); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// Where the kernel refuses fentry, the verdict says so and asks for no capability that would not help.
func TestFSOpsVerdict(t *testing.T) {
	requireCapabilities(t)
	f, err := NewFSOps(&Kernel{}, FSOpsOptions{})
	if err != nil {
		u, ok := errors.AsType[*verdict.UnavailableError](err)
		if !ok || !strings.HasPrefix(u.Reason, "refused to load the filesystem probe in spite of sufficient capabilities") ||
			u.Missing != "" {
			t.Fatalf("got %v", err)
		}
		t.Log(err)
		return
	}
	defer f.Close()
	v := f.Verdict("latency/fsops")
	t.Logf("%+v", v)
	if v.State == verdict.Unavailable || v.State == verdict.Degraded && !strings.Contains(v.Reason, "readv") {
		t.Errorf("got %+v", v)
	}
}

// Operations on a file are counted exactly, and what waits in between counts for none.
func TestFSOpsCounts(t *testing.T) {
	dirs := map[string]string{"tmpfs": spaceInMemory(t)}
	if dir := os.Getenv("SLID_TEST_DIR"); dir != "" {
		dirs["ext4"] = dir // of the tests' own machine
	}
	for fstype, dir := range dirs {
		t.Run(fstype, func(t *testing.T) { testFSOps(t, fstype, dir) })
	}
}

func testFSOps(t *testing.T, fstype, dir string) {
	f := openFSOps(t, FSOpsOptions{OnlyTGID: uint32(os.Getpid())})
	before := f.mustRead(t, fstype)
	begin := time.Now()
	const rounds = 50
	name := filepath.Join(dir, "slid-fsops")
	defer os.Remove(name)
	for range rounds {
		if err := operateOnce(name); err != nil {
			t.Fatal(err)
		}
	}
	elapsed := time.Since(begin)
	after := f.mustRead(t, fstype)
	vectors := uint64(0)
	if f.Verdict("").State == verdict.Active {
		vectors = rounds
	}
	for op, want := range [FSOperations]uint64{rounds + vectors, 2*rounds + vectors, rounds, rounds, rounds} {
		n, ns := after[op].Count()-before[op].Count(), time.Duration(after[op].SumNs-before[op].SumNs)
		t.Logf("operation %d: %d, %v", op, n, ns)
		if n != want || ns <= 0 || ns > elapsed {
			t.Errorf("operation %d: %d in %v, want %d in at most %v", op, n, ns, want, elapsed)
		}
	}
	if n := f.Counts(); n.Unmatched+n.Discarded+n.Lost+n.Skipped != 0 {
		t.Errorf("got %+v", n)
	}
}

// operateOnce opens a file, writes to it three times, once by a vector, syncs it, reads it twice, once into a vector,
// and asks for its attributes.
func operateOnce(name string) error {
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [8]byte
	_, err1 := unix.Write(fd, buf[:])
	_, err2 := unix.Pwrite(fd, buf[:], 100)
	_, err3 := unix.Writev(fd, [][]byte{buf[:]})
	err4 := unix.Fsync(fd)
	_, err5 := unix.Pread(fd, buf[:], 0)
	_, err6 := unix.Preadv(fd, [][]byte{buf[:]}, 0)
	var st unix.Stat_t
	return errors.Join(err1, err2, err3, err4, err5, err6, unix.Lstat(name, &st))
}

// A write that the test stops for a while takes that long, and no read or other type does.
func TestFSOpsMeasures(t *testing.T) {
	f := openFSOps(t, FSOpsOptions{OnlyTGID: uint32(os.Getpid())})
	file, err := os.CreateTemp(spaceInMemory(t), "slid-fsops")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	trap := setTrap(t)
	before := f.mustRead(t, "tmpfs")
	writer := contend(func() error { _, err := unix.Pwrite(int(file.Fd()), trap.page[:1], 0); return err })
	trap.caught(t)
	begin := time.Now()
	time.Sleep(50 * time.Millisecond)
	held := time.Since(begin)
	trap.release(t)
	writer.wait(t)
	after := f.mustRead(t, "tmpfs")
	n := after[FSWrite].Count() - before[FSWrite].Count()
	took := time.Duration(after[FSWrite].SumNs - before[FSWrite].SumNs)
	if n != 1 || took < held || took > writer.took {
		t.Errorf("%d writes in %v, want one of %v to %v", n, took, held, writer.took)
	}
}

// Pipes, devices and files that the kernel makes up are left out, and failed opens too.
func TestFSOpsLeavesOut(t *testing.T) {
	f := openFSOps(t, FSOpsOptions{OnlyTGID: uint32(os.Getpid())})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	before := f.Counts()
	for range 20 {
		if _, err := w.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile("/proc/self/stat"); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Open("/proc/no such file", unix.O_RDONLY|unix.O_CLOEXEC, 0); !errors.Is(err, unix.ENOENT) {
			t.Fatal(err)
		}
	}
	after := f.Counts()
	if after.Recorded != before.Recorded || after.Unmatched != before.Unmatched || after.Lost != before.Lost {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if c := f.mustRead(t, "proc"); Any(&c) {
		t.Error("proc has a slot")
	}
}

func TestFSOpsReadAllocatesNothing(t *testing.T) {
	f := openFSOps(t, FSOpsOptions{})
	var c FSOpsCounts
	if n := testing.AllocsPerRun(100, func() { _, _ = f.Read(0, &c), f.Counts() }); n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}

// BenchmarkFSOps reports the kernel's own figures for operations on a file in memory.
func BenchmarkFSOps(b *testing.B) {
	f := openFSOps(b, FSOpsOptions{OnlyTGID: uint32(os.Getpid())})
	spanStats(b)
	name := filepath.Join("/tmp", "slid-fsops")
	defer os.Remove(name)
	for b.Loop() {
		if err := operateOnce(name); err != nil {
			b.Fatal(err)
		}
	}
	spanReport(b, f.Probe)
}
