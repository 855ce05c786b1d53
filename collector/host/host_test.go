package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// The recorded trees (testdata/README.md).
const (
	treeVM     = "linux-6.18-vm"
	treeServer = "linux-5.10-server"
	treeOld    = "linux-3.10-old"
)

var (
	boot  = time.Unix(1_700_000_000, 0)
	tick0 = boot.Add(time.Hour)
)

// tick returns the time of the n-th collection.
func tick(n int) time.Time { return tick0.Add(time.Duration(n) * 10 * time.Second) }

type factory = func(collector.Env) (collector.Collector, error)

func factories() map[string]factory {
	return map[string]factory{
		"host/cpu": NewCPU, "host/memory": NewMemory, "host/disk": NewDisk, "host/network": NewNetwork,
		"host/pressure": NewPressure,
	}
}

// A rig is a collector on a tree of its own, with a registry.
type rig struct {
	t testing.TB
	collector.Collector
	env      collector.Env
	registry *metric.Registry
	snapshot *metric.Snapshot
	ticks    int
}

// copyOf returns an Env on a copy of a recorded tree, so that the test may change it.
func copyOf(t testing.TB, tree string) collector.Env {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(filepath.Join("testdata", tree))); err != nil {
		t.Fatal(err)
	}
	return envAt(root)
}

func envAt(root string) collector.Env {
	return collector.Env{
		Root: root, Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"),
		Host: resource.Empty(), Boot: boot, Log: slog.New(slog.DiscardHandler),
	}
}

// start opens a collector.
func start(t testing.TB, env collector.Env, open factory) *rig {
	t.Helper()
	r := &rig{t: t, registry: metric.NewRegistry(instrumentation.Scope{Name: "test"})}
	env.Metrics = r.registry.Group("test", metric.ClassHost, 1000)
	r.env = env
	c, err := open(env)
	if err != nil {
		t.Fatal(err)
	}
	r.Collector = c
	r.snapshot = r.registry.NewSnapshot()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// collect runs one tick.
func (r *rig) collect() error {
	r.t.Helper()
	now := tick(r.ticks)
	r.ticks++
	err := r.Collect(r.t.Context(), now)
	r.env.Metrics.Collected(now)
	return err
}

// must runs one tick that may not fail and returns what is exported then.
func (r *rig) must() points {
	r.t.Helper()
	if err := r.collect(); err != nil {
		r.t.Fatal(err)
	}
	return r.points()
}

// fails runs one tick that must fail with an error that has all the parts, and returns what is exported then.
func (r *rig) fails(parts ...string) points {
	r.t.Helper()
	err := r.collect()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			r.t.Fatalf("error %v, want one with %q", err, part)
		}
	}
	return r.points()
}

