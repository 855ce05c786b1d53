package bpf

import (
	"fmt"
	"testing"
)

// eachOOMRung opens the probe by each rung that this kernel has, and calls f.
func eachOOMRung(t *testing.T, k func(*testing.T) *Kernel, f func(t *testing.T, rung int, o *OOM)) {
	t.Helper()
	requireCapabilities(t)
	for i, r := range oomRungs() {
		t.Run(fmt.Sprintf("%d %s", i, r.hook), func(t *testing.T) {
			o, err := newOOM(k(t), oomRungs()[i:i+1])
			skipRefused(t, err)
			defer o.Close()
			f(t, i, o)
		})
	}
}

// Every process that the kernel kills at the limit of a group counts there, as often as the memory controller says.
func TestOOMAtLimit(t *testing.T) {
	var g *testGroup
	open := func(t *testing.T) *Kernel {
		g = newTestGroup(t, nil, "greedy", 24<<20)
		return attributed(t, g)
	}
	eachOOMRung(t, open, func(t *testing.T, rung int, o *OOM) {
		for range 3 {
			if !startGroupLoad(t, g, "hold 1000000000").killed() {
				t.Fatal("the load was not killed")
			}
		}
		victims, kills := readSlot(t, &o.Table, 1).Victims, g.oomKills(t)
		t.Logf("%d victims, %d kills, %+v", victims, kills, o.Counts())
		if kills < 3 || victims != kills && (rung != oomRungNumber || victims < kills) {
			t.Errorf("%d victims, the memory controller killed %d", victims, kills)
		}
	})
}

// When one group makes the kernel kill a process of another one, below the same limit, the victim is the other's.
func TestOOMKillsAnother(t *testing.T) {
	var big, small *testGroup
	open := func(t *testing.T) *Kernel {
		above := newTestGroup(t, nil, "tenant", 64<<20)
		big, small = newTestGroup(t, above, "big", 0), newTestGroup(t, above, "small", 0)
		return attributed(t, big, small)
	}
	eachOOMRung(t, open, func(t *testing.T, rung int, o *OOM) {
		victim := startGroupLoad(t, big, fmt.Sprint("hold ", 38<<20))
		victim.work()
		own := uint64(0)
		if startGroupLoad(t, small, fmt.Sprint("hold ", 28<<20)).killed() {
			own = 1 // as well: the memory of the victim was not free in time
		}
		victim.awaitKill()
		of, by := readSlot(t, &o.Table, 1).Victims, readSlot(t, &o.Table, 2).Victims
		t.Logf("%d of the victim's group, %d of the other one, of which %d of its own", of, by, own)
		wantOf, wantBy := uint64(1), own
		if rung == oomRungNumber {
			wantOf, wantBy = 0, own+1 // that is what this rung lacks
		}
		if of != wantOf || by != wantBy {
			t.Errorf("%d victims in the group of the victim, %d in the other one, want %d and %d", of, by, wantOf, wantBy)
		}
	})
}
