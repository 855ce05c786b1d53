package host

import (
	"bytes"
	"math"

	"github.com/slid-agent/slid/internal/procfs"
)

// The counters of a control group, by their place in a cgroupSample. Times are in nanoseconds.
const (
	cgUser = iota
	cgSystem
	cgMinorFaults
	cgMajorFaults
	cgOOMKills
	cgHigh
	cgMax
	cgAdding // those before it add up over the groups of a tree; the others do not
)

const (
	cgPeriods = cgAdding + iota
	cgThrottled
	cgThrottledTime
	cgStallCPUSome
	cgStallMemorySome
	cgStallMemoryFull
	cgStallIOSome
	cgStallIOFull
	cgStallCPUFull
	cgCounters
)

// The amounts of a control group. All but the last, which is only needed to work out another, add up.
const (
	cgUsage = iota
	cgRSS
	cgWorkingSet
	cgSwap
	cgTasks
	cgInactiveFile
	cgAmounts
)

// The limits of a control group, of which the lowest on the way to the root counts. CPUs are in thousandths.
const (
	cgMemoryLimit = iota
	cgTaskLimit
	cgCPULimit
	cgLimits
)

// cgNoLimit is the limit of a group that has none.
const cgNoLimit = math.MaxInt64

// cgroupSample is what one reading of the files of a group gave.
type cgroupSample struct {
	counter     [cgCounters]uint64
	amount      [cgAmounts]uint64
	hasCounter  [cgCounters]bool
	hasAmount   [cgAmounts]bool
	used        uint64 // CPU time of version 1, not split
	hasUsed     bool
	quota       uint64 // of version 1
	period      uint64
	devices     []cgroupIO
	hasDevices  bool
	limit       [cgLimits]uint64
	kernelLimit uint64 // of memory up to the root, as version 1 tells it
}

// reset empties the sample and keeps its memory.
func (s *cgroupSample) reset() {
	*s = cgroupSample{devices: s.devices[:0]}
	for i := range s.limit {
		s.limit[i] = cgNoLimit
	}
	s.kernelLimit = cgNoLimit
}

// count stores a counter.
func (s *cgroupSample) count(i int, v uint64) { s.counter[i], s.hasCounter[i] = v, true }

// put stores an amount.
func (s *cgroupSample) put(i int, v uint64) { s.amount[i], s.hasAmount[i] = v, true }

// The numbers of a device.
const (
	ioReadBytes = iota
	ioWriteBytes
	ioReads
	ioWrites
	ioKinds
)

// cgroupIO is what a group read from and wrote to a device.
type cgroupIO struct {
	device uint64 // major in the upper half, minor in the lower
	total  [ioKinds]uint64
}

// maxCgroupSampleDevices bounds how many devices of a group are read.
const maxCgroupSampleDevices = 256

// device returns the place of a device in the sample, or nil when there are too many.
func (s *cgroupSample) device(id uint64) *cgroupIO {
	for i := range s.devices {
		if s.devices[i].device == id {
			return &s.devices[i]
		}
	}
	if len(s.devices) == maxCgroupSampleDevices {
		return nil
	}
	s.devices = append(s.devices, cgroupIO{device: id})
	return &s.devices[len(s.devices)-1]
}

// parseFlatKeyed reads lines like "usage_usec 5342" (cgroup-v2.rst, "Flat keyed") and hands each on.
func parseFlatKeyed(b []byte, each func(s *cgroupSample, key []byte, v uint64), s *cgroupSample) error {
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		key, value := procfs.Field(line)
		value, _ = procfs.Field(value)
		v, err := procfs.Uint(value)
		if err != nil {
			return err
		}
		each(s, key, v)
	}
	return nil
}

// cgroupNumber reads a file of one number or the word max.
func cgroupNumber(b []byte) (uint64, error) {
	line, _, ok := procfs.Line(b)
	if !ok {
		return 0, procfs.ErrTruncated
	}
	field, _ := procfs.Field(line)
	return cgroupLimit(field)
}

