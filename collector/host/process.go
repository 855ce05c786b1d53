package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// Processes collects from /proc/PID how many processes are in which state, and which programs use most processor
// time, memory and disk I/O. Processes of the same program in the same systemd unit or container are one group: pids
// and their series would come and go without end. For each resource the ten groups that come first have series, and
// other has the rest, so that all series together are what all processes used.
//
// Processes that ended between two walks are part of it as far as their parents waited for them (see processEntry).
// What a process used goes to the program that it runs when it is read. Resident memory counts shared pages once for
// each process that has them.
//
// A walk costs 4 to 6 us of processor time for each process (BenchmarkProcessWalk), nine tenths of it in the kernel. It
// keeps one file open for each process, up to 4,096 and to a quarter of the limit.
type Processes struct {
	health
	env   collector.Env
	table processTable
	last  time.Time // of the previous walk

	states    [processStates]*metric.Int
	unclaimed *metric.Int
	tops      [tops]processTop
}

// NewProcesses opens the directory /proc.
func NewProcesses(env collector.Env) (collector.Collector, error) {
	reader, err := newProcessReader(env.Proc)
	if err != nil {
		return nil, unavailable(err)
	}
	p := &Processes{env: env, table: processTable{reader: reader, io: hasIO(env.Proc)}}
	p.name, p.hook = "host/process", filepath.Join(env.Proc, "[pid]/stat")
	p.declareCounts(env.Metrics)
	p.declareTops(env.Metrics)
	return p, nil
}

// hasIO says whether the kernel accounts I/O. The files are there even for who may not read them.
func hasIO(proc string) bool {
	for _, process := range [...]string{"self", "1"} {
		if _, err := os.Stat(filepath.Join(proc, process, "io")); err == nil {
			return true
		}
	}
	return false
}

func (p *Processes) declareCounts(m *metric.Group) {
	const source = "/proc/[pid]/stat"
	e := m.Entity(p.env.Host, p.env.Boot)
	d := amount("system.process.count", "{process}", source,
		"Processes by the state of their main thread; blocked is uninterruptible sleep, most often for I/O.")
	d.Attributes = []attribute.Key{"process.state"}
	count := m.Int(d)
	for state, name := range [processStates]string{
		processRunning: "running", processSleeping: "sleeping", processBlocked: "blocked",
		processStopped: "stopped", processDefunct: "defunct",
	} {
		p.states[state] = count.With(e, attribute.String("process.state", name))
	}
	p.unclaimed = m.Int(counter("system.process.linux.unclaimed", "{process}", source,
		"Ended processes, at least, that nobody waited for: what they used since the walk before their end is lost.")).
		With(m.Entity(p.env.Host, time.Now()))
}

func (p *Processes) declareTops(m *metric.Group) {
	const program = attribute.Key("process.executable.name")
	d := counter("process.cpu.time", "s", "/proc/[pid]/stat", "Processor time of the processes of a program.")
	d.Attributes = []attribute.Key{program, "cpu.mode"}
	cpu := m.Float(d)
	p.tops[topCPU] = processTop{
		measure: func(g *processGroup) [2]uint64 { return [2]uint64(g.gained[flowUser:flowRead]) },
		register: func(e *metric.Entity, group ...attribute.KeyValue) processStore {
			user := cpu.With(e, with(group, "cpu.mode", "user")...)
			system := cpu.With(e, with(group, "cpu.mode", "system")...)
			return func(ticks [2]uint64, now time.Time) {
				user.Observe(float64(ticks[0])/userHz, now)
				system.Observe(float64(ticks[1])/userHz, now)
			}
		},
	}
	d = counter("process.disk.io", "By", "/proc/[pid]/io",
		"Bytes that the processes of a program caused to be read from and written to block devices.")
	d.Attributes = []attribute.Key{program, "disk.io.direction"}
	io := m.Int(d)
	p.tops[topIO] = processTop{
		measure: func(g *processGroup) [2]uint64 { return [2]uint64(g.gained[flowRead:]) },
		register: func(e *metric.Entity, group ...attribute.KeyValue) processStore {
			read := io.With(e, with(group, "disk.io.direction", "read")...)
			write := io.With(e, with(group, "disk.io.direction", "write")...)
			return func(bytes [2]uint64, now time.Time) {
				read.Observe(bytes[0], now)
				write.Observe(bytes[1], now)
			}
		},
	}
	p.tops[topMemory] = memoryTop(m)
	for resource := range p.tops {
		top := &p.tops[resource]
		if resource == topIO && !p.table.io {
			continue
		}
		top.resource = resource
		top.other = top.add(nil, m.Entity(p.env.Host, p.env.Boot))
	}
}

