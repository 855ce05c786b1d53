package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// The trees of the sources of the network's health.
const (
	netVM     = "nethealth/linux-6.18-vm"
	netServer = "nethealth/linux-5.10-server"
	netOld    = "nethealth/linux-3.10-old"
)

// netSources are the constructors by name, with the file that each depends on.
func netSources() map[string]struct {
	open factory
	file string
} {
	return map[string]struct {
		open factory
		file string
	}{
		"host/protocols": {NewProtocols, "proc/1/net/snmp"},
		"host/sockets":   {NewSockets, "proc/1/net/sockstat"},
		"host/softnet":   {NewSoftnet, "proc/1/net/softnet_stat"},
		"host/conntrack": {NewConntrack, "proc/1/net/stat/nf_conntrack"},
		"host/link":      {NewLink, "proc/1/net/dev"},
	}
}

// TestNetHealthEveryPrefixOfAFile cuts the files within their lines: an error with the file's name, no series lost, all
// back afterwards.
func TestNetHealthEveryPrefixOfAFile(t *testing.T) {
	for name, source := range netSources() {
		t.Run(name, func(t *testing.T) {
			r := start(t, copyOf(t, netServer), source.open)
			whole := r.file(source.file)
			before := r.must()
			for n := range len(whole) {
				r.write(source.file, whole[:n])
				err := r.collect()
				cutInLine := n == 0 || whole[n-1] != '\n'
				if cutInLine && (err == nil || !strings.Contains(err.Error(), source.file)) {
					t.Fatalf("cut after %d bytes: error %v", n, err)
				}
			}
			r.write(source.file, whole)
			after := r.must()
			for key, p := range before {
				if after[key].value != p.value {
					t.Errorf("%s = %v after recovery, want %v", key, after[key].value, p.value)
				}
			}
			r.verdict(verdict.Active)
		})
	}
}

func TestNetHealthBinaryFile(t *testing.T) {
	for name, source := range netSources() {
		r := start(t, copyOf(t, netServer), source.open)
		before := r.must()
		r.write(source.file, strings.Repeat("\x00\xff\x7fELF:\n9", 1000))
		after := r.fails(source.file)
		for key, p := range before {
			if after[key] != p {
				t.Errorf("%s: %s = %v after a binary file, want %v", name, key, after[key], p)
			}
		}
		if r.Verdicts()[0].State == verdict.Active {
			t.Errorf("%s: active with a binary file", name)
		}
		if r.Verdicts()[0].Name != name {
			t.Errorf("verdict %+v, want the name %s", r.Verdicts()[0], name)
		}
	}
}

// TestNetHealthNotAllowed: files that may not be read are unavailable, and the capability that would help is named.
func TestNetHealthNotAllowed(t *testing.T) {
	for name, source := range netSources() {
		env := copyOf(t, netServer)
		env.Metrics = start(t, copyOf(t, netServer), source.open).env.Metrics
		if err := os.Chmod(filepath.Join(env.Root, source.file), 0); err != nil {
			t.Fatal(err)
		}
		err := unprivileged(t, func() error {
			_, err := source.open(env)
			return err
		})
		v := verdict.FromError(name, err)
		if err == nil || v.Missing != "CAP_DAC_READ_SEARCH" || !strings.Contains(v.Reason, "not allowed") {
			t.Errorf("%s: %+v, want unavailable for want of CAP_DAC_READ_SEARCH", name, v)
		}
	}
}

// TestNetHealthFallsBack: where process 1 is hidden the own namespace is shown, and called that.
func TestNetHealthFallsBack(t *testing.T) {
	for name, source := range netSources() {
		env := copyOf(t, netServer)
		if err := os.Rename(env.Proc+"/1/net", env.Proc+"/net"); err != nil {
			t.Fatal(err)
		}
		remove(t, env.Proc+"/1")
		r := start(t, env, source.open)
		if len(r.must()) == 0 {
			t.Errorf("%s: nothing is shown", name)
		}
		if name == "host/softnet" {
			r.verdict(verdict.Active) // the same in each namespace
			continue
		}
		r.verdict(verdict.Degraded, "1/net/", "namespace of slid", "hidepid")
	}
}

