package service

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/internal/slo"
	"github.com/slid-agent/slid/internal/testneed"
)

// What the servers of these tests do is in the path, /KIND/STATUS/MILLISECONDS: wait so long, then answer with that status;
// in chunks if the kind is chunks, and with a file of 100 kB, by sendfile(2) where there is a choice, if it is file.
const (
	slowMS = 600 // of requests that are beyond the threshold
	// It is clear of 200 ms, after which TCP sends again: on a busy machine many responses take a little longer than that.
	threshold = 300 * time.Millisecond
)

// A server has a log of its own about the requests to its port.
type server struct {
	port int
	log  func(testing.TB) []request
}

// startGo runs net/http in the test's own process.
func startGo(t *testing.T) server {
	s := startLogged(t)
	return server{s.port, func(testing.TB) []request { return s.entries() }}
}

// program runs a server until the test ends.
func program(t *testing.T, port int, stop os.Signal, stdout *os.File, path string, args ...string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(stop)
		_ = cmd.Wait()
	})
	waitForPort(t, port, stderr.String)
}

// write writes a file of a test and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// settled reads a log once it stands still.
func settled(tb testing.TB, read func() []byte) (list []request) {
	tb.Helper()
	var data []byte
	for {
		now := read()
		if len(now) == len(data) && len(now) > 0 {
			break
		}
		data = now
		time.Sleep((slowMS + 200) * time.Millisecond)
	}
	for line := range bytes.Lines(data) {
		var r request
		var seconds float64
		if _, err := fmt.Sscan(string(line), &r.status, &r.method, &r.path, &seconds); err != nil {
			tb.Fatalf("line in the log: %q: %v", line, err)
		}
		r.duration = time.Duration(seconds * 1e9)
		list = append(list, r)
	}
	return list
}

func fileLog(path string) func(testing.TB) []request {
	return func(tb testing.TB) []request {
		return settled(tb, func() []byte {
			data, err := os.ReadFile(path)
			if err != nil {
				tb.Fatal(err)
			}
			return data
		})
	}
}

// startNginxBefore runs nginx: files are its own, the rest comes from a server behind it.
func startNginxBefore(t *testing.T) server {
	behind := startLogged(t)
	dir, port := t.TempDir(), freePort(t)
	access := filepath.Join(dir, "access.log")
	if err := os.WriteFile(filepath.Join(dir, "data"), bytes.Repeat([]byte("0123456789"), 10000), 0o644); err != nil {
		t.Fatal(err)
	}
	conf := write(t, "conf", fmt.Sprintf(`user root; daemon off; worker_processes 2; pid %[1]s/pid;
events { worker_connections 4096; }
http {
  log_format oracle "$status $request_method $request_uri $request_time"; access_log %[2]s oracle; keepalive_requests 1000000;
  sendfile on; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  upstream behind { server 127.0.0.1:%[4]d; keepalive 64; }
  server {
    listen 127.0.0.1:%[3]d; root %[1]s;
    location /file/ { try_files /data =404; }
    location / { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}`, dir, access, port, behind.port))
	program(t, port, syscall.SIGQUIT, nil, testneed.Tool(t, "nginx"), "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log"))
	return server{port, fileLog(access)}
}

