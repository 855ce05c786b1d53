package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// rig is a Traffic collector with a registry of its own.
type rig struct {
	tb       testing.TB
	traffic  *Traffic
	group    *metric.Group
	snapshot *metric.Snapshot
}

func newRig(tb testing.TB, overrides ...Override) *rig {
	tb.Helper()
	mount, err := cgroup.Mount("/")
	if err != nil {
		tb.Skip(err)
	}
	return newRigAt(tb, mount, overrides...)
}

// newRigAt makes a rig that has the given directory for the cgroup2 tree.
func newRigAt(tb testing.TB, mount string, overrides ...Override) *rig {
	tb.Helper()
	return newRigWith(tb, mount, nil, overrides...)
}

// newRigWith makes a rig that counts objectives.
func newRigWith(tb testing.TB, mount string, objectives *Objectives, overrides ...Override) *rig {
	tb.Helper()
	testneed.Root(tb, "to load BPF programs")
	registry := metric.NewRegistry(instrumentation.Scope{Name: "slid"})
	group := registry.Group(trafficName, metric.ClassService, 5000)
	meter := bpf.NewMeter(0)
	c, err := NewTraffic(collector.Env{
		Root: "/", Proc: "/proc", Sys: "/sys", Cgroup: mount, Metrics: group, Host: testHost,
		Log: slog.New(slog.DiscardHandler),
	}, &bpf.Kernel{}, meter, overrides, objectives)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
		if err := meter.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &rig{tb: tb, traffic: c.(*Traffic), group: group, snapshot: registry.NewSnapshot()}
}

// collect runs the collector once and takes a snapshot.
func (r *rig) collect() {
	r.tb.Helper()
	now := time.Now()
	if err := r.traffic.Collect(context.Background(), now); err != nil {
		r.tb.Fatal(err)
	}
	r.group.Collected(now)
	r.snapshot.Take(now)
}

// checkAllocatesNothing checks that collecting what is known already takes no memory.
func (r *rig) checkAllocatesNothing(t *testing.T) {
	t.Helper()
	now := time.Now()
	if allocs := testing.AllocsPerRun(20, func() {
		if err := r.traffic.Collect(context.Background(), now); err != nil {
			t.Fatal(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per collection, want 0", allocs)
	}
}

// statuses returns the responses of all services on the port, by status code.
func (r *rig) statuses(port int) map[int64]int64 {
	counts := map[int64]int64{}
	for _, p := range points[metricdata.Sum[int64]](r, "http.server.response.count") {
		for _, p := range p.DataPoints {
			if at, _ := p.Attributes.Value(portKey); at.AsInt64() == int64(port) {
				status, _ := p.Attributes.Value(statusKey)
				counts[status.AsInt64()] += p.Value
			}
		}
	}
	return counts
}

// durations returns the histogram of the service on the port over all classes, as bucket index -> count.
func (r *rig) durations(port int) map[int]uint64 {
	buckets := map[int]uint64{}
	for _, h := range points[metricdata.ExponentialHistogram[float64]](r, "http.server.request.duration") {
		for _, p := range h.DataPoints {
			if at, _ := p.Attributes.Value(portKey); at.AsInt64() != int64(port) {
				continue
			}
			for i, n := range p.PositiveBucket.Counts {
				buckets[int(p.PositiveBucket.Offset)+i] += n
			}
		}
	}
	return buckets
}

// points returns the data of a metric in all resources.
func points[D metricdata.Aggregation](r *rig, name string) (list []D) {
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			if m.Name == name {
				list = append(list, m.Data.(D))
			}
		}
	}
	return list
}

// serviceOn returns an attribute of the resource that has the port.
func (r *rig) serviceOn(port int, key string) string {
	for _, res := range r.snapshot.Resources {
		for _, m := range res.ScopeMetrics[0].Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != "service.connection.count" {
				continue
			}
			if slices.ContainsFunc(sum.DataPoints, func(p metricdata.DataPoint[int64]) bool { // a machine may run another nginx
				at, _ := p.Attributes.Value(portKey)
				return at.AsInt64() == int64(port)
			}) {
				for _, kv := range res.Resource.Attributes() {
					if string(kv.Key) == key {
						return kv.Value.AsString()
					}
				}
			}
		}
	}
	return ""
}

