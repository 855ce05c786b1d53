package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The columns of /proc/net/softnet_stat. Linux 2.6.32 has nine, 5.10 has softnetCPU and newer ones have more.
const (
	softnetProcessed = 0
	softnetDropped   = 1
	softnetSqueezed  = 2
	softnetWakeups   = 9  // since Linux 2.6.35
	softnetFlowLimit = 10 // since 3.11
	softnetBacklog   = 11 // an amount; it and softnetCPU since 5.10
	softnetCPU       = 12
	softnetColumns   = 13
	softnetLeast     = 9
)

// softnetLine is the numbers of one processor.
type softnetLine struct {
	v       [softnetColumns]uint32
	columns int // how many of them there were
}

// parse reads a line like "01441260 00000000 00000002 ...": hexadecimal numbers.
func (l *softnetLine) parse(line []byte) error {
	*l = softnetLine{}
	for l.columns < softnetColumns {
		var field []byte
		if field, line = procfs.Field(line); len(field) == 0 {
			break
		}
		v, err := netHex(field)
		if err != nil {
			return fmt.Errorf("column %d: %w", l.columns+1, err)
		}
		l.v[l.columns] = v
		l.columns++
	}
	if l.columns < softnetLeast {
		return procfs.ErrTruncated
	}
	return nil
}

// netHex reads a field of hexadecimal digits.
func netHex(field []byte) (v uint32, err error) {
	const digits = 8
	if len(field) == 0 {
		return 0, procfs.ErrSyntax
	}
	if len(field) > digits {
		return 0, procfs.ErrRange
	}
	for _, c := range field {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint32(c-'a'+10)
		default:
			return 0, procfs.ErrSyntax
		}
	}
	return v, nil
}

// softnetProgress returns by how much a counter of 32 bits grew. One that fell a little before it was full began anew;
// else it went round.
func softnetProgress(before, now uint32) uint64 {
	grown := now - before
	if now < before && grown > 1<<31 {
		return uint64(now)
	}
	return uint64(grown)
}

// softnetMaxCPUs bounds the number of a processor that is believed.
const softnetMaxCPUs = 1 << 16

// softnetState is what is remembered of a processor.
type softnetState struct {
	v    [softnetColumns]uint32
	seen bool
}

// Softnet collects from /proc/net/softnet_stat what the processors do with packets before any protocol sees them:
// how many they took from the interfaces, dropped because their backlog was full, and left for later because their
// time was up. The kernel's counters have 32 bits, which a busy processor fills in an hour, and an offline processor
// has no line: the totals of all processors are carried on in 64 bits.
type Softnet struct {
	health
	file   *procfs.File
	cpus   []softnetState
	lines  int // of the last reading
	sample softnetLine

	totals  [softnetColumns]uint64
	rows    [softnetColumns]*metric.Int // nil for columns that are not shown
	columns int                         // that each line must have
	backlog *metric.Int
}

// NewSoftnet opens and reads the file. It is the same in each network namespace.
func NewSoftnet(env collector.Env) (collector.Collector, error) {
	s := &Softnet{}
	s.name = "host/softnet"
	file, err := s.openNet(env.Proc, "softnet_stat", procfs.Open)
	if err != nil {
		return nil, unavailable(err)
	}
	s.reason, s.missing = "", "" // processors have no namespace
	s.file, s.hook = file, file.Path()
	b, err := file.Read()
	if err == nil {
		line, _, ok := procfs.Line(b)
		if err = procfs.ErrTruncated; ok {
			err = s.sample.parse(line)
		}
		err = parseError(file, err)
	}
	if err != nil {
		return nil, errors.Join(unavailable(err), file.Close())
	}
	s.columns = s.sample.columns
	s.declare(env)
	return s, nil
}

func (s *Softnet) declare(env collector.Env) {
	const source, area = "/proc/net/softnet_stat", "system.network.softnet.linux."
	e := env.Metrics.Entity(env.Host, env.Boot)
	row := func(column int, name, unit, description string) {
		family := env.Metrics.Int(counter(area+name, unit, source, description))
		if column < s.columns {
			s.rows[column] = family.With(e)
		}
	}
	row(softnetProcessed, "processed", "{packet}", "Packets that processors took from interfaces, or from each other.")
	row(softnetDropped, "dropped", "{packet}", "Packets dropped because a processor's backlog was full "+
		"(net.core.netdev_max_backlog).")
	row(softnetSqueezed, "time_squeezes", "{event}", "Times that a processor left packets for later because its "+
		"share of time or packets was spent (net.core.netdev_budget).")
	row(softnetWakeups, "wakeups", "{interrupt}", "Interrupts by which processors handed packets to each other (RPS).")
	row(softnetFlowLimit, "flow_limits", "{packet}", "Packets of large flows dropped to keep room for small ones.")
	family := env.Metrics.Int(amount(area+"backlog", "{packet}", source, "Packets that wait for a processor at present."))
	if s.columns > softnetBacklog {
		s.backlog = family.With(e)
	}
}

// Collect implements collector.Collector.
func (s *Softnet) Collect(_ context.Context, now time.Time) error {
	b, err := s.file.Read()
	if err != nil {
		return s.collected(err, false)
	}
	bad, good, waiting := s.collectLines(b)
	for column, register := range s.rows {
		if register != nil && good > 0 {
			register.Observe(s.totals[column], now)
		}
	}
	if s.backlog != nil && good > 0 {
		s.backlog.Set(waiting)
	}
	return s.collected(bad.asError(s.file), good > 0)
}

// collectLines adds the progress of all processors and returns how many lines were good and the sum of backlogs.
func (s *Softnet) collectLines(b []byte) (bad tableError, good int, waiting int64) {
	lines, moved := 0, s.columns <= softnetCPU && s.count(b)
	for ; len(b) > 0; lines++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(lines, procfs.ErrTruncated)
			break
		}
		b = rest
		if err := s.collectLine(line, lines, moved); err != nil {
			bad.note(lines, err)
			continue
		}
		good++
		waiting += int64(s.sample.v[softnetBacklog])
	}
	if lines == 0 {
		bad.note(lines, procfs.ErrTruncated)
	}
	return bad, good, waiting
}

// count says whether the number of lines is another than the last time.
func (s *Softnet) count(b []byte) bool {
	lines := 0
	for _, c := range b {
		if c == '\n' {
			lines++
		}
	}
	moved := s.lines != 0 && s.lines != lines
	s.lines = lines
	return moved
}

// collectLine adds the progress of one processor. A kernel that does not number its lines leaves open which
// processor has come or gone when their number changed (moved): then they are only remembered.
func (s *Softnet) collectLine(line []byte, number int, moved bool) error {
	if err := s.sample.parse(line); err != nil {
		return err
	}
	if s.sample.columns < s.columns {
		return procfs.ErrTruncated
	}
	if s.columns > softnetCPU {
		number = int(s.sample.v[softnetCPU])
	}
	if number >= softnetMaxCPUs {
		return procfs.ErrRange
	}
	for number >= len(s.cpus) {
		s.cpus = append(s.cpus, softnetState{})
	}
	cpu := &s.cpus[number]
	for column := range s.rows {
		switch {
		case s.rows[column] == nil || moved:
		case cpu.seen:
			s.totals[column] += softnetProgress(cpu.v[column], s.sample.v[column])
		default: // since boot, or since the processor was added
			s.totals[column] += uint64(s.sample.v[column])
		}
	}
	cpu.v, cpu.seen = s.sample.v, true
	return nil
}

// Close implements collector.Collector.
func (s *Softnet) Close() error { return s.file.Close() }
