package bpf

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
)

// blockTestSize is the size of test devices, and blockSize that of the I/O that tests do.
const blockTestSize, blockSize = 16 << 20, 4096

// A blockDevice is a disk that nobody but the test uses.
type blockDevice struct {
	name   string
	direct *os.File // past the page cache: every read and write is one request
	page   []byte   // aligned as the device wants it
	pages  [4][]byte
}

// openBlockDevice opens a device that exists.
func openBlockDevice(tb testing.TB, name string) *blockDevice {
	tb.Helper()
	direct, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { direct.Close() })
	d := &blockDevice{name: name, direct: direct}
	for i := range d.pages {
		page, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = unix.Munmap(page) })
		d.pages[i] = page
	}
	d.page = d.pages[0]
	return d
}

// testDisk returns the disk named by SLID_TEST_DISK, whose content is lost, or else a loop device of its own.
func testDisk(tb testing.TB) *blockDevice {
	tb.Helper()
	testneed.Root(tb, "to open block devices")
	if name := os.Getenv("SLID_TEST_DISK"); name != "" {
		return openBlockDevice(tb, strings.TrimPrefix(name, "/dev/"))
	}
	return loopDevice(tb, tb.TempDir(), unix.LO_FLAGS_AUTOCLEAR)
}

// loopDevice makes a device of a file in a folder.
func loopDevice(tb testing.TB, folder string, flags uint32) *blockDevice {
	tb.Helper()
	testneed.Root(tb, "to make loop devices")
	testneed.File(tb, "/dev/loop-control", "a kernel with loop devices (CONFIG_BLK_DEV_LOOP)")
	backing, err := os.Create(filepath.Join(folder, "backing"))
	if err != nil {
		tb.Fatal(err)
	}
	defer backing.Close()
	if err := backing.Truncate(blockTestSize); err != nil {
		tb.Fatal(err)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer control.Close()
	added, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), unix.LOOP_CTL_ADD, ^uintptr(0)) // any number
	if errno != 0 {
		tb.Fatal(errno)
	}
	n := int(added)
	tb.Cleanup(func() {
		control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
		if err == nil {
			err = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, n)
			control.Close()
		}
		if err != nil {
			tb.Error(err)
		}
	})
	loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
	if err != nil {
		tb.Fatal(err)
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: blockSize, Info: unix.LoopInfo64{Flags: flags}}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_, _ = unix.IoctlRetInt(int(loop.Fd()), unix.LOOP_CLR_FD) // closing does the same
		loop.Close()
	})
	return openBlockDevice(tb, "loop"+strconv.Itoa(n))
}

// zramDevice makes a device that makes no requests.
func zramDevice(tb testing.TB) *blockDevice {
	tb.Helper()
	testneed.Root(tb, "to make zram devices")
	testneed.File(tb, "/sys/class/zram-control/hot_add", "a kernel with CONFIG_ZRAM")
	id, err := os.ReadFile("/sys/class/zram-control/hot_add")
	if err != nil {
		tb.Fatal(err)
	}
	n := strings.TrimSpace(string(id))
	tb.Cleanup(func() {
		if err := os.WriteFile("/sys/class/zram-control/hot_remove", []byte(n), 0); err != nil {
			tb.Error(err)
		}
	})
	size := []byte(strconv.Itoa(blockTestSize))
	if err := os.WriteFile("/sys/block/zram"+n+"/disksize", size, 0); err != nil {
		tb.Fatal(err)
	}
	return openBlockDevice(tb, "zram"+n)
}

// read and write do one operation of some bytes at a place.
func (d *blockDevice) read(offset int64, size int) error {
	_, err := d.direct.ReadAt(d.page[:size], offset)
	return err
}

func (d *blockDevice) write(offset int64, size int) error {
	_, err := d.direct.WriteAt(d.page[:size], offset)
	return err
}

// times does something n times, each time at another place.
func (d *blockDevice) times(tb testing.TB, n int, f func(offset int64, size int) error) {
	tb.Helper()
	for i := range n {
		if err := f(int64(i*blockSize%blockTestSize), blockSize); err != nil {
			tb.Fatal(err)
		}
	}
}