// nginx is a server with an access log of its own.
type nginx struct {
	port int
	pid  int // of the master
	log  string
}

// startNginx runs one worker on a free port. Its locations: / is 200, /missing 404, /broken 500, /file 100 kB, and
// /file-slow the same in more than half a second.
func startNginx(tb testing.TB, logging bool) nginx {
	tb.Helper()
	path := testneed.Tool(tb, "nginx")
	dir := tb.TempDir()
	n := nginx{port: freePort(tb), log: filepath.Join(dir, "access.log")}
	access := "off"
	if logging {
		access = n.log + " status"
	}
	conf := fmt.Sprintf(`user root; daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
  log_format status "$status $request_method $uri $request_time"; access_log %[2]s; keepalive_requests 1000000000; reset_timedout_connection on;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server {
    listen 127.0.0.1:%[3]d backlog=4096; root %[1]s;
    location / { return 200 "ok"; }
    location /missing { return 404; }
    location /broken { return 500; }
    location /file { }
    location /file-slow { alias %[1]s/file; limit_rate 150k; }
  }
}`, dir, access, n.port)
	for name, data := range map[string]string{"conf": conf, "file": strings.Repeat("0123456789", 10000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	var stderr bytes.Buffer
	cmd := exec.Command(path, "-p", dir, "-c", filepath.Join(dir, "conf"), "-e", filepath.Join(dir, "error.log"))
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
	})
	n.pid = cmd.Process.Pid
	waitForPort(tb, n.port, stderr.String)
	return n
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func waitForPort(tb testing.TB, port int, why func() string) {
	tb.Helper()
	for range 500 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatalf("nothing listens on port %d: %s", port, why())
}

// logged returns what nginx logged, by status, once the log stands still.
func (n nginx) logged(tb testing.TB) map[int64]int64 {
	tb.Helper()
	var data []byte
	for {
		now, err := os.ReadFile(n.log)
		if err != nil {
			tb.Fatal(err)
		}
		if len(now) == len(data) && len(now) > 0 {
			break
		}
		data = now
		time.Sleep(300 * time.Millisecond)
	}
	counts := map[int64]int64{}
	for line := range bytes.Lines(data) {
		status, err := strconv.ParseInt(string(bytes.Fields(line)[0]), 10, 64)
		if err != nil {
			tb.Fatalf("line in the access log: %q", line)
		}
		counts[status]++
	}
	return counts
}

func run(tb testing.TB, tool string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(testneed.Tool(tb, tool), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", tool, err, out)
	}
	return string(out)
}

// TestCountsEqualNginxLog is the promise of the product: exactly what the server itself says, under load.
func TestCountsEqualNginxLog(t *testing.T) {
	t.Run("wrk, keep-alive", func(t *testing.T) {
		r, n := newRig(t), startNginx(t, true)
		run(t, "wrk", "-t1", "-c32", "-d3s", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
		check(t, r, n, 50000)
	})
	t.Run("ab, a connection per request", func(t *testing.T) {
		r, n := newRig(t), startNginx(t, true)
		run(t, "ab", "-q", "-c8", "-n10000", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
		check(t, r, n, 10000)
	})
	t.Run("ab, statuses and files", func(t *testing.T) {
		r, n := newRig(t), startNginx(t, true)
		for _, path := range []string{"", "missing", "broken", "file"} {
			run(t, "ab", "-q", "-k", "-c8", "-n2000", fmt.Sprintf("http://127.0.0.1:%d/%s", n.port, path))
		}
		check(t, r, n, 8000)
		if got := r.statuses(n.port); got[404] != 2000 || got[500] != 2000 {
			t.Errorf("statuses %v", got)
		}
	})
}

// TestCountsUnderPacketLoss drops 6 % of all segments on their way in: requests and responses are sent again and arrive
// out of order, and each is counted once.
func TestCountsUnderPacketLoss(t *testing.T) {
	r := newRig(t)
	inNetns(t)
	run(t, "iptables-legacy", "-A", "INPUT", "-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.06", "-j", "DROP")
	n := startNginx(t, true)
	for _, path := range []string{"", "missing", "file"} {
		run(t, "ab", "-q", "-k", "-c16", "-n300", "-s60", fmt.Sprintf("http://127.0.0.1:%d/%s", n.port, path))
	}
	check(t, r, n, 900)
	snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	if sent := retransmits(t, string(snmp)); sent < 10 {
		t.Errorf("%d segments were sent again: too few to prove much", sent)
	}
}

// inNetns moves the test to a network namespace of its own, and what it starts with it.
func inNetns(t *testing.T) {
	t.Helper()
	testneed.Root(t, "to make a network namespace")
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the thread may be the process's first, whose namespace /proc/self shows
		defer runtime.UnlockOSThread()
		defer home.Close()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
	})
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "link", "set", "lo", "up")
}

