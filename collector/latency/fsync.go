package latency

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// FsyncName is the fsync collector's name in verdicts.
const FsyncName = "latency/fsync"

// keyFsyncKind says whether a wait was for all of a file, or for its data.
const keyFsyncKind = attribute.Key("linux.fsync.kind")

// fsyncRegisters are those of the host or of an owner.
type fsyncRegisters struct {
	wait   [2]*histogram
	errors [4]*metric.Int
}

// NewFsync loads the fsync probe. It has six series for the host and for each owner that attribution tells apart. The
// error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewFsync(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewFsync(d.Kernel)
	if err != nil {
		return nil, err
	}
	c := d.watch("fsync", probe.Probe, true)
	return newTally(env, d.Attribution, c, probe.Table, nil, declared(env.Metrics, declareFsync, fsyncRegisters.store)), nil
}

// declareFsync declares the metrics of the host (system) or of owners (container), and returns what makes their
// registers.
func declareFsync(g *metric.Group, area string) func(*metric.Entity) fsyncRegisters {
	const source = "fentry or kprobe.multi/vfs_fsync_range, tp_btf/ext4_sync_file_enter or tracepoint/syscalls/sys_enter_fsync"
	wait := g.Histogram(metric.Desc{
		Name: area + ".filesystem.linux.fsync.duration",
		Unit: "s",
		Description: "Time a task waited until the data of a file was on disk, whatever the outcome: by fsync or a write " +
			"with O_SYNC (fsync), or by fdatasync or one with O_DSYNC (fdatasync).",
		Attributes: []attribute.Key{keyFsyncKind},
		Source:     source,
	})
	failed := g.Int(metric.Desc{
		Name:        area + ".filesystem.linux.fsync.errors",
		Unit:        "{error}",
		Kind:        metric.Counter,
		Description: "Such waits that ended with an error: what was written may be lost (EIO).",
		Attributes:  []attribute.Key{keyErrorType},
		Source:      source,
	})
	return func(e *metric.Entity) (r fsyncRegisters) {
		for i, kind := range [...]string{bpf.FsyncAll: "fsync", bpf.FsyncData: "fdatasync"} {
			r.wait[i] = newHistogram(wait.With(e, keyFsyncKind.String(kind)))
		}
		for i, name := range [...]string{
			bpf.FsyncEIO: "EIO", bpf.FsyncENOSPC: "ENOSPC", bpf.FsyncEDQUOT: "EDQUOT", bpf.FsyncOther: "_OTHER",
		} {
			r.errors[i] = failed.With(e, keyErrorType.String(name))
		}
		return r
	}
}

func (r fsyncRegisters) store(v *bpf.FsyncCounts, now time.Time) {
	for i := range r.wait {
		r.wait[i].load(&v.Wait[i])
	}
	for i := range r.errors {
		r.errors[i].Observe(v.Errors[i], now)
	}
}
