package bpf

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/pairtest"
	"github.com/slid-agent/slid/internal/testneed"
)

// loadEnv, when set, makes the test binary the load of TestRunQueueAgreesWithSchedstat.
const loadEnv = "SLID_TEST_LOAD"

func TestMain(m *testing.M) {
	if os.Getenv(loadEnv) != "" {
		makeLoad()
		return
	}
	os.Exit(m.Run())
}

// loadThreads compete for the CPUs: half of them spin, half sleep and wake up.
const loadThreads = 12

// makeLoad runs rounds of load. A line on stdin starts a round, the next one ends it; lines on stdout say that the
// load is ready and that a round has stopped. All threads live until stdin closes, since a thread takes its figures
// with it.
func makeLoad() {
	var halt atomic.Bool
	start, done := make([]chan struct{}, loadThreads), make(chan struct{})
	for i := range start {
		start[i] = make(chan struct{})
		go loadThread(i < loadThreads/2, start[i], done, &halt)
	}
	in := bufio.NewScanner(os.Stdin)
	fmt.Fprintln(os.Stdout, "ready")
	for in.Scan() {
		halt.Store(false)
		for _, c := range start {
			c <- struct{}{}
		}
		in.Scan()
		halt.Store(true)
		for range start {
			<-done
		}
		fmt.Fprintln(os.Stdout, "stopped")
	}
}

// loadThread works in each round until halt is set.
func loadThread(spins bool, start <-chan struct{}, done chan<- struct{}, halt *atomic.Bool) {
	runtime.LockOSThread()
	for range start {
		for !halt.Load() {
			if !spins {
				sleepTurn()
			}
		}
		done <- struct{}{}
	}
}

// sleepTurn sleeps in the kernel for a moment and works for a moment.
func sleepTurn() {
	ts := unix.Timespec{Nsec: 300_000}
	_ = unix.Nanosleep(&ts, nil)
	for end := time.Now().Add(100 * time.Microsecond); time.Now().Before(end); {
	}
}

// A load is a running makeLoad.
type load struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	chosen func(tid int) bool // the threads that the probe records; nil: all
	weight uint64             // of each of them
}

// startLoad starts a shell that becomes the load at the first line it reads. A probe attached before that line sees
// all threads of the load from their first moment.
func startLoad(t *testing.T) *load {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `read line; exec "$0"`, self)
	// More threads that run Go than CPUs, so that the kernel has to choose; no collector threads of their own.
	cmd.Env = append(os.Environ(), loadEnv+"=1", "GOMAXPROCS=16", "GOGC=off")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return &load{cmd: cmd, in: in, out: bufio.NewReader(out), weight: 1}
}

// say writes a line to the load.
func (l *load) say(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(l.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// expect waits for a line of the load.
func (l *load) expect(t *testing.T, want string) {
	t.Helper()
	line, err := l.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		t.Fatalf("load said %q (%v), want %q", line, err, want)
	}
}

// schedstat is what /proc/PID/task/*/schedstat (Documentation/scheduler/sched-stats.rst) and status say of threads
// together.
type schedstat struct{ waitNS, slices, preempted uint64 }

func (l *load) schedstat(t *testing.T) (sum schedstat) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", l.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no tasks of process %d: %v", l.cmd.Process.Pid, err)
	}
	for _, task := range tasks {
		if tid := parseUint(t, filepath.Base(task)); l.chosen != nil && !l.chosen(int(tid)) {
			continue
		}
		f := strings.Fields(readText(t, task+"/schedstat"))
		if len(f) != 3 {
			t.Fatalf("%s: schedstat %q has not three fields", task, f)
		}
		sum.waitNS += parseUint(t, f[1])
		sum.slices += parseUint(t, f[2])
		_, after, _ := strings.Cut(readText(t, task+"/status"), "\nnonvoluntary_ctxt_switches:")
		sum.preempted += parseUint(t, strings.Fields(after)[0])
	}
	return sum
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func parseUint(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// openRunQueue opens the probe or ends the test; it skips where probes may not be loaded.
func openRunQueue(tb testing.TB, opts RunQueueOptions) *RunQueue {
	tb.Helper()
	requireCapabilities(tb)
	return openRunQueueBy(tb, opts, runQueueRungs())
}

// openRunQueueBy opens the probe by one of the given rungs.
func openRunQueueBy(tb testing.TB, opts RunQueueOptions, rungs []rung) *RunQueue {
	tb.Helper()
	r, err := newRunQueue(&Kernel{}, opts, rungs)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.Close() })
	return r
}

// runQueueTotals is what the probe counted in all.
type runQueueTotals struct {
	RunQueueCounts
	Counts
}

