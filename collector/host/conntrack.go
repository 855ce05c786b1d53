package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"time"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The columns of /proc/net/stat/nf_conntrack that are used.
const (
	trackEntries = iota // the same in each line
	trackInvalid
	trackInsertFailed
	trackDrop
	trackEarlyDrop
	trackSearchRestart
	trackClashes
	trackColumns
)

// trackColumn returns the place of a column by its name, or -1.
func trackColumn(name []byte) int {
	switch string(name) {
	case "entries":
		return trackEntries
	case "invalid":
		return trackInvalid
	case "insert_failed":
		return trackInsertFailed
	case "drop":
		return trackDrop
	case "early_drop":
		return trackEarlyDrop
	case "search_restart":
		return trackSearchRestart
	case "clashres":
		return trackClashes
	}
	return -1
}

// trackTable is the content of /proc/net/stat/nf_conntrack: a line of names, and one of hexadecimal numbers for each
// processor that the machine could have.
type trackTable struct {
	columns []int // the place of each column, or -1
	has     [trackColumns]bool
	names   []byte // the line that they were made of
	entries uint32
	cpus    [][trackColumns]uint32
}

// parse reads a whole file.
func (t *trackTable) parse(b []byte) error {
	names, b, ok := procfs.Line(b)
	if !ok {
		return procfs.ErrTruncated
	}
	if !bytes.Equal(names, t.names) {
		t.learn(names)
	}
	if !t.has[trackEntries] {
		return errors.New("no column of entries")
	}
	t.cpus = t.cpus[:0]
	for len(b) > 0 && len(t.cpus) < softnetMaxCPUs {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		if err := t.parseLine(line); err != nil {
			return fmt.Errorf("line %d: %w", len(t.cpus)+2, err)
		}
	}
	if len(t.cpus) == 0 {
		return procfs.ErrTruncated
	}
	t.entries = t.cpus[0][trackEntries]
	return nil
}

// learn finds the columns.
func (t *trackTable) learn(names []byte) {
	t.names = append(t.names[:0], names...)
	t.columns, t.has = t.columns[:0], [trackColumns]bool{}
	for {
		var name []byte
		if name, names = procfs.Field(names); len(name) == 0 {
			return
		}
		column := trackColumn(name)
		if column >= 0 {
			t.has[column] = true
		}
		t.columns = append(t.columns, column)
	}
}

// parseLine reads the numbers of one processor.
func (t *trackTable) parseLine(line []byte) error {
	var v [trackColumns]uint32
	for i, column := range t.columns {
		var field []byte
		if field, line = procfs.Field(line); len(field) == 0 {
			return procfs.ErrTruncated
		}
		if column < 0 {
			continue
		}
		number, err := netHex(field)
		if err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
		v[column] = number
	}
	t.cpus = append(t.cpus, v)
	return nil
}

// Conntrack collects how full the table of tracked connections is and what was lost because of it. Where the kernel
// tracks none it costs an attempt to open a file each minute: the module comes with the first firewall rule that
// needs it, and may go again.
type Conntrack struct {
	health
	env    collector.Env
	stat   *procfs.File // nil while there is none
	count  *procfs.File // the number of connections, where there is no stat
	max    *procfs.File
	look   time.Time // when the files are looked for again
	last   time.Time // of the previous collection
	table  trackTable
	before [][trackColumns]uint32
	totals [trackColumns]uint64

	families   [trackColumns]metric.IntFamily
	limit      metric.IntFamily
	entity     *metric.Entity // nil while nothing is tracked
	rows       [trackColumns]*metric.Int
	limitValue *metric.Int
}

// NewConntrack looks for the files. That there are none is no fault: nothing is tracked then.
func NewConntrack(env collector.Env) (collector.Collector, error) {
	c := &Conntrack{env: env}
	c.name, c.hook = "host/conntrack", filepath.Join(env.Proc, "1/net/stat/nf_conntrack")
	c.declare()
	if err := c.open(); err != nil {
		return nil, errors.Join(unavailable(err), c.Close())
	}
	return c, nil
}

func (c *Conntrack) declare() {
	const source, area = "/proc/1/net/stat/nf_conntrack", "system.network.conntrack."
	m := c.env.Metrics
	row := func(name, unit, description string) metric.IntFamily {
		return m.Int(counter(area+"linux."+name, unit, source, description))
	}
	c.families = [trackColumns]metric.IntFamily{
		trackEntries: m.Int(amount(area+"count", "{entry}", source, "Connections that the kernel tracks at present.")),
		trackInvalid: row("invalid", "{packet}", "Packets that belong to no connection that could be tracked."),
		trackInsertFailed: row("insert_failures", "{packet}",
			"Packets dropped because their connection was there already when it was to be entered."),
		trackDrop:      row("drops", "{packet}", "Packets dropped because the table was full or memory short."),
		trackEarlyDrop: row("early_drops", "{entry}", "Connections forgotten early to make room for new ones."),
		trackSearchRestart: row("search_restarts", "{event}",
			"Searches begun anew because the table was being resized."),
		trackClashes: row("clashes", "{event}",
			"Times that two packets entered the same connection at once and the kernel could settle it."),
	}
	c.limit = m.Int(amount(area+"max", "{entry}", "/proc/sys/net/netfilter/nf_conntrack_max",
		"Connections that the kernel can track at once."))
}

