package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// Sensors collects what the hardware says of itself, as hw.*: temperatures, fans, voltages and power (hwmon.go,
// thermal.go), energy (rapl.go), batteries and power supplies (powersupply.go), memory errors (edac.go) and PCIe errors
// (aer.go). It is for the slow lane: a chip behind a slow bus takes milliseconds, and one that is broken may never
// answer. Chips are read by goroutines (sensor_reader.go), so that one that hangs delays neither the others nor Collect,
// and one that is slow again and again is left alone for longer and longer.
//
// Directories are listed in every tick, for devices come and go. What does not change (labels, limits) is read once per
// device. A value that cannot be read now is not exported now.
type Sensors struct {
	env     collector.Env
	nvme    bool // reads NVMe temperatures in a virtual machine too
	virtual bool // this is a virtual machine
	parts   []*sensorPart
	readers *sensorReaders
	metrics [sensorMetrics]sensorFamily
	missed  metric.IntFamily
	host    *metric.Entity // of what is not about one chip

	budget, first, grace time.Duration

	prefixes map[string]*sensorChip   // hw.id in use
	logged   map[sensorCause]struct{} // what was logged
	round    uint64                   // counts the collections
	last     time.Time                // the previous collection
	present  []*sensorChip            // with a reader since this tick
}

// sensorCause is what is logged once.
type sensorCause struct {
	part, entry string
	err         error
}

// mostSensorCauses bounds the memory of what was logged.
const mostSensorCauses = 1000

// A sensorPart is a directory of /sys with chips of one kind.
type sensorPart struct {
	name   string                    // for the verdict: hwmon
	path   string                    // of the directory
	prefix string                    // of the entries that are chips
	most   int                       // chips; more are left out
	find   func(c *sensorChip) error // fills in what a chip has; a reader calls it

	dir    sensorDir
	chips  roster[sensorChip]
	missed [missedReasons]*metric.Int // nil until the first

	// How it fares, for the verdict.
	listErr  error
	found    int         // chips with files
	spared   int         // chips that are not read on purpose
	surplus  int         // chips that were left out
	files    int         // files of chips that answered
	failed   int         // files that could not be read
	failure  *sensorChip // one with a file that could not be read
	err      error       // of that file
	file     *sensorFile // nil if nothing could be found out
	notFound int         // chips in which nothing could be found out
}

// Why a reading is missed.
const (
	missedFailed = iota
	missedTimeout
	missedQuarantined
	missedReasons
)

// NewSensors opens the sensors of this machine. A machine without any is no error: they may come.
func NewSensors(env collector.Env) (collector.Collector, error) { return newSensors(env, false), nil }

// NewSensorsWithNVMe is NewSensors that reads the temperatures of NVMe devices in virtual machines too. Some
// hypervisors stop the device for seconds for that.
func NewSensorsWithNVMe(env collector.Env) (collector.Collector, error) {
	return newSensors(env, true), nil
}

func newSensors(env collector.Env, nvme bool) *Sensors {
	s := &Sensors{
		env: env, nvme: nvme, virtual: isVirtual(env.Proc), readers: newSensorReaders(),
		budget: sensorBudget, first: sensorFirst, grace: sensorGrace,
		prefixes: map[string]*sensorChip{}, logged: map[sensorCause]struct{}{},
		host: env.Metrics.Entity(env.Host, time.Now()),
	}
	s.parts = []*sensorPart{
		{name: "hwmon", path: "class/hwmon", prefix: "hwmon", most: 256, find: s.findHwmon},
		{name: "thermal", path: "class/thermal", prefix: "thermal_zone", most: 256, find: s.findThermal},
		{name: "rapl", path: "class/powercap", prefix: raplPrefix, most: 128, find: findRAPL},
		{name: "power_supply", path: "class/power_supply", most: 64, find: findPowerSupply},
		{name: "edac", path: "devices/system/edac/mc", prefix: "mc", most: 64, find: findEDAC},
		{name: "aer", path: "bus/pci/devices", most: 1024, find: findAER},
	}
	for _, p := range s.parts {
		p.path = filepath.Join(env.Sys, p.path)
		p.dir.path = append([]byte(p.path), 0)
	}
	s.declare(env.Metrics)
	return s
}

