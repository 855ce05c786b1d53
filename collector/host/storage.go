package host

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// Storage collects what /sys/block and /sys/class/nvme tell of disks and their controllers: sizes, models, states,
// and the errors that the SCSI layer counts. None of it asks a device. It is for the slow lane.
type Storage struct {
	health
	env         collector.Env
	block       *deviceList
	class       string // /sys/class/nvme
	classPath   attributePath
	controllers *deviceList // of class; nil as long as there is none
	read        attributeReader
	found       func([]byte) // made once, for a closure allocates
	foundNVMe   func([]byte)
	disks       map[string]*storageDisk
	nvmes       map[string]*storageNVMe
	tick        uint64
	last        time.Time
	failed      error
	bad         complaints

	limit, size, status, errors, commands metric.IntFamily
}

// The health of a disk or controller, and its hw.state.
const (
	storageOK = iota
	storageDegraded
	storageFailed
	storageStates
)

// hwStatus is a set of series of which that of the present state is 1.
type hwStatus [storageStates]*metric.Int

func (s *hwStatus) set(state int) {
	for i, register := range s {
		register.Set(oneWhile(i == state))
	}
}

// scsiCounts are the counters of a SCSI disk.
const (
	scsiRequests = iota
	scsiDone
	scsiErrors
	scsiTimeouts
	scsiCounts
)

// storageDisk is the state of a whole block device.
type storageDisk struct {
	name     string
	tick     uint64
	size     attributePath
	diskseq  attributePath
	state    attributePath
	counts   [scsiCounts]attributePath
	sequence string // of diskseq: another disk has the name now if it changes
	totals   [scsiCounts]carry32

	shown    *metric.Entity
	limit    *metric.Int
	hwSize   *metric.Int // nil for a virtual device
	status   *hwStatus   // nil without a state
	counters [scsiCounts]*metric.Int
}

// storageNVMe is the state of an NVMe controller.
type storageNVMe struct {
	name   string
	tick   uint64
	path   attributePath // of its state
	shown  *metric.Entity
	status *hwStatus
}

// NewStorage opens /sys/block.
func NewStorage(env collector.Env) (collector.Collector, error) {
	block, err := openDeviceList(filepath.Join(env.Sys, "block"))
	if err != nil {
		return nil, unavailable(err)
	}
	s := &Storage{
		env: env, block: block, class: filepath.Join(env.Sys, "class/nvme"),
		disks: map[string]*storageDisk{}, nvmes: map[string]*storageNVMe{},
	}
	s.name, s.hook = "host/storage", block.path
	s.classPath = newAttributePath(s.class)
	s.found, s.foundNVMe = s.collectDisk, s.collectNVMe
	s.declare(env.Metrics)
	return s, nil
}

func (s *Storage) declare(m *metric.Group) {
	declare := func(d metric.Desc, keys ...attribute.Key) metric.IntFamily {
		d.Attributes = keys
		return m.Int(d)
	}
	const id, name, kind = "hw.id", "hw.name", "hw.type"
	s.limit = declare(amount("system.disk.limit", "By", "/sys/block/*/size", "Size of a whole block device."),
		"system.device")
	s.size = declare(amount("hw.physical_disk.size", "By", "/sys/block/*/{size,device}",
		"Size of a physical disk, with what it says of itself as far as it does."),
		id, name, "hw.model", "hw.vendor", "hw.firmware_version", "hw.serial_number", "hw.physical_disk.type")
	s.status = declare(amount("hw.status", "1", "/sys/block/*/device/state, /sys/class/nvme/*/state",
		"1 for the state that the kernel has a disk or controller in."), id, name, kind, "hw.state")
	s.errors = declare(counter("hw.errors", "{error}", "/sys/block/*/device/{ioerr_cnt,iotmo_cnt}",
		"Commands to a SCSI disk that failed or timed out, those included that were repeated with success."),
		id, name, kind, "error.type")
	s.commands = declare(counter("hw.physical_disk.linux.commands", "{command}",
		"/sys/block/*/device/{iorequest_cnt,iodone_cnt}", "Commands to a SCSI disk."),
		id, name, "hw.physical_disk.linux.command.state")
}

