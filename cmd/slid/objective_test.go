package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slid-agent/slid/internal/testneed"
)

// TestObjectivesAreMeasured runs slid sli with an objective beside a server of the test's.
func TestObjectivesAreMeasured(t *testing.T) {
	testneed.Root(t, "to load BPF programs")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pay/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "slid.yaml")
	config := fmt.Sprintf(`services:
  - {name: checkout, match: {port: %d}}
slos:
  - {name: pay, service: checkout, route: /pay/, good: "status < 500 && duration <= 10s", target: 99%%, window: 28d}
  - {name: elsewhere, service: nobody, good: "status < 500", target: 99%%, window: 28d}
`, server.Listener.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sent := map[string]int{}
	text := measureWhile(t, 20*time.Millisecond, func() {
		for _, p := range []string{"/pay/ok", "/pay/ok", "/pay/broken", "/other"} {
			response, err := http.Get(server.URL + p)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			sent[p]++
		}
	}, "--config", path, "--for", "8s")
	good, bad := series(t, text, "pay", "good"), series(t, text, "pay", "bad")
	if bad < 20 || good < 2*bad-3 || good > 2*bad+3 || bad > sent["/pay/broken"] {
		t.Errorf("%d good and %d bad of %v: want two good ones for a bad one", good, bad, sent)
	}
	if n := series(t, text, "elsewhere", "good"); n != 0 {
		t.Errorf("an objective of nobody has %d good events", n)
	}
}

// measureWhile runs slid sli and meanwhile works again and again. It returns what slid prints as OpenMetrics.
func measureWhile(t *testing.T, pause time.Duration, work func(), args ...string) string {
	t.Helper()
	cmd := newSlid(t, append([]string{"sli", "-o", "openmetrics"}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		work()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr.String())
			}
			return stdout.String()
		case <-time.After(pause):
		}
	}
}

// series returns the value of sli.events in OpenMetrics text.
func series(t *testing.T, text, name, outcome string) int {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "sli_events_total{") && strings.Contains(line, `sli_name="`+name+`"`) &&
			strings.Contains(line, `sli_outcome="`+outcome+`"`) {
			var n float64
			if _, err := fmt.Sscan(line[strings.LastIndex(line, "}")+1:], &n); err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no sli_events_total of %s, %s in:\n%s", name, outcome, text)
	return 0
}

// TestTooManyObjectivesAreAnError: the limit of the kernel is told with file and line before anything starts.
func TestTooManyObjectivesAreAnError(t *testing.T) {
	var b strings.Builder
	b.WriteString("slos:\n")
	for n := range 17 {
		fmt.Fprintf(&b, "  - {name: o%d, service: checkout, good: \"status < 500\", target: 99%%, window: 28d}\n", n)
	}
	path := filepath.Join(t.TempDir(), "slid.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"validate", path}, {"run", "--config", path}} {
		out, err := newSlid(t, args...).CombinedOutput()
		want := path + ":18:5: slos[16]: is one too many for checkout: 16 indicators of a service are counted at most;"
		exit, ok := err.(*exec.ExitError) //nolint:errorlint // Run returns it as it is
		if !ok || exit.ExitCode() != 78 || !strings.Contains(string(out), want) {
			t.Errorf("slid %s: %v, %s\nwant %s", args[0], err, out, want)
		}
	}
}
