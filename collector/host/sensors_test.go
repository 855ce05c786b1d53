package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// The trees of testdata/sensors.
const (
	sensorsServer = "server"
	sensorsLaptop = "laptop"
	sensorsOld    = "old"
	sensorsVM     = "vm"
)

// plantSensors makes the files of a tree: they have names with colons, which not every file system and no Go module
// may have, and links, so they are kept as lines of one text.
func plantSensors(t testing.TB, root, tree string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata/sensors", tree+".tree"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := plantSensor(root, line); err != nil {
			t.Fatalf("%s: %q: %v", tree, line, err)
		}
	}
}

func plantSensor(root, line string) error {
	if name, target, ok := strings.Cut(line, " -> "); ok {
		path := filepath.Join(root, name)
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path))
	}
	if name, ok := strings.CutSuffix(line, "/"); ok {
		return os.MkdirAll(filepath.Join(root, name), 0o755)
	}
	name, quoted, ok := strings.Cut(line, " = ")
	if !ok {
		return errors.New("neither a file nor a link nor a directory")
	}
	text, err := strconv.Unquote(`"` + quoted + `"`)
	path := filepath.Join(root, name)
	return errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
}

// sensorsPatience is more than a good chip needs on a busy machine.
const sensorsPatience = time.Minute

// sensorRig is a rig whose chips have all the time that a busy machine may need.
type sensorRig struct {
	*rig
	s    *Sensors
	logs *bytes.Buffer
}

func startSensors(t testing.TB, trees ...string) *sensorRig {
	t.Helper()
	root := t.TempDir()
	for _, tree := range trees {
		plantSensors(t, root, tree)
	}
	return startSensorsAt(t, root, NewSensors)
}

func startSensorsAt(t testing.TB, root string, open factory) *sensorRig {
	t.Helper()
	env, logs := envAt(root), &bytes.Buffer{}
	env.Log = slog.New(slog.NewTextHandler(logs, nil))
	r := &sensorRig{rig: start(t, env, open), logs: logs}
	r.s = r.Collector.(*Sensors)
	r.s.budget, r.s.first = sensorsPatience, sensorsPatience
	return r
}

// values returns what is exported: metric[hw.id], with what else tells series apart.
func (r *sensorRig) values() points {
	r.t.Helper()
	r.snapshot.Take(tick(r.ticks))
	p := points{}
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				addSensors(p, m.Name, data.DataPoints)
			case metricdata.Sum[float64]:
				addSensors(p, m.Name, data.DataPoints)
			case metricdata.Gauge[int64]:
				addSensors(p, m.Name, data.DataPoints)
			case metricdata.Gauge[float64]:
				addSensors(p, m.Name, data.DataPoints)
			}
		}
	}
	return p
}

func addSensors[N int64 | float64](p points, name string, list []metricdata.DataPoint[N]) {
	for _, d := range list {
		id, _ := d.Attributes.Value("hw.id")
		key := name + "[" + id.AsString() + "]"
		for _, attr := range []attribute.Key{
			"hw.linux.source", "hw.limit_type", "hw.state", "hw.battery.state", "error.type",
		} {
			if v, ok := d.Attributes.Value(attr); ok && (name != "hw.battery.time_left" || attr != "hw.state") {
				key += " " + v.AsString()
			}
		}
		if _, twice := p[key]; twice {
			panic(key + " is exported twice")
		}
		p[key] = point{float64(d.Value), d.StartTime}
	}
}

// collectValues runs a tick that must not fail.
func (r *sensorRig) collectValues() points {
	r.t.Helper()
	if err := r.collect(); err != nil {
		r.t.Fatal(err)
	}
	return r.values()
}

