package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/procfs"
)

// processStat is what is used of /proc/PID/stat (proc_pid_stat(5)).
type processStat struct {
	comm     []byte // valid until the next reading
	state    byte
	parent   int32
	kernel   bool      // a thread of the kernel
	threads  uint64    // of the whole process
	start    uint64    // ticks since boot; with the pid it is the identity of a process
	cpu      [2]uint64 // ticks in user and kernel mode, of all threads alive and ended
	children [2]uint64 // the same of all children that were waited for, and of theirs
	faults   uint64    // page faults of the same children: changes whenever one more was waited for
	rss      uint64    // pages
}

// kernelThread is PF_KTHREAD of the kernel's include/linux/sched.h.
const kernelThread = 0x00200000

var errStat = errors.New("not the line of a process")

// parse reads the content of /proc/PID/stat. The name of the program may contain anything, also blanks, newlines and
// parentheses, so what follows is found from the last parenthesis. After an error s is not of use.
func (s *processStat) parse(b []byte) error {
	open := bytes.IndexByte(b, '(')
	end := -1
	for more := b; ; { // there are few, and this direction is several times faster than LastIndexByte
		i := bytes.IndexByte(more, ')')
		if i < 0 {
			break
		}
		end += i + 1
		more = more[i+1:]
	}
	if open < 0 || end < open {
		return errStat
	}
	line, _, ok := procfs.Line(b[end+1:])
	if !ok {
		return procfs.ErrTruncated
	}
	s.comm = b[open+1 : end]
	state, line := procfs.Field(line)
	if len(state) != 1 {
		return errStat
	}
	s.state = state[0]
	// The numbers are those after: parent; group, session, terminal and its group; flags to cstime; priority and
	// nice; threads to rss. Some of those that are left out can be negative.
	var parent [1]uint64
	var times [9]uint64
	var rest [5]uint64
	line, err := numbersAfter(line, 0, parent[:])
	if err == nil {
		line, err = numbersAfter(line, 4, times[:])
	}
	if err == nil {
		_, err = numbersAfter(line, 2, rest[:])
	}
	if err == nil && parent[0] > math.MaxInt32 {
		err = procfs.ErrRange
	}
	if err != nil {
		return err
	}
	s.parent, s.kernel = int32(parent[0]), times[0]&kernelThread != 0
	s.faults = times[2] + times[4]
	s.cpu, s.children = [2]uint64(times[5:7]), [2]uint64(times[7:9])
	s.threads, s.start, s.rss = rest[0], rest[2], rest[4]
	return s.plausible()
}

// plausible refuses numbers that no kernel counts up to, so that sums of them need no further care.
func (s *processStat) plausible() error {
	const most = 1 << 53
	for _, v := range [...]uint64{s.threads, s.start, s.cpu[0], s.cpu[1], s.children[0], s.children[1], s.rss >> 8} {
		if v > most {
			return procfs.ErrRange
		}
	}
	return nil
}

// numbersAfter skips fields of a line and fills dst with the next.
func numbersAfter(line []byte, skip int, dst []uint64) (rest []byte, err error) {
	for range skip {
		_, line = procfs.Field(line)
	}
	n, rest, err := procfs.Uints(line, dst)
	if err == nil && n < len(dst) {
		err = procfs.ErrTruncated
	}
	return rest, err
}

// processIO is what is used of /proc/PID/io: bytes that were fetched from and sent to block devices.
type processIO [2]uint64

// parse reads lines like "read_bytes: 4096".
func (io *processIO) parse(b []byte) error {
	const all = 2
	for found := 0; found < all; {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		key, value := procfs.Field(line)
		var which int
		switch string(key) {
		case "read_bytes:":
		case "write_bytes:":
			which = 1
		default:
			continue
		}
		number, _ := procfs.Field(value)
		v, err := procfs.Uint(number)
		if err == nil && v > 1<<62 {
			err = procfs.ErrRange
		}
		if err != nil {
			return fmt.Errorf("line of %s %w", key, err)
		}
		io[which] = v
		found++
	}
	return nil
}

// processReader lists and reads the processes of a /proc by raw system calls relative to its directory, into buffers
// of its own: one call to a file that is kept open, three to others, and no garbage.
type processReader struct {
	root    string
	dir     int
	keep    int // how many more files may stay open
	path    []byte
	buf     []byte
	entries []byte
	pids    []int32
}

func newProcessReader(root string) (*processReader, error) {
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	const largest = 2 << 10 // of stat, io and, cut to it, cgroup
	return &processReader{
		root: root, dir: dir, keep: keptProcesses(dir),
		path: make([]byte, 0, 32), buf: make([]byte, largest), entries: make([]byte, 32<<10),
	}, nil
}

