package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
)

// pty is a terminal: what a process writes to its end is read at ours.
type pty struct {
	process *os.File
	ours    *os.File
	screen  buffer
}

// newPTY opens a pseudo-terminal of 100 columns.
func newPTY(t *testing.T) *pty {
	t.Helper()
	testneed.File(t, "/dev/ptmx", "pseudo-terminals (devpts mounted)")
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 100}); err != nil {
		t.Fatal(err)
	}
	process, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{process: process, ours: ours}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&p.screen, ours) // ends with EIO when the other end is closed everywhere
	}()
	t.Cleanup(func() {
		process.Close()
		<-done
		ours.Close()
	})
	return p
}

// report is the part of the JSON contract that the tests look at.
type report struct {
	SchemaVersion int     `json:"schema_version"`
	Host          string  `json:"host"`
	WindowSeconds float64 `json:"window_seconds"`
	Services      []struct {
		Service  string           `json:"service"`
		Port     int              `json:"port"`
		Requests int64            `json:"requests"`
		Errors   int64            `json:"errors"`
		Status   map[string]int64 `json:"status"`
	} `json:"services"`
	Sources []struct {
		Name, State, Reason, Missing string
	} `json:"sources"`
}

func decode(t *testing.T, text string) report {
	t.Helper()
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return r
}

// run runs cmd to its end and returns its stdout; it must exit 0.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout = &stdout
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	return stdout.String()
}

// TestJSONHasTheFieldsOfTheContract looks for every top-level field that users' scripts rely on.
func TestJSONHasTheFieldsOfTheContract(t *testing.T) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(output(t, newSlid(t, "sli", "--for", "200ms", "-o", "json"))), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"schema_version", "host", "time", "window_seconds", "services", "slos", "latency", "agent"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("no %q in the JSON", name)
		}
	}
	var agent map[string]float64
	if err := json.Unmarshal(fields["agent"], &agent); err != nil {
		t.Fatal(err)
	}
	if agent["rss_bytes"] <= 0 {
		t.Errorf("agent %v: want rss_bytes", agent)
	}
}

// TestSLIWithoutPrivileges proves that slid sli works for anybody and says what it could not see.
func TestSLIWithoutPrivileges(t *testing.T) {
	cmd := newSlid(t, "sli", "--for", "200ms", "-o", "json")
	unprivileged(t, cmd)
	r := decode(t, output(t, cmd))
	missing := map[string]string{}
	for _, s := range r.Sources {
		missing[s.Name] = s.Missing
		if s.Reason == "" {
			t.Errorf("%s is %s without a reason", s.Name, s.State)
		}
	}
	for _, name := range []string{"latency/runqueue", "service/traffic"} {
		if !strings.Contains(missing[name], "CAP_BPF") && !strings.Contains(missing[name], "cgroup2") {
			t.Errorf("%s: missing %q, want CAP_BPF or the cgroup2 mount", name, missing[name])
		}
	}
	if r.Host == "" {
		t.Error("no host")
	}
}

