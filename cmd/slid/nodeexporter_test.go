package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/host"
	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/testneed"
)

// nodeExporter is Debian's prometheus-node-exporter.
type nodeExporter struct {
	url     string
	process *os.Process
}

func startNodeExporter(tb testing.TB, flags ...string) *nodeExporter {
	tb.Helper()
	path := testneed.Tool(tb, "prometheus-node-exporter")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.CommandContext(tb.Context(), path, append(flags, "--web.listen-address="+address)...)
	var log buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	n := &nodeExporter{url: "http://" + address + "/metrics", process: cmd.Process}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(n.url)
		if err == nil {
			resp.Body.Close()
			return n
		}
		if time.Now().After(end) {
			tb.Fatalf("node_exporter does not answer: %v\n%s", err, log.String())
		}
	}
}

// scrape returns what it says, compressed or not as Prometheus would get it.
func (n *nodeExporter) scrape(tb testing.TB) []byte {
	tb.Helper()
	resp, err := http.Get(n.url)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// cpu returns the CPU time it has used, from /proc/PID/stat: exact to the tick of 10 ms.
func (n *nodeExporter) cpu(tb testing.TB) time.Duration {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += v
	}
	return time.Duration(ticks) * time.Second / 100
}

// sample is a series of Prometheus's.
type sample struct {
	name   string
	labels map[string]string
	value  float64
	total  bool // a counter
}

func (s *sample) id() string {
	var b strings.Builder
	b.WriteString(s.name + "{")
	for i, key := range slices.Sorted(maps.Keys(s.labels)) {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "%s=%q", key, s.labels[key])
	}
	return b.String() + "}"
}

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	label      = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// parseSamples reads the text format, by the series' ids.
func parseSamples(tb testing.TB, text []byte) map[string]sample {
	tb.Helper()
	found := map[string]sample{}
	for line := range strings.Lines(string(text)) {
		m := sampleLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			tb.Fatalf("%s: %v", line, err)
		}
		s := sample{name: m[1], labels: map[string]string{}, value: value}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			s.labels[l[1]] = l[2]
		}
		found[s.id()] = s
	}
	return found
}

// hostSet is the collectors of the host by themselves, as a pipeline would run them.
type hostSet struct {
	registry *metric.Registry
	open     []hostCollector
}

type hostCollector struct {
	collector.Collector
	collector.Factory
	group *metric.Group
}

func openHost(tb testing.TB, c config.Config) *hostSet {
	tb.Helper()
	log := slog.New(slog.DiscardHandler)
	env := environment(c, log)
	facts, err := host.Facts(env.Root, env.Proc)
	if err != nil {
		tb.Fatal(err)
	}
	env.Host, env.Boot = facts.Resource, facts.Boot
	set := &hostSet{registry: metric.NewRegistry(instrumentation.Scope{})}
	for _, f := range collectors(latency.Deps{}, c) {
		if f.Class != metric.ClassHost {
			continue
		}
		env.Metrics = set.registry.Group(f.Name, f.Class, f.Budget)
		opened, err := f.New(env)
		if err != nil {
			tb.Logf("without %s: %v", f.Name, err)
			continue
		}
		tb.Cleanup(func() { opened.Close() })
		set.open = append(set.open, hostCollector{opened, f, env.Metrics})
	}
	return set
}

// collect runs every collector once, or those that are wanted.
func (h *hostSet) collect(tb testing.TB, wanted ...func(hostCollector) bool) {
	now := time.Now()
	for _, c := range h.open {
		if len(wanted) > 0 && !wanted[0](c) {
			continue
		}
		if err := c.Collect(context.Background(), now); err != nil {
			tb.Logf("%s: %v", c.Name, err)
		}
		c.group.Collected(now)
	}
}

// samples returns the renamed series of a snapshot.
func samples(s *metric.Snapshot) map[string]sample {
	found := map[string]sample{}
	for _, rm := range s.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			if !strings.HasPrefix(m.Name, "node_") {
				continue
			}
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				addSamples(found, m.Name, d.IsMonotonic, d.DataPoints)
			case metricdata.Sum[float64]:
				addSamples(found, m.Name, d.IsMonotonic, d.DataPoints)
			case metricdata.Gauge[int64]:
				addSamples(found, m.Name, false, d.DataPoints)
			case metricdata.Gauge[float64]:
				addSamples(found, m.Name, false, d.DataPoints)
			}
		}
	}
	return found
}

func addSamples[N int64 | float64](to map[string]sample, name string, total bool, points []metricdata.DataPoint[N]) {
	for _, p := range points {
		s := sample{name: name, labels: map[string]string{}, value: float64(p.Value), total: total}
		for _, kv := range p.Attributes.ToSlice() {
			s.labels[strings.ReplaceAll(string(kv.Key), ".", "_")] = kv.Value.String()
		}
		to[s.id()] = s
	}
}