// retransmits reads Tcp RetransSegs from /proc/net/snmp.
func retransmits(t *testing.T, snmp string) int64 {
	t.Helper()
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		n, err := strconv.ParseInt(fields[slices.Index(names, "RetransSegs")], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatal("no Tcp lines in snmp")
	return 0
}

func check(t *testing.T, r *rig, n nginx, least int64) {
	t.Helper()
	want := n.logged(t)
	r.collect()
	got := r.statuses(n.port)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nginx logged, slid counted (-nginx +slid):\n%s", diff)
	}
	var total int64
	for _, count := range got {
		total += count
	}
	if total < least {
		t.Errorf("%d requests are too few to prove much, want %d", total, least)
	}
	if name := r.serviceOn(n.port, "service.name"); name != "nginx" {
		t.Errorf("service.name %q, want nginx", name)
	}
	t.Logf("nginx and slid agree on %d requests: %v", total, got)
}

// TestLatencyAgreesWithTheServersOwnLog drives a Go server whose handlers take 1 to 20 ms and fail in 5 % of cases. p50
// and p99 must lie within one bucket (9.1 %) of what the server measured itself.
func TestLatencyAgreesWithTheServersOwnLog(t *testing.T) {
	r := newRig(t, Override{Name: "tested", Command: ownCommand(t)})
	var mu sync.Mutex
	var own []float64
	logged := map[int64]int64{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began, status := time.Now(), http.StatusOK
		if rand.IntN(20) == 0 {
			status = http.StatusInternalServerError
		}
		time.Sleep(time.Millisecond + rand.N(19*time.Millisecond))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "done")
		_ = http.NewResponseController(w).Flush()
		mu.Lock()
		defer mu.Unlock()
		own = append(own, time.Since(began).Seconds())
		logged[int64(status)]++
	})}
	go func() { _ = server.Serve(l) }()
	port := l.Addr().(*net.TCPAddr).Port
	send(t, port, 8, 250)
	r.collect() // finds the service while it still listens
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.collect()
	if diff := cmp.Diff(logged, r.statuses(port)); diff != "" {
		t.Errorf("the server logged, slid counted (-server +slid):\n%s", diff)
	}
	if name := r.serviceOn(port, "service.name"); name != "tested" {
		t.Errorf("service.name %q, want the override", name)
	}
	slices.Sort(own)
	buckets := r.durations(port)
	for _, q := range []float64{0.5, 0.9, 0.99} {
		want := own[int(math.Ceil(q*float64(len(own))))-1]
		got := bucketOf(buckets, q)
		if diff := got - metric.Index(want); diff < -1 || diff > 1 {
			t.Errorf("p%g: bucket up to %.4f s, the server says %.4f s: %d buckets apart", 100*q, metric.UpperBound(got), want, diff)
		}
		t.Logf("p%g: slid (%.2f, %.2f] ms, the server %.2f ms", 100*q, 1e3*metric.UpperBound(got-1), 1e3*metric.UpperBound(got), 1e3*want)
	}
}

func ownCommand(tb testing.TB) string {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(comm))
}