// isVirtual says whether this is a virtual machine: the processor says so (x86).
func isVirtual(proc string) bool {
	f, err := os.Open(filepath.Join(proc, "cpuinfo"))
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, 16<<10) // more than the first processor takes
	n, _ := f.Read(buf)
	for line := range strings.Lines(string(buf[:n])) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "flags" {
			return slices.Contains(strings.Fields(value), "hypervisor")
		}
	}
	return false
}

// Collect implements collector.Collector. What fails in one chip is no error of the whole: it is logged once, counted,
// and told by the verdict.
func (s *Sensors) Collect(ctx context.Context, now time.Time) error {
	for c := s.readers.poll(); c != nil; c = s.readers.poll() {
		s.returned(c, now) // what it read in an earlier tick is too old to be used
	}
	s.round++
	s.present = s.present[:0]
	for _, p := range s.parts {
		p.begin()
		s.list(p)
		for _, m := range p.chips.order {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.visit(ctx, &m.T, now)
		}
	}
	s.linger(ctx, now)
	for _, p := range s.parts {
		for _, m := range p.chips.order {
			s.conclude(&m.T, now)
		}
	}
	s.last = now
	return ctx.Err()
}

// begin forgets how the last collection fared.
func (p *sensorPart) begin() {
	p.listErr, p.found, p.spared, p.surplus, p.files, p.failed, p.notFound = nil, 0, 0, 0, 0, 0, 0
	p.failure, p.err, p.file = nil, nil, nil
}

