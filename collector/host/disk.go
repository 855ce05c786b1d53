package host

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// Disk collects the I/O of whole block devices from /proc/diskstats, as iostat(1) shows them: disks and what is
// stacked on them (md, dm), each for itself. Partitions are left out, for their I/O is in that of the disk. So are
// devices that never did any I/O, which on most hosts are rows of empty loop and ram devices.
type Disk struct {
	health
	env   collector.Env
	file  *procfs.File
	sys   string // /sys/block; empty if it cannot be read
	disks roster[blockDevice]
	above string    // the last whole device of the present reading
	last  time.Time // the previous collection

	io, operations, merged, pending metric.IntFamily
	operationTime, ioTime           metric.FloatFamily
}

// blockDevice is the state of one device.
type blockDevice struct {
	partition bool
	device    [2]uint64 // major, minor
	sequence  string    // of /sys/block/NAME/diskseq: grows whenever a disk is made; empty before Linux 5.15
	totals    diskTotals
	readTime  milliseconds
	writeTime milliseconds
	ioTime    milliseconds
	registers *diskRegisters // nil while the device has not done any I/O
}

// diskRegisters are the series of one device.
type diskRegisters struct {
	entity                              *metric.Entity
	bytesRead, bytesWritten             *metric.Int
	reads, writes                       *metric.Int
	readsMerged, writesMerged, inFlight *metric.Int
	readTime, writeTime, ioTime         *metric.Float
}

// NewDisk opens /proc/diskstats. Without /sys/block partitions are told by their names and the verdict is degraded.
func NewDisk(env collector.Env) (collector.Collector, error) {
	file, err := procfs.Open(filepath.Join(env.Proc, "diskstats"))
	if err != nil {
		return nil, unavailable(err)
	}
	d := &Disk{env: env, file: file, sys: filepath.Join(env.Sys, "block")}
	d.name, d.hook = "host/disk", file.Path()
	if _, err := os.ReadDir(d.sys); err != nil {
		d.sys = ""
		d.reason = "partitions are told by their names, and disks made anew only by their counts: " + err.Error()
		d.missing = "the host's /sys"
	}
	d.declare(env.Metrics)
	return d, nil
}

func (d *Disk) declare(m *metric.Group) {
	declare := func(desc metric.Desc, keys ...attribute.Key) metric.Desc {
		desc.Source = "/proc/diskstats"
		desc.Attributes = append([]attribute.Key{"system.device"}, keys...)
		return desc
	}
	const direction = attribute.Key("disk.io.direction")
	d.io = m.Int(declare(counter("system.disk.io", "By", "", "Bytes read and written."), direction))
	d.operations = m.Int(declare(counter("system.disk.operations", "{operation}", "",
		"Reads and writes completed."), direction))
	d.operationTime = m.Float(declare(counter("system.disk.operation_time", "s", "",
		"Time that reads and writes took, summed over all of them, queueing included."), direction))
	d.merged = m.Int(declare(counter("system.disk.merged", "{operation}", "",
		"Reads and writes that were merged into a neighbor's before they reached the device."), direction))
	d.ioTime = m.Float(declare(counter("system.disk.io_time", "s", "",
		"Time in which the device had at least one operation under way.")))
	d.pending = m.Int(declare(amount("system.disk.pending_operations", "{operation}", "",
		"Operations under way.")))
}

// Collect implements collector.Collector.
func (d *Disk) Collect(_ context.Context, now time.Time) error {
	b, err := d.file.Read()
	if err != nil {
		return d.collected(err, false)
	}
	d.disks.begin()
	d.above = ""
	var bad tableError
	lines := 0
	for ; len(b) > 0; lines++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(lines, procfs.ErrTruncated)
			break
		}
		b = rest
		if err := d.collectLine(line, now); err != nil {
			bad.note(lines, err)
		}
	}
	if lines == 0 && d.disks.known() > 0 {
		bad.note(0, procfs.ErrTruncated)
	}
	if bad.err == nil { // in a damaged file a device without a line need not be gone
		d.disks.sweep((*blockDevice).remove)
	}
	d.last = now
	return d.collected(bad.asError(d.file), d.disks.next > 0 || bad.err == nil)
}

