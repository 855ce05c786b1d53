package latency

import (
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// AcceptName is the accept-queue collector's name in verdicts.
const AcceptName = "latency/accept"

// acceptRegisters are those of the host or of an owner.
type acceptRegisters struct {
	wait  *histogram
	ended *metric.Int
}

// NewAccept loads the probe of accept queues. It has two series for the host and for each owner that attribution tells
// apart. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewAccept(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewAccept(d.Kernel, bpf.SocketOptions{})
	if err != nil {
		return nil, err
	}
	c := d.watch("accept", probe.Probe, true)
	return newTally(env, d.Attribution, c, probe.Table, nil, declared(env.Metrics, declareAccept, acceptRegisters.store)), nil
}

// declareAccept declares the metrics of the host (system) or of owners (container), and returns what makes their
// registers.
func declareAccept(g *metric.Group, area string) func(*metric.Entity) acceptRegisters {
	const source = "tp_btf/inet_sock_set_state, fexit/inet_csk_accept"
	wait := g.Histogram(metric.Desc{
		Name:        area + ".network.tcp.linux.accept_queue.duration",
		Unit:        "s",
		Description: "Time an opened TCP connection waited until the server took it by accept(2).",
		Source:      source,
	})
	ended := g.Int(metric.Desc{
		Name:        area + ".network.tcp.linux.accept_queue.ended",
		Unit:        "{connection}",
		Kind:        metric.Counter,
		Description: "Connections that were reset, or whose server stopped listening, before they were accepted.",
		Source:      source,
	})
	return func(e *metric.Entity) acceptRegisters {
		return acceptRegisters{wait: newHistogram(wait.With(e)), ended: ended.With(e)}
	}
}

func (r acceptRegisters) store(v *bpf.AcceptCounts, now time.Time) {
	r.wait.load(&v.Wait)
	r.ended.Observe(v.Ended, now)
}
