package service

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// An endpoint is where a server listens.
type endpoint struct {
	netns uint32 // inode number of /proc/PID/ns/net
	port  uint16
}

// A process is who listens.
type process struct {
	pid     int
	command string // comm: at most 15 bytes
	cgroup  string // contents of /proc/PID/cgroup
}

// maxTable bounds how much of /proc/PID/net/tcp is read: about 150,000 listening sockets.
const maxTable = 24 << 20

// findListeners returns the processes that listen on the wanted endpoints, the oldest of those that share a socket. It
// reads the tables of sockets of each network namespace in question once (proc(5), /proc/PID/net/tcp), and then the
// open files of processes in it until all are found. That costs some ms for each thousand processes and sockets, so it
// is done for new services only. Processes whose files may not be read (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)
// are passed over.
func findListeners(proc string, wanted []endpoint) map[endpoint]process {
	found := map[endpoint]process{}
	for ns, members := range processesByNetns(proc, wanted) {
		sockets := listening(filepath.Join(proc, strconv.Itoa(members[0]), "net"), portsIn(ns, wanted))
		for _, pid := range members {
			if len(sockets) == 0 {
				break
			}
			for port := range portsOf(proc, pid, sockets) {
				if e := (endpoint{ns, port}); found[e].pid == 0 {
					found[e] = describe(proc, pid)
				}
			}
		}
	}
	return found
}

// listeningSockets returns on which endpoints somebody listens, and the inode number of a socket there, in one network
// namespace or, if that is 0, in all. It reads tables of sockets only.
func listeningSockets(proc string, only uint32) map[endpoint]uint64 {
	members := map[uint32]int{} // a process of each namespace
	for _, pid := range pids(proc) {
		ns := inodeOf(filepath.Join(proc, strconv.Itoa(pid), "ns/net"))
		if ns != 0 && members[ns] == 0 && (only == 0 || ns == only) {
			members[ns] = pid
		}
	}
	found := map[endpoint]uint64{}
	for ns, pid := range members {
		for inode, port := range listening(filepath.Join(proc, strconv.Itoa(pid), "net"), nil) {
			if e := (endpoint{ns, port}); found[e] == 0 || inode < found[e] { // several may share a port
				found[e] = inode
			}
		}
	}
	return found
}

// anybodyListens returns those of the wanted endpoints on which a server listens. It reads tables of sockets only,
// which everybody may.
func anybodyListens(proc string, wanted []endpoint) map[endpoint]bool {
	found := map[endpoint]bool{}
	for ns, members := range processesByNetns(proc, wanted) {
		sockets := listening(filepath.Join(proc, strconv.Itoa(members[0]), "net"), portsIn(ns, wanted))
		for _, port := range sockets {
			found[endpoint{ns, port}] = true
		}
	}
	return found
}

// processesByNetns returns the processes in each of the network namespaces of the endpoints.
func processesByNetns(proc string, wanted []endpoint) map[uint32][]int {
	need := map[uint32]bool{}
	for _, e := range wanted {
		need[e.netns] = true
	}
	members := map[uint32][]int{}
	for _, pid := range pids(proc) {
		if ns := inodeOf(filepath.Join(proc, strconv.Itoa(pid), "ns/net")); need[ns] {
			members[ns] = append(members[ns], pid)
		}
	}
	return members
}

func portsIn(netns uint32, list []endpoint) map[uint16]bool {
	ports := map[uint16]bool{}
	for _, e := range list {
		if e.netns == netns {
			ports[e.port] = true
		}
	}
	return ports
}

// pids returns the ids of all processes, the oldest first as far as ids tell.
func pids(proc string) []int {
	dir, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // a part is better than nothing
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	return list
}

// inodeOf returns the inode number that path leads to, or 0.
func inodeOf(path string) uint32 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint32(st.Ino)
	}
	return 0
}

// listening returns the wanted ports, or all if these are nil, on which somebody listens, by the inode number of the socket.
func listening(net string, wanted map[uint16]bool) map[uint64]uint16 {
	sockets := map[uint64]uint16{}
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(net, table))
		if err != nil {
			continue
		}
		readTable(io.LimitReader(f, maxTable), wanted, sockets)
		f.Close()
	}
	return sockets
}

// readTable adds the listening sockets on wanted ports in a table of the form of /proc/net/tcp. The kernel puts them before
// all connections (tcp_get_idx, net/ipv4/tcp_ipv4.c), which may be very many: there it ends.
func readTable(r io.Reader, wanted map[uint16]bool, sockets map[uint64]uint16) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		port, inode, state, ok := parseSocket(lines.Bytes())
		switch {
		case ok && state != tcpListen:
			return
		case ok && (wanted == nil || wanted[port]):
			sockets[inode] = port
		}
	}
}

const tcpListen = 10 // TCP_LISTEN, include/net/tcp_states.h

// parseSocket reads local port, inode number and state of a socket from a line of /proc/net/tcp or tcp6. Other lines, the
// heading among them, are not ok. The inode number is 0 for connections that no process has any more.
func parseSocket(line []byte) (port uint16, inode, state uint64, ok bool) {
	// sl local_address rem_address st tx:rx tr:tm->when retrnsmt uid timeout inode ...
	var fields [10][]byte
	n := 0
	for f := range bytes.FieldsSeq(line) {
		fields[n] = f
		if n++; n == len(fields) {
			break
		}
	}
	if n < len(fields) {
		return 0, 0, 0, false
	}
	_, hex, _ := bytes.Cut(fields[1], []byte{':'})
	p, err := strconv.ParseUint(string(hex), 16, 16)
	state, stateErr := strconv.ParseUint(string(fields[3]), 16, 8)
	inode, inodeErr := strconv.ParseUint(string(fields[9]), 10, 64)
	return uint16(p), inode, state, err == nil && stateErr == nil && inodeErr == nil && (inode != 0 || state != tcpListen)
}

// portsOf returns the ports of the sockets that the process holds. The sockets found are taken off the list.
func portsOf(proc string, pid int, sockets map[uint64]uint16) map[uint16]bool {
	dir, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "fd"))
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var ports map[uint16]bool
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir.Name(), name))
		if err != nil {
			continue
		}
		inode, ok := socketInode(target)
		if port, wanted := sockets[inode]; ok && wanted {
			delete(sockets, inode)
			if ports == nil {
				ports = map[uint16]bool{}
			}
			ports[port] = true
		}
	}
	return ports
}

// socketInode reads the number in "socket:[1234]".
func socketInode(link string) (uint64, bool) {
	number, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return n, err == nil
}

func describe(proc string, pid int) process {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	group, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	return process{pid: pid, command: strings.TrimSuffix(string(comm), "\n"), cgroup: string(group)}
}
