package host

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// A protoMetric declares a metric by the named numbers of files like /proc/net/snmp that its series show.
type protoMetric struct {
	desc    metric.Desc
	convert func(uint64) float64 // nil: the number as it is
	series  []protoField
}

// protoField is one series: the key of its number and its attributes. A key is the start of the line and the name,
// "Tcp RetransSegs" or "TCP inuse", or the name alone where a line has one number, "Udp6NoPorts".
type protoField struct {
	key   string
	attrs []attribute.KeyValue
}

// protoRow is the number behind one series. It has a register from when it is first seen, so what a kernel does not
// have makes no series.
type protoRow struct {
	key      string
	of       *protoMetric
	ints     metric.IntFamily
	floats   metric.FloatFamily
	attrs    []attribute.KeyValue
	whole    *metric.Int   // both nil until seen
	fraction *metric.Float // instead of whole, if the unit is seconds

	value uint64
	seen  bool // in this reading
}

// A protoSet is all named numbers that a collector uses, whatever file they are from.
type protoSet struct {
	places map[string]int // by key
	rows   []protoRow
	key    [maxFieldKey]byte
}

// maxFieldKey is longer than any key that is used; the longest names of the kernel have 40 bytes.
const maxFieldKey = 64

// newProtoSet declares the metrics.
func newProtoSet(m *metric.Group, list []protoMetric) *protoSet {
	s := &protoSet{places: map[string]int{}}
	for i := range list {
		f := &list[i]
		row := protoRow{of: f}
		if f.desc.Unit == "s" {
			row.floats = m.Float(f.desc)
		} else {
			row.ints = m.Int(f.desc)
		}
		for _, series := range f.series {
			row.key, row.attrs = series.key, series.attrs
			s.places[series.key] = len(s.rows)
			s.rows = append(s.rows, row)
		}
	}
	return s
}

// begin starts a reading of all files.
func (s *protoSet) begin() {
	for i := range s.rows {
		s.rows[i].seen = false
	}
}

// place returns the place of the number with a key of two parts, or -1.
func (s *protoSet) place(line, name []byte) int {
	if len(line)+1+len(name) > len(s.key) {
		return -1
	}
	n := copy(s.key[:], line)
	s.key[n] = ' '
	n += 1 + copy(s.key[n+1:], name)
	place, ok := s.places[string(s.key[:n])]
	if !ok {
		return -1
	}
	return place
}

// set keeps a number of this reading.
func (s *protoSet) set(place int, value uint64) {
	s.rows[place].value, s.rows[place].seen = value, true
}

// store puts what this reading saw into the registers and returns how many numbers that were. Numbers that were
// there before and are not now are the error.
func (s *protoSet) store(e *metric.Entity, now time.Time) (stored int, err error) {
	var lost []string
	for i := range s.rows {
		row := &s.rows[i]
		if !row.seen {
			if row.whole != nil || row.fraction != nil {
				lost = append(lost, row.key)
			}
			continue
		}
		row.store(e, now)
		stored++
	}
	if lost != nil {
		const most = 3 // enough to tell what is wrong
		more := ""
		if n := len(lost) - most; n > 0 {
			lost, more = lost[:most], fmt.Sprintf(" and %d more", n)
		}
		err = errors.New("no longer there: " + strings.Join(lost, ", ") + more)
	}
	return stored, err
}

func (r *protoRow) store(e *metric.Entity, now time.Time) {
	if r.whole == nil && r.fraction == nil {
		if r.of.desc.Unit == "s" {
			r.fraction = r.floats.With(e, r.attrs...)
		} else {
			r.whole = r.ints.With(e, r.attrs...)
		}
	}
	switch {
	case r.fraction != nil:
		r.fraction.Observe(r.of.convert(r.value), now)
	case r.of.desc.Kind == metric.Counter:
		r.whole.Observe(r.value, now)
	case r.of.convert != nil:
		r.whole.Set(int64(min(r.of.convert(r.value), 1<<62)))
	case r.value > math.MaxInt64: // a sum over processors that is below zero at the moment
		r.whole.Set(0)
	default:
		r.whole.Set(int64(r.value))
	}
}

// A pairFile knows the layout of a file like /proc/net/snmp: pairs of lines, first the names and then the numbers.
// Which columns there are depends on the kernel, and in few lines on what happened so far; names are looked up only
// when a line of names is not the one of the last reading.
type pairFile struct{ lines []pairLine }

// pairLine is a pair of lines as it was last seen.
type pairLine struct {
	names  []byte // the whole line
	prefix int    // the length of its start, e.g. of "Tcp:"
	places []int  // of the columns up to the last that is used; -1 for the others
}

