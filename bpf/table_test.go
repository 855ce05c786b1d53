package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"
)

func TestTableShards(t *testing.T) {
	for _, test := range []struct{ bytes, cpus, want int }{
		{2048, 1, 1},
		{2048, 2, 2},
		{2048, 3, 4},
		{2048, 128, 128},
		{2048, 4096, 512},
		{64 * 2048, 128, 8},
		{512 * 2048, 128, 1},
		{4 << 20, 2, 1},
	} {
		if got := tableShards(test.bytes, test.cpus); got != test.want {
			t.Errorf("%d bytes, %d CPUs: got %d, want %d", test.bytes, test.cpus, got, test.want)
		}
	}
}

// A slot is the sum of its shards, and to clear it leaves the others as they are.
func TestTableReadsShards(t *testing.T) {
	requireCapabilities(t)
	type counts struct {
		A uint64
		H Hist
	}
	const slots, shards = 5, 4
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, Flags: 1 << 10 /* BPF_F_MMAPABLE */, KeySize: 4,
		ValueSize: uint32(8 * len(Words(&counts{}))), MaxEntries: slots * shards,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	table, err := openTable[counts](m, slots)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var want [slots]counts
		for i := range slots * shards {
			part := counts{A: rapid.Uint64().Draw(t, "a")}
			part.H.Buckets[rapid.IntRange(0, 255).Draw(t, "bucket")] = rapid.Uint64().Draw(t, "n")
			part.H.SumNs = uint64(i)
			if err := m.Put(uint32(i), Words(&part)); err != nil {
				t.Fatal(err)
			}
			Plus(&want[i%slots], &part)
		}
		cleared := rapid.IntRange(0, slots-1).Draw(t, "cleared")
		if err := table.Clear(cleared); err != nil {
			t.Fatal(err)
		}
		want[cleared] = counts{}
		for i := range slots {
			var got counts
			if err := table.Read(i, &got); err != nil || got != want[i] {
				t.Errorf("slot %d: got %+v, %v, want %+v", i, got, err, want[i])
			}
			if Any(&got) != (got != counts{}) {
				t.Errorf("Any: %v of %+v", Any(&got), got)
			}
		}
	})
	var got counts
	if err := table.Read(slots*shards, &got); err == nil {
		t.Error("no error beyond the table")
	}
}
