package pipeline

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.uber.org/goleak"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a collector whose Collect is a function.
type fake struct {
	collect  func(ctx context.Context, now time.Time) error
	close    func() error
	verdicts []verdict.Verdict
}

func (f *fake) Collect(ctx context.Context, now time.Time) error {
	if f.collect == nil {
		return nil
	}
	return f.collect(ctx, now)
}

func (f *fake) Verdicts() []verdict.Verdict { return f.verdicts }

func (f *fake) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// sink is an exporter that keeps the times of its exports and the numbers of the last one.
type sink struct {
	mu     sync.Mutex
	err    error
	times  []time.Time
	values map[string]float64 // "name{key=value,...}", keys sorted
	closed int
}

func (s *sink) Export(_ context.Context, snap *metric.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	s.values = map[string]float64{}
	for _, rm := range snap.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			addPoints(s.values, m)
		}
	}
	return s.err
}

func addPoints(to map[string]float64, m metricdata.Metrics) {
	key := func(a attribute.Set) string { return m.Name + "{" + a.Encoded(attribute.DefaultEncoder()) + "}" }
	switch d := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			to[key(p.Attributes)] = float64(p.Value)
		}
	case metricdata.Gauge[int64]:
		for _, p := range d.DataPoints {
			to[key(p.Attributes)] = float64(p.Value)
		}
	case metricdata.Sum[float64]:
		for _, p := range d.DataPoints {
			to[key(p.Attributes)] = p.Value
		}
	case metricdata.Gauge[float64]:
		for _, p := range d.DataPoints {
			to[key(p.Attributes)] = p.Value
		}
	}
}

func (s *sink) Shutdown(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *sink) exports() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.times...)
}

// value returns the number the last export had for a metric; ok says whether it had one.
func (s *sink) value(t *testing.T, key string) float64 {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	if !ok {
		t.Errorf("no %s was exported", key)
	}
	return v
}

// rig is a pipeline in the making, with one sink.
type rig struct {
	Options
	sink *sink
	logs *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// count returns how many log lines hold the text.
func (l *logBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func newRig(interval time.Duration) *rig {
	r := &rig{sink: &sink{}, logs: &logBuffer{}}
	r.Options = Options{
		Interval:     interval,
		Registry:     metric.NewRegistry(instrumentation.Scope{Name: "test"}),
		Destinations: []Destination{{Name: "sink", Exporter: r.sink}},
		Agent:        resource.NewSchemaless(attribute.String("service.name", "slid")),
		Log:          slog.New(slog.NewTextHandler(r.logs, nil)),
	}
	return r
}

// add adds a collector with an active verdict and returns its group.
func (r *rig) add(name string, lane collector.Lane, collect func(context.Context, time.Time) error) *metric.Group {
	g := r.Registry.Group(name, metric.ClassHost, 100)
	r.Collectors = append(r.Collectors, Collector{
		Name: name, Lane: lane, Group: g,
		Collector: &fake{collect: collect, verdicts: []verdict.Verdict{{Name: name, State: verdict.Active}}},
	})
	return g
}

// run runs the pipeline of the rig until stop is called; stop returns Run's result.
func (r *rig) run(t *testing.T) (p *Pipeline, stop func() error) {
	t.Helper()
	p = New(r.Options)
	return p, runOf(t, p)
}

func runOf(t *testing.T, p *Pipeline) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- p.Run(ctx) }()
	return func() error {
		cancel()
		return <-result
	}
}