// attributes returns the attributes of the series of a metric with an hw.id.
func (r *sensorRig) attributes(name, id string) attribute.Set {
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Gauge[float64]:
				if set, ok := sensorWithID(data.DataPoints, id); ok {
					return set
				}
			case metricdata.Sum[float64]:
				if set, ok := sensorWithID(data.DataPoints, id); ok {
					return set
				}
			case metricdata.Sum[int64]:
				if set, ok := sensorWithID(data.DataPoints, id); ok {
					return set
				}
			}
		}
	}
	r.t.Errorf("no %s of %s", name, id)
	return attribute.Set{}
}

func sensorWithID[N int64 | float64](list []metricdata.DataPoint[N], id string) (attribute.Set, bool) {
	for _, d := range list {
		if v, _ := d.Attributes.Value("hw.id"); v.AsString() == id {
			return d.Attributes, true
		}
	}
	return attribute.Set{}, false
}

// exactly checks that a metric has these series and no others.
func (p points) exactly(t *testing.T, metric string, want map[string]float64) {
	t.Helper()
	for key, v := range want {
		p.want(t, metric+key, v)
	}
	for key, v := range p {
		rest, ok := strings.CutPrefix(key, metric+"[")
		if _, known := want["["+rest]; ok && !known {
			t.Errorf("%s = %v is exported", key, v.value)
		}
	}
}

// row returns the verdict of a name.
func (r *sensorRig) row(name string) (v verdict.Verdict, ok bool) {
	for _, v := range r.Verdicts() {
		if v.Name == name {
			return v, true
		}
	}
	return v, false
}

// wantRow checks a verdict.
func (r *sensorRig) wantRow(name string, state verdict.State, parts ...string) {
	r.t.Helper()
	v, ok := r.row(name)
	if !ok || v.State != state || len(parts) == 0 && v.Reason != "" {
		r.t.Errorf("verdict %s: %+v, want %s %q", name, v, state, parts)
	}
	for _, part := range parts {
		if !strings.Contains(v.Reason+" "+v.Missing, part) {
			r.t.Errorf("verdict %+v, want %q in it", v, part)
		}
	}
}

// chip returns the state of a chip.
func (r *sensorRig) chip(entry string) *sensorChip {
	r.t.Helper()
	for _, p := range r.s.parts {
		if m := p.chips.byName[entry]; m != nil {
			return &m.T
		}
	}
	r.t.Fatalf("no chip %s", entry)
	return nil
}

func TestSensorsOfNothing(t *testing.T) {
	r := startSensorsAt(t, t.TempDir(), NewSensors)
	if p := r.collectValues(); len(p) > 0 {
		t.Errorf("%v is exported", p)
	}
	list := r.Verdicts()
	if len(list) != 1 || list[0].State != verdict.Unavailable || !strings.Contains(list[0].Reason, "no sensors") || list[0].Missing != "" {
		t.Errorf("%+v", list)
	}
	if r.logs.Len() > 0 {
		t.Errorf("logged: %s", r.logs)
	}
}

func TestSensorsOfThisMachine(t *testing.T) {
	r := startSensorsAt(t, "/", NewSensors)
	p := r.collectValues()
	t.Logf("%d series; %+v", len(p), r.Verdicts())
	for _, v := range r.Verdicts() {
		if v.State == verdict.Degraded {
			t.Logf("degraded: %+v", v)
		}
	}
}

func TestSensorsCarryOn(t *testing.T) {
	r := startSensors(t, sensorsServer)
	for range 3 {
		r.collectValues()
	}
	r.wantRow("host/sensors", verdict.Active)
	r.wantRow("host/sensors/hwmon", verdict.Degraded, "1 of ", "temp3_input of hwmon2 (nct6798)", "is a directory")
	for _, name := range []string{"thermal", "rapl", "edac", "aer"} {
		r.wantRow("host/sensors/"+name, verdict.Active)
	}
	if _, ok := r.row("host/sensors/power_supply"); ok {
		t.Error("a row for what the machine has not")
	}
	if n := strings.Count(r.logs.String(), "\n"); n != 1 || !strings.Contains(r.logs.String(), "temp3_input") {
		t.Errorf("want one line about temp3_input, got %d:\n%s", n, r.logs)
	}
	r.values().want(t, "hw.linux.sensor.missed[] hwmon failed", 3)
}

