package latency

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// ReclaimName is the reclaim collector's name in verdicts.
const ReclaimName = "latency/reclaim"

// keyReclaimKind says whose memory was short.
const keyReclaimKind = attribute.Key("linux.reclaim.kind")

// reclaimRegisters are those of the host or of an owner.
type reclaimRegisters struct {
	stall [2]*histogram
}

// NewReclaim loads the reclaim probe. It has two series for the host and for each owner that attribution tells apart.
// The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewReclaim(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewReclaim(d.Kernel)
	if err != nil {
		return nil, err
	}
	c := d.watch("reclaim", probe.Probe, true)
	return newTally(env, d.Attribution, c, probe.Table, nil, declared(env.Metrics, declareReclaim, reclaimRegisters.store)), nil
}

// declareReclaim declares the metrics of the host (system) or of owners (container), and returns what makes their
// registers.
func declareReclaim(g *metric.Group, area string) func(*metric.Entity) reclaimRegisters {
	stall := g.Histogram(metric.Desc{
		Name: area + ".memory.linux.reclaim.duration",
		Unit: "s",
		Description: "Time a task was held up by freeing memory itself before it got some: the host had none left " +
			"(global), or a control group was at its limit (cgroup).",
		Attributes: []attribute.Key{keyReclaimKind},
		Source:     "tp_btf/mm_vmscan_direct_reclaim_begin, mm_vmscan_memcg_reclaim_begin",
	})
	return func(e *metric.Entity) (r reclaimRegisters) {
		for i, kind := range [...]string{bpf.ReclaimGlobal: "global", bpf.ReclaimCgroup: "cgroup"} {
			r.stall[i] = newHistogram(stall.With(e, keyReclaimKind.String(kind)))
		}
		return r
	}
}

func (r reclaimRegisters) store(v *bpf.ReclaimCounts, _ time.Time) {
	for i := range r.stall {
		r.stall[i].load(&v.Stall[i])
	}
}
