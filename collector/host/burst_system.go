package host

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// burstCPU samples /proc/stat: the use of all processors together, and how many threads run or wait for one.
type burstCPU struct {
	env   collector.Env
	file  *procfs.File
	stat  stat
	ticks cpuClock
	last  cpuTimes
	watch burstWatch

	use     metric.HistogramFamily
	full    metric.FloatFamily
	running metric.HistogramFamily
	share   burstShare
	queue   *metric.Hist
}

func newBurstCPU(env collector.Env, clock burstClock) (*burstCPU, error) {
	file, err := procfs.OpenSingle(filepath.Join(env.Proc, "stat"))
	if err != nil {
		return nil, err
	}
	const source = "/proc/stat"
	return &burstCPU{
		env: env, file: file, watch: burstWatch{clock: clock},
		use: env.Metrics.Histogram(burstDistribution("system.cpu.utilization", "1", source,
			"Share of the time of all online processors that was not idle; waiting for I/O is idle, steal is not.",
			burstShares())),
		full: env.Metrics.Float(burstTime("system.cpu", source,
			"Time in which the processors were together in use for more than 90 %.")),
		running: env.Metrics.Histogram(burstDistribution("system.cpu.linux.runqueue.length", "{thread}", source,
			"Threads that run or wait for a processor, without the one of slid that counts them.", burstCounts())),
	}, nil
}

// sample implements burstSampler. The use is a quotient of ticks alone: the kernel's clock ticks and ours would
// not agree. Processors that come, go or count anew are left to cpuClock.
func (c *burstCPU) sample(now time.Time) (recorded bool, err error) {
	b, err := c.file.Read()
	if err != nil {
		return false, err
	}
	running, err := c.parse(b)
	if err != nil { // the ticks wait for the next whole reading
		return false, parseError(c.file, err)
	}
	c.ticks.advance(c.stat.processors, true)
	if c.queue == nil {
		e := c.env.Metrics.Entity(c.env.Host, now)
		c.share = burstShare{c.use.With(e), c.full.With(e)}
		c.queue = c.running.With(e)
	}
	busy, all := c.last.passed(&c.ticks.total)
	if c.watch.running && all == 0 { // the kernel's clock stands still: nothing can be said
		return false, nil
	}
	c.last = c.ticks.total
	elapsed, ok := c.watch.lap()
	if !ok {
		return false, nil
	}
	c.share.record(float64(busy)/float64(all), elapsed)
	c.queue.Record(float64(running) - 1)
	return true, nil
}

// parse reads the lines of the processors and the number of threads that run or wait. Its line is sought from the
// end, for before it stands that of the interrupts, which is most of the file.
func (c *burstCPU) parse(b []byte) (running uint64, err error) {
	c.stat.processors = c.stat.processors[:0]
	rest, err := c.stat.parseProcessors(b)
	if err != nil {
		return 0, err
	}
	const key = "\nprocs_running "
	i := bytes.LastIndex(rest, []byte(key))
	if i < 0 {
		return 0, procfs.ErrTruncated
	}
	line, _, ok := procfs.Line(rest[i+len(key):])
	if !ok {
		return 0, procfs.ErrTruncated
	}
	running, err = procfs.Uint(line)
	if err != nil {
		return 0, fmt.Errorf("line of procs_running: %w", err)
	}
	return running, nil
}

// passed returns the ticks from t to now that were not idle, and all of them.
func (t *cpuTimes) passed(now *cpuTimes) (busy, all uint64) {
	for mode, v := range now {
		all += v - t[mode]
	}
	return all - (now[modeIdle] - t[modeIdle]) - (now[modeIowait] - t[modeIowait]), all
}

func (c *burstCPU) close() error { return c.file.Close() }

// burstMemory samples what is available of the memory in /proc/meminfo. Its share is what is recorded, not that of
// what is used: a histogram tells small values apart best, and here they are the ones that matter.
type burstMemory struct {
	file  *procfs.File
	watch burstWatch
	env   collector.Env

	available metric.HistogramFamily
	scarce    metric.FloatFamily
	share     *metric.Hist
	time      *metric.Float
}

func newBurstMemory(env collector.Env, clock burstClock) (*burstMemory, error) {
	file, err := procfs.OpenSingle(filepath.Join(env.Proc, "meminfo"))
	if err != nil {
		return nil, err
	}
	m := &burstMemory{file: file, watch: burstWatch{clock: clock}, env: env}
	if _, err := m.read(); err != nil { // before Linux 3.14 there is no MemAvailable
		return nil, errors.Join(err, file.Close())
	}
	const source = "/proc/meminfo"
	m.available = env.Metrics.Histogram(burstDistribution("system.memory.linux.available_ratio", "1", source,
		"Share of the memory that new programs could get without swapping.", burstShares()))
	m.scarce = env.Metrics.Float(burstTime("system.memory", source,
		"Time in which more than 90 % of the memory was not available."))
	return m, nil
}

