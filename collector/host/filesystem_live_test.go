package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v3/disk"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

// TestHangingFUSE is the trap of node_exporter#244: a server that accepts its mount and then never answers statfs.
func TestHangingFUSE(t *testing.T) {
	s := newMountSpace(t)
	point := s.mkdir("hang")
	server := startFUSE(s, point)
	ignore := goleak.IgnoreCurrent()
	c := start(t, s.env(), NewFilesystem)
	series := "{hang," + point + ",fuse.hang}"

	begun := time.Now()
	p := c.must()
	if took := time.Since(begun); took > 4*statfsPatience {
		t.Errorf("the first collection took %v", took)
	}
	p.want(t, "system.filesystem.linux.stuck"+series, 1)
	if list := p.with("system.filesystem.usage", "hang"); list != nil {
		t.Errorf("a stuck filesystem has values: %v", list)
	}
	if list := p.with("system.filesystem.usage", ",/,"); len(list) != 3 {
		t.Errorf("the root has %v", list)
	}
	c.verdict(verdict.Degraded, "1 of", "do not answer", point)
	begun = time.Now()
	const rounds = 20
	for range rounds {
		c.must().want(t, "system.filesystem.linux.stuck"+series, 1)
	}
	if took := time.Since(begun); took > rounds*statfsPatience/2 {
		t.Errorf("%d collections took %v: the stuck filesystem delays them", rounds, took)
	}
	if n := len(server.statfs); n != 1 {
		t.Errorf("the server owes %d answers, want 1", n)
	}

	server.answers.Store(true)
	server.replySize(<-server.statfs)
	p = awaitReading(c, "system.filesystem.linux.stuck"+series, 0)
	p.want(t, "system.filesystem.usage{hang,rw,"+point+",used,fuse.hang}", 900*4096)
	p.want(t, "system.filesystem.usage{hang,rw,"+point+",free,fuse.hang}", 50*4096)
	p.want(t, "system.filesystem.usage{hang,rw,"+point+",reserved,fuse.hang}", 50*4096)
	p.want(t, "system.filesystem.inodes.usage{hang,rw,"+point+",used,fuse.hang}", 5)
	for c.Collector.(*Filesystem).list[1].suspect { // it is asked without waiting until it is quick again
		c.must()
	}
	c.verdict(verdict.Active)

	server.answers.Store(false) // and once more, to be unmounted while it hangs
	c.must().want(t, "system.filesystem.linux.stuck"+series, 1)
	s.do(func() error { return unix.Unmount(point, unix.MNT_DETACH) })
	c.must().without(t, "hang")
	c.verdict(verdict.Active)
	server.replySize(<-server.statfs)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, ignore)
}

// awaitReading collects until a series has a value.
func awaitReading(r *rig, key string, value float64) points {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		p := r.must()
		if got, ok := p[key]; ok && got.value == value {
			return p
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s does not become %v: %v", key, value, p[key])
		}
	}
}

// ext4 mounts a new filesystem of 32 MiB at a directory of the namespace and returns the directory and its device.
func ext4(s *mountSpace, name, options string) (point, device string) {
	s.t.Helper()
	image := filepath.Join(s.dir, name+".img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Truncate(image, 32<<20); err != nil {
		s.t.Fatal(err)
	}
	s.run("mkfs.ext4", "-q", "-m", "5", image)
	point = s.mkdir(name)
	s.run("mount", "-o", "loop,"+options, image, point)
	s.t.Cleanup(func() { s.run("umount", "-l", point) })
	for m := range strings.Lines(s.run("cat", "/proc/thread-self/mountinfo")) {
		if fields := strings.Fields(m); len(fields) > 9 && fields[4] == point {
			return point, fields[len(fields)-2]
		}
	}
	s.t.Fatalf("%s is not mounted", point)
	return "", ""
}

// TestFilesystemAgreesWithDf compares with df(1) and gopsutil on a filesystem that nobody else uses.
func TestFilesystemAgreesWithDf(t *testing.T) {
	s := newMountSpace(t)
	point, device := ext4(s, "quiet", "rw")
	s.run("dd", "if=/dev/zero", "of="+point+"/file", "bs=1M", "count=7", "status=none")
	s.run("sync", "-f", point)
	c := start(t, s.env(), NewFilesystem)
	p := c.must()
	out := s.run("df", "-B1", "--output=size,used,avail,itotal,iused,iavail", point)
	var want [6]float64
	fields := strings.Fields(strings.SplitN(out, "\n", 2)[1])
	for i, f := range fields {
		want[i], _ = strconv.ParseFloat(f, 64)
	}
	mount := device + ",rw," + point
	p.want(t, "system.filesystem.limit{"+mount+",ext4}", want[0])
	p.want(t, "system.filesystem.usage{"+mount+",used,ext4}", want[1])
	p.want(t, "system.filesystem.usage{"+mount+",free,ext4}", want[2])
	p.want(t, "system.filesystem.inodes.limit{"+mount+",ext4}", want[3])
	p.want(t, "system.filesystem.inodes.usage{"+mount+",used,ext4}", want[4])
	p.want(t, "system.filesystem.inodes.usage{"+mount+",free,ext4}", want[5])
	sum := 0.0
	for _, key := range p.with("system.filesystem.usage{", point) {
		sum += p[key].value
	}
	if sum != want[0] {
		t.Errorf("the states add up to %v, the limit is %v", sum, want[0])
	}
	var usage *disk.UsageStat
	s.do(func() (err error) {
		usage, err = disk.Usage(point)
		return err
	})
	p.want(t, "system.filesystem.usage{"+mount+",used,ext4}", float64(usage.Used))
	p.want(t, "system.filesystem.usage{"+mount+",free,ext4}", float64(usage.Free))
	p.want(t, "system.filesystem.limit{"+mount+",ext4}", float64(usage.Total))
	p.want(t, "system.filesystem.inodes.usage{"+mount+",free,ext4}", float64(usage.InodesFree))
	t.Logf("df: %s", strings.TrimSpace(out))
}