// Collect implements collector.Collector.
func (s *Storage) Collect(_ context.Context, now time.Time) error {
	s.tick++
	s.failed = nil
	if err := s.block.each(s.found); err != nil {
		return s.collected(err, false)
	}
	s.collectControllers()
	for name, d := range s.disks {
		if d.tick != s.tick {
			d.hide()
			delete(s.disks, name)
		} else if d.shown != nil {
			s.observe(d, now)
		}
	}
	for name, n := range s.nvmes {
		if n.tick != s.tick {
			n.shown.Remove()
			delete(s.nvmes, name)
		}
	}
	s.last = now
	_ = s.collected(s.failed, true)
	return nil // the other devices are fresh
}

// collectControllers looks for NVMe controllers; the directory comes with their driver.
func (s *Storage) collectControllers() {
	if s.controllers == nil {
		fd, err := s.read.open(s.classPath)
		if err != nil {
			return
		}
		unix.Close(fd)
		list, err := openDeviceList(s.class)
		if err != nil {
			return
		}
		s.controllers = list
	}
	if err := s.controllers.each(s.foundNVMe); err != nil {
		_ = s.controllers.close() // the driver was unloaded
		s.controllers = nil
	}
}

// collectDisk stores the size and state of a block device.
func (s *Storage) collectDisk(name []byte) {
	d := s.disks[string(name)]
	if d == nil {
		d = s.newDisk(string(name))
		s.disks[d.name] = d
	}
	d.tick = s.tick
	sectors, err := s.read.number(d.size)
	if err != nil {
		s.complain(d.size, err)
		return
	}
	if sequence, err := s.read.read(d.diskseq); err == nil && string(sequence) != d.sequence {
		d.hide()
		d.sequence = string(sequence)
	}
	if sectors == 0 { // no medium, or a loop device without a file
		d.hide()
		return
	}
	if d.shown == nil {
		s.show(d)
	}
	size := int64(min(sectors, 1<<53)) * sectorSize
	d.limit.Set(size)
	if d.hwSize != nil {
		d.hwSize.Set(size)
	}
	if d.status == nil {
		return
	}
	if state, err := s.read.read(d.state); err == nil {
		d.status.set(diskState(state))
	}
}

// observe stores the counters of a SCSI disk.
func (s *Storage) observe(d *storageDisk, now time.Time) {
	for i, register := range d.counters {
		if register == nil {
			continue
		}
		b, err := s.read.read(d.counts[i])
		var v uint32
		if err == nil {
			v, err = hexCount(b)
		}
		if err != nil {
			s.complain(d.counts[i], err)
			continue
		}
		register.Observe(d.totals[i].advance(v), now)
	}
}

// collectNVMe stores the state of a controller.
func (s *Storage) collectNVMe(name []byte) {
	n := s.nvmes[string(name)]
	if n == nil {
		n = &storageNVMe{name: string(name)}
		n.path = newAttributePath(filepath.Join(s.class, n.name, "state"))
	}
	state, err := s.read.read(n.path)
	if err != nil {
		if !isAbsent(err) {
			s.complain(n.path, err)
		}
		return
	}
	if n.shown == nil {
		n.shown = s.env.Metrics.Entity(s.env.Host, s.since())
		n.status = s.newStatus(n.shown, n.name, "disk_controller")
		s.nvmes[n.name] = n
	}
	n.tick = s.tick
	n.status.set(diskState(state))
}

// complain keeps the first error for the verdict and logs those that are new.
func (s *Storage) complain(path attributePath, err error) {
	err = attributeError(path, err)
	if s.failed == nil {
		s.failed = err
	}
	if s.bad.fresh(path, err) {
		s.env.Log.Warn("cannot read a fact of a disk", "error", err)
	}
}

// diskState returns the health of a disk or controller by the words of the SCSI layer (scsi_sysfs.c) and of NVMe.
func diskState(b []byte) int {
	switch string(b) {
	case "offline", "transport-offline", "cancel", "deleted", "dead", "deleting", "deleting (no IO)":
		return storageFailed
	case "running", "quiesce", "live":
		return storageOK
	}
	return storageDegraded // created, blocked, created-blocked, resetting, connecting, new
}

func (s *Storage) newDisk(name string) *storageDisk {
	dir := filepath.Join(s.block.path, name)
	file := func(name string) attributePath { return newAttributePath(filepath.Join(dir, name)) }
	return &storageDisk{
		name: name, size: file("size"), diskseq: file("diskseq"), state: file("device/state"),
		counts: [scsiCounts]attributePath{
			file("device/iorequest_cnt"), file("device/iodone_cnt"), file("device/ioerr_cnt"), file("device/iotmo_cnt"),
		},
	}
}

