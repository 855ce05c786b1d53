package bpf

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/blocktest"
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
	kernel [blockDirections]blocktest.Count
}

// diskstat returns what the kernel counted of a disk, by direction.
func diskstat(tb testing.TB, d *blocktest.Device) [blockDirections]blocktest.Count {
	tb.Helper()
	s := d.Stat(tb)
	return [...]blocktest.Count{BlockRead: s.Read, BlockWrite: s.Write, BlockFlush: s.Flush, BlockDiscard: s.Discard}
}

// tally lets something happen, waits until the probe and the kernel have counted it, and returns what they did.
//
// On two CPUs, Linux 6.18 at times runs no program at a tracepoint for some tenths of a millisecond (bpf/README.md). So what
// does not agree gets another two chances.
func (b *BlockIO) tally(tb testing.TB, d *blocktest.Device, happens func()) (t tally) {
	tb.Helper()
	for range 3 {
		if t = b.tallyOnce(tb, d, happens); t.agrees() {
			break
		}
	}
	return t
}

// agrees says whether both accounts have as many requests. The kernel counts those that wait for a flush as writes.
func (t *tally) agrees() bool {
	for i := range t.probe {
		waiting := uint64(0)
		if BlockDirection(i) == BlockWrite {
			waiting = t.kernel[BlockFlush].Operations
		}
		if n := t.probe[i].Total.Count(); n > t.kernel[i].Operations || n+waiting < t.kernel[i].Operations {
			return false
		}
	}
	return true
}

