package host

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/slid-agent/slid/internal/procfs"
)

// userHz is the unit of the times in /proc/stat: 100 to the second on every architecture slid is built for
// (USER_HZ, proc_stat(5)), whatever CONFIG_HZ is.
const userHz = 100

// maxProcessors bounds the number behind "cpu" in /proc/stat (CONFIG_NR_CPUS is at most 8192).
const maxProcessors = 8192

// The modes of system.cpu.time. Guest is not in OpenTelemetry's list: time given to virtual machines, which the
// kernel counts as user time too. It has a mode of its own so that all modes together are the time that passed.
const (
	modeUser = iota
	modeNice
	modeSystem
	modeIdle
	modeIowait
	modeInterrupt
	modeSteal
	modeGuest
	modes
)

// cpuTimes are ticks by mode.
type cpuTimes [modes]uint64

// processor is what one line of /proc/stat says.
type processor struct {
	number uint64
	times  cpuTimes
}

// stat is what is used of /proc/stat.
type stat struct {
	processors []processor // those online, in the order of the file

	switches, created, running, blocked uint64

	counted    bool // the four of them are of the last reading
	interrupts interruptCounts
}

// parse reads the content of /proc/stat. Whole says whether all lines of processors were good: only then is a
// processor without a line offline. On an error the totals keep the values they had.
func (s *stat) parse(b []byte) (whole bool, err error) {
	s.processors, s.counted = s.processors[:0], false
	s.interrupts = interruptCounts{}
	rest, err := s.parseProcessors(b)
	if err != nil {
		return false, err
	}
	return true, s.parseTotals(rest)
}

// parseProcessors reads the lines that begin with "cpu" and returns the rest. The first of them, the sum, is left
// out: it has the idle time of processors that are offline too, and jumps when one goes.
func (s *stat) parseProcessors(b []byte) (rest []byte, err error) {
	const prefix = "cpu"
	for len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return b, procfs.ErrTruncated
		}
		b = rest
		if line = line[len(prefix):]; len(line) > 0 && line[0] == ' ' {
			continue
		}
		p, err := parseProcessor(line)
		if err != nil {
			return b, fmt.Errorf("line of a cpu: %w", err)
		}
		s.processors = append(s.processors, p)
	}
	if len(s.processors) == 0 {
		return b, errors.New("no line of a cpu")
	}
	return b, nil
}

// parseProcessor reads a line after its "cpu": the number and eight to ten times.
func parseProcessor(line []byte) (p processor, err error) {
	var v [1 + 10]uint64 // the number, user nice system idle iowait irq softirq steal guest guest_nice
	n, _, err := procfs.Uints(line, v[:])
	switch {
	case err != nil:
		return p, err
	case n < 1+8: // the guest times came later
		return p, procfs.ErrTruncated
	case v[0] >= maxProcessors:
		return p, procfs.ErrRange
	}
	user, nice, guest, guestNice := v[1], v[2], v[9], v[10]
	return processor{number: v[0], times: cpuTimes{
		modeUser:      user - min(user, guest),
		modeNice:      nice - min(nice, guestNice),
		modeSystem:    v[3],
		modeIdle:      v[4],
		modeIowait:    v[5],
		modeInterrupt: v[6] + v[7], // hard and soft
		modeSteal:     v[8],
		modeGuest:     guest + guestNice,
	}}, nil
}

// parseTotals reads the lines after those of the processors, of which softirq is the last.
func (s *stat) parseTotals(b []byte) error {
	wanted := 4
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		key, value := procfs.Field(line)
		var err error
		switch string(key) {
		case "intr":
			err = s.interrupts.parseHard(value)
		case "ctxt":
			s.switches, err = firstUint(value)
			wanted--
		case "processes":
			s.created, err = firstUint(value)
			wanted--
		case "procs_running":
			s.running, err = firstUint(value)
			wanted--
		case "procs_blocked":
			s.blocked, err = firstUint(value)
			wanted--
		case "softirq":
			err = s.interrupts.parseSoft(value)
		}
		if err != nil {
			return fmt.Errorf("line of %s: %w", key, err)
		}
		s.counted = wanted == 0
	}
	if !s.counted {
		return procfs.ErrTruncated
	}
	return nil
}

// firstUint reads the first field of a line.
func firstUint(line []byte) (uint64, error) {
	field, _ := procfs.Field(line)
	return procfs.Uint(field)
}

// parseLoadavg reads the first three fields of /proc/loadavg: runnable and uninterruptible threads on average over
// 1, 5 and 15 minutes.
func parseLoadavg(b []byte) (load [3]float64, err error) {
	line, _, ok := procfs.Line(b)
	if !ok {
		return load, procfs.ErrTruncated
	}
	for i := range load {
		var field []byte
		field, line = procfs.Field(line)
		if load[i], err = procfs.Decimal(field); err != nil {
			return load, err
		}
	}
	return load, nil
}

// parseThreads reads the number behind the slash in the fourth field of /proc/loadavg: how many threads there are,
// those of the kernel included.
func parseThreads(b []byte) (uint64, error) {
	line, _, ok := procfs.Line(b)
	if !ok {
		return 0, procfs.ErrTruncated
	}
	var field []byte
	for range 4 {
		field, line = procfs.Field(line)
	}
	_, threads, _ := bytes.Cut(field, []byte{'/'})
	return procfs.Uint(threads)
}