// startHAProxyBefore runs haproxy before another server. It logs to its standard output, a file.
func startHAProxyBefore(t *testing.T) server {
	path := testneed.Tool(t, "haproxy")
	behind := startLogged(t)
	port := freePort(t)
	conf := write(t, "conf", fmt.Sprintf(`global
  log stdout format raw local0
  nbthread 1 # with more it drops lines of its log when two threads write at once
  maxconn 2000
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 5s
  option splice-auto
  option dontlognull # nor does slid count the 400 that it answers to connections that are closed without a request
  log global
  log-format "%%ST %%HM %%HP %%Ta"
frontend front
  bind 127.0.0.1:%[1]d
  http-request return status 404 if { path_beg /missing/ }
  default_backend behind
backend behind
  server s 127.0.0.1:%[2]d
`, port, behind.port))
	access := write(t, "access.log", "")
	out, err := os.OpenFile(access, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	program(t, port, syscall.SIGTERM, out, path, "-db", "-f", conf)
	return server{port, func(tb testing.TB) []request {
		list := fileLog(access)(tb)
		for i := range list { // it logs milliseconds
			list[i].duration /= 1000
		}
		return list
	}}
}

// startPython runs the server of Python's standard library, a thread for each connection.
func startPython(t *testing.T) server {
	port := freePort(t)
	log := write(t, "access.log", "")
	script := write(t, "server.py", `
import http.server, os, socketserver, sys, tempfile, threading, time

data = tempfile.TemporaryFile()
data.write(b"0123456789" * 10000)
log, lock = open(sys.argv[2], "a", buffering=1), threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def answer(self):
        began = time.monotonic()
        _, kind, status, wait = self.path.split("/")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(int(wait) / 1000)
        try:
            self.body(kind, int(status))
        except OSError:
            self.close_connection = True
        line = "%s %s %s %.6f\n" % (status, self.command, self.path, time.monotonic() - began)
        with lock:
            log.write(line)

    def body(self, kind, status):
        size = 100000 if kind == "file" else 2
        self.send_response(status)
        if kind == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.flush()
        if self.command == "HEAD":
            return
        if kind == "chunks":
            for _ in range(5):
                self.wfile.write(b"4\r\nsome\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        elif kind == "file":
            sent = 0
            while sent < size:
                sent += os.sendfile(self.connection.fileno(), data.fileno(), sent, size - sent)
        else:
            self.wfile.write(b"ok")
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = answer

class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 512

    def handle_error(self, *args):
        pass

data.flush()
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
`)
	program(t, port, syscall.SIGTERM, nil, testneed.Tool(t, "python3"), script, fmt.Sprint(port), log)
	return server{port, fileLog(log)}
}

// A volley is a way to send requests.
type volley struct {
	name      string
	paths     []string
	requests  int
	keepAlive bool
	methods   []string
}

func volleys() []volley {
	mixed := []string{"/small/200/0", "/small/200/1", "/small/201/0", "/missing/404/0", "/broken/503/2"}
	all := []string{http.MethodGet, http.MethodGet, http.MethodPost, http.MethodHead}
	get := []string{http.MethodGet}
	return []volley{
		{"keep-alive", mixed, 1200, true, all},
		{"new connections", mixed, 600, false, all},
		{"chunked", []string{"/chunks/200/0", "/chunks/500/3"}, 400, true, get},
		{"sendfile", []string{"/file/200/0"}, 300, true, get},
		{"sendfile, new connections", []string{"/file/200/0"}, 100, false, get},
		{"fast and slow", []string{"/timed/200/0", "/timed/200/0", "/timed/200/0", "/timed/200/0", fmt.Sprintf("/timed/200/%d", slowMS)}, 1000, true, get},
	}
}

// send sends the requests from 32 workers at once.
func (l volley) send(t *testing.T, port int) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: !l.keepAlive, MaxIdleConnsPerHost: 32}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	defer transport.CloseIdleConnections()
	numbers := make(chan int, l.requests)
	for i := range l.requests {
		numbers <- i
	}
	close(numbers)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := range numbers {
				q, _ := http.NewRequest(l.methods[i%len(l.methods)], fmt.Sprintf("http://127.0.0.1:%d%s", port, l.paths[i%len(l.paths)]), http.NoBody)
				resp, err := client.Do(q)
				if err != nil {
					t.Errorf("%s: %v", l.name, err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
}

// closeAtOnce connects and closes without a word, as checks of health do, and reads what is answered.
func closeAtOnce(t *testing.T, port int) {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, c)
}

// abort asks and hangs up after a time, by a reset.
func abort(t *testing.T, port int, path string, after time.Duration) {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestCountsEqualTheLogsOfServers compares counts by route, method and status with what four servers say themselves, and
// the good and bad ones at a threshold. Requests that were broken off are in the servers' logs with one status or another,
// or not at all; slid has them in a class of their own.
func TestCountsEqualTheLogsOfServers(t *testing.T) {
	for name, start := range map[string]func(*testing.T) server{
		"Go": startGo, "nginx": startNginxBefore, "haproxy": startHAProxyBefore, "python": startPython,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			routes := []string{"/small/", "/missing/", "/broken/", "/chunks/", "/file/", "/timed/", "/abort/"}
			good := fmt.Sprintf("status < 500 && duration <= %v", threshold)
			list := []slo.Indicator{
				indicator(t, "timed", "/timed/", good, ""),
				indicator(t, "small", "/small/", good, ""),
				indicator(t, "file", "/file/", good, ""),
				indicator(t, "abort", "/abort/", good, ""),
			}
			o := objectivesOf(t, list...)
			if what, _ := o.AddRoutes("tested", routes); what != "" {
				t.Fatal(what)
			}
			r := newRigWith(t, cgroupMount(t), o, Override{Name: "tested", Port: uint16(s.port)})
			for _, l := range volleys() {
				l.send(t, s.port)
			}
			for range 10 {
				closeAtOnce(t, s.port)
			}
			log := s.log(t)
			r.checkRoutes(t, s.port, byRoute(log, routes))
			for _, i := range list[:3] {
				want := judge(i, log)
				r.checkNear(t, i.Name, want)
			}
			checkAborts(t, r, s)
		})
	}
}

