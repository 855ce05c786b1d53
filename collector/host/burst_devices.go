package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The most devices that are sampled. A host with thousands of paths to a storage network shall not pay for them
// five times a second.
const (
	maxBurstDisks = 64
	maxBurstLinks = 16
)

// burstScan is after how many samples devices are looked for again: 10 s.
const burstScan = 50

// burstDevices are the physical devices in a directory of /sys. Each is read from files of its own, a line each:
// on a host with hundreds of virtual devices /proc/diskstats and /proc/net/dev cost a hundred times as much.
type burstDevices[T any] struct {
	env     collector.Env
	what    string // disks
	names   burstListing
	most    int
	devices roster[burstDevice[T]]
	sampled int
	wait    int    // samples until the next look
	trouble error  // of the last look
	turn    uint64 // counts the samples
	more    bool   // there are more than the most, and that was logged
}

// burstDevice is one name in the directory.
type burstDevice[T any] struct {
	known   bool
	sampled bool
	turn    uint64 // the last sample that had it
	own     T      // set by open
}

// burstHandler is what differs between kinds of devices.
type burstHandler[T any] interface {
	physical(path string) bool
	open(path string) (T, error)
	refresh(own *T) // each time devices were looked for
	sampleOne(own *T, name string, now time.Time) (bool, error)
	release(own *T) error
}

// sample reads all devices. recorded is false when one has no sample and had one before.
func (d *burstDevices[T]) sample(h burstHandler[T], now time.Time) (recorded bool, err error) {
	if d.wait--; d.wait <= 0 {
		d.wait = burstScan
		d.trouble = d.look(h)
	}
	d.turn++
	recorded, err = true, d.trouble
	for _, m := range d.devices.order {
		device := &m.T
		if !device.sampled || device.turn == d.turn { // after a look that failed, a device may be listed twice
			continue
		}
		device.turn = d.turn
		ok, failure := h.sampleOne(&device.own, m.name, now)
		recorded = recorded && ok
		switch {
		case errors.Is(failure, fs.ErrNotExist): // it has gone; look what is there
			d.forget(h, device)
			d.wait = 0
		case failure != nil:
			err = errors.Join(err, failure)
		}
	}
	return recorded, err
}

// look finds the devices that came and went.
func (d *burstDevices[T]) look(h burstHandler[T]) error {
	d.devices.begin()
	var errs error
	err := d.names.each(func(name []byte) {
		m, _ := d.devices.find(name)
		switch {
		case !m.T.known:
			errs = errors.Join(errs, d.discover(h, &m.T, filepath.Join(d.names.path, m.name)))
		case m.T.sampled:
			h.refresh(&m.T.own)
		}
	})
	if err != nil {
		return errors.Join(errs, err)
	}
	d.devices.sweep(func(device *burstDevice[T]) { d.forget(h, device) })
	return errs
}

// discover opens a device that was not there before, if it is physical.
func (d *burstDevices[T]) discover(h burstHandler[T], device *burstDevice[T], path string) (err error) {
	device.known = true
	if !h.physical(path) {
		return nil
	}
	if d.sampled >= d.most {
		if !d.more {
			d.env.Log.Warn("not all devices are sampled", "devices", d.what, "sampled", d.most)
		}
		d.more = true
		return nil
	}
	if device.own, err = h.open(path); err != nil {
		device.known = false // try again with the next look
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // gone meanwhile, or a kind of device that counts nothing
		}
		return err
	}
	device.sampled = true
	d.sampled++
	return nil
}

// forget gives back what belongs to a device.
func (d *burstDevices[T]) forget(h burstHandler[T], device *burstDevice[T]) {
	if device.sampled {
		d.sampled--
		_ = h.release(&device.own)
	}
	*device = burstDevice[T]{}
}

func (d *burstDevices[T]) close(h burstHandler[T]) error {
	errs := d.names.close()
	for _, m := range d.devices.order {
		if m.T.sampled {
			errs = errors.Join(errs, h.release(&m.T.own))
			m.T.sampled = false
		}
	}
	return errs
}

// burstListing lists a directory again and again without allocating.
type burstListing struct {
	path string
	fd   int
	buf  []byte
}

