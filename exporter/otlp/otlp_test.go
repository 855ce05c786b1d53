package otlp

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricpb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/slid-agent/slid/internal/metric"
)

func str(key, value string) []*commonpb.KeyValue {
	v := &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}
	return []*commonpb.KeyValue{{Key: key, Value: v}}
}

// mixedRegistry has one metric of each kind in two resources.
func mixedRegistry() *metric.Registry {
	r := metric.NewRegistry(instrumentation.Scope{Name: "slid", Version: "1"})
	g := r.Group("test", metric.ClassHost, 10)
	g.Collected(tick)
	service := resource.NewSchemaless(attribute.String("service.name", "nginx"))
	h, s := g.Entity(host, boot), g.Entity(service, boot.Add(time.Second))
	g.Int(metric.Desc{Name: "io", Unit: "By", Kind: metric.Counter, Description: "bytes"}).
		With(h, attribute.String("direction", "read")).Add(7)
	g.Float(metric.Desc{Name: "load", Unit: "{thread}", Kind: metric.Gauge}).With(h).Set(0.25)
	g.Int(metric.Desc{Name: "used", Unit: "By", Kind: metric.UpDownCounter}).With(h).Set(-3)
	d := g.Histogram(metric.Desc{Name: "duration", Unit: "s"}).With(s)
	d.RecordN(1, 2)                                  // on the upper bound of bucket -1
	d.Record(1.01)                                   // bucket 0
	d.Record(1.5)                                    // bucket 4: 2^(4/8) = 1.414 < 1.5 <= 2^(5/8) = 1.542
	d.RecordN(metric.Durations.ZeroThreshold()/2, 5) // zeros
	return r
}

// wantMixed is mixedRegistry as the OTLP specification writes it.
func wantMixed() *colmetricpb.ExportMetricsServiceRequest {
	const cumulative = metricpb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	start, now := uint64(boot.UnixNano()), uint64(tick.UnixNano())
	scope := &commonpb.InstrumentationScope{Name: "slid", Version: "1"}
	hostMetrics := []*metricpb.Metric{
		{Name: "io", Unit: "By", Description: "bytes", Data: &metricpb.Metric_Sum{Sum: &metricpb.Sum{
			AggregationTemporality: cumulative, IsMonotonic: true, DataPoints: []*metricpb.NumberDataPoint{{
				Attributes: str("direction", "read"), StartTimeUnixNano: start, TimeUnixNano: now,
				Value: &metricpb.NumberDataPoint_AsInt{AsInt: 7},
			}},
		}}},
		{Name: "load", Unit: "{thread}", Data: &metricpb.Metric_Gauge{Gauge: &metricpb.Gauge{
			DataPoints: []*metricpb.NumberDataPoint{{
				StartTimeUnixNano: start, TimeUnixNano: now, Value: &metricpb.NumberDataPoint_AsDouble{AsDouble: 0.25},
			}},
		}}},
		{Name: "used", Unit: "By", Data: &metricpb.Metric_Sum{Sum: &metricpb.Sum{
			AggregationTemporality: cumulative, DataPoints: []*metricpb.NumberDataPoint{{
				StartTimeUnixNano: start, TimeUnixNano: now, Value: &metricpb.NumberDataPoint_AsInt{AsInt: -3},
			}},
		}}},
	}
	tiny := metric.Durations.ZeroThreshold()
	serviceMetrics := []*metricpb.Metric{{Name: "duration", Unit: "s", Data: &metricpb.Metric_ExponentialHistogram{
		ExponentialHistogram: &metricpb.ExponentialHistogram{
			AggregationTemporality: cumulative, DataPoints: []*metricpb.ExponentialHistogramDataPoint{{
				StartTimeUnixNano: start + uint64(time.Second), TimeUnixNano: now,
				Count: 9, Sum: new(2 + 1.01 + 1.5 + 5*tiny/2), Scale: 3, ZeroCount: 5, ZeroThreshold: tiny,
				Positive: &metricpb.ExponentialHistogramDataPoint_Buckets{
					Offset: -1, BucketCounts: []uint64{2, 1, 0, 0, 0, 1},
				},
				Negative: &metricpb.ExponentialHistogramDataPoint_Buckets{},
			}},
		},
	}}}
	return &colmetricpb.ExportMetricsServiceRequest{ResourceMetrics: []*metricpb.ResourceMetrics{
		{
			Resource:     &resourcepb.Resource{Attributes: str("host.name", "h")},
			ScopeMetrics: []*metricpb.ScopeMetrics{{Scope: scope, Metrics: hostMetrics}},
		},
		{
			Resource:     &resourcepb.Resource{Attributes: str("service.name", "nginx")},
			ScopeMetrics: []*metricpb.ScopeMetrics{{Scope: scope, Metrics: serviceMetrics}},
		},
	}}
}

