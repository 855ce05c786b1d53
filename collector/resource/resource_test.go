package resource

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	otelresource "go.opentelemetry.io/otel/sdk/resource"
	"pgregory.net/rapid"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/verdict"
)

// A machine stands for the collectors of the host: it has their metrics, by name and attributes.
type machine struct {
	group   *metric.Group
	host    *metric.Entity
	unit    *metric.Entity
	numbers map[string]*metric.Float
}

func of(name string) *otelresource.Resource {
	return otelresource.NewSchemaless(attribute.String("service.name", name))
}

func newMachine(r *metric.Registry) *machine {
	m := &machine{group: r.Group("host", metric.ClassHost, 100), numbers: map[string]*metric.Float{}}
	m.host = m.group.Entity(of("host"), time.Unix(1, 0))
	m.unit = m.group.Entity(otelresource.NewSchemaless(
		attribute.String("service.name", "shop"), attribute.String("systemd.unit.name", "shop.service")), time.Unix(1, 0))
	return m
}

// set stores a number of "metric{key=value,...}"; counters are those that end with time.
func (m *machine) set(e *metric.Entity, series string, value float64) {
	key := fmt.Sprintf("%p%s", e, series)
	if m.numbers[key] == nil {
		name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
		kind := metric.UpDownCounter
		if strings.HasSuffix(name, "time") {
			kind = metric.Counter
		}
		var attrs []attribute.KeyValue
		for part := range strings.SplitSeq(labels, ",") {
			if k, v, ok := strings.Cut(part, "="); ok {
				attrs = append(attrs, attribute.String(k, v))
			}
		}
		m.numbers[key] = m.group.Float(metric.Desc{Name: name, Kind: kind}).With(e, attrs...)
	}
	m.numbers[key].Set(value)
}

// A lab is a machine and the collector.
type lab struct {
	*Figures
	*machine
	own      *metric.Group
	snapshot *metric.Snapshot
	now      time.Time
	passed   time.Duration
}