func (r *RunQueue) mustRead(tb testing.TB) (t runQueueTotals) {
	tb.Helper()
	if err := r.Read(RestSlot, &t.RunQueueCounts); err != nil {
		tb.Fatal(err)
	}
	t.Counts = r.Counts()
	return t
}

// The histogram's sum and count of a process's waits are those that the scheduler itself accounts for its threads. The
// count may fall short a little: Linux 6.18 does not call the tracepoint for one in some thousand switches, by its own
// counter of them (ctxt in /proc/stat). Such a wait is part of the task's next one, so the sum holds all the same.
//
// Waits after a preemption are as many as the scheduler counted involuntary switches.
func TestRunQueueAgreesWithSchedstat(t *testing.T) {
	g := measureLoad(t, runQueueRungs()[:1], nil)
	if !within(g.WaitNS, g.schedstat.waitNS, 0.01) {
		t.Errorf("sum of waits %d ns, the scheduler counted %d ns", g.WaitNS, g.schedstat.waitNS)
	}
}

// By the fallback the number of waits is the same. Their sum is larger: a wait begins with the wakeup, which the
// scheduler counts only when the task is on a run queue, and it uses another clock.
func TestRunQueueFallbackAgreesWithSchedstat(t *testing.T) {
	g := measureLoad(t, runQueueRungs()[1:], nil)
	if !within(g.WaitNS, g.schedstat.waitNS, 0.05) {
		t.Errorf("sum of waits %d ns, the scheduler counted %d ns", g.WaitNS, g.schedstat.waitNS)
	}
}

// A sample has the waits of some threads, each with the weight that makes up for the others.
func TestRunQueueSampleAgreesWithSchedstat(t *testing.T) {
	const shift = 1
	g := measureLoad(t, runQueueRungs()[:1], func(r *RunQueue, l *load) {
		if err := r.Sample(shift); err != nil {
			t.Fatal(err)
		}
		l.weight = 1 << shift
		l.chosen = func(tid int) bool { return (uint32(tid)^r.salt)*0x9e3779b1>>(32-shift) == 0 }
	})
	if !within(g.WaitNS, g.schedstat.waitNS<<shift, 0.01) {
		t.Errorf("sum of waits %d ns, the scheduler counted %d ns for one in %d", g.WaitNS, g.schedstat.waitNS, 1<<shift)
	}
	if g.Skipped == 0 {
		t.Error("no event was skipped")
	}
}

// Who finds his seat taken remembers elsewhere: nothing is lost and nothing is counted twice, whether all seats are taken
// or every other one.
func TestRunQueueWithoutSeatsAgreesWithSchedstat(t *testing.T) {
	for _, step := range []uint32{1, 2} {
		t.Run(fmt.Sprintf("one in %d taken", step), func(t *testing.T) {
			const stranger = 1 // distances of addresses are none of 1
			g := measureLoad(t, runQueueRungs()[:1], func(r *RunQueue, _ *load) {
				seats := r.collection.Maps[gen.RunqueueMapRunqueueSeats]
				for i := uint32(0); i < seats.MaxEntries(); i += step {
					if err := seats.Put(i, runQueueSeat{stranger}); err != nil {
						t.Fatal(err)
					}
				}
				t.Cleanup(func() {
					if n := len(takenSeats(t, r)); n < int(seats.MaxEntries()/step) {
						t.Errorf("only %d seats are taken", n)
					}
				})
			})
			if !within(g.WaitNS, g.schedstat.waitNS, 0.01) {
				t.Errorf("sum of waits %d ns, the scheduler counted %d ns", g.WaitNS, g.schedstat.waitNS)
			}
		})
	}
}

// takenSeats returns the holders of seats.
func takenSeats(t *testing.T, r *RunQueue) (holders []uint64) {
	t.Helper()
	var seat runQueueSeat
	var key uint32
	for entries := r.collection.Maps[gen.RunqueueMapRunqueueSeats].Iterate(); entries.Next(&key, &seat); {
		if seat[0] != 0 {
			holders = append(holders, seat[0])
		}
	}
	return holders
}

// A task has a seat from its first wait on until it is gone: then the next one may sit there.
func TestRunQueueSeatsAreGivenBack(t *testing.T) {
	for i, rung := range runQueueRungs() {
		t.Run(rung.hook, func(t *testing.T) {
			requireCapabilities(t)
			l := startLoad(t)
			r := openRunQueueBy(t, RunQueueOptions{OnlyTGID: uint32(l.cmd.Process.Pid)}, runQueueRungs()[i:i+1])
			l.say(t)
			l.expect(t, "ready")
			l.round(t, r, 1000)
			if n := len(takenSeats(t, r)); n < loadThreads-2 { // but for those whose seats are the same
				t.Errorf("%d threads have %d seats", loadThreads, n)
			}
			if err := l.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = l.cmd.Wait() // it was killed
			for deadline := time.Now().Add(10 * time.Second); len(takenSeats(t, r)) > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d seats are still taken", len(takenSeats(t, r)))
				}
			}
		})
	}
}

