package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	grpcstats "google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"

	"github.com/slid-agent/slid/internal/metric"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must happen soon, on a busy machine.
const patience = 30 * time.Second

// A received is one call as it arrived at the backend.
type received struct {
	request *colmetricpb.ExportMetricsServiceRequest
	header  metadata.MD
	at      time.Time
}

// A backend is an OTLP server that answers as the test says.
type backend struct {
	colmetricpb.UnimplementedMetricsServiceServer
	addr   string
	server *grpc.Server
	calls  chan received

	mu          sync.Mutex // guards the fields below
	answer      func(ctx context.Context, n int) (*colmetricpb.ExportMetricsServiceResponse, error)
	n           int
	compression []string
}

// accept is the answer of a backend in good health.
func accept(context.Context, int) (*colmetricpb.ExportMetricsServiceResponse, error) {
	return &colmetricpb.ExportMetricsServiceResponse{}, nil
}

// serve starts a backend on the address, 127.0.0.1:0 for any port; it ends with the test.
func serve(t testing.TB, addr string, tlsConfig *tls.Config) *backend {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: l.Addr().String(), calls: make(chan received, 10000), answer: accept}
	options := []grpc.ServerOption{grpc.StatsHandler(b)}
	if tlsConfig != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(tlsConfig)))
	}
	b.server = grpc.NewServer(options...)
	colmetricpb.RegisterMetricsServiceServer(b.server, b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.server.Serve(l) // ends by Stop
	}()
	t.Cleanup(func() { b.server.Stop(); <-done })
	return b
}

// Export is the service's method.
func (b *backend) Export(ctx context.Context, r *colmetricpb.ExportMetricsServiceRequest) (
	*colmetricpb.ExportMetricsServiceResponse, error,
) {
	at := time.Now()
	b.mu.Lock()
	b.n++
	n, answer := b.n, b.answer
	b.mu.Unlock()
	header, _ := metadata.FromIncomingContext(ctx)
	b.calls <- received{r, header, at}
	return answer(ctx, n)
}

// reply sets the answer; it gets the number of the call, from 1.
func (b *backend) reply(f func(ctx context.Context, n int) (*colmetricpb.ExportMetricsServiceResponse, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// next returns the next call that arrives.
func (b *backend) next(t *testing.T) received {
	t.Helper()
	select {
	case r := <-b.calls:
		return r
	case <-time.After(patience):
		t.Fatal("nothing arrived at the backend")
		return received{}
	}
}

// The stats.Handler of the server notes how requests are compressed.
func (b *backend) TagRPC(ctx context.Context, _ *grpcstats.RPCTagInfo) context.Context { return ctx }

func (b *backend) TagConn(ctx context.Context, _ *grpcstats.ConnTagInfo) context.Context { return ctx }
func (b *backend) HandleConn(context.Context, grpcstats.ConnStats)                       {}
func (b *backend) HandleRPC(_ context.Context, s grpcstats.RPCStats) {
	if header, ok := s.(*grpcstats.InHeader); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.compression = append(b.compression, header.Compression)
	}
}

// A source has registers to export and an exporter.
type source struct {
	registry *metric.Registry
	own      *metric.Registry // with the exporter's own metrics
	snapshot *metric.Snapshot
	exporter *Exporter
	log      *logBuffer
	points   int64 // of one snapshot
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// count returns how many lines have the text.
func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var (
	boot  = time.Unix(1000, 1)
	tick  = time.Unix(2000, 2)
	agent = resource.NewSchemaless(attribute.String("service.name", "slid"))
	host  = resource.NewSchemaless(attribute.String("host.name", "h"))
)

// fast are limits for tests: the same logic in milliseconds.
var fast = limits{queue: 1 << 20, request: 4 << 20, minPause: time.Millisecond, maxPause: 20 * time.Millisecond}

// newSource returns resources x series registers, half counters and half histograms, and an exporter for them.
func newSource(t testing.TB, o Options, l limits, resources, series int) *source {
	t.Helper()
	s := &source{
		registry: metric.NewRegistry(instrumentation.Scope{Name: "slid"}),
		own:      metric.NewRegistry(instrumentation.Scope{Name: "slid"}),
		log:      &logBuffer{}, points: int64(resources * series),
	}
	fill(s.registry, resources, series)
	s.snapshot = s.registry.NewSnapshot()
	s.snapshot.Take(tick)
	o.Name, o.Agent = "test", agent
	o.Metrics = s.own.Group("export", metric.ClassAgent, 24)
	o.Log = slog.New(slog.NewTextHandler(s.log, nil))
	var err error
	if s.exporter, err = open(t.Context(), o, l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // what is left now is left on purpose
		if err := s.exporter.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", s.log)
		}
	})
	return s
}

