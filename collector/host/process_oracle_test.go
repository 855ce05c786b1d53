package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	gops "github.com/shirou/gopsutil/v3/process"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// crowd starts n processes that sleep, in a pid namespace of their own, and waits until they are there. The end of
// the first of them, which follows from that of unshare, ends them all.
func crowd(tb testing.TB, n string) (end func()) {
	tb.Helper()
	testneed.Root(tb, "to make a pid namespace")
	const script = `i=0; while [ $i -lt "$0" ]; do sleep infinity & i=$((i+1)); done; echo ready; read line`
	cmd := exec.Command(testneed.Tool(tb, "unshare"), "--pid", "--fork", "--kill-child", "sh", "-c", script, n)
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		tb.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = in.Close()
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		}
	}
	tb.Cleanup(end)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		tb.Skipf("cannot start %s processes: %v", n, err)
	}
	return end
}

// BenchmarkProcessWalk walks over 2,000 sleeping processes and whatever else runs, by turns with gopsutil. The times
// are processor time (getrusage) for each process: of slid's one thread, and of the whole program while gopsutil
// works and until its garbage is collected, lest that be counted for slid.
func BenchmarkProcessWalk(b *testing.B) {
	crowd(b, "2000")
	r := start(b, envAt("/"), NewProcesses)
	p := r.Collector.(*Processes)
	ctx := b.Context()
	for range 3 {
		r.must()
	}
	b.Run("slid", func(b *testing.B) {
		b.ReportAllocs()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before := threadTime(b)
		for b.Loop() {
			if err := p.Collect(ctx, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(threadTime(b)-before)/float64(b.N)/float64(len(p.table.now)), "cpu-ns/process")
	})
	b.Run("ratio", func(b *testing.B) {
		var ours, theirs time.Duration
		var walks, processes int
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for b.Loop() {
			before := threadTime(b)
			for range 10 {
				if err := p.Collect(ctx, time.Now()); err != nil {
					b.Fatal(err)
				}
				walks++
			}
			ours += threadTime(b) - before
			before = cpuTime(b)
			for range 3 {
				processes += gopsutilWalk(b)
			}
			runtime.GC()
			theirs += cpuTime(b) - before
		}
		perProcess := float64(ours) / float64(walks) / float64(len(p.table.now))
		gopsutil := float64(theirs) / float64(processes)
		b.ReportMetric(perProcess, "slid-cpu-ns/process")
		b.ReportMetric(gopsutil, "gopsutil-cpu-ns/process")
		b.ReportMetric(gopsutil/perProcess, "gopsutil/slid")
	})
}

// threadTime returns the user and system time of the calling thread.
func threadTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// gopsutilWalk reads times and memory of all processes and returns their number.
func gopsutilWalk(tb testing.TB) int {
	list, err := gops.Processes()
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range list {
		_, _ = p.Times()
		_, _ = p.MemoryInfo()
	}
	return len(list)
}

// TestOracleProcesses compares with gopsutil, ps and the kernel's own sums on this machine. What changes meanwhile
// must lie between the readings before and after.
func TestOracleProcesses(t *testing.T) {
	r := start(t, envAt("/"), NewProcesses)
	p := r.Collector.(*Processes)
	for range 3 {
		r.must()
	}
	compared := 0
	for i := range p.table.now {
		e := &p.table.now[i]
		g, err := gops.NewProcess(e.pid)
		if err != nil {
			continue // it has ended
		}
		if stat, err := gopsutilStat(g); err == nil && stat.unchanged(e) {
			compared++
			if name := string(programName(nil, &processStat{comm: []byte(stat.name), kernel: e.kernel})); name != e.group.name {
				t.Errorf("%d: program %q, gopsutil %q", e.pid, e.group.name, name)
			}
			if stat.parent != e.parent {
				t.Errorf("%d: parent %d, gopsutil %d", e.pid, e.parent, stat.parent)
			}
			if stat.io != nil && e.taken[flowRead] > stat.io.ReadBytes || stat.io != nil && e.taken[flowWrite] > stat.io.WriteBytes {
				t.Errorf("%d: I/O %v, gopsutil %v", e.pid, e.taken[flowRead:], stat.io)
			}
		}
	}
	if compared < len(p.table.now)/2 {
		t.Errorf("only %d of %d processes were quiet", compared, len(p.table.now))
	}
	t.Logf("%d of %d processes compared", compared, len(p.table.now))
}

// gopsutilProcess is what gopsutil says of a process.
type gopsutilProcess struct {
	name         string
	parent       int32
	user, system float64
	io           *gops.IOCountersStat
}

func gopsutilStat(g *gops.Process) (s gopsutilProcess, err error) {
	times, err := g.Times()
	if err != nil {
		return s, err
	}
	comm, commErr := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.Pid)) // its Name replaces long names by the command's
	parent, parentErr := g.Ppid()
	s.io, _ = g.IOCounters() // need not be allowed
	from, to := bytes.IndexByte(comm, '('), bytes.LastIndexByte(comm, ')')
	if err := errors.Join(commErr, parentErr); err != nil || from < 0 || to < from {
		return s, errors.Join(err, errors.New("no name"))
	}
	s.name, s.parent, s.user, s.system = string(comm[from+1:to]), parent, times.User, times.System
	return s, nil
}

