package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/host"
	figures "github.com/slid-agent/slid/collector/resource"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
)

// TestEverySourceIsMeasured runs slid sli with an objective of each source beside a server of the test's.
func TestEverySourceIsMeasured(t *testing.T) {
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := served.Load()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintf(w, "orders_total{state=\"failed\"} %d\norders_total{state=\"paid\"} %d\n", n, 9*n)
	}))
	defer server.Close()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "slid.yaml")
	config := fmt.Sprintf(`interval: 1s
slos:
  - {name: orders, service: shop, scrape: {url: %q, bad: 'orders_total{state="failed"}', total: orders_total}, target: 99%%, window: 28d}
  - {name: gone, service: shop, scrape: {url: "http://127.0.0.1:1/metrics", bad: a, total: b}, target: 99%%, window: 28d}
  - {name: this, service: shop, unit: {command: %q}, target: 99%%, window: 28d}
  - {name: nobody, service: shop, unit: {command: nobody-is-called-so}, target: 99%%, window: 28d}
  - {name: memory, service: shop, resource: {figure: memory}, good: "<= 99.9%%", target: 99%%, window: 28d}
`, server.URL+"/metrics", strings.TrimSpace(string(comm)))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	text := measureWhile(t, 10*time.Millisecond, func() { served.Add(1) }, "--config", path, "--for", "6s")
	good, bad := series(t, text, "orders", "good"), series(t, text, "orders", "bad")
	if bad == 0 || good != 9*bad || int64(bad) > served.Load() {
		t.Errorf("orders: %d good and %d bad of %d: want nine good ones for a bad one", good, bad, served.Load())
	}
	if good, bad := series(t, text, "this", "good"), series(t, text, "this", "bad"); good == 0 || bad != 0 {
		t.Errorf("this program: %d good, %d bad", good, bad)
	}
	if good, bad := series(t, text, "nobody", "good"), series(t, text, "nobody", "bad"); good != 0 || bad == 0 {
		t.Errorf("nobody: %d good, %d bad", good, bad)
	}
	if good, bad := series(t, text, "memory", "good"), series(t, text, "memory", "bad"); good == 0 || bad != 0 {
		t.Errorf("memory: %d good, %d bad", good, bad)
	}
	if strings.Contains(text, `sli_events_total{sli_name="gone"`) || !strings.Contains(text, `loss_reason="connect",sli_name="gone"`) {
		t.Errorf("a server that is not there is measured:\n%s", text)
	}
}

// steps is how many limits tell a share: multiples of 5 %.
const steps = 19

// A figureLab has collectors of the host and, for some figures, an indicator for each limit.
type figureLab struct {
	collectors []collector.Collector
	groups     []*metric.Group
	snapshot   *metric.Snapshot
	good       map[string]int64
}

func newFigureLab(t *testing.T, list []slo.Resource) *figureLab {
	t.Helper()
	registry := metric.NewRegistry(instrumentation.Scope{})
	env := collector.Env{
		Root: "/", Proc: "/proc", Sys: "/sys", Log: slog.New(slog.DiscardHandler), Boot: time.Unix(1, 0),
		Host: resource.NewSchemaless(attribute.String("service.name", "host")),
	}
	l := &figureLab{snapshot: registry.NewSnapshot().Only("sli.events"), good: map[string]int64{}}
	var indicators []slo.Indicator
	for _, r := range list {
		for n := range steps {
			r.Bound = slo.Bound{Op: slo.LTE, Limit: float64(n+1) * 0.05}
			indicators = append(indicators, slo.Indicator{Name: fmt.Sprint(r.Figure, "/", n), Resource: new(r)})
		}
	}
	for _, open := range []constructor{
		host.CPUOptions{}.New, host.NewMemory, host.NewFilesystem, host.NewPressure,
		func(env collector.Env) (collector.Collector, error) { return figures.NewFigures(env, indicators) },
	} {
		env.Metrics = registry.Group("x", metric.ClassHost, 5000)
		c, err := open(env)
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		l.collectors, l.groups = append(l.collectors, c), append(l.groups, env.Metrics)
	}
	return l
}

// tick collects and returns how many limits each figure kept.
func (l *figureLab) tick(t *testing.T) map[string]int64 {
	t.Helper()
	now := time.Now()
	for i, c := range l.collectors {
		if err := c.Collect(t.Context(), now); err != nil {
			t.Log(err)
		}
		l.groups[i].Collected(now)
	}
	l.snapshot.Take(now)
	kept := map[string]int64{}
	for _, rm := range l.snapshot.Resources {
		for _, p := range rm.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
			name, _ := p.Attributes.Value("sli.name")
			outcome, _ := p.Attributes.Value("sli.outcome")
			figure, _, _ := strings.Cut(name.AsString(), "/")
			if key := name.AsString() + outcome.AsString(); p.Value > l.good[key] {
				l.good[key] = p.Value
				kept[figure] += 0
				if outcome.AsString() == "good" {
					kept[figure]++
				}
			}
		}
	}
	return kept
}

