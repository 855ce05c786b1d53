// Package latency is the user-space half of the kernel probes: it carries their histograms into registers, for the host
// and for each unit and container, and tells what the probes cost. A tick reads memory that the kernel writes (package
// bpf); it makes no system call for it and allocates nothing.
package latency

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// RunQueueName is the run-queue collector's name in verdicts.
const RunQueueName = "latency/runqueue"

// keyPreemptedBy says who took the CPU.
const keyPreemptedBy = attribute.Key("linux.preempted_by")

// runQueueRegisters are those of the host or of an owner.
type runQueueRegisters struct {
	wait          *histogram
	preempted     [3]*metric.Int
	preemptedTime [3]*metric.Float
}

// NewRunQueue loads the run-queue probe. It has seven series for the host and for each owner that attribution tells
// apart. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewRunQueue(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewRunQueue(d.Kernel, bpf.RunQueueOptions{})
	if err != nil {
		return nil, err
	}
	c := d.watch("runqueue", probe.Probe, true)
	return newTally(env, d.Attribution, c, probe.Table, probe.Moved, declared(env.Metrics, declareRunQueue, runQueueRegisters.store)), nil
}

// declareRunQueue declares the metrics of the host (system) or of owners (container), and returns what makes their
// registers.
func declareRunQueue(g *metric.Group, area string) func(*metric.Entity) runQueueRegisters {
	wait := g.Histogram(metric.Desc{
		Name:        area + ".cpu.linux.runqueue.duration",
		Unit:        "s",
		Description: "Time a runnable task waited for a CPU, throttling by its cgroup's quota included.",
		Source:      "tp_btf/sched_switch",
	})
	preempted := g.Int(metric.Desc{
		Name: area + ".cpu.linux.runqueue.preempted",
		Unit: "{wait}",
		Kind: metric.Counter,
		Description: "Waits of tasks that wanted to go on: the CPU was taken by a task of the same unit or container " +
			"or by its own quota (own), by one of another (other), or by a task of the kernel (system).",
		Attributes: []attribute.Key{keyPreemptedBy},
		Source:     "tp_btf/sched_switch",
	})
	preemptedTime := g.Float(metric.Desc{
		Name:        area + ".cpu.linux.runqueue.preempted_time",
		Unit:        "s",
		Kind:        metric.Counter,
		Description: "Time of these waits; it is part of the run-queue durations.",
		Attributes:  []attribute.Key{keyPreemptedBy},
		Source:      "tp_btf/sched_switch",
	})
	return func(e *metric.Entity) (r runQueueRegisters) {
		r.wait = newHistogram(wait.With(e))
		for i, by := range [...]string{
			bpf.PreemptedByOwn: "own", bpf.PreemptedByOther: "other", bpf.PreemptedBySystem: "system",
		} {
			r.preempted[i] = preempted.With(e, keyPreemptedBy.String(by))
			r.preemptedTime[i] = preemptedTime.With(e, keyPreemptedBy.String(by))
		}
		return r
	}
}

func (r runQueueRegisters) store(v *bpf.RunQueueCounts, now time.Time) {
	r.wait.load(&v.Wait)
	for i := range v.Preempted {
		r.preempted[i].Observe(v.Preempted[i], now)
		r.preemptedTime[i].Observe(seconds(v.PreemptedNS[i]), now)
	}
}
