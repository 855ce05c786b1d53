package host

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
)

// coreFiles are the files that a core tick of all five sources reads; many says that the kernel hands out record
// by record, so that a reader learns of the end from a read of nothing.
func coreFiles() []struct {
	path string
	many bool
} {
	return []struct {
		path string
		many bool
	}{
		{"stat", false},
		{"loadavg", false},
		{"meminfo", false},
		{"diskstats", true},
		{"1/net/dev", true},
		{"pressure/cpu", false},
		{"pressure/memory", false},
		{"pressure/io", false},
		{"pressure/irq", false},
	}
}

// BenchmarkCoreTick compares one collection of all five sources on this machine's /proc with bare preads of the
// same files. cpu-ns/op is user and system time of the process. In ratio the two take turns in short rounds, so that
// both see the same machine.
func BenchmarkCoreTick(b *testing.B) {
	tick := coreTick(b)
	read := preads(b)
	for _, side := range []struct {
		name string
		op   func()
	}{{"collect", tick}, {"preads", read}} {
		b.Run(side.name, func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				side.op()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
	b.Run("ratio", func(b *testing.B) {
		var spent [2]time.Duration
		for b.Loop() {
			for i, op := range []func(){tick, read} {
				before := cpuTime(b)
				for range 50 {
					op()
				}
				spent[i] += cpuTime(b) - before
			}
		}
		b.ReportMetric(float64(spent[0])/float64(spent[1]), "collect/preads")
	})
}

// coreTick returns a collection of all sources of this machine.
func coreTick(b *testing.B) func() {
	var collectors []collector.Collector
	for name, open := range factories() {
		if _, err := os.Stat("/proc/pressure/cpu"); err != nil && name == "host/pressure" {
			b.Log("without pressure: ", err)
			continue
		}
		collectors = append(collectors, start(b, envAt("/"), open).Collector)
	}
	ctx, now := b.Context(), time.Now()
	return func() {
		for _, c := range collectors {
			if err := c.Collect(ctx, now); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// preads returns the bare reads of the same files.
func preads(b *testing.B) func() {
	type file struct {
		fd   int
		many bool
	}
	var files []file
	for _, f := range coreFiles() {
		fd, err := unix.Open(filepath.Join("/proc", f.path), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = unix.Close(fd) })
		files = append(files, file{fd, f.many})
	}
	buf := make([]byte, 1<<20)
	return func() {
		for _, f := range files {
			for n := 0; ; {
				m, err := unix.Pread(f.fd, buf[n:], int64(n))
				if err != nil {
					b.Fatal(err)
				}
				if n += m; m == 0 || !f.many {
					break
				}
			}
		}
	}
}

// cpuTime returns the user and system time of the process.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
