package bpf

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/testneed"
)

// programIDs returns all programs that are loaded on the machine.
func programIDs(tb testing.TB) map[ebpf.ProgramID]bool {
	tb.Helper()
	ids := map[ebpf.ProgramID]bool{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			return ids
		}
		ids[next], id = true, next
	}
}

// A peer is a tool that somebody else wrote, with the programs that it loaded.
type peer struct {
	programs []*ebpf.Program
	stop     func()
}

// startBpftrace runs a script by bpftrace, until stop is called. Nobody else may load programs while it starts.
func startBpftrace(tb testing.TB, script string) peer {
	tb.Helper()
	bpftrace := testneed.Tool(tb, "bpftrace")
	before := programIDs(tb)
	// It looks for tracefs where old kernels had it.
	cmd := exec.Command("sh", "-c", `mount -t debugfs none /sys/kernel/debug
		mount -t tracefs none /sys/kernel/debug/tracing; exec "$0" -e "$1"`, bpftrace, script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := peer{stop: func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it prints its histograms to a pipe that nobody reads
	}}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "Attaching") {
		p.stop()
		tb.Skipf("bpftrace does not start here: %q, %v", line, err)
	}
	p.awaitPrograms(tb, before)
	return p
}

// awaitPrograms waits until the peer has loaded what it loads.
func (p *peer) awaitPrograms(tb testing.TB, before map[ebpf.ProgramID]bool) {
	tb.Helper()
	loaded := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		var fresh []ebpf.ProgramID
		for id := range programIDs(tb) {
			if !before[id] {
				fresh = append(fresh, id)
			}
		}
		if len(fresh) == 0 || len(fresh) != loaded {
			loaded = len(fresh)
			continue
		}
		for _, id := range fresh {
			program, err := ebpf.NewProgramFromID(id)
			if err != nil {
				tb.Fatal(err)
			}
			p.programs = append(p.programs, program)
		}
		return
	}
	p.stop()
	tb.Skip("bpftrace loads no programs here")
}

// spent returns the time and the runs of programs by bpf statistics.
func spent(tb testing.TB, programs []*ebpf.Program) (sum time.Duration, runs uint64) {
	tb.Helper()
	for _, p := range programs {
		s, err := p.Stats()
		if err != nil {
			tb.Fatal(err)
		}
		sum, runs = sum+s.Runtime, runs+s.RunCount
	}
	return sum, runs
}

// enableStats makes the kernel measure programs for the time of a benchmark.
func enableStats(b *testing.B) {
	b.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skip("bpf statistics:", err)
	}
	b.Cleanup(func() { stats.Close() })
}

// runqlat is the usual way to measure waits for a CPU, as bpftrace's runqlat.bt and bcc's runqlat do it.
const runqlat = `
tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @since[args->pid] = nsecs; }
tracepoint:sched:sched_switch {
	if (args->prev_state == 0) { @since[args->prev_pid] = nsecs; }
	$since = @since[args->next_pid];
	if ($since) { @us = hist((nsecs - $since) / 1000); }
	delete(@since[args->next_pid]);
}`

// BenchmarkRunQueueAgainstBpftrace compares the kernel time of the run-queue probe with that of the usual way, both
// attached at once, while two threads on one CPU wake each other up.
func BenchmarkRunQueueAgainstBpftrace(b *testing.B) {
	r := openRunQueue(b, RunQueueOptions{})
	p := startBpftrace(b, runqlat)
	defer p.stop()
	enableStats(b)
	pingPong(b)
	ours, switches := spent(b, []*ebpf.Program{r.collection.Programs[gen.RunqueueProgRunqueueSwitch]})
	theirs, _ := spent(b, p.programs)
	b.ReportMetric(float64(ours.Nanoseconds())/float64(switches), "ns/switch")
	b.ReportMetric(float64(theirs.Nanoseconds())/float64(switches), "bpftrace-ns/switch")
	b.ReportMetric(float64(ours)/float64(theirs), "ratio")
}
