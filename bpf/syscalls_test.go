package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
)

func openSyscalls(tb testing.TB, tgid int, numbers ...uint32) *Syscalls {
	tb.Helper()
	requireCapabilities(tb)
	s, err := NewSyscalls(&Kernel{}, SyscallsOptions{Numbers: numbers, OnlyTGID: uint32(tgid)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// mustRead returns what the probe counted of a call.
func (s *Syscalls) mustRead(tb testing.TB, call int) (c SyscallCounts) {
	tb.Helper()
	if err := s.Calls.Read(call, &c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// failed returns how many calls failed.
func (c *SyscallCounts) failed() (n uint64) {
	for _, e := range &c.Errors {
		n += e
	}
	return n
}

// lockFile opens a file for flock(2), which the runtime has no use for.
func lockFile(tb testing.TB, dir string) *os.File {
	tb.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}

// Calls are counted exactly, by success and error number, and take as long as by the test's clock.
func TestSyscallsCountsAndMeasures(t *testing.T) {
	s := openSyscalls(t, os.Getpid(), unix.SYS_FLOCK, unix.SYS_CLOCK_NANOSLEEP)
	f := lockFile(t, t.TempDir())
	for range 100 {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(-1, unix.LOCK_EX); !errors.Is(err, unix.EBADF) {
			t.Fatal(err)
		}
	}
	flock := s.mustRead(t, 0)
	if n := flock.Duration.Count(); n != 200 || flock.failed() != 100 || flock.Errors[unix.EBADF] != 100 {
		t.Errorf("%d calls of flock, %d failed, %d with EBADF; want 200, 100 and 100",
			n, flock.failed(), flock.Errors[unix.EBADF])
	}
	if longest := spanLongest(&flock.Duration, &Hist{}); longest > 10*time.Second {
		t.Errorf("flock took %v", longest)
	}

	const pause = 50 * time.Millisecond
	begin := time.Now()
	if err := pauseFor(pause); err != nil {
		t.Fatal(err)
	}
	elapsed := time.Since(begin)
	sleep := s.mustRead(t, 1)
	if took := time.Duration(sleep.Duration.SumNs); sleep.Duration.Count() != 1 || took < pause || took > elapsed {
		t.Errorf("%d calls of clock_nanosleep, %v; want one of %v to %v", sleep.Duration.Count(), took, pause, elapsed)
	}

	var sums SyscallSums
	if err := s.Read(RestSlot, &sums); err != nil {
		t.Fatal(err)
	}
	if sums.Calls[0] != 200 || sums.Errors[0] != 100 || sums.TimeNS[0] != flock.Duration.SumNs ||
		sums.Calls[1] != 1 || sums.TimeNS[1] != sleep.Duration.SumNs {
		t.Errorf("owners have other sums: %+v", sums)
	}
	if n := s.Counts(); n.Recorded != 201 || n.Unmatched+n.Discarded+n.Lost+n.Skipped != 0 {
		t.Errorf("got %+v", n)
	}
}

// pauseFor sleeps in one system call.
func pauseFor(d time.Duration) error {
	ts := unix.NsecToTimespec(int64(d))
	return unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
}

// A process's reads are those that the kernel counts for it. Both sides are read one after the other.
func TestSyscallsAgreeWithIOAccount(t *testing.T) {
	testneed.File(t, "/proc/self/io", "a kernel with CONFIG_TASK_IO_ACCOUNTING=y")
	s := openSyscalls(t, os.Getpid(), unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_READV, unix.SYS_PREADV, unix.SYS_PREADV2)
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	counted := func() (n uint64) {
		for call := range 5 {
			c := s.mustRead(t, call)
			n += c.Duration.Count()
		}
		return n
	}
	before0, from, before1 := readCalls(t), counted(), readCalls(t)
	var buf [1]byte
	for range 5000 {
		if _, err := zero.ReadAt(buf[:], 0); err != nil {
			t.Fatal(err)
		}
	}
	after0, to, after1 := readCalls(t), counted(), readCalls(t)
	t.Logf("probe: %d reads; the kernel: %d to %d", to-from, after0-before1, after1-before0)
	if n := to - from; n+2 < after0-before1 || n > after1-before0+2 || n < 5000 {
		t.Errorf("%d reads; the kernel counted %d to %d", n, after0-before1, after1-before0)
	}
}

// readCalls returns how many calls read something for this process: syscr of /proc/self/io (proc_pid_io(5)).
func readCalls(t *testing.T) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "syscr: "); ok {
			return spanNumber(t, strings.TrimSpace(n))
		}
	}
	t.Fatal("/proc/self/io has no syscr")
	return 0
}

// A prompt is a shell that runs a command when the test says so.
type prompt struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// startPrompt starts a shell that becomes a command, or runs it, after the test called run.
func startPrompt(t *testing.T, command string) *prompt {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read line; "+command)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &prompt{cmd, in}
}

func (p *prompt) run(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// awaitState waits until the process has a name and a state.
func (p *prompt) awaitState(t *testing.T, name, states string) {
	t.Helper()
	var stat []byte
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stat, _ = os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if f := strings.Fields(string(stat)); len(f) > 2 && f[1] == "("+name+")" && strings.Contains(states, f[2]) {
			return
		}
	}
	t.Fatalf("no process %s in state %s: %s", name, states, stat)
}

// A call that is stopped and goes on is one call; exec is one although another program comes back from it; exit_group
// never comes back and is none.
func TestSyscallsOfAProcess(t *testing.T) {
	testneed.Tool(t, "sleep")
	p := startPrompt(t, "exec sleep 0.5")
	s := openSyscalls(t, p.cmd.Process.Pid,
		unix.SYS_CLOCK_NANOSLEEP, unix.SYS_NANOSLEEP, unix.SYS_EXECVE, unix.SYS_EXIT_GROUP)
	begin := time.Now()
	p.run(t)
	p.awaitState(t, "sleep", "S")
	if err := p.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.awaitState(t, "sleep", "T")
	if err := p.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	elapsed := time.Since(begin)
	sleep, other := s.mustRead(t, 0), s.mustRead(t, 1)
	Plus(&sleep, &other)
	took := time.Duration(sleep.Duration.SumNs)
	if n := sleep.Duration.Count(); n != 1 || sleep.failed() != 0 || took < 490*time.Millisecond || took > elapsed {
		t.Errorf("%d sleeps, %v, %d failed; want one of 0.5 s to %v", n, took, sleep.failed(), elapsed)
	}
	if c := s.mustRead(t, 2); c.Duration.Count()-c.failed() != 1 {
		t.Errorf("%d calls of execve, %d failed; want one that did not", c.Duration.Count(), c.failed())
	}
	if c := s.mustRead(t, 3); c.Duration.Count() != 0 {
		t.Errorf("%d calls of exit_group came back", c.Duration.Count())
	}
	if n := s.Counts(); n.Unmatched+n.Discarded+n.Lost != 0 {
		t.Errorf("got %+v", n)
	}
}

// A call that a handler interrupts failed with EINTR, and what the kernel starts again is another one. A call that began
// before the probe did is unmatched.
func TestSyscallsInterrupted(t *testing.T) {
	dir := t.TempDir()
	f := lockFile(t, dir)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	early := contend(func() error { return lockOnce(dir) })
	early.sleeping(t)
	s := openSyscalls(t, os.Getpid(), unix.SYS_FLOCK)
	late := contend(func() error { return lockOnce(dir) })
	late.sleeping(t)
	// The runtime has a handler for it, which asks for calls to be started again.
	if err := unix.Tgkill(os.Getpid(), late.tid, unix.SIGURG); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); s.Counts().Recorded == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no interrupted call: %+v", s.Counts())
		}
	}
	late.sleeping(t)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	early.wait(t)
	late.wait(t)
	c := s.mustRead(t, 0)
	if n := c.Duration.Count(); n != 3 || c.failed() != 1 || c.Errors[unix.EINTR] != 1 {
		t.Errorf("%d calls, %d failed, %d with EINTR; want 3: the test's, and the late one's two", n, c.failed(),
			c.Errors[unix.EINTR])
	}
	if n := s.Counts(); n.Unmatched != 1 {
		t.Errorf("the early call is not unmatched: %+v", n)
	}
}

