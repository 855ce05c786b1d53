// Package promtest runs a real Prometheus for tests: the one of internal/tools/prometheus, as SLID_PROMETHEUS names it or
// as internal/tools/tool.sh built it into the user's cache directory. promtool lies beside it.
package promtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// patience is how long Prometheus may take to start on a busy machine.
const patience = 30 * time.Second

// Find returns the path of Prometheus, or skips the test.
func Find(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("SLID_PROMETHEUS"); path != "" {
		return path
	}
	if cache, err := os.UserCacheDir(); err == nil {
		if built, err := filepath.Glob(filepath.Join(cache, "slid", "prometheus-*", "prometheus")); err == nil && len(built) > 0 {
			return built[len(built)-1]
		}
	}
	t.Skip("needs Prometheus: internal/tools/tool.sh prometheus builds it")
	return ""
}

// A Server is a running Prometheus.
type Server struct{ URL string }

// Start runs Prometheus with a configuration file, and its receiver of OTLP, until the test ends. It returns when
// Prometheus is ready.
func Start(t testing.TB, config string) *Server {
	t.Helper()
	binary, dir := Find(t), t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(binary, "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", addr, "--web.enable-otlp-receiver", "--web.enable-lifecycle")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // a bad exit shows in the log
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("log of Prometheus:\n%s", text[max(0, len(text)-4000):])
		}
	})
	s := &Server{URL: "http://" + addr}
	s.awaitReady(t)
	return s
}

func (s *Server) awaitReady(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		response, err := http.Get(s.URL + "/-/ready")
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatalf("Prometheus was not ready in %v", patience)
}

// Reload makes Prometheus read its configuration and rules anew.
func (s *Server) Reload(t testing.TB) {
	t.Helper()
	response, err := http.Post(s.URL+"/-/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("reload: %s", response.Status)
	}
}

// A Sample is an element of a vector.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates an expression whose value is a vector, now.
func (s *Server) Query(t testing.TB, expr string) []Sample {
	t.Helper()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	response, err := http.Get(s.URL + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	var list []Sample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		list = append(list, Sample{r.Metric, v})
	}
	return list
}
