package host

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// resetTicks is the fall of one processor's time from which on it counts as a new beginning: 3 s. A processor that
// was offline may come back with other times. Smaller falls are estimates of idle time, which catch up.
const resetTicks = 3 * userHz

// CPU collects processor times, load and what the scheduler counts from /proc/stat and /proc/loadavg.
type CPU struct {
	health
	env      collector.Env
	stat     *procfs.File
	load     *procfs.File // nil until it could be opened
	loadPath string

	sample     stat
	clock      cpuClock
	detail     *cpuDetail // nil unless each processor has series of its own
	interrupts interrupts

	entity   *metric.Entity
	time     metric.FloatFamily
	times    [modes]*metric.Float // guest is nil until a guest ran
	count    *metric.Int
	switches *metric.Int
	created  *metric.Int
	running  *metric.Int
	blocked  *metric.Int

	loads      [3]metric.FloatFamily
	threads    metric.IntFamily
	loadEntity *metric.Entity // nil while /proc/loadavg cannot be read
	averages   [3]*metric.Float
	thread     *metric.Int
}

// CPUOptions choose the detail in which processors are shown.
type CPUOptions struct {
	// PerCPU gives each logical processor series of its own, told by cpu.logical_number, in place of those of all
	// together: 8 times as many as there are processors for system.cpu.time, and one each for system.cpu.frequency.
	PerCPU bool
}

// NewCPU opens /proc/stat, without which there is no collector, and /proc/loadavg, without which it is degraded.
// Times are those of all processors together.
func NewCPU(env collector.Env) (collector.Collector, error) { return CPUOptions{}.New(env) }

// New is NewCPU with options.
func (o CPUOptions) New(env collector.Env) (collector.Collector, error) {
	file, err := procfs.OpenSingle(filepath.Join(env.Proc, "stat"))
	if err != nil {
		return nil, unavailable(err)
	}
	c := &CPU{env: env, stat: file, loadPath: filepath.Join(env.Proc, "loadavg")}
	c.name, c.hook = "host/cpu", file.Path()+", "+c.loadPath
	c.declare(o)
	if c.load, err = procfs.OpenSingle(c.loadPath); err != nil {
		_ = c.loseLoad(err)
	}
	return c, nil
}

func (c *CPU) declare(o CPUOptions) {
	const source = "/proc/stat"
	m := c.env.Metrics
	c.entity = m.Entity(c.env.Host, c.env.Boot)
	d := counter("system.cpu.time", "s", source,
		"Time that processors spent in each mode; all modes together are the time that passed on those online.")
	d.Attributes = []attribute.Key{"cpu.mode"}
	if o.PerCPU {
		c.detail = newCPUDetail(c.env, d)
	} else {
		c.time = m.Float(d)
		for mode := range modeGuest {
			c.times[mode] = c.time.With(c.entity, modeAttribute(mode))
		}
	}
	c.interrupts.declare(c.env, c.entity, source)
	c.count = m.Int(amount("system.cpu.logical.count", "{cpu}", source,
		"Logical processors that are online.")).With(c.entity)
	c.switches = m.Int(counter("system.cpu.linux.context_switches", "{switch}", source,
		"Switches from one thread to another.")).With(c.entity)
	c.created = m.Int(counter("system.process.created", "{process}", source,
		"Processes and threads created.")).With(c.entity)
	c.running = m.Int(amount("system.process.linux.running", "{thread}", source,
		"Threads that run or wait for a processor (procs_running).")).With(c.entity)
	c.blocked = m.Int(amount("system.process.linux.blocked", "{thread}", source,
		"Threads that wait for I/O to complete (procs_blocked).")).With(c.entity)
	for i, minutes := range [3]string{"1m", "5m", "15m"} {
		c.loads[i] = m.Float(metric.Desc{
			Name: "system.cpu.load_average." + minutes, Unit: "{thread}", Kind: metric.Gauge, Source: "/proc/loadavg",
			Description: "Threads running, waiting for a processor or in uninterruptible sleep, averaged over " + minutes + ".",
		})
	}
	c.threads = m.Int(amount("system.process.linux.threads", "{thread}", "/proc/loadavg",
		"Threads that exist, those of the kernel included, out of system.process.limit."))
}

func modeAttribute(mode int) attribute.KeyValue {
	names := [modes]string{
		modeUser: "user", modeNice: "nice", modeSystem: "system", modeIdle: "idle", modeIowait: "iowait",
		modeInterrupt: "interrupt", modeSteal: "steal", modeGuest: "guest",
	}
	return attribute.String("cpu.mode", names[mode])
}

// Collect implements collector.Collector.
func (c *CPU) Collect(_ context.Context, now time.Time) error {
	some, err := c.collectStat(now)
	err = errors.Join(err, c.collectLoad())
	return c.collected(err, some || c.loadEntity != nil)
}

