package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/slid-agent/slid/internal/cgroup"
)

// openOwners starts to watch groups, or skips the test.
func openOwners(tb testing.TB, k *Kernel) *Owners {
	tb.Helper()
	requireCapabilities(tb)
	o, err := NewOwners(k, 8)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := o.Close(); err != nil {
			tb.Error(err)
		}
	})
	k.Attribute(o)
	return o
}

// makeGroup makes a control group below the cgroup2 root or below parent, for the time of the test.
func makeGroup(tb testing.TB, parent, name string) (dir string, id uint64) {
	tb.Helper()
	if parent == "" {
		mount, err := cgroup.Mount("/")
		if err != nil {
			tb.Skip(err)
		}
		parent = mount
	}
	dir = filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Skipf("needs a cgroup2 tree to write to: %v", err)
	}
	tb.Cleanup(func() { _ = os.Remove(dir) }) // the test may have removed it
	info, err := os.Stat(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return dir, info.Sys().(*syscall.Stat_t).Ino
}

func (o *Owners) mustEvents(tb testing.TB) (list []GroupEvent) {
	tb.Helper()
	if err := o.Events(func(e GroupEvent) { list = append(list, e) }); err != nil {
		tb.Fatal(err)
	}
	return list
}

func (o *Owners) slotOf(tb testing.TB, group uint64) (slot int, ok bool) {
	tb.Helper()
	if err := o.Groups(func(g uint64, s int) {
		if g == group {
			slot, ok = s, true
		}
	}); err != nil {
		tb.Fatal(err)
	}
	return slot, ok
}

// A group has the slot of the one above it from its first moment; one that is removed is forgotten unless it had a slot
// of its own; and user space is told of both, in order.
func TestOwnersInherit(t *testing.T) {
	o := openOwners(t, &Kernel{})
	name := fmt.Sprintf("slidtest-%d.slice", os.Getpid())
	top, topID := makeGroup(t, "", name)
	if err := o.Assign(topID, 3); err != nil {
		t.Fatal(err)
	}
	inner, innerID := makeGroup(t, top, "inner.scope")
	if slot, ok := o.slotOf(t, innerID); !ok || slot != 3 {
		t.Errorf("a new group has slot %d (%v), the one above it 3", slot, ok)
	}
	for _, dir := range []string{inner, top} {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := o.slotOf(t, innerID); ok {
		t.Error("a removed group is still known")
	}
	if slot, ok := o.slotOf(t, topID); !ok || slot != 3 {
		t.Errorf("a removed group with a slot of its own has slot %d (%v), want 3", slot, ok)
	}
	if err := o.Forget(topID); err != nil {
		t.Error(err)
	}
	if err := o.Forget(topID); err != nil {
		t.Error("a second time:", err)
	}

	var mine []GroupEvent
	for _, e := range o.mustEvents(t) {
		if e.Group == topID || e.Group == innerID {
			mine = append(mine, e)
		}
	}
	if len(mine) != 4 || mine[0].Name != name || mine[0].Parent == 0 ||
		mine[1] != (GroupEvent{innerID, topID, "inner.scope"}) ||
		mine[2] != (GroupEvent{Group: innerID}) || mine[3] != (GroupEvent{Group: topID}) {
		t.Errorf("got events %+v", mine)
	}
}

// Events that find no room are counted.
func TestOwnersCountLosses(t *testing.T) {
	o := openOwners(t, &Kernel{})
	const groups = 5000 // in a minute, as a busy node of containers makes them
	dir, _ := makeGroup(t, "", fmt.Sprintf("slidtest-%d.slice", os.Getpid()))
	for i := range groups {
		name := filepath.Join(dir, fmt.Sprintf("run-%d.scope", i))
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	seen := uint64(0)
	for range o.mustEvents(t) {
		seen++
	}
	events, full := o.Lost()
	if seen+events < 2*groups || events == 0 {
		t.Errorf("%d events seen and %d lost of at least %d", seen, events, 2*groups)
	}
	if full != 0 {
		t.Errorf("%d groups without room", full)
	}
	known := 0
	if err := o.Groups(func(uint64, int) { known++ }); err != nil || known > 1000 {
		t.Errorf("the kernel remembers %d groups: %v", known, err)
	}
	if len(o.mustEvents(t)) > 100 {
		t.Error("events come twice")
	}
}

func FuzzGroupEvent(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00a.service\x00"))
	f.Add([]byte("short"))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e := groupEvent(b); len(b) < 16 && e != (GroupEvent{}) || len(e.Name) > len(b) {
			t.Errorf("%q: got %+v", b, e)
		}
	})
}