// open opens what there is. Files that do not exist are no error.
func (c *Conntrack) open() error {
	setting := filepath.Join(c.env.Proc, "sys/net/netfilter/nf_conntrack_")
	c.reason, c.missing = "", ""
	stat, err := c.openNet(c.env.Proc, "stat/nf_conntrack", procfs.Open)
	if err != nil && !netAbsent(err) {
		return err
	}
	c.stat = stat
	if c.max, err = procfs.OpenSingle(setting + "max"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.stat != nil || c.max == nil {
		return nil
	}
	if c.count, err = procfs.OpenSingle(setting + "count"); err != nil {
		return err
	}
	c.reason = "shows only how many connections slid's own network namespace has: " + c.hook + " does not exist"
	c.missing = "CONFIG_NF_CONNTRACK_PROCFS=y"
	return nil
}

// trackLookAgain is the time between two attempts to find the files.
const trackLookAgain = time.Minute

// Collect implements collector.Collector.
func (c *Conntrack) Collect(_ context.Context, now time.Time) error {
	defer func() { c.last = now }()
	if c.stat == nil && c.count == nil {
		if now.Before(c.look) {
			return c.collected(c.err, c.err == nil)
		}
		c.look = now.Add(trackLookAgain)
		if err := c.open(); err != nil || c.stat == nil && c.count == nil {
			return c.collected(err, err == nil)
		}
	}
	err := c.read()
	if c.vanished(err) {
		return c.collected(c.forget(), true)
	}
	if err == nil {
		c.store(now)
	}
	return c.collected(errors.Join(err, c.collectLimit()), err == nil)
}

// read reads the table, or the number alone.
func (c *Conntrack) read() error {
	if c.stat == nil {
		entries, err := trackNumber(c.count)
		c.table.entries = uint32(min(entries, math.MaxUint32))
		return err
	}
	b, err := c.stat.Read()
	if err != nil {
		return err
	}
	return parseError(c.stat, c.table.parse(b))
}

// trackNumber reads a file with one number.
func trackNumber(f *procfs.File) (uint64, error) {
	b, err := f.Read()
	if err != nil {
		return 0, err
	}
	line, _, ok := procfs.Line(b)
	if !ok {
		return 0, parseError(f, procfs.ErrTruncated)
	}
	v, err := procfs.Uint(line)
	return v, parseError(f, err)
}

// vanished says whether the module is gone. What it leaves of an open file answers with an I/O error, so it is the
// path that tells.
func (c *Conntrack) vanished(err error) bool {
	pathError, ok := errors.AsType[*fs.PathError](err)
	if !ok {
		return false
	}
	f, openErr := procfs.Open(pathError.Path)
	if openErr == nil {
		_ = f.Close()
	}
	return errors.Is(openErr, fs.ErrNotExist)
}

// forget takes the series away and looks for the files again later.
func (c *Conntrack) forget() error {
	if c.entity != nil {
		c.entity.Remove()
		c.entity, c.limitValue = nil, nil
	}
	c.before, c.totals = nil, [trackColumns]uint64{}
	err := c.Close()
	c.stat, c.count, c.max = nil, nil, nil
	return err
}

// store puts the table into the registers.
func (c *Conntrack) store(now time.Time) {
	if c.entity == nil {
		c.register()
	}
	for i, cpu := range c.table.cpus {
		if i == len(c.before) {
			c.before = append(c.before, [trackColumns]uint32{})
		}
		for column, v := range cpu {
			c.totals[column] += softnetProgress(c.before[i][column], v)
		}
		c.before[i] = cpu
	}
	for column, register := range c.rows {
		if register != nil && column != trackEntries {
			register.Observe(c.totals[column], now)
		}
	}
	c.rows[trackEntries].Set(int64(c.table.entries))
}

// register makes the series that the kernel has numbers for. They begin at boot, or at the previous collection if
// the module came later.
func (c *Conntrack) register() {
	start := c.env.Boot
	if !c.last.IsZero() {
		start = c.last
	}
	c.entity = c.env.Metrics.Entity(c.env.Host, start)
	for column, family := range c.families {
		c.rows[column] = nil
		if column == trackEntries || c.stat != nil && c.table.has[column] {
			c.rows[column] = family.With(c.entity)
		}
	}
}

// collectLimit reads how many connections can be tracked.
func (c *Conntrack) collectLimit() error {
	if c.max == nil || c.entity == nil {
		return nil
	}
	limit, err := trackNumber(c.max)
	if err != nil {
		return err
	}
	if c.limitValue == nil {
		c.limitValue = c.limit.With(c.entity)
	}
	c.limitValue.Set(int64(min(limit, math.MaxInt64)))
	return nil
}

// Close implements collector.Collector.
func (c *Conntrack) Close() error {
	var errs error
	for _, f := range [...]*procfs.File{c.stat, c.count, c.max} {
		if f != nil {
			errs = errors.Join(errs, f.Close())
		}
	}
	return errs
}
