package bpf

import (
	"fmt"
	"math/bits"
	"os"
	"structs"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Hist is a histogram of struct hist (include/hist.h). Bucket b counts durations in (2^((b-192)/8), 2^((b-191)/8)]
// seconds, the range of metric.Durations.
type Hist struct {
	_        structs.HostLayout
	Zero     uint64 // durations up to 2^-24 s; they are in no bucket
	Overflow uint64 // durations above 2^8 s; they are in the last bucket too
	SumNs    uint64
	Buckets  [256]uint64
}

// Count returns the number of durations in the histogram.
func (h *Hist) Count() uint64 {
	n := h.Zero
	for _, c := range &h.Buckets {
		n += c
	}
	return n
}

// maxTable bounds what shards make of a table, in bytes. A table that is larger with one shard has one.
const maxTable = 1 << 20

// A Table is a map of the kernel that user space sees in its memory: slots of counters, and each slot once for every
// shard, of which CPUs write to their own. T is the kernel's struct of a slot; it consists of unsigned 64-bit numbers
// that only grow, so a slot is the sum of its shards, number by number. Reading takes no system call and allocates
// nothing. It may be done concurrently, and while the kernel counts: of an event, one number may be there before another.
type Table[T any] struct {
	memory        *ebpf.Memory
	slots, shards int
}

// tableShards returns how many shards a table of the given size gets: a power of two, as many as CPUs are possible if
// that does not take too much memory.
func tableShards(bytes, cpus int) int {
	shards := 1 << bits.Len(uint(cpus-1))
	for shards > 1 && bytes*shards > maxTable {
		shards /= 2
	}
	return shards
}

// sizeTable sets the size of a table in a specification, and the variables by which its programs know it. Objects with
// several tables give all of them the size of the first.
func sizeTable(spec *ebpf.CollectionSpec, name string, slots, shards int) error {
	m := spec.Maps[name]
	if m == nil {
		return fmt.Errorf("there is no map %s", name)
	}
	m.MaxEntries = uint32(slots * shards)
	return setVariables(spec, map[string]any{"table_slots": uint32(slots), "table_shards": uint32(shards)})
}

// shareTable sets the size of a table whose programs add atomically, with as many shards as make sense.
func shareTable(spec *ebpf.CollectionSpec, name string, slots int) error {
	m := spec.Maps[name]
	if m == nil {
		return fmt.Errorf("there is no map %s", name)
	}
	cpus := int(spec.Maps[probeCPUs].MaxEntries)
	return sizeTable(spec, name, slots, tableShards(slots*int(m.ValueSize), cpus))
}

// setVariables sets variables that are constant for the programs.
func setVariables(spec *ebpf.CollectionSpec, values map[string]any) error {
	for name, value := range values {
		v := spec.Variables[name]
		if v == nil {
			return fmt.Errorf("there is no variable %s", name)
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// openTable maps a loaded table.
func openTable[T any](m *ebpf.Map, slots int) (Table[T], error) {
	memory, err := m.Memory()
	return Table[T]{memory: memory, slots: slots, shards: int(m.MaxEntries()) / slots}, err
}

// Slots returns the number of slots.
func (t *Table[T]) Slots() int { return t.slots }

// Read stores the counts of a slot in dst.
func (t *Table[T]) Read(slot int, dst *T) error {
	clear(Words(dst))
	return t.AddTo(slot, dst)
}

// AddTo adds the counts of a slot to those in dst.
func (t *Table[T]) AddTo(slot int, dst *T) error {
	sum := Words(dst)
	var part [64]uint64
	for shard := range t.shards {
		at := (shard*t.slots + slot) * len(sum) * 8
		for rest := sum; len(rest) > 0; {
			n := min(len(part), len(rest))
			if err := readWords(t.memory, at, part[:n]); err != nil {
				return err
			}
			for i, v := range part[:n] {
				rest[i] += v
			}
			at, rest = at+n*8, rest[n:]
		}
	}
	return nil
}

// Clear sets the counts of a slot to zero. Nobody may write to it meanwhile.
func (t *Table[T]) Clear(slot int) error {
	var none T
	for shard := range t.shards {
		at := int64(shard*t.slots+slot) * int64(unsafe.Sizeof(none))
		if _, err := t.memory.WriteAt(asBytes(Words(&none)), at); err != nil {
			return fmt.Errorf("clear slot %d: %w", slot, err)
		}
	}
	return nil
}

// Words returns a struct of 64-bit numbers as these.
func Words[T any](v *T) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(v)), unsafe.Sizeof(*v)/8)
}

func asBytes(w []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), len(w)*8)
}

// readWords copies numbers from a place in a memory-mapped map.
func readWords(m *ebpf.Memory, off int, dst []uint64) error {
	if m == nil {
		return os.ErrClosed
	}
	_, err := m.ReadAt(asBytes(dst), int64(off))
	return err
}

// Plus adds every number of b to a.
func Plus[T any](a, b *T) {
	sum := Words(a)
	for i, v := range Words(b) {
		sum[i] += v
	}
}

// Any says whether a number in v is not zero.
func Any[T any](v *T) bool {
	for _, w := range Words(v) {
		if w != 0 {
			return true
		}
	}
	return false
}
