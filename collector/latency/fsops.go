package latency

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// FSOpsName is the filesystem-operation collector's name in verdicts.
const FSOpsName = "latency/fsops"

const (
	keyFilesystemType = attribute.Key("system.filesystem.type")
	keyOperation      = attribute.Key("system.filesystem.linux.operation.name")
)

// fsOps collects how long operations on filesystems take, by the type of the filesystem.
type fsOps struct {
	common
	fs       *bpf.FSOps
	entity   *metric.Entity
	duration metric.HistogramFamily
	types    [bpf.FSTypes + 1]fsOpsRegisters
	part     bpf.FSOpsCounts // reused
}

// fsOpsRegisters are those of a type of filesystems, by operation; nil until there is one.
type fsOpsRegisters struct {
	name       string // "" as long as there is none
	operations [bpf.FSOperations]*histogram
}

// NewFSOps loads the probe of filesystem operations. It has a series for each operation on each of 16 types, and for
// the other types together. The error is a *verdict.UnavailableError where the kernel, its policy (it must let programs
// into its functions) or the process's capabilities do not allow it.
func (d Deps) NewFSOps(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewFSOps(d.Kernel, bpf.FSOpsOptions{})
	if err != nil {
		return nil, err
	}
	return &fsOps{
		common: d.watch("fsops", probe.Probe, true), fs: probe,
		entity:   env.Metrics.Entity(env.Host, probe.Start()),
		duration: env.Metrics.Histogram(fsOpsDuration()),
	}, nil
}

func fsOpsDuration() metric.Desc {
	return metric.Desc{
		Name: "system.filesystem.linux.operation.duration",
		Unit: "s",
		Description: "Time of operations on regular files and folders, above the page cache: read, write, open (the walk " +
			"along the path included), fsync and getattr. Files that the kernel makes up (proc, sysfs, cgroups) are left out.",
		Attributes: []attribute.Key{keyFilesystemType, keyOperation},
		Source:     "fentry and fexit of vfs_read, vfs_write, do_filp_open, vfs_fsync_range, vfs_getattr_nosec",
	}
}

// operationName returns the name of an operation.
func operationName(op int) string {
	return [bpf.FSOperations]string{
		bpf.FSRead: "read", bpf.FSWrite: "write", bpf.FSOpen: "open", bpf.FSFsync: "fsync", bpf.FSGetattr: "getattr",
	}[op]
}

// Collect copies the kernel's counts.
func (c *fsOps) Collect(context.Context, time.Time) error {
	for slot := range c.types {
		r := &c.types[slot]
		if r.name == "" {
			name, err := c.fs.Type(slot)
			if err != nil {
				return err
			}
			if name == "" {
				continue
			}
			r.name = name
		}
		if err := c.fs.Read(slot, &c.part); err != nil {
			return err
		}
		for op := range r.operations {
			if r.operations[op] == nil {
				if !bpf.Any(&c.part[op]) {
					continue
				}
				r.operations[op] = newHistogram(c.duration.With(c.entity,
					keyFilesystemType.String(r.name), keyOperation.String(operationName(op))))
			}
			r.operations[op].load(&c.part[op])
		}
	}
	return nil
}
