package unit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// A lab is the collector and what a destination gets of it.
type lab struct {
	*Units
	group    *metric.Group
	snapshot *metric.Snapshot
	now      time.Time
}

func newLab(t testing.TB, env collector.Env, list ...slo.Running) *lab {
	t.Helper()
	registry := metric.NewRegistry(instrumentation.Scope{})
	env.Metrics = registry.Group(Name, metric.ClassService, 100)
	env.Host, env.Log = resource.Empty(), slog.New(slog.DiscardHandler)
	if env.Proc == "" {
		env.Proc = "/proc"
	}
	var indicators []slo.Indicator
	for n := range list {
		indicators = append(indicators, slo.Indicator{Name: strconv.Itoa(n), Unit: &list[n]})
	}
	c, err := NewUnits(env, indicators)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Units: c.(*Units), group: env.Metrics, snapshot: registry.NewSnapshot(), now: time.Unix(1e9, 0)}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// tick collects and returns what each indicator has: "good 1 bad 2 lost 3 restarts 4", without those that are zero.
func (l *lab) tick(t testing.TB) string {
	t.Helper()
	l.now = l.now.Add(10 * time.Second)
	if err := l.Collect(t.Context(), l.now); err != nil {
		t.Fatal(err)
	}
	l.group.Collected(l.now)
	l.snapshot.Take(l.now)
	values := map[string]map[string]int64{}
	text := func(set attribute.Set, key attribute.Key) string {
		v, _ := set.Value(key)
		return v.AsString()
	}
	for _, m := range l.snapshot.Resources[0].ScopeMetrics[0].Metrics {
		data, ok := m.Data.(metricdata.Sum[int64])
		if !ok {
			continue
		}
		for _, p := range data.DataPoints {
			name := text(p.Attributes, "sli.name")
			if values[name] == nil {
				values[name] = map[string]int64{}
			}
			word := text(p.Attributes, "sli.outcome") + text(p.Attributes, "loss.reason")
			if m.Name == "sli.unit.restarts" {
				word = "restarts"
			}
			values[name][word] += p.Value
		}
	}
	var parts []string
	for n := range l.list {
		for _, word := range []string{"good", "bad", "unreadable", "unknown", "restarts"} {
			if v := values[strconv.Itoa(n)][word]; v > 0 {
				parts = append(parts, fmt.Sprint(word, " ", v))
			}
		}
		if n+1 < len(l.list) {
			parts = append(parts, "|")
		}
	}
	return strings.Join(parts, " ")
}

