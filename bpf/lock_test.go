package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func openLock(tb testing.TB, opts LockOptions) *Lock {
	tb.Helper()
	requireCapabilities(tb)
	l, err := NewLock(&Kernel{}, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// mustRead returns what the probe counted of a kind.
func (l *Lock) mustRead(tb testing.TB, kind int) (h Hist) {
	tb.Helper()
	if err := l.Kinds.Read(kind, &h); err != nil {
		tb.Fatal(err)
	}
	return h
}

// checkOwners checks that the waits of owners are those of the host. Threads of the runtime may wait meanwhile.
func (l *Lock) checkOwners(t *testing.T, kind int) {
	t.Helper()
	var owner LockCounts
	var host Hist
	for range 20 {
		if err := l.Read(RestSlot, &owner); err != nil {
			t.Fatal(err)
		}
		host = l.mustRead(t, kind)
		if owner.Waits[kind] == host.Count() && owner.WaitNS[kind] == host.SumNs {
			return
		}
	}
	t.Errorf("kind %d: owners have %d waits, %d ns; the host has %d, %d ns",
		kind, owner.Waits[kind], owner.WaitNS[kind], host.Count(), host.SumNs)
}

// A faultTrap is a page whose first touch stops the toucher until the test lets it go on (ioctl_userfaultfd(2)). So the
// kernel holds what it holds while it copies from the page as long as the test wants.
type faultTrap struct {
	fd   int
	page []byte
}

// setTrap makes a trap, or skips the test on a kernel without them.
func setTrap(t *testing.T) *faultTrap {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno == unix.ENOSYS {
		t.Skip("needs a kernel with CONFIG_USERFAULTFD=y")
	}
	if errno != 0 {
		t.Fatal("userfaultfd:", errno)
	}
	trap := &faultTrap{fd: int(fd)}
	t.Cleanup(func() { unix.Close(trap.fd) })
	api := struct{ api, features, ioctls uint64 }{api: 0xaa} // UFFD_API
	trap.ioctl(t, 0xc018aa3f, unsafe.Pointer(&api))          // UFFDIO_API
	var err error
	trap.page, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(trap.page) })
	region := struct{ start, length, mode, ioctls uint64 }{trap.start(), uint64(len(trap.page)), 1, 0} // missing pages
	trap.ioctl(t, 0xc020aa00, unsafe.Pointer(&region))                                                 // UFFDIO_REGISTER
	return trap
}

func (f *faultTrap) start() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(f.page)))) }

func (f *faultTrap) ioctl(t *testing.T, request uintptr, argument unsafe.Pointer) {
	t.Helper()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), request, uintptr(argument)); errno != 0 {
		t.Fatalf("ioctl %#x of userfaultfd: %v", request, errno)
	}
}

// caught waits until someone is in the trap.
func (f *faultTrap) caught(t *testing.T) {
	t.Helper()
	ready := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(ready, 20000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("nobody came into the trap: %v", err)
		}
		return
	}
}

// release gives the page content: zeros.
func (f *faultTrap) release(t *testing.T) {
	t.Helper()
	zero := struct{ start, length, mode, done uint64 }{f.start(), uint64(len(f.page)), 0, 0}
	f.ioctl(t, 0xc020aa04, unsafe.Pointer(&zero)) // UFFDIO_ZEROPAGE
}

// A contender runs an operation on a thread of its own.
type contender struct {
	tid  int
	took time.Duration // by its own clock
	done chan error
}

func contend(operation func() error) *contender {
	c, started := &contender{done: make(chan error, 1)}, make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		started <- unix.Gettid()
		begin := time.Now()
		err := operation()
		c.took = time.Since(begin)
		c.done <- err
	}()
	c.tid = <-started
	return c
}

// asleep waits until the contender sleeps uninterruptibly, and not for a moment only.
func (c *contender) asleep(t *testing.T) {
	t.Helper()
	asleep := 0
	for deadline := time.Now().Add(20 * time.Second); asleep < 5; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", c.tid))
		if err != nil {
			t.Fatal(err)
		}
		asleep++
		if state := stat[bytes.LastIndexByte(stat, ')')+2]; state != 'D' {
			asleep = 0
		}
		if time.Now().After(deadline) {
			t.Fatalf("the contender does not sleep: %s", stat)
		}
	}
}

func (c *contender) wait(t *testing.T) {
	t.Helper()
	if err := <-c.done; err != nil {
		t.Fatal(err)
	}
}

// locked says what a test knows of a wait that it made.
type locked struct{ atLeast, atMost time.Duration }

// holdAndContend makes one writer stop amid its copying, with the lock of the file held, and another one wait for it.
func holdAndContend(t *testing.T, hold time.Duration, write func([]byte) error) locked {
	t.Helper()
	trap := setTrap(t)
	holder := contend(func() error { return write(trap.page[:1]) })
	trap.caught(t)
	waiter := contend(func() error { return write([]byte{1}) })
	waiter.asleep(t)
	begin := time.Now()
	time.Sleep(hold)
	atLeast := time.Since(begin)
	trap.release(t)
	holder.wait(t)
	waiter.wait(t)
	return locked{atLeast, waiter.took}
}