// unchanged says whether gopsutil read the same processor time: then the process slept since.
func (s *gopsutilProcess) unchanged(e *processEntry) bool {
	return int64(s.user*userHz+0.5) == int64(e.own[0]) && int64(s.system*userHz+0.5) == int64(e.own[1])
}

// TestOracleProcessTotals compares the numbers of processes by state with ps, and that of threads with the kernel's.
func TestOracleProcessTotals(t *testing.T) {
	crowd(t, "50")
	ps := testneed.Tool(t, "ps")
	r := start(t, envAt("/"), NewProcesses)
	eventually(t, func() error {
		before, err := psStates(ps)
		if err != nil {
			return err
		}
		p := r.must()
		after, err := psStates(ps)
		if err != nil {
			return err
		}
		for _, state := range [...]string{"sleeping", "blocked", "stopped", "defunct"} {
			got := p["system.process.count{"+state+"}"].value
			// Twice ps itself runs, and whoever runs may sleep a moment later.
			low, high := min(before[state], after[state])-before["running"], max(before[state], after[state])+before["running"]
			if got < low || got > high {
				return fmt.Errorf("%v processes are %s, want %v to %v as by ps", got, state, low, high)
			}
		}
		return nil
	})
}

// eventually tries until f succeeds: other processes of the machine begin and end all the time.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = f(); err == nil {
			return
		}
	}
	t.Error(err)
}

func psStates(ps string) (map[string]float64, error) {
	out, err := exec.Command(ps, "-e", "-o", "stat=").Output()
	states := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		names := [processStates]string{"running", "sleeping", "blocked", "stopped", "defunct"}
		states[names[processState(line[0], 1)]]++
	}
	return states, err
}