// TestSensorsCauses: one broken file takes its own series with it and nothing else, and comes back.
func TestSensorsCauses(t *testing.T) {
	for _, tt := range []struct {
		name, file, content, series string
	}{
		{"text", "sys/class/hwmon/hwmon1/temp1_input", "n/a\n", "hw.temperature[coretemp@coretemp.0/temp1]"},
		{"empty", "sys/class/hwmon/hwmon1/temp1_input", "", "hw.temperature[coretemp@coretemp.0/temp1]"},
		{"binary", "sys/class/hwmon/hwmon2/fan1_input", "\x00\xff9", "hw.fan.speed[nct6798@nct6775.656/fan1]"},
		{"huge", "sys/class/hwmon/hwmon1/temp1_input", "99999999999999999999\n", "hw.temperature[coretemp@coretemp.0/temp1]"},
		{"a long file", "sys/class/hwmon/hwmon1/temp1_input", strings.Repeat("9", 1e5), "hw.temperature[coretemp@coretemp.0/temp1]"},
		{"no total", "sys/bus/pci/devices/0000:00:02.1/aer_dev_fatal", "DLP 0\n", "hw.errors[0000:00:02.1] fatal"},
		{"cut", "sys/bus/pci/devices/0000:00:02.1/aer_dev_fatal", "DLP 0\nTOTAL_ERR_FATAL 1", "hw.errors[0000:00:02.1] fatal"},
		{"negative", "sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count", "-1\n", "hw.errors[mc0/dimm0] corrected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startSensors(t, sensorsServer)
			before := r.collectValues()
			was := r.file(tt.file)
			r.write(tt.file, tt.content)
			after := r.collectValues()
			if _, ok := before[tt.series]; !ok {
				t.Fatalf("no %s", tt.series)
			}
			if p, ok := after[tt.series]; ok {
				t.Errorf("%s = %v is exported of a broken file", tt.series, p.value)
			}
			for key, p := range before {
				if after[key] != p && key != tt.series && !strings.HasPrefix(key, "hw.linux") {
					t.Errorf("%s = %v, was %v", key, after[key], p)
				}
			}
			r.write(tt.file, was)
			if again := r.collectValues()[tt.series]; again != before[tt.series] {
				t.Errorf("after its return %v, was %v", again, before[tt.series])
			}
		})
	}
}

