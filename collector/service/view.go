package service

import (
	"path/filepath"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
)

// initialPIDNamespace is the inode number of the host's own PID namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const initialPIDNamespace = 0xEFFFFFFC

// A view is what slid sees of the host from where it runs.
type view struct {
	netns           uint32 // the network namespace whose services need no mark to tell them apart
	only            uint32 // the only network namespace to count in; 0: all
	reason, missing string // what is out of sight, and what would help; "" when nothing is
}

// viewOf finds out whether slid sees the whole host or is a container's sidecar. A sidecar shares the network namespace
// of its pod and counts in that one alone; the sockets of the pod's other containers are in sight only through the
// host's cgroup2 tree.
func viewOf(env collector.Env) view {
	v := view{netns: inodeOf(filepath.Join(env.Proc, "1/ns/net"))}
	if v.netns == 0 {
		v.netns = inodeOf("/proc/self/ns/net")
	}
	if !seesHost(env.Proc) {
		v.only = inodeOf("/proc/self/ns/net")
		v.netns = v.only
	}
	if !cgroup.IsRoot(env.Cgroup) {
		v.reason = "the cgroup2 tree at " + env.Cgroup + " begins at this container: sockets of other containers are out of sight"
		v.missing = "the host's cgroup2 tree mounted read-only below host.root"
	}
	return v
}

// seesHost says whether proc shows the processes of the whole host.
func seesHost(proc string) bool {
	ns := inodeOf(filepath.Join(proc, "1/ns/pid"))
	if ns == 0 { // not permitted to look; slid's own namespace is the next best witness
		ns = inodeOf("/proc/self/ns/pid")
	}
	return ns == initialPIDNamespace
}