func (b *BlockIO) tallyOnce(tb testing.TB, d *blocktest.Device, happens func()) (t tally) {
	tb.Helper()
	probe, kernel := b.of(tb, d.Name), diskstat(tb, d)
	happens()
	var now blockCounts
	var stat [blockDirections]blocktest.Count
	for deadline := time.Now().Add(10 * time.Second); ; { // completion goes on after the caller was woken up
		now, stat = b.of(tb, d.Name), diskstat(tb, d)
		time.Sleep(20 * time.Millisecond)
		if now == b.of(tb, d.Name) && stat == diskstat(tb, d) {
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
		t.kernel[i].Operations = stat[i].Operations - kernel[i].Operations
		t.kernel[i].Milliseconds = stat[i].Milliseconds - kernel[i].Milliseconds
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
// its time somewhat later, when it has told who waits, so many requests wait for each other.
func TestBlockIOAgreesWithDiskstats(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	got := b.tally(t, d, func() {
		for begin := diskstat(t, d); ; {
			d.Flood(t, blocktest.FloodRead, 256, 1<<16)
			d.Flood(t, blocktest.FloodWrite, 256, 1<<16)
			now := diskstat(t, d)
			if min(now[BlockRead].Milliseconds-begin[BlockRead].Milliseconds,
				now[BlockWrite].Milliseconds-begin[BlockWrite].Milliseconds) >= 300 { // of which the kernel may round off one
				break
			}
		}
	})
	missed := b.missed(t)
	for _, direction := range []BlockDirection{BlockRead, BlockWrite} {
		p, k := &got.probe[direction], got.kernel[direction]
		t.Logf("%s: diskstats %d in %d ms, probe %d in %d us: %d us in the queue, %d us in the device, %d untimed",
			direction, k.Operations, k.Milliseconds, p.Total.Count(), p.Total.SumNs/1e3, p.Queue.SumNs/1e3,
			p.Device.SumNs/1e3, p.Untimed)
		if n := k.Operations - p.Total.Count(); n > missed {
			t.Errorf("%s: %d requests and %d missed, the kernel counted %d", direction, p.Total.Count(), missed, k.Operations)
		}
		if !within(p.Total.SumNs/1e6, k.Milliseconds, 0.02) {
			t.Errorf("%s: %d ns, the kernel counted %d ms", direction, p.Total.SumNs, k.Milliseconds)
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

// Thousands of small requests are all counted.
func TestBlockIOCountsAll(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	got := b.tally(t, d, func() {
		if err := d.Load(20000, blocktest.Block); err != nil {
			t.Fatal(err)
		}
	})
	missed := b.missed(t)
	for _, direction := range []BlockDirection{BlockRead, BlockWrite} {
		n, want := got.probe[direction].Total.Count(), got.kernel[direction].Operations
		t.Logf("%d %ss of %d, %d missed", n, direction, want, missed)
		if want < 10000 || want-n > missed {
			t.Errorf("%d %ss and %d missed, the kernel counted %d: %+v", n, direction, missed, want, b.Counts())
		}
	}
	if missed > 20 {
		t.Errorf("the kernel kept %d events from the program since it was running", missed)
	}
}

// A flush of the device counts as the kernel counts it. It has nothing to write, though /proc/diskstats says so.
func TestBlockIOFlush(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	if cache, _ := os.ReadFile("/sys/block/" + d.Name + "/queue/write_cache"); !strings.Contains(string(cache), "back") {
		t.Skip("the disk has no cache to flush")
	}
	const writes, flushes = 40, 30
	got := b.tally(t, d, func() {
		d.Times(t, writes, d.Write)
		for range flushes {
			if err := d.File.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n := got.probe[BlockFlush].Total.Count(); n != flushes || n != got.kernel[BlockFlush].Operations {
		t.Errorf("%d flushes, the kernel counted %d of %d", n, got.kernel[BlockFlush].Operations, flushes)
	}
	if n := got.probe[BlockWrite].Total.Count(); n != writes || got.kernel[BlockWrite].Operations != writes+flushes {
		t.Errorf("%d writes of %d, the kernel counted %d with %d that wait for a flush", n, writes,
			got.kernel[BlockWrite].Operations, flushes)
	}
}

// A write that wants the cache flushed before and after is completed twice by the kernel, and is one write.
func TestBlockIOCountsFlushedWritesOnce(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	const writes = 30
	got := b.tally(t, d, func() {
		for i := range writes {
			if _, err := unix.Pwritev2(int(d.File.Fd()), [][]byte{d.Pages[0][:blocktest.Block]}, int64(i*blocktest.Block), unix.RWF_DSYNC); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Logf("kernel: %+v", got.kernel)
	if n := got.probe[BlockWrite].Total.Count(); n != writes {
		t.Errorf("%d writes of %d", n, writes)
	}
	if n := got.probe[BlockFlush].Total.Count(); n != got.kernel[BlockFlush].Operations {
		t.Errorf("%d flushes, the kernel counted %d", n, got.kernel[BlockFlush].Operations)
	}
}

func TestBlockIODiscard(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	got := b.tally(t, d, func() {
		for i := range uint64(10) {
			if err := d.Discard(i*65536, 65536); errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("the disk cannot discard")
			} else if err != nil {
				t.Fatal(err)
			}
		}
	})
	if n := got.probe[BlockDiscard].Total.Count(); n == 0 || n != got.kernel[BlockDiscard].Operations {
		t.Errorf("%d discards, the kernel counted %d", n, got.kernel[BlockDiscard].Operations)
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
	d := blocktest.Loop(t, folder, unix.LO_FLAGS_AUTOCLEAR)
	failed := uint64(0)
	got := b.tally(t, d, func() {
		failed = 0
		for offset := int64(0); offset < 4<<20; offset += 1 << 18 {
			if d.Write(offset, blocktest.Block*64) != nil {
				failed++
			}
		}
	})
	w := &got.probe[BlockWrite]
	t.Logf("%d writes failed of %d, the kernel counted %d", failed, w.Total.Count(), got.kernel[BlockWrite].Operations)
	if failed == 0 || w.Errors != failed {
		t.Errorf("%d errors, %d writes failed", w.Errors, failed)
	}
	if w.Total.Count() != got.kernel[BlockWrite].Operations {
		t.Errorf("%d writes, the kernel counted %d", w.Total.Count(), got.kernel[BlockWrite].Operations)
	}
}

// A read beyond the end of the file is completed in parts: what there is, and an error. It is one read.
func TestBlockIOCountsPartsOnce(t *testing.T) {
	b := openBlockIO(t, &Kernel{}, BlockIOOptions{})
	folder := t.TempDir()
	d := blocktest.Loop(t, folder, unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_DIRECT_IO)
	if dio, _ := os.ReadFile("/sys/block/" + d.Name + "/loop/dio"); strings.TrimSpace(string(dio)) != "1" {
		t.Skip("the file system has no direct I/O, without which no read is completed in parts")
	}
	if err := os.Truncate(filepath.Join(folder, "backing"), 1<<20+8*blocktest.Block); err != nil {
		t.Fatal(err)
	}
	failed := error(nil)
	got := b.tally(t, d, func() { failed = d.Read(1<<20, 16*blocktest.Block) })
	r := &got.probe[BlockRead]
	t.Logf("%v; %d reads, %d errors, the kernel counted %d", failed, r.Total.Count(), r.Errors, got.kernel[BlockRead].Operations)
	if r.Total.Count() != got.kernel[BlockRead].Operations || r.Total.Count() != 1 {
		t.Errorf("%d reads, the kernel counted %d", r.Total.Count(), got.kernel[BlockRead].Operations)
	}
	if (failed != nil) != (r.Errors == 1) || r.Errors > 1 {
		t.Errorf("%d errors: %v", r.Errors, failed)
	}
}

// Where the kernel does not keep the time at which the driver got a request, the probe finds out and looks itself.
func TestBlockIOWithoutDriversTime(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{untold: true}), blocktest.Disk(t)
	got := b.tally(t, d, func() { d.Times(t, 20, d.Read) })
	if r := &got.probe[BlockRead]; r.Total.Count() != 20 || r.Untimed != 20 || r.Device.Count() != 0 {
		t.Errorf("%d of 20 requests, %d of them without the time, %d with", r.Total.Count(), r.Untimed, r.Device.Count())
	}
	if err := b.Extend(BlockIOIssue, true); err != nil {
		t.Fatal(err)
	}
	got = b.tally(t, d, func() { d.Times(t, 100, d.Read) })
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
	d := blocktest.Disk(t)
	d.Set(t, "scheduler", "mq-deadline")
	d.Set(t, "nomerges", "2")
	d.Set(t, "nr_requests", "1024") // the scheduler takes; the driver takes 128 or 256
	kernels, own := openBlockIO(t, &Kernel{}, BlockIOOptions{}), openBlockIO(t, &Kernel{}, BlockIOOptions{untold: true})
	for _, b := range []*BlockIO{kernels, own} {
		if err := b.Extend(BlockIOIssue, true); err != nil {
			t.Fatal(err)
		}
	}
	own.tally(t, d, func() { d.Times(t, 1, d.Read) }) // tells that there is need for it
	before := kernels.of(t, d.Name)
	const reads = 800
	got := own.tally(t, d, func() { d.Flood(t, blocktest.FloodRead, reads, 1<<17) })
	queue := [2]uint64{got.probe[BlockRead].Queue.SumNs}
	now := kernels.of(t, d.Name)
	queue[1] = now[BlockRead].Queue.SumNs - before[BlockRead].Queue.SumNs
	r := &got.probe[BlockRead]
	t.Logf("%d reads of %d us: %d us in the queue, by the kernel's account %d us", r.Total.Count(), r.Total.SumNs/1e3,
		queue[0]/1e3, queue[1]/1e3)
	if n := r.Total.Count(); n != got.kernel[BlockRead].Operations || n != reads || r.Untimed > reads/20 {
		t.Errorf("%d reads, %d untimed, the kernel counted %d", n, r.Untimed, got.kernel[BlockRead].Operations)
	}
	if queue[0] < r.Total.SumNs/20 {
		t.Errorf("no queue: %d ns of %d", queue[0], r.Total.SumNs)
	}
	if !within(queue[1], queue[0], 0.25) { // it may read the clock once for many that are handed in at once
		t.Errorf("%d ns in the queue, by the kernel's account %d ns", queue[0], queue[1])
	}
}

// A disk that the kernel does not account for has unmatched requests, not long ones.
func TestBlockIOWithoutAccounting(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	d.Times(t, 50, d.Read)        // leaves times behind in requests
	d.Set(t, "scheduler", "none") // others need the times, too
	d.Set(t, "iostats", "0")
	before := b.Counts().Unmatched
	begin := time.Now()
	got := b.tally(t, d, func() { d.Times(t, 100, d.Read) })
	unmatched, counted := b.Counts().Unmatched-before, &got.probe[BlockRead].Total
	t.Logf("%d unmatched, %d of %d ns", unmatched, counted.Count(), counted.SumNs)
	if unmatched < 100 || counted.Count() != 0 {
		t.Errorf("%d unmatched, %d counted with %d ns in %v", unmatched, counted.Count(), counted.SumNs, time.Since(begin))
	}
}

// A disk that makes no requests counts by its bios, once, and as stacked.
func TestBlockIOBios(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.ZRAM(t)
	d.Times(t, 10, d.Write)
	if before := b.of(t, d.Name); before[BlockWrite].Total.Count() != 0 {
		t.Errorf("%d requests of a disk that makes none", before[BlockWrite].Total.Count())
	}
	if err := b.Extend(BlockIOBios, true); err != nil {
		t.Fatal(err)
	}
	got := b.tally(t, d, func() {
		d.Times(t, 200, d.Write)
		d.Times(t, 100, d.Read)
	})
	for direction, n := range map[BlockDirection]uint64{BlockRead: 100, BlockWrite: 200} {
		p := &got.probe[direction]
		if p.Total.Count() != n || got.kernel[direction].Operations != n {
			t.Errorf("%d %ss, the kernel counted %d of %d", p.Total.Count(), direction, got.kernel[direction].Operations, n)
		}
		if p.Total.SumNs == 0 || p.Queue.Count()+p.Device.Count() != 0 {
			t.Errorf("%s: %d ns, %d in a queue", direction, p.Total.SumNs, p.Queue.Count())
		}
	}
	for slot := range b.Slots() {
		if of, _ := b.Disk(slot); b.Sequence(slot) != 0 && of.Name == d.Name && !(of.Bios && of.Stacked) {
			t.Errorf("got %+v", of)
		}
	}
	if err := b.Extend(BlockIOBios, false); err != nil {
		t.Fatal(err)
	}
	got = b.tally(t, d, func() { d.Times(t, 10, d.Write) })
	if n := got.probe[BlockWrite].Total.Count(); n != 0 {
		t.Errorf("%d bios though nobody wants them", n)
	}
}

// The bios of a disk that makes requests do not count beside these.
func TestBlockIOCountsNothingTwice(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	if err := b.Extend(BlockIOBios, true); err != nil {
		t.Fatal(err)
	}
	got := b.tally(t, d, func() { d.Times(t, 100, d.Write) })
	if n := got.probe[BlockWrite].Total.Count(); n != 100 || n != got.kernel[BlockWrite].Operations {
		t.Errorf("%d writes, the kernel counted %d", n, got.kernel[BlockWrite].Operations)
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
			d := blocktest.Loop(t, t.TempDir(), unix.LO_FLAGS_AUTOCLEAR)
			d.Times(t, 3, d.Read)
		})
	}
	if !b.Full() {
		t.Fatalf("%d disks found room in %d slots", b.Slots(), b.Slots())
	}
	var others BlockIOCounts
	if err := b.Read(int(BlockRead), &others); err != nil || others.Total.Count() < 3*BlockIOOthers {
		t.Errorf("%d requests of other disks: %v", others.Total.Count(), err)
	}
	for _, slot := range used() {
		d, err := b.Disk(slot)
		if err := errors.Join(err, b.Forget(d), b.Free(slot)); err != nil {
			t.Fatal(err)
		}
	}
	d := blocktest.Disk(t)
	got := b.tally(t, d, func() { d.Times(t, 50, d.Read) })
	if n := got.probe[BlockRead].Total.Count(); n != 50 || b.Full() {
		t.Errorf("%d reads of a new disk", n)
	}
}

// One of so many requests stands for all when the governor says so.
func TestBlockIOSamples(t *testing.T) {
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	if err := b.Sample(2); err != nil {
		t.Fatal(err)
	}
	got := b.tally(t, d, func() { d.Times(t, 4000, d.Read) })
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
	b, d := openBlockIO(t, &Kernel{}, BlockIOOptions{}), blocktest.Disk(t)
	if err := errors.Join(b.Detach(), b.Extend(BlockIOBios, true)); err != nil {
		t.Fatal(err)
	}
	if got := b.tally(t, d, func() { d.Times(t, 10, d.Read) }); got.probe[BlockRead].Total.Count() != 0 {
		t.Error("detached programs count")
	}
	if err := b.Attach(); err != nil {
		t.Fatal(err)
	}
	if got := b.tally(t, d, func() { d.Times(t, 10, d.Read) }); got.probe[BlockRead].Total.Count() != 10 {
		t.Errorf("%d reads of 10", got.probe[BlockRead].Total.Count())
	}
	if !b.Extended(BlockIOBios) || !strings.Contains(b.Hook(), "block_bio_queue") {
		t.Errorf("the hook is %s", b.Hook())
	}
}

// A request counts for the control group that it is of, if the io controller of version 2 tells, and on disks of hardware
// alone: what is stacked on them would count it again.
func TestBlockIOOwners(t *testing.T) {
	requireCapabilities(t)
	const tree, slot = "/sys/fs/cgroup", 5
	if on, _ := os.ReadFile(tree + "/cgroup.subtree_control"); !strings.Contains(string(on), "io") {
		t.Skip("needs cgroup version 2 with the io controller on: SLID_TEST_DISK in make test-vm")
	}
	group := tree + "/slidtest-blockio.service"
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	move := func(to string) {
		t.Helper()
		if err := os.WriteFile(to+"/cgroup.procs", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		move(tree)
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	k := &Kernel{}
	owners, err := NewOwners(k, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer owners.Close()
	k.Attribute(owners)
	var s unix.Stat_t
	if err := errors.Join(unix.Stat(group, &s), owners.Assign(s.Ino, slot)); err != nil {
		t.Fatal(err)
	}
	b, d := openBlockIO(t, k, BlockIOOptions{Owned: true}), blocktest.Disk(t)
	move(group)
	b.tallyOnce(t, d, func() {
		d.Times(t, 60, d.Read)
		if err := d.File.Sync(); err != nil {
			t.Fatal(err)
		}
	})
	move(tree)
	b.tallyOnce(t, d, func() { d.Times(t, 30, d.Write) })
	want := [2][BlockDiscard]uint64{{BlockWrite: 30}, {BlockRead: 60}}
	if s, _ := os.ReadFile(d.Knob("write_cache")); strings.Contains(string(s), "back") {
		want[1][BlockFlush] = 1
	}
	if _, err := os.Stat("/sys/block/" + d.Name + "/device"); err != nil {
		want = [2][BlockDiscard]uint64{} // it is no hardware
	}
	for i, at := range []int{RestSlot, slot} {
		var c BlockIOOwned
		if err := b.Owners.Read(at, &c); err != nil {
			t.Fatal(err)
		}
		for direction := range c.Time {
			if n := c.Time[direction].Count(); n != want[i][direction] {
				t.Errorf("slot %d: %d of %d %ss", at, n, want[i][direction], BlockDirection(direction))
			}
		}
	}
	t.Logf("%s: %v", d.Name, want)
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

func BenchmarkBlockIORead(b *testing.B) {
	p := openBlockIO(b, &Kernel{}, BlockIOOptions{})
	var c BlockIOCounts
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Read(BlockIOOthers, &c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBlockIORequest reports what the kernel's statistics say that a request costs in programs: the probe, by its
// best hook and by the one besides, and the usual way of three hooks and a map. Both are attached while the same requests
// are made, and see the same.
func BenchmarkBlockIORequest(b *testing.B) {
	for name, untold := range map[string]bool{"probe": false, "probe-with-issue": true} {
		b.Run(name, func(b *testing.B) {
			p, d := openBlockIO(b, &Kernel{}, BlockIOOptions{untold: untold}), blocktest.Disk(b)
			if err := p.Extend(BlockIOIssue, untold); err != nil {
				b.Fatal(err)
			}
			usual := usualBlockIO(b)
			stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				b.Skip("bpf statistics:", err)
			}
			defer stats.Close()
			before := p.of(b, d.Name)
			for b.Loop() {
				if err := d.Load(1000, blocktest.Block); err != nil {
					b.Fatal(err)
				}
			}
			after := p.of(b, d.Name)
			requests := float64(after[BlockRead].Total.Count() + after[BlockWrite].Total.Count() -
				before[BlockRead].Total.Count() - before[BlockWrite].Total.Count())
			own, theirs := programTime(b, p.Programs())/requests, programTime(b, usual)/requests
			b.ReportMetric(own, "ns/request")
			b.ReportMetric(theirs, "ns/request-usual")
			b.ReportMetric(own/theirs, "of-usual")
		})
	}
}

// programTime returns the time in ns that the kernel measured of programs.
func programTime(tb testing.TB, programs []*ebpf.Program) (ns float64) {
	tb.Helper()
	for _, p := range programs {
		s, err := p.Stats()
		if err != nil {
			tb.Fatal(err)
		}
		ns += float64(s.Runtime.Nanoseconds())
	}
	return ns
}

// usualBlockIO attaches the programs of the usual way.
func usualBlockIO(tb testing.TB) (programs []*ebpf.Program) {
	tb.Helper()
	spec, err := gen.LoadBlockioTest()
	if err != nil {
		tb.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	for _, p := range c.Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { l.Close() })
		programs = append(programs, p)
	}
	return programs
}
