package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// sysNumber is a kept-open file of /sys with one number. It has no buffer of its own, for a large host has hundreds
// of them.
type sysNumber struct {
	path string
	open bool
	fd   int
}

// read returns the number.
func (f *sysNumber) read(buf []byte) (uint64, error) {
	if !f.open {
		fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return 0, &fs.PathError{Op: "open", Path: f.path, Err: err}
		}
		f.open, f.fd = true, fd
	}
	n, err := unix.Pread(f.fd, buf, 0)
	if err != nil {
		f.close() // the device may have gone: the next reading opens it anew
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: err}
	}
	v, err := firstUint(bytes.TrimSuffix(buf[:n], []byte{'\n'}))
	if err != nil {
		return 0, fmt.Errorf("parse %s: %w", f.path, err)
	}
	return v, nil
}

func (f *sysNumber) close() {
	if f.open {
		_ = unix.Close(f.fd)
		f.open = false
	}
}

// cpuPolicy is a group of processors that share a frequency: each one alone on most servers, clusters on ARM.
type cpuPolicy struct {
	current sysNumber
	highest sysNumber // that it may have at present
	cpus    []int     // those online
	single  []*metric.Float
}

// Frequency collects the frequencies of the processors (cpufreq) and how often heat slowed them down. Reading a
// frequency may cost the kernel an interrupt to that processor, so it belongs into the slow lane.
type Frequency struct {
	health
	env      collector.Env
	options  CPUOptions
	cpus     string       // /sys/devices/system/cpu
	online   *procfs.File // the list of processors online: when it changes, all is looked for anew
	known    string       // its content as of the last search
	policies []*cpuPolicy
	buf      [64]byte
	stale    bool // something could not be read: look for everything anew
	throttle throttling

	entity                     *metric.Entity // nil while there is no frequency
	frequency                  metric.FloatFamily
	lowest, highest, limit     metric.FloatFamily
	mean, least, most, allowed *metric.Float
}

// NewFrequency looks for processors with a frequency or counts of throttling. Virtual machines mostly have neither:
// then there is no collector. It exports the mean, the lowest and the highest frequency.
func NewFrequency(env collector.Env) (collector.Collector, error) {
	return CPUOptions{}.NewFrequency(env)
}

// NewFrequency is the function of that name with options.
func (o CPUOptions) NewFrequency(env collector.Env) (collector.Collector, error) {
	f := &Frequency{env: env, options: o, cpus: filepath.Join(env.Sys, "devices/system/cpu")}
	online, err := procfs.OpenSingle(filepath.Join(f.cpus, "online"))
	if err != nil {
		return nil, unavailable(err)
	}
	f.online = online
	f.name, f.hook = "host/frequency", f.cpus
	f.declare()
	if err := f.refresh(f.env.Boot); err != nil {
		return nil, errors.Join(unavailable(err), f.Close())
	}
	if len(f.policies) == 0 && len(f.throttle.domains) == 0 {
		return nil, errors.Join(&verdict.UnavailableError{
			Reason: "the processors show neither their frequency nor thermal throttling, as is usual in virtual machines",
		}, f.Close())
	}
	return f, nil
}

func (f *Frequency) declare() {
	m := f.env.Metrics
	gauge := func(name, file, description string) metric.FloatFamily {
		return m.Float(metric.Desc{
			Name: name, Unit: "Hz", Kind: metric.Gauge, Source: "/sys/devices/system/cpu/cpufreq/policy*/" + file,
			Description: description,
		})
	}
	d := metric.Desc{
		Name: "system.cpu.frequency", Unit: "Hz", Kind: metric.Gauge,
		Source:      "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq",
		Description: "Frequency of the processors online, on average.",
	}
	if f.options.PerCPU {
		d.Description = "Frequency of each processor online."
		d.Attributes = []attribute.Key{"cpu.logical_number"}
	}
	f.frequency = m.Float(d)
	f.lowest = gauge("system.cpu.linux.frequency.min", "scaling_cur_freq", "Frequency of the slowest processor online.")
	f.highest = gauge("system.cpu.linux.frequency.max", "scaling_cur_freq", "Frequency of the fastest processor online.")
	f.limit = gauge("system.cpu.linux.frequency.limit", "scaling_max_freq",
		"Highest frequency that the processors may have at present, on average: falls when power or heat is short.")
	f.throttle.declare(f.env)
}

// refresh looks for policies and thermal domains if the processors online are not those of the last search.
func (f *Frequency) refresh(now time.Time) error {
	b, err := f.online.Read()
	if err != nil {
		return err
	}
	if string(b) == f.known && !f.stale {
		return nil
	}
	line, _, ok := procfs.Line(b)
	if !ok || len(line) == 0 {
		return parseError(f.online, procfs.ErrTruncated)
	}
	cpus, err := parseCPUList(string(line))
	if err != nil {
		return parseError(f.online, err)
	}
	f.known, f.stale = string(b), false
	f.findPolicies(cpus)
	f.throttle.find(f.cpus, cpus, now)
	return nil
}

// parseCPUList reads a list like "0-3,8": numbers and ranges of them.
func parseCPUList(list string) (cpus []int, err error) {
	for part := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 64)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 64)
		}
		if err != nil || last >= maxProcessors || first > last || len(cpus) > maxProcessors {
			return nil, fmt.Errorf("list of processors %.40q: %w", list, procfs.ErrSyntax)
		}
		for n := first; n <= last; n++ {
			cpus = append(cpus, int(n))
		}
	}
	return cpus, nil
}