// TestNetHealthAllocatesNothing holds for the recorded trees and for this machine.
func TestNetHealthAllocatesNothing(t *testing.T) {
	for name, source := range netSources() {
		for tree, env := range map[string]collector.Env{
			netVM: copyOf(t, netVM), netServer: copyOf(t, netServer), "live": envAt("/"),
		} {
			r := start(t, env, source.open)
			for range 3 {
				r.must()
			}
			ctx, now := t.Context(), tick(10)
			if n := testing.AllocsPerRun(100, func() {
				if err := r.Collect(ctx, now); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%s on %s: %v allocations per Collect, want 0", name, tree, n)
			}
		}
	}
}

// TestNetHealthDescriptions: every metric has what the documentation is generated from, and its series have the
// declared attributes.
func TestNetHealthDescriptions(t *testing.T) {
	seen := map[string]string{}
	for name, source := range netSources() {
		r := start(t, copyOf(t, netServer), source.open)
		points := r.must()
		for _, d := range r.env.Metrics.Descs() {
			if d.Name == "" || d.Unit == "" || d.Source == "" || !strings.HasSuffix(d.Description, ".") {
				t.Errorf("%s: incomplete declaration %+v", name, d)
			}
			if other := seen[d.Name]; other != "" {
				t.Errorf("%s is declared by %s and %s", d.Name, other, name)
			}
			seen[d.Name] = name
			for key := range points {
				metric, attrs, _ := strings.Cut(strings.TrimSuffix(key, "}"), "{")
				n := 0
				if attrs != "" {
					n = strings.Count(attrs, ",") + 1
				}
				if metric == d.Name && n != len(d.Attributes) {
					t.Errorf("%s has %d attributes, declared are %v", key, n, d.Attributes)
				}
			}
		}
		t.Logf("%s: %d series", name, len(points))
	}
}

// BenchmarkNetHealth is one collection of this machine. cpu-ns/op is user and system time of the process.
func BenchmarkNetHealth(b *testing.B) {
	for name, source := range netSources() {
		b.Run(name, func(b *testing.B) {
			c := start(b, envAt("/"), source.open)
			ctx, now := b.Context(), time.Now()
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				if err := c.Collect(ctx, now); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// ---- A network namespace of the test's own. ----

// A netNamespace is a shell in a network namespace of its own, with the /sys of it.
type netNamespace struct {
	t   testing.TB
	pid int
	in  io.Writer
	out *bufio.Reader
}

// newNamespace makes a network namespace that ends with the test.
func newNamespace(t testing.TB) *netNamespace {
	t.Helper()
	testneed.Root(t, "to make a network namespace")
	ip := testneed.Tool(t, "ip")
	cmd := exec.Command(testneed.Tool(t, "unshare"), "--net", "--mount", "sh")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("needs to make a network namespace: ", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	n := &netNamespace{t: t, pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	if answer := n.run("mount -t sysfs sysfs /sys && " + ip + " link set lo up && echo good"); !strings.Contains(answer, "good") {
		t.Skip("needs to make a network namespace with a /sys of its own: ", answer)
	}
	return n
}

// run runs a command of the shell and returns what it prints.
func (n *netNamespace) run(command string) string {
	n.t.Helper()
	const end = "--- end of answer ---"
	if _, err := fmt.Fprintf(n.in, "{ %s\n} 2>&1\necho '%s'\n", command, end); err != nil {
		n.t.Skip("needs to make a network namespace: ", err)
	}
	var answer strings.Builder
	for {
		line, err := n.out.ReadString('\n')
		if err != nil {
			n.t.Skip("needs to make a network namespace: ", err)
		}
		if strings.TrimSpace(line) == end {
			return answer.String()
		}
		answer.WriteString(line)
	}
}

// env returns roots whose process 1 is in the namespace.
func (n *netNamespace) env() collector.Env {
	n.t.Helper()
	root := n.t.TempDir()
	process := "/proc/" + strconv.Itoa(n.pid)
	for link, target := range map[string]string{
		"proc/1/net": process + "/net", "proc/sys": "/proc/sys", "sys": process + "/root/sys",
	} {
		link = filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
			n.t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			n.t.Fatal(err)
		}
	}
	return envAt(root)
}

// do runs f on a thread in the namespace. The thread must come back: it may be the process's first, whose namespace
// /proc/net shows.
func (n *netNamespace) do(f func() error) {
	n.t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, unless it is the first
		home, err := enterNamespace(fmt.Sprintf("/proc/%d/ns/net", n.pid))
		if err == nil {
			err = errors.Join(f(), unix.Setns(home, unix.CLONE_NEWNET), unix.Close(home))
		}
		result <- err
	}()
	if err := <-result; err != nil {
		n.t.Fatal(err)
	}
}

// enterNamespace puts the thread into a network namespace and returns the one that it was in.
func enterNamespace(path string) (home int, err error) {
	home, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return home, unix.Setns(fd, unix.CLONE_NEWNET)
}

// ---- node_exporter as an oracle. ----

// nodeExporter returns what prometheus-node-exporter shows of a tree, by the name and labels of its text format.
func nodeExporter(t *testing.T, root string, collectors ...string) map[string]float64 {
	t.Helper()
	const host, tries = "127.0.0.1:", 200
	port := freePort(t)
	args := []string{
		"--path.procfs=" + root + "/proc", "--path.sysfs=" + root + "/sys", "--web.listen-address=" + host + port,
		"--collector.disable-defaults", "--log.level=error", "--collector.netstat.fields=.*",
	}
	for _, c := range collectors {
		args = append(args, "--collector."+c)
	}
	cmd := exec.Command(testneed.Tool(t, "prometheus-node-exporter"), args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range tries {
		resp, err := http.Get("http://" + host + port + "/metrics")
		if err != nil {
			time.Sleep(20 * time.Millisecond) // until it listens
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return textFormat(body)
	}
	t.Fatal("prometheus-node-exporter does not answer")
	return nil
}

// textFormat reads the lines "name{labels} value" of Prometheus' text format.
func textFormat(body []byte) map[string]float64 {
	values := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = v
		}
	}
	return values
}

// TestNetHealthSeenFromAnotherNamespace starts this test again in a network namespace of its own: it must see the
// packets of the host, and say that it cannot see the host's limits.
func TestNetHealthSeenFromAnotherNamespace(t *testing.T) {
	const child, key = "SLID_TEST_HEALTH_NAMESPACE", "system.network.ip.linux.packets{receive,ipv4}"
	if os.Getenv(child) != "" {
		fmt.Println(start(t, envAt("/"), NewProtocols).must()[key].value)
		sockets := start(t, envAt("/"), NewSockets)
		sockets.must().without(t, "limit")
		sockets.verdict(verdict.Degraded, "limits", "hostNetwork")
		return
	}
	testneed.Root(t, "to make a network namespace")
	before := start(t, envAt("/"), NewProtocols).must()[key].value
	cmd := exec.Command(testneed.Tool(t, "unshare"), "--net", os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	answer, _, _ := strings.Cut(string(out), "\n")
	if strings.Contains(answer, "unshare") {
		t.Skipf("needs to make a network namespace: %s", answer)
	}
	if seen, parseErr := strconv.ParseFloat(answer, 64); err != nil || parseErr != nil || seen < before {
		t.Errorf("another namespace sees %q packets, %v; want at least %v", out, err, before)
	}
}

// freePort returns a port of the loopback interface that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(boundPort(t, fd))
}

// boundPort returns the port of a socket.
func boundPort(t testing.TB, fd int) int {
	t.Helper()
	address, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return address.(*unix.SockaddrInet4).Port
}

// asSeenByOthers lets a tree answer programs that read /proc/net.
func asSeenByOthers(t *testing.T, env collector.Env) {
	t.Helper()
	if err := os.Symlink("1/net", env.Proc+"/net"); err != nil {
		t.Fatal(err)
	}
}

// TestNetHealthEqualsNodeExporter compares all that both show of the same tree, pair by pair.
func TestNetHealthEqualsNodeExporter(t *testing.T) {
	for _, tree := range []string{netVM, netServer} {
		t.Run(tree, func(t *testing.T) {
			env := copyOf(t, tree)
			asSeenByOthers(t, env)
			theirs := nodeExporter(t, env.Root, "netstat", "sockstat", "softnet", "conntrack", "netclass", "bonding")
			pairs := nodeExporterPairs(theirs)
			compared := 0
			for _, source := range netSources() {
				for key, p := range start(t, env, source.open).must() {
					name, ok := pairs[key]
					if !ok {
						continue
					}
					want, ok := theirs[name]
					if total, isSum := strings.CutPrefix(name, "sum "); isSum {
						want, ok = sumOf(theirs, total), true
					}
					if !ok || want != p.value {
						t.Errorf("%s = %v, %s = %v (shown: %v)", key, p.value, name, want, ok)
					}
					t.Logf("%s = %s = %v", key, name, want)
					compared++
				}
			}
			if compared < 80 {
				t.Errorf("only %d pairs were compared", compared)
			}
		})
	}
}

// sumOf adds up all series of a metric.
func sumOf(values map[string]float64, name string) (sum float64) {
	for key, v := range values {
		if strings.HasPrefix(key, name+"{") {
			sum += v
		}
	}
	return sum
}

// nodeExporterPairs returns the name at node_exporter by our key.
func nodeExporterPairs(theirs map[string]float64) map[string]string {
	pairs := map[string]string{
		"system.network.connection.count{established,tcp}": "node_netstat_Tcp_CurrEstab",
		"system.network.connection.count{time_wait,tcp}":   "node_sockstat_TCP_tw",
		"system.network.socket.linux.count{tcp,ipv4}":      "node_sockstat_TCP_inuse",
		"system.network.socket.linux.count{tcp,ipv6}":      "node_sockstat_TCP6_inuse",
		"system.network.socket.linux.count{udp,ipv4}":      "node_sockstat_UDP_inuse",
		"system.network.socket.linux.count{udp,ipv6}":      "node_sockstat_UDP6_inuse",
		"system.network.socket.linux.count{raw,ipv4}":      "node_sockstat_RAW_inuse",
		"system.network.socket.linux.count{raw,ipv6}":      "node_sockstat_RAW6_inuse",
		"system.network.socket.linux.used":                 "node_sockstat_sockets_used",
		"system.network.tcp.linux.socket.allocated":        "node_sockstat_TCP_alloc",
		"system.network.tcp.linux.orphan.count":            "node_sockstat_TCP_orphan",
		"system.network.tcp.linux.memory.usage":            "node_sockstat_TCP_mem_bytes",
		"system.network.udp.linux.memory.usage":            "node_sockstat_UDP_mem_bytes",

		"system.network.ip.linux.reassembly.memory.usage{ipv4}": "node_sockstat_FRAG_memory",
		"system.network.ip.linux.reassembly.memory.usage{ipv6}": "node_sockstat_FRAG6_memory",

		"system.network.softnet.linux.processed":         "sum node_softnet_processed_total",
		"system.network.softnet.linux.dropped":           "sum node_softnet_dropped_total",
		"system.network.softnet.linux.time_squeezes":     "sum node_softnet_times_squeezed_total",
		"system.network.conntrack.count":                 "node_nf_conntrack_entries",
		"system.network.conntrack.max":                   "node_nf_conntrack_entries_limit",
		"system.network.conntrack.linux.drops":           "node_nf_conntrack_stat_drop",
		"system.network.conntrack.linux.early_drops":     "node_nf_conntrack_stat_early_drop",
		"system.network.conntrack.linux.invalid":         "node_nf_conntrack_stat_invalid",
		"system.network.conntrack.linux.insert_failures": "node_nf_conntrack_stat_insert_failed",
		"system.network.conntrack.linux.search_restarts": "node_nf_conntrack_stat_search_restart",

		"system.network.bond.linux.members{bond0,up}": `node_bonding_active{master="bond0"}`,
	}
	for _, iface := range []string{"eth0", "eno1", "eno2", "bond0"} {
		label := `{device="` + iface + `"}`
		pairs["system.network.link.linux.mtu{"+iface+"}"] = "node_network_mtu_bytes" + label
		pairs["system.network.link.linux.carrier_changes{"+iface+"}"] = "node_network_carrier_changes_total" + label
		pairs["hw.network.up{"+iface+","+iface+"}"] = "node_network_carrier" + label
		if theirs["node_network_speed_bytes"+label] > 0 {
			pairs["hw.network.bandwidth.limit{"+iface+","+iface+"}"] = "node_network_speed_bytes" + label
		}
	}
	for _, p := range protocolMetrics() {
		for _, s := range p.series {
			if p.convert == nil {
				pairs[pointKey(p.desc.Name, s)] = "node_netstat_" + nodeExporterField(s.key)
			}
		}
	}
	return pairs
}

// nodeExporterField turns "Tcp InSegs" into Tcp_InSegs and "Udp6NoPorts" into Udp6_NoPorts.
func nodeExporterField(key string) string {
	if start, name, ok := strings.Cut(key, " "); ok {
		return start + "_" + name
	}
	start, name, _ := strings.Cut(key, "6")
	return start + "6_" + name
}

// pointKey returns the key of a series among points.
func pointKey(name string, s protoField) string {
	values := make([]string, 0, len(s.attrs))
	for _, kv := range s.attrs { // declared in the order of their keys
		values = append(values, kv.Value.String())
	}
	if len(values) == 0 {
		return name
	}
	return name + "{" + strings.Join(values, ",") + "}"
}
