package latency

import (
	"io"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// keyErrorType says why something failed, in metrics of several probes.
const keyErrorType = attribute.Key("error.type")

// Deps is what the collectors of all probes share. Its methods are their constructors.
type Deps struct {
	Kernel      *bpf.Kernel
	Meter       *bpf.Meter
	Attribution *Attribution
}

// NewDeps returns what collectors share. budget is the share of all CPUs, 0 to 1, that the probes may take together; 0
// means what they do. The caller closes the meter after the collectors.
func NewDeps(budget float64) Deps {
	k := &bpf.Kernel{}
	return Deps{Kernel: k, Meter: bpf.NewMeter(budget), Attribution: newAttribution(k)}
}

// common is what every collector of a probe has: the probe, under measurement.
type common struct {
	probe   *bpf.Probe
	meter   *bpf.Meter
	name    string
	unwatch func()
	closer  io.Closer // the probe with all that belongs to it
}

// watch lets the meter measure a probe, and govern it. sampled says whether it can leave out events.
func (d Deps) watch(name string, p *bpf.Probe, sampled bool) common {
	return d.watchAll(p, p, p.Watched(name, sampled))
}

// watchAll is watch for a probe that has more to close, and maybe more to measure.
func (d Deps) watchAll(p *bpf.Probe, closer io.Closer, w bpf.Watched) common {
	return common{probe: p, meter: d.Meter, name: w.Name, unwatch: d.Meter.Watch(w), closer: closer}
}

// Verdicts says how the probe measures, and what the governor did to it.
func (c *common) Verdicts() []verdict.Verdict {
	return []verdict.Verdict{c.meter.Governed(c.name, c.probe.Verdict("latency/"+c.name))}
}

// Close detaches the probe.
func (c *common) Close() error {
	c.unwatch()
	return c.closer.Close()
}

// A histogram is a register of durations that is filled from the kernel's.
type histogram struct {
	register *metric.Hist
	from     *bpf.Hist
	bucket   func(int) uint64 // reads from; kept, since making it allocates
}

func newHistogram(r *metric.Hist) *histogram {
	h := &histogram{register: r}
	h.bucket = func(i int) uint64 { return h.from.Buckets[i] }
	return h
}

// load copies a histogram of the kernel.
func (h *histogram) load(from *bpf.Hist) {
	h.from = from
	h.register.Load(from.Zero, from.Overflow, seconds(from.SumNs), h.bucket)
}

func seconds(ns uint64) float64 { return float64(ns) / 1e9 }
