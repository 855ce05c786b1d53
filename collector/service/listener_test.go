package service

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0000000000000000 100 0 0 10 0
   2: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1003 1 0 100 0 0 10 0
   3: 0100007F:ZZZZ 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1004
   4: 0100007F:0051 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99999999999999999999999
   5: 0100007F:0053 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1005 1 0000000000000000 100 0 0 10 0
   6: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1002 1 0000000000000000 20 4 30 10 -1
   7: 0100007F:0054 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1006 1 is behind a connection: the kernel does not do that
   8: 0100007F:0052 00000000:0000 0A trunc`

func TestReadTable(t *testing.T) {
	got := map[uint64]uint16{}
	readTable(strings.NewReader(table), map[uint16]bool{8080: true, 80: true, 81: true, 82: true, 83: true, 84: true}, got)
	if want := map[uint64]uint16{1001: 8080, 1003: 80, 1005: 83}; !cmp.Equal(got, want) {
		t.Errorf("listening sockets %v, want %v", got, want)
	}
	clear(got)
	readTable(strings.NewReader(table), map[uint16]bool{443: true}, got)
	if len(got) != 0 {
		t.Errorf("nobody listens on 443, got %v", got)
	}
}

func FuzzParseSocket(f *testing.F) {
	for line := range strings.Lines(table) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		port, inode, state, ok := parseSocket(line)
		if ok && state == tcpListen && inode == 0 {
			t.Errorf("%q: port %d, inode %d", line, port, inode)
		}
	})
}

// TestFindListeners compares with what the test itself listens on.
func TestFindListeners(t *testing.T) {
	var wanted []endpoint
	netns := inodeOf("/proc/self/ns/net")
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("needs the address %s: %v", address, err)
		}
		t.Cleanup(func() { l.Close() })
		wanted = append(wanted, endpoint{netns, uint16(l.Addr().(*net.TCPAddr).Port)})
	}
	nobody := endpoint{netns, 1}
	elsewhere := endpoint{12345, wanted[0].port}
	found := findListeners("/proc", append(wanted, nobody, elsewhere))
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range wanted {
		if p := found[e]; p.pid != os.Getpid() || p.command != strings.TrimSpace(string(comm)) || p.cgroup == "" {
			t.Errorf("%v: found %+v, want this process, %d", e, p, os.Getpid())
		}
	}
	if len(found) != len(wanted) {
		t.Errorf("found %v for ports on which nobody listens", found)
	}
	alive := anybodyListens("/proc", append(wanted, nobody, elsewhere))
	if !alive[wanted[0]] || !alive[wanted[1]] || alive[nobody] || alive[elsewhere] {
		t.Errorf("listening: %v", alive)
	}
}

// TestFindListenersInABrokenTree has processes that vanish while they are looked at.
func TestFindListenersInABrokenTree(t *testing.T) {
	proc := t.TempDir()
	for _, pid := range []int{1, 20, 300} {
		for _, dir := range []string{"ns", "net", "fd"} {
			if err := os.MkdirAll(filepath.Join(proc, fmt.Sprint(pid), dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(proc, fmt.Sprint(pid), "ns/net"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ns := inodeOf(filepath.Join(proc, "20/ns/net"))
	if err := os.WriteFile(filepath.Join(proc, "20/net/tcp"), []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[1001]", filepath.Join(proc, "20/fd/3")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[x]", filepath.Join(proc, "20/fd/4")); err != nil {
		t.Fatal(err)
	}
	found := findListeners(proc, []endpoint{{ns, 8080}, {ns, 80}})
	want := map[endpoint]process{{ns, 8080}: {pid: 20}} // without comm and cgroup: it has gone by then
	if diff := cmp.Diff(want, found, cmp.AllowUnexported(endpoint{}, process{})); diff != "" {
		t.Error(diff)
	}
	if found := findListeners(filepath.Join(proc, "missing"), []endpoint{{ns, 80}}); len(found) != 0 {
		t.Errorf("found %v without a /proc", found)
	}
}
