package latency

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/cgroup"
)

// A group is a control group of the cgroup2 tree.
type group struct {
	id, parent uint64
	path       string // from the root on, e.g. /system.slice/nginx.service; "" for the root
	born       uint64 // tick
	slot       int    // of its own; bpf.RestSlot: none
	told       int    // the slot that the kernel was told
	known      bool   // the kernel was told
	accounted  bool   // it may have a slot of its own
}

func newGroup(id, parent uint64, path string, tick uint64) *group {
	return &group{id: id, parent: parent, path: path, born: tick, accounted: cgroup.Accounted(path)}
}

// groups are the control groups by their ids.
type groups map[uint64]*group

// read takes in the whole tree that is mounted at dir, as far as it can be read and the kernel has room.
func (t groups) read(dir string) { t.walk(dir, t, 0) }

// refresh reads the tree anew. Groups that are there still keep what is known of them.
func (t groups) refresh(dir string, tick uint64) {
	old := maps.Clone(t)
	clear(t)
	t.walk(dir, old, tick)
}

func (t groups) walk(dir string, old groups, tick uint64) {
	parents := map[string]uint64{}
	// Directories come and go during the walk: what cannot be read is skipped.
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if len(t) >= bpf.MaxGroups {
			return fs.SkipAll
		}
		info, err := os.Stat(p)
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		path := strings.TrimPrefix(p, strings.TrimSuffix(dir, "/"))
		g := old[st.Ino]
		if g == nil || g.path != path {
			g = newGroup(st.Ino, parents[filepath.Dir(p)], path, tick)
		}
		parents[p] = st.Ino
		t[st.Ino] = g
		return nil
	})
}

// apply takes in what happened to a group. It returns false when it was told too little, or of a group around it that
// it does not know: the tree must be read.
func (t groups) apply(e bpf.GroupEvent, tick uint64) bool {
	if e.Parent == 0 {
		delete(t, e.Group)
		return true
	}
	if t[e.Group] != nil {
		return true // it was in the tree when that was read
	}
	parent := t[e.Parent]
	if parent == nil || e.Name == "" {
		return false
	}
	if len(t) < bpf.MaxGroups {
		t[e.Group] = newGroup(e.Group, e.Parent, parent.path+"/"+e.Name, tick)
	}
	return true
}

// slotOf returns the slot of the nearest group, from g upwards, that has one.
func (t groups) slotOf(g *group) int {
	for ; g != nil; g = t[g.parent] {
		if g.slot != bpf.RestSlot {
			return g.slot
		}
	}
	return bpf.RestSlot
}