// What waits while the probe is detached is no wait of later: neither way to measure makes a giant of it, and what comes
// then is counted.
func TestRunQueueIsAttachedAgain(t *testing.T) {
	for i, r := range runQueueRungs() {
		t.Run(r.hook, func(t *testing.T) {
			requireCapabilities(t)
			l := startLoad(t)
			r := openRunQueueBy(t, RunQueueOptions{OnlyTGID: uint32(l.cmd.Process.Pid)}, runQueueRungs()[i:i+1])
			l.say(t)
			l.expect(t, "ready")
			l.round(t, r, 1000)
			if err := r.Detach(); err != nil {
				t.Fatal(err)
			}
			before, stat := r.mustRead(t), l.schedstat(t)
			l.say(t)
			for l.schedstat(t).waitNS < stat.waitNS+3e9 {
				time.Sleep(10 * time.Millisecond)
			}
			stat = l.schedstat(t)
			if err := r.Attach(); err != nil {
				t.Fatal(err)
			}
			awaitCount(t, r, before.Wait.Count()+1000)
			after, wait := r.mustRead(t), l.schedstat(t).waitNS-stat.waitNS
			l.say(t)
			l.expect(t, "stopped")
			if got := after.Wait.SumNs - before.Wait.SumNs; got > wait+wait/10+1e8 {
				t.Errorf("%d ns of waits, the scheduler counted %d since it was attached", got, wait)
			}
			if after.Unmatched == before.Unmatched {
				t.Error("no wait is unmatched that began before")
			}
		})
	}
}

// growth is what a probe and the scheduler counted during a round of load.
type growth struct {
	Waits, WaitNS, Preempted uint64
	Skipped                  uint64
	schedstat                schedstat
}

// measureLoad runs a round of load and compares the counts of both sides. prepare may change the probe, and the load's
// account of what it records.
func measureLoad(t *testing.T, rungs []rung, prepare func(*RunQueue, *load)) (g growth) {
	t.Helper()
	requireCapabilities(t)
	l := startLoad(t)
	r := openRunQueueBy(t, RunQueueOptions{OnlyTGID: uint32(l.cmd.Process.Pid)}, rungs)
	if prepare != nil {
		prepare(r, l)
	}
	l.say(t)
	l.expect(t, "ready")
	totals0, stat0 := l.settled(t, r)
	l.round(t, r, 10000)
	totals1, stat1 := l.settled(t, r)

	g.Waits = totals1.Wait.Count() - totals0.Wait.Count()
	g.WaitNS = totals1.Wait.SumNs - totals0.Wait.SumNs
	g.Skipped = totals1.Skipped - totals0.Skipped
	for by := range totals1.Preempted {
		g.Preempted += totals1.Preempted[by] - totals0.Preempted[by]
	}
	g.schedstat = schedstat{
		stat1.waitNS - stat0.waitNS, stat1.slices - stat0.slices, stat1.preempted - stat0.preempted,
	}
	t.Logf("scheduler: %+v; probe: %d ns in %d waits, %d of them preempted, %d unmatched, %d skipped",
		g.schedstat, g.WaitNS, g.Waits, g.Preempted, totals1.Unmatched-totals0.Unmatched, g.Skipped)
	if totals1.Discarded != 0 {
		t.Errorf("%d waits of negative length", totals1.Discarded)
	}
	if !within(g.Waits, l.weight*g.schedstat.slices, 0.01) {
		t.Errorf("%d waits, the scheduler counted %d", g.Waits, l.weight*g.schedstat.slices)
	}
	if !within(g.Preempted, l.weight*g.schedstat.preempted, 0.02) {
		t.Errorf("%d preempted waits, the scheduler counted %d", g.Preempted, l.weight*g.schedstat.preempted)
	}
	return g
}

// round runs the load until the probe has recorded n more waits.
func (l *load) round(t *testing.T, r *RunQueue, n uint64) {
	t.Helper()
	before := r.mustRead(t)
	l.say(t)
	awaitCount(t, r, before.Wait.Count()+n)
	l.say(t)
	l.expect(t, "stopped")
}

// settled waits until the load's threads sleep, and returns the totals of both sides at that time.
func (l *load) settled(t *testing.T, r *RunQueue) (totals runQueueTotals, stat schedstat) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		stat, totals = l.schedstat(t), r.mustRead(t)
		time.Sleep(20 * time.Millisecond)
		if stat == l.schedstat(t) && totals.RunQueueCounts == r.mustRead(t).RunQueueCounts {
			return totals, stat
		}
	}
	t.Fatal("the load does not come to rest")
	return totals, stat
}

