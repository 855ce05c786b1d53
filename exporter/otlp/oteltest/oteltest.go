// Package oteltest runs a real OpenTelemetry Collector for tests and reads what it received.
//
// The Collector (internal/tools/otelcol) has the OTLP receiver and the file exporter. It listens on a free loopback
// port, keeps its files in the test's own directory and ends with the test. The binary is the one that SLID_OTELCOL
// names, or the one in the user's cache directory; with SLID_BUILD_TOOLS=1 a missing one is built there first (a minute
// of two cores, once, and needs the module proxy). Otherwise Start skips the test and says so.
package oteltest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// Version is the version of the Collector in internal/tools/otelcol.
const Version = "0.155.0"

// patience is how long a Collector may take to start, to write or to stop on a busy machine.
const patience = 30 * time.Second

const config = `
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: %[1]s
exporters:
  debug: {}
  file:
    path: %[2]s
    flush_interval: 50ms
service:
  telemetry:
    metrics: {level: none}
  pipelines:
    metrics:
      receivers: [otlp]
      exporters: [debug, file]
`

// A Collector is a running OpenTelemetry Collector.
type Collector struct {
	Endpoint string // for exporters: http://127.0.0.1:port

	addr   string
	output string // the file exporter's file
	log    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

// Start runs a Collector until the test ends. It returns when the Collector accepts connections.
func Start(t testing.TB) *Collector {
	t.Helper()
	return StartWith(t, func(addr, output string) string { return fmt.Sprintf(config, addr, output) })
}

// StartWith is Start with a configuration of the test's own. It receives OTLP by gRPC at addr; what it writes to output by
// the file exporter is what Requests returns.
func StartWith(t testing.TB, config func(addr, output string) string) *Collector {
	t.Helper()
	binary := find(t)
	dir := t.TempDir()
	// Somebody may take the port between the choice of it and the Collector's start; then another is tried.
	for range 3 {
		c := &Collector{
			addr: freeAddr(t), output: filepath.Join(dir, "metrics.json"), log: filepath.Join(dir, "otelcol.log"),
		}
		c.Endpoint = "http://" + c.addr
		c.run(t, binary, filepath.Join(dir, "config.yaml"), config(c.addr, c.output))
		if c.ready() {
			return c
		}
		c.Stop(t)
		t.Logf("%s did not start on %s:\n%s", binary, c.addr, c.tail())
	}
	t.Fatal("the Collector did not start")
	return nil
}

// run writes the configuration and starts the process; the test's cleanup stops it.
func (c *Collector) run(t testing.TB, binary, configFile, config string) {
	t.Helper()
	if err := os.WriteFile(configFile, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the child has its own descriptor
	c.cmd = exec.Command(binary, "--config", configFile)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("start the Collector: %v", err)
	}
	c.exited = make(chan struct{})
	go func() {
		defer close(c.exited)
		_ = c.cmd.Wait() // a bad exit shows in the log
	}()
	t.Cleanup(func() {
		c.Stop(t)
		if t.Failed() {
			t.Logf("log of the Collector:\n%s", c.tail())
		}
	})
}

// ready waits until the Collector accepts connections; false means that it ended or took too long.
func (c *Collector) ready() bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		conn, err := net.DialTimeout("tcp", c.addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return true
		}
		select {
		case <-c.exited:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return false
}

// Stop ends the Collector in the orderly way, so that it writes all it has. It may be called more than once.
func (c *Collector) Stop(t testing.TB) {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stop the Collector: %v", err)
	}
	select {
	case <-c.exited:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.exited
		t.Errorf("the Collector did not stop by SIGTERM in %s", patience)
	}
}

// Requests returns what the Collector has received and written so far, in order. It fails the test if that is not
// valid OTLP.
func (c *Collector) Requests(t testing.TB) []*colmetricpb.ExportMetricsServiceRequest {
	t.Helper()
	content, err := os.ReadFile(c.output)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	requests, err := parse(content)
	if err != nil {
		t.Fatalf("%s: %v", c.output, err)
	}
	return requests
}

// Await waits until the Collector has written at least n requests and returns all.
func (c *Collector) Await(t testing.TB, n int) []*colmetricpb.ExportMetricsServiceRequest {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		requests := c.Requests(t)
		if len(requests) >= n {
			return requests
		}
		if time.Now().After(deadline) {
			t.Fatalf("the Collector wrote %d requests in %s, want %d", len(requests), patience, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// parse reads the file exporter's format: one OTLP/JSON message to a line. A line without its end is not written yet.
func parse(content []byte) (requests []*colmetricpb.ExportMetricsServiceRequest, err error) {
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		request := &colmetricpb.ExportMetricsServiceRequest{}
		if err := protojson.Unmarshal(line, request); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(requests)+1, err)
		}
		requests = append(requests, request)
	}
	return requests, nil
}

// tail returns the last lines of the Collector's log.
func (c *Collector) tail() string {
	content, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	const most = 40
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(content)); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// freeAddr returns a loopback address with a port that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	return addr
}

// find returns the Collector's binary, building it if that is asked for, or skips the test.
func find(t testing.TB) string {
	t.Helper()
	if binary := os.Getenv("SLID_OTELCOL"); binary != "" {
		return binary
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no cache directory for the Collector: %v; set SLID_OTELCOL to its path", err)
	}
	binary := filepath.Join(cache, "slid", "otelcol-"+Version, "otelcol")
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	if os.Getenv("SLID_BUILD_TOOLS") != "1" {
		t.Skipf("no OpenTelemetry Collector at %s; build it with SLID_BUILD_TOOLS=1, or with\n"+
			"CGO_ENABLED=0 go build -C internal/tools/otelcol -o %[1]s .", binary)
	}
	if err := build(binary); err != nil {
		t.Fatalf("build the Collector: %v", err)
	}
	return binary
}

// build compiles the Collector. Test packages may do so at the same time: each has its own file until it is complete.
func build(binary string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	gomod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		return err
	}
	part := fmt.Sprintf("%s.%d", binary, os.Getpid())
	root := filepath.Dir(strings.TrimSpace(string(gomod)))
	cmd := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join(root, "internal/tools/otelcol"),
		"-trimpath", "-ldflags=-s -w", "-o", part, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return os.Rename(part, binary)
}