// discard gives blocks back.
func (d *blockDevice) discard(offset, size uint64) error {
	span := [2]uint64{offset, size}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.direct.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span)))
	if errno != 0 {
		return errno
	}
	return nil
}

// knob returns the path of an attribute of the device's queue.
func (d *blockDevice) knob(attribute string) string {
	return filepath.Join("/sys/block", d.name, "queue", attribute)
}

// set writes an attribute of the device's queue until the test ends, or skips the test where that cannot be done.
func (d *blockDevice) set(tb testing.TB, attribute, value string) {
	tb.Helper()
	before, err := os.ReadFile(d.knob(attribute))
	if err == nil {
		err = os.WriteFile(d.knob(attribute), []byte(value), 0)
	}
	if err != nil {
		tb.Skipf("the kernel does not let the test change its queue: %v", err)
	}
	if _, chosen, ok := strings.Cut(string(before), "["); ok { // one of several
		before, _, _ = bytes.Cut([]byte(chosen), []byte("]"))
	}
	tb.Cleanup(func() {
		if err := os.WriteFile(d.knob(attribute), before, 0); err != nil {
			tb.Error(err)
		}
	})
}

// flood hands n reads of a size to the device at once, and waits for all (io_submit(2)).
func (d *blockDevice) flood(tb testing.TB, n, size int) {
	tb.Helper()
	type iocb struct { // struct iocb in linux/aio_abi.h
		data, key      uint64
		opcode, prio   uint16 // opcode 0: pread
		fd             uint32
		buf, nbytes    uint64
		offset, _      int64
		flags, eventfd uint32
	}
	type event struct{ data, object, result, result2 uint64 }
	var queue uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, uintptr(n), uintptr(unsafe.Pointer(&queue)), 0); errno != 0 {
		tb.Skip("no asynchronous I/O:", errno)
	}
	defer unix.Syscall(unix.SYS_IO_DESTROY, queue, 0, 0)
	requests, pointers := make([]iocb, n), make([]*iocb, n)
	for i := range requests {
		requests[i] = iocb{
			fd: uint32(d.direct.Fd()), buf: uint64(uintptr(unsafe.Pointer(&d.page[0]))), nbytes: uint64(size),
			offset: int64(i * size % blockTestSize),
		}
		pointers[i] = &requests[i]
	}
	for done := 0; done < n; {
		got, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, queue, uintptr(n-done), uintptr(unsafe.Pointer(&pointers[done])))
		if errno != 0 {
			tb.Fatal("io_submit:", errno)
		}
		done += int(got)
	}
	events := make([]event, n)
	for done := 0; done < n; {
		got, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, queue, 1, uintptr(n-done), uintptr(unsafe.Pointer(&events[done])), 0, 0)
		if errno != 0 && errno != unix.EINTR {
			tb.Fatal("io_getevents:", errno)
		}
		if errno == 0 {
			done += int(got)
		}
	}
	for _, e := range events {
		if e.result != uint64(size) {
			tb.Fatalf("a read gave %d of %d bytes", int64(e.result), size)
		}
	}
}

// A diskstat is a direction's part of a line in /proc/diskstats.
type diskstat struct{ operations, milliseconds uint64 }

// stat reads the device's line of /proc/diskstats (Documentation/admin-guide/iostats.rst), by direction.
func (d *blockDevice) stat(tb testing.TB) (s [blockDirections]diskstat) {
	tb.Helper()
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 20 || f[2] != d.name {
			continue
		}
		for direction, at := range map[BlockDirection][2]int{
			BlockRead: {3, 6}, BlockWrite: {7, 10}, BlockDiscard: {14, 17}, BlockFlush: {18, 19},
		} {
			for i, field := range at {
				n, err := strconv.ParseUint(f[field], 10, 64)
				if err != nil {
					tb.Fatal(err)
				}
				*[...]*uint64{&s[direction].operations, &s[direction].milliseconds}[i] = n
			}
		}
		return s
	}
	tb.Fatal(fmt.Errorf("%s is not in /proc/diskstats", d.name))
	return s
}
