package host

import (
	"bytes"
	"cmp"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/verdict"
)

// fakeKernel answers statfs by the path below the root of a tree.
type fakeKernel struct {
	root string
	mu   sync.Mutex
	// answers by path; a path without one gets the common answer
	answers map[string]unix.Statfs_t
	errors  map[string]error
	hangs   map[string]chan struct{} // does not answer before it is closed
	asked   map[string]int
}

var commonAnswer = unix.Statfs_t{Frsize: 4096, Bsize: 4096, Blocks: 1000, Bfree: 400, Bavail: 350, Files: 64, Ffree: 60}

func (k *fakeKernel) ask(p *statfsProbe) error {
	path := cmp.Or(strings.TrimPrefix(p.path, k.root), "/")
	k.mu.Lock()
	k.asked[path]++
	hang := k.hangs[path]
	k.mu.Unlock()
	if hang != nil {
		<-hang
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	answer, ok := k.answers[path]
	if !ok {
		answer = commonAnswer
	}
	p.result = answer
	return k.errors[path]
}

func (k *fakeKernel) set(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// startFilesystem opens the collector on a copy of a tree with a kernel that answers as the test likes.
func startFilesystem(t *testing.T, tree string) (*rig, *fakeKernel, *bytes.Buffer) {
	t.Helper()
	env := copyOf(t, tree)
	var log bytes.Buffer
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	k := &fakeKernel{
		root: env.Root, answers: map[string]unix.Statfs_t{}, errors: map[string]error{},
		hangs: map[string]chan struct{}{}, asked: map[string]int{},
	}
	r := start(t, env, func(env collector.Env) (collector.Collector, error) { return newFilesystem(env, k.ask) })
	return r, k, &log
}

const treeFilesystems = "filesystem/server"

// seriesOfFilesystem is how many series a filesystem has that counts inodes.
const seriesOfFilesystem = 9

func TestFilesystemValues(t *testing.T) {
	r, k, _ := startFilesystem(t, treeFilesystems)
	k.set(func() {
		k.answers["/home"] = unix.Statfs_t{Frsize: 16384, Bsize: 4096, Blocks: 10, Bfree: 5, Bavail: 5}
		k.answers["/var/lib/lxcfs"] = unix.Statfs_t{Frsize: 4096}
	})
	p := r.must()
	for key, want := range map[string]float64{
		"system.filesystem.usage{/dev/sda2,rw,/boot,used,ext4}":                          600 * 4096,
		"system.filesystem.usage{/dev/sda2,rw,/boot,free,ext4}":                          350 * 4096,
		"system.filesystem.usage{/dev/sda2,rw,/boot,reserved,ext4}":                      50 * 4096,
		"system.filesystem.limit{/dev/sda2,rw,/boot,ext4}":                               1000 * 4096,
		"system.filesystem.inodes.usage{/dev/sda2,rw,/boot,used,ext4}":                   4,
		"system.filesystem.inodes.usage{/dev/sda2,rw,/boot,free,ext4}":                   60,
		"system.filesystem.inodes.limit{/dev/sda2,rw,/boot,ext4}":                        64,
		"system.filesystem.linux.stuck{/dev/sda2,/boot,ext4}":                            0,
		"system.filesystem.linux.read_only{/dev/sda2,/boot,ext4}":                        0,
		"system.filesystem.usage{/dev/sdb,rw,/home,used,btrfs}":                          5 * 16384,
		"system.filesystem.limit{/dev/sdh,ro,/mnt/broken,ext4}":                          1000 * 4096,
		"system.filesystem.linux.read_only{/dev/sdh,/mnt/broken,ext4}":                   1,
		"system.filesystem.linux.read_only{/dev/sdi,/mnt/forced,ext4}":                   1,
		"system.filesystem.limit{filer:/export/a b,rw,/mnt/nfs,nfs4}":                    1000 * 4096,
		"system.filesystem.limit{backup@filer:,rw,/mnt/back\\slash and\ttab,fuse.sshfs}": 1000 * 4096,
		"system.filesystem.linux.failures":                                               0,
	} {
		p.want(t, key, want)
	}
	if list := p.with("inodes", "/home"); list != nil {
		t.Errorf("btrfs has inodes: %v", list)
	}
	p.without(t, "lxcfs") // has no blocks
	if want := 14*seriesOfFilesystem + seriesOfFilesystem - 3 + 1; len(p) != want || r.env.Metrics.Live() != want {
		t.Errorf("%d series, %d live, want %d", len(p), r.env.Metrics.Live(), want)
	}
	r.verdict(verdict.Active)
}

func TestSpaceOf(t *testing.T) {
	const huge = math.MaxUint64
	for name, c := range map[string]struct {
		in   unix.Statfs_t
		want filesystemSpace
	}{
		"no frsize":            {unix.Statfs_t{Bsize: 512, Blocks: 4, Bfree: 3, Bavail: 2}, filesystemSpace{used: 512, free: 1024, reserved: 512, limit: 2048}},
		"less than nothing":    {unix.Statfs_t{Frsize: 1, Blocks: 4, Bfree: 1, Bavail: huge - 5}, filesystemSpace{used: 3, reserved: 1, limit: 4}},
		"more free than there": {unix.Statfs_t{Frsize: 1, Blocks: 4, Bfree: 9, Bavail: 9, Files: 1, Ffree: 9}, filesystemSpace{free: 4, limit: 4, inodes: 1, freeInodes: 1}},
		"more than 63 bits": {
			unix.Statfs_t{Frsize: 4096, Blocks: huge, Files: huge, Ffree: huge},
			filesystemSpace{
				used: math.MaxInt64 / 4096 * 4096, limit: math.MaxInt64 / 4096 * 4096,
				inodes: math.MaxInt64, freeInodes: math.MaxInt64,
			},
		},
		"a negative block": {unix.Statfs_t{Frsize: -1, Bsize: -1, Blocks: 2}, filesystemSpace{used: 2, limit: 2}},
	} {
		if got := spaceOf(&c.in); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestStuckFilesystem: a server hangs. Its values go, the gauge says so, nobody asks it again, and all others have
// fresh values; when it answers everything is back.
func TestStuckFilesystem(t *testing.T) {
	r, k, log := startFilesystem(t, treeFilesystems)
	all := r.must()
	hang := make(chan struct{})
	k.set(func() {
		k.hangs["/mnt/nfs"] = hang
		k.answers["/boot"] = unix.Statfs_t{Frsize: 4096, Blocks: 7}
	})
	p := r.must()
	const stuck = "system.filesystem.linux.stuck{filer:/export/a b,/mnt/nfs,nfs4}"
	p.want(t, stuck, 1)
	p.want(t, "system.filesystem.limit{/dev/sda2,rw,/boot,ext4}", 7*4096)
	if list := p.with("/mnt/nfs"); len(list) != 2 {
		t.Errorf("series of a stuck filesystem: %v, want stuck and read_only", list)
	}
	r.verdict(verdict.Degraded, "1 of 16 filesystems do not answer", "/mnt/nfs")
	for range 5 {
		begun := time.Now()
		p = r.must()
		if took := time.Since(begun); took > statfsPatience {
			t.Errorf("a collection took %v though nothing new hangs", took)
		}
	}
	p.want(t, stuck, 1)
	k.set(func() {
		if n := k.asked["/mnt/nfs"]; n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
		if n := k.asked["/mnt/cifs"]; n != 7 {
			t.Errorf("its neighbor was asked %d times, want 7", n)
		}
		delete(k.hangs, "/mnt/nfs")
	})
	close(hang)
	deadline := time.Now().Add(10 * time.Second)
	for p = r.must(); len(p.with("/mnt/nfs")) != seriesOfFilesystem; p = r.must() {
		if time.Now().After(deadline) {
			t.Fatalf("did not recover: %v", p.with("/mnt/nfs"))
		}
	}
	p.want(t, stuck, 0)
	if len(p) != len(all)-3 { // boot has lost its inodes
		t.Errorf("%d series after recovery, want %d", len(p), len(all)-3)
	}
	if n := strings.Count(log.String(), "does not answer"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
	if !strings.Contains(log.String(), "answers again") {
		t.Errorf("recovery is not logged:\n%s", log)
	}
	r.must()
	r.verdict(verdict.Active)
}

// TestManyStuckFilesystems: more servers hang than there are workers for them; those on devices go on.
func TestManyStuckFilesystems(t *testing.T) {
	env := copyOf(t, treeFilesystems)
	var table strings.Builder
	table.WriteString("25 1 253:0 / / rw - ext4 /dev/vg0 rw\n")
	hang := make(chan struct{})
	defer close(hang)
	k := &fakeKernel{root: env.Root, hangs: map[string]chan struct{}{}, asked: map[string]int{}}
	const servers = 100
	for i := range servers {
		path := "/n" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		k.hangs[path] = hang
		table.WriteString("26 25 0:" + itoa(100+i) + " / " + path + " rw - nfs filer:" + path + " rw\n")
	}
	r := start(t, env, func(env collector.Env) (collector.Collector, error) { return newFilesystem(env, k.ask) })
	r.write("proc/1/mountinfo", table.String())
	for n := range 3 {
		begun := time.Now()
		p := r.must()
		if took := time.Since(begun); n > 0 && took > statfsPatience {
			t.Errorf("a collection took %v though all workers hang since before", took)
		}
		p.want(t, "system.filesystem.limit{/dev/vg0,rw,/,ext4}", 1000*4096)
		if n := len(p.with("linux.stuck")); n != 1+maxStatfsWorkers {
			t.Errorf("%d filesystems show whether they are stuck, want %d", n, 1+maxStatfsWorkers)
		}
	}
	r.verdict(verdict.Degraded, "32 of 101 filesystems do not answer", "68 of 101 filesystems are not asked")
	if n := k.asked["/"]; n != 3 {
		t.Errorf("the root was asked %d times, want 3", n)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// TestSlowFilesystem answers later than a collection waits: it is waited for once, and its answer counts one
// collection later.
func TestSlowFilesystem(t *testing.T) {
	r, k, _ := startFilesystem(t, "filesystem/vm")
	answer := make(chan struct{}, 1)
	slow := func(p *statfsProbe) error {
		<-answer
		return k.ask(p)
	}
	r.Collector.(*Filesystem).local.ask = slow
	if list := r.must().with("/dev/vda"); len(list) != 2 {
		t.Fatalf("before the first answer: %v", list)
	}
	for n := range 3 {
		answer <- struct{}{}
		probe := r.Collector.(*Filesystem).list[0].probe
		for probe.state.Load() != statfsAnswered {
			time.Sleep(time.Millisecond)
		}
		begun := time.Now()
		p := r.must()
		if took := time.Since(begun); took > statfsPatience {
			t.Errorf("waited %v for one that is known to be slow", took)
		}
		p.want(t, "system.filesystem.limit{/dev/vda,rw,/,ext4}", 1000*4096)
		p.want(t, "system.filesystem.linux.stuck{/dev/vda,/,ext4}", 0)
		if k.set(func() {}); k.asked["/"] != n+1 {
			t.Errorf("asked %d times, want %d", k.asked["/"], n+1)
		}
	}
	close(answer)
}

// TestFilesystemErrors: a filesystem that cannot be asked has no series, is logged once and counted each time; the
// others go on.
func TestFilesystemErrors(t *testing.T) {
	r, k, log := startFilesystem(t, treeFilesystems)
	k.set(func() { k.errors["/boot/efi"] = unix.EACCES })
	for n := range 4 {
		p := r.must()
		p.without(t, "/boot/efi")
		p.want(t, "system.filesystem.linux.failures", float64(n+1))
		p.want(t, "system.filesystem.limit{/dev/sda2,rw,/boot,ext4}", 1000*4096)
	}
	r.verdict(verdict.Degraded, "1 of 16 filesystems cannot be asked", "/boot/efi", "permission denied", "CAP_DAC_READ_SEARCH")
	k.set(func() { k.errors["/boot/efi"] = unix.EIO })
	r.must()
	r.must()
	if n := strings.Count(log.String(), "cannot ask a filesystem"); n != 2 {
		t.Errorf("logged %d times, want one for each cause:\n%s", n, log)
	}
	k.set(func() { delete(k.errors, "/boot/efi") })
	if n := len(r.must().with("/boot/efi")); n != seriesOfFilesystem {
		t.Errorf("%d series after it works again", n)
	}
	r.verdict(verdict.Active)
}

// TestFilesystemsComeAndGo by a list of mounts that does not tell of changes.
func TestFilesystemsComeAndGo(t *testing.T) {
	r, _, log := startFilesystem(t, treeFilesystems)
	before := r.must()
	r.replace("proc/1/mountinfo", "39 25 0:51 / /mnt/cifs", "39 25 0:51 / /mnt/moved")
	p := r.must()
	p.without(t, "/mnt/cifs")
	const moved = "system.filesystem.limit{//filer/share,rw,/mnt/moved,cifs}"
	if s := p[moved].start; !s.Equal(tick(0)) || len(p) != len(before) {
		t.Errorf("what was mounted since has %v as its start, %d series; want %v, %d", s, len(p), tick(0), len(before))
	}
	r.replace("proc/1/mountinfo", "38 25 0:50", "what 25 0:50")
	p = r.must() // a damaged line: nothing goes
	p.want(t, moved, 1000*4096)
	if len(p) != len(before) {
		t.Errorf("%d series with a damaged line, want %d", len(p), len(before))
	}
	r.must()
	r.verdict(verdict.Degraded, "proc/1/mountinfo", "line 15")
	if n := strings.Count(log.String(), "cannot read the whole list"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
	r.replace("proc/1/mountinfo", "what 25 0:50", "38 25 0:50")
	r.must()
	r.verdict(verdict.Active)
	r.write("proc/1/mountinfo", "25 1 253:0 / / rw - ext4 /dev/vg0 rw\n")
	if p := r.must(); len(p) != seriesOfFilesystem+1 || r.env.Metrics.Live() != len(p) {
		t.Errorf("%d series, %d live, want %d", len(p), r.env.Metrics.Live(), seriesOfFilesystem+1)
	}
}

// TestRemountReadOnly: the mode is an attribute, so the series change; a gauge and the log say so too.
func TestRemountReadOnly(t *testing.T) {
	r, k, log := startFilesystem(t, treeFilesystems)
	before := r.must()
	r.replace("proc/1/mountinfo", "- ext4 /dev/sda2 rw", "- ext4 /dev/sda2 rw,emergency_ro")
	p := r.must()
	p.want(t, "system.filesystem.linux.read_only{/dev/sda2,/boot,ext4}", 1)
	p.want(t, "system.filesystem.usage{/dev/sda2,ro,/boot,used,ext4}", 600*4096)
	if len(p.with("/dev/sda2,rw")) != 0 || len(p) != len(before) {
		t.Errorf("%d series, want %d; %v", len(p), len(before), p.with("/dev/sda2"))
	}
	if !strings.Contains(log.String(), "the mode of a filesystem changed") {
		t.Errorf("not logged:\n%s", log)
	}
	// slid itself sees the mount read-only, as with ProtectSystem=strict: that is not the host's.
	answer := commonAnswer
	answer.Flags = unix.ST_RDONLY
	k.set(func() { k.answers["/mnt/nfs"] = answer })
	r.must().want(t, "system.filesystem.linux.read_only{filer:/export/a b,/mnt/nfs,nfs4}", 0)
}

// TestFilesystemWithoutProcess1 has the mounts of slid: those below the root are the host's.
func TestFilesystemWithoutProcess1(t *testing.T) {
	env := copyOf(t, "filesystem/container")
	remove(t, filepath.Join(env.Proc, "1"))
	k := &fakeKernel{root: "", asked: map[string]int{}}
	r := &rig{t: t, env: env}
	r.write("proc/self/mountinfo", "1 0 0:9 / / rw - overlay overlay rw\n2 1 8:1 / "+env.Root+
		" ro - ext4 /dev/sda1 rw\n3 2 8:2 / "+env.Root+"/data rw - xfs /dev/sda2 rw\n4 1 8:1 /hosts /etc/hosts rw - ext4 /dev/sda1 rw\n")
	r = start(t, env, func(env collector.Env) (collector.Collector, error) { return newFilesystem(env, k.ask) })
	r.must()
	r.verdict(verdict.Degraded, "mounts of slid", "hidepid")
	if k.asked[env.Root] != 1 || k.asked[env.Root+"/data"] != 1 || len(k.asked) != 2 {
		t.Errorf("asked %v", k.asked)
	}
}

func TestFilesystemBadInput(t *testing.T) {
	r, _, _ := startFilesystem(t, treeFilesystems)
	before := r.must()
	whole := r.file("proc/1/mountinfo")
	for _, content := range []string{"", strings.Repeat("\x00\xff\x7fELF - :\n9", 1000), whole[:len(whole)/2]} {
		r.write("proc/1/mountinfo", content)
		if p := r.must(); len(p) < len(before) {
			t.Errorf("%d series after a damaged file, want %d", len(p), len(before))
		}
		r.verdict(verdict.Degraded, "proc/1/mountinfo")
	}
	r.write("proc/1/mountinfo", whole)
	r.must()
	r.verdict(verdict.Active)

	env := envAt(t.TempDir())
	env.Metrics = r.env.Metrics
	_, err := NewFilesystem(env)
	if v := verdict.FromError("host/filesystem", err); err == nil || v.State != verdict.Unavailable ||
		!strings.Contains(v.Reason, env.Proc) {
		t.Errorf("%+v, want unavailable", v)
	}
}

func TestFilesystemAllocatesNothing(t *testing.T) {
	r, k, _ := startFilesystem(t, treeFilesystems)
	hang := make(chan struct{})
	defer close(hang)
	k.set(func() {
		k.errors["/boot/efi"] = unix.EACCES
		k.hangs["/mnt/nfs"] = hang
	})
	live := start(t, liveEnv(), NewFilesystem)
	for name, r := range map[string]*rig{"tree with one stuck and one denied": r, "live": live} {
		for range 3 {
			r.must()
		}
		ctx, now := t.Context(), tick(5)
		if n := testing.AllocsPerRun(100, func() {
			if err := r.Collect(ctx, now); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per Collect, want 0", name, n)
		}
	}
}

func liveEnv() collector.Env {
	env := envAt("/")
	env.Proc, env.Sys = "/proc", "/sys"
	return env
}

func BenchmarkFilesystem(b *testing.B) {
	r := start(b, liveEnv(), NewFilesystem)
	ctx, now := b.Context(), tick(5)
	if err := r.Collect(ctx, now); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		if err := r.Collect(ctx, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}
