package bpf

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// perRun reports what a run of a probe's programs takes by the kernel's own figures (bpf statistics).
func perRun(b *testing.B, p *Probe, f func()) {
	b.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skip("bpf statistics:", err)
	}
	defer stats.Close()
	f()
	var runs uint64
	var spent time.Duration
	for _, program := range p.Programs() {
		s, err := program.Stats()
		if err != nil {
			b.Fatal(err)
		}
		runs, spent = runs+s.RunCount, spent+s.Runtime
	}
	if runs == 0 {
		b.Fatal("nothing ran")
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(runs), "ns/run")
}

// BenchmarkFsync calls fsync on a file that has nothing to write, which still passes all hooks.
func BenchmarkFsync(b *testing.B) {
	requireCapabilities(b)
	f, err := NewFsync(new(Kernel))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	dir := os.Getenv("SLID_TEST_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	fd, err := unix.Open(filepath.Join(dir, "slid-fsync-bench"), unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	perRun(b, f.Probe, func() {
		for b.Loop() {
			_ = unix.Fsync(fd)
		}
	})
}

// BenchmarkReclaim runs a load at the limit of its group once per loop.
func BenchmarkReclaim(b *testing.B) {
	g := newTestGroup(b, nil, "bench", reclaimLimit)
	r, err := NewReclaim(attributed(b, g))
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	l := startGroupLoad(b, g, "lazy")
	perRun(b, r.Probe, func() {
		for b.Loop() {
			l.work()
		}
	})
}
