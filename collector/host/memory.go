package host

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The lines of /proc/meminfo that are used, in the order of the file.
const (
	memTotal = iota
	memFree
	memAvailable
	memBuffers
	memCached
	memShmem
	memReclaimable
	memUnreclaimable
	memExpected // every kernel since 3.14 has those above

	memDirty = iota - 1
	memWriteback
	memCommitLimit
	memCommitted
	memHugeTotal // of the default size of huge pages; absent from a kernel without CONFIG_HUGETLBFS
	memHugeFree
	memHugeReserved
	memHugeSurplus
	memHugeSize
	memFields
)

// meminfoField returns the field of a key of /proc/meminfo, or -1.
func meminfoField(key []byte) int {
	switch string(key) {
	case "MemTotal:":
		return memTotal
	case "MemFree:":
		return memFree
	case "MemAvailable:":
		return memAvailable
	case "Buffers:":
		return memBuffers
	case "Cached:":
		return memCached
	case "Shmem:":
		return memShmem
	case "SReclaimable:":
		return memReclaimable
	case "SUnreclaim:":
		return memUnreclaimable
	case "Dirty:":
		return memDirty
	case "Writeback:":
		return memWriteback
	case "CommitLimit:":
		return memCommitLimit
	case "Committed_AS:":
		return memCommitted
	case "HugePages_Total:":
		return memHugeTotal
	case "HugePages_Free:":
		return memHugeFree
	case "HugePages_Rsvd:":
		return memHugeReserved
	case "HugePages_Surp:":
		return memHugeSurplus
	case "Hugepagesize:":
		return memHugeSize
	}
	return -1
}

// memPages says whether a field counts pages; all others are in kB.
func memPages(field int) bool { return field >= memHugeTotal && field <= memHugeSurplus }

// meminfo is what is used of /proc/meminfo.
type meminfo struct {
	bytes [memFields]int64 // or pages
	seen  [memFields]bool
}

// parse reads the content of /proc/meminfo up to the last line that is used. Lines that are damaged are left out
// and the first is the error.
func (m *meminfo) parse(b []byte) error {
	m.seen = [memFields]bool{}
	var bad error
	for found := 0; found < memFields; {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return errors.Join(bad, cutShort(rest))
		}
		b = rest
		key, value := procfs.Field(line)
		field := meminfoField(key)
		if field < 0 {
			continue
		}
		found++
		number, _ := procfs.Field(value)
		v, err := procfs.Uint(number)
		if err == nil && v > 1<<52 {
			err = procfs.ErrRange
		}
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("line of %s %w", key, err))
			continue
		}
		if !memPages(field) {
			v <<= 10
		}
		m.bytes[field], m.seen[field] = int64(v), true
	}
	return bad
}

// used returns what is neither free nor a cache: total - free - buffers - cached, as free(1) and gopsutil v3 count.
// So the four states add up to the limit. cached includes reclaimable slab.
func (m *meminfo) used() int64 {
	return max(0, m.bytes[memTotal]-m.bytes[memFree]-m.bytes[memBuffers]-m.cached())
}

func (m *meminfo) cached() int64 { return m.bytes[memCached] + m.bytes[memReclaimable] }

// Memory collects how the host's memory is used from /proc/meminfo.
type Memory struct {
	health
	file   *procfs.File
	sample meminfo
	rows   [memFields]*metric.Int // nil where the kernel has no such line
	used   *metric.Int
	cached *metric.Int
	huge   hugePages
	// expected are the lines that were there at first: one of them missing later is an error.
	expected [memFields]bool
}

// NewMemory opens and reads /proc/meminfo. Lines that the kernel does not have leave out their metrics.
func NewMemory(env collector.Env) (collector.Collector, error) {
	file, err := procfs.OpenSingle(filepath.Join(env.Proc, "meminfo"))
	if err != nil {
		return nil, unavailable(err)
	}
	m := &Memory{file: file}
	m.name, m.hook = "host/memory", file.Path()
	b, err := file.Read()
	if err == nil {
		err = parseError(file, m.sample.parse(b))
	}
	if err == nil {
		err = parseError(file, m.sample.missing([memFields]bool{
			memTotal: true, memFree: true, memBuffers: true, memCached: true,
		}))
	}
	if err != nil {
		return nil, errors.Join(unavailable(err), file.Close())
	}
	m.expected = m.sample.seen
	var wanted [memFields]bool
	for field := range memExpected {
		wanted[field] = true
	}
	if missing := m.sample.missing(wanted); missing != nil {
		m.reason = missing.Error() + " in " + file.Path()
	}
	m.declare(env)
	return m, nil
}

// missing returns an error that names the expected lines that were not seen.
func (m *meminfo) missing(expected [memFields]bool) error {
	if m.seen == expected { // always, so it is worth a short way
		return nil
	}
	names := [memFields]string{
		"MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "Shmem", "SReclaimable", "SUnreclaim",
		"Dirty", "Writeback", "CommitLimit", "Committed_AS",
		"HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize",
	}
	var list []string
	for field, name := range names {
		if expected[field] && !m.seen[field] {
			list = append(list, name)
		}
	}
	if list == nil {
		return nil
	}
	return errors.New("no " + strings.Join(list, ", "))
}