// A wait that the test makes is one wait of the right kind and has the right length: for the mutex of a pipe, and for
// the semaphore of a file's inode.
func TestLockMeasuresWaits(t *testing.T) {
	file, err := os.CreateTemp(spaceInMemory(t), "lock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close(); os.Remove(file.Name()) })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	for _, c := range []struct {
		name  string
		kind  int
		write func([]byte) error
	}{
		{"mutex", LockMutex, func(b []byte) error { _, err := unix.Write(int(w.Fd()), b); return err }},
		{"rwsem", LockRWSemWrite, func(b []byte) error { _, err := unix.Pwrite(int(file.Fd()), b, 0); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := openLock(t, LockOptions{OnlyTGID: uint32(os.Getpid())})
			for _, hold := range []time.Duration{20 * time.Millisecond, 150 * time.Millisecond} {
				before := l.mustRead(t, c.kind)
				want := holdAndContend(t, hold, c.write)
				after := l.mustRead(t, c.kind)
				// The runtime's own threads may wait for a lock too, for some microseconds.
				n, ns := after.Count()-before.Count(), time.Duration(after.SumNs-before.SumNs)
				t.Logf("%d waits, %v; by the test's clock %v to %v", n, ns, want.atLeast, want.atMost)
				if n == 0 || n > 10 || ns < want.atLeast || ns > want.atMost+hold/10 {
					t.Errorf("%d waits, %v; by the test's clock one of %v to %v", n, ns, want.atLeast, want.atMost)
				}
			}
			l.checkOwners(t, c.kind)
			if n := l.Counts(); n.Discarded != 0 || n.Lost != 0 {
				t.Errorf("discarded or lost some: %+v", n)
			}
		})
	}
}

// spaceInMemory returns a folder in memory: other file systems may take other locks, or none.
func spaceInMemory(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/dev/shm", "/tmp"} {
		var s unix.Statfs_t
		if unix.Statfs(dir, &s) == nil && s.Type == unix.TMPFS_MAGIC {
			return dir
		}
	}
	t.Skip("needs a tmpfs at /dev/shm or /tmp")
	return ""
}

// A wait during which the probe is detached and attached again is unknown, not a giant.
func TestLockForgetsWhenDetached(t *testing.T) {
	l := openLock(t, LockOptions{OnlyTGID: uint32(os.Getpid())})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	write := func(b []byte) error { _, err := unix.Write(int(w.Fd()), b); return err }
	trap := setTrap(t)
	holder := contend(func() error { return write(trap.page[:1]) })
	trap.caught(t)
	waiter := contend(func() error { return write([]byte{1}) })
	waiter.asleep(t)
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := l.Attach(); err != nil {
		t.Fatal(err)
	}
	before := l.Counts()
	trap.release(t)
	holder.wait(t)
	waiter.wait(t)
	if after := l.Counts(); after.Unmatched == before.Unmatched {
		t.Errorf("no wait was unmatched: %+v", after)
	}
	if h := l.mustRead(t, LockMutex); h.Count() != 0 {
		t.Errorf("%d waits for a mutex, %d ns", h.Count(), h.SumNs)
	}
}

// Threads that contend for real: in no kind is there more waiting than the threads had time together, and the sums of
// owners are those of the host.
func TestLockUnderContention(t *testing.T) {
	const threads = 4
	l := openLock(t, LockOptions{OnlyTGID: uint32(os.Getpid())})
	dir := spaceInMemory(t)
	begin := time.Now()
	var list []*contender
	for i := range threads {
		name := filepath.Join(dir, fmt.Sprintf("slid-lock-%d-%d", os.Getpid(), i))
		list = append(list, contend(func() error { return makeAndRemove(name, 3000) }))
	}
	for _, c := range list {
		c.wait(t)
	}
	elapsed := time.Since(begin)
	var waited time.Duration
	for kind := range LockKinds {
		h := l.mustRead(t, kind)
		t.Logf("kind %d: %d waits, %v", kind, h.Count(), time.Duration(h.SumNs))
		waited += time.Duration(h.SumNs)
		if kind < LockTaskKinds {
			l.checkOwners(t, kind)
		}
	}
	counts := l.Counts()
	t.Logf("%+v, missed %d", counts, spanMissed(t, l.Probe))
	if spent := elapsed * (threads + 20); waited > spent { // the runtime has threads of its own
		t.Errorf("waited %v in %v of %d threads", waited, elapsed, threads)
	}
	if counts.Lost+counts.Discarded > counts.Recorded/10+5 {
		t.Errorf("too many lost: %+v", counts)
	}
}

// makeAndRemove makes and removes a file n times, for which the kernel locks the folder, and maps and unmaps memory,
// for which it locks the address space.
func makeAndRemove(name string, n int) error {
	for range n {
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		memory, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
		if err == nil {
			err = unix.Munmap(memory)
		}
		if err := errors.Join(err, unix.Close(fd), unix.Unlink(name)); err != nil {
			return err
		}
	}
	return nil
}

func TestLockReadAllocatesNothing(t *testing.T) {
	l := openLock(t, LockOptions{})
	var owner LockCounts
	var h Hist
	n := testing.AllocsPerRun(100, func() {
		_, _, _ = l.Read(RestSlot, &owner), l.Kinds.Read(LockMutex, &h), l.Counts()
	})
	if n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}

// BenchmarkLock reports the kernel's own figure for one run of each program, under contention for folders.
func BenchmarkLock(b *testing.B) {
	l := openLock(b, LockOptions{OnlyTGID: uint32(os.Getpid())})
	spanStats(b)
	var list []*contender
	for i := range 4 {
		name := filepath.Join("/dev/shm", fmt.Sprintf("slid-lock-%d-%d", os.Getpid(), i))
		list = append(list, contend(func() error { return makeAndRemove(name, b.N) }))
	}
	for _, c := range list {
		if err := <-c.done; err != nil {
			b.Fatal(err)
		}
	}
	spanReport(b, l.Probe)
}