// cgroupLimit reads a number or the word max. Version 1 writes the largest whole number of pages for max, and -1
// for a quota that is none.
func cgroupLimit(field []byte) (uint64, error) {
	if string(field) == "max" || string(field) == "-1" {
		return cgNoLimit, nil
	}
	const pages = 1 << 16 // the largest page of any architecture
	v, err := procfs.Uint(field)
	if v >= math.MaxInt64-pages {
		v = cgNoLimit
	}
	return v, err
}

// milliCPUs returns how many thousandths of a CPU a quota in each period makes.
func milliCPUs(quota, period uint64) uint64 {
	if quota >= cgNoLimit/1000 || period == 0 {
		return cgNoLimit
	}
	return quota * 1000 / period
}

// parseIOStat reads io.stat of version 2: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6". Kernels up to 5.14
// end the line of a device without numbers with a blank, so that the next device follows on the same line.
func parseIOStat(s *cgroupSample, b []byte) error {
	s.hasDevices = true
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		var device *cgroupIO
		for {
			var field []byte
			if field, line = procfs.Field(line); len(field) == 0 {
				break
			}
			key, value, isNumber := bytes.Cut(field, []byte{'='})
			if !isNumber {
				device = s.lineDevice(field)
				continue
			}
			if err := device.store(key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// lineDevice returns the device that a line is of, or nil if it names none.
func (s *cgroupSample) lineDevice(field []byte) *cgroupIO {
	id, err := parseCgroupDevice(field)
	if err != nil {
		return nil // "none", or a line of the cost model
	}
	return s.device(id)
}

// parseCgroupDevice reads major:minor.
func parseCgroupDevice(field []byte) (uint64, error) {
	a, b, ok := bytes.Cut(field, []byte{':'})
	if !ok {
		return 0, procfs.ErrSyntax
	}
	major, err := procfs.Uint(a)
	if err != nil {
		return 0, err
	}
	minor, err := procfs.Uint(b)
	if err == nil && (major > math.MaxUint32 || minor > math.MaxUint32) {
		err = procfs.ErrRange
	}
	return major<<32 | minor, err
}

// store keeps a number of a line of io.stat; keys of no concern are passed over.
func (d *cgroupIO) store(key, value []byte) (err error) {
	kind := ioKinds
	switch string(key) {
	case "rbytes":
		kind = ioReadBytes
	case "wbytes":
		kind = ioWriteBytes
	case "rios":
		kind = ioReads
	case "wios":
		kind = ioWrites
	}
	if kind < ioKinds && d != nil {
		d.total[kind], err = procfs.Uint(value)
	}
	return err
}

// parseBlkio reads a file of version 1, "8:0 Read 4096" and so on, into the kinds for reading and writing.
func parseBlkio(s *cgroupSample, b []byte, read, write int) error {
	s.hasDevices = true
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		name, line := procfs.Field(line)
		what, line := procfs.Field(line)
		var kind int
		switch string(what) {
		case "Read":
			kind = read
		case "Write":
			kind = write
		default:
			continue // Sync, Async, Discard and sums
		}
		value, _ := procfs.Field(line)
		v, err := procfs.Uint(value)
		if err != nil {
			return err
		}
		if d := s.lineDevice(name); d != nil {
			d.total[kind] = v
		}
	}
	return nil
}

// parsePressure reads a pressure file into the counters for some and full; a place below zero is not wanted.
func parsePressure(s *cgroupSample, b []byte, some, full int) error {
	var t stalls
	if err := t.parse(b); err != nil {
		return err
	}
	const us = 1000
	if t.hasSome && some >= 0 {
		s.count(some, t.some*us)
	}
	if t.hasFull && full >= 0 {
		s.count(full, t.full*us)
	}
	return nil
}
