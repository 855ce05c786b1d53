// Package otlp exports snapshots over OTLP/gRPC to one destination.
//
// The transformation to protobuf, the connection, TLS and the OTEL_EXPORTER_OTLP_* variables are those of the vendor's
// exporter (otlpmetricgrpc). Its connection has an interceptor that takes each finished request off the call, so that
// nothing goes to the wire while Export runs:
//
//	Export -> otlpmetricgrpc -> interceptor -> batch -> queue        sender -> the same connection -> backend
//	(the pipeline's goroutine; memory and arithmetic only)           (a goroutine of the Exporter)
//
// All resources of a tick become one request (protobuf concatenation merges repeated fields), unless it would outgrow
// the 4 MiB that gRPC servers accept. The queue is bounded by bytes and drops the oldest request first. The sender
// follows the OTLP specification on retries, throttling and partial success. Every data point ends in one of two
// places: delivered, or counted in otel.sdk.exporter.metric_data_point.exported with its error.type.
//
// Cost of a tick with 1,000 series: see BenchmarkExport; the vendor's transformation is nearly all of it.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"

	"github.com/slid-agent/slid/internal/metric"
)

// Options says where to and as whom to export.
type Options struct {
	// Name is the destination's name in logs and in otel.component.name.
	Name string
	// Endpoint is https://host:port or http://host:port. It overrides OTEL_EXPORTER_OTLP_[METRICS_]ENDPOINT, which
	// is used if Endpoint is empty.
	Endpoint string
	// Headers are sent with every request. They replace those of OTEL_EXPORTER_OTLP_[METRICS_]HEADERS.
	Headers map[string]string

	Metrics *metric.Group      // for the exporter's own metrics; up to 24 series
	Agent   *resource.Resource // describes slid itself
	Log     *slog.Logger
}

// limits are the bounds of time and memory. Tests use smaller ones.
type limits struct {
	queue    int           // bytes of all requests that wait or are being sent
	request  int           // bytes of one request before compression
	minPause time.Duration // after the first failed attempt
	maxPause time.Duration // between attempts, unless the backend asks for more
}

var defaultLimits = limits{
	queue:    16 << 20,
	request:  4 << 20, // what a gRPC server accepts unless told otherwise
	minPause: time.Second,
	maxPause: 30 * time.Second,
}

// An Exporter is one destination. Its methods may be called concurrently.
type Exporter struct {
	name   string
	log    *slog.Logger
	stats  *stats
	vendor *otlpmetricgrpc.Exporter
	queue  *queue

	mu    sync.Mutex // guards batch: one Export at a time
	batch batch

	abort  context.CancelFunc // ends the sender and its attempt
	sent   chan struct{}      // closed when the sender has ended
	closed sync.Once
}

// New connects in the background and starts the goroutine that sends; Shutdown ends it. An error means that the
// options or the environment cannot work. An unreachable backend is none: its data is queued.
func New(ctx context.Context, o Options) (*Exporter, error) {
	return open(ctx, o, defaultLimits)
}

func open(ctx context.Context, o Options, l limits) (*Exporter, error) {
	e := &Exporter{batch: batch{limit: l.request}, sent: make(chan struct{})}
	settings, err := o.settings(l, e.batch.intercept)
	if err != nil {
		return nil, err
	}
	if e.vendor, err = otlpmetricgrpc.New(ctx, settings...); err != nil {
		return nil, fmt.Errorf("open export destination %s: %w", o.Name, err)
	}
	e.name, e.log, e.stats = o.Name, o.Log.With("destination", o.Name), newStats(o, l)
	e.queue = newQueue(l.queue, e.stats)
	ctx, e.abort = context.WithCancel(context.WithoutCancel(ctx))
	s := &sender{
		queue: e.queue, stats: e.stats, log: e.log, pause: pause{min: l.minPause, max: l.maxPause}, hurry: e.queue.closing,
	}
	go func() {
		defer close(e.sent)
		s.run(ctx)
	}()
	return e, nil
}