// kernel is what the test itself reads of the kernel.
type kernel struct {
	busy, all, stalled float64 // since the boot, in ticks and microseconds
	at                 time.Time
}

func readKernel(t *testing.T) (k kernel) {
	t.Helper()
	k.at = time.Now()
	for i, field := range strings.Fields(firstLine(t, "/proc/stat"))[1:9] {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			t.Fatal(err)
		}
		if k.all += v; i != 3 && i != 4 { // idle, iowait
			k.busy += v
		}
	}
	_, total, _ := strings.Cut(firstLine(t, "/proc/pressure/cpu"), "total=")
	k.stalled, _ = strconv.ParseFloat(strings.TrimSpace(total), 64)
	return k
}

func firstLine(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	return lines.Text()
}

// usedMemory and usedDisk are the shares as free and df show them.
func usedMemory(t *testing.T) float64 {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	number := func(key string) float64 {
		_, rest, _ := strings.Cut(string(data), key+":")
		v, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return 1 - number("MemAvailable")/number("MemTotal")
}

func usedDisk(t *testing.T) float64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs("/", &s); err != nil {
		t.Fatal(err)
	}
	used := float64(s.Blocks - s.Bfree)
	return used / (used + float64(s.Bavail))
}

// TestFiguresAreTheKernels: while the test takes all processors, and then none, every figure is what the kernel's files say.
func TestFiguresAreTheKernels(t *testing.T) {
	l := newFigureLab(t, []slo.Resource{
		{Figure: slo.CPU}, {Figure: slo.Memory}, {Figure: slo.PressureCPUSome}, {Figure: slo.Filesystem, Mount: "/"},
	})
	look := func() (kept map[string]int64, k kernel, exact bool) {
		begun := time.Now()
		kept, k = l.tick(t), readKernel(t)
		return kept, k, time.Since(begun) < 10*time.Millisecond // else the two have seen different times
	}
	compared := map[string]int{}
	_, before, exactly := look()
	for round := 0; round < 80 && (compared["cpu"] < 6 || compared["pressure.cpu.some"] < 6); round++ {
		end := time.Now().Add(300 * time.Millisecond)
		if round%2 == 0 {
			burn(end)
		}
		time.Sleep(time.Until(end))
		kept, k, exact := look()
		shares := map[string]float64{"memory": usedMemory(t), "filesystem": usedDisk(t)}
		if exact && exactly {
			shares["cpu"] = (k.busy - before.busy) / (k.all - before.all)
			shares["pressure.cpu.some"] = (k.stalled - before.stalled) / 1e6 / k.at.Sub(before.at).Seconds()
		}
		before, exactly = k, exact
		for figure, share := range shares {
			n, ok := kept[figure]
			if !ok {
				continue
			}
			compared[figure]++
			const tolerance = 0.07 // the files are read some ms apart, and /proc/stat counts in hundredths of a second
			if got := 1 - float64(n)*0.05; math.Abs(got-share-0.025) > 0.025+tolerance {
				t.Errorf("%s: %d limits kept, so at most %.2f; the kernel says %.3f", figure, n, got, share)
			}
		}
	}
	for _, figure := range []string{"cpu", "memory", "pressure.cpu.some", "filesystem"} {
		if compared[figure] < 6 {
			t.Errorf("%s was compared %d times", figure, compared[figure])
		}
	}
}

// burn takes all processors until a time.
func burn(end time.Time) {
	done := make(chan bool)
	for range runtime.NumCPU() {
		go func() {
			for time.Now().Before(end) { // that is the work
			}
			done <- true
		}()
	}
	for range runtime.NumCPU() {
		<-done
	}
}

// TestDoctorKnowsTheSources: what is wrong with an objective's source, in words.
func TestDoctorKnowsTheSources(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "h_bucket{le=\"0.25\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_count 1\n")
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "slid.yaml")
	config := fmt.Sprintf(`slos:
  - {name: fast, service: shop, scrape: {url: %q, histogram: h, le: 0.3}, target: 99%%, window: 28d}
  - {name: runs, service: shop, unit: no-such-unit.service, target: 99%%, window: 28d}
  - {name: room, service: shop, resource: {figure: filesystem, mount: /no/such/mount}, good: "<= 90%%", target: 99%%, window: 28d}
`, server.URL+"/metrics")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := newSlid(t, "doctor", "--config", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(out)), " ") // whatever its columns
	for _, want := range []string{
		"service/scrape active addresses 1, indicators 1",
		"h_bucket has no bucket of 0.3; its bounds are 0.25, +Inf",
		"nobody reads the figure: is /no/such/mount a mount point?",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(text, "no-such-unit.service has neither a control group nor a unit file") && !strings.Contains(text, "cgroup2") {
		t.Errorf("nothing of the unit in\n%s", out)
	}
}
