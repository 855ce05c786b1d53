package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

const (
	burstVM     = "burst/linux-6.18-vm"
	burstServer = "burst/hand-made-server"
)

// A burstRig is a Burst on a tree of its own with a clock that the test moves.
type burstRig struct {
	*rig
	at time.Duration
}

func startBurst(t testing.TB, env collector.Env) *burstRig {
	t.Helper()
	r := &burstRig{at: time.Hour}
	r.rig = start(t, env, func(env collector.Env) (collector.Collector, error) {
		return newBurst(env, func() time.Duration { return r.at })
	})
	return r
}

// step lets time pass and samples.
func (r *burstRig) step(passed time.Duration) {
	r.t.Helper()
	r.at += passed
	if err := r.Collect(r.t.Context(), r.now()); err != nil {
		r.t.Fatal(err)
	}
	r.env.Metrics.Collected(r.now())
}

func (r *burstRig) now() time.Time { return tick0.Add(r.at) }

// burstPoints are the exported distributions and sums by name{attribute values}.
type burstPoints struct {
	hists map[string]burstHist
	sums  map[string]float64
}

// burstHist is a point of a distribution with its buckets by index.
type burstHist struct {
	Count, Zero uint64
	Sum         float64
	Buckets     map[int]uint64
	start       time.Time
}

func takeBurst(snapshot *metric.Snapshot) burstPoints {
	snapshot.Take(tick0)
	p := burstPoints{map[string]burstHist{}, map[string]float64{}}
	sums := points{}
	for _, res := range snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				addPoints(sums, m.Name, data.DataPoints)
			case metricdata.Sum[float64]:
				addPoints(sums, m.Name, data.DataPoints)
			case metricdata.ExponentialHistogram[float64]:
				for _, d := range data.DataPoints {
					p.hists[burstKey(m.Name, d.Attributes)] = burstHistOf(d)
				}
			}
		}
	}
	for key, v := range sums {
		p.sums[key] = v.value
	}
	return p
}

func burstKey(name string, attrs attribute.Set) string {
	var values []string
	for _, kv := range attrs.ToSlice() {
		values = append(values, kv.Value.String())
	}
	if values == nil {
		return name
	}
	return name + "{" + strings.Join(values, ",") + "}"
}

func burstHistOf(d metricdata.ExponentialHistogramDataPoint[float64]) burstHist {
	h := burstHist{Count: d.Count, Zero: d.ZeroCount, Sum: d.Sum, Buckets: map[int]uint64{}, start: d.StartTime}
	for i, n := range d.PositiveBucket.Counts {
		if n > 0 {
			h.Buckets[int(d.PositiveBucket.Offset)+i] = n
		}
	}
	return h
}

// quantile returns the upper bound of the bucket that has the q-th value.
func (h burstHist) quantile(q float64) float64 {
	rank := uint64(math.Ceil(q * float64(h.Count)))
	if rank <= h.Zero {
		return 0
	}
	seen := h.Zero
	indices := make([]int, 0, len(h.Buckets))
	for i := range h.Buckets {
		indices = append(indices, i)
	}
	slices.Sort(indices)
	for _, i := range indices {
		if seen += h.Buckets[i]; seen >= rank {
			return metric.UpperBound(i)
		}
	}
	return math.NaN()
}

func (h burstHist) mean() float64 { return h.Sum / float64(h.Count) }

// burstOf returns the distribution of values, recorded by themselves.
func burstOf(rng metric.Range, values []float64) burstHist {
	registry := metric.NewRegistry(instrumentation.Scope{})
	g := registry.Group("expected", metric.ClassHost, 10)
	h := g.Histogram(metric.Desc{Name: "h", Range: rng}).With(g.Entity(resource.Empty(), boot))
	for _, v := range values {
		h.Record(v)
	}
	g.Collected(tick0)
	return takeBurst(registry.NewSnapshot()).hists["h"]
}

