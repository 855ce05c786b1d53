package host

import (
	"math"
	"strings"
	"testing"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestDiskValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewDisk)
	p := r.must()
	for key, want := range map[string]float64{
		"system.disk.io{read,nvme0n1}":              71625344 * 512,
		"system.disk.io{write,nvme0n1}":             81726354 * 512,
		"system.disk.operations{read,nvme0n1}":      918273,
		"system.disk.operations{write,nvme0n1}":     817263,
		"system.disk.merged{read,nvme0n1}":          0,
		"system.disk.merged{write,nvme0n1}":         9182,
		"system.disk.operation_time{read,nvme0n1}":  81.726,
		"system.disk.operation_time{write,nvme0n1}": 71.625,
		"system.disk.io_time{nvme0n1}":              817.263,
		"system.disk.pending_operations{sda}":       3,
	} {
		p.want(t, key, want)
	}
	r.verdict(verdict.Active)
}

// TestDiskShowsWholeDevices: disks and what is stacked on them, no partitions, nothing that never did any I/O; by
// /sys, and by the names where there is none.
func TestDiskShowsWholeDevices(t *testing.T) {
	for _, sys := range []bool{true, false} {
		env := copyOf(t, treeServer)
		if !sys {
			remove(t, env.Sys)
		}
		r := start(t, env, NewDisk)
		p := r.must()
		for _, name := range []string{"loop0", "sda", "sdaa", "nvme0n1", "dm-0", "dm-1", "dm-10", "md0", "cciss/c0d0"} {
			if _, ok := p["system.disk.io{read,"+name+"}"]; !ok {
				t.Errorf("with sys %v: %s is missing", sys, name)
			}
		}
		if len(p) != 9*10 {
			t.Errorf("with sys %v: %d series, want 90", sys, len(p))
		}
		if !sys {
			r.verdict(verdict.Degraded, env.Sys, "partitions")
		}
	}
}

func TestPartitionOf(t *testing.T) {
	for _, c := range []struct {
		disk, name string
		want       bool
	}{
		{"sda", "sda1", true},
		{"sda", "sdaa", false},
		{"nvme0n1", "nvme0n1p12", true},
		{"nvme0n1", "nvme0n12", false},
		{"dm-1", "dm-10", false},
		{"mmcblk0", "mmcblk0boot0", false},
		{"sda", "sda", false},
		{"", "1", false},
		{"md0", "md0p", false},
		{"xvda", "xvdb1", false},
	} {
		if got := partitionOf(c.disk, c.name); got != c.want {
			t.Errorf("partitionOf(%q, %q) = %v", c.disk, c.name, got)
		}
	}
}

const sda = "8 0 sda 1827364 2736 198273645 4294967000 9182736 871625 1928374650 98172635 3 4294960000 102847362"

// TestDiskTimesFillTheir32Bits: 1,296 ms after 4,294,967,000 the kernel shows 1,000.
func TestDiskTimesFillTheir32Bits(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewDisk)
	r.must().want(t, "system.disk.operation_time{read,sda}", 4294967)
	r.replace("proc/diskstats", "1827364 2736 198273645 4294967000", "1827365 2736 198273653 1000")
	p := r.must()
	p.want(t, "system.disk.operation_time{read,sda}", 4294968.296)
	p.want(t, "system.disk.io_time{sda}", 4294960)
	if s := p["system.disk.operation_time{read,sda}"].start; !s.Equal(boot) {
		t.Errorf("counts since %v, want boot", s)
	}
	r.replace("proc/diskstats", " 198273653 1000", " 198273653 3000")
	r.must().want(t, "system.disk.operation_time{read,sda}", 4294970.296)
}

func TestMilliseconds(t *testing.T) {
	for _, c := range []struct{ before, now, want uint64 }{
		{0, 5, 5},
		{5, 5, 5},
		{7, 9, 9},
		{math.MaxUint32, 0, 1 << 32},
		{math.MaxUint32 - 9, 10, 1<<32 + 10},
		{1000, 990, 1000},       // an estimate that steps back
		{1 << 20, 3, 1 << 20},   // far from a full turn
		{1 << 40, 5, 1 << 40},   // never had 32 bits
		{1 << 31, 0, 1 << 31},   // half a turn is too far
		{1<<31 + 1, 0, 1 << 32}, // the most that counts as a turn
		{math.MaxUint64, 0, math.MaxUint64},
	} {
		var m milliseconds
		m.advance(c.before)
		if got := m.advance(c.now); got != c.want {
			t.Errorf("%d then %d: %d, want %d", c.before, c.now, got, c.want)
		}
	}
}

