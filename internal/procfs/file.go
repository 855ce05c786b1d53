// Package procfs reads kept-open files of /proc and /sys again and again without allocating, and scans their bytes.
//
// A File is opened by raw system calls: an os.File would offer every descriptor to Go's network poller, which procfs
// refuses. One reading costs one pread (two for files of many records) into a buffer that is reused, grows to the
// size of the file once, and never beyond MaxSize. The scanners (Line, Field, Uint, Uints, Decimal) work on those
// bytes in place. They return errors on truncated or binary input and never panic.
package procfs

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// MaxSize is the size from which on a file counts as endless. The largest that slid reads is /proc/stat, with about
// 100 bytes for each of at most 8,192 CPUs and 2 to 10 for each interrupt.
const MaxSize = 4 << 20

// minSize is the first size of a buffer: one page, the most that a seq_file gives at a time.
const minSize = 4 << 10

// ErrTooLarge says that a file did not end within MaxSize bytes.
var ErrTooLarge = errors.New("file does not end within 4 MiB")

// A File is a kept-open file of /proc or /sys. It belongs to one goroutine.
type File struct {
	path   string
	fd     int // -1 while the file is not open
	single bool
	buf    []byte
}

// Open opens a file of many records, each of which the kernel may hand out by itself (/proc/diskstats,
// /proc/net/dev): it is read until the kernel says that nothing is left. Errors are *fs.PathError.
func Open(path string) (*File, error) { return open(path, false) }

// OpenSingle opens a file that the kernel makes as one record (/proc/stat, /proc/meminfo, /proc/loadavg,
// /proc/pressure/*, the attributes of /sys): a read that leaves room in the buffer has all of it, which saves the
// second system call.
func OpenSingle(path string) (*File, error) { return open(path, true) }

// ReadAll reads a file once. It is for discovery, not for a tick: it allocates.
func ReadAll(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	b, err := f.Read()
	return b, errors.Join(err, f.Close())
}

func open(path string, single bool) (*File, error) {
	f := &File{path: path, fd: -1, single: single, buf: make([]byte, minSize)}
	if err := f.reopen(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path returns the path that the file was opened by.
func (f *File) Path() string { return f.path }

// Close gives the descriptor back. A closed file opens again with the next Read.
func (f *File) Close() error {
	if f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	if err := unix.Close(fd); err != nil {
		return &fs.PathError{Op: "close", Path: f.path, Err: err}
	}
	return nil
}

// Read returns the present content of the file, valid until the next Read. If what was behind the descriptor has
// gone (a device unplugged, a process ended, a network file system remounted), it opens the path once more. Errors
// are *fs.PathError; after one, the next Read tries afresh.
func (f *File) Read() ([]byte, error) {
	if f.fd >= 0 {
		b, err := f.read()
		if err == nil {
			return b, nil
		}
		if !gone(err) {
			return nil, &fs.PathError{Op: "read", Path: f.path, Err: err}
		}
	}
	if err := f.reopen(); err != nil {
		return nil, err
	}
	b, err := f.read()
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: f.path, Err: err}
	}
	return b, nil
}

// gone says whether an error means that the descriptor will never work again, though the path may.
func gone(err error) bool {
	return errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EBADF)
}

// reopen opens the path. O_NONBLOCK matters only where a path turns out to be a pipe: opening it would wait for a
// writer.
func (f *File) reopen() error {
	if f.fd >= 0 {
		_ = unix.Close(f.fd) // the file behind it has gone
		f.fd = -1
	}
	for {
		fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "open", Path: f.path, Err: err}
		}
		f.fd = fd
		return nil
	}
}

// read fills the buffer from the start of the file.
func (f *File) read() ([]byte, error) {
	n := 0
	for {
		if n == len(f.buf) {
			if err := f.grow(); err != nil {
				return nil, err
			}
		}
		m, err := unix.Pread(f.fd, f.buf[n:], int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n += m
		if m == 0 || f.single && n < len(f.buf) {
			return f.buf[:n], nil
		}
	}
}

// grow doubles the buffer. A file that is too large gives the memory back.
func (f *File) grow() error {
	if len(f.buf) >= MaxSize {
		f.buf = make([]byte, minSize)
		return ErrTooLarge
	}
	larger := make([]byte, 2*len(f.buf))
	copy(larger, f.buf)
	f.buf = larger
	return nil
}
