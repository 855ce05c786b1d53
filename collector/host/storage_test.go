package host

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

func mustOpen(t testing.TB, path string) *procfs.File {
	t.Helper()
	f, err := procfs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// with returns the keys that contain all parts.
func (p points) with(parts ...string) []string {
	var keys []string
	for key := range p {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(key, part) }) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func TestStorageValues(t *testing.T) {
	r := start(t, copyOf(t, "storage/server"), NewStorage)
	p := r.must()
	for key, want := range map[string]float64{
		"system.disk.limit{sda}":                                                                        7814037168 * 512,
		"system.disk.limit{dm-0}":                                                                       1048576 * 512,
		"system.disk.limit{cciss/c0d0}":                                                                 143305920 * 512,
		"hw.status{sda,sda,ok,physical_disk}":                                                           1,
		"hw.status{sdb,sdb,ok,physical_disk}":                                                           0,
		"hw.status{sdb,sdb,failed,physical_disk}":                                                       1,
		"hw.status{sdc,sdc,degraded,physical_disk}":                                                     1,
		"hw.status{nvme0n1,nvme0n1,ok,physical_disk}":                                                   1,
		"hw.status{nvme0,nvme0,ok,disk_controller}":                                                     1,
		"hw.status{nvme1,nvme1,failed,disk_controller}":                                                 1,
		"hw.status{nvme2,nvme2,degraded,disk_controller}":                                               1,
		"hw.errors{io_error,sda,sda,physical_disk}":                                                     5,
		"hw.errors{timeout,sda,sda,physical_disk}":                                                      1,
		"hw.physical_disk.linux.commands{sda,sda,requested}":                                            0x1a2b,
		"hw.physical_disk.linux.commands{sda,sda,done}":                                                 0x1a2a,
		"hw.physical_disk.linux.commands{sdb,sdb,done}":                                                 0xffffff00,
		"hw.physical_disk.size{TN02,sda,ST4000NM0035-1V4,sda,HDD,ZC1A2B3C,ATA}":                         7814037168 * 512,
		"hw.physical_disk.size{vda,vda,HDD,vol-1}":                                                      20971520 * 512,
		"hw.physical_disk.size{GDC5602Q,nvme0n1,SAMSUNG MZQL23T8HCLS-00A07,nvme0n1,SSD,S64HNE0T400001}": 3750748848 * 512,
	} {
		p.want(t, key, want)
	}
	for _, name := range []string{"loop0", "sr0"} {
		p.without(t, name)
	}
	if list := p.with("hw.", "dm-0"); list != nil {
		t.Errorf("a virtual device has %v", list)
	}
	if list := p.with("hw.", "nvme2c0n1"); list != nil {
		t.Errorf("a path to a disk has %v", list)
	}
	r.verdict(verdict.Active)
}

// TestSCSICountersFillTheir32Bits and restart with another disk.
func TestSCSICountersFillTheir32Bits(t *testing.T) {
	r := start(t, copyOf(t, "storage/server"), NewStorage)
	r.must()
	r.write("sys/block/sdb/device/iodone_cnt", "0x10\n")
	const done, errors = "hw.physical_disk.linux.commands{sdb,sdb,done}", "hw.errors{io_error,sda,sda,physical_disk}"
	p := r.must()
	p.want(t, done, 1<<32+0x10)
	if s := p[done].start; !s.Equal(boot) {
		t.Errorf("counts since %v, want boot", s)
	}
	r.write("sys/block/sda/diskseq", "9\n")
	r.write("sys/block/sda/device/ioerr_cnt", "0x2\n")
	p = r.must()
	p.want(t, errors, 2)
	if s := p[errors].start; !s.Equal(tick(1)) {
		t.Errorf("another disk counts since %v, want %v", s, tick(1))
	}
	remove(t, r.env.Root+"/sys/block/sda")
	remove(t, r.env.Root+"/sys/class/nvme/nvme1")
	p = r.must()
	p.without(t, "sda")
	p.without(t, "{nvme1,")
	if r.env.Metrics.Live() != len(p) {
		t.Errorf("%d live, %d exported", r.env.Metrics.Live(), len(p))
	}
}

func TestStorageBadFiles(t *testing.T) {
	env := copyOf(t, "storage/server")
	var log bytes.Buffer
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := start(t, env, NewStorage)
	before := r.must()
	r.write("sys/block/sda/device/ioerr_cnt", "\x00\xff")
	r.write("sys/block/sdc/size", "-1\n")
	r.write("sys/block/dm-0/size", "7\n")
	for range 3 {
		p := r.must()
		p.want(t, "system.disk.limit{dm-0}", 7*512)
		if len(p) != len(before) {
			t.Errorf("%d series, want %d", len(p), len(before))
		}
	}
	r.verdict(verdict.Degraded, "not a number")
	if n := strings.Count(log.String(), "cannot read a fact"); n != 2 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
}

func TestStorageAllocatesNothing(t *testing.T) {
	for name, env := range map[string]collector.Env{"tree": copyOf(t, "storage/server"), "live": liveEnv()} {
		r := start(t, env, NewStorage)
		r.must()
		r.must()
		if n := testing.AllocsPerRun(100, func() { _ = r.Collect(t.Context(), tick(9)) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// TestStorageLive compares with the kernel's list of devices.
func TestStorageLive(t *testing.T) {
	r := start(t, liveEnv(), NewStorage)
	p := r.must()
	list, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Skip(err)
	}
	for _, entry := range list {
		b, err := os.ReadFile(filepath.Join("/sys/block", entry.Name(), "size"))
		sectors, _ := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
		key := "system.disk.limit{" + entry.Name() + "}"
		if _, shown := p[key]; err == nil && sectors > 0 != shown {
			t.Errorf("%s: %v sectors, shown: %v", key, sectors, shown)
		} else if shown {
			p.want(t, key, sectors*512)
		}
	}
	r.verdict(verdict.Active)
}

func TestHexCount(t *testing.T) {
	for in, want := range map[string]uint32{"0x0": 0, "0x1a": 26, "0xFF\n": 255, "0xffffffff80000000": 1 << 31} {
		if got, err := hexCount([]byte(in)); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0x", "12", "0xg", "0x11111111111111111"} {
		if _, err := hexCount([]byte(in)); err == nil {
			t.Errorf("%q is no error", in)
		}
	}
}

func FuzzStorage(f *testing.F) {
	f.Add([]byte("0x1a"))
	f.Add([]byte("\x00\x80\x00\x08ZC1A2B3C"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = hexCount(b)
		if s := serialOfVPD(b); len(s) > 3*len(b) {
			t.Fatal(s)
		}
	})
}

func BenchmarkStorage(b *testing.B) {
	for name, open := range map[string]factory{"raid": NewRAID, "storage": NewStorage, "nfs": NewNFS} {
		b.Run(name, func(b *testing.B) {
			r := start(b, liveEnv(), open)
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Collect(b.Context(), tick(1)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestStorageDescriptions: every metric of these sources has what the documentation is generated from.
func TestStorageDescriptions(t *testing.T) {
	for name, open := range map[string]factory{
		"filesystem": NewFilesystem, "raid": NewRAID, "storage": NewStorage, "nfs": NewNFS,
	} {
		for _, d := range start(t, liveEnv(), open).env.Metrics.Descs() {
			if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
				t.Errorf("%s: incomplete declaration %+v", name, d)
			}
		}
	}
}
