package host

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestRAIDValues(t *testing.T) {
	r := start(t, copyOf(t, "raid/server"), NewRAID)
	p := r.must()
	for name, want := range map[string]int{
		"md0": raidOK, "md1": raidDegraded, "md2": raidFailed, "md3": raidOK, "md4": raidFailed, "md5": raidOK,
		"md_home": raidDegraded, "md8": raidFailed,
	} {
		for state := range raidStates {
			key := "hw.status{" + name + "," + name + "," + raidStateName(state) + ",logical_disk}"
			p.want(t, key, float64(oneWhile(state == want)))
		}
	}
	for key, want := range map[string]float64{
		"hw.logical_disk.limit{md1,raid5,md1}":                 0, // replaced below
		"hw.logical_disk.linux.disks{md1,active,md1}":          3,
		"hw.logical_disk.linux.disks{md1,missing,md1}":         1,
		"hw.logical_disk.linux.disks.limit{md1,md1}":           4,
		"hw.logical_disk.linux.sync.progress{md1,recover,md1}": 0.5,
		"hw.logical_disk.linux.sync.speed{md1,recover,md1}":    120340 * 1024,
		"hw.logical_disk.linux.sync.progress{md5,check,md5}":   0, // delayed
		"hw.logical_disk.linux.mismatches{md5,md5}":            128,
		"hw.logical_disk.linux.disks{md3,active,md3}":          2,
		"hw.logical_disk.linux.disks.limit{md3,md3}":           2,
		"hw.logical_disk.linux.disks{md_home,missing,md_home}": 1,
	} {
		if strings.HasPrefix(key, "hw.logical_disk.limit") {
			if list := p.with("hw.logical_disk.limit{", "md1", "raid5"); len(list) != 1 || p[list[0]].value != 1953260544*512 {
				t.Errorf("limit of md1: %v", list)
			}
			continue
		}
		p.want(t, key, want)
	}
	for _, name := range []string{"md126", "md127", "md7", "mdx", "sda", "dm-0"} {
		p.without(t, name)
	}
	if list := p.with("sync"); len(list) != 4 {
		t.Errorf("%v, want progress and speed of md1 and md5", list)
	}
	p.without(t, "missing,md3")
	r.verdict(verdict.Active)
	if r.env.Metrics.Live() != len(p) {
		t.Errorf("%d series, %d live", len(p), r.env.Metrics.Live())
	}
}

// TestRAIDStory: a disk fails, a spare takes its place, the array is stopped.
func TestRAIDStory(t *testing.T) {
	r := start(t, copyOf(t, "raid/server"), NewRAID)
	before := r.must()
	const degraded = "hw.status{md0,md0,degraded,logical_disk}"
	r.write("sys/block/md0/md/degraded", "1\n")
	r.must().want(t, degraded, 1)
	r.write("sys/block/md0/md/sync_action", "recover\n")
	r.write("sys/block/md0/md/sync_completed", "10 / 40\n")
	p := r.must()
	p.want(t, degraded, 1)
	p.want(t, "hw.logical_disk.linux.sync.progress{md0,recover,md0}", 0.25)
	r.write("sys/block/md0/md/degraded", "0\n")
	r.write("sys/block/md0/md/sync_action", "idle\n")
	p = r.must()
	p.want(t, degraded, 0)
	if len(p) != len(before) {
		t.Errorf("%d series after the rebuild, want %d", len(p), len(before))
	}
	remove(t, r.env.Root+"/sys/block/md0")
	r.must().without(t, "md0")
	r.write("sys/block/md9/md/array_state", "clean\n")
	r.write("sys/block/md9/md/level", "raid1\n")
	r.write("sys/block/md9/md/raid_disks", "2\n")
	r.write("sys/block/md9/size", "8\n")
	if s := r.must()["hw.logical_disk.linux.disks.limit{md9,md9}"].start; !s.Equal(tick(4)) {
		t.Errorf("a new array exists since %v, want %v", s, tick(4))
	}
}

// TestRAIDBadFile: the other arrays go on, and it is logged once.
func TestRAIDBadFile(t *testing.T) {
	env := copyOf(t, "raid/server")
	var log bytes.Buffer
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := start(t, env, NewRAID)
	before := r.must()
	r.write("sys/block/md0/md/raid_disks", "two\n")
	r.write("sys/block/md1/md/degraded", "2\n")
	for range 3 {
		p := r.must()
		p.want(t, "hw.status{md1,md1,failed,logical_disk}", 1)
		if len(p) != len(before) {
			t.Errorf("%d series, want %d", len(p), len(before))
		}
	}
	r.verdict(verdict.Degraded, "md0/md/raid_disks")
	if n := strings.Count(log.String(), "cannot read the state"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
	r.write("sys/block/md0/md/raid_disks", "2\n")
	r.must()
	r.verdict(verdict.Active)
}

func TestRAIDAbsent(t *testing.T) {
	r := start(t, liveEnv(), NewRAID)
	r.must()
	r.verdict(verdict.Active)
	_, err := NewRAID(envAt(t.TempDir()))
	if v := verdict.FromError("host/raid", err); v.State != verdict.Unavailable || !strings.Contains(v.Reason, "block") {
		t.Errorf("%+v, want unavailable", v)
	}
	if _, ok := errors.AsType[*verdict.UnavailableError](err); !ok {
		t.Errorf("%T", err)
	}
}

func TestRAIDAllocatesNothing(t *testing.T) {
	r := start(t, copyOf(t, "raid/server"), NewRAID)
	r.must()
	r.must()
	if n := testing.AllocsPerRun(100, func() { _ = r.Collect(t.Context(), tick(9)) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzRAID(f *testing.F) {
	f.Add([]byte("488315136 / 976630272"))
	f.Add([]byte("none"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if done, total, err := parseCompleted(b); err == nil && done > total {
			t.Fatalf("%q: %d of %d", b, done, total)
		}
		eachDirent(b, func(name []byte) {
			if len(name) == 0 {
				t.Fatal("empty name")
			}
		})
	})
}