func (l *lab) want(t *testing.T, want string) {
	t.Helper()
	if got := l.tick(t); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func (l *lab) trouble() string {
	var list []string
	for _, v := range l.Verdicts() {
		if v.State == verdict.Unavailable {
			list = append(list, v.Reason)
		}
	}
	return strings.Join(list, "; ")
}

// write makes a file and its folders.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const populated, deserted = "populated 1\nfrozen 0\n", "populated 0\nfrozen 0\n"

// TestUnitsInATree: what a tree of control groups tells of units, and what it does not.
func TestUnitsInATree(t *testing.T) {
	root, tree := t.TempDir(), t.TempDir()
	id := strings.Repeat("0123456789abcdef", 4)
	group := func(path string) string { return filepath.Join(tree, path, "cgroup.events") }
	write(t, group("system.slice/nginx.service"), populated)
	write(t, group(`system.slice/system-worker.slice/worker@1.service`), deserted)
	write(t, group(`system.slice/a\x2db.service`), populated)
	write(t, group("system.slice/docker-"+id+".scope"), populated)
	write(t, filepath.Join(root, "usr/lib/systemd/system/down@.service"), "")
	l := newLab(t, collector.Env{Root: root, Cgroup: tree},
		slo.Running{Unit: "nginx.service"}, slo.Running{Unit: "worker@1.service"}, slo.Running{Unit: "a-b.service"},
		slo.Running{Container: id[:12]}, slo.Running{Unit: "down@7.service"}, slo.Running{Unit: "ngnix.service"}, slo.Running{Container: "fff"})
	l.want(t, "good 1 | bad 1 | good 1 | good 1 | bad 1 | unknown 1 | bad 1")
	if want := "ngnix.service has neither a control group nor a unit file"; l.trouble() != want {
		t.Errorf("%s, want %s", l.trouble(), want)
	}
	write(t, group("system.slice/nginx.service"), deserted)
	write(t, group(`system.slice/system-worker.slice/worker@1.service`), populated)
	if err := os.RemoveAll(filepath.Join(tree, "system.slice/docker-"+id+".scope")); err != nil {
		t.Fatal(err)
	}
	write(t, group("web.slice/down@7.service"), populated)
	l.Units.list[3].group.events.Close() // as the kernel's are gone, which those of a disk are not
	l.want(t, "good 1 bad 1 | good 1 bad 1 | good 2 | good 1 bad 1 | good 1 bad 1 | unknown 2 | bad 2")
	write(t, group("system.slice/nginx.service"), "garbage")
	l.want(t, "good 1 bad 1 unreadable 1 | good 2 bad 1 | good 3 | good 1 bad 2 | good 2 bad 1 | unknown 3 | bad 3")
	if !strings.Contains(l.trouble(), "cgroup.events: file is cut short") {
		t.Error(l.trouble())
	}
}

// TestAPartOfTheTree: where not all groups are seen, one that is not there says nothing.
func TestAPartOfTheTree(t *testing.T) {
	tree := t.TempDir()
	write(t, filepath.Join(tree, "cgroup.events"), populated) // which the root has not
	write(t, filepath.Join(tree, "inner.service/cgroup.events"), populated)
	l := newLab(t, collector.Env{Root: "/", Cgroup: tree}, slo.Running{Unit: "inner.service"}, slo.Running{Unit: "outer.service"})
	l.want(t, "good 1 | unreadable 1")
	none := newLab(t, collector.Env{Root: "/"}, slo.Running{Unit: "inner.service"}, slo.Running{Command: "nobody-has-this"})
	none.want(t, "unreadable 1 | bad 1")
	if want := "there is no cgroup2 file system"; none.trouble() != want {
		t.Errorf("%s, want %s", none.trouble(), want)
	}
	hidden := newLab(t, collector.Env{Root: "/", Proc: t.TempDir()}, slo.Running{Command: "x"})
	hidden.want(t, "unreadable 1")
}

func TestNobodyAsked(t *testing.T) {
	_, err := NewUnits(collector.Env{Metrics: metric.NewRegistry(instrumentation.Scope{}).Group(Name, metric.ClassService, 1)}, []slo.Indicator{{}})
	if v := verdict.FromError(Name, err); !v.Absent {
		t.Errorf("%+v", v)
	}
}

// liveGroup makes a control group, and removes it in the end.
func liveGroup(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("needs to make control groups:", err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return dir
}

// runIn starts a program in a control group; stop kills it and waits.
func runIn(t *testing.T, dir, program string) (stop func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(program, "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	if err := cmd.Start(); err != nil {
		t.Skip("needs clone3 with CLONE_INTO_CGROUP:", err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	return stop
}

// TestLiveUnit: a unit of the kernel's own runs, is killed, is started anew, goes, and comes back.
func TestLiveUnit(t *testing.T) {
	testneed.Root(t, "to make control groups")
	mount, err := cgroup.Mount("/")
	if err != nil {
		t.Skip(err)
	}
	name := fmt.Sprintf("slid-test-%d", os.Getpid())
	slice := liveGroup(t, filepath.Join(mount, name+".slice"))
	unit := filepath.Join(slice, name+".service")
	liveGroup(t, unit)
	l := newLab(t, collector.Env{Root: t.TempDir(), Cgroup: mount}, slo.Running{Unit: name + ".service"})
	l.whole = true // whatever the machine of the test shows
	l.want(t, "bad 1")
	stop := runIn(t, unit, "/bin/sleep")
	l.want(t, "good 1 bad 1")
	worker := runIn(t, unit, "/bin/sleep")
	l.want(t, "good 2 bad 1")
	worker()
	l.want(t, "good 3 bad 1") // the oldest goes on
	stop()
	l.want(t, "good 3 bad 2")
	stop = runIn(t, unit, "/bin/sleep")
	l.want(t, "good 4 bad 2 restarts 1")
	stop()
	stop = runIn(t, unit, "/bin/sleep") // between two ticks
	l.want(t, "good 5 bad 2 restarts 2")
	stop()
	remove(t, unit)
	l.want(t, "good 5 bad 3 restarts 2")
	liveGroup(t, unit)
	child := liveGroup(t, filepath.Join(unit, "worker"))
	stop = runIn(t, child, "/bin/sleep") // the unit itself has none
	l.want(t, "good 6 bad 3 restarts 3")
	if n := testing.AllocsPerRun(100, func() { _ = l.Collect(context.Background(), l.now) }); n != 0 {
		t.Errorf("a tick allocates %v times", n)
	}
	stop()
	remove(t, child)
}

// remove removes a control group, which its last process may hold for a moment after its end.
func remove(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		err := os.Remove(dir)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestLiveProgram: a program is found by its name, lost when it ends (also before its parent looks), and found again.
func TestLiveProgram(t *testing.T) {
	name := fmt.Sprintf("slid(%d) t", os.Getpid()%100000) // what a command may be called
	program := filepath.Join(t.TempDir(), name)
	copyFile(t, "/bin/sleep", program)
	l := newLab(t, collector.Env{Root: "/"}, slo.Running{Command: name}, slo.Running{Command: name, Unit: "elsewhere.service"})
	l.want(t, "bad 1 | bad 1")
	cmd := exec.Command(program, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.want(t, "good 1 bad 1 | bad 2")
	if n := testing.AllocsPerRun(100, func() {
		if running, _, _ := l.program(l.list[0]); !running {
			t.Error("it does not run")
		}
	}); n != 0 {
		t.Errorf("a tick allocates %v times", n)
	}
	_ = cmd.Process.Kill()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid)); err == nil && strings.Contains(string(b), ") Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no zombie")
		}
	}
	l.want(t, "good 1 bad 2 | bad 3")
	_ = cmd.Wait()
	l.want(t, "good 1 bad 3 | bad 4")
	cmd = exec.Command(program, "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	l.want(t, "good 2 bad 3 restarts 1 | bad 5")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte("12 (a) b (c)) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0\n"))
	f.Add([]byte("1 (x) Z"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s status
		if s.parse(data) == nil && len(s.command) > len(data) {
			t.Errorf("%q", s.command)
		}
	})
}

func TestStatus(t *testing.T) {
	var s status
	err := s.parse([]byte("12 (a) b (c)) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0\n"))
	if err != nil || string(s.command) != "a) b (c)" || s.dead || s.started != 777 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, text := range []string{"", "12", "12 (a", "12 )(", "12 (a) S 1", "12 (a) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 x 0"} {
		if err := s.parse([]byte(text)); err == nil {
			t.Errorf("%q is understood: %+v", text, s)
		}
	}
}

// BenchmarkTick is a tick of a program that runs.
func BenchmarkTick(b *testing.B) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		b.Fatal(err)
	}
	l := newLab(b, collector.Env{Root: "/"}, slo.Running{Command: strings.TrimSpace(string(comm))})
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Collect(b.Context(), l.now)
	}
}