func TestRequestSaysWhatTheSnapshotSays(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
	s.snapshot = mixedRegistry().NewSnapshot()
	s.snapshot.Take(tick)
	s.export(t, 1)
	got := b.next(t).request
	sums := protocmp.FilterField(&metricpb.ExponentialHistogramDataPoint{}, "sum", cmp.Comparer(
		func(a, b float64) bool { return a-b < 1e-12 && b-a < 1e-12 }))
	if diff := cmp.Diff(wantMixed(), got, protocmp.Transform(), sums); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	await(t, "delivery", func() bool { return s.delivered(t) == 4 })
}

// What the batch relies on: marshalled messages one after the other are the marshalled union.
func TestConcatenationMergesResources(t *testing.T) {
	whole := wantMixed()
	var body []byte
	for _, rm := range whole.ResourceMetrics {
		part, err := proto.Marshal(&colmetricpb.ExportMetricsServiceRequest{ResourceMetrics: []*metricpb.ResourceMetrics{rm}})
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, part...)
	}
	if diff := cmp.Diff(whole, asProto(t, body), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestNothingEmptyIsSent(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
	full := s.snapshot
	s.snapshot = metric.NewRegistry(instrumentation.Scope{}).NewSnapshot()
	s.snapshot.Take(tick)
	s.export(t, 3)
	s.snapshot = full
	s.export(t, 1)
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
	if n := len(b.calls); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// A metric that the vendor cannot transform must not vanish unseen.
func TestInvalidPointsAreCounted(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
	scope := &s.snapshot.Resources[0].ScopeMetrics[0]
	bad := metricdata.Sum[int64]{DataPoints: make([]metricdata.DataPoint[int64], 3)} // no temporality
	scope.Metrics = append(scope.Metrics, metricdata.Metrics{Name: "bad", Data: bad})
	if err := s.exporter.Export(t.Context(), s.snapshot); err == nil {
		t.Error("no error")
	}
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
	if got := s.failed(t, errInvalid); got != 3 {
		t.Errorf("%d points counted as invalid, want 3", got)
	}
}

func TestRequestsStayBelowTheLimit(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil) // takes 4 MiB, gRPC's default
	l := fast
	l.queue = 64 << 20
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, l, 1, 1)
	s.enlarge()
	s.export(t, 2)
	await(t, "delivery", func() bool { return s.delivered(t) == 2*s.points })
	var got int64
	largest, requests := 0, len(b.calls)
	for range requests {
		r := b.next(t).request
		largest = max(largest, proto.Size(r))
		got += points(r)
	}
	t.Logf("%d points in %d requests, the largest %d bytes", got, requests, largest)
	if got != 2*s.points || largest > l.request || requests < 4 {
		t.Errorf("%d points in %d requests of at most %d bytes; want %d below %d", got, requests, largest, 2*s.points, l.request)
	}
}

// A resource above the limit goes out alone: the backend decides.
func TestSingleLargeResource(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	l := fast
	l.request = 100
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, l, 3, 10)
	s.export(t, 1)
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
	for range 3 {
		if r := b.next(t).request; len(r.ResourceMetrics) != 1 || points(r) != 10 {
			t.Errorf("%d resources with %d points in a request", len(r.ResourceMetrics), points(r))
		}
	}
}

