package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/exporter"
	"github.com/slid-agent/slid/internal/metric"
)

var update = flag.Bool("update", false, "write the golden files anew")

var _ exporter.Exporter = (*Exporter)(nil)

// golden compares with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; write it anew with -update):\n%s", path, diff)
	}
}

func TestGolden(t *testing.T) {
	cases := []struct {
		file string
		o    Options
	}{
		{"table80.txt", Options{}},
		{"table120.txt", Options{Width: 120}},
		{"color.txt", Options{Color: true}},
		{"report.json", Options{Format: JSON}},
		{"report.ndjson", Options{Format: NDJSON}},
		{"openmetrics.txt", Options{Format: OpenMetrics}},
	}
	for _, c := range cases {
		t.Run(c.file, func(t *testing.T) {
			l := full(t, c.o)
			if l.out.Len() > 0 {
				t.Errorf("the baseline printed:\n%s", &l.out)
			}
			l.export(later)
			golden(t, c.file, l.out.Bytes())
			if n := widest(l.out.String()); c.o.Format == Table && !c.o.Color && n > max(c.o.Width, 80) {
				t.Errorf("a line has %d columns", n)
			}
		})
	}
}

func widest(s string) int {
	most := 0
	for line := range strings.Lines(s) {
		most = max(most, width(strings.TrimSuffix(line, "\n")))
	}
	return most
}

// TestColorOnlyAdds proves that without its colors the colored table is the plain one.
func TestColorOnlyAdds(t *testing.T) {
	plainLab, colored := full(t, Options{}), full(t, Options{Color: true})
	plainLab.export(later)
	colored.export(later)
	got := colored.out.String()
	for _, s := range []style{bold, dim, red, yellow, green, reset} {
		got = strings.ReplaceAll(got, string(s), "")
	}
	if diff := cmp.Diff(plainLab.out.String(), got); diff != "" {
		t.Error(diff)
	}
}

// TestContract decodes the JSON into the documented shape, written here once more by hand.
func TestContract(t *testing.T) {
	type quantiles struct{ P50, P90, P99 float64 }
	var r struct {
		SchemaVersion *int      `json:"schema_version"`
		Host          string    `json:"host"`
		Time          time.Time `json:"time"`
		WindowSeconds float64   `json:"window_seconds"`
		Services      []struct {
			Service   string           `json:"service"`
			Port      int              `json:"port"`
			Protocol  string           `json:"protocol"`
			Requests  *int64           `json:"requests"`
			Errors    *int64           `json:"errors"`
			Status    map[string]int64 `json:"status"`
			Latency   *quantiles       `json:"latency_seconds"`
			Coverage  *float64         `json:"coverage"`
			Unit      *string          `json:"unit"`
			Container *string          `json:"container"`
		} `json:"services"`
		SLOs    []map[string]any `json:"slos"`
		Latency []struct {
			Probe    string   `json:"probe"`
			Count    int64    `json:"count"`
			P50, P99 *float64 `json:",omitempty"`
		} `json:"latency"`
		Agent struct {
			CPUSeconds *float64 `json:"cpu_seconds"`
			RSSBytes   *int64   `json:"rss_bytes"`
			EventsLost *int64   `json:"events_lost"`
		} `json:"agent"`
		Probes []struct {
			Probe, Service, Kind, Target string
			Attempts                     int64
			Outcomes                     map[string]int64
			SuccessRatio                 *float64   `json:"success_ratio"`
			Latency                      *quantiles `json:"latency_seconds"`
			Missed                       *int64
			Expiry                       *float64 `json:"certificate_expiry_seconds"`
		} `json:"probes"`
		Sources []map[string]string `json:"sources"`
	}
	l := full(t, Options{Format: JSON, Host: "given"})
	l.export(later)
	if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if *r.SchemaVersion != 1 || r.Host != "given" || !r.Time.Equal(later) || r.WindowSeconds != 10 || r.SLOs == nil || len(r.SLOs) != 0 {
		t.Errorf("head of the report: %+v", r)
	}
	check, nginx, redis := r.Services[0], r.Services[1], r.Services[2]
	if check.Service != "checkout" || check.Port != 8443 || *check.Requests != 2000 || *check.Errors != 20 ||
		check.Status["2xx"] != 1980 || check.Status["5xx"] != 20 || *check.Container != "4f1e" || *check.Unit != "" {
		t.Errorf("checkout: %+v", check)
	}
	if *nginx.Requests != 74375 || *nginx.Errors != 0 || *nginx.Coverage != 1 || *nginx.Unit != "nginx.service" ||
		nginx.Protocol != "http" || nginx.Latency.P50 < .01 || nginx.Latency.P99 > .03 {
		t.Errorf("nginx: %+v", nginx)
	}
	if redis.Protocol != "opaque" || redis.Requests != nil || redis.Errors != nil || redis.Status != nil || redis.Latency != nil {
		t.Errorf("what cannot be measured of an opaque service is there: %+v", redis)
	}
	if p := r.Latency[0]; p.Probe != "runqueue" || p.Count != 10234 || *p.P50 < 12e-6 || *p.P50 > 18e-6 || *p.P99 < *p.P50 {
		t.Errorf("latency: %+v", p)
	}
	if p := r.Probes[0]; len(r.Probes) != 3 || p.Probe != "checkout-health" || p.Service != "checkout" || p.Kind != "https" ||
		p.Target != "https://checkout-health" || p.Attempts != 10 || *p.SuccessRatio != 0.9 || p.Outcomes["timeout"] != 1 ||
		p.Latency.P50 > 0.022 || p.Latency.P99 < 4.5 || *p.Expiry != 11.5*86400 {
		t.Errorf("probe: %+v", p)
	}
	if p := r.Probes[2]; p.Probe != "gateway" || p.Attempts != 0 || p.SuccessRatio != nil || p.Latency != nil || *p.Missed != 10 {
		t.Errorf("a probe that could not be made: %+v", p)
	}
	if a := r.Agent; *a.CPUSeconds != 0.03 || *a.RSSBytes != 19000000 || *a.EventsLost != 0 {
		t.Errorf("agent: %+v", a)
	}
	if len(r.Sources) != 2 || r.Sources[0]["name"] != "host/disk" || r.Sources[1]["state"] != "degraded" {
		t.Errorf("sources: %v", r.Sources)
	}
}