// send sends requests over keep-alive connections and waits for all answers.
func send(tb testing.TB, port, connections, each int) {
	tb.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			for range each {
				resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
				if err != nil {
					tb.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
}

// bucketOf returns the index of the bucket that holds the q-quantile.
func bucketOf(buckets map[int]uint64, q float64) int {
	var total uint64
	var indexes []int
	for i, n := range buckets {
		total += n
		indexes = append(indexes, i)
	}
	slices.Sort(indexes)
	rank, seen := uint64(math.Ceil(q*float64(total))), uint64(0)
	for _, i := range indexes {
		if seen += buckets[i]; seen >= rank {
			return i
		}
	}
	return math.MinInt
}

// TestOtherNamespacesAndCgroups runs a server in a network namespace and a cgroup of its own.
func TestOtherNamespacesAndCgroups(t *testing.T) {
	r := newRig(t)
	ip, python := testneed.Tool(t, "ip"), testneed.Tool(t, "python3")
	group := filepath.Join(r.traffic.env.Cgroup, fmt.Sprintf("slidtest%d.service", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skip(err)
	}
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ns := fmt.Sprintf("slidtest%d", os.Getpid())
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
	run(t, "ip", "-n", ns, "link", "set", "lo", "up")

	const script = `
import http.client, http.server, sys, threading
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do_GET(self):
        self.send_response(418 if self.path == "/tea" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
s = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), H)
threading.Thread(target=s.serve_forever, daemon=True).start()
c = http.client.HTTPConnection("127.0.0.1", 8080)
for path in ["/"] * 20 + ["/tea"] * 5:
    c.request("GET", path)
    c.getresponse().read()
print("sent", flush=True)
sys.stdin.read()
`
	cmd := exec.Command(ip, "netns", "exec", ns, python, "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("sent\n"))); err != nil {
		t.Fatal(err)
	}
	r.collect()
	if diff := cmp.Diff(map[int64]int64{200: 20, 418: 5}, r.statuses(8080)); diff != "" {
		t.Error(diff)
	}
	unit := filepath.Base(group)
	if got := r.serviceOn(8080, "systemd.unit.name"); got != unit {
		t.Errorf("systemd.unit.name %q, want %q", got, unit)
	}
	if got := r.serviceOn(8080, "service.name"); got != strings.TrimSuffix(unit, ".service") {
		t.Errorf("service.name %q", got)
	}

	stdin.Close()
	_ = cmd.Wait()
	if err := os.Remove(group); err != nil {
		t.Fatal(err)
	}
	r.checkGoes(8080)
}

// checkGoes checks that the services on the port give back their slots and series, once their cgroup is gone.
func (r *rig) checkGoes(port int) {
	r.tb.Helper()
	want := r.statuses(port)
	r.traffic.pruned = time.Time{} // as if a minute had passed
	r.collect()
	if diff := cmp.Diff(want, r.statuses(port)); diff != "" {
		r.tb.Errorf("the last counts changed when the slot was given up:\n%s", diff)
	}
	for i := range r.traffic.slots {
		if r.traffic.slots[i].key.Port == uint16(port) {
			r.tb.Errorf("slot %d still belongs to the service", i)
		}
	}
	r.traffic.pruned = time.Time{}
	r.collect()
	if got := r.statuses(port); len(got) != 0 {
		r.tb.Errorf("the dead service still has series: %v", got)
	}
}

// TestRestartedServiceGoesOn gives a service a second cgroup, as a restart does: its counters go on.
func TestRestartedServiceGoesOn(t *testing.T) {
	r := newRig(t)
	n := startNginx(t, false)
	run(t, "ab", "-q", "-n100", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
	r.collect()
	var slot int
	for i := range r.traffic.slots {
		if int(r.traffic.slots[i].key.Port) == n.port {
			slot = i
		}
	}
	// Give the slot up as prune does; the next connection gets another one.
	e := r.traffic.slots[slot].of
	if err := r.traffic.probe.Service(slot, &r.traffic.scratch); err != nil {
		t.Fatal(err)
	}
	if err := r.traffic.probe.Retire(slot); err != nil {
		t.Fatal(err)
	}
	e.drop(slot, &r.traffic.scratch)
	r.traffic.slots[slot] = r.traffic.slots[0]
	run(t, "ab", "-q", "-n50", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
	r.collect()
	if got := r.statuses(n.port); got[200] != 150 {
		t.Errorf("counted %v, want 150 over both lives", got)
	}
}

// TestShortLivedServersDoNotFillTheSlots has five times as many servers come and go as there are slots.
func TestShortLivedServersDoNotFillTheSlots(t *testing.T) {
	r := newRig(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for range 50 {
		for range bpf.HTTPSlots / 10 {
			server := httptest.NewServer(handler)
			send(t, server.Listener.Addr().(*net.TCPAddr).Port, 1, 1)
			server.Close()
		}
		r.collect()
	}
	if lost := r.traffic.noSlot.Value(); lost != 0 {
		t.Errorf("%d connections found no slot", lost)
	}
	if live, most := r.group.Live(), 15*bpf.HTTPSlots; live > most {
		t.Errorf("%d series, want at most %d", live, most)
	}
	if n := r.group.Dropped(); n != 0 {
		t.Errorf("%d series over the budget", n)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	r := newRig(t)
	n := startNginx(t, false)
	run(t, "ab", "-q", "-n100", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
	r.collect()
	r.checkAllocatesNothing(t)
}

func TestVerdictNamesTheHook(t *testing.T) {
	r := newRig(t)
	v := r.traffic.Verdicts()
	want := r.traffic.probe.Qualify(verdict.Verdict{State: verdict.Active}).State // kernels differ
	if len(v) != 1 || v[0].State != want || !strings.Contains(v[0].Hook, r.traffic.env.Cgroup) {
		t.Errorf("verdicts %+v", v)
	}
}

// TestWithoutTheCgroupRoot counts at the interfaces, as a sidecar does that does not see the host's cgroup2 tree.
func TestWithoutTheCgroupRoot(t *testing.T) {
	for name, cgroup := range map[string]string{"none": "", "a part": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			if cgroup != "" { // all groups but the root have the file
				if err := os.WriteFile(filepath.Join(cgroup, "cgroup.events"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r := newRigAt(t, cgroup)
			n := startNginx(t, true)
			run(t, "ab", "-q", "-k", "-c4", "-n5000", fmt.Sprintf("http://127.0.0.1:%d/", n.port))
			check(t, r, n, 5000)
			v := r.traffic.Verdicts()[0]
			if v.State != verdict.Degraded || !strings.Contains(v.Hook, "tcx") || !strings.Contains(v.Hook, "lo") || v.Missing == "" {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

// TestOtherProtocols has real servers of protocols that are not HTTP/1.x: their connections count as opaque, and no
// request is ever made up of them.
func TestOtherProtocols(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	for name, start := range map[string]func(t *testing.T) (port int, talk func()){
		"TLS": func(t *testing.T) (int, func()) {
			server := httptest.NewTLSServer(hello)
			t.Cleanup(server.Close)
			return server.Listener.Addr().(*net.TCPAddr).Port, func() { fetch(t, server.Client(), server.URL) }
		},
		"HTTP/2 without TLS": func(t *testing.T) (int, func()) {
			server := httptest.NewUnstartedServer(hello)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			t.Cleanup(server.Close)
			transport := &http.Transport{Protocols: server.Config.Protocols}
			t.Cleanup(transport.CloseIdleConnections)
			return server.Listener.Addr().(*net.TCPAddr).Port, func() { fetch(t, &http.Client{Transport: transport}, server.URL) }
		},
		"Redis": func(t *testing.T) (int, func()) {
			port := startRedis(t)
			return port, func() { run(t, "redis-benchmark", "-q", "-p", strconv.Itoa(port), "-n", "2000", "-t", "get,set") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			port, talk := start(t)
			talk()
			r.collect()
			if got := r.statuses(port); len(got) != 0 {
				t.Errorf("counted responses %v", got)
			}
			if n := r.connections(port, "opaque"); n == 0 {
				t.Error("no opaque connection was counted")
			}
			if n := r.connections(port, "http"); n != 0 {
				t.Errorf("%d connections count as HTTP/1.x", n)
			}
		})
	}
}

func fetch(tb testing.TB, client *http.Client, url string) {
	tb.Helper()
	for range 10 {
		resp, err := client.Get(url)
		if err != nil {
			tb.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

func startRedis(tb testing.TB) (port int) {
	tb.Helper()
	port = freePort(tb)
	cmd := exec.Command(testneed.Tool(tb, "redis-server"), "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--dir", tb.TempDir())
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	waitForPort(tb, port, func() string { return "redis-server does not start" })
	return port
}

// connections returns the connections to the port that speak the protocol.
func (r *rig) connections(port int, protocol string) (total int64) {
	for _, sum := range points[metricdata.Sum[int64]](r, "service.connection.count") {
		for _, p := range sum.DataPoints {
			at, _ := p.Attributes.Value(portKey)
			speaks, _ := p.Attributes.Value(protocolKey)
			if at.AsInt64() == int64(port) && speaks.AsString() == protocol {
				total += p.Value
			}
		}
	}
	return total
}
