package pipeline

import (
	"errors"
	"os"
	"runtime"
	"runtime/metrics"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// selfBudget is the most series the agent may have about itself: ten per collector and source, and some.
const selfBudget = 1000

// Attribute keys of the agent's own metrics.
const (
	keyCPUMode   = attribute.Key("cpu.mode")
	keyMemory    = attribute.Key("go.memory.type")
	keyLane      = attribute.Key("slid.lane")
	keyCollector = attribute.Key("slid.collector.name")
	keySource    = attribute.Key("slid.source.name")
	keyState     = attribute.Key("slid.source.state")
)

// self measures the agent: what it costs and how its collectors fare. Only the goroutine that ticks uses it. Its cost
// is one getrusage, one pread of /proc/self/statm and a read of five runtime metrics per tick.
type self struct {
	group  *metric.Group
	entity *metric.Entity
	start  time.Time

	process process
	runtime goRuntime

	missedTicks metric.IntFamily
	collectors  []collectorSeries
	groups      []groupSeries
	stateFamily metric.IntFamily
	sources     map[string]*sourceSeries
	verdicts    []verdict.Verdict // reused
}

func newSelf(r *metric.Registry, agent *resource.Resource, runners []*runner, now time.Time) *self {
	s := &self{group: r.Group("slid", metric.ClassAgent, selfBudget), start: now, sources: map[string]*sourceSeries{}}
	s.entity = s.group.Entity(agent, now)
	s.process = newProcess(s.group, s.entity)
	s.runtime = newGoRuntime(s.group, s.entity)
	s.missedTicks = s.group.Int(metric.Desc{
		Name: "slid.tick.missed", Unit: "{tick}", Kind: metric.Counter,
		Description: "Ticks that did not take place because the process or the clock was stopped, late or changed.",
		Attributes:  []attribute.Key{keyLane}, Source: "pipeline",
	})
	s.collectors = newCollectorSeries(s.group, s.entity, runners)
	s.groups = newGroupSeries(s.group, s.entity, r.Groups())
	s.stateFamily = s.group.Int(metric.Desc{
		Name: "slid.source.state", Unit: "1", Kind: metric.UpDownCounter,
		Description: "1 for the state that a source of measurements is in, 0 for the others.",
		Attributes:  []attribute.Key{keySource, keyState}, Source: "verdicts of the collectors",
	})
	return s
}

// missed returns the counter of missed ticks of a lane.
func (s *self) missed(lane string) *metric.Int {
	return s.missedTicks.With(s.entity, keyLane.String(lane))
}

// collect reads everything. It allocates only when a source is seen for the first time or has trouble to tell.
func (s *self) collect(now time.Time, runners []*runner, unavailable []verdict.Verdict) {
	s.process.collect(now)
	s.runtime.collect(now)
	for i, r := range runners {
		s.collectors[i].collect(now, s.start, r)
	}
	for i := range s.groups {
		s.groups[i].collect(now)
	}
	s.verdicts = append(s.verdicts[:0], unavailable...)
	for _, r := range runners {
		s.verdicts = r.appendVerdicts(s.verdicts)
	}
	for _, v := range s.verdicts {
		s.source(v.Name).set(v.State)
	}
	s.group.Collected(now)
}

func (s *self) close() error { return s.process.close() }

// collectorSeries are the registers about one collector.
type collectorSeries struct {
	success, failures, skipped *metric.Int
	duration, staleness        *metric.Float
}

func newCollectorSeries(g *metric.Group, e *metric.Entity, runners []*runner) []collectorSeries {
	declare := func(name, unit string, kind metric.Kind, text string) metric.Desc {
		return metric.Desc{
			Name: "slid.collector." + name, Unit: unit, Kind: kind, Description: text,
			Attributes: []attribute.Key{keyCollector}, Source: "pipeline",
		}
	}
	success := g.Int(declare("success", "1", metric.Gauge, "1 if the collector's last run ended in time and well, else 0."))
	duration := g.Float(declare("duration", "s", metric.Gauge, "Time the last run took, or has taken so far."))
	staleness := g.Float(declare("staleness", "s", metric.Gauge, "Age of the collector's values."))
	failures := g.Int(declare("failures", "{failure}", metric.Counter, "Runs that ended with an error."))
	skipped := g.Int(declare("skipped", "{run}", metric.Counter, "Runs left out because the one before had not ended."))
	list := make([]collectorSeries, len(runners))
	for i, r := range runners {
		name := keyCollector.String(r.Name)
		list[i] = collectorSeries{
			success: success.With(e, name), duration: duration.With(e, name), staleness: staleness.With(e, name),
			failures: failures.With(e, name), skipped: skipped.With(e, name),
		}
	}
	return list
}

func (c *collectorSeries) collect(now, start time.Time, r *runner) {
	s := r.status()
	c.success.Set(0)
	if s.fresh() {
		c.success.Set(1)
	}
	c.duration.Set(s.duration.Seconds())
	last := r.Group.LastCollected()
	if last.IsZero() {
		last = start
	}
	c.staleness.Set(max(now.Sub(last), 0).Seconds())
	c.failures.Observe(s.failures, now)
	c.skipped.Observe(s.skipped, now)
}

// groupSeries are the registers about one share of the registry.
type groupSeries struct {
	group         *metric.Group
	live, dropped *metric.Int
}

func newGroupSeries(g *metric.Group, e *metric.Entity, groups []*metric.Group) []groupSeries {
	keys := []attribute.Key{keyCollector}
	live := g.Int(metric.Desc{
		Name: "slid.series.live", Unit: "{series}", Kind: metric.UpDownCounter,
		Description: "Series a collector has at present.", Attributes: keys, Source: "registry",
	})
	dropped := g.Int(metric.Desc{
		Name: "slid.series.dropped", Unit: "{series}", Kind: metric.Counter,
		Description: "Series refused because the collector's budget was spent.", Attributes: keys, Source: "registry",
	})
	list := make([]groupSeries, len(groups))
	for i, of := range groups {
		name := keyCollector.String(of.Name())
		list[i] = groupSeries{group: of, live: live.With(e, name), dropped: dropped.With(e, name)}
	}
	return list
}

func (g *groupSeries) collect(now time.Time) {
	g.live.Set(int64(g.group.Live()))
	g.dropped.Observe(g.group.Dropped(), now)
}

// sourceSeries holds one register per state of one source.
type sourceSeries struct{ active, degraded, unavailable *metric.Int }

func (s *self) source(name string) *sourceSeries {
	if found := s.sources[name]; found != nil {
		return found
	}
	with := func(state verdict.State) *metric.Int {
		return s.stateFamily.With(s.entity, keySource.String(name), keyState.String(string(state)))
	}
	series := &sourceSeries{
		active: with(verdict.Active), degraded: with(verdict.Degraded), unavailable: with(verdict.Unavailable),
	}
	s.sources[name] = series
	return series
}

func (s *sourceSeries) set(state verdict.State) {
	s.active.Set(oneIf(state == verdict.Active))
	s.degraded.Set(oneIf(state == verdict.Degraded))
	s.unavailable.Set(oneIf(state == verdict.Unavailable))
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// process reads what the kernel knows of this process.
type process struct {
	user, system *metric.Float
	resident     *metric.Int
	anonymous    *metric.Int
	usage        unix.Rusage
	statm        *os.File // nil where /proc is not mounted
	buf          [256]byte
}

func newProcess(g *metric.Group, e *metric.Entity) process {
	cpu := g.Float(metric.Desc{
		Name: "process.cpu.time", Unit: "s", Kind: metric.Counter,
		Description: "CPU time of the agent.", Attributes: []attribute.Key{keyCPUMode}, Source: "getrusage(2)",
	})
	p := process{
		user:   cpu.With(e, keyCPUMode.String("user")),
		system: cpu.With(e, keyCPUMode.String("system")),
	}
	statm, err := os.Open("/proc/self/statm")
	if err != nil {
		return p // the memory of the agent stays unknown; everything else works
	}
	p.statm = statm
	p.resident = g.Int(metric.Desc{
		Name: "process.memory.usage", Unit: "By", Kind: metric.UpDownCounter,
		Description: "Physical memory the agent uses.", Source: "/proc/self/statm",
	}).With(e)
	p.anonymous = g.Int(metric.Desc{
		Name: "process.memory.linux.anonymous", Unit: "By", Kind: metric.UpDownCounter,
		Description: "Part of the physical memory that no file backs: what the agent costs the host in any case.",
		Source:      "/proc/self/statm",
	}).With(e)
	return p
}

func (p *process) collect(now time.Time) {
	if unix.Getrusage(unix.RUSAGE_SELF, &p.usage) == nil {
		p.user.Observe(seconds(p.usage.Utime), now)
		p.system.Observe(seconds(p.usage.Stime), now)
	}
	if p.statm == nil {
		return
	}
	n, _ := p.statm.ReadAt(p.buf[:], 0) // io.EOF is the rule here; what is wrong shows in the text
	if resident, anonymous, err := parseStatm(p.buf[:n]); err == nil {
		page := int64(unix.Getpagesize())
		p.resident.Set(resident * page)
		p.anonymous.Set(anonymous * page)
	}
}

func (p *process) close() error {
	if p.statm == nil {
		return nil
	}
	return p.statm.Close()
}

func seconds(t unix.Timeval) float64 { return float64(t.Nano()) / 1e9 }

var errStatm = errors.New("statm: want three numbers, size, resident and shared, the third not above the second")

// parseStatm returns the resident pages and those of them that no file or shared memory backs: the kernel fills
// "resident" with anonymous plus shared pages (task_statm in fs/proc/task_mmu.c).
func parseStatm(b []byte) (resident, anonymous int64, err error) {
	var fields [3]int64
	i := 0
	for f := range fields {
		from := i
		for i < len(b) && '0' <= b[i] && b[i] <= '9' && fields[f] < 1e12 {
			fields[f] = fields[f]*10 + int64(b[i]-'0')
			i++
		}
		if i == from || i == len(b) || b[i] != ' ' {
			return 0, 0, errStatm
		}
		i++
	}
	resident, anonymous = fields[1], fields[1]-fields[2]
	if anonymous < 0 {
		return 0, 0, errStatm
	}
	return resident, anonymous, nil
}

// goRuntime reads the Go runtime's own accounts.
type goRuntime struct {
	samples []metrics.Sample // in the order of the constants below

	stack, other       *metric.Int
	bytes, allocations *metric.Int
	goroutines         *metric.Int
}

// Places in goRuntime.samples.
const (
	sampleTotal = iota
	sampleReleased
	sampleStacks
	sampleBytes
	sampleObjects
)

func newGoRuntime(g *metric.Group, e *metric.Entity) goRuntime {
	const source = "runtime/metrics"
	used := g.Int(metric.Desc{
		Name: "go.memory.used", Unit: "By", Kind: metric.UpDownCounter,
		Description: "Memory used by the Go runtime.", Attributes: []attribute.Key{keyMemory}, Source: source,
	})
	return goRuntime{
		samples: []metrics.Sample{
			sampleTotal:    {Name: "/memory/classes/total:bytes"},
			sampleReleased: {Name: "/memory/classes/heap/released:bytes"},
			sampleStacks:   {Name: "/memory/classes/heap/stacks:bytes"},
			sampleBytes:    {Name: "/gc/heap/allocs:bytes"},
			sampleObjects:  {Name: "/gc/heap/allocs:objects"},
		},
		stack: used.With(e, keyMemory.String("stack")),
		other: used.With(e, keyMemory.String("other")),
		bytes: g.Int(metric.Desc{
			Name: "go.memory.allocated", Unit: "By", Kind: metric.Counter,
			Description: "Memory allocated to the heap by the agent.", Source: source,
		}).With(e),
		allocations: g.Int(metric.Desc{
			Name: "go.memory.allocations", Unit: "{allocation}", Kind: metric.Counter,
			Description: "Allocations on the heap by the agent.", Source: source,
		}).With(e),
		goroutines: g.Int(metric.Desc{
			Name: "go.goroutine.count", Unit: "{goroutine}", Kind: metric.UpDownCounter,
			Description: "Live goroutines.", Source: source,
		}).With(e),
	}
}

func (r *goRuntime) collect(now time.Time) {
	metrics.Read(r.samples)
	stacks := r.value(sampleStacks)
	r.stack.Set(int64(stacks))
	r.other.Set(int64(r.value(sampleTotal) - r.value(sampleReleased) - stacks))
	r.bytes.Observe(r.value(sampleBytes), now)
	r.allocations.Observe(r.value(sampleObjects), now)
	r.goroutines.Set(int64(runtime.NumGoroutine())) // runtime/metrics counts the runtime's own, too
}

// value returns a sample, or 0 if this Go release does not know it.
func (r *goRuntime) value(i int) uint64 {
	if r.samples[i].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return r.samples[i].Value.Uint64()
}