// collectLine stores what one line says.
func (d *Disk) collectLine(line []byte, now time.Time) error {
	l, err := parseDiskLine(line)
	if err != nil {
		return err
	}
	member, fresh := d.disks.find(l.name)
	disk := &member.T
	if fresh {
		d.discover(disk, member.name)
	}
	if disk.partition {
		return nil
	}
	d.above = member.name
	var totals diskTotals
	if err := totals.parse(l.values); err != nil {
		return err
	}
	if !fresh && d.anew(disk, member.name, l.device, &totals) {
		disk.remove()
		d.discover(disk, member.name)
	}
	disk.device = l.device
	if disk.registers == nil && !totals.idle() {
		disk.registers = d.register(member.name)
	}
	disk.store(&totals, now)
	return nil
}

// discover learns what the line cannot say of a device that was not there before.
func (d *Disk) discover(disk *blockDevice, name string) {
	if d.sys == "" {
		disk.partition = partitionOf(d.above, name)
		return
	}
	// /sys/block has whole devices only. A device that it does not have either is a partition or went at once.
	_, err := os.Lstat(d.sysPath(name))
	disk.partition = err != nil
	disk.sequence = d.sequence(name)
}

// sysPath returns the directory of a device: the kernel writes a slash in its name as an exclamation mark.
func (d *Disk) sysPath(name string) string {
	return filepath.Join(d.sys, strings.ReplaceAll(name, "/", "!"))
}

func (d *Disk) sequence(name string) string {
	if d.sys == "" {
		return ""
	}
	b, err := procfs.ReadAll(filepath.Join(d.sysPath(name), "diskseq"))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// anew says whether another device has the name now. A new number or a count that fell show that by themselves. A
// time that fell may also have filled its 32 bits: then the sequence number of the disk decides.
func (d *Disk) anew(disk *blockDevice, name string, device [2]uint64, now *diskTotals) bool {
	if device != disk.device {
		return true
	}
	countFell, timeFell := disk.totals.fell(now)
	return countFell || timeFell && d.sequence(name) != disk.sequence
}

// register makes the series of a device. They count from the previous collection, when the device was not there
// or had not done any I/O; those that are there at the first collection count from boot.
func (d *Disk) register(name string) *diskRegisters {
	start := d.last
	if start.IsZero() {
		start = d.env.Boot
	}
	e := d.env.Metrics.Entity(d.env.Host, start)
	device := attribute.String("system.device", text(name))
	read, write := attribute.String("disk.io.direction", "read"), attribute.String("disk.io.direction", "write")
	return &diskRegisters{
		entity:       e,
		bytesRead:    d.io.With(e, device, read),
		bytesWritten: d.io.With(e, device, write),
		reads:        d.operations.With(e, device, read),
		writes:       d.operations.With(e, device, write),
		readsMerged:  d.merged.With(e, device, read),
		writesMerged: d.merged.With(e, device, write),
		inFlight:     d.pending.With(e, device),
		readTime:     d.operationTime.With(e, device, read),
		writeTime:    d.operationTime.With(e, device, write),
		ioTime:       d.ioTime.With(e, device),
	}
}

// store takes the totals over.
func (d *blockDevice) store(totals *diskTotals, now time.Time) {
	d.totals = *totals
	readTime := d.readTime.advance(totals[diskReadMs])
	writeTime := d.writeTime.advance(totals[diskWriteMs])
	ioTime := d.ioTime.advance(totals[diskIOMs])
	r := d.registers
	if r == nil {
		return
	}
	r.bytesRead.Observe(totals[diskSectorsRead]*sectorSize, now)
	r.bytesWritten.Observe(totals[diskSectorsWritten]*sectorSize, now)
	r.reads.Observe(totals[diskReads], now)
	r.writes.Observe(totals[diskWrites], now)
	r.readsMerged.Observe(totals[diskReadsMerged], now)
	r.writesMerged.Observe(totals[diskWritesMerged], now)
	r.inFlight.Set(int64(totals[diskInFlight]))
	r.readTime.Observe(float64(readTime)/1e3, now)
	r.writeTime.Observe(float64(writeTime)/1e3, now)
	r.ioTime.Observe(float64(ioTime)/1e3, now)
}

// remove takes the series of a device away and forgets what it had counted.
func (d *blockDevice) remove() {
	if d.registers != nil {
		d.registers.entity.Remove()
	}
	*d = blockDevice{}
}

// Close implements collector.Collector.
func (d *Disk) Close() error { return d.file.Close() }
