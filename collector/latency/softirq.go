package latency

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// SoftIRQName is the soft-interrupt collector's name in verdicts.
const SoftIRQName = "latency/softirq"

// keySoftIRQ is the kind of a soft interrupt, as in system.cpu.linux.softirqs.
const keySoftIRQ = attribute.Key("system.cpu.softirq")

// softIRQ collects how long soft interrupts wait until their CPU gets to them, and how long they are at work then.
type softIRQ struct {
	common
	table   bpf.Table[bpf.SoftIRQCounts]
	names   []string
	entity  *metric.Entity
	wait    metric.HistogramFamily
	service metric.HistogramFamily
	kinds   [bpf.SoftIRQKinds]softIRQRegisters
	part    bpf.SoftIRQCounts // reused
}

// softIRQRegisters are those of a kind; nil until it occurs first.
type softIRQRegisters struct{ wait, service *histogram }

// NewSoftIRQ loads the soft-interrupt probe, which runs three times for each soft interrupt. It has two series for each
// kind that occurs. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow
// it.
func (d Deps) NewSoftIRQ(env collector.Env) (collector.Collector, error) {
	names, err := softIRQNames(filepath.Join(env.Proc, "softirqs"))
	if err != nil {
		return nil, err
	}
	probe, err := bpf.NewSoftIRQ(d.Kernel, bpf.SoftIRQOptions{})
	if err != nil {
		return nil, err
	}
	return &softIRQ{
		common: d.watch("softirq", probe.Probe, true), table: probe.Table, names: names,
		entity: env.Metrics.Entity(env.Host, probe.Start()),
		wait: env.Metrics.Histogram(metric.Desc{
			Name: "system.cpu.linux.softirq.wait_duration",
			Unit: "s",
			Description: "Time from the first raise of a soft interrupt to the begin of its work: what its CPU did " +
				"before, interrupts and other soft interrupts.",
			Attributes: []attribute.Key{keySoftIRQ},
			Source:     "tp_btf/softirq_raise, softirq_entry",
		}),
		service: env.Metrics.Histogram(metric.Desc{
			Name:        "system.cpu.linux.softirq.service_duration",
			Unit:        "s",
			Description: "Time of a soft interrupt's work, interrupts that came meanwhile included.",
			Attributes:  []attribute.Key{keySoftIRQ},
			Source:      "tp_btf/softirq_entry, softirq_exit",
		}),
	}, nil
}

// softIRQNames reads the names of the kinds from the running kernel: the rows of /proc/softirqs are in the order of
// their numbers.
func softIRQNames(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &verdict.UnavailableError{Reason: "the names of soft interrupts cannot be read", Err: err}
	}
	var names []string
	for line := range bytes.Lines(text) {
		if name, _, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":")); ok {
			names = append(names, string(name))
		}
	}
	if len(names) != bpf.SoftIRQKinds || slices.Contains(names, "") {
		return nil, &verdict.UnavailableError{
			Reason: fmt.Sprintf("the kernel has %d kinds of soft interrupts, and slid knows %d", len(names), bpf.SoftIRQKinds),
		}
	}
	return names, nil
}

// Collect copies the kernel's counts.
func (c *softIRQ) Collect(context.Context, time.Time) error {
	for kind := range c.kinds {
		if err := c.table.Read(kind, &c.part); err != nil {
			return err
		}
		r := &c.kinds[kind]
		if r.wait == nil {
			if !bpf.Any(&c.part) {
				continue
			}
			name := keySoftIRQ.String(c.names[kind])
			r.wait, r.service = newHistogram(c.wait.With(c.entity, name)), newHistogram(c.service.With(c.entity, name))
		}
		r.wait.load(&c.part.Wait)
		r.service.load(&c.part.Service)
	}
	return nil
}