func (m *Memory) declare(env collector.Env) {
	const source = "/proc/meminfo"
	e := env.Metrics.Entity(env.Host, env.Boot)
	d := amount("system.memory.usage", "By", source,
		"Memory by state: used is what is neither free, nor buffers, nor cached; cached includes reclaimable slab.")
	d.Attributes = []attribute.Key{"system.memory.state"}
	usage := env.Metrics.Int(d)
	state := func(name string) *metric.Int {
		return usage.With(e, attribute.String("system.memory.state", name))
	}
	m.used, m.cached = state("used"), state("cached")
	m.rows[memFree], m.rows[memBuffers] = state("free"), state("buffers")
	m.rows[memTotal] = env.Metrics.Int(amount("system.memory.limit", "By", source,
		"Memory that the kernel manages.")).With(e)
	available := env.Metrics.Int(amount("system.memory.linux.available", "By", source,
		"The kernel's estimate of what new programs can get without swapping."))
	shared := env.Metrics.Int(amount("system.memory.linux.shared", "By", source,
		"Shared memory and tmpfs; a part of cached that cannot be dropped."))
	d = amount("system.memory.linux.slab.usage", "By", source, "Memory of the kernel's own objects.")
	d.Attributes = []attribute.Key{"system.memory.linux.slab.state"}
	slab := env.Metrics.Int(d)
	optional := func(field int, family metric.IntFamily, attrs ...attribute.KeyValue) {
		if m.expected[field] {
			m.rows[field] = family.With(e, attrs...)
		}
	}
	optional(memAvailable, available)
	optional(memShmem, shared)
	optional(memReclaimable, slab, attribute.String("system.memory.linux.slab.state", "reclaimable"))
	optional(memUnreclaimable, slab, attribute.String("system.memory.linux.slab.state", "unreclaimable"))
	optional(memDirty, env.Metrics.Int(amount("system.memory.linux.dirty", "By", source,
		"Memory that waits to be written to disks.")))
	optional(memWriteback, env.Metrics.Int(amount("system.memory.linux.writeback", "By", source,
		"Memory that is being written to disks.")))
	optional(memCommitted, env.Metrics.Int(amount("system.memory.linux.commit.usage", "By", source,
		"Memory that programs were promised (Committed_AS), whether they use it or not.")))
	optional(memCommitLimit, env.Metrics.Int(amount("system.memory.linux.commit.limit", "By", source,
		"The most that programs may be promised, which is enforced only if vm.overcommit_memory is 2.")))
	m.huge.declare(env, e)
}

// Collect implements collector.Collector.
func (m *Memory) Collect(context.Context, time.Time) error {
	b, err := m.file.Read()
	if err != nil {
		return m.collected(err, false)
	}
	err = m.sample.parse(b)
	missing := m.sample.missing(m.expected)
	some := false
	for field, register := range m.rows {
		if m.sample.seen[field] && register != nil {
			register.Set(m.sample.bytes[field])
			some = true
		}
	}
	if missing == nil { // used and cached are made of several lines
		m.used.Set(m.sample.used())
		m.cached.Set(m.sample.cached())
		m.huge.store(&m.sample)
	}
	return m.collected(parseError(m.file, errors.Join(err, missing)), some)
}

// hugePages are the series of the huge pages of the default size. Most hosts have set none aside: then there is
// no series.
type hugePages struct {
	entity                                *metric.Entity
	limit, size, reserved, surplus, usage metric.IntFamily
	registers                             *hugePageRegisters // nil until there was a page
}

type hugePageRegisters struct {
	limit, size, reserved, surplus, free, used *metric.Int
}

func (h *hugePages) declare(env collector.Env, e *metric.Entity) {
	declare := func(name, unit, description string, keys ...attribute.Key) metric.IntFamily {
		d := amount("system.memory.linux.hugepages."+name, unit, "/proc/meminfo", description)
		d.Attributes = keys
		return env.Metrics.Int(d)
	}
	h.entity = e
	h.limit = declare("limit", "{page}", "Huge pages of the default size that are set aside.")
	h.size = declare("page_size", "By", "The default size of huge pages.")
	h.reserved = declare("reserved", "{page}", "Huge pages that are free, but promised to programs.")
	h.surplus = declare("surplus", "{page}", "Huge pages beyond vm.nr_hugepages, given back when they are free.")
	h.usage = declare("usage", "{page}", "Huge pages of the default size by state.",
		"system.memory.linux.hugepages.state")
}

// store takes over a sample that has all lines that the kernel has.
func (h *hugePages) store(m *meminfo) {
	if !m.seen[memHugeTotal] || !m.seen[memHugeFree] || !m.seen[memHugeReserved] || !m.seen[memHugeSurplus] ||
		!m.seen[memHugeSize] || h.registers == nil && m.bytes[memHugeTotal] == 0 {
		return
	}
	if h.registers == nil {
		const key = "system.memory.linux.hugepages.state"
		h.registers = &hugePageRegisters{
			limit: h.limit.With(h.entity), size: h.size.With(h.entity),
			reserved: h.reserved.With(h.entity), surplus: h.surplus.With(h.entity),
			free: h.usage.With(h.entity, attribute.String(key, "free")),
			used: h.usage.With(h.entity, attribute.String(key, "used")),
		}
	}
	r := h.registers
	r.limit.Set(m.bytes[memHugeTotal])
	r.size.Set(m.bytes[memHugeSize])
	r.reserved.Set(m.bytes[memHugeReserved])
	r.surplus.Set(m.bytes[memHugeSurplus])
	r.free.Set(m.bytes[memHugeFree])
	r.used.Set(max(0, m.bytes[memHugeTotal]-m.bytes[memHugeFree]))
}

// Close implements collector.Collector.
func (m *Memory) Close() error { return m.file.Close() }