// TestSensorsNotAllowed: files that only root may read, as energy_uj is since 2020.
func TestSensorsNotAllowed(t *testing.T) {
	r := startSensors(t, sensorsServer)
	zones, err := filepath.Glob(filepath.Join(r.env.Sys, "class/powercap/*/energy_uj"))
	if err != nil || len(zones) == 0 {
		t.Fatal(zones, err)
	}
	for _, zone := range zones {
		if err := os.Chmod(zone, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.s.readers.live = 1 // the reader that they have is one without the capability
	ended := make(chan error)
	go func() {
		ended <- unprivileged(t, func() error {
			r.s.readers.loop()
			return nil
		})
	}()
	defer func() {
		r.s.readers.close()
		r.s.readers = newSensorReaders() // for Close
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		r.collectValues()
	}
	r.values().without(t, "hw.energy[intel")
	r.wantRow("host/sensors/rapl", verdict.Unavailable, "energy_uj", "permission denied", "CAP_DAC_READ_SEARCH")
	if n := strings.Count(r.logs.String(), "energy_uj"); n != 1 {
		t.Errorf("%d lines about energy_uj, want 1:\n%s", n, r.logs)
	}
}

func TestSensorsComeAndGo(t *testing.T) {
	r := startSensors(t, sensorsServer)
	link := filepath.Join(r.env.Sys, "class/hwmon/hwmon4")
	const disk = "hw.temperature[drivetemp@naa.5000c500a1b2c3d4/temp1]"
	r.collectValues().want(t, disk, 31)
	live, series := r.env.Metrics.Live(), len(r.values())
	for range 3 {
		remove(t, link)
		r.collectValues().without(t, "drivetemp")
		// Another device takes the number at once; the old one comes back with another.
		plantSensorLines(t, r.env.Root, `
sys/devices/virtual/hwmon/new/name = usbpsu\n
sys/devices/virtual/hwmon/new/power1_input = 42000000\n
sys/class/hwmon/hwmon4 -> ../../devices/virtual/hwmon/new
sys/class/hwmon/hwmon9 -> ../../devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/hwmon/hwmon4`)
		p := r.collectValues()
		p.want(t, disk, 31)
		p.want(t, "hw.power[usbpsu@virtual/power1]", 42)
		remove(t, link)
		remove(t, filepath.Join(r.env.Sys, "class/hwmon/hwmon9"))
		remove(t, filepath.Join(r.env.Sys, "devices/virtual/hwmon/new"))
		plantSensorLines(t, r.env.Root, `
sys/class/hwmon/hwmon4 -> ../../devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/hwmon/hwmon4`)
		r.collectValues().want(t, disk, 31)
	}
	if now := r.env.Metrics.Live(); now != live || len(r.values()) != series {
		t.Errorf("%d live series, had %d", now, live)
	}
}

// TestSensorsReplaced: a directory that vanished under an open chip takes nothing of its successor.
func TestSensorsReplaced(t *testing.T) {
	r := startSensors(t, sensorsServer)
	r.collectValues()
	dir := filepath.Join(r.env.Sys, "devices/platform/coretemp.0/hwmon/hwmon1")
	remove(t, dir)
	plantSensorLines(t, r.env.Root, `
sys/devices/platform/coretemp.0/hwmon/hwmon1/name = other\n
sys/devices/platform/coretemp.0/hwmon/hwmon1/temp1_input = 77000\n`)
	p := r.collectValues()
	p.without(t, "coretemp@")
	p.want(t, "hw.temperature[other@virtual/temp1]", 77)
	if strings.Contains(r.logs.String(), "hwmon1") {
		t.Errorf("logged: %s", r.logs)
	}
}

func plantSensorLines(t *testing.T, root, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" {
			if err := plantSensor(root, line); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// blockSensor replaces a file by a pipe that nobody writes to: opening it blocks, as reading a broken device does. The
// function it returns brings the file back and lets go of whoever waits.
func blockSensor(t *testing.T, path string) (release func()) {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	release = func() {
		_ = os.Rename(path, pipe)
		_ = os.Rename(path+".was", path)
		if fd, err := unix.Open(pipe, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
		}
	}
	if err := errors.Join(os.Rename(path, path+".was"), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(pipe); err != nil {
			release()
		}
	})
	return release
}

// hurried gives chips little time. A busy machine may make good chips late; the tests ask again then.
func (r *sensorRig) hurried() {
	r.s.budget, r.s.first, r.s.grace = 50*time.Millisecond, 50*time.Millisecond, 0
}

// TestSensorsHang: a file whose read never returns delays neither others nor Collect nor Close, is read once at a
// time, and is told by name.
func TestSensorsHang(t *testing.T) {
	r := startSensors(t, sensorsServer)
	r.hurried()
	release := blockSensor(t, filepath.Join(r.env.Sys, "class/hwmon/hwmon2/fan1_input"))
	blockEarly := blockSensor(t, filepath.Join(r.env.Sys, "class/hwmon/hwmon5/name")) // already when it is found out
	const others = "hw.temperature[coretemp@coretemp.0/temp1]"
	for n := 0; ; n++ {
		p := r.collectValues()
		p.without(t, "nct6798")
		p.without(t, "jc42")
		v, _ := r.row("host/sensors/hwmon")
		if _, ok := p[others]; ok && strings.Contains(v.Reason, "hwmon2") && strings.Contains(v.Reason, "hwmon5 does not answer since") {
			break
		}
		if n == 1000 {
			t.Fatalf("not there after %d ticks: %+v", n, v)
		}
	}
	if r.s.readers.out > r.s.readers.live || !r.chip("hwmon2").busy || !r.chip("hwmon5").busy {
		t.Errorf("%d chips with %d readers", r.s.readers.out, r.s.readers.live)
	}
	if n := strings.Count(r.logs.String(), "a file does not answer"); n < 2 || strings.Count(r.logs.String(), "hwmon2") != 1 {
		t.Errorf("not logged once per chip:\n%s", r.logs)
	}
	release()
	blockEarly()
	r.s.budget, r.s.first, r.s.grace = sensorsPatience, sensorsPatience, sensorsPatience
	for n := 0; r.chip("hwmon2").busy || r.chip("hwmon5").busy; n++ {
		if n == 1000 {
			t.Fatal("still with its reader")
		}
		r.collectValues()
		time.Sleep(time.Millisecond)
	}
	p := r.collectValues()
	p.want(t, "hw.fan.speed[nct6798@nct6775.656/fan1]", 1180)
	p.want(t, others, 45)
}

// TestSensorsCloseWhileHanging: shutdown does not wait, and what hangs is given back when it lets go.
func TestSensorsCloseWhileHanging(t *testing.T) {
	root := t.TempDir()
	plantSensors(t, root, sensorsServer)
	env := envAt(root)
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("test", metric.ClassHost, 1000)
	s := newSensors(env, false)
	s.budget, s.grace = time.Millisecond, 0
	release := blockSensor(t, filepath.Join(env.Sys, "class/hwmon/hwmon2/fan1_input"))
	if err := s.Collect(t.Context(), tick0); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "sys/devices/platform/nct6775.656/hwmon/hwmon2")
	awaitSensors(t, "the reader to open "+dir, func() bool { return isSensorOpen(t, dir) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	release()
	awaitSensors(t, "the reader to close "+dir, func() bool { return !isSensorOpen(t, dir) })
}

// isSensorOpen says whether this process has a file open.
func isSensorOpen(t *testing.T, path string) bool {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list, func(e os.DirEntry) bool {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		return target == path
	})
}

// awaitSensors waits for a condition.
func awaitSensors(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 10_000 {
		if condition() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

// TestSensorsAllHang: more chips hang than there are readers. The number of goroutines is bounded, and Collect still
// returns.
func TestSensorsAllHang(t *testing.T) {
	root := t.TempDir()
	var releases []func()
	for i := range mostReaders + 4 {
		dir := fmt.Sprintf("sys/class/hwmon/hwmon%d", i)
		plantSensorLines(t, root, dir+"/name = bad\\n\n"+dir+"/temp1_input = 1\\n")
		releases = append(releases, blockSensor(t, filepath.Join(root, dir, "temp1_input")))
	}
	r := startSensorsAt(t, root, NewSensors)
	r.s.budget, r.s.first, r.s.grace = time.Millisecond, 20*time.Millisecond, 0
	for range 3 {
		if p := r.collectValues(); len(p) != 1 {
			t.Errorf("%v", p)
		}
	}
	if live := r.s.readers.live; live != mostReaders {
		t.Errorf("%d readers, want %d", live, mostReaders)
	}
	r.values().want(t, "hw.linux.sensor.missed[] hwmon timeout", 3*(mostReaders+4))
	r.wantRow("host/sensors/hwmon", verdict.Degraded, "does not answer", "more")
	for _, release := range releases {
		release()
	}
}

// TestSensorsQuarantine judges readings by hand: three slow ones in a row, and each quarantine longer than the last.
func TestSensorsQuarantine(t *testing.T) {
	c := &sensorChip{}
	now := tick0
	slow, budget := 300*time.Millisecond, sensorBudget
	for n, want := range []time.Duration{0, 0, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 80 * time.Minute, 160 * time.Minute, 320 * time.Minute, 6 * time.Hour, 6 * time.Hour} {
		c.judge(slow, budget, now)
		if c.pause != want || c.quarantined(now) != (want > 0) || c.quarantined(now.Add(want)) {
			t.Fatalf("after %d slow readings: %v", n+1, c.pause)
		}
	}
	c.judge(budget, budget, now)
	if c.pause != 0 || c.strikes != 0 || c.quarantined(now) {
		t.Errorf("not forgiven: %+v", c)
	}
}

// TestSensorsLeavesQuarantined: a quarantined chip is not read, is counted and named, and is tried again.
func TestSensorsLeavesQuarantined(t *testing.T) {
	r := startSensors(t, sensorsServer)
	r.s.budget = -1 // nothing is fast enough
	r.s.grace = time.Minute
	const chip = "hw.temperature[coretemp@coretemp.0/temp1]"
	for range sensorStrikes {
		r.collectValues().want(t, chip, 45) // slow, but it answers
	}
	for range 2 {
		r.collectValues().without(t, "coretemp@")
	}
	r.wantRow("host/sensors/hwmon", verdict.Degraded, "hwmon1 (coretemp) takes too long", "no readings before")
	p := r.values()
	p.want(t, "hw.linux.sensor.missed[] rapl quarantined", 2*4)
	r.ticks += int(shortQuarantine / (10 * time.Second))
	r.s.budget = time.Minute
	r.collectValues().want(t, chip, 45)
	r.wantRow("host/sensors/rapl", verdict.Active)
}

// TestSensorsAreBounded: a machine with more chips than anybody thought of.
func TestSensorsAreBounded(t *testing.T) {
	r := startSensors(t, sensorsServer)
	for _, p := range r.s.parts {
		p.most = 2
	}
	for range 3 {
		r.collectValues()
	}
	r.wantRow("host/sensors/hwmon", verdict.Degraded, "5 more than the 2 that are read")
	for _, p := range r.s.parts {
		if n := p.chips.known(); n > 2 {
			t.Errorf("%s has %d chips, want at most 2", p.name, n)
		}
	}
}

// TestSensorsBudget: what goes over the budget of series is counted and harms nothing.
func TestSensorsBudget(t *testing.T) {
	root := t.TempDir()
	plantSensors(t, root, sensorsServer)
	env, registry := envAt(root), metric.NewRegistry(instrumentation.Scope{})
	env.Metrics = registry.Group("test", metric.ClassHost, 10)
	s := newSensors(env, false)
	defer s.Close()
	for n := range 3 {
		if err := s.Collect(t.Context(), tick(n)); err != nil {
			t.Fatal(err)
		}
	}
	if live := env.Metrics.Live(); live != 10 || env.Metrics.Dropped() == 0 {
		t.Errorf("%d live series and %d dropped", live, env.Metrics.Dropped())
	}
}

func TestSensorsStopWhenTold(t *testing.T) {
	r := startSensors(t, sensorsServer)
	blockSensor(t, filepath.Join(r.env.Sys, "class/hwmon/hwmon1/temp1_input"))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := r.Collect(ctx, tick0); err == nil { // else it would wait for a minute
		t.Error("no error of a cancelled collection")
	}
}

func TestSensorsAllocateNothing(t *testing.T) {
	for _, tree := range []string{sensorsServer, sensorsLaptop, sensorsOld, sensorsVM, "live"} {
		var r *sensorRig
		if tree == "live" {
			r = startSensorsAt(t, "/", NewSensors)
		} else {
			r = startSensors(t, tree)
		}
		for range 3 {
			r.collectValues()
		}
		ctx, now := t.Context(), tick(10)
		if n := testing.AllocsPerRun(100, func() {
			if err := r.Collect(ctx, now); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per Collect, want 0", tree, n)
		}
	}
}

func TestSensorsDescriptions(t *testing.T) {
	for _, tree := range []string{sensorsServer, sensorsLaptop} {
		describedSensors(t, startSensors(t, tree))
	}
}

// describedSensors checks that all metrics are declared as they are exported.
func describedSensors(t *testing.T, r *sensorRig) {
	t.Helper()
	declared := map[string][]attribute.Key{}
	for _, d := range r.env.Metrics.Descs() {
		if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
			t.Errorf("incomplete declaration %+v", d)
		}
		declared[d.Name] = d.Attributes
	}
	r.collectValues()
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			if data, ok := m.Data.(metricdata.Gauge[float64]); ok {
				for _, d := range data.DataPoints {
					for _, kv := range d.Attributes.ToSlice() {
						if !slices.Contains(declared[m.Name], kv.Key) || kv.Value.AsString() == "" {
							t.Errorf("%s: attribute %s=%q", m.Name, kv.Key, kv.Value.AsString())
						}
					}
				}
			}
		}
	}
}

func FuzzSensorNumber(f *testing.F) {
	for _, s := range []string{"45000\n", "-62000\n", "", "9223372036854775808", "+1", " 7 ", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseSensor(b)
		if err != nil {
			return
		}
		text := strings.TrimLeft(strings.TrimPrefix(string(bytes.TrimSpace(b)), "-"), "0")
		if want := strings.TrimPrefix(strconv.FormatInt(v, 10), "-"); v != 0 && text != want || v == math.MinInt64 {
			t.Errorf("%q is read as %d", b, v)
		}
	})
}

func FuzzSensorDirent(f *testing.F) {
	fd, err := unix.Open("/proc/self", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		f.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := unix.Getdents(fd, buf)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		f.Fatal(err)
	}
	f.Add(buf[:n])
	f.Add([]byte{19: 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var names []string
		for rest := b; len(rest) > 0; {
			name, _, more := parseDirent(rest)
			if len(more) >= len(rest) {
				t.Fatal("no progress")
			}
			if rest = more; len(name) > 0 && string(name) != "." && string(name) != ".." {
				names = append(names, string(name))
			}
		}
		if !bytes.Equal(b, buf[:n]) {
			return // unix.ParseDirent panics on damaged records
		}
		if _, _, want := unix.ParseDirent(b, -1, nil); !slices.Equal(names, want) {
			t.Errorf("%q, want %q", names, want)
		}
	})
}

// TestSensorDir: the names are those that os.ReadDir gives.
func TestSensorDir(t *testing.T) {
	for _, path := range []string{"/proc", "/sys/class", "/sys/bus/pci/devices", t.TempDir()} {
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Logf("skipping %s: %v", path, err)
			continue
		}
		got := map[string]bool{}
		d := sensorDir{path: append([]byte(path), 0)}
		if err := d.begin(); err != nil {
			t.Fatal(err)
		}
		for {
			name, _, ok, err := d.next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			got[string(name)] = true
		}
		for _, e := range entries {
			if !got[e.Name()] && path != "/proc" { // processes come and go
				t.Errorf("%s lacks %s", path, e.Name())
			}
		}
		if path != "/proc" && len(got) != len(entries) {
			t.Errorf("%s: %d names, want %d", path, len(got), len(entries))
		}
	}
}

func BenchmarkSensors(b *testing.B) {
	r := startSensors(b, sensorsServer)
	r.collectValues()
	ctx := b.Context()
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Collect(ctx, tick0); err != nil {
			b.Fatal(err)
		}
	}
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	files := 0
	for _, p := range r.s.parts {
		files += p.files
	}
	b.ReportMetric(float64(files), "files")
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
}

var _ collector.Collector = (*Sensors)(nil)