// findPolicies looks for the policies of the processors online. Kernels before 4.3 have them below the processors.
func (f *Frequency) findPolicies(online []int) {
	f.dropPolicies()
	dirs, _ := filepath.Glob(filepath.Join(f.cpus, "cpufreq/policy[0-9]*"))
	if len(dirs) == 0 {
		for _, cpu := range online {
			dirs = append(dirs, filepath.Join(f.cpus, "cpu"+strconv.Itoa(cpu), "cpufreq"))
		}
	}
	covered := map[int]bool{}
	for _, dir := range dirs {
		p := newPolicy(dir)
		if p == nil {
			continue
		}
		p.cpus = slices.DeleteFunc(p.cpus, func(cpu int) bool { return covered[cpu] || !slices.Contains(online, cpu) })
		if len(p.cpus) == 0 {
			continue // all of it is offline, or another folder shows it too
		}
		for _, cpu := range p.cpus {
			covered[cpu] = true
		}
		f.policies = append(f.policies, p)
	}
	f.register()
}

// newPolicy returns the policy of a folder, or nil if it has none that tells a frequency.
func newPolicy(dir string) *cpuPolicy {
	b, err := procfs.ReadAll(filepath.Join(dir, "affected_cpus"))
	if err != nil {
		return nil
	}
	p := &cpuPolicy{
		current: sysNumber{path: filepath.Join(dir, "scaling_cur_freq")},
		highest: sysNumber{path: filepath.Join(dir, "scaling_max_freq")},
	}
	if _, err := os.Stat(p.current.path); err != nil {
		return nil
	}
	if p.cpus, err = parseCPUList(string(bytes.TrimSpace(b))); err != nil {
		return nil
	}
	return p
}

// register makes the series for the policies found.
func (f *Frequency) register() {
	if len(f.policies) == 0 {
		return
	}
	e := f.env.Metrics.Entity(f.env.Host, f.env.Boot)
	f.entity = e
	f.least, f.most, f.allowed = f.lowest.With(e), f.highest.With(e), f.limit.With(e)
	if !f.options.PerCPU {
		f.mean = f.frequency.With(e)
		return
	}
	for _, p := range f.policies {
		for _, cpu := range p.cpus {
			p.single = append(p.single, f.frequency.With(e, attribute.Int("cpu.logical_number", cpu)))
		}
	}
}

// dropPolicies gives back all policies and their series.
func (f *Frequency) dropPolicies() {
	for _, p := range f.policies {
		p.current.close()
		p.highest.close()
	}
	f.policies = nil
	if f.entity != nil {
		f.entity.Remove()
		f.entity = nil
	}
}

// Collect implements collector.Collector. A processor that cannot be read is left out: that is an error once and a
// degraded verdict until it is back.
func (f *Frequency) Collect(_ context.Context, now time.Time) error {
	if err := f.refresh(now); err != nil {
		return f.collected(err, false)
	}
	before := f.reason
	f.reason, f.missing = "", ""
	err := f.collectFrequencies()
	if throttled := f.throttle.collect(f.buf[:], now); err == nil {
		err = throttled
	}
	if err == nil {
		return f.collected(nil, true)
	}
	f.stale = true
	f.reason, f.missing = "not all of it can be read: "+err.Error(), remedy(err)
	if f.reason == before {
		err = nil
	}
	return f.collected(err, true)
}

// frequencies add up those of all processors, in kHz.
type frequencies struct {
	sum, least, most, count uint64
}

func (s *frequencies) add(kHz uint64, cpus int) {
	if s.count == 0 {
		s.least = kHz
	}
	s.least, s.most = min(s.least, kHz), max(s.most, kHz)
	s.sum += kHz * uint64(cpus)
	s.count += uint64(cpus)
}

func (s *frequencies) mean() float64 { return float64(s.sum) * 1e3 / float64(s.count) }

// collectFrequencies stores what can be read and returns the first error.
func (f *Frequency) collectFrequencies() (first error) {
	var current, limit frequencies
	for _, p := range f.policies {
		kHz, err := p.frequency(&p.current, f.buf[:])
		if err == nil {
			current.add(kHz, len(p.cpus))
			for _, register := range p.single {
				register.Set(float64(kHz) * 1e3)
			}
		} else if first == nil {
			first = err
		}
		if kHz, err = p.frequency(&p.highest, f.buf[:]); err == nil {
			limit.add(kHz, len(p.cpus))
		} else if first == nil {
			first = err
		}
	}
	if current.count > 0 {
		f.least.Set(float64(current.least) * 1e3)
		f.most.Set(float64(current.most) * 1e3)
		if f.mean != nil {
			f.mean.Set(current.mean())
		}
	}
	if limit.count > 0 {
		f.allowed.Set(limit.mean())
	}
	return first
}

// frequency reads a file in kHz. The kernel says 0 if it does not know.
func (p *cpuPolicy) frequency(file *sysNumber, buf []byte) (uint64, error) {
	kHz, err := file.read(buf)
	if err == nil && (kHz == 0 || kHz > 1<<40) {
		err = fmt.Errorf("parse %s: %w", file.path, procfs.ErrRange)
	}
	return kHz, err
}

// Close implements collector.Collector.
func (f *Frequency) Close() error {
	f.dropPolicies()
	f.throttle.close()
	return f.online.Close()
}