func fill(r *metric.Registry, resources, series int) {
	g := r.Group("test", metric.ClassHost, resources*series)
	g.Collected(tick)
	count := g.Int(metric.Desc{Name: "requests", Unit: "{request}", Kind: metric.Counter})
	took := g.Histogram(metric.Desc{Name: "duration", Unit: "s"})
	for i := range resources {
		e := g.Entity(resource.NewSchemaless(attribute.Int("id", i)), boot)
		for j := range series {
			if j%2 == 0 {
				count.With(e, attribute.Int("route", j)).Add(int64(i*series + j))
				continue
			}
			h := took.With(e, attribute.Int("route", j))
			for k := range 40 {
				h.RecordN(0.001*float64(k*k), uint64(1+j))
			}
		}
	}
}

// enlarge replaces the snapshot by one of 6,000 points in 60 resources, more than 4 MiB when marshalled.
func (s *source) enlarge() {
	r := metric.NewRegistry(instrumentation.Scope{Name: "slid"})
	g := r.Group("test", metric.ClassHost, 6000)
	g.Collected(tick)
	size := g.Int(metric.Desc{Name: "size", Unit: "By", Kind: metric.UpDownCounter})
	for i := range 60 {
		e := g.Entity(resource.NewSchemaless(attribute.Int("id", i)), boot)
		for j := range 100 {
			size.With(e, attribute.Int("route", j), attribute.String("text", strings.Repeat("x", 1000))).Set(1)
		}
	}
	s.snapshot = r.NewSnapshot()
	s.snapshot.Take(tick)
	s.points = 6000
}

// export takes the snapshot to the exporter n times.
func (s *source) export(t testing.TB, n int) {
	t.Helper()
	for range n {
		if err := s.exporter.Export(t.Context(), s.snapshot); err != nil {
			t.Fatal(err)
		}
	}
}

// value returns the sum of one of the exporter's own metrics over the series with the given error.type, "" for none.
func (s *source) value(t testing.TB, name, errType string) (total int64) {
	t.Helper()
	snapshot := s.own.NewSnapshot()
	snapshot.Take(tick)
	for _, rm := range snapshot.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			if m.Name != name {
				continue
			}
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				if v, _ := p.Attributes.Value(errorType); v.AsString() == errType {
					total += p.Value
				}
			}
		}
	}
	return total
}

func (s *source) delivered(t testing.TB) int64 { return s.value(t, descExported.Name, "") }
func (s *source) failed(t testing.TB, reason string) int64 {
	return s.value(t, descExported.Name, reason)
}

// await waits until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
	}
}

// points returns the number of data points in requests.
func points(requests ...*colmetricpb.ExportMetricsServiceRequest) (n int64) {
	for _, r := range requests {
		n += countSent(r.ResourceMetrics)
	}
	return n
}

// asProto returns what a marshalled request says.
func asProto(t testing.TB, body []byte) *colmetricpb.ExportMetricsServiceRequest {
	t.Helper()
	r := &colmetricpb.ExportMetricsServiceRequest{}
	if err := proto.Unmarshal(body, r); err != nil {
		t.Fatal(err)
	}
	return r
}
