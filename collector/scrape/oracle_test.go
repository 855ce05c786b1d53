package scrape

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protodelim"
	"pgregory.net/rapid"

	"github.com/slid-agent/slid/internal/testneed"
)

// startExporter starts node_exporter, whose metrics Prometheus' own library writes, and returns how to end it.
func startExporter(t *testing.T, address string) (kill func()) {
	t.Helper()
	path := testneed.Tool(t, "prometheus-node-exporter")
	cmd := exec.CommandContext(t.Context(), path, "--collector.disable-defaults", "--collector.loadavg", "--web.listen-address="+address)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return kill
		}
		if time.Now().After(end) {
			t.Fatal("node_exporter does not answer")
		}
	}
}

func ask(t *testing.T, address string, times int) {
	t.Helper()
	for range times {
		r, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
}

// TestExporter: node_exporter counts who asks it. The test knows how often that was, and starts it anew in between.
func TestExporter(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	kill := startExporter(t, address)
	const asked = "promhttp_metric_handler_requests_total"
	metrics := "http://" + address + "/metrics"
	s := newLab(t, ratio(t, metrics, asked+`{code="200"}`, asked))
	s.scrape(t)
	ask(t, metrics, 41)
	s.scrape(t)
	s.want(t, 42, 0, "", 1) // the first scrape counts when it has ended
	kill()
	s.scrape(t)
	s.want(t, 42, 0, "connect 1", 0)
	startExporter(t, address)
	ask(t, metrics, 100) // more than before: only the start of the process tells
	s.scrape(t)
	if f := s.figures("i"); f.good != 142 || f.bad != 0 || f.lost != "connect 1, restart 1" {
		t.Errorf("%+v", f)
	}
	s.scrape(t)
	s.want(t, 143, 0, "connect 1, restart 1", 1)
}

// TestFormatsAgree: node_exporter tells the same by text and by protobuf.
func TestFormatsAgree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	startExporter(t, address)
	w := wanted{startMetric: nil, "node_load1": nil, "go_gc_duration_seconds_count": nil, "promhttp_metric_handler_requests_total": nil}
	var answers []*answer
	for _, accept := range []string{acceptText, acceptProto} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		a := &answer{wanted: w}
		read := a.readText
		if accept == acceptProto {
			read = a.readProto
		}
		if err := read(response.Body); err != nil {
			t.Fatalf("%s: %v", response.Header.Get("Content-Type"), err)
		}
		response.Body.Close()
		answers = append(answers, a)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	seen := map[string]bool{}
	for _, s := range answers[0].samples {
		seen[s.metric+keyOf(s.labels)] = true
	}
	for _, s := range answers[1].samples {
		if !seen[s.metric+keyOf(s.labels)] {
			t.Errorf("text lacks %+v", s)
		}
	}
	if len(answers[0].samples) != len(answers[1].samples) || len(seen) < 4 || answers[0].started != answers[1].started || answers[0].started == 0 {
		t.Errorf("%+v\n%+v", answers[0], answers[1])
	}
}

// nativeOf makes a native histogram of values as the data model defines it: the bucket n has those in (b^(n-1), b^n] where b is
// 2^(2^-schema).
func nativeOf(values []float64, schema int32, zero float64) *dto.Histogram {
	h := &dto.Histogram{SampleCount: new(uint64(len(values))), Schema: new(schema), ZeroThreshold: new(zero), ZeroCount: new(uint64(0))}
	counts := map[int]int64{}
	least, most := math.MaxInt, math.MinInt
	for _, v := range values {
		if v <= zero {
			*h.ZeroCount++
			continue
		}
		n := -3000
		for math.Pow(2, float64(n)/math.Pow(2, float64(schema))) < v {
			n++
		}
		counts[n]++
		least, most = min(least, n), max(most, n)
	}
	before, gap := int64(0), int32(0)
	var span *dto.BucketSpan
	for n := least; n <= most; n++ {
		if counts[n] == 0 {
			gap++
			span = nil
			continue
		}
		if span == nil {
			if len(h.PositiveSpan) == 0 {
				gap = int32(least)
			}
			span = &dto.BucketSpan{Offset: new(gap), Length: new(uint32(0))}
			h.PositiveSpan = append(h.PositiveSpan, span)
			gap = 0
		}
		*span.Length++
		h.PositiveDelta = append(h.PositiveDelta, counts[n]-before)
		before = counts[n]
	}
	return h
}

// TestNativeHistograms: the count up to a bound is that of the values themselves.
func TestNativeHistograms(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		schema := int32(rapid.IntRange(-1, 5).Draw(rt, "schema"))
		values := rapid.SliceOf(rapid.Float64Range(0, 40)).Draw(rt, "values")
		exponent := rapid.IntRange(-3, 4).Draw(rt, "exponent")
		if schema < 0 {
			exponent &^= 1
		}
		bound := math.Ldexp(1, exponent) // a bound of every schema from 0 on
		h := nativeOf(values, schema, 1e-9)
		want := 0
		for _, v := range values {
			if v <= bound {
				want++
			}
		}
		a := &answer{wanted: wanted{"h_bucket": {bound}, "h_count": nil}}
		a.addHistogram("h", nil, h)
		got := map[string]float64{}
		for _, s := range a.samples {
			got[s.metric+s.label("le")] = s.value
		}
		if n, ok := got[fmt.Sprintf("h_bucket%v", bound)]; !ok || n != float64(want) || got["h_count"] != float64(len(values)) || got["h_bucket+Inf"] != float64(len(values)) {
			rt.Errorf("%v of %v up to %v, want %d", got, values, bound, want)
		}
	})
}

// TestNativeHistogramOverHTTP: a server with a native histogram; a bound that it has not is told with those next to it.
func TestNativeHistogramOverHTTP(t *testing.T) {
	var values []float64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != acceptProto {
			t.Errorf("asked for %s", r.Header.Get("Accept"))
		}
		w.Header().Set("Content-Type", protoType+"; proto=io.prometheus.client.MetricFamily; encoding=delimited")
		var body bytes.Buffer
		for _, name := range []string{"other", "h"} {
			f := &dto.MetricFamily{Name: new(name), Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Histogram: nativeOf(values, 3, 1e-9)}}}
			if _, err := protodelim.MarshalTo(&body, f); err != nil {
				t.Error(err)
			}
		}
		w.Write(body.Bytes())
	}))
	defer server.Close()
	l := newLab(t, ratio(t, server.URL, `h_bucket{le="0.5"}`, "h_count"))
	between := newLab(t, ratio(t, server.URL, `h_bucket{le="0.3"}`, "h_count"))
	values = []float64{0.1, 0.6}
	l.scrape(t)
	values = append(values, 0, 0.2, 0.5, 0.51, 7)
	l.scrape(t)
	l.want(t, 3, 2, "", 1)
	between.scrape(t)
	// 2^(-14/8) and 2^(-13/8)
	if want := "h_bucket has no bucket of 0.3; its bounds are 0.29730177875068026, 0.3242098886627524, +Inf"; between.trouble() != want {
		t.Errorf("%q", between.trouble())
	}
}