// TestProcessFilesGoWithProcesses counts the files that a walk keeps open.
func TestProcessFilesGoWithProcesses(t *testing.T) {
	before := openFiles(t)
	end := crowd(t, "200")
	r := start(t, envAt("/"), NewProcesses)
	for range 3 { // those seen twice have their file kept open
		r.must()
	}
	table := &r.Collector.(*Processes).table
	if n := openFiles(t) - before; n < 200 || n > len(table.now)+20 {
		t.Errorf("%d files are open for %d processes", n, len(table.now))
	}
	end()
	r.must()
	kept := 0
	for i := range table.now {
		if table.now[i].fd != 0 {
			kept++
		}
	}
	if free := keptProcesses(table.reader.dir) - table.reader.keep; kept != free {
		t.Errorf("%d files are kept, %d are accounted for", kept, free)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := openFiles(t); n > before+5 {
		t.Errorf("%d files are open in the end, %d were before", n, before)
	}
}

// TestProcessNameOfThisOne lets this process have a name that looks like the rest of the line.
func TestProcessNameOfThisOne(t *testing.T) {
	const comm = "/proc/self/comm"
	old, err := os.ReadFile(comm)
	if err != nil {
		t.Skip(err)
	}
	defer os.WriteFile(comm, bytes.TrimSpace(old), 0)
	r := start(t, envAt("/"), NewProcesses)
	p := r.Collector.(*Processes)
	for name, want := range map[string]string{") R 1 1 (\n0 0": ") R 1 1 (?0 0", "))((": "))((", "\xffé \t": "?é ?"} {
		if err := os.WriteFile(comm, []byte(name), 0); err != nil {
			t.Skip(err)
		}
		r.must()
		self := findProcess(p.table.now, int32(os.Getpid()))
		if self == nil || self.group.name != want || self.parent != int32(os.Getppid()) || self.start == 0 {
			t.Errorf("named %q this process is %+v in %+v", name, self, self.group)
		}
	}
}

// TestProcessCrowdVanishes ends 300 processes while walks go on.
func TestProcessCrowdVanishes(t *testing.T) {
	end := crowd(t, "300")
	r := start(t, envAt("/"), NewProcesses)
	before := r.must()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
	}()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		default:
		}
		r.must()
	}
	after := r.must()
	key := "system.process.count{sleeping}"
	if before[key].value-after[key].value < 250 {
		t.Errorf("%v processes sleep after 300 of %v have ended", after[key].value, before[key].value)
	}
}

// TestProcessChildrenOfTheKernel has children that live for less than a walk: what they use must go to the parent.
func TestProcessChildrenOfTheKernel(t *testing.T) {
	cmd := exec.Command(testneed.Tool(t, "sh"), "-c",
		`read go; i=0; while [ $i -lt 30 ]; do (j=0; while [ $j -lt 20000 ]; do j=$((j+1)); done); i=$((i+1)); done; echo done; read end`)
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), cmd.Wait() }()
	r := start(t, envAt("/"), NewProcesses)
	table := &r.Collector.(*Processes).table
	r.must()
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	r.must()
	shell := findProcess(table.now, int32(cmd.Process.Pid))
	if shell == nil || shell.pending[flowUser] < 5 {
		t.Fatalf("children of the shell left %+v", shell)
	}
	used := uint64(shell.pending[flowUser])
	r.must()
	if shell = findProcess(table.now, int32(cmd.Process.Pid)); shell.pending[flowUser] != 0 || shell.group.gained[flowUser] < used {
		t.Errorf("of %d ticks %d are still pending; its group gained %v", used, shell.pending[flowUser], shell.group.gained)
	}
}

// TestProcessHidden mounts a /proc that hides the processes of others, as ProtectProc= does.
func TestProcessHidden(t *testing.T) {
	testneed.Root(t, "to mount a /proc")
	result := make(chan error)
	var list []verdict.Verdict
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and its view of the machine with it
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				return err
			}
			// Before Linux 5.8, which does not know the word, the option would hold for the whole machine.
			if err := unix.Mount("proc", "/proc", "proc", 0, "hidepid=invisible"); err != nil {
				return err
			}
			const nobody = 65534
			for _, call := range [...]uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of this thread alone
				if _, _, errno := unix.RawSyscall(call, nobody, nobody, nobody); errno != 0 {
					return errno
				}
			}
			env := envAt("/")
			env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("test", metric.ClassHost, processBudget)
			c, err := NewProcesses(env)
			if err != nil {
				return err
			}
			defer c.Close()
			err = c.Collect(t.Context(), tick0)
			list = c.Verdicts()
			return err
		}()
	}()
	err := <-result
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		t.Skip("cannot mount a /proc with hidepid: ", err)
	}
	if len(list) != 1 || list[0].State == verdict.Active || err == nil && !strings.Contains(list[0].Missing, "hidepid") {
		t.Errorf("%+v, %v; want a verdict about hidepid", list, err)
	}
	t.Logf("%+v", list)
}
