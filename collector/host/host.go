// Package host has the collectors of the host's hardware and operating system, one file per source:
//
//   - cpu.go, cpudetail.go, interrupts.go: /proc/stat and /proc/loadavg
//   - memory.go, paging.go: /proc/meminfo; /proc/vmstat and /proc/swaps
//   - kernel.go, clock.go, frequency.go, throttle.go: /proc/sys; adjtimex(2); the processors in /sys
//   - disk.go: /proc/diskstats, and /sys/block when a device is new
//   - filesystem.go, mounts.go, statfs.go: /proc/1/mountinfo and statfs(2), which may hang
//   - raid.go, storage.go, nfs.go: md arrays, SCSI and NVMe in /sys; the NFS client
//   - network.go, link.go: /proc/1/net/dev and /sys/class/net
//   - protocols.go, sockets.go, softnet.go, conntrack.go: the other tables of /proc/1/net
//   - pressure.go: /proc/pressure
//   - process*.go: /proc/[pid]
//   - cgroup*.go: units and containers in the cgroup trees, version 1 and 2
//   - sensors.go, sensor_*.go, hwmon.go, thermal.go, rapl.go, powersupply.go, edac.go, aer.go: sensors and errors of
//     the hardware, which may be slow
//   - burst*.go: distributions of what is sampled several times a second
//   - facts.go: what describes the host and does not change; no collector
//
// Each reads kept-open files with byte scanners (internal/procfs) and stores into registers; a tick allocates
// nothing and costs little more than the bare reads (BenchmarkCoreTick). Few need a privilege; a verdict says which. Metric names
// follow OpenTelemetry's semantic conventions v1.44; what they lack follows their pattern system.<area>.linux.<name>.
//
// Counters mirror the kernel's totals. Where a total can fall without having begun anew (idle time of a processor
// taken offline, 32-bit milliseconds of a disk), the collector carries it on; where a device was made anew, its
// series get a new start time.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// health is how a collector fares, for its verdict.
type health struct {
	name    string // host/cpu
	hook    string // the files it reads
	reason  string // why it is degraded as long as it lives; empty if it is not
	missing string // what would help against reason
	err     error  // of the last collection
	nothing bool   // the last collection could read nothing at all
}

// collected notes the outcome of a collection and passes its error on. some says whether anything was read.
func (h *health) collected(err error, some bool) error {
	h.err, h.nothing = err, !some
	return err
}

// Verdicts says how the source fares: by the last collection, or by what was missing when it was opened.
func (h *health) Verdicts() []verdict.Verdict {
	v := verdict.Verdict{Name: h.name, State: verdict.Active, Hook: h.hook, Reason: h.reason, Missing: h.missing}
	if h.reason != "" {
		v.State = verdict.Degraded
	}
	if h.err != nil {
		v.State, v.Reason, v.Missing = verdict.Degraded, oneLine(h.err), remedy(h.err)
		if h.nothing {
			v.State = verdict.Unavailable
		}
	}
	return []verdict.Verdict{v}
}

// oneLine returns the text of errors that were joined, for a row of a table.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// remedy names what would help against an error of opening or reading a file, if that is known.
func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EACCES):
		return "CAP_DAC_READ_SEARCH"
	case errors.Is(err, unix.EPERM):
		return "CAP_SYS_PTRACE"
	}
	return ""
}

// unavailable is the error of a constructor whose file cannot be opened or read.
func unavailable(err error) error {
	reason := "cannot read it"
	switch {
	case errors.Is(err, fs.ErrPermission):
		reason = "not allowed to read it"
	case errors.Is(err, fs.ErrNotExist):
		reason = "this kernel or container does not show it"
	}
	return &verdict.UnavailableError{Reason: reason, Missing: remedy(err), Err: err}
}

// parseError names the file whose content cannot be understood.
func parseError(f *procfs.File, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("parse %s: %w", f.Path(), err)
}

// cutShort is the error for what is left of a file after its last whole line: nothing, if all is well.
func cutShort(rest []byte) error {
	if len(rest) > 0 {
		return procfs.ErrTruncated
	}
	return nil
}

// text makes a name from the kernel fit for an attribute, which must be UTF-8.
func text(name string) string { return strings.ToValidUTF8(name, "?") }

// tableError joins what went wrong in a file of many lines: the first bad line stands for all.
type tableError struct {
	line int
	err  error
	more int
}

// note keeps the error of a line that counts from zero.
func (e *tableError) note(line int, err error) {
	if e.err == nil {
		e.line, e.err = line, err
		return
	}
	e.more++
}

// asError returns the error of the file f, or nil if no line was bad.
func (e *tableError) asError(f *procfs.File) error {
	if e.err == nil {
		return nil
	}
	err := fmt.Errorf("parse %s: line %d: %w", f.Path(), e.line+1, e.err)
	if e.more > 0 {
		err = fmt.Errorf("%w (and %d more lines)", err, e.more)
	}
	return err
}

// counter returns the declaration of a total that the kernel keeps.
func counter(name, unit, source, description string) metric.Desc {
	return metric.Desc{Name: name, Unit: unit, Kind: metric.Counter, Source: source, Description: description}
}

// amount returns the declaration of an amount that rises and falls, and adds up over its attributes.
func amount(name, unit, source, description string) metric.Desc {
	return metric.Desc{Name: name, Unit: unit, Kind: metric.UpDownCounter, Source: source, Description: description}
}