// A difference between slid and node_exporter that is meant: series whose ids match, and why.
type difference struct {
	id     *regexp.Regexp
	reason string
}

// onlySlid are renamed series that node_exporter does not have.
func onlySlid() []difference {
	return []difference{
		{regexp.MustCompile(`^node_pressure_irq_`), "node_exporter 1.5 does not read /proc/pressure/irq; 1.9 does"},
		{regexp.MustCompile(`^node_network_.*device="virtual"`), "the sum of the virtual interfaces"},
		{regexp.MustCompile(`^node_network_.*device="lo"`), "Debian's node_exporter leaves lo out of its traffic"},
		{regexp.MustCompile(`^node_disk_.*device="(ram|loop|fd|sr)`), "it leaves out devices by their names"},
		{regexp.MustCompile(`^node_filesystem_`), "it leaves out mounts by their path and type"},
	}
}

// onlyNode are series of node_exporter with a name of the map that slid does not have.
func onlyNode() []difference {
	return []difference{
		{regexp.MustCompile(`^node_cpu_seconds_total.*mode="(irq|softirq)"`), "slid counts both together, as interrupt"},
		{regexp.MustCompile(`^node_memory_Huge`), "slid shows huge pages where some are set aside"},
		{regexp.MustCompile(`^node_entropy_`), "from Linux 5.18 on they are constants"},
		{regexp.MustCompile(`^node_disk_.*device="`), "slid leaves out devices without any I/O, and partitions"},
		{regexp.MustCompile(`^node_network_.*device="`), "slid adds virtual interfaces up"},
		{regexp.MustCompile(`^node_filesystem_`), "slid shows a filesystem once, and none that is in memory"},
	}
}

func explained(list []difference, id string) bool {
	return slices.ContainsFunc(list, func(d difference) bool { return d.id.MatchString(id) })
}

// tolerance returns how far a gauge may be off the two readings of slid around the scrape: amounts of a busy machine
// move between them.
func tolerance(name string, value float64) float64 {
	if strings.HasPrefix(name, "node_memory_") || strings.HasSuffix(name, "_bytes") {
		return max(0.02*math.Abs(value), 16<<20)
	}
	return max(0.05*math.Abs(value), 5)
}

// TestAgreesWithNodeExporter reads the machine with slid, node_exporter and slid again, and compares every series that
// has a row in the map "prometheus": counters must lie between the two readings, amounts near them. What is moving, or
// comes and goes with other tests, may miss: a pair must agree in one of a few rounds, and what only one of the two has
// counts if it is so in all of them.
func TestAgreesWithNodeExporter(t *testing.T) {
	node := startNodeExporter(t, "--collector.netstat.fields=.*", "--collector.stat.softirq")
	c := config.Default()
	c.Host.PerCPU = true
	set := openHost(t, c)
	snapshot := set.registry.NewSnapshot().Named(metric.Prometheus)
	read := func() map[string]sample {
		set.collect(t)
		snapshot.Take(time.Now())
		return samples(snapshot)
	}
	agreed, wrong, alone := map[string]bool{}, map[string]string{}, map[string]int{}
	const rounds = 10
	for round := 1; round <= rounds; round++ {
		before := read()
		theirs := parseSamples(t, node.scrape(t))
		after := read()
		clear(wrong)
		for id, first := range before {
			their, ok := theirs[id]
			second, still := after[id]
			if !ok || !still || agreed[id] {
				continue
			}
			if fault := compare(first, their, second); fault != "" {
				wrong[id] = fault
				continue
			}
			agreed[id] = true
		}
		for _, fault := range unpaired(before, theirs) {
			alone[fault]++
		}
		maps.DeleteFunc(alone, func(_ string, seen int) bool { return seen < round })
		if len(wrong)+len(alone) == 0 {
			break
		}
	}
	for fault := range alone {
		t.Error(fault)
	}
	for _, names := range metric.AllNames() {
		s := set.registry.NewSnapshot().Named(names)
		s.Take(time.Now())
		for _, rm := range s.Resources {
			checkDistinct(t, names, rm.ScopeMetrics[0].Metrics)
		}
	}
	for id, fault := range wrong {
		t.Errorf("%s: %s", id, fault)
	}
	reportPairs(t, agreed)
}

// compare says what is wrong with a series read by slid, by node_exporter and by slid again; "" if nothing is.
func compare(first, their, second sample) string {
	low, high := min(first.value, second.value), max(first.value, second.value)
	slack := 1e-6 * math.Abs(high) // of floating-point conversions
	if !first.total {
		slack = tolerance(first.name, high)
	}
	if their.value >= low-slack && their.value <= high+slack {
		return ""
	}
	return fmt.Sprintf("slid has %v and %v, node_exporter between the two %v", first.value, second.value, their.value)
}