// keptProcesses returns of how many processes stat may stay open: reading it again costs a third less than opening it
// first, and an open file of a process that has ended says so, whoever has its pid then. That holds for procfs alone; a
// recorded tree is opened afresh. Each open file takes about 1 KB of kernel memory.
func keptProcesses(dir int) int {
	const most = 4096
	var files unix.Statfs_t
	var limit unix.Rlimit
	if unix.Fstatfs(dir, &files) != nil || files.Type != unix.PROC_SUPER_MAGIC {
		return 0
	}
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(limit.Cur/4, most))
}

// close may be called again.
func (r *processReader) close() error {
	if r.dir < 0 {
		return nil
	}
	err := unix.Close(r.dir)
	r.dir = -1
	return err
}

// list returns the pids of all processes in ascending order, valid until the next call.
func (r *processReader) list() ([]int32, error) {
	r.pids = shrink(r.pids)[:0]
	if _, err := unix.Seek(r.dir, 0, unix.SEEK_SET); err != nil {
		return nil, &fs.PathError{Op: "seek", Path: r.root, Err: err}
	}
	for {
		n, err := unix.Getdents(r.dir, r.entries)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getdents64", Path: r.root, Err: err}
		}
		if n <= 0 {
			break
		}
		r.pids = appendPIDs(r.pids, r.entries[:n])
	}
	if !slices.IsSorted(r.pids) { // the kernel's are; those of a recorded tree need not be
		slices.Sort(r.pids)
	}
	return r.pids, nil
}

// appendPIDs appends the names that are numbers among the entries of a directory (struct linux_dirent64).
func appendPIDs(pids []int32, entries []byte) []int32 {
	const lengthAt, nameAt = 16, 19
	for len(entries) > nameAt {
		length := int(binary.NativeEndian.Uint16(entries[lengthAt:]))
		if length <= nameAt || length > len(entries) {
			return pids
		}
		name, _, _ := bytes.Cut(entries[nameAt:length], []byte{0})
		entries = entries[length:]
		if pid, err := procfs.Uint(name); err == nil && pid > 0 && pid <= math.MaxInt32 && name[0] != '0' {
			pids = append(pids, int32(pid))
		}
	}
	return pids
}

// read returns what one read gives of a file of a process, valid until the next call. Those files are made as one
// record. The error is bare: see pathError.
func (r *processReader) read(pid int32, file string) ([]byte, error) {
	fd, err := r.open(pid, file)
	if err != nil {
		return nil, err
	}
	b, err := r.readOpen(fd)
	_ = unix.Close(fd)
	return b, err
}

// readKept is like read for stat, by the descriptor in fd. Where that is 0 and there is room, it leaves one there for
// the next time; release gives it back.
func (r *processReader) readKept(pid int32, fd *int) ([]byte, error) {
	if *fd != 0 {
		b, err := r.readOpen(*fd)
		if err == nil {
			return b, nil
		}
		r.release(fd) // the process has ended; its pid may be another's by now
	}
	if r.keep == 0 {
		return r.read(pid, "stat")
	}
	opened, err := r.open(pid, "stat")
	if err != nil {
		return nil, err
	}
	*fd = opened
	r.keep--
	return r.readOpen(opened)
}

// release closes a descriptor that readKept left.
func (r *processReader) release(fd *int) {
	if *fd != 0 {
		_ = unix.Close(*fd)
		*fd = 0
		r.keep++
	}
}

// open returns a descriptor for a file of a process. The error is bare.
func (r *processReader) open(pid int32, file string) (int, error) {
	r.path = strconv.AppendInt(r.path[:0], int64(pid), 10)
	r.path = append(r.path, '/')
	r.path = append(r.path, file...)
	r.path = append(r.path, 0)
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(r.dir), uintptr(unsafe.Pointer(&r.path[0])),
			unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0, 0)
		if errno == 0 {
			return int(fd), nil
		}
		if errno != unix.EINTR {
			return -1, errno
		}
	}
}

// readOpen returns what one read from the start gives.
func (r *processReader) readOpen(fd int) ([]byte, error) {
	n, err := unix.Pread(fd, r.buf, 0)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Pread(fd, r.buf, 0)
	}
	if err != nil {
		return nil, err
	}
	return r.buf[:n], nil
}

// pathError names the file that an error of read is about.
func (r *processReader) pathError(pid int32, file string, err error) error {
	return &fs.PathError{Op: "read", Path: fmt.Sprintf("%s/%d/%s", r.root, pid, file), Err: err}
}

// mayTrace says whether slid has the capabilities to read what is private to other processes (capget(2)).
func mayTrace() bool {
	const needed = 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_DAC_READ_SEARCH
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // of capabilities 0 to 31, and 32 to 63
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&needed == needed
}

// vanished says whether an error of read means that the process has ended.
func vanished(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// denied says whether an error of read means that slid may not read the file.
func denied(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }

// shrink returns a list of the same content in less memory, if less than a third of its memory is in use.
func shrink[T any](list []T) []T {
	const small = 256
	if cap(list) <= small || len(list) > cap(list)/3 {
		return list
	}
	return append(make([]T, 0, len(list)+len(list)/4), list...)
}