func TestDoctorWithoutPrivileges(t *testing.T) {
	cmd := newSlid(t, "doctor")
	unprivileged(t, cmd)
	out := output(t, cmd)
	for _, want := range []string{"(?m)^host/cpu +active ", "(?m)^latency/runqueue +unavailable$", "CAP_BPF", "lacking"} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// TestProgressAndInterrupt measures for an hour on a terminal, with traffic, and presses Ctrl-C.
func TestProgressAndInterrupt(t *testing.T) {
	testneed.Root(t, "to load BPF programs")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer server.Close()
	tty := newPTY(t)
	cmd := newSlid(t, "sli", "--for", "1h", "-o", "json")
	var stdout strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, tty.process
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "a sign of measuring", func() bool { return strings.Contains(tty.screen.String(), "s left, ") })
	get(t, server.URL+"/", 8)
	get(t, server.URL+"/bad", 2)
	await(t, "the requests on the screen", func() bool { return seenRequests(tty.screen.String()) >= 10 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("after Ctrl-C: %v\n%s", err, tty.screen.String())
	}
	if s := tty.screen.String(); !strings.HasSuffix(s, "\r\x1b[K") {
		t.Errorf("the line of progress was not erased: %q", s[max(0, len(s)-100):])
	}
	r := decode(t, stdout.String())
	if r.WindowSeconds <= 0 || r.WindowSeconds >= patience.Seconds() {
		t.Errorf("window of %v s, want the part that was measured", r.WindowSeconds)
	}
	checkTraffic(t, r, server.Listener.Addr().String())
}

// get sends n requests, the last of which closes the connection.
func get(t *testing.T, url string, n int) {
	t.Helper()
	for range n {
		res, err := http.Get(url) //nolint:noctx // a local server of the test
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

// seenRequests returns the number of requests in the last line of progress.
func seenRequests(screen string) int {
	var n int
	last := screen[max(0, strings.LastIndex(screen, "\r\x1b[K")):]
	_, after, _ := strings.Cut(last, "services, ")
	if _, one, ok := strings.Cut(last, "service, "); ok {
		after = one
	}
	_, _ = fmt.Sscanf(strings.ReplaceAll(after, ",", ""), "%d", &n)
	return n
}

func checkTraffic(t *testing.T, r report, addr string) {
	t.Helper()
	for _, s := range r.Services {
		if !strings.HasSuffix(addr, fmt.Sprintf(":%d", s.Port)) {
			continue
		}
		if want := map[string]int64{"2xx": 8, "5xx": 2}; s.Requests != 10 || s.Errors != 2 || !cmp.Equal(s.Status, want) {
			t.Errorf("%+v, want 10 requests, 2 errors and %v", s, want)
		}
		return
	}
	t.Errorf("%s is not among the services %+v", addr, r.Services)
}

func TestColorsAndWidth(t *testing.T) {
	for _, c := range []struct {
		name, env string
		want      bool
	}{{"a terminal", "TERM=xterm", true}, {"NO_COLOR", "NO_COLOR=1", false}, {"a dumb terminal", "TERM=dumb", false}} {
		tty := newPTY(t)
		cmd := newSlid(t, "sli", "--for", "200ms")
		cmd.Env = append(cmd.Env, "NO_COLOR=", "TERM=xterm", c.env)
		cmd.Stdout = tty.process
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		await(t, "a table", func() bool { return strings.Contains(tty.screen.String(), "slid itself") })
		if got := strings.Contains(tty.screen.String(), "\x1b["); got != c.want {
			t.Errorf("%s: colors %v, want %v", c.name, got, c.want)
		}
	}
}

// TestInterruptedWatch ends an endless series of windows by SIGTERM.
func TestInterruptedWatch(t *testing.T) {
	cmd := newSlid(t, "sli", "--watch", "100ms", "-o", "ndjson")
	var stdout buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "three windows", func() bool { return strings.Count(stdout.String(), "\n") >= 3 })
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(stdout.String()) {
		decode(t, line)
	}
}

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 things", 1: "1 thing", 999: "999 things", 1000: "1,000 things", 1234567: "1,234,567 things"} {
		if got := plural(n, "thing"); got != want {
			t.Errorf("plural(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		total, watch, window, end time.Duration
	}{
		{0, 0, 10 * time.Second, 10 * time.Second},
		{5 * time.Second, 0, 5 * time.Second, 5 * time.Second},
		{0, time.Second, time.Second, 0},
		{5 * time.Second, time.Second, time.Second, 5 * time.Second},
	} {
		f := &sliFlags{total: period(c.total), watch: period(c.watch)}
		if f.windowLength() != c.window || f.end() != c.end {
			t.Errorf("--for %v --watch %v: windows of %v until %v, want %v until %v",
				c.total, c.watch, f.windowLength(), f.end(), c.window, c.end)
		}
	}
}