// sample implements burstSampler. A sample stands for the time since the one before, but at most for two periods.
func (m *burstMemory) sample(now time.Time) (recorded bool, err error) {
	available, err := m.read()
	if err != nil {
		return false, err
	}
	if m.share == nil {
		e := m.env.Metrics.Entity(m.env.Host, now)
		m.share, m.time = m.available.With(e), m.scarce.With(e)
	}
	elapsed, ok := m.watch.lap()
	if !ok {
		return false, nil
	}
	m.share.Record(available)
	if 1-available > burstSaturated {
		m.time.Add(min(elapsed, 2*burstPeriod).Seconds())
	}
	return true, nil
}

// read returns the share that is available.
func (m *burstMemory) read() (float64, error) {
	b, err := m.file.Read()
	if err != nil {
		return 0, err
	}
	share, err := burstAvailable(b)
	return share, parseError(m.file, err)
}

// burstAvailable reads /proc/meminfo up to the line MemAvailable, the third, and returns its share of MemTotal.
func burstAvailable(b []byte) (float64, error) {
	var total, available uint64
	for {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return 0, errors.Join(errors.New("no MemTotal and MemAvailable"), cutShort(rest))
		}
		b = rest
		var into *uint64
		key, value := procfs.Field(line)
		switch string(key) {
		case "MemTotal:":
			into = &total
		case "MemAvailable:":
			into = &available
		default:
			continue
		}
		number, _ := procfs.Field(value)
		v, err := procfs.Uint(number)
		if err != nil {
			return 0, fmt.Errorf("line of %s %w", key, err)
		}
		*into = v
		if into == &available && total > 0 {
			return min(float64(available)/float64(total), 1), nil
		}
	}
}

func (m *burstMemory) close() error { return m.file.Close() }

// burstPressure samples one file of /proc/pressure: the share of the time in which tasks were held up for lack of
// a resource. The file of irq has only the total of the time in which all were.
type burstPressure struct {
	env      collector.Env
	resource string
	file     *procfs.File
	stalls   stalls
	total    uint64
	watch    burstWatch

	stalled metric.HistogramFamily
	full    metric.FloatFamily
	share   burstShare
}

func newBurstPressure(env collector.Env, clock burstClock, resource string) (*burstPressure, error) {
	file, err := procfs.OpenSingle(filepath.Join(env.Proc, "pressure", resource))
	if err != nil {
		return nil, err
	}
	if _, err := file.Read(); err != nil { // a kernel booted with psi=0 refuses here
		return nil, errors.Join(err, file.Close())
	}
	const (
		source          = "/proc/pressure"
		resources, what = attribute.Key("system.pressure.resource"), attribute.Key("system.pressure.scope")
	)
	return &burstPressure{
		env: env, resource: resource, file: file, watch: burstWatch{clock: clock},
		stalled: env.Metrics.Histogram(burstDistribution("system.pressure.linux.stall_ratio", "1", source,
			"Share of the time in which some tasks, or all that were not idle (full), were held up for lack of "+
				"the resource.", burstShares(), resources, what)),
		full: env.Metrics.Float(burstTime("system.pressure.linux", source,
			"Time in which tasks were held up for more than 90 % of it.", resources, what)),
	}, nil
}

// sample implements burstSampler.
func (p *burstPressure) sample(now time.Time) (recorded bool, err error) {
	b, err := p.file.Read()
	if err != nil {
		return false, err
	}
	if err := p.stalls.parse(b); err != nil {
		return false, parseError(p.file, err)
	}
	total := p.stalls.some
	if !p.stalls.hasSome {
		total = p.stalls.full
	}
	if p.share.distribution == nil {
		p.declare(now)
	}
	elapsed, ok := p.watch.lap()
	before := p.total
	p.total = total
	if !ok || total < before {
		return false, nil
	}
	p.share.record(float64(total-before)*1e3/float64(elapsed), elapsed)
	return true, nil
}

func (p *burstPressure) declare(now time.Time) {
	scope := "some"
	if !p.stalls.hasSome {
		scope = "full"
	}
	e := p.env.Metrics.Entity(p.env.Host, now)
	attrs := []attribute.KeyValue{
		attribute.String("system.pressure.resource", p.resource), attribute.String("system.pressure.scope", scope),
	}
	p.share = burstShare{p.stalled.With(e, attrs...), p.full.With(e, attrs...)}
}

func (p *burstPressure) close() error { return p.file.Close() }
