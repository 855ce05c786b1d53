package latency

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/blocktest"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// A blockFixture is the collector with a registry of its own.
type blockFixture struct {
	*blockIO
	registry *metric.Registry
}

// openBlockIO opens the collector of this host's disks or skips the test, with the reason, where probes are not permitted.
func openBlockIO(tb testing.TB) blockFixture {
	tb.Helper()
	f := blockFixture{registry: metric.NewRegistry(instrumentation.Scope{Name: "test"})}
	env := collector.Env{
		Root: "/", Proc: "/proc", Sys: "/sys", Cgroup: "/sys/fs/cgroup", Host: resource.Empty(), Log: slog.New(slog.DiscardHandler),
		Metrics: f.registry.Group("test", metric.ClassLatency, 4000),
	}
	c := open(tb, env, newDeps(tb).NewBlockIO)
	f.blockIO, _ = c.(*blockIO)
	return f
}

// series returns the histogram of a disk that is exported under a name, by direction, and the kind of the disk.
func (f blockFixture) series(name, disk string) (counts map[string]uint64, kind string) {
	counts = map[string]uint64{}
	m := find(f.registry, name)
	if m == nil {
		return counts, ""
	}
	for _, p := range m.Data.(metricdata.ExponentialHistogram[float64]).DataPoints {
		if text(p.Attributes, keyDevice) == disk {
			counts[text(p.Attributes, keyDiskDirection)] += p.Count
			kind = text(p.Attributes, keyDeviceKind)
		}
	}
	return counts, kind
}

// text returns an attribute.
func text(set attribute.Set, key attribute.Key) string {
	v, _ := set.Value(key)
	return v.AsString()
}

// await collects until a condition holds.
func (f blockFixture) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		collect(t, f, f.env)
		if holds() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s: " + what)
		}
	}
}

// A disk has series from its first request on, and none any more soon after it is gone.
func TestBlockIOFollowsDisks(t *testing.T) {
	f := openBlockIO(t)
	collect(t, f, f.env)
	name := ""
	t.Run("present", func(t *testing.T) {
		d := blocktest.Loop(t, t.TempDir(), 0)
		name = d.Name
		d.Times(t, 40, d.Read)
		d.Times(t, 20, d.Write)
		for _, metric := range []string{"duration", "queue_duration", "device_duration"} {
			f.await(t, metric, func() bool {
				counts, kind := f.series("system.disk.linux.request."+metric, d.Name)
				return counts["read"] >= 40 && counts["write"] == 20 && kind == "stacked"
			})
		}
	})
	f.await(t, "the series of "+name+" go", func() bool {
		counts, _ := f.series("system.disk.linux.request.duration", name)
		return len(counts) == 0
	})
	for i, s := range f.slots {
		if s.disk.Name == name || f.probe.Sequence(i) != 0 && s.disk.Sequence == 0 {
			t.Errorf("slot %d is kept: %+v", i, s.disk)
		}
	}
}

// The programs for disks that make no requests are attached only while there is such a disk.
func TestBlockIOFollowsBios(t *testing.T) {
	f := openBlockIO(t)
	collect(t, f, f.env)
	others := f.probe.Extended(bpf.BlockIOBios) // of this machine
	t.Run("present", func(t *testing.T) {
		d := blocktest.ZRAM(t)
		f.await(t, "the programs are attached", func() bool { return f.probe.Extended(bpf.BlockIOBios) })
		d.Times(t, 30, d.Write)
		f.await(t, "bios count", func() bool {
			counts, kind := f.series("system.disk.linux.request.duration", d.Name)
			return counts["write"] == 30 && kind == "stacked"
		})
		if counts, _ := f.series("system.disk.linux.request.device_duration", d.Name); len(counts) != 0 {
			t.Errorf("bios have a device time: %v", counts)
		}
		if v := f.Verdicts(); v[0].State != verdict.Active || !strings.Contains(v[0].Hook, "block_bio_complete") {
			t.Errorf("got %+v", v)
		}
	})
	f.await(t, "the programs are as before", func() bool { return f.probe.Extended(bpf.BlockIOBios) == others })
}

func TestBlockIOCollectAllocatesNothing(t *testing.T) {
	f := openBlockIO(t)
	d := blocktest.Loop(t, t.TempDir(), 0)
	d.Times(t, 10, d.Read)
	for range 3 {
		collect(t, f, f.env)
	}
	n := allocations(func() { _ = f.Collect(context.Background(), time.Now()) })
	if n != 0 {
		t.Errorf("Collect allocates %v times", n)
	}
}

// Whose a request is shows only with the io controller of version 2, for groups that have it.
func TestOwnersOfBlockIO(t *testing.T) {
	for name, c := range map[string]struct {
		controllers, on string
		want            string
	}{
		"version 1": {"#subsys_name\thierarchy\nblkio\t7\t1\t1\n", "cpu io\n", "version 1 (hierarchy 7)"},
		"version 2": {"#subsys_name\thierarchy\nblkio\t0\t1\t1\n", "cpu io\n", ""},
		"off":       {"#subsys_name\thierarchy\nblkio\t0\t1\t1\n", "cpu memory pids\n", "not on"},
		"no list":   {"", "io\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			for file, text := range map[string]string{"cgroups": c.controllers, "cgroup.subtree_control": c.on} {
				if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := ownersOfBlockIO(collector.Env{Proc: folder, Cgroup: folder})
			if c.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func BenchmarkBlockIOCollect(b *testing.B) {
	f := openBlockIO(b)
	d := blocktest.Loop(b, b.TempDir(), 0)
	d.Times(b, 10, d.Read)
	collect(b, f, f.env)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Collect(context.Background(), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