// TestNDJSONIsOneLinePerReport also proves that windows follow on each other.
func TestNDJSONIsOneLinePerReport(t *testing.T) {
	l := full(t, Options{Format: NDJSON})
	l.export(later)
	l.export(later.Add(time.Second))
	lines := bytes.Split(bytes.TrimSuffix(l.out.Bytes(), []byte("\n")), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines of two reports", len(lines))
	}
	var r Report
	if err := json.Unmarshal(lines[1], &r); err != nil {
		t.Fatal(err)
	}
	if r.WindowSeconds != 1 || *r.Services[0].Requests != 0 || r.Services[0].LatencySeconds != nil {
		t.Errorf("second window: %+v", r)
	}
}

// TestNothingMeasured covers a host where nothing works, and two snapshots at one moment.
func TestNothingMeasured(t *testing.T) {
	for _, f := range []Format{Table, JSON, NDJSON, OpenMetrics} {
		for _, at := range []time.Time{later, first} {
			l := newLab(t, Options{Format: f})
			l.exportOnly(first)
			l.exportOnly(at)
			switch out := l.out.String(); f {
			case JSON, NDJSON:
				var r map[string]any
				if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
					t.Fatal(err)
				}
				for _, list := range []string{"services", "slos", "latency", "sources"} {
					if got, ok := r[list].([]any); !ok || len(got) != 0 {
						t.Errorf("%s is %v, want an empty list", list, r[list])
					}
				}
				if agent, ok := r["agent"].(map[string]any); !ok || len(agent) != 0 || r["system"] != nil {
					t.Errorf("agent %v and system %v without measurements", r["agent"], r["system"])
				}
			case OpenMetrics:
				if out != "# EOF\n" {
					t.Errorf("got %q", out)
				}
			default:
				if !strings.Contains(out, "No service was seen") || strings.Contains(out, "NaN") || strings.Contains(out, "Inf") {
					t.Errorf("got:\n%s", out)
				}
			}
		}
	}
}