// lockOnce waits for the lock of a file and gives it up with the file.
func lockOnce(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, "lock"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_EX)
}

// sleeping waits until the contender is in flock.
func (c *contender) sleeping(t *testing.T) {
	t.Helper()
	want := fmt.Sprintf("%d ", unix.SYS_FLOCK)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		call, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", c.tid))
		if err != nil {
			t.Skip("needs /proc/PID/syscall:", err)
		}
		if strings.HasPrefix(string(call), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the contender is in the call %s", call)
		}
	}
}

// tiny32 is an i386 program that calls getpid(2) and exit(2) of i386; on x86-64 the number of the former is writev's.
var tiny32 = []byte("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x02\x00\x03\x00\x01\x00\x00\x00\x54\x80\x04\x08\x34\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x34\x00\x20\x00" +
	"\x01\x00\x28\x00\x00\x00\x00\x00" +
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x80\x04\x08\x00\x80\x04\x08\x70\x00\x00\x00\x70\x00\x00\x00\x05\x00\x00\x00" +
	"\x00\x10\x00\x00" +
	"\xb8\x14\x00\x00\x00\xcd\x80\xb8\x01\x00\x00\x00\x31\xdb\xcd\x80\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90")

// The numbers of a 32-bit program are not taken for those of others.
func TestSyscallsLeavesOut32Bit(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs an x86-64 machine")
	}
	program := filepath.Join(t.TempDir(), "tiny32")
	if err := os.WriteFile(program, tiny32, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(program).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("needs a kernel with CONFIG_IA32_EMULATION=y")
	} else if err != nil {
		t.Fatal(err)
	}
	p := startPrompt(t, "exec "+program)
	s := openSyscalls(t, p.cmd.Process.Pid, unix.SYS_WRITEV, unix.SYS_EXECVE)
	p.run(t)
	if err := p.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if c := s.mustRead(t, 0); c.Duration.Count() != 0 {
		t.Errorf("%d calls of writev in a program that calls getpid of i386", c.Duration.Count())
	}
}