// write replaces a file of the tree in place, as the kernel changes what a kept-open file shows.
func (r *rig) write(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.env.Root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	// Without truncating first: ext4 waits for the disk when a truncated file is closed.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Truncate(int64(len(content))), f.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// file returns a file of the tree.
func (r *rig) file(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.env.Root, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// replace changes a part of a file that must be there.
func (r *rig) replace(name, old, replacement string) {
	r.t.Helper()
	content := r.file(name)
	if !strings.Contains(content, old) {
		r.t.Fatalf("%s has no %q", name, old)
	}
	r.write(name, strings.Replace(content, old, replacement, 1))
}

// verdict checks the state of the collector and that its reason has all the parts.
func (r *rig) verdict(state verdict.State, parts ...string) {
	r.t.Helper()
	list := r.Verdicts()
	if len(list) != 1 || list[0].State != state {
		r.t.Fatalf("verdicts %+v, want %s", list, state)
	}
	for _, part := range parts {
		if !strings.Contains(list[0].Reason+" "+list[0].Missing, part) {
			r.t.Errorf("verdict %+v, want %q in it", list[0], part)
		}
	}
}

// point is a value as it would be exported.
type point struct {
	value float64
	start time.Time
}

// points are the exported values by name{attribute values}, e.g. system.disk.io{sda,read}: the attributes in the
// order of the convention's table do not matter, they are sorted by key.
type points map[string]point

func (r *rig) points() points {
	r.snapshot.Take(tick(r.ticks))
	p := points{}
	for _, res := range r.snapshot.Resources {
		for _, scope := range res.ScopeMetrics {
			for _, m := range scope.Metrics {
				switch data := m.Data.(type) {
				case metricdata.Sum[int64]:
					addPoints(p, m.Name, data.DataPoints)
				case metricdata.Sum[float64]:
					addPoints(p, m.Name, data.DataPoints)
				case metricdata.Gauge[int64]:
					addPoints(p, m.Name, data.DataPoints)
				case metricdata.Gauge[float64]:
					addPoints(p, m.Name, data.DataPoints)
				default:
					r.t.Fatalf("%s: unexpected %T", m.Name, m.Data)
				}
			}
		}
	}
	return p
}

func addPoints[N int64 | float64](p points, name string, list []metricdata.DataPoint[N]) {
	for _, d := range list {
		var values []string
		for _, kv := range d.Attributes.ToSlice() {
			values = append(values, kv.Value.String())
		}
		key := name
		if values != nil {
			key += "{" + strings.Join(values, ",") + "}"
		}
		p[key] = point{float64(d.Value), d.StartTime}
	}
}

// want checks a value.
func (p points) want(t testing.TB, key string, value float64) {
	t.Helper()
	got, ok := p[key]
	if diff := got.value - value; !ok || diff > 1e-9 || diff < -1e-9 {
		t.Errorf("%s = %v (exported: %v), want %v", key, got.value, ok, value)
	}
}

// without checks that nothing is exported whose key contains part.
func (p points) without(t testing.TB, part string) {
	t.Helper()
	for key, v := range p {
		if strings.Contains(key, part) {
			t.Errorf("%s = %v is exported", key, v.value)
		}
	}
}

// files are the files that each collector reads, in a recorded tree.
func files() map[string]string {
	return map[string]string{
		"host/cpu": "proc/stat", "host/memory": "proc/meminfo", "host/disk": "proc/diskstats",
		"host/network": "proc/1/net/dev", "host/pressure": "proc/pressure/memory",
	}
}

// TestEveryPrefixOfAFile cuts the files at every byte: the collector must not panic, must not lose a series of a
// whole reading, must report a cut within a line with the name of the file, and must recover.
func TestEveryPrefixOfAFile(t *testing.T) {
	for _, tree := range []string{treeVM, treeServer} {
		for name, file := range files() {
			t.Run(tree+"/"+name, func(t *testing.T) {
				r := start(t, copyOf(t, tree), factories()[name])
				whole := r.file(file)
				before := r.must()
				for n := range len(whole) {
					r.write(file, whole[:n])
					err := r.collect()
					cutInLine := n > 0 && whole[n-1] != '\n' && !strings.HasPrefix(whole[n:], "\nsoftirq")
					if name == "host/cpu" && strings.Contains(whole[:n], "procs_blocked") ||
						name == "host/memory" && strings.Contains(whole[:n], "SUnreclaim") {
						cutInLine = false // what follows is not read
					}
					if (cutInLine || n == 0) && (err == nil || !strings.Contains(err.Error(), file)) {
						t.Fatalf("cut after %d bytes: error %v", n, err)
					}
				}
				r.write(file, whole)
				after := r.must()
				for key, p := range before {
					// Cut between two lines, an interface seems to go and return; the sum of all virtual ones
					// counts it anew.
					if after[key].value != p.value && !strings.Contains(key, virtualName) {
						t.Errorf("%s = %v after recovery, want %v", key, after[key].value, p.value)
					}
				}
				r.verdict(verdict.Active)
			})
		}
	}
}

func TestBinaryFile(t *testing.T) {
	for name, file := range files() {
		r := start(t, copyOf(t, treeServer), factories()[name])
		before := r.must()
		r.write(file, strings.Repeat("\x00\xff\x7fELF:\n9", 1000))
		after := r.fails(file)
		if len(after) != len(before) {
			t.Errorf("%s: %d series after a binary file, want %d", name, len(after), len(before))
		}
		for key, p := range before {
			if after[key] != p {
				t.Errorf("%s: %s = %v after a binary file, want %v", name, key, after[key], p)
			}
		}
		if state := r.Verdicts()[0].State; state == verdict.Active {
			t.Errorf("%s: active with a binary file", name)
		}
	}
}

func TestEndlessFile(t *testing.T) {
	for name, file := range files() {
		env := copyOf(t, treeServer)
		path := filepath.Join(env.Root, file)
		makeEndless(t, path)
		env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group(name, metric.ClassHost, 1000)
		c, err := factories()[name](env)
		if err == nil {
			err = c.Collect(t.Context(), tick0)
		}
		if name == "host/pressure" && err == nil { // one of its files; the others go on
			if v := c.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Reason, path) {
				t.Errorf("%s: %+v", name, v)
			}
		} else if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "does not end") {
			t.Errorf("%s: %v", name, err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

func TestNoFile(t *testing.T) {
	for name, open := range factories() {
		env := envAt(t.TempDir())
		env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group(name, metric.ClassHost, 1000)
		_, err := open(env)
		v := verdict.FromError(name, err)
		if err == nil || v.State != verdict.Unavailable || !strings.Contains(v.Reason, env.Proc) {
			t.Errorf("%s: %+v, want unavailable with the file", name, v)
		}
		if name == "host/pressure" && (!strings.Contains(v.Reason, "psi=1") || !strings.Contains(v.Missing, "CONFIG_PSI")) {
			t.Errorf("%+v does not tell about psi=1", v)
		}
	}
}

// TestNotAllowed reads files of mode 0 without the capability that lets root do so.
func TestNotAllowed(t *testing.T) {
	for name, file := range files() {
		env := copyOf(t, treeServer)
		env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group(name, metric.ClassHost, 1000)
		dir := filepath.Dir(filepath.Join(env.Root, file))
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range list {
			if err := os.Chmod(filepath.Join(dir, entry.Name()), 0); err != nil {
				t.Fatal(err)
			}
		}
		if name == "host/network" {
			if err := os.RemoveAll(filepath.Join(env.Proc, "net")); err != nil {
				t.Fatal(err)
			}
		}
		err = unprivileged(t, func() error {
			_, err := factories()[name](env)
			return err
		})
		v := verdict.FromError(name, err)
		if err == nil || v.Missing != "CAP_DAC_READ_SEARCH" || !strings.Contains(v.Reason, "not allowed") {
			t.Errorf("%s: %+v, want unavailable for want of CAP_DAC_READ_SEARCH", name, v)
		}
		if err := os.Chmod(dir, 0o700); err != nil { // else the temporary tree could not be removed
			t.Fatal(err)
		}
	}
}

// unprivileged runs f on a thread whose effective capabilities over files are dropped, if it has them.
func unprivileged(t *testing.T, f func() error) error {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and its capabilities with it
		var header unix.CapUserHeader
		var data [2]unix.CapUserData
		header.Version = unix.LINUX_CAPABILITY_VERSION_3
		if err := unix.Capget(&header, &data[0]); err != nil {
			result <- err
			return
		}
		data[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
		if err := unix.Capset(&header, &data[0]); err != nil {
			result <- fmt.Errorf("capset: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// TestCollectAllocatesNothing holds for the recorded trees and for this machine's own /proc.
func TestCollectAllocatesNothing(t *testing.T) {
	live := envAt("/")
	live.Proc, live.Sys = "/proc", "/sys"
	for name, open := range factories() {
		for tree, env := range map[string]collector.Env{
			treeVM: copyOf(t, treeVM), treeServer: copyOf(t, treeServer), "live": live,
		} {
			if _, err := os.Stat("/proc/pressure"); tree == "live" && name == "host/pressure" && err != nil {
				t.Log("skipping pressure of this machine: ", err)
				continue
			}
			r := start(t, env, open)
			for range 3 { // grow the buffers, discover the devices
				r.must()
			}
			ctx, now := t.Context(), tick(10)
			if n := testing.AllocsPerRun(100, func() {
				if err := r.Collect(ctx, now); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s on %s: %v allocations per Collect, want 0", name, tree, n)
			}
		}
	}
}

// TestDescriptions: every metric has what the documentation is generated from.
func TestDescriptions(t *testing.T) {
	seen := map[string]string{}
	for name, open := range factories() {
		r := start(t, copyOf(t, treeServer), open)
		for _, d := range r.env.Metrics.Descs() {
			if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
				t.Errorf("%s: incomplete declaration %+v", name, d)
			}
			if other := seen[d.Name]; other != "" {
				t.Errorf("%s is declared by %s and %s", d.Name, other, name)
			}
			seen[d.Name] = name
		}
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// makeEndless makes a file larger than any that slid reads to its end, by a hole. A link to /dev/zero would not do: a
// read of that may be cut short by a signal, which Go sends to itself, and a file whose read comes short has ended.
func makeEndless(t testing.TB, path string) {
	t.Helper()
	if err := os.Truncate(path, procfs.MaxSize+1); err != nil {
		t.Fatal(err)
	}
}

// readTree returns a file of a recorded tree.
func readTree(t testing.TB, tree, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", tree, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
