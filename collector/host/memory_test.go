package host

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shirou/gopsutil/v3/mem"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestMemoryValues(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewMemory)
	p := r.must()
	for key, kB := range map[string]float64{
		"system.memory.limit":                           131896320,
		"system.memory.usage{free}":                     2713004,
		"system.memory.usage{buffers}":                  812044,
		"system.memory.usage{cached}":                   82101230 + 6102938,
		"system.memory.usage{used}":                     131896320 - 2713004 - 812044 - 82101230 - 6102938,
		"system.memory.linux.available":                 88210344,
		"system.memory.linux.shared":                    700128,
		"system.memory.linux.slab.usage{reclaimable}":   6102938,
		"system.memory.linux.slab.usage{unreclaimable}": 1900000,
	} {
		p.want(t, key, kB*1024)
	}
	sum := 0.
	for _, state := range []string{"used", "free", "buffers", "cached"} {
		sum += p["system.memory.usage{"+state+"}"].value
	}
	p.want(t, "system.memory.limit", sum)
	r.verdict(verdict.Active)
}

func TestMemoryOfAnOldKernel(t *testing.T) {
	r := start(t, copyOf(t, treeOld), NewMemory)
	r.must().without(t, "available")
	r.verdict(verdict.Degraded, "MemAvailable", "proc/meminfo")
}

func TestMemoryKeepsWhatItCannotRead(t *testing.T) {
	r := start(t, copyOf(t, treeVM), NewMemory)
	before := r.must()
	r.replace("proc/meminfo", "MemFree: ", "MemFree:  x")
	r.replace("proc/meminfo", "Shmem:              8", "Shmem:              7")
	p := r.fails("proc/meminfo", "MemFree")
	p.want(t, "system.memory.usage{free}", before["system.memory.usage{free}"].value)
	p.want(t, "system.memory.usage{used}", before["system.memory.usage{used}"].value)
	if p["system.memory.linux.shared"] == before["system.memory.linux.shared"] {
		t.Error("the good lines of a damaged file are not stored")
	}
	r.verdict(verdict.Degraded, "MemFree")
}

func TestMemoryTooLarge(t *testing.T) {
	var m meminfo
	err := m.parse([]byte("MemTotal: 18446744073709551615 kB\n"))
	if err == nil || !strings.Contains(err.Error(), "MemTotal") || m.seen[memTotal] {
		t.Errorf("%v, %+v", err, m)
	}
}

func FuzzMeminfo(f *testing.F) {
	for _, tree := range []string{treeVM, treeServer, treeOld} {
		f.Add(readTree(f, tree, "proc/meminfo"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m meminfo
		_ = m.parse(b)
		for field, seen := range m.seen {
			if seen && m.bytes[field] < 0 {
				t.Fatalf("field %d is %d", field, m.bytes[field])
			}
		}
		if m.used() < 0 {
			t.Fatalf("used %d", m.used())
		}
	})
}

func TestMemoryDirtyAndCommitted(t *testing.T) {
	p := start(t, copyOf(t, treeServer), NewMemory).must()
	for key, kB := range map[string]float64{
		"system.memory.linux.dirty":        1812,
		"system.memory.linux.writeback":    4,
		"system.memory.linux.commit.usage": 61827364,
		"system.memory.linux.commit.limit": 74336764,
	} {
		p.want(t, key, kB*1024)
	}
}

// TestMemoryHugePages: series only on hosts that have set some aside, and then for good.
func TestMemoryHugePages(t *testing.T) {
	r := start(t, copyOf(t, treeServer), NewMemory)
	r.must().without(t, "hugepages")
	r.replace("proc/meminfo", "HugePages_Total:       0", "HugePages_Total:    1024")
	r.replace("proc/meminfo", "HugePages_Free:        0", "HugePages_Free:     1000")
	r.replace("proc/meminfo", "HugePages_Rsvd:        0", "HugePages_Rsvd:      100")
	r.replace("proc/meminfo", "HugePages_Surp:        0", "HugePages_Surp:        7")
	p := r.must()
	p.want(t, "system.memory.linux.hugepages.limit", 1024)
	p.want(t, "system.memory.linux.hugepages.usage{free}", 1000)
	p.want(t, "system.memory.linux.hugepages.usage{used}", 24)
	p.want(t, "system.memory.linux.hugepages.reserved", 100)
	p.want(t, "system.memory.linux.hugepages.surplus", 7)
	p.want(t, "system.memory.linux.hugepages.page_size", 2048*1024)
	r.replace("proc/meminfo", "HugePages_Total:    1024", "HugePages_Total:       0")
	r.replace("proc/meminfo", "HugePages_Free:     1000", "HugePages_Free:        0")
	p = r.must()
	p.want(t, "system.memory.linux.hugepages.limit", 0)
	p.want(t, "system.memory.linux.hugepages.usage{used}", 0)
	r.verdict(verdict.Active)
	kernelAllocs(t, "huge pages", r)
}

// TestMemoryWithoutHugePages: a kernel without CONFIG_HUGETLBFS lacks nothing that was promised.
func TestMemoryWithoutHugePages(t *testing.T) {
	env := copyOf(t, treeServer)
	path := filepath.Join(env.Proc, "meminfo")
	until, _, _ := bytes.Cut(readTree(t, treeServer, "proc/meminfo"), []byte("HugePages_Total"))
	if err := os.WriteFile(path, until, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, env, NewMemory)
	r.must().without(t, "hugepages")
	r.verdict(verdict.Active)
}

// TestMemoryOracleOfTheRest compares with gopsutil what TestOracleMemory does not.
func TestMemoryOracleOfTheRest(t *testing.T) {
	compare(t, NewMemory, func(ctx context.Context) (points, error) {
		m, err := mem.VirtualMemoryWithContext(ctx)
		if err != nil {
			return nil, err
		}
		p := points{}
		p.put("system.memory.linux.dirty", float64(m.Dirty))
		p.put("system.memory.linux.writeback", float64(m.WriteBack))
		p.put("system.memory.linux.commit.usage", float64(m.CommittedAS))
		p.put("system.memory.linux.commit.limit", float64(m.CommitLimit))
		if m.HugePagesTotal > 0 {
			p.put("system.memory.linux.hugepages.limit", float64(m.HugePagesTotal))
			p.put("system.memory.linux.hugepages.usage{free}", float64(m.HugePagesFree))
		}
		return p, nil
	})
}