// list brings the chips of a part up to date.
func (s *Sensors) list(p *sensorPart) {
	p.chips.begin()
	err := p.dir.begin()
	for err == nil {
		name, inode, ok, nextErr := p.dir.next()
		if err = nextErr; !ok {
			break
		}
		if !hasPrefix(name, p.prefix) {
			continue
		}
		if p.chips.known() >= p.most && p.chips.byName[string(name)] == nil {
			p.surplus++
			continue
		}
		m, fresh := p.chips.find(name)
		if !fresh && m.T.inode != inode { // another device of the same name
			s.forget(&m.T)
			place := p.chips.next - 1
			fresh = true
			replaced := &member[sensorChip]{name: m.name, tick: m.tick}
			p.chips.byName[m.name], p.chips.order[place] = replaced, replaced
			m = replaced
		}
		if fresh {
			m.T = sensorChip{part: p, entry: m.name, inode: inode, dir: filepath.Join(p.path, m.name), fd: -1, shown: text(m.name)}
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.listErr = err
		s.log(p, "", p.path, nil, err)
		return
	}
	p.chips.sweep(s.forget)
}

func hasPrefix(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix
}

// forget ends a chip that has gone away. If a reader has it, that closes it.
func (s *Sensors) forget(c *sensorChip) {
	c.withdraw()
	if c.prefix != "" {
		delete(s.prefixes, c.prefix)
	}
	if c.busy {
		c.gone = true
		return
	}
	c.close()
}

// visit has a chip read, unless it is to be left alone. One that is another than it was is found out about at once.
func (s *Sensors) visit(ctx context.Context, c *sensorChip, now time.Time) {
	if c.busy || c.idle || c.quarantined(now) {
		return
	}
	s.ask(ctx, c, now)
	if !c.busy && c.stale {
		s.lost(c)
		s.ask(ctx, c, now)
	}
}

// ask gives a chip to a reader and waits for it as long as a good one needs.
func (s *Sensors) ask(ctx context.Context, c *sensorChip, now time.Time) {
	patience := s.budget
	if c.prefix == "" {
		patience = s.first
	}
	if !s.readers.give(c) {
		return
	}
	c.busy, c.round, c.since = true, s.round, now
	deadline := time.Now().Add(patience)
	for c.busy {
		back := s.readers.await(ctx, time.Until(deadline))
		if back == nil {
			s.present = append(s.present, c)
			return
		}
		s.back(back, now)
	}
}

// linger waits once more for the chips of this tick that were slow.
func (s *Sensors) linger(ctx context.Context, now time.Time) {
	deadline := time.Now().Add(s.grace)
	for _, c := range s.present {
		for c.busy {
			back := s.readers.await(ctx, time.Until(deadline))
			if back == nil {
				return
			}
			s.back(back, now)
		}
	}
}

// back takes a chip from its reader. What it was to read in an earlier tick is too old to be used.
func (s *Sensors) back(c *sensorChip, now time.Time) {
	s.returned(c, now)
	if c.round == s.round && !c.gone && !c.stale && c.err == nil {
		s.publish(c, now)
	}
}

// returned notes that a chip is back and how long it took.
func (s *Sensors) returned(c *sensorChip, now time.Time) {
	c.busy, c.hung = false, false
	c.judge(c.readTime, s.budget, now)
	if c.gone {
		c.close()
		return
	}
	if !c.known {
		return
	}
	c.series = c.outputs
	if c.title != "" && c.prefix == "" {
		c.shown = text(c.entry) + " (" + c.title + ")"
	}
	if c.idle = len(c.files) == 0; c.idle {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
	if c.prefix == "" && !c.idle {
		s.name(c)
	}
}

// name makes the identity of a chip unique: the second of two equal ones gets a number.
func (s *Sensors) name(c *sensorChip) {
	prefix := c.id
	for n := 2; s.prefixes[prefix] != nil; n++ {
		prefix = fmt.Sprintf("%s#%d", c.id, n)
	}
	c.prefix = prefix
	s.prefixes[prefix] = c
}

// publish stores what was read.
func (s *Sensors) publish(c *sensorChip, now time.Time) {
	if c.asleep {
		c.withdraw()
		return
	}
	for i := range c.series {
		o := &c.series[i]
		v, ok := o.value(c)
		if !ok {
			o.withdraw()
			continue
		}
		s.store(c, o, v, now)
	}
}

// conclude notes at the end of a tick how a chip fares.
func (s *Sensors) conclude(c *sensorChip, now time.Time) {
	p := c.part
	switch {
	case c.idle:
		if c.remark != "" {
			p.spared++
		}
		return
	case c.busy:
		c.hung = true
		s.miss(p, missedTimeout)
		c.withdraw()
		p.found++
		s.log(p, c.entry, c.dir, nil, errSensorHangs)
		return
	case c.quarantined(now):
		if c.round != s.round { // not just read
			s.miss(p, missedQuarantined)
			c.withdraw()
		}
		p.found++
		s.log(p, c.entry, c.dir, nil, errSensorSlow)
		return
	case c.round != s.round:
		s.miss(p, missedTimeout) // all readers hang
		c.withdraw()
		p.found++
		return
	case c.stale || c.err != nil:
		s.lost(c)
		return
	}
	p.found++
	s.review(c)
}

// errNoValue says that the file can be read and has no value.
var errNoValue = errors.New("no value")

// What else than an error number is logged of a chip.
var (
	errSensorHangs = errors.New("a file does not answer")
	errSensorSlow  = errors.New("takes too long again and again, so it is left alone for a growing time")
)

// lost begins a chip anew that changed under its reader, or notes why nothing could be found out about it.
func (s *Sensors) lost(c *sensorChip) {
	c.withdraw()
	if c.prefix != "" {
		delete(s.prefixes, c.prefix)
		c.prefix, c.shown = "", text(c.entry)
	}
	if c.err != nil && !errors.Is(c.err, fs.ErrNotExist) {
		c.part.notFound++
		c.part.failure, c.part.err, c.part.file = c, c.err, nil
		s.miss(c.part, missedFailed)
		s.log(c.part, c.entry, c.dir, nil, c.err)
	}
	c.close()
}

// review notes the files that could not be read. That a sensor has nothing to say at present is no failure.
func (s *Sensors) review(c *sensorChip) {
	p := c.part
	if c.asleep {
		return
	}
	p.files += len(c.files)
	for i := range c.files {
		f := &c.files[i]
		if f.err == nil {
			continue
		}
		if errors.Is(f.err, unix.ENODATA) || errors.Is(f.err, unix.EAGAIN) || errors.Is(f.err, errNoValue) {
			p.files--
			continue
		}
		p.failed++
		s.miss(p, missedFailed)
		if p.failure == nil {
			p.failure, p.err, p.file = c, f.err, f
		}
		s.log(p, c.entry, c.dir, f, f.err)
	}
}

// log tells about a cause once.
func (s *Sensors) log(p *sensorPart, entry, path string, file *sensorFile, err error) {
	cause := sensorCause{p.name, entry, err}
	if errors.Is(err, fs.ErrPermission) {
		cause.entry = "" // the same remedy for all
	}
	if _, known := s.logged[cause]; known {
		return
	}
	if len(s.logged) >= mostSensorCauses {
		clear(s.logged)
	}
	s.logged[cause] = struct{}{}
	if file != nil {
		path = filepath.Join(path, file.path())
	}
	s.env.Log.Warn("sensor cannot be read; this is logged once and counted from now on",
		"source", p.name, "path", path, "error", err)
}

// miss counts a reading that gave nothing.
func (s *Sensors) miss(p *sensorPart, reason int) {
	if p.missed[reason] == nil {
		names := [missedReasons]string{missedFailed: "failed", missedTimeout: "timeout", missedQuarantined: "quarantined"}
		p.missed[reason] = s.missed.With(s.host, attribute.String("hw.linux.source", p.name), attribute.String("error.type", names[reason]))
	}
	p.missed[reason].Add(1)
}

// Close implements collector.Collector. It does not wait for chips that hang.
func (s *Sensors) Close() error {
	for _, p := range s.parts {
		for _, m := range p.chips.order {
			if !m.T.busy {
				m.T.close()
			}
		}
	}
	s.readers.close()
	return nil
}

// Verdicts implements collector.Collector: a row for the whole and one for each kind of source that the machine has.
func (s *Sensors) Verdicts() []verdict.Verdict {
	all := verdict.Verdict{Name: "host/sensors", State: verdict.Active, Hook: s.env.Sys}
	list := []verdict.Verdict{all}
	for _, p := range s.parts {
		if p.found > 0 || p.spared > 0 || p.listErr != nil || p.notFound > 0 {
			list = append(list, p.verdict())
		}
	}
	if len(list) == 1 && !s.last.IsZero() {
		list[0].State, list[0].Absent = verdict.Unavailable, true
		list[0].Reason = "this machine shows no sensors, as is usual for a virtual machine or a container"
	}
	return list
}

// verdict says how a part fares.
func (p *sensorPart) verdict() verdict.Verdict {
	v := verdict.Verdict{Name: "host/sensors/" + p.name, State: verdict.Active, Hook: p.path}
	var reasons, remarks []string
	if p.listErr != nil {
		reasons = append(reasons, "cannot list it: "+p.listErr.Error())
	}
	for _, m := range p.chips.order {
		if reason := m.T.trouble(); reason != "" {
			reasons = append(reasons, reason)
		}
		if c := &m.T; !c.busy && c.known && c.remark != "" {
			remarks = append(remarks, c.shown+": "+c.remark)
		}
	}
	if p.failure != nil {
		reasons = append(reasons, p.failureText())
	}
	if p.surplus > 0 {
		reasons = append(reasons, fmt.Sprintf("%d more than the %d that are read", p.surplus, p.most))
	}
	v.Reason = strings.Join(shorten(remarks), "; ")
	if reasons == nil {
		return v
	}
	v.State, v.Reason = verdict.Degraded, strings.Join(shorten(reasons), "; ")
	if p.failed > 0 && p.failed == p.files || p.listErr != nil {
		v.State = verdict.Unavailable
	}
	if errors.Is(errors.Join(p.listErr, p.err), fs.ErrPermission) {
		v.Missing = "CAP_DAC_READ_SEARCH"
	}
	return v
}

// shorten keeps a row readable on a machine with much trouble.
func shorten(list []string) []string {
	const most = 4
	if len(list) > most {
		return append(list[:most:most], fmt.Sprintf("%d more", len(list)-most))
	}
	return list
}

func (p *sensorPart) failureText() string {
	if p.file == nil {
		return fmt.Sprintf("%s: %v", p.failure.shown, p.err)
	}
	return fmt.Sprintf("%d of %d files cannot be read, such as %s of %s: %v", p.failed, p.files, p.file.path(), p.failure.shown, p.err)
}

// trouble says in words why a chip is not read, or nothing.
func (c *sensorChip) trouble() string {
	switch {
	case c.hung:
		return fmt.Sprintf("%s does not answer since %s", c.shown, c.since.Format(time.TimeOnly))
	case c.pause > 0:
		return fmt.Sprintf("%s takes too long (%v): no readings before %s", c.shown, c.took.Round(time.Millisecond),
			c.until.Format(time.TimeOnly))
	}
	return ""
}