// checkNear checks good and bad events against a log: the sums must be equal, and all but a thousandth on the same side of
// the threshold, for server and kernel do not read their clocks at the same time.
func (r *rig) checkNear(t *testing.T, name string, want judged) {
	t.Helper()
	got := r.judged(name)
	total := want["good"] + want["bad"]
	if got["good"]+got["bad"] != total || len(got) > 2 {
		t.Errorf("%s: counted %v, the log %v", name, got, want)
	}
	if d := got["good"] - want["good"]; 1000*max(d, -d) > total {
		t.Errorf("%s: %d of %d events are on the other side of the threshold: %v, the log %v", name, d, total, got, want)
	}
	t.Logf("%s: slid %v, the server's log %v", name, got, want)
}

// checkAborts breaks requests off before and after the threshold, and in the middle of a response.
func checkAborts(t *testing.T, r *rig, s server) {
	t.Helper()
	const each = 8
	before := len(s.log(t))
	var wg sync.WaitGroup
	for range each {
		wg.Go(func() { abort(t, s.port, "/abort/200/1000", threshold/4) })
		wg.Go(func() { abort(t, s.port, "/abort/200/1000", threshold*2) })
	}
	wg.Wait()
	r.check(t, "abort", judged{"lost aborted": each, "bad": each})
	if n := r.aborted(s.port); n != 2*each {
		t.Errorf("%d requests were aborted, want %d", n, 2*each)
	}
	responses, _ := r.routes(s.port)
	for series := range responses {
		if strings.HasPrefix(series, "/abort/") {
			t.Errorf("an aborted request counts as answered: %s", series)
		}
	}
	log := s.log(t)[before:]
	t.Logf("%d requests were broken off: slid says so, and the server logged %v", 2*each, byRoute(log, []string{"/abort/"}))
	if len(log) > 2*each {
		t.Errorf("the server logged %d requests", len(log))
	}
}

// aborted returns the requests of a port that had no response.
func (r *rig) aborted(port int) (n int64) {
	for _, sum := range points[metricdata.Sum[int64]](r, "http.server.request.aborted") {
		for _, p := range sum.DataPoints {
			if at, _ := p.Attributes.Value(portKey); at.AsInt64() == int64(port) {
				n += p.Value
			}
		}
	}
	return n
}