// wantHist compares distributions: counts exactly, sums up to rounding.
func wantHist(t testing.TB, key string, got, want burstHist) {
	t.Helper()
	if math.Abs(got.Sum-want.Sum) > 1e-9*math.Max(1, want.Sum) {
		t.Errorf("%s: sum %v, want %v", key, got.Sum, want.Sum)
	}
	got.Sum, got.start, want.Sum, want.start = 0, time.Time{}, 0, time.Time{}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(burstHist{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", key, diff)
	}
}

func wantSum(t testing.TB, p burstPoints, key string, want float64) {
	t.Helper()
	if got, ok := p.sums[key]; !ok || math.Abs(got-want) > 1e-9 {
		t.Errorf("%s = %v (exported: %v), want %v", key, got, ok, want)
	}
}

func TestBurstOnARecordedTree(t *testing.T) {
	r := startBurst(t, copyOf(t, burstVM))
	r.step(0)
	for range 3 {
		r.replace("proc/stat", "cpu0 ", "cpu0 1") // a fake progress of a thousand seconds
		r.step(burstPeriod)
	}
	p := takeBurst(r.snapshot)
	var keys []string
	for key := range p.hists {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	want := []string{
		"system.cpu.linux.runqueue.length.distribution", "system.cpu.utilization.distribution",
		"system.disk.pending_operations.distribution{vda}", "system.disk.utilization.distribution{vda}",
		"system.memory.linux.available_ratio.distribution",
		"system.network.throughput.distribution{eth0,receive}", "system.network.throughput.distribution{eth0,transmit}",
		"system.pressure.linux.stall_ratio.distribution{cpu,some}", "system.pressure.linux.stall_ratio.distribution{io,some}",
		"system.pressure.linux.stall_ratio.distribution{memory,some}",
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Error(diff)
	}
	for key, h := range p.hists {
		if h.Count != 3 {
			t.Errorf("%s has %d samples, want 3", key, h.Count)
		}
	}
	wantSum(t, p, "system.disk.pending_operations.limit{vda}", 256)
	r.verdict(verdict.Active)
}

func TestBurstOnAServer(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	r.step(0)
	// 60 ticks on three processors, of which 45 are busy: cpu0 all with guests, cpu1 half, cpu3 three quarters.
	r.replace("proc/stat", "cpu0 1000 50 250 22500 200 10 15 25 125 5", "cpu0 1020 50 250 22500 200 10 15 25 145 5")
	r.replace("proc/stat", "cpu1 1000 50 250 22500 200 10 15 25 125 5", "cpu1 1005 50 250 22505 205 10 20 25 125 5")
	r.replace("proc/stat", "cpu3 2000 100 500 45000 400 20 30 50", "cpu3 2000 105 503 45005 400 20 30 57")
	r.replace("proc/pressure/irq", "total=250000", "total=440000")
	r.replace("proc/pressure/io", "total=1000000", "total=1100000")
	r.replace("sys/block/nvme0n1/stat", "0 4294967000 ", "5 4294967190 ")
	r.replace("sys/class/net/eno1/statistics/rx_bytes", "1000000", "24750000") // 95 % of 25 MB
	r.replace("sys/class/net/eno2/statistics/rx_bytes", "500000", "600000")
	r.step(burstPeriod)
	p := takeBurst(r.snapshot)
	for key, want := range map[string]float64{
		"system.cpu.utilization.distribution":                         45. / 60,
		"system.cpu.linux.runqueue.length.distribution":               2,
		"system.memory.linux.available_ratio.distribution":            0.25,
		"system.pressure.linux.stall_ratio.distribution{irq,full}":    0.95,
		"system.pressure.linux.stall_ratio.distribution{io,some}":     0.5,
		"system.pressure.linux.stall_ratio.distribution{cpu,some}":    0,
		"system.disk.utilization.distribution{nvme0n1}":               0.95,
		"system.disk.utilization.distribution{sda}":                   0,
		"system.disk.pending_operations.distribution{nvme0n1}":        5,
		"system.disk.pending_operations.distribution{sda}":            2,
		"system.network.utilization.distribution{eno1,receive}":       0.95,
		"system.network.utilization.distribution{eno1,transmit}":      0,
		"system.network.throughput.distribution{eno2,receive}":        500_000,
		"system.network.throughput.distribution{eno2,transmit}":       0,
		"system.pressure.linux.stall_ratio.distribution{memory,some}": 0,
	} {
		h, ok := p.hists[key]
		if !ok || h.Count != 1 || math.Abs(h.Sum-want) > 1e-9 {
			t.Errorf("%s = %+v (exported: %v), want %v", key, h, ok, want)
		}
		delete(p.hists, key)
	}
	for key := range p.hists { // sdb and eno3 never did anything; the others are virtual or a guest's
		t.Errorf("%s is exported", key)
	}
	wantSum(t, p, "system.disk.pending_operations.limit{nvme0n1}", 4*1023)
	wantSum(t, p, "system.disk.pending_operations.limit{sda}", 64)
	wantSum(t, p, "system.disk.saturated_time{nvme0n1}", 0.2)
	wantSum(t, p, "system.disk.saturated_time{sda}", 0)
	wantSum(t, p, "system.network.saturated_time{eno1,receive}", 0.2)
	wantSum(t, p, "system.network.saturated_time{eno1,transmit}", 0)
	wantSum(t, p, "system.pressure.linux.saturated_time{irq,full}", 0.2)
	wantSum(t, p, "system.cpu.saturated_time", 0)
	wantSum(t, p, "system.memory.saturated_time", 0)
}

// TestBurstDisk follows a disk over a filled 32-bit time, a reset, and its first I/O.
func TestBurstDisk(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	nvme := func(reads, busy uint64) {
		r.write("sys/block/nvme0n1/stat", fmt.Sprintf("%d 0 80000 4000 2000 100 160000 9000 0 %d 13000\n", reads, busy))
	}
	r.step(0)
	var want []float64
	nvme(1001, 4294967100)
	r.step(burstPeriod)
	want = append(want, 0.5)
	nvme(1002, 4) // 4294967296 + 4
	r.step(2 * burstPeriod)
	want = append(want, 0.5)
	nvme(1, 100) // another disk, or its driver reset it
	r.step(burstPeriod)
	nvme(2, 150)
	r.step(burstPeriod)
	want = append(want, 0.25)
	p := takeBurst(r.snapshot)
	wantHist(t, "nvme0n1", p.hists["system.disk.utilization.distribution{nvme0n1}"], burstOf(burstShares(), want))
	wantSum(t, p, "slid.sample.missed{disk}", 2) // one late, one without a base

	r.write("sys/block/sdb/stat", "1 0 8 0 0 0 0 0 1 200 200\n")
	r.step(burstPeriod)
	p = takeBurst(r.snapshot)
	h := p.hists["system.disk.utilization.distribution{sdb}"]
	if start := r.now().Add(-burstPeriod); h.Count != 1 || h.Sum != 1 || !h.start.Equal(start) {
		t.Errorf("first I/O of sdb: %+v, want 1 from %v on", h, start)
	}
}

// TestBurstDevicesComeAndGo pulls a disk and an interface and puts others in.
func TestBurstDevicesComeAndGo(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	r.step(0)
	r.step(burstPeriod)
	live, fds := r.env.Metrics.Live(), openFiles(t)
	remove(t, filepath.Join(r.env.Sys, "block/sda"))
	remove(t, filepath.Join(r.env.Sys, "class/net/eno1"))
	r.write("sys/block/sdc/stat", "1 0 8 0 0 0 0 0 0 100 100\n")
	r.write("sys/block/sdc/device/uevent", "")
	for range burstScan {
		r.step(burstPeriod)
	}
	p := takeBurst(r.snapshot)
	for _, gone := range []string{"sda", "eno1"} {
		for key := range p.hists {
			if strings.Contains(key, "{"+gone) {
				t.Errorf("%s is exported after its device has gone", key)
			}
		}
	}
	if _, ok := p.hists["system.disk.utilization.distribution{sdc}"]; !ok {
		t.Error("the new disk is not sampled")
	}
	// The old disk had 4 series with its limit, the interface 4, the new disk has 3.
	if n := r.env.Metrics.Live(); n != live-4-4+3 {
		t.Errorf("%d series, before %d", n, live)
	}
	if n := openFiles(t); n != fds-1-3+1 {
		t.Errorf("%d open files, before %d", n, fds)
	}
	r.verdict(verdict.Active)
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestBurstBoundsDevices: of very many disks and ports only so many are sampled.
func TestBurstBoundsDevices(t *testing.T) {
	env := copyOf(t, burstServer)
	var log bytes.Buffer
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := &burstRig{rig: &rig{t: t, env: env}}
	for i := range 500 {
		r.write(fmt.Sprintf("sys/block/sd%03d/stat", i), "1 0 8 0 0 0 0 0 1 200 200\n")
		r.write(fmt.Sprintf("sys/block/sd%03d/device/uevent", i), "")
		r.write(fmt.Sprintf("sys/class/net/veth%03d/statistics/rx_bytes", i), "1\n")
	}
	r = startBurst(t, env)
	for range 2*burstScan + 1 {
		r.step(burstPeriod)
	}
	const each = 2 + 1 + 1
	if n := r.env.Metrics.Live(); n > maxBurstDisks*each+maxBurstLinks*4+30 {
		t.Errorf("%d series", n)
	}
	if n := strings.Count(log.String(), "not all devices are sampled"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// TestBurstLink follows an interface whose speed becomes known, changes and is lost, and whose counters fall.
func TestBurstLink(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	rx := 500_000
	more := func(n int) {
		rx += n
		r.write("sys/class/net/eno2/statistics/rx_bytes", fmt.Sprintln(rx))
		r.step(burstPeriod)
	}
	look := func() { // lets pass the samples until devices are looked for
		for range burstScan {
			more(0)
		}
	}
	last := func(key string) (float64, bool) {
		h, ok := takeBurst(r.snapshot).hists[key]
		return h.Sum, ok
	}
	const rate, use = "system.network.throughput.distribution{eno2,receive}", "system.network.utilization.distribution{eno2,receive}"
	r.step(0)
	more(1000)
	if sum, _ := last(rate); sum != 5000 {
		t.Errorf("throughput %v, want 5000", sum)
	}
	r.write("sys/class/net/eno2/speed", "100\n")
	look()
	more(1_250_000) // half of 100 Mbit/s
	if sum, _ := last(use); math.Abs(sum-0.5) > 1e-9 {
		t.Errorf("use %v, want 0.5", sum)
	}
	if _, ok := last(rate); ok {
		t.Error("throughput is still exported beside the use")
	}
	r.write("sys/class/net/eno2/speed", "-1\n")
	look()
	more(1_250_000)
	if sum, _ := last(use); math.Abs(sum-1) > 1e-9 {
		t.Errorf("use after the link is down %v, want 1", sum)
	}
	rx = 0
	more(0)
	more(2_500_000)
	if sum, _ := last(use); math.Abs(sum-2) > 1e-9 {
		t.Errorf("use after a reset %v, want 2", sum)
	}
	wantSum(t, takeBurst(r.snapshot), "slid.sample.missed{network}", 1)
}

// TestBurstLate stalls the lane: what passed is no burst, and what is missing is counted.
func TestBurstLate(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	rx := 1_000_000
	after := func(d time.Duration, share float64) { // passes time in which eno1 carries a share of the line
		rx += int(share * d.Seconds() * 125e6)
		r.write("sys/class/net/eno1/statistics/rx_bytes", fmt.Sprintln(rx))
		r.step(d)
	}
	r.step(0)
	var want []float64
	for _, c := range []struct {
		passed  time.Duration
		share   float64
		counted bool
	}{
		{burstPeriod, 0.25, true},
		{10 * time.Second, 0.25, true}, // a stopped process: an average, not 50 times the line rate
		{20 * time.Millisecond, 0.5, false},
		{180 * time.Millisecond, 0.5, true}, // together with the one before
		{290 * time.Millisecond, 0.75, true},
		{time.Hour, 0.125, true},
	} {
		after(c.passed, c.share)
		if c.counted {
			want = append(want, c.share)
		}
	}
	p := takeBurst(r.snapshot)
	got := p.hists["system.network.utilization.distribution{eno1,receive}"]
	if got.Count != uint64(len(want)) || math.Abs(got.Sum-(0.25+0.25+0.5+0.75+0.125)) > 1e-6 {
		t.Errorf("%+v, want %v", got, want)
	}
	wantSum(t, p, "slid.sample.missed{network}", 49+17999)
	wantSum(t, p, "slid.sample.missed{cpu}", 5+49+17999+1-1) // the ticks of the fixture stand still
	if n := p.hists["system.cpu.utilization.distribution"].Count; n != 0 {
		t.Errorf("%d samples of a clock that stands still", n)
	}
}

// TestBurstIgnoresTheWallClock sets it forth and back.
func TestBurstIgnoresTheWallClock(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	rx := 1_000_000
	for i := range 20 {
		r.at += burstPeriod
		rx += 12_500_000
		r.write("sys/class/net/eno1/statistics/rx_bytes", fmt.Sprintln(rx))
		now := tick0.Add(time.Duration(i%3-1) * 24 * time.Hour)
		if err := r.Collect(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		r.env.Metrics.Collected(now)
	}
	p := takeBurst(r.snapshot)
	h := p.hists["system.network.utilization.distribution{eno1,receive}"]
	if h.Count != 19 || math.Abs(h.mean()-0.5) > 1e-9 {
		t.Errorf("%+v, want 19 samples of 0.5", h)
	}
	wantSum(t, p, "slid.sample.missed{network}", 0)
}

// burstFiles are the files of each source in the server's tree.
func burstFiles() map[string]string {
	return map[string]string{
		"cpu": "proc/stat", "memory": "proc/meminfo", "pressure/io": "proc/pressure/io",
		"disk": "sys/block/sda/stat", "network": "sys/class/net/eno1/statistics/rx_bytes",
	}
}

// TestBurstBadFile: every prefix of each file and binary data neither panic nor record a sample of it; the verdict
// tells, the log does so once, the others go on, and the source recovers.
func TestBurstBadFile(t *testing.T) {
	for name, file := range burstFiles() {
		t.Run(name, func(t *testing.T) {
			env := copyOf(t, burstServer)
			var log bytes.Buffer
			env.Log = slog.New(slog.NewTextHandler(&log, nil))
			r := startBurst(t, env)
			whole := r.file(file)
			r.step(0)
			r.step(burstPeriod)
			bad := 0.0
			for n := range whole {
				r.write(file, whole[:n])
				r.step(burstPeriod)
				if v := r.Verdicts()[0]; v.State == verdict.Degraded && strings.Contains(v.Reason, file) {
					bad++
				}
			}
			r.write(file, strings.Repeat("\x00\xff:\n9", 1000))
			r.step(burstPeriod)
			r.verdict(verdict.Degraded, file)
			p := takeBurst(r.snapshot)
			if missed := p.sums["slid.sample.missed{"+name+"}"]; missed < bad || bad == 0 {
				t.Errorf("%v samples missed after %v bad files", missed, bad)
			}
			minutes := int(time.Duration(len(whole)) * burstPeriod / time.Minute)
			if n := strings.Count(log.String(), "cannot sample"); n < 1 || n > 1+minutes {
				t.Errorf("logged %d times:\n%s", n, log.String())
			}
			if n := p.hists["system.pressure.linux.stall_ratio.distribution{cpu,some}"].Count; n != uint64(len(whole)+2) {
				t.Errorf("another source has %d samples, want %d", n, len(whole)+2)
			}
			r.write(file, whole)
			r.step(burstPeriod)
			r.verdict(verdict.Active)
		})
	}
}

// TestBurstVanishingFile takes a whole source away and brings it back.
func TestBurstVanishingFile(t *testing.T) {
	env := copyOf(t, burstServer)
	remove(t, filepath.Join(env.Proc, "meminfo"))
	remove(t, filepath.Join(env.Proc, "pressure"))
	r := startBurst(t, env)
	r.verdict(verdict.Degraded, "meminfo")
	r.step(burstPeriod)
	r.write("proc/meminfo", string(readTree(t, burstServer, "proc/meminfo")))
	for range burstRetry + 1 {
		r.step(burstPeriod)
	}
	r.verdict(verdict.Active) // pressure, which the kernel has not, is host/pressure's affair
	if n := takeBurst(r.snapshot).hists["system.memory.linux.available_ratio.distribution"].Count; n == 0 {
		t.Error("no samples of a file that came later")
	}
}

func TestBurstNothingAtAll(t *testing.T) {
	env := envAt(t.TempDir())
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("host/burst", metric.ClassHost, 1000)
	before := openFiles(t)
	_, err := NewBurst(env)
	if v := verdict.FromError("host/burst", err); err == nil || v.State != verdict.Unavailable {
		t.Errorf("%+v, want unavailable", v)
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d open files, before %d", n, before)
	}
	env = envAt("testdata/" + treeOld) // no MemAvailable, no /sys, no pressure
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("host/burst", metric.ClassHost, 1000)
	c, err := NewBurst(env)
	if err != nil {
		t.Fatal(err)
	}
	if v := c.Verdicts()[0]; v.State != verdict.Degraded || !strings.Contains(v.Reason, "MemAvailable") ||
		!strings.Contains(v.Reason, "sys/block") || strings.Contains(v.Reason, "pressure") {
		t.Errorf("%+v", v)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d open files after Close, before %d", n, before)
	}
}

func TestBurstAllFail(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	r.step(0)
	for _, name := range []string{"cpu", "memory", "io", "irq"} {
		r.write("proc/pressure/"+name, "")
	}
	r.write("proc/stat", "")
	r.write("proc/meminfo", "")
	for _, name := range []string{"sda", "sdb", "nvme0n1"} {
		r.write("sys/block/"+name+"/stat", "")
	}
	for _, name := range []string{"eno1", "eno2", "eno3"} {
		r.write("sys/class/net/"+name+"/statistics/tx_bytes", "")
	}
	r.at += burstPeriod
	if err := r.Collect(t.Context(), r.now()); err == nil || !strings.Contains(err.Error(), "proc/stat") ||
		!strings.Contains(err.Error(), "eno3") {
		t.Errorf("error %v", err)
	}
	r.verdict(verdict.Unavailable)
}

// TestBurstAddsUp: the distributions of two hosts, and of two intervals of each, are together that of all samples.
func TestBurstAddsUp(t *testing.T) {
	var all []float64
	merged := burstHist{Buckets: map[int]uint64{}}
	for host := range 2 {
		rng := rand.New(rand.NewPCG(1, uint64(host)))
		r := startBurst(t, copyOf(t, burstServer))
		busy, reads := uint64(700), uint64(100)
		r.step(0)
		var before burstHist
		for range 2 { // intervals
			for range 50 {
				ms := uint64(rng.ExpFloat64() * 30)
				ms = min(ms, 200)
				busy, reads = busy+ms, reads+1
				all = append(all, float64(ms)/200)
				r.write("sys/block/sda/stat", fmt.Sprintf("%d 0 8000 400 200 10 16000 900 2 %d 1300\n", reads, busy))
				r.step(burstPeriod)
			}
			now := takeBurst(r.snapshot).hists["system.disk.utilization.distribution{sda}"]
			merged.add(now, before)
			before = now
		}
	}
	wantHist(t, "merged", merged, burstOf(burstShares(), all))
}

// add adds what lies between two readings of a cumulative distribution.
func (h *burstHist) add(now, before burstHist) {
	h.Count += now.Count - before.Count
	h.Zero += now.Zero - before.Zero
	h.Sum += now.Sum - before.Sum
	for i, n := range now.Buckets {
		if n -= before.Buckets[i]; n > 0 {
			h.Buckets[i] += n
		}
	}
}

func TestBurstAllocatesNothing(t *testing.T) {
	for tree, env := range map[string]collector.Env{
		burstVM: copyOf(t, burstVM), burstServer: copyOf(t, burstServer), "live": envAt("/"),
	} {
		r := startBurst(t, env)
		for range 3 {
			r.step(burstPeriod)
		}
		ctx, now := t.Context(), tick(10)
		if n := testing.AllocsPerRun(4*burstScan, func() { // devices are looked for four times
			r.at += burstPeriod
			if err := r.Collect(ctx, now); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per sample, want 0", tree, n)
		}
	}
}

func TestBurstDescriptions(t *testing.T) {
	r := startBurst(t, copyOf(t, burstServer))
	for _, d := range r.env.Metrics.Descs() {
		if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
			t.Errorf("incomplete declaration %+v", d)
		}
		if (d.Kind == metric.Histogram) != strings.HasSuffix(d.Name, ".distribution") {
			t.Errorf("%s is a %s", d.Name, d.Kind)
		}
	}
}

func TestBurstListing(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 1000 { // many more than one call returns
		name := fmt.Sprintf("veth%x", i)
		want = append(want, name)
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := openBurstListing(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.close() }()
	for range 2 {
		var got []string
		if err := l.each(func(name []byte) { got = append(got, string(name)) }); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	if _, err := openBurstListing(filepath.Join(dir, "none")); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

func FuzzBurst(f *testing.F) {
	for _, file := range burstFiles() {
		f.Add(readTree(f, burstServer, file))
	}
	f.Add(binary.NativeEndian.AppendUint16(make([]byte, 16), 24))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = burstAvailable(b)
		_, _ = (&burstCPU{}).parse(b)
		burstNames(b, func([]byte) {})
		var totals diskTotals
		_ = totals.parse(b)
	})
}