func TestZeroWindowHasNoRates(t *testing.T) {
	for _, f := range []Format{Table, JSON} {
		l := full(t, Options{Format: f})
		l.export(first)
		if out := l.out.String(); strings.Contains(out, "NaN") || strings.Contains(out, "Inf") {
			t.Errorf("%v:\n%s", f, out)
		}
	}
}

// TestHostileNames gives services and devices names that would seize the terminal or break the formats.
func TestHostileNames(t *testing.T) {
	names := []string{
		"\x1b[2J\x1b]0;owned\a", "a\nb\r\tc", "\u009b31m", "\u202egnp.exe\u2066", `q"u\o{t}e,=` + "\n# EOF\n", "\xff\xfe",
		strings.Repeat("長", 200), "e" + strings.Repeat("\u0301", 5000), "", "👩‍👩‍👧 family", strings.Repeat("x ", 300),
	}
	for _, f := range []Format{Table, JSON, OpenMetrics} {
		l := newLab(t, Options{Format: f, Host: names[0]})
		for i, name := range names {
			p := l.port(l.service.Entity(serviceResource(name, num("n", i)), began), 80+i)
			p.responses(200, 0, first)
			p.connections(name, 0, first)
		}
		l.export(first)
		for i, name := range names {
			p := l.port(l.service.Entity(serviceResource(name, num("n", 100+i)), began), 80+i)
			p.responses(200, int64(i), later)
			p.connections(name, int64(i), later)
			p.count("sli.events.lost", int64(i), later, str("loss.reason", name))
			p.coverage(.5, later)
			l.int(l.hostEnt, l.host, metric.Counter, "system.network.io", int64(i), later, str("network.interface.name", name), str("network.io.direction", "receive"))
		}
		l.export(later)
		out := l.out.String()
		switch f {
		case Table:
			if i := strings.IndexFunc(strings.ReplaceAll(out, "\n", ""), func(r rune) bool { return clean(string(r)) != string(r) }); i >= 0 {
				t.Errorf("a character that is not printable at %d", i)
			}
			if n := widest(out); n > 80 {
				t.Errorf("a line has %d columns:\n%s", n, out)
			}
			for line := range strings.Lines(out) {
				if len([]rune(line)) > 400 {
					t.Errorf("a line has %d characters", len([]rune(line)))
				}
			}
		case JSON:
			if !json.Valid(l.out.Bytes()) || strings.ContainsRune(out, 0x1b) {
				t.Error("bad JSON")
			}
		default:
			checkOpenMetrics(t, out)
		}
	}
}

func TestSnapshotMemoryMayBeReused(t *testing.T) {
	once, twice := full(t, Options{Format: JSON}), full(t, Options{Format: JSON})
	// Between baseline and report the snapshot is written again and the exporter not told.
	twice.snapshot.Take(later)
	once.export(later)
	twice.export(later)
	if diff := cmp.Diff(once.out.String(), twice.out.String()); diff != "" {
		t.Error(diff)
	}
}

type brokenPipe struct{}

var errBroken = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorsAreReturned(t *testing.T) {
	l := full(t, Options{})
	l.exporter.options.Writer = brokenPipe{}
	l.snapshot.Take(later)
	if err := l.exporter.Export(t.Context(), l.snapshot); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if err := l.exporter.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range []Format{Table, JSON, NDJSON, OpenMetrics} {
		if got, err := ParseFormat(f.String()); err != nil || got != f {
			t.Errorf("ParseFormat(%q) = %v, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("yaml"); err == nil || !strings.Contains(err.Error(), "ndjson") {
		t.Errorf("the error does not list the formats: %v", err)
	}
	if got := Format(9).String(); got != "Format(9)" {
		t.Error(got)
	}
}

func BenchmarkExportTable(b *testing.B) { benchmarkExport(b, Table) }

func BenchmarkExportOpenMetrics(b *testing.B) { benchmarkExport(b, OpenMetrics) }

func benchmarkExport(b *testing.B, f Format) {
	l := full(b, Options{Format: f})
	l.export(later)
	b.ReportAllocs()
	for at := later; b.Loop(); at = at.Add(time.Second) {
		l.out.Reset()
		l.export(at)
	}
}
