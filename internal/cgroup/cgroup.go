// Package cgroup tells who runs in a control group: the systemd unit or the container that its path names. It reads
// directory names and inode numbers of the cgroup2 tree and /proc/PID/cgroup, and costs one walk of the tree for each
// id that it has not seen before. Sources: cgroups(7), systemd's CGROUP_DELEGATION, and the path patterns of
// Docker, containerd, CRI-O, Podman and Kubernetes.
package cgroup

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Owner is who a cgroup path names. Both fields are empty for the root and for groups of neither kind.
type Owner struct {
	Unit      string // innermost systemd service, e.g. nginx.service
	Container string // full id of the innermost container
}

// Parse reads the owner from a cgroup path such as /system.slice/nginx.service or
// /kubepods.slice/kubepods-pod1.slice/cri-containerd-<id>.scope.
func Parse(cgroup string) Owner {
	var o Owner
	for part := range strings.SplitSeq(cgroup, "/") {
		if id := containerID(part); id != "" {
			o = Owner{Container: id} // a unit around a container is its manager, not what runs inside
		} else if strings.HasSuffix(part, ".service") {
			o.Unit = unescape(part)
		}
	}
	return o
}

// containerID returns the container id in one element of a cgroup path: 64 hexadecimal digits, bare (cgroupfs driver)
// or as docker-<id>.scope, cri-containerd-<id>.scope, crio-<id>.scope, libpod-<id>.scope (systemd driver).
func containerID(part string) string {
	id := strings.TrimSuffix(part, ".scope")
	if i := strings.LastIndexByte(id, '-'); i >= 0 {
		if strings.HasSuffix(id[:i], "conmon") { // Podman's monitor, beside the container
			return ""
		}
		id = id[i+1:]
	}
	// containerd and CRI-O may prefix with the pod: <pod>:cri-containerd:<id>
	id = id[strings.LastIndexByte(id, ':')+1:]
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

// unescape undoes systemd's \xNN escapes in unit names (systemd.unit(5)).
func unescape(name string) string {
	if !strings.Contains(name, `\x`) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if strings.HasPrefix(name[i:], `\x`) && i+4 <= len(name) {
			if n, err := strconv.ParseUint(name[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// ParseProc reads the owner from the contents of /proc/PID/cgroup. Of several hierarchies the first that names an
// owner counts; systemd's own and cgroup2 name the same.
func ParseProc(data string) Owner {
	for line := range strings.Lines(data) {
		// hierarchy-id:controllers:path
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if o := Parse(fields[2]); o != (Owner{}) {
			return o
		}
	}
	return Owner{}
}

// Mount returns where the cgroup2 tree is mounted below root ("/" or e.g. "/host"): at /sys/fs/cgroup, or beside
// version 1 at /sys/fs/cgroup/unified. The error says what was tried.
func Mount(root string) (string, error) {
	for _, dir := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
		dir = filepath.Join(root, dir)
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cgroup2 file system at %s or its unified subdirectory", filepath.Join(root, "sys/fs/cgroup"))
}

// IsRoot says whether the mounted directory is the root of the host's whole tree. A container's view starts at its own
// group, which has a cgroup.events file; the root has none (Documentation/admin-guide/cgroup-v2.rst).
func IsRoot(mount string) bool {
	_, err := os.Stat(filepath.Join(mount, "cgroup.events"))
	return os.IsNotExist(err)
}

// maxPaths bounds how many directories a Tree remembers.
const maxPaths = 16384

// A Tree finds paths by cgroup id, which is the inode number of the directory. It is not safe for concurrent use.
type Tree struct {
	mount string
	paths map[uint64]string
}

// NewTree returns the tree mounted at the given directory.
func NewTree(mount string) *Tree {
	return &Tree{mount: mount, paths: map[uint64]string{}}
}

// Path returns the path below the mount, "/" for its root, of the cgroup with the given id. It walks the tree anew when
// the id is not known or its directory is gone; false means that there is no such group (any more).
func (t *Tree) Path(id uint64) (string, bool) {
	if p, ok := t.paths[id]; ok && inode(filepath.Join(t.mount, p)) == id {
		return p, true
	}
	t.walk()
	p, ok := t.paths[id]
	return p, ok
}

func (t *Tree) walk() {
	clear(t.paths)
	// Directories come and go during the walk: what cannot be read is skipped.
	_ = filepath.WalkDir(t.mount, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if len(t.paths) >= maxPaths {
			return fs.SkipAll
		}
		if id := inode(p); id != 0 {
			t.paths[id] = path.Join("/", strings.TrimPrefix(p, t.mount))
		}
		return nil
	})
}

func inode(p string) uint64 {
	info, err := os.Stat(p)
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
