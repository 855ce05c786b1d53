package host

import (
	"errors"
	"math"

	"github.com/slid-agent/slid/internal/procfs"
)

// The numbers of a line of /proc/diskstats after the device's name (Documentation/admin-guide/iostats.rst).
const (
	diskReads = iota
	diskReadsMerged
	diskSectorsRead
	diskReadMs
	diskWrites
	diskWritesMerged
	diskSectorsWritten
	diskWriteMs
	diskInFlight
	diskIOMs
	diskFields
)

// sectorSize is the unit of diskstats, whatever the sector size of the device.
const sectorSize = 512

// maxDiskName is the longest name of a device (DISK_NAME_LEN).
const maxDiskName = 31

// diskLine is a line of /proc/diskstats.
type diskLine struct {
	device [2]uint64 // major, minor
	name   []byte    // a part of the line
	values []byte    // the rest of the line
}

// parseDiskLine reads the start of a line.
func parseDiskLine(line []byte) (d diskLine, err error) {
	n, rest, err := procfs.Uints(line, d.device[:])
	if err != nil {
		return d, err
	}
	d.name, d.values = procfs.Field(rest)
	switch {
	case n < len(d.device) || len(d.name) == 0:
		return d, procfs.ErrTruncated
	case len(d.name) > maxDiskName:
		return d, errors.New("name of a device is too long")
	}
	return d, nil
}

// diskTotals are the numbers of a device by field.
type diskTotals [diskFields]uint64

// parse reads the numbers of a line.
func (t *diskTotals) parse(values []byte) error {
	n, _, err := procfs.Uints(values, t[:])
	if err == nil && n < len(t) {
		return procfs.ErrTruncated
	}
	return err
}

// idle says that the device never did any I/O.
func (t *diskTotals) idle() bool { return t[diskReads] == 0 && t[diskWrites] == 0 }

// fell says whether a count of now is below that of before, and whether a time is. Counts have 64 bits and fall
// only when the device was made anew; times have 32.
func (t *diskTotals) fell(now *diskTotals) (count, time bool) {
	for field := range t {
		if now[field] >= t[field] {
			continue
		}
		switch field {
		case diskInFlight:
		case diskReadMs, diskWriteMs, diskIOMs:
			time = true
		default:
			count = true
		}
	}
	return count, time
}

// milliseconds is a time of a device that goes on when the kernel's 32 bits are full, after 49.7 days of waiting.
type milliseconds struct{ total, last uint64 }

// advance takes the kernel's present value and returns the total. A value that fell by at least half the range is
// behind a full turn; one that fell less is not explained by that, and the total waits.
func (m *milliseconds) advance(now uint64) uint64 {
	switch turn := uint64(uint32(now - m.last)); {
	case now >= m.last:
		m.total += now - m.last
	case m.last <= math.MaxUint32 && turn <= math.MaxUint32/2:
		m.total += turn
	}
	m.last = now
	return m.total
}

// partitionOf says whether a device is a partition of the disk that stands above it in the file, by the way the
// kernel names them: sda and sda1, nvme0n1 and nvme0n1p1. It is for when /sys cannot be asked.
func partitionOf(disk, name string) bool {
	if disk == "" || len(name) <= len(disk) || name[:len(disk)] != disk {
		return false
	}
	number := name[len(disk):]
	if isDigit(disk[len(disk)-1]) {
		if number[0] != 'p' {
			return false
		}
		number = number[1:]
	}
	for i := range len(number) {
		if !isDigit(number[i]) {
			return false
		}
	}
	return number != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
