package host

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// sensorPage is the most that a file of /sys holds: one page.
const sensorPage = 4 << 10

// A sensorChip is a directory of /sys with files that are read together: a hwmon chip, a RAPL zone, a PCI device.
//
// While a reader has it (busy), the fields of the reader are the reader's alone; handing it over and back is what
// makes that safe.
type sensorChip struct {
	// Of the collector.
	part    *sensorPart
	entry   string // its name in the directory of its part: hwmon3
	inode   uint64
	busy    bool
	idle    bool   // it has no files to read
	gone    bool   // it vanished while a reader had it
	round   uint64 // the collection in which it was given to a reader, and its time
	since   time.Time
	hung    bool // the reader did not give it back in that tick
	strikes int  // readings in a row that took too long
	pause   time.Duration
	until   time.Time // no readings before
	took    time.Duration
	shown   string         // for people: hwmon3 (nct6775)
	prefix  string         // of hw.id, after it was made unique; empty until then
	series  []sensorOutput // what outputs was when a reader had found out

	// Of the reader.
	dir      string // path of the directory
	fd       int    // the directory itself: files are opened under it, so they are never those of a successor
	known    bool   // what it has was found out
	stale    bool   // the directory is not there any more
	gated    bool   // its first file says whether the device sleeps
	asleep   bool   // it does, and reading would wake it
	readTime time.Duration
	err      error // of finding out
	id       string
	title    string // what the driver calls it
	parent   string
	remark   string // why it is not read though it could be
	files    []sensorFile
	outputs  []sensorOutput
	scratch  []int64
}

// A sensorFile is a file that is read in every tick.
type sensorFile struct {
	name  []byte // relative to the chip, with a final zero
	parse func([]byte) (int64, error)
	value int64
	err   error
}

// A sensorOutput is what is made of some files of a chip: one series, or one for each state of a status.
type sensorOutput struct {
	metric  sensorMetric
	key     string // of the sensor on its chip, for hw.id; empty for the chip itself
	name    string // hw.name
	attrs   []attribute.KeyValue
	from    []int                                    // indices of files; all of them must have a value
	compute func(v []int64) (value float64, ok bool) // nil: the value of the only file
	fixed   float64                                  // the value of an output without files
	states  []sensorState                            // of a status
	meter   *energyMeter                             // of energy
	sum     bool                                     // a total that the kernel keeps

	// Of the collector.
	entity *metric.Entity // nil while there is no value
	start  time.Time      // of a total
	total  float64
	seen   time.Time
	set    func(v float64, now time.Time)
}

// read finds out what the chip has, once, and reads all its files.
func (c *sensorChip) read(buf []byte) {
	c.err, c.asleep, c.readTime = nil, false, 0
	if !c.known {
		if c.err = c.find(); c.err != nil {
			c.close()
			return
		}
	}
	begun := time.Now()
	for i := range c.files {
		f := &c.files[i]
		if c.stale = f.read(c.fd, buf); c.stale {
			break
		}
		if i == 0 && c.gated && f.err == nil && f.value != 0 {
			c.asleep = true
			break
		}
	}
	c.readTime = time.Since(begun)
}

// find opens the directory and asks the part what is in it.
func (c *sensorChip) find() error {
	fd, err := unix.Open(c.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c.fd = fd
	c.files, c.outputs, c.remark, c.gated = nil, nil, "", false
	if err := c.part.find(c); err != nil {
		return err
	}
	most := 0
	for i := range c.outputs {
		most = max(most, len(c.outputs[i].from))
	}
	c.scratch = make([]int64, most)
	c.known = true
	return nil
}

// close gives the directory back; the chip is unknown then.
func (c *sensorChip) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.fd, c.known, c.stale = -1, false, false
}

// add makes a file one that is read in every tick and returns its index.
func (c *sensorChip) add(name string, parse func([]byte) (int64, error)) int {
	c.files = append(c.files, sensorFile{name: append([]byte(name), 0), parse: parse})
	return len(c.files) - 1
}

// text returns the content of a file without blanks around it; what cannot be read is empty.
func (c *sensorChip) text(name string) string {
	var buf [sensorPage]byte
	b, _, err := readAt(c.fd, append([]byte(name), 0), buf[:])
	if err != nil {
		return ""
	}
	return text(string(bytes.TrimSpace(b)))
}

// number returns the number in a file.
func (c *sensorChip) number(name string) (v int64, ok bool) {
	v, err := parseSensor([]byte(c.text(name)))
	return v, err == nil
}

// list returns the names in a directory of the chip, in a stable order: that of the numbers in them.
func (c *sensorChip) list(name string) []string {
	entries, err := os.ReadDir(filepath.Join(c.dir, name))
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.SortFunc(names, compareNumbered)
	return names
}

// compareNumbered orders temp2_input before temp10_input.
func compareNumbered(a, b string) int {
	prefixA, numberA := splitNumbered(a)
	prefixB, numberB := splitNumbered(b)
	return cmp.Or(strings.Compare(prefixA, prefixB), cmp.Compare(numberA, numberB), strings.Compare(a, b))
}