// parse reads a whole file into the set. A pair that is damaged is left out as a whole, and the first is the error.
func (p *pairFile) parse(b []byte, into *protoSet) error {
	var bad error
	for i := 0; len(b) > 0 || i == 0; i++ {
		names, rest, ok := procfs.Line(b)
		if !ok {
			return errors.Join(bad, procfs.ErrTruncated)
		}
		values, rest, ok := procfs.Line(rest)
		if !ok {
			return errors.Join(bad, procfs.ErrTruncated)
		}
		b = rest
		if i == len(p.lines) {
			p.lines = append(p.lines, pairLine{})
		}
		line := &p.lines[i]
		if !bytes.Equal(line.names, names) {
			line.learn(names, into)
		}
		if err := line.read(values, into); err != nil && bad == nil {
			bad = fmt.Errorf("line of %q: %w", names[:line.prefix], err)
		}
	}
	return bad
}

// learn finds the columns that are used.
func (l *pairLine) learn(names []byte, set *protoSet) {
	l.names = append(l.names[:0], names...)
	l.places = l.places[:0]
	start, rest := procfs.Field(names)
	l.prefix = len(start)
	start = bytes.TrimSuffix(start, []byte{':'})
	used := 0
	for {
		var name []byte
		if name, rest = procfs.Field(rest); len(name) == 0 {
			break
		}
		place := set.place(start, name)
		l.places = append(l.places, place)
		if place >= 0 {
			used = len(l.places)
		}
	}
	l.places = l.places[:used]
}

// read reads the line of numbers.
func (l *pairLine) read(values []byte, into *protoSet) error {
	if len(l.places) == 0 {
		return nil
	}
	start, rest := procfs.Field(values)
	if !bytes.Equal(start, l.names[:l.prefix]) {
		return fmt.Errorf("%q follows", start)
	}
	for column, place := range l.places {
		var field []byte
		if field, rest = procfs.Field(rest); place < 0 && len(field) > 0 {
			continue
		}
		v, err := procfs.Uint(field)
		if err != nil {
			l.forget(column, into)
			return fmt.Errorf("column %d: %w", column+1, err)
		}
		into.set(place, v)
	}
	return nil
}

// forget takes back the columns before the given one: in a damaged line nothing tells which numbers are right.
func (l *pairLine) forget(column int, set *protoSet) {
	for _, place := range l.places[:column] {
		if place >= 0 {
			set.rows[place].seen = false
		}
	}
}

// parseNamedNumbers reads a file like /proc/net/snmp6, with a name and a number in each line. Damaged lines are left
// out, and the first is the error.
func parseNamedNumbers(b []byte, into *protoSet) error {
	var bad error
	if len(b) == 0 {
		return procfs.ErrTruncated
	}
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return errors.Join(bad, procfs.ErrTruncated)
		}
		b = rest
		name, line := procfs.Field(line)
		place, ok := into.places[string(name)]
		if !ok {
			continue
		}
		number, _ := procfs.Field(line)
		v, err := procfs.Uint(number)
		if err != nil {
			if bad == nil {
				bad = fmt.Errorf("line of %q: %w", name, err)
			}
			continue
		}
		into.set(place, v)
	}
	return bad
}

// parseSockstat reads a file like /proc/net/sockstat: lines like "TCP: inuse 1 orphan 0 tw 1 alloc 1 mem 130".
// Damaged lines are left out from the damage on, and the first is the error.
func parseSockstat(b []byte, into *protoSet) error {
	var bad error
	if len(b) == 0 {
		return procfs.ErrTruncated
	}
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return errors.Join(bad, procfs.ErrTruncated)
		}
		b = rest
		start, line := procfs.Field(line)
		if err := parseSockstatLine(bytes.TrimSuffix(start, []byte{':'}), line, into); err != nil && bad == nil {
			bad = fmt.Errorf("line of %q: %w", start, err)
		}
	}
	return bad
}

// parseSockstatLine reads the names and numbers after the start of a line.
func parseSockstatLine(start, line []byte, into *protoSet) error {
	for {
		var name, number []byte
		if name, line = procfs.Field(line); len(name) == 0 {
			return nil
		}
		number, line = procfs.Field(line)
		place := into.place(start, name)
		if place < 0 {
			continue
		}
		v, err := signedTotal(number)
		if err != nil {
			return fmt.Errorf("number of %q: %w", name, err)
		}
		into.set(place, v)
	}
}

// signedTotal reads a sum over processors, which the kernel prints with a sign: below zero, as it can be for a
// moment while processors update their parts, it is none.
func signedTotal(number []byte) (uint64, error) {
	if len(number) > 1 && number[0] == '-' {
		_, err := procfs.Uint(number[1:])
		return 0, err
	}
	return procfs.Uint(number)
}
