package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// stalls are the totals of one file of /proc/pressure in microseconds.
type stalls struct {
	some, full       uint64
	hasSome, hasFull bool
}

// parse reads lines like "some avg10=0.00 avg60=0.00 avg300=0.00 total=57971672". The averages are left out: the
// total gives every average over every window.
func (s *stalls) parse(b []byte) error {
	*s = stalls{}
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		scope, line := procfs.Field(line)
		total, err := stallTotal(line)
		if err != nil {
			return fmt.Errorf("line of %q: %w", scope, err)
		}
		switch string(scope) {
		case "some":
			s.some, s.hasSome = total, true
		case "full":
			s.full, s.hasFull = total, true
		}
	}
	if !s.hasSome && !s.hasFull {
		return procfs.ErrTruncated
	}
	return nil
}

// stallTotal returns the number of the field total= of a line.
func stallTotal(line []byte) (uint64, error) {
	const key = "total="
	for {
		var field []byte
		if field, line = procfs.Field(line); len(field) == 0 {
			return 0, errors.New("no total")
		}
		if len(field) > len(key) && string(field[:len(key)]) == key {
			return procfs.Uint(field[len(key):])
		}
	}
}

// pressureFile is one resource.
type pressureFile struct {
	resource string
	path     string
	file     *procfs.File // nil while it cannot be opened
	entity   *metric.Entity
	some     *metric.Float // nil if the kernel has no such total
	full     *metric.Float
	lost     error // why it cannot be read
}

// Pressure collects pressure stall information from /proc/pressure: for how long tasks waited for a resource.
// Reading costs the kernel more than slid: it adds up all processors first.
type Pressure struct {
	health
	env    collector.Env
	time   metric.FloatFamily
	sample stalls
	files  []*pressureFile
}

// NewPressure opens /proc/pressure/{cpu,memory,io} and irq, which only kernels with CONFIG_IRQ_TIME_ACCOUNTING
// have.
func NewPressure(env collector.Env) (collector.Collector, error) {
	p := &Pressure{env: env}
	p.name, p.hook = "host/pressure", filepath.Join(env.Proc, "pressure")
	for _, resource := range [...]string{"cpu", "memory", "io", "irq"} {
		f := &pressureFile{resource: resource, path: filepath.Join(p.hook, resource)}
		if _, err := p.read(f); resource == "irq" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		p.files = append(p.files, f)
	}
	if err := p.allLost(); err != nil {
		return nil, errors.Join(noPressure(err), p.Close())
	}
	d := counter("system.pressure.linux.stall_time", "s", "/proc/pressure",
		"Time in which some tasks, or all that were not idle (full), were held up for lack of the resource.")
	d.Attributes = []attribute.Key{"system.pressure.resource", "system.pressure.scope"}
	p.time = env.Metrics.Float(d)
	p.judge()
	return p, nil
}

// noPressure says what would bring pressure stall information.
func noPressure(err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
		return unavailable(err)
	}
	return &verdict.UnavailableError{
		Reason:  "the kernel keeps no pressure stall information; boot with psi=1 (a kernel built with CONFIG_PSI=y)",
		Missing: "CONFIG_PSI=y and psi=1",
		Err:     err,
	}
}

// read returns the content of a file and notes whether it is lost.
func (p *Pressure) read(f *pressureFile) (b []byte, err error) {
	if f.file == nil {
		f.file, err = procfs.OpenSingle(f.path)
	}
	if err == nil {
		b, err = f.file.Read()
	}
	f.lost = err
	return b, err
}

// allLost returns why no file can be read, or nil if one can.
func (p *Pressure) allLost() error {
	for _, f := range p.files {
		if f.lost == nil {
			return nil
		}
	}
	return p.files[0].lost
}

// judge keeps the reason up to date: the files that are lost.
func (p *Pressure) judge() {
	p.reason, p.missing = "", ""
	for _, f := range p.files {
		if f.lost != nil {
			p.reason, p.missing = "not all of it can be read: "+f.lost.Error(), remedy(f.lost)
			return
		}
	}
}

// Collect implements collector.Collector. A file that cannot be read any more takes its series with it: that is an
// error once and a degraded verdict until it is back, unless nothing is left.
func (p *Pressure) Collect(_ context.Context, now time.Time) error {
	var errs error
	changed := false
	for _, f := range p.files {
		wasLost := f.lost != nil
		err := p.collect(f, now)
		changed = changed || wasLost != (f.lost != nil)
		if err != nil && !(wasLost && f.lost != nil) {
			errs = errors.Join(errs, err)
		}
	}
	if changed {
		p.judge()
	}
	lost := p.allLost()
	if errs == nil {
		errs = lost
	}
	return p.collected(errs, lost == nil)
}

// collect stores one resource.
func (p *Pressure) collect(f *pressureFile, now time.Time) error {
	b, err := p.read(f)
	if err != nil {
		if f.entity != nil {
			f.entity.Remove()
			f.entity = nil
		}
		return err
	}
	if err := p.sample.parse(b); err != nil {
		return parseError(f.file, err)
	}
	if f.entity == nil {
		p.declare(f)
	}
	if f.some != nil && p.sample.hasSome {
		f.some.Observe(float64(p.sample.some)/1e6, now)
	}
	if f.full != nil && p.sample.hasFull {
		f.full.Observe(float64(p.sample.full)/1e6, now)
	}
	return nil
}

// declare makes the registers for what the present sample has. Full does not exist for the processors of a whole
// host: the kernel prints a constant zero for it.
func (p *Pressure) declare(f *pressureFile) {
	f.entity = p.env.Metrics.Entity(p.env.Host, p.env.Boot)
	with := func(scope string) *metric.Float {
		return p.time.With(f.entity, attribute.String("system.pressure.resource", f.resource),
			attribute.String("system.pressure.scope", scope))
	}
	f.some, f.full = nil, nil
	if p.sample.hasSome {
		f.some = with("some")
	}
	if p.sample.hasFull && f.resource != "cpu" {
		f.full = with("full")
	}
}

// Close implements collector.Collector.
func (p *Pressure) Close() error {
	var errs error
	for _, f := range p.files {
		if f.file != nil {
			errs = errors.Join(errs, f.file.Close())
		}
	}
	return errs
}