// settings returns the options for the vendor's exporter, which takes the requests to the interceptor. What it does
// not set comes from the environment.
func (o Options) settings(l limits, interceptor grpc.UnaryClientInterceptor) ([]otlpmetricgrpc.Option, error) {
	settings := []otlpmetricgrpc.Option{
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: false}), // the sender retries
	}
	dial := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(interceptor),
		grpc.WithConnectParams(grpc.ConnectParams{
			// The connection must not sleep longer than the sender does.
			Backoff:           backoff.Config{BaseDelay: l.minPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: l.maxPause},
			MinConnectTimeout: 10 * time.Second,
		}),
	}
	if !anyEnv("COMPRESSION") {
		settings = append(settings, otlpmetricgrpc.WithCompressor(gzip.Name))
	}
	if len(o.Headers) > 0 {
		settings = append(settings, otlpmetricgrpc.WithHeaders(o.Headers))
	}
	u, err := o.endpoint()
	if err != nil {
		return nil, fmt.Errorf("export destination %s: %w", o.Name, err)
	}
	if u != nil {
		settings = append(settings, otlpmetricgrpc.WithEndpointURL(u.String()))
	}
	if u != nil && u.Scheme == "http" {
		// A certificate in the environment is for other destinations; the vendor would use TLS because of it.
		dial = append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	return append(settings, otlpmetricgrpc.WithDialOption(dial...)), nil // given twice, the last would replace the first
}

// endpoint returns the configured endpoint, or nil if the environment has one.
func (o Options) endpoint() (*url.URL, error) {
	if o.Endpoint != "" {
		return parseEndpoint(o.Endpoint)
	}
	if !anyEnv("ENDPOINT") {
		return nil, errors.New("no endpoint: set it in the configuration or by OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	return nil, nil
}

// anyEnv says whether an OTLP variable is set, for all signals or for metrics.
func anyEnv(name string) bool {
	return strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_"+name)) != "" ||
		strings.TrimSpace(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_"+name)) != ""
}

// parseEndpoint parses http[s]://host:port.
func parseEndpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" {
		return nil, fmt.Errorf("endpoint %q: want https://host:port, or http://host:port without TLS", s)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("endpoint %q: want only scheme, host and port: gRPC has no path", s)
	}
	return u, nil
}

// Export transforms the snapshot and puts it into the queue. It never waits for the network, so the end of ctx does
// not matter to it. An error means that some points could not be transformed; they are counted as dropped.
func (e *Exporter) Export(_ context.Context, s *metric.Snapshot) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.group.Collected(s.Time)
	var errs []error
	for i := range s.Resources {
		if err := e.transform(&s.Resources[i]); err != nil {
			errs = append(errs, err)
		}
	}
	for _, r := range e.batch.take() {
		e.enqueue(r)
	}
	return errors.Join(errs...)
}

// transform appends a resource to the batch, unless it has no points.
func (e *Exporter) transform(rm *metricdata.ResourceMetrics) error {
	want := countPoints(rm)
	if want == 0 {
		return nil
	}
	before := e.batch.total
	err := e.vendor.Export(context.Background(), rm)
	e.stats.fail(errInvalid, want-(e.batch.total-before))
	if err != nil {
		return fmt.Errorf("transform metrics for destination %s: %w", e.name, err)
	}
	return nil
}

// enqueue hands a request to the sender and counts what had to go for it.
func (e *Exporter) enqueue(r *request) {
	dropped, reason, first := e.queue.push(r)
	for _, d := range dropped {
		e.stats.fail(reason, d.points)
	}
	if first {
		e.log.Warn("export queue is full, dropping the oldest data", "limit_bytes", e.queue.limit)
	}
}

// Shutdown delivers what is queued until ctx ends, then counts and logs the rest as lost and closes the connection.
// Nothing can be exported after.
func (e *Exporter) Shutdown(ctx context.Context) error {
	var err error
	e.closed.Do(func() {
		e.queue.close()
		select {
		case <-e.sent:
		case <-ctx.Done():
		}
		e.abort()
		<-e.sent
		e.giveUp()
		if err = e.vendor.Shutdown(context.WithoutCancel(ctx)); err != nil {
			err = fmt.Errorf("close export destination %s: %w", e.name, err)
		}
	})
	return err
}

// giveUp counts what is still queued as lost. The sender has ended.
func (e *Exporter) giveUp() {
	var points int64
	for _, r := range e.queue.drain() {
		points += r.points
	}
	e.stats.fail(errShutdown, points)
	if points > 0 {
		e.log.Warn("shut down before all data was delivered", "lost_points", points)
	}
}