func memoryTop(m *metric.Group) processTop {
	d := amount("process.memory.usage", "By", "/proc/[pid]/stat",
		"Resident memory of the processes of a program; pages that several share count for each.")
	d.Attributes = []attribute.Key{"process.executable.name"}
	memory, pageSize := m.Int(d), int64(os.Getpagesize())
	return processTop{
		amount:  true,
		measure: func(g *processGroup) [2]uint64 { return [2]uint64{g.rss} },
		register: func(e *metric.Entity, group ...attribute.KeyValue) processStore {
			usage := memory.With(e, group...)
			return func(pages [2]uint64, _ time.Time) { usage.Set(int64(pages[0]) * pageSize) }
		},
	}
}

// with returns a list with one attribute more.
func with(list []attribute.KeyValue, key attribute.Key, value string) []attribute.KeyValue {
	return append(slices.Clip(list), key.String(value))
}

// Collect implements collector.Collector.
func (p *Processes) Collect(_ context.Context, now time.Time) error {
	if err := p.table.walk(); err != nil {
		return p.collected(err, false)
	}
	p.publish(now)
	return p.collected(p.table.counts.asError(), len(p.table.now) > 0)
}

// publish stores what the walk has found.
func (p *Processes) publish(now time.Time) {
	counts := &p.table.counts
	for state, n := range counts.states {
		p.states[state].Set(n)
	}
	p.unclaimed.Observe(p.table.unclaimed, now)

	groups := &p.table.groups
	groups.rate(p.table.walks == 2)
	for i := range p.tops {
		if top := &p.tops[i]; top.other != nil {
			top.choose(groups.list, p.newEntity)
			top.share(groups.list)
			top.storeAll(now)
		}
	}
	groups.sweep()
	p.last = now
}

// newEntity returns an entity for series that begin now: they count from the previous walk, or from boot at the
// first one.
func (p *Processes) newEntity() *metric.Entity {
	start := p.last
	if start.IsZero() {
		start = p.env.Boot
	}
	return p.env.Metrics.Entity(p.env.Host, start)
}

// Verdicts says how the last walk fared.
func (p *Processes) Verdicts() []verdict.Verdict {
	p.reason, p.missing = p.shortcomings()
	return p.health.Verdicts()
}

// shortcomings says what the last walk could not see and what would help.
func (p *Processes) shortcomings() (reason, missing string) {
	t := &p.table
	switch {
	case t.walks == 0:
	case t.counts.hidden > 0:
		return fmt.Sprintf("processes that may not be read (hidepid=1): %d", t.counts.hidden),
			"CAP_SYS_PTRACE, or a /proc mounted without hidepid"
	case findProcess(t.now, 1) == nil:
		return "process 1 is not shown, and others may be hidden as well",
			"CAP_SYS_PTRACE, or a /proc mounted without hidepid (ProtectProc=default)"
	case t.counts.denied > 0:
		reason = fmt.Sprintf("processes whose disk I/O may not be read: %d", t.counts.denied)
		if t.counts.capable {
			return reason + ", in spite of the capabilities for it", ""
		}
		return reason, "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
	}
	if !t.io {
		return "this kernel does not account the I/O of processes", "CONFIG_TASK_IO_ACCOUNTING=y"
	}
	return "", ""
}

// Close implements collector.Collector.
func (p *Processes) Close() error { return p.table.close() }
