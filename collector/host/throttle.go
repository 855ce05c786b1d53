package host

import (
	"bytes"
	"path/filepath"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// throttling counts how often heat slowed processors down. The kernel shows it for each logical processor
// (thermal_throttle, Intel only), but the threads of a core all count what happens to the core, and all processors
// of a package what happens to the package: so one processor speaks for each.
type throttling struct {
	env     collector.Env
	domains map[string]*thermalDomain
	order   []*thermalDomain

	cores        metric.IntFamily
	packages     metric.IntFamily
	packageTimes metric.FloatFamily
	core         *metric.Int // of all cores together; nil if there is none
	coreTotal    uint64
}

// thermalDomain is a core or a package.
type thermalDomain struct {
	cpu    int // that speaks for it
	online bool
	count  progress
	time   progress // in ms; packages only, and not before Linux 5.6

	entity   *metric.Entity // of a package
	register *metric.Int
	duration *metric.Float // nil if the kernel does not have it
}

// progress adds up what a file counts, whichever processor's file it is.
type progress struct {
	file        sysNumber
	known       bool // last holds
	last, total uint64
}

// advance reads the file and returns what it counted since the last reading.
func (p *progress) advance(buf []byte) (uint64, error) {
	v, err := p.file.read(buf)
	if err != nil {
		return 0, err
	}
	var more uint64
	if p.known && v > p.last {
		more = v - p.last
	}
	p.known, p.last = true, v
	p.total += more
	return more, nil
}

// follow goes on with the file of another processor. What that counted before is left out, unless everything
// counts from boot.
func (p *progress) follow(path string, fromBoot bool) {
	p.file.close()
	p.file = sysNumber{path: path}
	p.known, p.last = fromBoot, 0
}

func (t *throttling) declare(env collector.Env) {
	t.env = env
	const folder = "/sys/devices/system/cpu/cpu*/thermal_throttle/"
	t.cores = env.Metrics.Int(counter("system.cpu.linux.throttle.core.events", "{event}", folder+"core_throttle_count",
		"Times that heat slowed a core down, over all cores."))
	d := counter("system.cpu.linux.throttle.package.events", "{event}", folder+"package_throttle_count",
		"Times that heat slowed a whole package down.")
	d.Attributes = []attribute.Key{"system.cpu.package"}
	t.packages = env.Metrics.Int(d)
	d = counter("system.cpu.linux.throttle.package.time", "s", folder+"package_throttle_total_time_ms",
		"Time in which heat slowed a whole package down.")
	d.Attributes = []attribute.Key{"system.cpu.package"}
	t.packageTimes = env.Metrics.Float(d)
}

// find looks for cores and packages among the processors online. What it finds the first time counts from boot,
// anything else from now.
func (t *throttling) find(cpus string, online []int, now time.Time) {
	first := t.domains == nil
	if first {
		t.domains = map[string]*thermalDomain{}
	}
	for _, d := range t.domains {
		d.online = false
	}
	t.order = t.order[:0]
	for _, cpu := range online {
		dir := filepath.Join(cpus, "cpu"+strconv.Itoa(cpu))
		socket, ok := topology(dir, "physical_package_id")
		if !ok {
			continue
		}
		die, _ := topology(dir, "die_id")
		core, _ := topology(dir, "core_id")
		if d := t.speak(socket+"/"+die+"/"+core, cpu, dir, "core", first); d != nil && t.core == nil {
			t.core = t.cores.With(t.env.Metrics.Entity(t.env.Host, t.env.Boot))
		}
		if d := t.speak(socket, cpu, dir, "package", first); d != nil && d.entity == nil {
			t.register(d, socket, now)
		}
	}
	for key, d := range t.domains {
		if !d.online {
			d.remove()
			delete(t.domains, key)
		}
	}
}

// topology returns a file of cpuN/topology; ok is false if there is none.
func topology(dir, name string) (id string, ok bool) {
	b, err := procfs.ReadAll(filepath.Join(dir, "topology", name))
	return string(bytes.TrimSpace(b)), err == nil
}

// speak lets a processor speak for a domain that has nobody yet. It returns the domain then, or nil.
func (t *throttling) speak(key string, cpu int, dir, level string, first bool) *thermalDomain {
	d := t.domains[key]
	if d != nil && d.online {
		return nil
	}
	file := filepath.Join(dir, "thermal_throttle", level+"_throttle_count")
	if _, err := procfs.ReadAll(file); err != nil {
		return nil
	}
	if d == nil {
		d = &thermalDomain{cpu: -1}
		t.domains[key] = d
	}
	d.online = true
	t.order = append(t.order, d)
	if d.cpu != cpu {
		d.cpu = cpu
		d.count.follow(file, first)
		if level == "package" {
			d.time.follow(filepath.Join(dir, "thermal_throttle", "package_throttle_total_time_ms"), first)
		}
	}
	return d
}

// register makes the series of a package that count from start.
func (t *throttling) register(d *thermalDomain, socket string, start time.Time) {
	d.entity = t.env.Metrics.Entity(t.env.Host, start)
	id := attribute.String("system.cpu.package", text(socket))
	d.register = t.packages.With(d.entity, id)
	if _, err := procfs.ReadAll(d.time.file.path); err == nil {
		d.duration = t.packageTimes.With(d.entity, id)
	}
}

// collect stores the counts and returns the first error.
func (t *throttling) collect(buf []byte, now time.Time) (first error) {
	for _, d := range t.order {
		more, err := d.count.advance(buf)
		switch {
		case err != nil:
		case d.entity == nil:
			t.coreTotal += more
		default:
			d.register.Observe(d.count.total, now)
		}
		if err == nil && d.duration != nil {
			if _, err = d.time.advance(buf); err == nil {
				d.duration.Observe(float64(d.time.total)/1e3, now)
			}
		}
		if err != nil && first == nil {
			first = err
		}
	}
	if t.core != nil {
		t.core.Observe(t.coreTotal, now)
	}
	return first
}

func (d *thermalDomain) remove() {
	d.count.file.close()
	d.time.file.close()
	if d.entity != nil {
		d.entity.Remove()
	}
}

func (t *throttling) close() {
	for _, d := range t.domains {
		d.remove()
	}
}
