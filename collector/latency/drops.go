package latency

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// DropsName is the name, in verdicts, of the collector of dropped packets.
const DropsName = "latency/drops"

// keyDropReason says why a packet was dropped.
const keyDropReason = attribute.Key("linux.drop_reason")

// dropsRegisters are those of the host or of an owner: one for each reason that occurred.
type dropsRegisters struct {
	entity *metric.Entity
	family metric.IntFamily
	reason func(int) string
	counts [len(bpf.DropsCounts{}.Packets)]*metric.Int
}

// NewDrops loads the probe of dropped packets. It has a series for each reason that occurred, for the host and for each
// owner that attribution tells apart. The error is a *verdict.UnavailableError where the kernel or the process's
// capabilities do not allow it.
func (d Deps) NewDrops(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewDrops(d.Kernel, bpf.SocketOptions{})
	if err != nil {
		return nil, err
	}
	open := func(family metric.IntFamily) func(*metric.Entity) *dropsRegisters {
		return func(e *metric.Entity) *dropsRegisters {
			return &dropsRegisters{entity: e, family: family, reason: probe.Reason}
		}
	}
	system, container := declareDrops(env.Metrics, "system"), declareDrops(env.Metrics, "container")
	r := registers[bpf.DropsCounts, *dropsRegisters]{open(system), open(container), (*dropsRegisters).store}
	return newTally(env, d.Attribution, d.watch("drops", probe.Probe, true), probe.Table, nil, r), nil
}

// declareDrops declares the metric of the host (system) or of owners (container).
func declareDrops(g *metric.Group, area string) metric.IntFamily {
	return g.Int(metric.Desc{
		Name: area + ".network.linux.packet.dropped",
		Unit: "{packet}",
		Kind: metric.Counter,
		Description: "Packets the kernel dropped, by the reason it gives (enum skb_drop_reason). Those it gives none for " +
			"are in slid.probe.events as unmatched: not all of them were lost.",
		Attributes: []attribute.Key{keyDropReason},
		Source:     "tp_btf/kfree_skb",
	})
}

func (r *dropsRegisters) store(v *bpf.DropsCounts, now time.Time) {
	for i, n := range &v.Packets {
		if n == 0 {
			continue
		}
		if r.counts[i] == nil {
			r.counts[i] = r.family.With(r.entity, keyDropReason.String(r.reason(i)))
		}
		r.counts[i].Observe(n, now)
	}
}