// splitNumbered returns what stands before the first digit, and the number there.
func splitNumbered(name string) (prefix string, number int) {
	i := strings.IndexAny(name, "0123456789")
	if i < 0 {
		return name, -1
	}
	for _, c := range []byte(name[i:]) {
		if c < '0' || c > '9' || number > 1e6 {
			break
		}
		number = number*10 + int(c-'0')
	}
	return name[:i], number
}

// read reads the file. gone says that it is not there any more, and so neither is the chip as it was found.
func (f *sensorFile) read(dir int, buf []byte) (gone bool) {
	b, opened, err := readAt(dir, f.name, buf)
	if err == nil {
		f.value, err = f.parse(b)
	}
	f.err = err
	return !opened && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV))
}

// path returns the name of the file without its final zero.
func (f *sensorFile) path() string { return string(f.name[:len(f.name)-1]) }

// readAt reads a file of /sys, which the kernel makes as one record, without allocating: name ends with a zero. The
// file may block; only readers call this.
func readAt(dir int, name, buf []byte) (b []byte, opened bool, err error) {
	fd, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, false, err
	}
	n, err := unix.Read(fd, buf)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(fd, buf)
	}
	_ = unix.Close(fd)
	if err != nil {
		return nil, true, err
	}
	return buf[:n], true, nil
}

// openAt is unix.Openat without the copy of the name: name ends with a zero.
func openAt(dir int, name []byte, flags int) (fd int, err error) {
	for {
		r, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
			uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), 0, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// parseSensor reads a file that holds one whole number, perhaps negative.
func parseSensor(b []byte) (int64, error) {
	b = bytes.TrimSpace(b)
	negative := len(b) > 0 && b[0] == '-'
	if negative {
		b = b[1:]
	}
	v, err := procfs.Uint(b)
	switch {
	case err != nil:
		return 0, err
	case v > math.MaxInt64:
		return 0, procfs.ErrRange
	case negative:
		return -int64(v), nil
	}
	return int64(v), nil
}

// parseSuspended tells a device that the kernel has put to sleep from one that works.
func parseSuspended(b []byte) (int64, error) {
	if string(bytes.TrimSpace(b)) == "suspended" {
		return 1, nil
	}
	return 0, nil
}

// addGate makes the chip be left alone while its device sleeps: reading would wake it.
func (c *sensorChip) addGate() {
	const gate = "device/power/runtime_status"
	if c.text(gate) != "" {
		c.add(gate, parseSuspended)
		c.gated = true
	}
}

// value computes an output from the files that were read.
func (o *sensorOutput) value(c *sensorChip) (v float64, ok bool) {
	if len(o.from) == 0 {
		return o.fixed, true
	}
	values := c.scratch[:len(o.from)]
	for i, from := range o.from {
		if c.files[from].err != nil {
			return 0, false
		}
		values[i] = c.files[from].value
	}
	if o.compute == nil {
		return float64(values[0]), true
	}
	return o.compute(values)
}

// withdraw takes the series out: what cannot be read now has no value now.
func (o *sensorOutput) withdraw() {
	if o.entity != nil {
		o.entity.Remove()
		o.entity = nil
	}
}

// withdraw takes out all series of the chip.
func (c *sensorChip) withdraw() {
	for i := range c.series {
		c.series[i].withdraw()
	}
}

// scaled returns a computation that divides, which for thousandths is exact where multiplying is not.
func scaled(divisor float64) func([]int64) (float64, bool) {
	return func(v []int64) (float64, bool) { return float64(v[0]) / divisor, true }
}

// A sensorDir lists a directory without allocating.
type sensorDir struct {
	path []byte // with a final zero
	fd   int
	buf  [sensorPage]byte
	rest []byte
}

// begin opens the directory anew.
func (d *sensorDir) begin() (err error) {
	d.rest = nil
	d.fd, err = openAt(unix.AT_FDCWD, d.path, unix.O_RDONLY|unix.O_DIRECTORY)
	return err
}

// next returns the next entry; ok is false after the last one or on an error, and the directory closed.
func (d *sensorDir) next() (name []byte, inode uint64, ok bool, err error) {
	for {
		if len(d.rest) == 0 {
			n, err := unix.Getdents(d.fd, d.buf[:])
			if err != nil || n == 0 {
				_ = unix.Close(d.fd)
				return nil, 0, false, err
			}
			d.rest = d.buf[:n]
		}
		if name, inode, d.rest = parseDirent(d.rest); len(name) > 0 && name[0] != '.' {
			return name, inode, true, nil
		}
	}
}

// parseDirent cuts the first record off the result of getdents64(2). A damaged one ends the list.
func parseDirent(b []byte) (name []byte, inode uint64, rest []byte) {
	const size, offset = 16, 19 // of d_reclen and d_name in struct linux_dirent64
	if len(b) < offset {
		return nil, 0, nil
	}
	n := int(binary.NativeEndian.Uint16(b[size:]))
	if n < offset || n > len(b) {
		return nil, 0, nil
	}
	name = b[offset:n]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return name, binary.NativeEndian.Uint64(b), b[n:]
}