// awaitCount waits until the probe has recorded n waits.
func awaitCount(t *testing.T, r *RunQueue, n uint64) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		totals := r.mustRead(t)
		if totals.Wait.Count() >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d waits in 30 s", totals.Wait.Count())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// within says whether got differs from want by at most the given part of it.
func within(got, want uint64, part float64) bool {
	d := float64(got) - float64(want)
	return max(d, -d) <= part*float64(want)
}

// Without a filter the probe sees the whole host.
func TestRunQueueSeesHost(t *testing.T) {
	r := openRunQueue(t, RunQueueOptions{})
	awaitCount(t, r, 100)
	totals := r.mustRead(t)
	if totals.Runs < totals.Wait.Count()+totals.Unmatched+totals.Discarded {
		t.Errorf("%d runs gave %d waits", totals.Runs, totals.Wait.Count())
	}
	if totals.Wait.SumNs == 0 || totals.Discarded > totals.Runs/1000 {
		t.Errorf("sum %d ns, %d of %d waits discarded", totals.Wait.SumNs, totals.Discarded, totals.Runs)
	}
}

func TestRunQueueReadAllocatesNothing(t *testing.T) {
	r := openRunQueue(t, RunQueueOptions{})
	var totals RunQueueCounts
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Read(RestSlot, &totals), r.Counts() }); n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}

func BenchmarkRunQueueRead(b *testing.B) {
	r := openRunQueue(b, RunQueueOptions{})
	var totals RunQueueCounts
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Read(RestSlot, &totals); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRunQueueSwitch reports the kernel's own figure for one run of the program (bpf statistics), and the figure
// of the program itself, while two threads of one CPU wake each other up.
func BenchmarkRunQueueSwitch(b *testing.B) {
	r := openRunQueue(b, RunQueueOptions{})
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skip("bpf statistics:", err)
	}
	defer stats.Close()
	before := r.mustRead(b)
	pingPong(b)
	after := r.mustRead(b)
	s, err := r.collection.Programs[gen.RunqueueProgRunqueueSwitch].Stats()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(s.Runtime.Nanoseconds())/float64(s.RunCount), "ns/run")
	if n := after.TimedRuns - before.TimedRuns; n > 0 {
		b.ReportMetric(float64(after.TimedNS-before.TimedNS)/float64(n), "ns/timed-run")
	}
}

// pingPong passes a byte between two threads through pipes, b.N times. Both run on CPU 0, so that every switch goes
// from one to the other and hardly any to the idle task.
func pingPong(b *testing.B) {
	var there, back [2]int
	if err := unix.Pipe(there[:]); err != nil {
		b.Fatal(err)
	}
	if err := unix.Pipe(back[:]); err != nil {
		b.Fatal(err)
	}
	go func() {
		pin(b)
		var buf [1]byte
		for {
			if n, _ := unix.Read(there[0], buf[:]); n != 1 {
				return
			}
			_, _ = unix.Write(back[1], buf[:])
		}
	}()
	pin(b)
	var buf [1]byte
	for b.Loop() {
		_, _ = unix.Write(there[1], buf[:])
		_, _ = unix.Read(back[0], buf[:])
	}
	for _, fd := range append(there[:], back[:]...) {
		unix.Close(fd)
	}
}

// pin keeps the goroutine on CPU 0, on a thread that ends with it.
func pin(tb testing.TB) {
	runtime.LockOSThread()
	var cpu unix.CPUSet
	cpu.Set(0)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		tb.Error(err)
	}
}

// BenchmarkRunQueuePipe measures what the probe adds to a program that does nothing but switch: perf bench sched pipe,
// both ends on one CPU, with the probe and without by turns. The figure is the ratio of its CPU times. With
// "-bench RunQueuePipe -benchtime 30x" it takes half a minute.
func BenchmarkRunQueuePipe(b *testing.B) {
	perf, taskset := testneed.Tool(b, "perf"), testneed.Tool(b, "taskset")
	k := &Kernel{}
	openOwners(b, k)
	r, err := NewRunQueue(k, RunQueueOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	var ratios []float64
	for b.Loop() {
		with, without := pairtest.Run(func(with bool) time.Duration {
			if err := r.Detach(); err != nil {
				b.Fatal(err)
			}
			if with {
				if err := r.Attach(); err != nil {
					b.Fatal(err)
				}
			}
			cmd := exec.Command(taskset, "-c", "1", perf, "bench", "sched", "pipe", "-l", "50000")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			return cmd.ProcessState.SystemTime() + cmd.ProcessState.UserTime()
		})
		ratios = append(ratios, float64(with)/float64(without))
	}
	pairtest.Report(b, ratios, "time-ratio")
}
