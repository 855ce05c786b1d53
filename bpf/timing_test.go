package bpf

import (
	"errors"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

// spanNumber decodes a number of a file of the kernel.
func spanNumber(tb testing.TB, s string) uint64 {
	tb.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// spanMissed returns how many runs of the programs the kernel left out because another was running.
func spanMissed(tb testing.TB, p *Probe) (n uint64) {
	tb.Helper()
	for _, program := range p.Programs() {
		s, err := program.Stats()
		if err != nil {
			tb.Fatal(err)
		}
		n += s.RecursionMisses
	}
	return n
}

// spanLongest returns the lower bound of the highest bucket that grew.
func spanLongest(after, before *Hist) time.Duration {
	for b := len(after.Buckets) - 1; b >= 0; b-- {
		if after.Buckets[b] != before.Buckets[b] {
			return time.Duration(math.Exp2(float64(b-192)/8) * float64(time.Second))
		}
	}
	return 0
}

// spanStats makes the kernel measure programs until the benchmark ends.
func spanStats(b *testing.B) {
	b.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skip("bpf statistics:", err)
	}
	b.Cleanup(func() { stats.Close() })
}

// spanReport reports the mean time of a run of each program of a probe, and of all runs of an iteration.
func spanReport(b *testing.B, p *Probe) {
	b.Helper()
	var sum time.Duration
	for i, program := range p.Programs() {
		s, err := program.Stats()
		if err != nil {
			b.Fatal(err)
		}
		sum += s.Runtime
		if s.RunCount > 0 {
			b.ReportMetric(float64(s.Runtime)/float64(s.RunCount), p.rung.programs[i]+"-ns/run")
		}
	}
	b.ReportMetric(float64(sum)/float64(b.N), "bpf-ns/op")
}

// Without a capability the verdict names that one, whichever probe it is.
func TestSpanProbesNameTheCapability(t *testing.T) {
	requireCapabilities(t)
	for name, open := range map[string]func() error{
		"softirq":  func() error { _, err := NewSoftIRQ(&Kernel{}, SoftIRQOptions{}); return err },
		"lock":     func() error { _, err := NewLock(&Kernel{}, LockOptions{}); return err },
		"syscalls": func() error { _, err := NewSyscalls(&Kernel{}, SyscallsOptions{Numbers: []uint32{1}}); return err },
		"fsops":    func() error { _, err := NewFSOps(&Kernel{}, FSOpsOptions{}); return err },
	} {
		for dropped, want := range map[capability]string{capPerfmon: "CAP_PERFMON", capBPF: "CAP_BPF"} {
			without(t, func() {
				err := open()
				if u, ok := errors.AsType[*verdict.UnavailableError](err); !ok || u.Missing != want {
					t.Errorf("%s without %s: got %v", name, want, err)
				}
			}, dropped, capSysAdmin)
		}
	}
}
