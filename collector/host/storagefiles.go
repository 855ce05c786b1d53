package host

import (
	"bytes"
	"errors"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/procfs"
)

// attributePath is the path of a file of /sys, ending with NUL.
type attributePath []byte

func newAttributePath(path string) attributePath { return append(attributePath(path), 0) }

// attributeReader reads small files without keeping them open: hundreds of them are read once a minute. It allocates
// nothing unless a file cannot be read.
type attributeReader struct{ buf [4096]byte }

// read returns the content of a file without the newline at its end, valid until the next read. Of a longer file it
// returns the beginning. The error is the bare unix.Errno.
func (r *attributeReader) read(path attributePath) ([]byte, error) {
	fd, err := r.open(path)
	if err != nil {
		return nil, err
	}
	n := 0
	for n < len(r.buf) {
		var m int
		if m, err = unix.Read(fd, r.buf[n:]); err != nil || m == 0 {
			break
		}
		n += m
	}
	unix.Close(fd)
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(r.buf[:n], []byte{'\n'}), nil
}

// open opens a file by the bare system call: unix.Open copies the path each time.
func (r *attributeReader) open(path attributePath) (int, error) {
	at := unix.AT_FDCWD
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])),
		unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// number reads a file that has one whole number.
func (r *attributeReader) number(path attributePath) (uint64, error) {
	b, err := r.read(path)
	if err != nil {
		return 0, err
	}
	return procfs.Uint(bytes.TrimSpace(b))
}

// fact reads a text that does not change. It is empty if there is none.
func (r *attributeReader) fact(path string) string {
	b, err := r.read(newAttributePath(path))
	if err != nil {
		return ""
	}
	return text(string(bytes.Trim(b, " \t\n\x00")))
}

// attributeError names a file that could not be read or understood.
func attributeError(path attributePath, err error) error {
	return &fs.PathError{Op: "read", Path: string(path[:len(path)-1]), Err: err}
}

// isAbsent says whether a file is not there, or its driver has nothing to say: no reason to complain.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) ||
		errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTDIR)
}

// deviceList reads the names in a directory again and again without allocating.
type deviceList struct {
	path string
	fd   int
	buf  [8192]byte
}

// openDeviceList opens a directory like /sys/block. Errors are *fs.PathError.
func openDeviceList(path string) (*deviceList, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &deviceList{path: path, fd: fd}, nil
}

// each calls f for each name but . and .., whose bytes are valid during the call.
func (d *deviceList) each(f func(name []byte)) error {
	if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
		return &fs.PathError{Op: "seek", Path: d.path, Err: err}
	}
	for {
		n, err := unix.ReadDirent(d.fd, d.buf[:])
		if err != nil {
			return &fs.PathError{Op: "read", Path: d.path, Err: err}
		}
		if n <= 0 {
			return nil
		}
		eachDirent(d.buf[:n], f)
	}
}

// eachDirent walks records of getdents64(2): inode, offset (8 bytes each), length (2), type (1), name and NUL.
func eachDirent(b []byte, f func(name []byte)) {
	const header = 19
	for len(b) > header {
		size := int(b[16]) | int(b[17])<<8
		if size <= header || size > len(b) {
			return
		}
		name, _, _ := bytes.Cut(b[header:size], []byte{0})
		if s := string(name); s != "." && s != ".." && s != "" {
			f(name)
		}
		b = b[size:]
	}
}

func (d *deviceList) close() error {
	if err := unix.Close(d.fd); err != nil {
		return &fs.PathError{Op: "close", Path: d.path, Err: err}
	}
	return nil
}

// hexCount reads a counter of the SCSI layer such as 0x1a. Only 32 bits count: the kernel extends a sign that is none.
func hexCount(b []byte) (uint32, error) {
	digits, ok := bytes.CutPrefix(bytes.TrimSpace(b), []byte("0x"))
	if !ok {
		return 0, procfs.ErrSyntax
	}
	v := uint64(0)
	if len(digits) == 0 || len(digits) > 16 {
		return 0, procfs.ErrSyntax
	}
	for _, c := range digits {
		n := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
		if n < 0 {
			return 0, procfs.ErrSyntax
		}
		v = v<<4 | uint64(n)
	}
	return uint32(v), nil
}

// carry32 is a count that goes on when its 32 bits are full.
type carry32 struct {
	total uint64
	last  uint32
}

// advance takes the present value and returns the total. A value that fell by at least half the range is behind a
// full turn; one that fell less began anew.
func (c *carry32) advance(now uint32) uint64 {
	switch {
	case now >= c.last:
		c.total += uint64(now - c.last)
	case c.last-now > 1<<31:
		c.total += uint64(now - c.last)
	default:
		c.total = uint64(now)
	}
	c.last = now
	return c.total
}

// complaints logs each bad file once per cause.
type complaints struct {
	known map[string]string
}

// fresh says whether an error of a file is another than the last one.
func (c *complaints) fresh(path attributePath, err error) bool {
	if c.known[string(path)] == err.Error() {
		return false
	}
	if c.known == nil {
		c.known = make(map[string]string)
	}
	if len(c.known) >= maxComplaints {
		clear(c.known)
	}
	c.known[string(path)] = err.Error()
	return true
}

// maxComplaints bounds what is remembered of files that went.
const maxComplaints = 1000