// show makes the series of a disk by what its directory has.
func (s *Storage) show(d *storageDisk) {
	e := s.env.Metrics.Entity(s.env.Host, s.since())
	d.shown = e
	name := strings.ReplaceAll(text(d.name), "!", "/")
	d.limit = s.limit.With(e, attribute.String("system.device", name))
	dir := filepath.Join(s.block.path, d.name)
	if _, err := os.Stat(filepath.Join(dir, "device")); err != nil || s.read.fact(filepath.Join(dir, "hidden")) == "1" {
		return // virtual, or one path of several to a disk
	}
	d.hwSize = s.size.With(e, s.facts(dir, name)...)
	if _, err := s.read.read(d.state); err == nil {
		d.status = s.newStatus(e, name, "physical_disk")
	}
	of := func(family metric.IntFamily, more ...attribute.KeyValue) *metric.Int {
		return family.With(e, append(more, attribute.String("hw.id", name), attribute.String("hw.name", name))...)
	}
	kind, state, cause := attribute.String("hw.type", "physical_disk"),
		attribute.Key("hw.physical_disk.linux.command.state"), attribute.Key("error.type")
	for i, register := range [scsiCounts]func() *metric.Int{
		func() *metric.Int { return of(s.commands, state.String("requested")) },
		func() *metric.Int { return of(s.commands, state.String("done")) },
		func() *metric.Int { return of(s.errors, kind, cause.String("io_error")) },
		func() *metric.Int { return of(s.errors, kind, cause.String("timeout")) },
	} {
		if _, err := s.read.read(d.counts[i]); err == nil {
			d.counters[i] = register()
		}
	}
}

// facts returns what a disk says of itself: SCSI, NVMe, virtio and MMC have it in files of different names.
func (s *Storage) facts(dir, name string) []attribute.KeyValue {
	attrs := []attribute.KeyValue{attribute.String("hw.id", name), attribute.String("hw.name", name)}
	add := func(key attribute.Key, value string) {
		if value != "" {
			attrs = append(attrs, key.String(value))
		}
	}
	first := func(names ...string) string {
		for _, name := range names {
			if v := s.read.fact(filepath.Join(dir, name)); v != "" {
				return v
			}
		}
		return ""
	}
	add("hw.model", first("device/model", "device/name"))
	vendor := first("device/vendor")
	if strings.HasPrefix(vendor, "0x") { // the number of a PCI device
		vendor = ""
	}
	add("hw.vendor", vendor)
	add("hw.firmware_version", first("device/firmware_rev", "device/rev"))
	serial := first("device/serial", "serial")
	if b, err := s.read.read(newAttributePath(filepath.Join(dir, "device/vpd_pg80"))); serial == "" && err == nil {
		serial = serialOfVPD(b)
	}
	add("hw.serial_number", serial)
	switch first("queue/rotational") {
	case "0":
		add("hw.physical_disk.type", "SSD")
	case "1":
		add("hw.physical_disk.type", "HDD")
	}
	return attrs
}

// serialOfVPD returns the serial number of a SCSI disk from its page 80h of vital product data (SPC-4, 7.8.15): four
// bytes of header, the last of which is the length, and text.
func serialOfVPD(b []byte) string {
	if len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	serial := b[4:]
	serial = serial[:min(len(serial), int(b[2])<<8|int(b[3]))]
	return text(string(bytes.Trim(serial, " \x00")))
}

func (s *Storage) newStatus(e *metric.Entity, name, kind string) *hwStatus {
	status := new(hwStatus)
	for i, state := range [storageStates]string{"ok", "degraded", "failed"} {
		status[i] = s.status.With(e, attribute.String("hw.id", name), attribute.String("hw.name", name),
			attribute.String("hw.type", kind), attribute.String("hw.state", state))
	}
	return status
}

func (s *Storage) since() time.Time {
	if s.last.IsZero() {
		return s.env.Boot
	}
	return s.last
}

// Close implements collector.Collector.
func (s *Storage) Close() error {
	if s.controllers != nil {
		_ = s.controllers.close()
	}
	return s.block.close()
}

// hide takes the series of a disk away.
func (d *storageDisk) hide() {
	if d.shown != nil {
		d.shown.Remove()
	}
	d.shown, d.limit, d.hwSize, d.status = nil, nil, nil, nil
	d.counters, d.totals = [scsiCounts]*metric.Int{}, [scsiCounts]carry32{}
}
