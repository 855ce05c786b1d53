package service

import (
	"net"
	"path/filepath"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
)

// initialPIDNamespace is the inode number of the host's own PID namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const initialPIDNamespace = 0xEFFFFFFC

// A view is what slid sees of the host from where it runs, and so where it counts.
type view struct {
	netns  uint32 // the network namespace whose services need no mark to tell them apart
	only   uint32 // the only network namespace to count in; 0: all
	cgroup string // root of the host's cgroup2 tree; "" when it is out of sight
	// reason and missing say what is out of sight, and what would help; "" when nothing is.
	reason, missing string
}

// viewOf finds out whether slid sees the whole host or is a container's sidecar. A sidecar shares the network namespace
// of its pod and counts in that one alone. The sockets of the pod's other containers are in sight through the host's
// cgroup2 tree; without it slid counts at the interfaces of the namespace.
func viewOf(env collector.Env) view {
	own := inodeOf("/proc/self/ns/net")
	v := view{netns: inodeOf(filepath.Join(env.Proc, "1/ns/net")), cgroup: env.Cgroup}
	if v.netns == 0 {
		v.netns = own
	}
	if !seesHost(env.Proc) {
		v.netns, v.only = own, own
	}
	if env.Cgroup == "" || !cgroup.IsRoot(env.Cgroup) {
		v.cgroup = ""
		v.reason = "the root of the host's cgroup2 tree is out of sight: counting at the interfaces of slid's own network namespace alone"
		v.missing = "the host's cgroup2 tree mounted at " + filepath.Join(env.Root, "sys/fs/cgroup")
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

// ethernetInterfaces returns the names of slid's own network namespace's interfaces whose frames have Ethernet headers,
// by index. Those of others, such as tunnels, carry what no probe of slid's reads.
func ethernetInterfaces() (map[int]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	list := map[int]string{}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 || len(i.HardwareAddr) == 6 {
			list[i.Index] = i.Name
		}
	}
	return list, nil
}
