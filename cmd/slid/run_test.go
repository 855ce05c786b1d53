package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/exporter/otlp/oteltest"
	"github.com/slid-agent/slid/internal/metric"
)

// TestRunServes runs the agent against a Collector and as systemd would: it must say that it is ready, feed the
// watchdog, export, read its configuration again and end cleanly with a last export.
func TestRunServes(t *testing.T) {
	collector := oteltest.Start(t)
	path := filepath.Join(t.TempDir(), "slid.yaml")
	configure := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := fmt.Sprintf("interval: 1s\nexport:\n"+
		"  - {name: near, endpoint: %q, select: [host], interval: 1s}\n"+
		"  - {name: far, endpoint: %[1]q, select: [host], names: prometheus}\n", collector.Endpoint)
	configure(good)

	notified := listenNotify(t)
	cmd := newSlid(t, "run", "--config", path)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notified.path, "WATCHDOG_USEC=1000000",
		"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test")
	var log buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "READY=1", func() bool { return strings.HasPrefix(notified.String(), "READY=1\n") })
	collector.Await(t, 3)
	await(t, "a fed watchdog", func() bool { return strings.Contains(notified.String(), "WATCHDOG=1\n") })
	await(t, "a status", func() bool { return strings.Contains(notified.String(), " active") })

	configure("intervall: 1s\n")
	signalProcess(t, cmd.Process, unix.SIGHUP)
	await(t, "a refusal of the bad file", func() bool { return strings.Contains(log.String(), "the old one stays in force") })
	configure(good + "host: {disabled: [disk]}\n")
	signalProcess(t, cmd.Process, unix.SIGHUP)
	await(t, "a second start", func() bool { return strings.Count(log.String(), "slid runs") == 2 })
	if !strings.Contains(notified.String(), "RELOADING=1\n") {
		t.Error("systemd was not told of the reload")
	}
	before := len(collector.Requests(t))
	collector.Await(t, before+2)

	signalProcess(t, cmd.Process, unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, log.String())
	}
	if !strings.Contains(notified.String(), "STOPPING=1\n") {
		t.Error("systemd was not told of the end")
	}
	if s := log.String(); strings.Contains(s, "panic") || strings.Contains(s, "not everything ended well") {
		t.Errorf("log:\n%s", s)
	}
	checkExports(t, collector.Requests(t))
}

func signalProcess(t *testing.T, p *os.Process, s os.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// checkExports looks for the resources and metrics that must have come.
func checkExports(t *testing.T, requests []*colmetricpb.ExportMetricsServiceRequest) {
	t.Helper()
	seen := map[string]bool{} // service/metric
	for _, request := range requests {
		for _, rm := range request.GetResourceMetrics() {
			attrs := map[string]string{}
			for _, kv := range rm.GetResource().GetAttributes() {
				attrs[kv.GetKey()] = kv.GetValue().GetStringValue()
			}
			if attrs["host.name"] == "" || attrs["deployment.environment.name"] != "test" {
				t.Fatalf("resource %v: want host.name and the user's attribute", attrs)
			}
			if rm.GetSchemaUrl() != metric.SchemaURL {
				t.Fatalf("resource %v has the schema %q", attrs, rm.GetSchemaUrl())
			}
			for _, m := range rm.GetScopeMetrics()[0].GetMetrics() {
				seen[attrs["service.name"]+"/"+m.GetName()] = true
			}
		}
	}
	for _, want := range []string{
		"host/system.cpu.time", "host/system.memory.usage", "host/system.network.io", "host/node_load1", "slid/process.cpu.time", "slid/process.memory.usage",
		"slid/slid.source.state", "slid/slid.collector.success", "slid/otel.sdk.exporter.metric_data_point.exported",
	} {
		if !seen[want] {
			t.Errorf("no %s was exported", want)
		}
	}
	if seen["host/system.cpu.linux.runqueue.duration"] {
		t.Error("latencies were exported to a destination that did not select them")
	}
}

// notifySocket is the receiving end of sd_notify.
type notifySocket struct {
	path string
	buffer
}

func listenNotify(t *testing.T) *notifySocket {
	t.Helper()
	n := &notifySocket{path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			size, err := conn.Read(b)
			if err != nil {
				return
			}
			_, _ = n.Write(append(b[:size:size], '\n'))
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return n
}

// TestRunWithoutABackend starts with nothing configured and nobody listening: it must say where it would send to, log
// the failure once and end in time with what it could not deliver.
func TestRunWithoutABackend(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // a port where nobody listens
	cmd := newSlid(t, "run", "--log", "json")
	cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+l.Addr().String())
	var log buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the failure in the log", func() bool { return strings.Contains(log.String(), `"msg":"export fails`) })
	signalProcess(t, cmd.Process, unix.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("after SIGINT: %v\n%s", err, log.String())
	}
	if n := strings.Count(log.String(), "export fails"); n != 1 {
		t.Errorf("the failure was logged %d times:\n%s", n, log.String())
	}
}

func TestDefaultEndpointIsNamed(t *testing.T) {
	t.Parallel()
	cmd := newSlid(t, "run")
	var log buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the default endpoint in the log", func() bool { return strings.Contains(log.String(), defaultEndpoint) })
	await(t, "the start", func() bool { return strings.Contains(log.String(), "slid runs") })
	signalProcess(t, cmd.Process, unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, log.String())
	}
}