// collectStat stores what /proc/stat says and whether that was anything. Of a damaged file it stores the
// processors whose lines are whole.
func (c *CPU) collectStat(now time.Time) (some bool, err error) {
	b, err := c.stat.Read()
	if err != nil {
		return false, err
	}
	whole, err := c.sample.parse(b)
	c.storeTimes(whole, now)
	if whole {
		c.count.Set(int64(len(c.sample.processors)))
	}
	c.interrupts.store(&c.sample.interrupts, now)
	if c.sample.counted {
		c.switches.Observe(c.sample.switches, now)
		c.created.Observe(c.sample.created, now)
		c.running.Set(int64(c.sample.running))
		c.blocked.Set(int64(c.sample.blocked))
	}
	return len(c.sample.processors) > 0, parseError(c.stat, err)
}

// storeTimes takes the times of the processors over, of each by itself or of all together.
func (c *CPU) storeTimes(whole bool, now time.Time) {
	if c.detail != nil {
		c.detail.store(c.sample.processors, whole, now)
		return
	}
	c.clock.advance(c.sample.processors, whole)
	if c.times[modeGuest] == nil && c.clock.total[modeGuest] > 0 {
		c.times[modeGuest] = c.time.With(c.entity, modeAttribute(modeGuest))
	}
	for mode, register := range c.times {
		if register != nil {
			register.Observe(float64(c.clock.total[mode])/userHz, now)
		}
	}
}

// collectLoad stores the load averages. If their file goes, so do their series, and the rest stays in order: that
// is an error once and a degraded verdict until the file is back.
func (c *CPU) collectLoad() error {
	b, err := c.readLoad()
	if err != nil {
		return c.loseLoad(err)
	}
	load, err := parseLoadavg(b)
	if err != nil {
		return parseError(c.load, err)
	}
	if c.loadEntity == nil {
		c.loadEntity = c.env.Metrics.Entity(c.env.Host, c.env.Boot)
		for i := range c.averages {
			c.averages[i] = c.loads[i].With(c.loadEntity)
		}
		c.thread = c.threads.With(c.loadEntity)
		c.reason, c.missing = "", ""
	}
	for i, v := range load {
		c.averages[i].Set(v)
	}
	threads, err := parseThreads(b)
	if err == nil {
		c.thread.Set(int64(min(threads, math.MaxInt64)))
	}
	return parseError(c.load, err)
}

func (c *CPU) readLoad() (b []byte, err error) {
	if c.load == nil {
		if c.load, err = procfs.OpenSingle(c.loadPath); err != nil {
			return nil, err
		}
	}
	return c.load.Read()
}

// loseLoad takes the load averages out of the registry and returns err the first time.
func (c *CPU) loseLoad(err error) error {
	if c.loadEntity == nil && c.reason != "" {
		return nil
	}
	c.reason, c.missing = "no load averages: "+err.Error(), remedy(err)
	if c.loadEntity != nil {
		c.loadEntity.Remove()
		c.loadEntity = nil
	}
	return err
}

// Close implements collector.Collector.
func (c *CPU) Close() error {
	err := c.stat.Close()
	if c.load != nil {
		err = errors.Join(err, c.load.Close())
	}
	return err
}

// cpuClock adds up the times of all processors so that the sum never falls: over estimates that step back, and
// over processors that go offline and come back.
type cpuClock struct {
	total  cpuTimes
	last   []seenTimes // by number of the processor
	sweeps uint64      // readings in which every processor online was seen
}

// seenTimes are the times up to which one processor is in the total.
type seenTimes struct {
	sweep uint64 // the last whole reading that had it
	times cpuTimes
}

// advance adds what the processors did since they were last seen. The first whole reading counts from boot. One
// that comes online later counts from the reading that first shows it: its older time may have been counted
// before, or belongs to a time when nobody looked. If the reading is not whole, only processors known to be online
// are counted.
func (c *cpuClock) advance(processors []processor, whole bool) {
	before := c.sweeps
	if whole {
		c.sweeps++
	} else if before == 0 {
		return
	}
	for i := range processors {
		p := &processors[i]
		for uint64(len(c.last)) <= p.number {
			c.last = append(c.last, seenTimes{})
		}
		last := &c.last[p.number]
		if last.sweep != before {
			if !whole {
				continue
			}
			last.times = p.times
		} else {
			last.addTo(&c.total, &p.times)
		}
		last.sweep = c.sweeps
	}
}

// addTo adds the progress of one processor, mode by mode. A mode that fell a little waits until it has caught up;
// one that fell by more than resetTicks goes on from where it is now.
func (s *seenTimes) addTo(total, now *cpuTimes) {
	for mode, v := range now {
		switch last := s.times[mode]; {
		case v >= last:
			total[mode] += v - last
			s.times[mode] = v
		case last-v > resetTicks:
			s.times[mode] = v
		}
	}
}