// TestDiskMadeAnew: a disk of the same name, told by a count that fell, by its number, or by diskseq when only a
// time fell. Its series begin with the previous collection.
func TestDiskMadeAnew(t *testing.T) {
	for name, c := range map[string]struct{ old, replacement, sequence string }{
		"count":   {sda, "8 0 sda 5 0 40 1 2 0 16 1 0 2 3", ""},
		"number":  {"8       0 sda 1827364", "8       64 sda 1827365", ""},
		"diskseq": {"198273645 4294967000", "198273645 1000", "77\n"},
	} {
		t.Run(name, func(t *testing.T) {
			env := copyOf(t, treeServer)
			r := start(t, env, NewDisk)
			r.write("sys/block/sda/diskseq", "1\n")
			r.replace("proc/diskstats", "8       0 sda ", "8 0 sda ")
			r.must()
			old := c.old
			if name == "number" {
				old = "8 0 sda 1827364"
			}
			r.replace("proc/diskstats", old, c.replacement)
			if c.sequence != "" {
				r.write("sys/block/sda/diskseq", c.sequence)
			}
			p := r.must()
			for key, point := range p {
				if strings.HasSuffix(key, "sda}") && !strings.Contains(key, "pending") && !point.start.Equal(tick(0)) {
					t.Errorf("%s counts since %v, want %v", key, point.start, tick(0))
				}
				if strings.HasSuffix(key, "nvme0n1}") && !point.start.Equal(boot) {
					t.Errorf("%s counts since %v, want boot", key, point.start)
				}
			}
			if name == "count" {
				p.want(t, "system.disk.io{write,sda}", 16*512)
				p.want(t, "system.disk.operation_time{read,sda}", 0.001)
			}
			if name == "diskseq" {
				p.want(t, "system.disk.operation_time{read,sda}", 1)
			}
			if len(p) != 90 {
				t.Errorf("%d series, want 90", len(p))
			}
		})
	}
}

func TestDiskComesAndGoes(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewDisk)
	before := r.must()
	whole := r.file("proc/diskstats")
	above, _, _ := strings.Cut(whole, " 259       0 nvme0n1")
	_, below, _ := strings.Cut(whole, " 253       0 dm-0")
	r.write("proc/diskstats", above+" 253       0 dm-0"+below)
	p := r.must()
	p.without(t, "nvme0n1")
	if len(p) != len(before)-10 || r.env.Metrics.Live() != len(p) {
		t.Errorf("%d series, %d in the registry; want %d", len(p), r.env.Metrics.Live(), len(before)-10)
	}
	r.write("proc/diskstats", whole)
	if s := r.must()["system.disk.io{read,nvme0n1}"].start; !s.Equal(tick(1)) {
		t.Errorf("a disk that returned counts since %v, want %v", s, tick(1))
	}
}

// TestDiskBeginsWithItsFirstIO: an empty loop device has no series.
func TestDiskBeginsWithItsFirstIO(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewDisk)
	r.must().without(t, "loop1")
	r.replace("proc/diskstats", "loop1 0 0 0 0", "loop1 3 0 24 9")
	p := r.must()
	p.want(t, "system.disk.io{read,loop1}", 24*512)
	p.want(t, "system.disk.operation_time{read,loop1}", 0.009)
	if s := p["system.disk.io{read,loop1}"].start; !s.Equal(tick(0)) {
		t.Errorf("counts since %v, want %v", s, tick(0))
	}
}

func TestDiskOneBadLineKeepsTheOthers(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewDisk)
	before := r.must()
	r.replace("proc/diskstats", "sda 1827364", "sda 18446744073709551616")
	r.replace("proc/diskstats", "md0 500", "md0 501")
	p := r.fails("proc/diskstats", "line 3", "64 bits")
	p.want(t, "system.disk.operations{read,md0}", 501)
	p.want(t, "system.disk.operations{read,sda}", before["system.disk.operations{read,sda}"].value)
	r.verdict(verdict.Degraded, "proc/diskstats")
	if len(p) != len(before) {
		t.Errorf("%d series, want %d", len(p), len(before))
	}
}

func FuzzDiskstats(f *testing.F) {
	for _, tree := range []string{treeVM, treeServer, treeOld} {
		f.Add(readTree(f, tree, "proc/diskstats"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for line := range strings.SplitSeq(string(b), "\n") {
			d, err := parseDiskLine([]byte(line))
			if err != nil {
				continue
			}
			if len(d.name) == 0 || len(d.name) > maxDiskName {
				t.Fatalf("%q: name %q", line, d.name)
			}
			var totals diskTotals
			_ = totals.parse(d.values)
		}
	})
}
