// Package blocktest makes block devices for tests, does I/O of them, and reads what the kernel counts of it.
package blocktest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
)

// Sizes in bytes.
const (
	Size  = 16 << 20 // of the devices
	Block = 4096     // of most I/O that tests do
)

// Threads is how many threads Load has.
const Threads = 4

// A Device is a disk that nobody but the test uses.
type Device struct {
	Name  string
	File  *os.File        // past the page cache: every read and write is one request
	Pages [Threads][]byte // 1 MiB each, aligned as the device wants it
}

// open opens a device that exists.
func open(tb testing.TB, name string) *Device {
	tb.Helper()
	direct, err := os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { direct.Close() })
	d := &Device{Name: name, File: direct}
	for i := range d.Pages {
		page, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = unix.Munmap(page) })
		d.Pages[i] = page
	}
	return d
}

// Disk returns the disk named by SLID_TEST_DISK, whose content is lost, or else a loop device of its own.
func Disk(tb testing.TB) *Device {
	tb.Helper()
	testneed.Root(tb, "to open block devices")
	if name := os.Getenv("SLID_TEST_DISK"); name != "" {
		return open(tb, strings.TrimPrefix(name, "/dev/"))
	}
	return Loop(tb, tb.TempDir(), unix.LO_FLAGS_AUTOCLEAR)
}

// Loop makes a device of a file in a folder.
func Loop(tb testing.TB, folder string, flags uint32) *Device {
	tb.Helper()
	testneed.Root(tb, "to make loop devices")
	testneed.File(tb, "/dev/loop-control", "a kernel with loop devices (CONFIG_BLK_DEV_LOOP)")
	backing, err := os.Create(filepath.Join(folder, "backing"))
	if err != nil {
		tb.Fatal(err)
	}
	defer backing.Close()
	if err := backing.Truncate(Size); err != nil {
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
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: Block, Info: unix.LoopInfo64{Flags: flags}}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_, _ = unix.IoctlRetInt(int(loop.Fd()), unix.LOOP_CLR_FD) // closing does the same
		loop.Close()
	})
	return open(tb, "loop"+strconv.Itoa(n))
}

// ZRAM makes a device that makes no requests.
func ZRAM(tb testing.TB) *Device {
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
	size := []byte(strconv.Itoa(Size))
	if err := os.WriteFile("/sys/block/zram"+n+"/disksize", size, 0); err != nil {
		tb.Fatal(err)
	}
	return open(tb, "zram"+n)
}

// Read and write do one operation of some bytes at a place.
func (d *Device) Read(offset int64, size int) error {
	_, err := d.File.ReadAt(d.Pages[0][:size], offset)
	return err
}

func (d *Device) Write(offset int64, size int) error {
	_, err := d.File.WriteAt(d.Pages[0][:size], offset)
	return err
}

// Times does something n times, each time at another place.
func (d *Device) Times(tb testing.TB, n int, f func(offset int64, size int) error) {
	tb.Helper()
	for i := range n {
		if err := f(int64(i*Block%Size), Block); err != nil {
			tb.Fatal(err)
		}
	}
}

// Discard gives blocks back.
func (d *Device) Discard(offset, size uint64) error {
	span := [2]uint64{offset, size}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.File.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Knob returns the path of an attribute of the device's queue.
func (d *Device) Knob(attribute string) string {
	return filepath.Join("/sys/block", d.Name, "queue", attribute)
}

// Set writes an attribute of the device's queue until the test ends, or skips the test where that cannot be done.
func (d *Device) Set(tb testing.TB, attribute, value string) {
	tb.Helper()
	before, err := os.ReadFile(d.Knob(attribute))
	if err == nil {
		err = os.WriteFile(d.Knob(attribute), []byte(value), 0)
	}
	if err != nil {
		tb.Skipf("the kernel does not let the test change its queue: %v", err)
	}
	if _, chosen, ok := strings.Cut(string(before), "["); ok { // one of several
		before, _, _ = bytes.Cut([]byte(chosen), []byte("]"))
	}
	tb.Cleanup(func() {
		if err := os.WriteFile(d.Knob(attribute), before, 0); err != nil {
			tb.Error(err)
		}
	})
}

// What Flood does, as io_submit(2) numbers it.
const (
	FloodRead = iota
	FloodWrite
)

// Flood hands n reads or writes to the device at once, of places that do not adjoin, and waits for all (io_submit(2)).
func (d *Device) Flood(tb testing.TB, opcode uint16, n, size int) {
	tb.Helper()
	type iocb struct { // struct iocb in linux/aio_abi.h
		_           [2]uint64
		opcode, _   uint16
		fd          uint32
		buf, nbytes uint64
		offset      int64
		_           [2]uint64
	}
	type event struct{ data, object, result, result2 uint64 }
	var queue uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, uintptr(n), uintptr(unsafe.Pointer(&queue)), 0); errno != 0 {
		tb.Skip("no asynchronous I/O:", errno)
	}
	defer func() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, queue, 0, 0) }() // it exists
	requests, pointers := make([]iocb, n), make([]*iocb, n)
	for i := range requests {
		requests[i] = iocb{
			opcode: opcode, fd: uint32(d.File.Fd()), buf: uint64(uintptr(unsafe.Pointer(&d.Pages[0][0]))), nbytes: uint64(size),
			offset: int64(2 * i * size % Size),
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
			tb.Fatalf("%d of %d bytes", int64(e.result), size)
		}
	}
}

// Load does n reads and writes of a size in several threads.
func (d *Device) Load(n, size int) error {
	var all sync.WaitGroup
	var errs [Threads]error
	for i := range Threads {
		all.Go(func() {
			for k := range n / Threads {
				at, f := int64((k*Threads+i)*size%Size), unix.Pread
				if k%2 == 0 {
					f = unix.Pwrite
				}
				if n, err := f(int(d.File.Fd()), d.Pages[i][:size], at); err != nil || n != size {
					errs[i] = errors.Join(io.ErrShortWrite, err)
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs[:]...)
}

// A Count is a direction's part of a line in /proc/diskstats.
type Count struct{ Operations, Milliseconds uint64 }

// A Stat is a device's line of /proc/diskstats (Documentation/admin-guide/iostats.rst).
type Stat struct{ Read, Write, Discard, Flush Count }

// Stat reads what the kernel counted of the device.
func (d *Device) Stat(tb testing.TB) (s Stat) {
	tb.Helper()
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 20 || f[2] != d.Name {
			continue
		}
		for at, to := range map[int]*uint64{
			3: &s.Read.Operations, 6: &s.Read.Milliseconds, 7: &s.Write.Operations, 10: &s.Write.Milliseconds,
			14: &s.Discard.Operations, 17: &s.Discard.Milliseconds, 18: &s.Flush.Operations, 19: &s.Flush.Milliseconds,
		} {
			if *to, err = strconv.ParseUint(f[at], 10, 64); err != nil {
				tb.Fatal(err)
			}
		}
		return s
	}
	tb.Fatalf("%s is not in /proc/diskstats", d.Name)
	return s
}
