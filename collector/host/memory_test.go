package host

import (
	"strings"
	"testing"

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
