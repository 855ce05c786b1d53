package bpf

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
)

// openBlockIO opens the probe or ends the test; it skips where probes may not be loaded.
func openBlockIO(tb testing.TB, k *Kernel, opts BlockIOOptions) *BlockIO {
	tb.Helper()
	requireCapabilities(tb)
	b, err := NewBlockIO(k, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	return b
}

// blockCounts is what the probe counted of a disk, by direction.
type blockCounts [blockDirections]BlockIOCounts

// of returns what the probe counted of the disk of that name.
func (b *BlockIO) of(tb testing.TB, name string) (counts blockCounts) {
	tb.Helper()
	for slot := range b.Slots() {
		if b.Sequence(slot) == 0 {
			continue
		}
		d, err := b.Disk(slot)
		if err != nil {
			tb.Fatal(err)
		}
		if d.Name == name {
			var c BlockIOCounts
			if err := b.Read(slot, &c); err != nil {
				tb.Fatal(err)
			}
			Plus(&counts[d.Direction], &c)
		}
	}
	return counts
}

// tally is what happened to a disk between two moments, by both accounts.
type tally struct {
	probe  blockCounts
	kernel [blockDirections]diskstat
}

// tally lets something happen, waits until the probe and the kernel have counted it, and returns what they did.
func (d *blockDevice) tally(tb testing.TB, b *BlockIO, happens func()) (t tally) {
	tb.Helper()
	probe, kernel := b.of(tb, d.name), d.stat(tb)
	happens()
	var now blockCounts
	var stat [blockDirections]diskstat
	for deadline := time.Now().Add(10 * time.Second); ; { // completion goes on after the caller was woken up
		now, stat = b.of(tb, d.name), d.stat(tb)
		time.Sleep(20 * time.Millisecond)
		if now == b.of(tb, d.name) && stat == d.stat(tb) {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatal("the disk does not come to rest")
		}
	}
	for i := range now {
		words, before := Words(&now[i]), Words(&probe[i])
		for k := range words {
			words[k] -= before[k]
		}
		t.probe[i] = now[i]
		t.kernel[i] = diskstat{stat[i].operations - kernel[i].operations, stat[i].milliseconds - kernel[i].milliseconds}
	}
	return t
}

// missed returns how many events the kernel kept from the probe: those that happen on a CPU while the program for the one
// before runs there. No probe can do anything about it. The meter counts them.
func (b *BlockIO) missed(tb testing.TB) (n uint64) {
	tb.Helper()
	for _, p := range b.Programs() {
		s, err := p.Stats()
		if err != nil {
			tb.Fatal(err)
		}
		n += s.RecursionMisses
	}
	return n
}

// The numbers of reads and writes are those that the kernel counts, and their time is within 2 % of it. The kernel takes
// its time some microseconds later, when it has woken up who waits, so the requests are large.
func TestBlockIOAgreesWithDiskstats(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	got := d.tally(t, b, func() {
		for begin := d.stat(t); ; {
			if err := d.blockLoad(32, 1<<19); err != nil {
				t.Fatal(err)
			}
			now := d.stat(t)
			if min(now[BlockRead].milliseconds-begin[BlockRead].milliseconds,
				now[BlockWrite].milliseconds-begin[BlockWrite].milliseconds) >= 300 { // of which the kernel may round off one
				break
			}
		}
	})
	missed := b.missed(t)
	for _, direction := range []BlockDirection{BlockRead, BlockWrite} {
		p, k := &got.probe[direction], got.kernel[direction]
		t.Logf("%s: diskstats %d in %d ms, probe %d in %d us: %d us in the queue, %d us in the device, %d untimed",
			direction, k.operations, k.milliseconds, p.Total.Count(), p.Total.SumNs/1e3, p.Queue.SumNs/1e3,
			p.Device.SumNs/1e3, p.Untimed)
		if n := k.operations - p.Total.Count(); n > missed {
			t.Errorf("%s: %d requests and %d missed, the kernel counted %d", direction, p.Total.Count(), missed, k.operations)
		}
		if !within(p.Total.SumNs/1e6, k.milliseconds, 0.02) {
			t.Errorf("%s: %d ns, the kernel counted %d ms", direction, p.Total.SumNs, k.milliseconds)
		}
		if p.Queue.Count() != p.Device.Count() || p.Device.Count()+p.Untimed != p.Total.Count() {
			t.Errorf("%s: %d waits, %d in the device, %d untimed of %d", direction, p.Queue.Count(), p.Device.Count(),
				p.Untimed, p.Total.Count())
		}
		if p.Untimed == 0 && p.Queue.SumNs+p.Device.SumNs != p.Total.SumNs {
			t.Errorf("%s: %d ns + %d ns are not %d ns", direction, p.Queue.SumNs, p.Device.SumNs, p.Total.SumNs)
		}
	}
	if c := b.Counts(); c.Discarded+c.Lost+c.Skipped != 0 {
		t.Errorf("losses: %+v", c)
	}
}

// Thousands of small requests one after the other are all counted.
func TestBlockIOCountsAll(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	got := d.tally(t, b, func() {
		if err := d.blockLoad(20000, blockSize); err != nil {
			t.Fatal(err)
		}
	})
	missed := b.missed(t)
	for _, direction := range []BlockDirection{BlockRead, BlockWrite} {
		n, want := got.probe[direction].Total.Count(), got.kernel[direction].operations
		t.Logf("%d %ss of %d, %d missed", n, direction, want, missed)
		if want < 10000 || want-n > missed {
			t.Errorf("%d %ss and %d missed, the kernel counted %d", n, direction, missed, want)
		}
	}
	if missed > 20 {
		t.Errorf("the kernel kept %d events from the probe", missed)
	}
}

// A flush of the device counts as the kernel counts it. It has nothing to write, though /proc/diskstats says so.
func TestBlockIOFlush(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	if cache, _ := os.ReadFile("/sys/block/" + d.name + "/queue/write_cache"); !strings.Contains(string(cache), "back") {
		t.Skip("the disk has no cache to flush")
	}
	const writes, flushes = 40, 30
	got := d.tally(t, b, func() {
		d.times(t, writes, d.write)
		for range flushes {
			if err := d.direct.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n := got.probe[BlockFlush].Total.Count(); n != flushes || n != got.kernel[BlockFlush].operations {
		t.Errorf("%d flushes, the kernel counted %d of %d", n, got.kernel[BlockFlush].operations, flushes)
	}
	if n := got.probe[BlockWrite].Total.Count(); n != writes || got.kernel[BlockWrite].operations != writes+flushes {
		t.Errorf("%d writes of %d, the kernel counted %d with %d that wait for a flush", n, writes,
			got.kernel[BlockWrite].operations, flushes)
	}
}

// A write that wants the cache flushed before and after is completed twice by the kernel, and is one write.
func TestBlockIOCountsFlushedWritesOnce(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	const writes = 30
	got := d.tally(t, b, func() {
		for i := range writes {
			if _, err := unix.Pwritev2(int(d.direct.Fd()), [][]byte{d.page[:blockSize]}, int64(i*blockSize), unix.RWF_DSYNC); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Logf("kernel: %+v", got.kernel)
	if n := got.probe[BlockWrite].Total.Count(); n != writes {
		t.Errorf("%d writes of %d", n, writes)
	}
	if n := got.probe[BlockFlush].Total.Count(); n != got.kernel[BlockFlush].operations {
		t.Errorf("%d flushes, the kernel counted %d", n, got.kernel[BlockFlush].operations)
	}
}

func TestBlockIODiscard(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	got := d.tally(t, b, func() {
		for i := range uint64(10) {
			if err := d.discard(i*65536, 65536); errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("the disk cannot discard")
			} else if err != nil {
				t.Fatal(err)
			}
		}
	})
	if n := got.probe[BlockDiscard].Total.Count(); n == 0 || n != got.kernel[BlockDiscard].operations {
		t.Errorf("%d discards, the kernel counted %d", n, got.kernel[BlockDiscard].operations)
	}
}

// A disk whose file cannot grow any more fails.
func TestBlockIOErrors(t *testing.T) {
	b := openBlockIO(t, &Kernel{}, BlockIOOptions{})
	testneed.Root(t, "to mount a small tmpfs")
	folder := t.TempDir()
	if err := unix.Mount("none", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(folder, unix.MNT_DETACH) })
	d := loopDevice(t, folder, unix.LO_FLAGS_AUTOCLEAR)
	failed := uint64(0)
	got := d.tally(t, b, func() {
		for offset := int64(0); offset < 4<<20; offset += 1 << 18 {
			if d.write(offset, blockSize*64) != nil {
				failed++
			}
		}
	})
	w := &got.probe[BlockWrite]
	t.Logf("%d writes failed of %d, the kernel counted %d", failed, w.Total.Count(), got.kernel[BlockWrite].operations)
	if failed == 0 || w.Errors != failed {
		t.Errorf("%d errors, %d writes failed", w.Errors, failed)
	}
	if w.Total.Count() != got.kernel[BlockWrite].operations {
		t.Errorf("%d writes, the kernel counted %d", w.Total.Count(), got.kernel[BlockWrite].operations)
	}
}

// A read beyond the end of the file is completed in parts: what there is, and an error. It is one read.
func TestBlockIOCountsPartsOnce(t *testing.T) {
	b := openBlockIO(t, &Kernel{}, BlockIOOptions{})
	folder := t.TempDir()
	d := loopDevice(t, folder, unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_DIRECT_IO)
	if dio, _ := os.ReadFile("/sys/block/" + d.name + "/loop/dio"); strings.TrimSpace(string(dio)) != "1" {
		t.Skip("the file system has no direct I/O, without which no read is completed in parts")
	}
	if err := os.Truncate(filepath.Join(folder, "backing"), 1<<20+8*blockSize); err != nil {
		t.Fatal(err)
	}
	failed := error(nil)
	got := d.tally(t, b, func() { failed = d.read(1<<20, 16*blockSize) })
	r := &got.probe[BlockRead]
	t.Logf("%v; %d reads, %d errors, the kernel counted %d", failed, r.Total.Count(), r.Errors, got.kernel[BlockRead].operations)
	if r.Total.Count() != got.kernel[BlockRead].operations || r.Total.Count() != 1 {
		t.Errorf("%d reads, the kernel counted %d", r.Total.Count(), got.kernel[BlockRead].operations)
	}
	if (failed != nil) != (r.Errors == 1) || r.Errors > 1 {
		t.Errorf("%d errors: %v", r.Errors, failed)
	}
}

// Where the kernel does not keep the time at which the driver got a request, the probe finds out and looks itself.
func TestBlockIOWithoutDriversTime(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{untold: true}), testDisk(t)
	got := d.tally(t, b, func() { d.times(t, 20, d.read) })
	if r := &got.probe[BlockRead]; r.Total.Count() != 20 || r.Untimed != 20 || r.Device.Count() != 0 {
		t.Errorf("%d of 20 requests, %d of them without the time, %d with", r.Total.Count(), r.Untimed, r.Device.Count())
	}
	if err := b.Extend(BlockIOIssue, true); err != nil {
		t.Fatal(err)
	}
	got = d.tally(t, b, func() { d.times(t, 100, d.read) })
	r := &got.probe[BlockRead]
	if r.Untimed != 0 || r.Device.Count() != 100 || r.Queue.SumNs+r.Device.SumNs != r.Total.SumNs || r.Device.SumNs == 0 {
		t.Errorf("%d untimed, %d timed; %d ns + %d ns, in all %d ns", r.Untimed, r.Device.Count(), r.Queue.SumNs,
			r.Device.SumNs, r.Total.SumNs)
	}
	if !strings.Contains(b.Hook(), "block_rq_issue") {
		t.Errorf("the hook is %s", b.Hook())
	}
}

// What waits in the scheduler while the driver has all that it can take has queue time, by the kernel's account as by
// the probe's own.
func TestBlockIOQueueTime(t *testing.T) {
	d := testDisk(t)
	d.set(t, "scheduler", "mq-deadline")
	d.set(t, "nomerges", "2")
	kernels, own := openBlockIO(t, &Kernel{}, BlockIOOptions{}), openBlockIO(t, &Kernel{}, BlockIOOptions{untold: true})
	for _, b := range []*BlockIO{kernels, own} {
		if err := b.Extend(BlockIOIssue, true); err != nil {
			t.Fatal(err)
		}
	}
	d.tally(t, own, func() { d.times(t, 1, d.read) }) // tells that there is need for it
	before := kernels.of(t, d.name)
	const reads = 400 // the driver takes 128
	got := d.tally(t, own, func() { d.flood(t, reads, 1<<17) })
	queue := [2]uint64{got.probe[BlockRead].Queue.SumNs}
	now := kernels.of(t, d.name)
	queue[1] = now[BlockRead].Queue.SumNs - before[BlockRead].Queue.SumNs
	r := &got.probe[BlockRead]
	t.Logf("%d reads of %d us: %d us in the queue, by the kernel's account %d us", r.Total.Count(), r.Total.SumNs/1e3,
		queue[0]/1e3, queue[1]/1e3)
	if n := r.Total.Count(); n != got.kernel[BlockRead].operations || n != reads || r.Untimed != 0 {
		t.Errorf("%d reads, %d untimed, the kernel counted %d", n, r.Untimed, got.kernel[BlockRead].operations)
	}
	if queue[0] < r.Total.SumNs/20 {
		t.Errorf("no queue: %d ns of %d", queue[0], r.Total.SumNs)
	}
	if !within(queue[1], queue[0], 0.1) {
		t.Errorf("%d ns in the queue, by the kernel's account %d ns", queue[0], queue[1])
	}
}

// A disk that the kernel does not account for has unmatched requests, not long ones.
func TestBlockIOWithoutAccounting(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	d.times(t, 50, d.read)        // leaves times behind in requests
	d.set(t, "scheduler", "none") // others need the times, too
	d.set(t, "iostats", "0")
	before := b.Counts().Unmatched
	begin := time.Now()
	got := d.tally(t, b, func() { d.times(t, 100, d.read) })
	unmatched, counted := b.Counts().Unmatched-before, &got.probe[BlockRead].Total
	t.Logf("%d unmatched, %d of %d ns", unmatched, counted.Count(), counted.SumNs)
	if unmatched < 100 || counted.Count() != 0 {
		t.Errorf("%d unmatched, %d counted with %d ns in %v", unmatched, counted.Count(), counted.SumNs, time.Since(begin))
	}
}

// A disk that makes no requests counts by its bios, once, and as stacked.
func TestBlockIOBios(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), zramDevice(t)
	d.times(t, 10, d.write)
	if before := b.of(t, d.name); before[BlockWrite].Total.Count() != 0 {
		t.Errorf("%d requests of a disk that makes none", before[BlockWrite].Total.Count())
	}
	if err := b.Extend(BlockIOBios, true); err != nil {
		t.Fatal(err)
	}
	got := d.tally(t, b, func() {
		d.times(t, 200, d.write)
		d.times(t, 100, d.read)
	})
	for direction, n := range map[BlockDirection]uint64{BlockRead: 100, BlockWrite: 200} {
		p := &got.probe[direction]
		if p.Total.Count() != n || got.kernel[direction].operations != n {
			t.Errorf("%d %ss, the kernel counted %d of %d", p.Total.Count(), direction, got.kernel[direction].operations, n)
		}
		if p.Total.SumNs == 0 || p.Queue.Count()+p.Device.Count() != 0 {
			t.Errorf("%s: %d ns, %d in a queue", direction, p.Total.SumNs, p.Queue.Count())
		}
	}
	for slot := range b.Slots() {
		if of, _ := b.Disk(slot); b.Sequence(slot) != 0 && of.Name == d.name && !(of.Bios && of.Stacked) {
			t.Errorf("got %+v", of)
		}
	}
	if err := b.Extend(BlockIOBios, false); err != nil {
		t.Fatal(err)
	}
	got = d.tally(t, b, func() { d.times(t, 10, d.write) })
	if n := got.probe[BlockWrite].Total.Count(); n != 0 {
		t.Errorf("%d bios though nobody wants them", n)
	}
}

// The bios of a disk that makes requests do not count beside these.
func TestBlockIOCountsNothingTwice(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	if err := b.Extend(BlockIOBios, true); err != nil {
		t.Fatal(err)
	}
	got := d.tally(t, b, func() { d.times(t, 100, d.write) })
	if n := got.probe[BlockWrite].Total.Count(); n != 100 || n != got.kernel[BlockWrite].operations {
		t.Errorf("%d writes, the kernel counted %d", n, got.kernel[BlockWrite].operations)
	}
}

// A disk that goes and comes again under its name is another one, and slots are used again.
func TestBlockIOSlots(t *testing.T) {
	requireCapabilities(t)
	b := openBlockIO(t, &Kernel{}, BlockIOOptions{})
	used := func() (list []int) {
		for slot := range b.Slots() {
			if b.Sequence(slot) != 0 {
				list = append(list, slot)
			}
		}
		return list
	}
	for range b.Slots() { // each is a disk of its own for the kernel
		t.Run("disk", func(t *testing.T) {
			d := loopDevice(t, t.TempDir(), unix.LO_FLAGS_AUTOCLEAR)
			d.times(t, 3, d.read)
		})
	}
	if !b.Full() {
		t.Fatalf("%d disks found room in %d slots", b.Slots(), b.Slots())
	}
	var others BlockIOCounts
	if err := b.Read(int(BlockRead), &others); err != nil || others.Total.Count() < 3*blockIOOthers {
		t.Errorf("%d requests of other disks: %v", others.Total.Count(), err)
	}
	for _, slot := range used() {
		d, err := b.Disk(slot)
		if err := errors.Join(err, b.Forget(d), b.Free(slot)); err != nil {
			t.Fatal(err)
		}
	}
	d := testDisk(t)
	got := d.tally(t, b, func() { d.times(t, 50, d.read) })
	if n := got.probe[BlockRead].Total.Count(); n != 50 || b.Full() {
		t.Errorf("%d reads of a new disk", n)
	}
}

// One of so many requests stands for all when the governor says so.
func TestBlockIOSamples(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	if err := b.Sample(2, 1); err != nil {
		t.Fatal(err)
	}
	got := d.tally(t, b, func() { d.times(t, 4000, d.read) })
	n := got.probe[BlockRead].Total.Count()
	if n%4 != 0 || !within(n, 4000, 0.2) { // 7 standard deviations
		t.Errorf("4000 reads seem to be %d", n)
	}
	if b.Counts().Skipped == 0 {
		t.Error("nothing was left out")
	}
}

// Detaching loses nothing but what happens meanwhile.
func TestBlockIODetached(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), testDisk(t)
	if err := errors.Join(b.Detach(), b.Extend(BlockIOBios, true)); err != nil {
		t.Fatal(err)
	}
	if got := d.tally(t, b, func() { d.times(t, 10, d.read) }); got.probe[BlockRead].Total.Count() != 0 {
		t.Error("detached programs count")
	}
	if err := b.Attach(); err != nil {
		t.Fatal(err)
	}
	if got := d.tally(t, b, func() { d.times(t, 10, d.read) }); got.probe[BlockRead].Total.Count() != 10 {
		t.Errorf("%d reads of 10", got.probe[BlockRead].Total.Count())
	}
	if !b.Extended(BlockIOBios) || !strings.Contains(b.Hook(), "block_bio_queue") {
		t.Errorf("the hook is %s", b.Hook())
	}
}

func TestBlockIOWithoutCapability(t *testing.T) {
	requireCapabilities(t)
	var err error
	without(t, func() {
		var b io.Closer
		if b, err = NewBlockIO(&Kernel{}, BlockIOOptions{}); err == nil {
			b.Close()
		}
	}, capBPF, capSysAdmin)
	if err == nil || !strings.Contains(err.Error(), "CAP_BPF") {
		t.Errorf("got %v", err)
	}
}

func TestBlockIOReadAllocatesNothing(t *testing.T) {
	b := openBlockIO(t, &Kernel{}, BlockIOOptions{})
	var c BlockIOCounts
	n := testing.AllocsPerRun(20, func() {
		for slot := range b.Slots() {
			_ = b.Sequence(slot)
			_ = b.Read(slot, &c)
		}
	})
	if n != 0 {
		t.Errorf("reading allocates %v times", n)
	}
}

// blockLoad does n reads and writes of a size in several threads.
func (d *blockDevice) blockLoad(n, size int) error {
	const threads = 4
	var all sync.WaitGroup
	var errs [threads]error
	for i := range threads {
		all.Go(func() {
			for k := range n / threads {
				at, f := int64((k*threads+i)*size%blockTestSize), unix.Pread
				if k%2 == 0 {
					f = unix.Pwrite
				}
				if n, err := f(int(d.direct.Fd()), d.pages[i][:size], at); err != nil || n != size {
					errs[i] = errors.Join(io.ErrShortWrite, err)
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs[:]...)
}