// unpaired names the series that only one of the two has without a reason.
func unpaired(ours, theirs map[string]sample) (list []string) {
	mapped := map[string]bool{}
	for _, r := range metric.Prometheus.Renames() {
		mapped[r.Name] = true
	}
	for id := range ours {
		if _, ok := theirs[id]; !ok && !explained(onlySlid(), id) {
			list = append(list, "only slid has "+id)
		}
	}
	for id, s := range theirs {
		if _, ok := ours[id]; !ok && mapped[s.name] && !explained(onlyNode(), id) {
			list = append(list, "only node_exporter has "+id)
		}
	}
	return list
}

// reportPairs lists what was compared.
func reportPairs(t *testing.T, agreed map[string]bool) {
	t.Helper()
	count := map[string]int{}
	for id := range agreed {
		name, _, _ := strings.Cut(id, "{")
		count[name]++
	}
	if len(count) < 30 {
		t.Errorf("only %d metrics were compared", len(count))
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(&b, "\n  %s: %d series", name, count[name])
	}
	t.Logf("%d metrics with %d series agree:%s", len(count), len(agreed), b.String())
}

// BenchmarkAgainstNodeExporter measures what slid's default set of host collectors costs, and a scrape of node_exporter
// beside it, in turns, so that both see the same machine: tick is the core lane, all every lane once, same the sources
// that node_exporter has by default too, which leaves out processes, control groups and bursts. Each with a snapshot.
func BenchmarkAgainstNodeExporter(b *testing.B) {
	node := startNodeExporter(b)
	set := openHost(b, config.Default())
	snapshot := set.registry.NewSnapshot()
	const rounds = 20 // of each in a turn: long enough for ticks of 10 ms
	var tick, all, same, scrape time.Duration
	measure := func(into *time.Duration, wanted func(hostCollector) bool) {
		set.collect(b, wanted) // the others were on the processor before
		before := ownCPU(b)
		for range rounds {
			set.collect(b, wanted)
			snapshot.Take(time.Now())
		}
		*into += ownCPU(b) - before
	}
	only := []string{"host/process", "host/cgroup", "host/burst"}
	for b.Loop() {
		measure(&tick, func(c hostCollector) bool { return c.Lane == collector.Core })
		measure(&all, func(hostCollector) bool { return true })
		measure(&same, func(c hostCollector) bool { return !slices.Contains(only, c.Name) })
		before := node.cpu(b)
		for range rounds {
			node.scrape(b)
		}
		scrape += node.cpu(b) - before
	}
	runs := float64(b.N * rounds)
	ours, theirs := float64(points(snapshot)), float64(len(parseSamples(b, node.scrape(b))))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours, "series")
	b.ReportMetric(theirs, "node-series")
	b.ReportMetric(scrape.Seconds()*1e6/runs, "scrape-us")
	b.ReportMetric(scrape.Seconds()*1e9/runs/theirs, "node-ns/series")
	b.ReportMetric(all.Seconds()*1e9/runs/ours, "ns/series")
	for _, side := range []struct {
		name  string
		spent time.Duration
	}{{"tick", tick}, {"all", all}, {"same", same}} {
		b.ReportMetric(side.spent.Seconds()*1e6/runs, side.name+"-us")
		b.ReportMetric(scrape.Seconds()/side.spent.Seconds(), "scrape/"+side.name)
	}
}

// BenchmarkHostCollectors measures each collector of the default set by itself, so that it shows who has the larger
// share of a tick.
func BenchmarkHostCollectors(b *testing.B) {
	set := openHost(b, config.Default())
	set.collect(b)
	for _, c := range set.open {
		b.Run(c.Name, func(b *testing.B) {
			b.ReportAllocs()
			before := ownCPU(b)
			for b.Loop() {
				if err := c.Collect(b.Context(), time.Now()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((ownCPU(b)-before).Seconds()*1e6/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(c.group.Live()), "series")
		})
	}
}

// points returns the number of points of a snapshot.
func points(s *metric.Snapshot) (n int) {
	for _, rm := range s.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				n += len(d.DataPoints)
			case metricdata.Sum[float64]:
				n += len(d.DataPoints)
			case metricdata.Gauge[int64]:
				n += len(d.DataPoints)
			case metricdata.Gauge[float64]:
				n += len(d.DataPoints)
			case metricdata.ExponentialHistogram[float64]:
				n += len(d.DataPoints)
			}
		}
	}
	return n
}

// ownCPU returns the CPU time of this process.
func ownCPU(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
