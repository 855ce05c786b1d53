// Package latency is the user-space half of the kernel probes: it carries their histograms into registers and tells
// what the probes cost. A tick reads memory that the kernel writes (package bpf); it makes no system call and allocates
// nothing.
package latency

import (
	"context"
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// RunQueueName is the run-queue collector's name in verdicts.
const RunQueueName = "latency/runqueue"

// runQueue collects how long tasks wait for a CPU.
type runQueue struct {
	probe   *bpf.RunQueue
	unwatch func()
	totals  bpf.RunQueueTotals
	wait    *metric.Hist
	bucket  func(int) uint64 // reads totals; kept, since making it allocates
}

// NewRunQueue loads the run-queue probe, host-wide, and lets meter measure what it costs. It has one series. The error
// is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func NewRunQueue(env collector.Env, meter *bpf.Meter) (collector.Collector, error) {
	probe, err := bpf.NewRunQueue(bpf.RunQueueOptions{})
	if err != nil {
		return nil, err
	}
	// The kernel's counters began with the probe.
	host := env.Metrics.Entity(env.Host, probe.Start())
	c := &runQueue{
		probe:   probe,
		unwatch: meter.Watch("runqueue", probe.Counts, probe.Programs()...),
		wait: env.Metrics.Histogram(metric.Desc{
			Name:        "system.cpu.linux.runqueue.duration",
			Unit:        "s",
			Description: "Time a runnable task waited for a CPU, throttling by its cgroup's quota included.",
			Source:      bpf.RunQueueHook,
		}).With(host),
	}
	c.bucket = func(i int) uint64 { return c.totals.Wait.Buckets[i] }
	return c, nil
}

// Collect copies the kernel's histogram.
func (c *runQueue) Collect(context.Context, time.Time) error {
	if err := c.probe.Read(&c.totals); err != nil {
		return err
	}
	w := &c.totals.Wait
	c.wait.Load(w.Zero, w.Overflow, float64(w.SumNS)/1e9, c.bucket)
	return nil
}

// Verdicts says that the probe is attached.
func (c *runQueue) Verdicts() []verdict.Verdict {
	return []verdict.Verdict{{Name: RunQueueName, State: verdict.Active, Hook: bpf.RunQueueHook}}
}

// Close detaches the probe.
func (c *runQueue) Close() error {
	c.unwatch()
	return c.probe.Close()
}