// A listener that never answers: connections are made by the kernel and nothing is ever read.
func TestBlackHoleDoesNotBlockExport(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	l := fast
	l.queue = 10_000
	s := newSource(t, Options{Endpoint: "http://" + hole.Addr().String()}, l, 2, 10)
	const n = 1000 // the vendor alone would wait 10 s for each
	s.export(t, n)
	inflight, dropped := s.value(t, descInflight.Name, ""), s.failed(t, errQueueFull)
	if total := s.points * n; inflight+dropped != total || s.delivered(t) != 0 || inflight == 0 {
		t.Errorf("%d points in flight + %d dropped, want %d in all", inflight, dropped, total)
	}
	if size := s.value(t, descSize.Name, ""); size > int64(l.queue) || size == 0 {
		t.Errorf("queue of %d bytes, limit %d", size, l.queue)
	}
	if got := s.log.count("export queue is full"); got != 1 {
		t.Errorf("logged %d times that the queue is full", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.exporter.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if got := s.failed(t, errShutdown); got != inflight {
		t.Errorf("%d points counted as lost by shutdown, want %d", got, inflight)
	}
	if left := s.value(t, descInflight.Name, "") + s.value(t, descSize.Name, ""); left != 0 {
		t.Errorf("%d points and bytes still accounted for", left)
	}
	if s.log.count("shut down before all data was delivered") != 1 {
		t.Error("the loss is not logged")
	}
}

func TestShutdownDelivers(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 2, 10)
	s.export(t, 20)
	if err := s.exporter.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.delivered(t); got != 20*s.points || len(b.calls) != 20 {
		t.Errorf("%d points in %d requests delivered, want %d in 20", got, len(b.calls), 20*s.points)
	}
	if err := s.exporter.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

// The pause after a failure is long, but at the end there is another attempt at once.
func TestShutdownDoesNotSitOutThePause(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	b.reply(func(context.Context, int) (*colmetricpb.ExportMetricsServiceResponse, error) {
		return nil, status.Error(codes.Unavailable, "soon")
	})
	l := fast
	l.minPause, l.maxPause = time.Hour, time.Hour
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, l, 1, 2)
	s.export(t, 1)
	b.next(t)
	b.reply(accept)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.exporter.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.delivered(t); got != s.points {
		t.Errorf("%d points delivered, want %d", got, s.points)
	}
}

func TestBackendRestarts(t *testing.T) {
	b := serve(t, "127.0.0.1:0", nil)
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
	s.export(t, 1)
	b.next(t)
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
	b.server.Stop()
	s.export(t, 5)
	await(t, "the failure to be logged", func() bool { return s.log.count("export fails") > 0 })
	again := serve(t, b.addr, nil)
	s.export(t, 1)
	await(t, "delivery", func() bool { return s.delivered(t) == 7*s.points })
	if n := len(again.calls); n != 6 {
		t.Errorf("%d requests after the restart, want 6", n)
	}
	await(t, "the recovery to be logged", func() bool { return s.log.count("export recovered") == 1 })
	if n := s.log.count("\n"); n != 2 {
		t.Errorf("%d lines logged, want one for the failure and one for the recovery", n)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	for _, tt := range []struct{ endpoint, want string }{
		{"", "OTEL_EXPORTER_OTLP_ENDPOINT"},
		{"gateway:4317", "want https://host:port"},
		{"https://gateway", "want https://host:port"},
		{"ftp://gateway:4317", "want https://host:port"},
		{"https://:4317", "want https://host:port"},
		{"https://gateway:4317/v1/metrics", "gRPC has no path"},
		{"https://me:pw@gateway:4317", "only scheme, host and port"},
		{"https://gate way:4317", "endpoint: parse"},
	} {
		_, err := New(t.Context(), Options{Name: "slo", Endpoint: tt.endpoint})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "destination slo") {
			t.Errorf("%q: error %v, want one with %q", tt.endpoint, err, tt.want)
		}
	}
}

// BenchmarkExport shows the cost of a tick: half counters and half histograms in 10 resources, into a queue that
// nobody drains. The body itself is one allocation of bytes/req; the rest is the vendor's transformation.
func BenchmarkExport(b *testing.B) {
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer hole.Close()
	for _, tt := range []struct {
		name   string
		series int
	}{{"100", 10}, {"1000", 100}} {
		b.Run(tt.name, func(b *testing.B) {
			s := newSource(b, Options{Endpoint: "http://" + hole.Addr().String()}, fast, 10, tt.series)
			s.export(b, 1)
			b.ReportAllocs()
			for b.Loop() {
				s.export(b, 1)
			}
			b.ReportMetric(float64(s.exporter.batch.last), "bytes/req")
		})
	}
}