// TestEmergencyRemount lets ext4 find an error, after which it stops writing.
func TestEmergencyRemount(t *testing.T) {
	s := newMountSpace(t)
	point, device := ext4(s, "broken", "errors=remount-ro")
	c := start(t, s.env(), NewFilesystem)
	c.must().want(t, "system.filesystem.linux.read_only{"+device+","+point+",ext4}", 0)
	trigger := "/sys/fs/ext4/" + filepath.Base(device) + "/trigger_fs_error"
	if err := os.WriteFile(trigger, []byte("test"), 0o200); err != nil {
		t.Skip("needs ext4's trigger_fs_error: ", err)
	}
	// The kernel tells nobody, so it may take as long as a list of mounts lives.
	c.ticks += int(mountsAge/(10*time.Second)) + 1
	p := c.must()
	p.want(t, "system.filesystem.linux.read_only{"+device+","+point+",ext4}", 1)
	if n := len(p.with("system.filesystem.usage{" + device + ",ro," + point)); n != 3 {
		t.Errorf("%d usage series of mode ro, want 3; %v", n, p.with(point))
	}
	if list := p.with("{" + device + ",rw"); list != nil {
		t.Errorf("series of mode rw: %v", list)
	}
}

// TestRemountIsSeenAtOnce by polling the list of mounts.
func TestRemountIsSeenAtOnce(t *testing.T) {
	s := newMountSpace(t)
	point, device := ext4(s, "remounted", "rw")
	c := start(t, s.env(), NewFilesystem)
	table := c.Collector.(*Filesystem).mounts
	if table.watch[0].Fd < 0 {
		t.Fatal("cannot poll /proc")
	}
	c.must()
	if changed, _, err := table.refresh(tick(1)); changed || err != nil {
		t.Errorf("changed without a change: %v", err)
	}
	s.run("mount", "-o", "remount,ro", point)
	c.must().want(t, "system.filesystem.linux.read_only{"+device+","+point+",ext4}", 1)
	s.run("mount", "-o", "remount,rw", point)
	c.must().want(t, "system.filesystem.linux.read_only{"+device+","+point+",ext4}", 0)
}

// TestManyMounts: 300 mounts that store nothing of their own add no series.
func TestManyMounts(t *testing.T) {
	s := newMountSpace(t)
	point, _ := ext4(s, "base", "rw")
	c := start(t, s.env(), NewFilesystem)
	before := c.must()
	const each = 100
	upper, work := filepath.Join(point, "upper"), filepath.Join(point, "work")
	var made []string
	for i := range each {
		for _, kind := range []string{"tmpfs", "bind", "overlay"} {
			made = append(made, s.mkdir(fmt.Sprintf("%s%d", kind, i)))
		}
	}
	s.do(func() error {
		for i := range each {
			dirs := []string{upper + strconv.Itoa(i), work + strconv.Itoa(i)}
			for _, dir := range dirs {
				if err := os.Mkdir(dir, 0o700); err != nil {
					return err
				}
			}
			if err := unix.Mount("none", made[3*i], "tmpfs", 0, "size=64k"); err != nil {
				return err
			}
			if err := unix.Mount(dirs[0], made[3*i+1], "", unix.MS_BIND, ""); err != nil {
				return err
			}
			options := "lowerdir=/usr,upperdir=" + dirs[0] + ",workdir=" + dirs[1]
			if err := unix.Mount("none", made[3*i+2], "overlay", 0, options); err != nil {
				return err
			}
		}
		return nil
	})
	during := c.must()
	if n := len(c.Collector.(*Filesystem).mounts.lines); n < 3*each {
		t.Fatalf("%d mounts are listed", n)
	}
	if len(during) != len(before) || c.env.Metrics.Live() != len(before) {
		t.Errorf("%d series with 300 more mounts, want %d", len(during), len(before))
	}
	ctx, now := t.Context(), tick(c.ticks)
	if n := testing.AllocsPerRun(100, func() {
		if err := c.Collect(ctx, now); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per Collect, want 0", n)
	}
	s.do(func() error {
		for i := range made {
			if err := unix.Unmount(made[len(made)-1-i], unix.MNT_DETACH); err != nil {
				return err
			}
		}
		return nil
	})
	if after := c.must(); len(after) != len(before) {
		t.Errorf("%d series after they are gone, want %d", len(after), len(before))
	}
}

// TestUnpropagatedMount has a root that does not show a mount of the host: its path leads to another filesystem, whose
// size must not be taken for its own.
func TestUnpropagatedMount(t *testing.T) {
	s := newMountSpace(t)
	point, _ := ext4(s, "unseen", "rw")
	env := s.env()
	env.Root = "/" // the namespace of the test, which has only the empty directory
	c := start(t, env, NewFilesystem)
	c.must().without(t, point)
	c.verdict(verdict.Degraded, "another filesystem is at its path", "rslave", point)
}