func newLab(t testing.TB, list ...slo.Resource) *lab {
	t.Helper()
	r := metric.NewRegistry(instrumentation.Scope{SchemaURL: metric.SchemaURL})
	l := &lab{machine: newMachine(r), own: r.Group(Name, metric.ClassService, 200), snapshot: r.NewSnapshot(metric.ClassService), now: time.Unix(1e9, 0)}
	var indicators []slo.Indicator
	for n := range list {
		indicators = append(indicators, slo.Indicator{Name: strconv.Itoa(n), Resource: &list[n], Select: slo.Selection{Service: "judged"}})
	}
	c, err := NewFigures(collector.Env{Metrics: l.own, Host: of("host"), Log: slog.New(slog.DiscardHandler)}, indicators)
	if err != nil {
		t.Fatal(err)
	}
	l.Figures = c.(*Figures)
	l.elapsed = func() time.Duration { return l.passed }
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// tick lets time pass, reads the machine if it is read, and returns what each indicator has.
func (l *lab) tick(t testing.TB, read bool) string {
	t.Helper()
	l.now, l.passed = l.now.Add(10*time.Second), l.passed+10*time.Second
	if read {
		l.group.Collected(l.now)
	}
	if err := l.Collect(t.Context(), l.now); err != nil {
		t.Fatal(err)
	}
	l.own.Collected(l.now)
	l.snapshot.Take(l.now)
	values := map[string]int64{}
	for _, rm := range l.snapshot.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			data, ok := m.Data.(metricdata.Sum[int64])
			if !ok {
				continue
			}
			for _, p := range data.DataPoints {
				key := ""
				for _, kv := range p.Attributes.ToSlice() {
					if kv.Key != "sli.source" {
						key = kv.Value.AsString() + key // reasons and outcomes stand after names
					}
				}
				values[key] += p.Value
			}
		}
	}
	var parts []string
	for n := range l.list {
		for _, word := range []string{"good", "bad", "absent", "old"} {
			v := values[word+strconv.Itoa(n)] + values[strconv.Itoa(n)+word]
			if v > 0 {
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
	if got := l.tick(t, true); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func limit(op slo.Op, share float64) slo.Bound { return slo.Bound{Op: op, Limit: share} }

// around returns two indicators of a figure: one that is good if its share is what it should be, to a thousandth, or less,
// and one if it is that or more.
func around(r slo.Resource, share float64) (list []slo.Resource) {
	for _, b := range []slo.Bound{limit(slo.LTE, share+0.001), limit(slo.GTE, share-0.001)} {
		r.Bound = b
		list = append(list, r)
	}
	return list
}

// TestShares: every figure is the share that it says.
func TestShares(t *testing.T) {
	const unit = "shop.service"
	type step struct {
		entity string
		series string
		values [2]float64 // at two ticks, 10 s apart
	}
	pressure := func(metric, resource, scope string) string {
		return metric + "{system.pressure.resource=" + resource + ",system.pressure.scope=" + scope + "}"
	}
	const disk = "system.filesystem.usage{system.filesystem.mountpoint=/var,system.filesystem.state="
	const inodes = "system.filesystem.inodes.usage{system.filesystem.mountpoint=/var,system.filesystem.state="
	for _, tt := range []struct {
		resource slo.Resource
		share    float64
		events   int
		steps    []step
	}{
		{slo.Resource{Figure: slo.CPU}, 0.3, 1, []step{ // 4 processors: 40 s, of which 28 were idle
			{"host", "system.cpu.time{cpu.mode=user}", [2]float64{1000, 1009}},
			{"host", "system.cpu.time{cpu.mode=system}", [2]float64{50, 53}},
			{"host", "system.cpu.time{cpu.mode=idle}", [2]float64{70, 97}},
			{"host", "system.cpu.time{cpu.mode=iowait}", [2]float64{70, 71}},
		}},
		{slo.Resource{Figure: slo.Memory}, 0.75, 2, []step{
			{"host", "system.memory.limit", [2]float64{1000, 1000}}, {"host", "system.memory.linux.available", [2]float64{250, 250}},
		}},
		{slo.Resource{Figure: slo.Filesystem, Mount: "/var"}, 0.8, 2, []step{
			{"host", disk + "used}", [2]float64{80, 80}},
			{"host", disk + "free}", [2]float64{20, 20}},
			{"host", disk + "reserved}", [2]float64{50, 50}},
			{"host", strings.ReplaceAll(disk, "/var", "/") + "used}", [2]float64{1e6, 1e6}},
		}},
		{slo.Resource{Figure: slo.Inodes, Mount: "/var"}, 0.1, 2, []step{
			{"host", inodes + "used}", [2]float64{1, 1}}, {"host", inodes + "free}", [2]float64{9, 9}},
		}},
		{slo.Resource{Figure: slo.PressureMemorySome}, 0.25, 1, []step{
			{"host", pressure("system.pressure.linux.stall_time", "memory", "some"), [2]float64{7, 9.5}},
			{"host", pressure("system.pressure.linux.stall_time", "memory", "full"), [2]float64{7, 7}},
			{"host", pressure("system.pressure.linux.stall_time", "io", "some"), [2]float64{7, 17}},
		}},
		{slo.Resource{Figure: slo.CPU, Unit: unit}, 0.5, 1, []step{ // of a limit of 2 processors
			{"unit", "container.cpu.time{cpu.mode=user}", [2]float64{0, 6}},
			{"unit", "container.cpu.time{cpu.mode=system}", [2]float64{0, 4}},
			{"unit", "container.cpu.linux.limit", [2]float64{2, 2}},
			{"host", "system.cpu.logical.count", [2]float64{8, 8}},
		}},
		{slo.Resource{Figure: slo.CPU, Unit: unit}, 0.125, 1, []step{ // without a limit, of the host
			{"unit", "container.cpu.time{cpu.mode=user}", [2]float64{0, 10}}, {"host", "system.cpu.logical.count", [2]float64{8, 8}},
		}},
		{slo.Resource{Figure: slo.Memory, Unit: unit}, 0.6, 2, []step{
			{"unit", "container.memory.working_set", [2]float64{60, 60}}, {"unit", "container.memory.linux.limit", [2]float64{100, 100}},
		}},
		{slo.Resource{Figure: slo.PressureIOFull, Unit: unit}, 0.4, 1, []step{
			{"unit", pressure("container.pressure.linux.stall_time", "io", "full"), [2]float64{0, 4}},
			{"host", pressure("system.pressure.linux.stall_time", "io", "full"), [2]float64{0, 9}},
		}},
	} {
		l := newLab(t, around(tt.resource, tt.share)...)
		for n := range 2 {
			for _, s := range tt.steps {
				e := l.machine.host
				if s.entity == "unit" {
					e = l.unit
				}
				l.set(e, s.series, s.values[n])
			}
			l.tick(t, true)
		}
		l.passed -= 10 * time.Second // a look at what is there
		l.now = l.now.Add(-10 * time.Second)
		want := fmt.Sprintf("good %d | good %[1]d", tt.events)
		if got := l.tick(t, false); got != want {
			t.Errorf("%s is not %v: %s, want %s", tt.resource, tt.share, got, want)
		}
	}
}

// TestMissingFigures: what nobody reads is lost, what is not read anew is no event, and a counter that begins anew neither.
func TestMissingFigures(t *testing.T) {
	l := newLab(t, slo.Resource{Figure: slo.CPU, Unit: "shop.service", Bound: limit(slo.LTE, 0.9)})
	l.want(t, "absent 1")
	if want := "nobody reads the figure: does the unit shop.service run?"; l.Verdicts()[1].Reason != want || l.Verdicts()[1].Missing != "the collector host/cgroup" {
		t.Errorf("%+v", l.Verdicts()[1])
	}
	const used, limits = "container.cpu.time{cpu.mode=user}", "container.cpu.linux.limit"
	l.set(l.unit, used, 100)
	l.set(l.unit, limits, 1)
	l.want(t, "absent 1") // the base
	l.set(l.unit, used, 105)
	l.want(t, "good 1 absent 1")
	l.set(l.unit, used, 115)
	l.want(t, "good 1 bad 1 absent 1")
	l.set(l.unit, used, 3) // begun anew
	l.want(t, "good 1 bad 1 absent 1")
	l.set(l.unit, used, 4)
	l.want(t, "good 2 bad 1 absent 1")
	for range 15 {
		l.tick(t, false)
	}
	if got := l.tick(t, false); got != "good 2 bad 1 absent 1 old 1" {
		t.Error(got)
	}
	if want := "the figure was not read for 2m30s"; l.Verdicts()[1].Reason != want {
		t.Errorf("%+v", l.Verdicts())
	}
	l.set(l.unit, used, 4+170*0.5) // over all of that time
	l.want(t, "good 3 bad 1 absent 1 old 1")
	l.unit.Remove()
	l.want(t, "good 3 bad 1 absent 2 old 1")
	l.machine.unit = l.group.Entity(otelresource.NewSchemaless(attribute.String("systemd.unit.name", "shop.service")), l.now)
	l.set(l.unit, used, 1000)
	l.set(l.unit, limits, 1)
	l.want(t, "good 3 bad 1 absent 2 old 1")
	if len(l.Verdicts()) != 1 {
		t.Errorf("%+v", l.Verdicts())
	}
}

// TestSeriesThatCome: another series of a counter, which has its past, makes no event.
func TestSeriesThatCome(t *testing.T) {
	l := newLab(t, slo.Resource{Figure: slo.CPU, Bound: limit(slo.LTE, 0.5)})
	l.set(l.machine.host, "system.cpu.time{cpu.mode=idle}", 100)
	l.set(l.machine.host, "system.cpu.time{cpu.mode=user}", 0)
	l.tick(t, true)
	l.set(l.machine.host, "system.cpu.time{cpu.mode=idle}", 110)
	l.want(t, "good 1")
	l.set(l.machine.host, "system.cpu.time{cpu.mode=idle}", 120)
	l.set(l.machine.host, "system.cpu.time{cpu.mode=steal}", 1e6)
	l.want(t, "good 1")
	l.set(l.machine.host, "system.cpu.time{cpu.mode=steal}", 1e6+10)
	l.want(t, "good 1 bad 1")
}

// TestEveryFigureHasAFormula: no figure is without one, for the host and for units.
func TestEveryFigureHasAFormula(t *testing.T) {
	for _, name := range slo.Figures() {
		f := slo.Figure(name)
		for _, unit := range []string{"", "x.service"} {
			if unit == "" && !f.OfHost() || unit != "" && !f.OfUnits() {
				continue
			}
			got := formulaOf(slo.Resource{Figure: f, Unit: unit})
			resource, scope := pressureOf(f)
			if len(got.above) == 0 || got.from == "" || strings.HasPrefix(name, "pressure") && name != "pressure."+resource+"."+scope {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
}

func TestTicksDoNotAllocate(t *testing.T) {
	l := newLab(t, slo.Resource{Figure: slo.CPU, Bound: limit(slo.LTE, 0.5)}, slo.Resource{Figure: slo.Memory, Bound: limit(slo.LTE, 0.5)})
	for _, s := range []string{"system.cpu.time{cpu.mode=idle}", "system.memory.limit", "system.memory.linux.available"} {
		l.set(l.machine.host, s, 1)
	}
	l.tick(t, true)
	if n := testing.AllocsPerRun(100, func() {
		l.now, l.passed = l.now.Add(time.Second), l.passed+time.Second
		l.set1("system.cpu.time{cpu.mode=idle}", l.passed.Seconds())
		l.group.Collected(l.now)
		_ = l.Collect(context.Background(), l.now)
	}); n != 0 {
		t.Errorf("a tick allocates %v times", n)
	}
	if got := l.tick(t, true); !strings.HasPrefix(got, "good 1") {
		t.Error(got)
	}
}

// set1 sets a number of the host that is there already.
func (m *machine) set1(series string, value float64) {
	for key, n := range m.numbers {
		if strings.HasSuffix(key, series) {
			n.Set(value)
		}
	}
}

// BenchmarkTick judges ten figures, each of which was read anew.
func BenchmarkTick(b *testing.B) {
	var list []slo.Resource
	for range 10 {
		list = append(list, slo.Resource{Figure: slo.Memory, Bound: limit(slo.LTE, 0.5)})
	}
	l := newLab(b, list...)
	for _, s := range []string{"system.memory.limit", "system.memory.linux.available"} {
		l.set(l.machine.host, s, 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.now, l.passed = l.now.Add(time.Second), l.passed+time.Second
		l.group.Collected(l.now)
		_ = l.Collect(b.Context(), l.now)
	}
}

// TestLimitsDivide: of two opposite limits exactly one holds, whatever the share.
func TestLimitsDivide(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := limit(rapid.SampledFrom([]slo.Op{slo.LT, slo.LTE, slo.GT, slo.GTE}).Draw(rt, "op"), rapid.Float64Range(0, 1).Draw(rt, "limit"))
		share := rapid.OneOf(rapid.Just(b.Limit), rapid.Float64Range(0, 1)).Draw(rt, "share")
		if b.Holds(share) == b.Not().Holds(share) {
			rt.Errorf("%v and %v of %v", b, b.Not(), share)
		}
	})
}

func TestNobodyAsked(t *testing.T) {
	_, err := NewFigures(collector.Env{Metrics: metric.NewRegistry(instrumentation.Scope{}).Group(Name, metric.ClassService, 1)}, []slo.Indicator{{}})
	if v := verdict.FromError(Name, err); !v.Absent {
		t.Errorf("%+v", v)
	}
}

// TestGuideKnowsTheAge: docs/slo.md says from when on a figure is old.
func TestGuideKnowsTheAge(t *testing.T) {
	data, err := os.ReadFile("../../docs/slo.md")
	if want := fmt.Sprintf("not read for %.0f s (`old`)", stale.Seconds()); err != nil || !strings.Contains(string(data), want) {
		t.Errorf("the guide does not say %q, %v", want, err)
	}
}