// Sampled, the weights make up for what is left out.
func TestSyscallsSamples(t *testing.T) {
	const calls = 20000
	s := openSyscalls(t, os.Getpid(), unix.SYS_FLOCK)
	if err := s.Sample(3); err != nil {
		t.Fatal(err)
	}
	for range calls {
		_ = unix.Flock(-1, unix.LOCK_EX) // EBADF
	}
	c, n := s.mustRead(t, 0), s.Counts()
	t.Logf("%d calls of %d, %+v", c.Duration.Count(), calls, n)
	if got := c.Duration.Count(); got%8 != 0 || !within(got, calls, 0.15) || c.Errors[unix.EBADF] != got {
		t.Errorf("%d calls, %d errors; want some %d", got, c.Errors[unix.EBADF], calls)
	}
	if n.Recorded+n.Skipped != calls {
		t.Errorf("%d recorded and %d skipped of %d", n.Recorded, n.Skipped, calls)
	}
}

func TestSyscallsRefusesWhatItCannotTellApart(t *testing.T) {
	for name, numbers := range map[string][]uint32{
		"twice": {unix.SYS_READ, unix.SYS_READ}, "large": {600}, "restart": {unix.SYS_RESTART_SYSCALL},
		"many": make([]uint32, MaxSyscalls+1),
	} {
		if _, err := NewSyscalls(&Kernel{}, SyscallsOptions{Numbers: numbers}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSyscallsReadAllocatesNothing(t *testing.T) {
	s := openSyscalls(t, 0, unix.SYS_FSYNC)
	var sums SyscallSums
	var c SyscallCounts
	n := testing.AllocsPerRun(100, func() { _, _, _ = s.Read(RestSlot, &sums), s.Calls.Read(0, &c), s.Counts() })
	if n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}

// BenchmarkSyscalls reports the kernel's own figures for wanted calls.
func BenchmarkSyscalls(b *testing.B) {
	s := openSyscalls(b, 0, unix.SYS_GETPPID)
	spanStats(b)
	for b.Loop() {
		unix.Getppid()
	}
	spanReport(b, s.Probe)
}

// BenchmarkSyscallsSlowdown reports what getppid takes without the probe, with it for another call, and with it for
// getppid: in turns, since the machine's speed changes.
func BenchmarkSyscallsSlowdown(b *testing.B) {
	const turn = 20000
	var spent [3]time.Duration
	s := [3]*Syscalls{1: openSyscalls(b, 0, unix.SYS_FSYNC), 2: openSyscalls(b, 0, unix.SYS_GETPPID)}
	for _, p := range s[1:] {
		if err := p.Detach(); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for i, p := range s {
			if p != nil {
				if err := p.Attach(); err != nil {
					b.Fatal(err)
				}
			}
			begin := time.Now()
			for range turn {
				unix.Getppid()
			}
			spent[i] += time.Since(begin)
			if p != nil {
				if err := p.Detach(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for i, unit := range []string{"bare-ns/call", "unwanted-ns/call", "wanted-ns/call"} {
		b.ReportMetric(float64(spent[i])/float64(b.N)/turn, unit)
	}
	b.ReportMetric(float64(spent[1])/float64(spent[0]), "unwanted-ratio")
	b.ReportMetric(float64(spent[2])/float64(spent[0]), "wanted-ratio")
}
