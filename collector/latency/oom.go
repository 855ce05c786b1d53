package latency

import (
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// OOMName is the OOM collector's name in verdicts.
const OOMName = "latency/oom"

// oomRegisters are those of the host or of an owner.
type oomRegisters struct {
	victims *metric.Int
}

// NewOOM loads the OOM probe. It has one series for the host and for each owner that attribution tells apart. The error
// is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewOOM(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewOOM(d.Kernel)
	if err != nil {
		return nil, err
	}
	c := d.watch("oom", probe.Probe, false) // it is rare, and each one counts
	return newTally(env, d.Attribution, c, probe.Table, nil, declared(env.Metrics, declareOOM, oomRegisters.store)), nil
}

// declareOOM declares the metrics of the host (system) or of owners (container), and returns what makes their registers.
func declareOOM(g *metric.Group, area string) func(*metric.Entity) oomRegisters {
	victims := g.Int(metric.Desc{
		Name: area + ".memory.linux.oom_victims",
		Unit: "{process}",
		Kind: metric.Counter,
		Description: "Processes that the OOM killer chose, by the group that they belonged to, for want of memory of " +
			"the host or of any group above them.",
		Source: "tp_btf/mark_victim",
	})
	return func(e *metric.Entity) oomRegisters { return oomRegisters{victims.With(e)} }
}

func (r oomRegisters) store(v *bpf.OOMCounts, now time.Time) { r.victims.Observe(v.Victims, now) }
