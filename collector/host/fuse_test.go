package host

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/testneed"
)

// A mountSpace is a mount namespace of a thread of this process. What is mounted in it goes with the thread.
type mountSpace struct {
	t    testing.TB
	work chan func()
	tid  int
	dir  string // empty, and visible in both namespaces
}

// newMountSpace makes a thread with a mount namespace of its own.
func newMountSpace(t testing.TB) *mountSpace {
	t.Helper()
	testneed.Root(t, "to make a mount namespace")
	s := &mountSpace{t: t, work: make(chan func()), dir: t.TempDir()}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		s.tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		ready <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(s.work)
		t.Skip("needs a mount namespace: ", err)
	}
	t.Cleanup(func() { close(s.work) })
	return s
}

// do runs f on the thread.
func (s *mountSpace) do(f func() error) {
	s.t.Helper()
	result := make(chan error)
	s.work <- func() { result <- f() }
	if err := <-result; err != nil {
		s.t.Fatal(err)
	}
}

// run runs a program in the namespace and returns what it prints.
func (s *mountSpace) run(name string, args ...string) string {
	s.t.Helper()
	testneed.Tool(s.t, name)
	var out []byte
	s.do(func() error {
		var err error
		if out, err = exec.Command(name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
		}
		return nil
	})
	return string(out)
}

// mkdir makes a directory to mount at.
func (s *mountSpace) mkdir(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// env returns an Env that has the thread as its process 1, as a container sees the host's.
func (s *mountSpace) env() collector.Env {
	s.t.Helper()
	thread := fmt.Sprintf("/proc/%d/task/%d", os.Getpid(), s.tid)
	proc := s.t.TempDir()
	for name, target := range map[string]string{"1": thread, "filesystems": "/proc/filesystems"} {
		if err := os.Symlink(target, filepath.Join(proc, name)); err != nil {
			s.t.Fatal(err)
		}
	}
	env := liveEnv()
	env.Root, env.Proc = thread+"/root", proc
	return env
}

// The part of the kernel's FUSE protocol (linux/fuse.h) that is needed here.
const (
	fuseGetattr = 3
	fuseStatfs  = 17
	fuseInit    = 26
)

// A fuseServer is a FUSE filesystem of one empty directory that answers questions for its size only if told to.
type fuseServer struct {
	fd      int
	statfs  chan uint64 // the questions that it owes an answer
	answers atomic.Bool // whether it answers at once
}

// startFUSE mounts a filesystem in the namespace.
func startFUSE(s *mountSpace, point string) *fuseServer {
	s.t.Helper()
	testneed.File(s.t, "/dev/fuse", "a kernel with FUSE and its device")
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		s.t.Skip("needs /dev/fuse: ", err)
	}
	f := &fuseServer{fd: fd, statfs: make(chan uint64, 16)}
	s.do(func() error {
		options := "fd=" + strconv.Itoa(fd) + ",rootmode=40000,user_id=0,group_id=0"
		return unix.Mount("hang", point, "fuse.hang", unix.MS_NOSUID, options)
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.serve()
	}()
	s.t.Cleanup(func() {
		s.do(func() error { // fails if the test has done so
			_ = unix.Unmount(point, unix.MNT_DETACH|unix.MNT_FORCE)
			return nil
		})
		<-ended
		unix.Close(fd)
	})
	return f
}

// serve answers until the filesystem is unmounted.
func (f *fuseServer) serve() {
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(f.fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		switch opcode, id := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint64(buf[8:]); opcode {
		case fuseInit:
			out := make([]byte, 64) // struct fuse_init_out
			binary.NativeEndian.PutUint32(out[0:], 7)
			binary.NativeEndian.PutUint32(out[4:], 31)
			binary.NativeEndian.PutUint32(out[20:], 4096) // max_write
			f.reply(id, out)
		case fuseGetattr:
			out := make([]byte, 104)                         // struct fuse_attr_out
			binary.NativeEndian.PutUint64(out[16:], 1)       // ino
			binary.NativeEndian.PutUint32(out[76:], 0o40755) // mode
			binary.NativeEndian.PutUint32(out[80:], 2)       // nlink
			f.reply(id, out)
		case fuseStatfs:
			if f.answers.Load() {
				f.replySize(id)
			} else {
				f.statfs <- id
			}
		}
	}
}

// replySize says that 100 of 1000 blocks are free, 50 of them for everybody.
func (f *fuseServer) replySize(id uint64) {
	out := make([]byte, 80) // struct fuse_kstatfs
	for i, v := range []uint64{1000, 100, 50, 20, 15} {
		binary.NativeEndian.PutUint64(out[8*i:], v)
	}
	binary.NativeEndian.PutUint32(out[40:], 4096) // bsize
	binary.NativeEndian.PutUint32(out[44:], 255)  // namelen
	binary.NativeEndian.PutUint32(out[48:], 4096) // frsize
	f.reply(id, out)
}

func (f *fuseServer) reply(id uint64, out []byte) {
	header := make([]byte, 16, 16+len(out))
	binary.NativeEndian.PutUint32(header[0:], uint32(16+len(out)))
	binary.NativeEndian.PutUint64(header[8:], id)
	_, _ = unix.Write(f.fd, append(header, out...))
}