func openBurstListing(path string) (burstListing, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return burstListing{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return burstListing{path: path, fd: fd, buf: make([]byte, 4096)}, nil
}

// each calls found for each name in the directory.
func (l *burstListing) each(found func(name []byte)) error {
	if _, err := unix.Seek(l.fd, 0, io.SeekStart); err != nil {
		return &fs.PathError{Op: "seek", Path: l.path, Err: err}
	}
	for {
		n, err := unix.ReadDirent(l.fd, l.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return &fs.PathError{Op: "readdirent", Path: l.path, Err: err}
		case n == 0:
			return nil
		}
		burstNames(l.buf[:n], found)
	}
}

// burstNames calls found for each name in what getdents64(2) returned, save . and .. of the directory.
func burstNames(b []byte, found func(name []byte)) {
	const lengthAt, nameAt = 16, 19 // in struct linux_dirent64
	for len(b) > nameAt {
		length := int(binary.NativeEndian.Uint16(b[lengthAt:]))
		if length <= nameAt || length > len(b) {
			return
		}
		name, _, _ := bytes.Cut(b[nameAt:length], []byte{0})
		if len(name) > 0 && string(name) != "." && string(name) != ".." {
			found(name)
		}
		b = b[length:]
	}
}

func (l *burstListing) close() error { return unix.Close(l.fd) }

// burstDisks samples /sys/block/NAME/stat of physical disks: what /proc/diskstats has, for one device.
type burstDisks struct {
	burstDevices[burstDisk]
	clock burstClock

	use          metric.HistogramFamily
	full         metric.FloatFamily
	pending      metric.HistogramFamily
	pendingLimit metric.IntFamily
}

// burstDisk is the state of one disk.
type burstDisk struct {
	file   *procfs.File
	limit  int64 // of operations under way; 0 if the kernel does not tell
	totals diskTotals
	busy   milliseconds
	watch  burstWatch
	since  time.Time // the tick of the last reading

	entity  *metric.Entity // nil while the disk has not done any I/O
	share   burstShare
	pending *metric.Hist
}

func newBurstDisks(env collector.Env, clock burstClock) (*burstDisks, error) {
	names, err := openBurstListing(filepath.Join(env.Sys, "block"))
	if err != nil {
		return nil, err
	}
	const (
		source = "/sys/block/*/stat"
		device = attribute.Key("system.device")
	)
	limit := amount("system.disk.pending_operations.limit", "{operation}", "/sys/block/*/queue/nr_requests",
		"Operations that may be under way at most, in all queues of the device; more wait before they are counted.")
	limit.Attributes = []attribute.Key{device}
	return &burstDisks{
		burstDevices: burstDevices[burstDisk]{env: env, what: "disks", names: names, most: maxBurstDisks},
		clock:        clock,
		use: env.Metrics.Histogram(burstDistribution("system.disk.utilization", "1", source,
			"Share of the time in which the disk had at least one operation under way.", burstShares(), device)),
		full: env.Metrics.Float(burstTime("system.disk", source,
			"Time in which the disk was busy for more than 90 % of it.", device)),
		pending: env.Metrics.Histogram(burstDistribution("system.disk.pending_operations", "{operation}", source,
			"Operations under way.", burstCounts(), device)),
		pendingLimit: env.Metrics.Int(limit),
	}, nil
}

// physical says whether there is hardware, or a hypervisor's, behind the disk: not so for loop, ram, md and dm.
func (d *burstDisks) physical(path string) bool {
	_, err := os.Stat(filepath.Join(path, "device"))
	return err == nil
}

func (d *burstDisks) open(path string) (disk burstDisk, err error) {
	disk.file, err = procfs.OpenSingle(filepath.Join(path, "stat"))
	disk.watch.clock = d.clock
	disk.limit = burstQueues(path)
	return disk, err
}

// burstQueues returns how many requests the queues of a disk take together, or 0.
func burstQueues(path string) int64 {
	b, err := procfs.ReadAll(filepath.Join(path, "queue/nr_requests"))
	if err != nil {
		return 0
	}
	requests, err := procfs.Uint(bytes.TrimSpace(b))
	if err != nil || requests > 1<<20 {
		return 0
	}
	queues, _ := os.ReadDir(filepath.Join(path, "mq")) // a directory each; none before multi-queue
	return int64(requests) * int64(max(len(queues), 1))
}

func (d *burstDisks) refresh(*burstDisk) {}

func (d *burstDisks) sampleOne(disk *burstDisk, name string, now time.Time) (bool, error) {
	line, err := burstLine(disk.file)
	if err != nil {
		return false, err
	}
	var totals diskTotals
	if err := totals.parse(line); err != nil {
		return false, parseError(disk.file, err)
	}
	anew, _ := disk.totals.fell(&totals)
	if anew { // another disk of that name, or its counts were reset
		disk.busy, disk.watch.running = milliseconds{}, false
	}
	if disk.entity == nil && !totals.idle() && disk.watch.running {
		d.register(disk, text(name))
	}
	before := disk.busy.total
	busy := disk.busy.advance(totals[diskIOMs]) - before
	elapsed, ok := disk.watch.lap()
	disk.totals, disk.since = totals, now
	if disk.entity != nil && ok {
		disk.share.record(float64(busy)*float64(time.Millisecond)/float64(elapsed), elapsed)
		disk.pending.Record(float64(totals[diskInFlight]))
	}
	return !anew, nil
}

// register makes the series of a disk when it first does I/O. They count from the reading before.
func (d *burstDisks) register(disk *burstDisk, name string) {
	disk.entity = d.env.Metrics.Entity(d.env.Host, disk.since)
	device := attribute.String("system.device", name)
	disk.share = burstShare{d.use.With(disk.entity, device), d.full.With(disk.entity, device)}
	disk.pending = d.pending.With(disk.entity, device)
	if disk.limit > 0 {
		d.pendingLimit.With(disk.entity, device).Set(disk.limit)
	}
}

func (d *burstDisks) release(disk *burstDisk) error {
	if disk.entity != nil {
		disk.entity.Remove()
	}
	return disk.file.Close()
}

func (d *burstDisks) sample(now time.Time) (bool, error) { return d.burstDevices.sample(d, now) }

func (d *burstDisks) close() error { return d.burstDevices.close(d) }

// burstLinks samples /sys/class/net/NAME/statistics of physical interfaces: what /proc/net/dev has, for one.
type burstLinks struct {
	burstDevices[burstLink]
	clock burstClock

	use  metric.HistogramFamily
	full metric.FloatFamily
	rate metric.HistogramFamily
}

// burstLink is the state of one interface.
type burstLink struct {
	speed      *procfs.File // nil if there is none
	line       uint64       // its rate in bytes per second; 0 while it is not known
	directions [netDirections]burstDirection

	entity *metric.Entity // nil while there was no traffic
	shares bool           // the series are shares of the line rate
}

// burstDirection is one direction of an interface.
type burstDirection struct {
	file  *procfs.File
	bytes uint64
	watch burstWatch
	since time.Time // the tick of the last reading
	share burstShare
	rate  *metric.Hist
}

func newBurstLinks(env collector.Env, clock burstClock) (*burstLinks, error) {
	names, err := openBurstListing(filepath.Join(env.Sys, "class/net"))
	if err != nil {
		return nil, err
	}
	const (
		source          = "/sys/class/net/*/statistics"
		name, direction = attribute.Key("network.interface.name"), attribute.Key("network.io.direction")
	)
	return &burstLinks{
		burstDevices: burstDevices[burstLink]{env: env, what: "interfaces", names: names, most: maxBurstLinks},
		clock:        clock,
		use: env.Metrics.Histogram(burstDistribution("system.network.utilization", "1", source,
			"Bytes as a share of what the line can carry (hw.network.bandwidth.limit); headers of the medium "+
				"do not count.", burstShares(), name, direction)),
		full: env.Metrics.Float(burstTime("system.network", source,
			"Time in which more than 90 % of what the line can carry was used.", name, direction)),
		rate: env.Metrics.Histogram(burstDistribution("system.network.throughput", "By/s", source,
			"Bytes per second, where the speed of the line is not known.", burstRates(), name, direction)),
	}, nil
}

// physical says whether there is hardware behind the interface. A virtual function that belongs to a guest is not
// the host's.
func (l *burstLinks) physical(path string) bool {
	if _, err := os.Stat(filepath.Join(path, "device")); err != nil {
		return false
	}
	_, err := os.Stat(filepath.Join(path, "device/physfn"))
	return err != nil
}

func (l *burstLinks) open(path string) (link burstLink, err error) {
	for d, file := range [netDirections]string{netReceive: "rx_bytes", netTransmit: "tx_bytes"} {
		direction := &link.directions[d]
		direction.watch.clock = l.clock
		if direction.file, err = procfs.OpenSingle(filepath.Join(path, "statistics", file)); err != nil {
			return link, errors.Join(err, link.close())
		}
	}
	link.speed, _ = procfs.OpenSingle(filepath.Join(path, "speed"))
	l.refresh(&link)
	return link, nil
}

// refresh reads the speed of the line, in Mbit/s. While the line is down the kernel does not know it, and the last
// one stays; when it becomes known, the series become shares.
func (l *burstLinks) refresh(link *burstLink) {
	if link.speed == nil {
		return
	}
	line, err := burstLine(link.speed)
	if err != nil {
		return
	}
	megabits, err := procfs.Uint(bytes.TrimSpace(line))
	const unknown = 1<<32 - 1 // how old kernels print -1
	if err != nil || megabits == 0 || megabits >= unknown {
		return
	}
	link.line = megabits * 1e6 / 8
	if link.entity != nil && !link.shares {
		link.entity.Remove()
		link.entity = nil
	}
}

func (l *burstLinks) sampleOne(link *burstLink, name string, now time.Time) (bool, error) {
	recorded := true
	var errs error
	for d := range link.directions {
		ok, err := l.sampleDirection(link, &link.directions[d], name, now)
		recorded = recorded && ok
		errs = errors.Join(errs, err)
	}
	return recorded, errs
}

func (l *burstLinks) sampleDirection(link *burstLink, d *burstDirection, name string, now time.Time) (bool, error) {
	line, err := burstLine(d.file)
	if err != nil {
		return false, err
	}
	total, err := procfs.Uint(line)
	if err != nil {
		return false, parseError(d.file, err)
	}
	if link.entity == nil && total > 0 && d.watch.running {
		l.register(link, text(name), d.since)
	}
	elapsed, ok := d.watch.lap()
	before := d.bytes
	d.bytes, d.since = total, now
	if !ok {
		return true, nil // the base of the next
	}
	if total < before { // made anew, or reset by its driver
		return false, nil
	}
	if link.entity != nil {
		link.record(d, float64(total-before)/elapsed.Seconds(), elapsed)
	}
	return true, nil
}

// record counts a rate in bytes per second.
func (link *burstLink) record(d *burstDirection, rate float64, elapsed time.Duration) {
	if link.shares {
		d.share.record(rate/float64(link.line), elapsed)
		return
	}
	d.rate.Record(rate)
}

// register makes the series of an interface when it first has traffic. They count from the reading before.
func (l *burstLinks) register(link *burstLink, name string, since time.Time) {
	link.entity = l.env.Metrics.Entity(l.env.Host, since)
	link.shares = link.line > 0
	for d, direction := range [netDirections]string{netReceive: "receive", netTransmit: "transmit"} {
		attrs := []attribute.KeyValue{
			attribute.String("network.interface.name", name), attribute.String("network.io.direction", direction),
		}
		if link.shares {
			link.directions[d].share = burstShare{l.use.With(link.entity, attrs...), l.full.With(link.entity, attrs...)}
		} else {
			link.directions[d].rate = l.rate.With(link.entity, attrs...)
		}
	}
}

func (l *burstLinks) release(link *burstLink) error {
	if link.entity != nil {
		link.entity.Remove()
	}
	return link.close()
}

func (link *burstLink) close() error {
	var errs error
	for _, file := range [...]*procfs.File{
		link.directions[netReceive].file, link.directions[netTransmit].file, link.speed,
	} {
		if file != nil {
			errs = errors.Join(errs, file.Close())
		}
	}
	return errs
}

func (l *burstLinks) sample(now time.Time) (bool, error) { return l.burstDevices.sample(l, now) }

func (l *burstLinks) close() error { return l.burstDevices.close(l) }
