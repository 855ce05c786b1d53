package host

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// stuckSensor mounts a file system with one file and returns its path. It can be opened like any other; reading it
// never returns, as with a device that does not answer. abort ends the reads that wait.
func stuckSensor(t *testing.T) (path string, abort func()) {
	t.Helper()
	testneed.Root(t, "to mount a file system")
	testneed.File(t, "/dev/fuse", "a kernel with CONFIG_FUSE_FS")
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	dir := t.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)
	if err := unix.Mount("stuck", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		t.Skip("needs CAP_SYS_ADMIN to mount a file system: ", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		serveStuckSensor(fd)
	}()
	aborted := false
	abort = func() {
		if aborted {
			return
		}
		aborted = true
		_ = unix.Unmount(dir, unix.MNT_FORCE)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		<-ended
		_ = unix.Close(fd)
	}
	t.Cleanup(abort)
	return filepath.Join(dir, "temp1_input"), abort
}

// The requests of FUSE (include/uapi/linux/fuse.h) that matter.
const (
	stuckLookup    = 1
	stuckForget    = 2
	stuckGetattr   = 3
	stuckOpen      = 14
	stuckRead      = 15
	stuckInit      = 26
	stuckInterrupt = 36
)

// serveStuckSensor answers everything but reads, until the file system is gone.
func serveStuckSensor(fd int) {
	request := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, request)
		if err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		opcode, node := binary.NativeEndian.Uint32(request[4:]), binary.NativeEndian.Uint64(request[16:])
		var body bytes.Buffer
		put := func(values ...any) {
			for _, v := range values {
				_ = binary.Write(&body, binary.NativeEndian, v)
			}
		}
		switch opcode {
		case stuckForget, stuckRead, stuckInterrupt:
			continue
		case stuckInit:
			put([2]uint32{7, 31}, [2]uint32{}, [2]uint16{1, 1}, uint32(4096), uint32(1), [9]uint32{})
		case stuckLookup:
			put([4]uint64{2, 0, 3600, 3600}, [2]uint32{}, stuckSensorAttr(2))
		case stuckGetattr:
			put(uint64(3600), [2]uint32{}, stuckSensorAttr(node))
		case stuckOpen:
			put(uint64(1), [2]uint32{1, 0}) // FOPEN_DIRECT_IO
		}
		var reply bytes.Buffer
		_ = binary.Write(&reply, binary.NativeEndian, [2]uint32{uint32(16 + body.Len()), 0})
		reply.Write(request[8:16])
		reply.Write(body.Bytes())
		_, _ = unix.Write(fd, reply.Bytes())
	}
}

// stuckSensorAttr is a struct fuse_attr: of the directory (1) or of the file.
func stuckSensorAttr(node uint64) (b [88]byte) {
	mode := uint32(unix.S_IFREG | 0o444)
	if node == 1 {
		mode = unix.S_IFDIR | 0o555
	}
	binary.NativeEndian.PutUint64(b[0:], node)
	binary.NativeEndian.PutUint64(b[8:], 4096)
	binary.NativeEndian.PutUint32(b[60:], mode)
	binary.NativeEndian.PutUint32(b[64:], 1)
	return b
}

// TestSensorsStuckRead: a read that never returns, of a file that opened well.
func TestSensorsStuckRead(t *testing.T) {
	stuck, abort := stuckSensor(t)
	r := startSensors(t, sensorsServer)
	input := filepath.Join(r.env.Sys, "class/hwmon/hwmon1/temp1_input")
	remove(t, input)
	if err := os.Symlink(stuck, input); err != nil {
		t.Fatal(err)
	}
	r.hurried()
	const others = "hw.temperature[drivetemp@naa.5000c500a1b2c3d4/temp1]"
	for n := 0; ; n++ {
		p := r.collectValues()
		p.without(t, "coretemp@")
		v, _ := r.row("host/sensors/hwmon")
		if _, ok := p[others]; ok && strings.Contains(v.Reason, "hwmon1 does not answer since") {
			break
		}
		if n == 1000 {
			t.Fatalf("not there after %d ticks: %+v", n, v)
		}
	}
	out := r.s.readers.out
	for range 5 {
		r.collectValues()
	}
	if !r.chip("hwmon1").busy || r.s.readers.out > out+1 {
		t.Errorf("%d chips with readers after five more ticks, were %d", r.s.readers.out, out)
	}
	abort()
	remove(t, input)
	r.write("sys/class/hwmon/hwmon1/temp1_input", "47000\n")
	r.s.budget, r.s.first, r.s.grace = sensorsPatience, sensorsPatience, sensorsPatience
	for n := 0; r.chip("hwmon1").busy; n++ {
		if n == 1000 {
			t.Fatal("still with its reader")
		}
		r.collectValues()
	}
	r.collectValues().want(t, "hw.temperature[coretemp@coretemp.0/temp1]", 47)
	r.wantRow("host/sensors/hwmon", verdict.Degraded, "temp3_input") // nothing else
}
