package probe

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// targeting returns sound options for a target.
func targeting(t testing.TB, target string) Options {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Name: "p", Service: "s", Target: u, Interval: 10 * time.Second, Timeout: 2 * time.Second}
}

// single returns a probe that is asked by hand.
func single(t testing.TB, o Options) *prober {
	t.Helper()
	p := newProber(o, slog.New(slog.DiscardHandler), make(chan struct{}, maxAttempts))
	var err error
	if p.ask, err = newAsk(o, "slid/test (probe)"); err != nil {
		t.Fatal(err)
	}
	return p
}

// once asks once and checks the outcome, that there is exactly one, and that the phases are some of those declared and
// add up to the duration.
func once(t testing.TB, o Options, want outcome) *prober {
	t.Helper()
	p := single(t, o)
	begun := time.Now()
	p.attempt(t.Context(), begun)
	took := time.Since(begun)
	if p.last != want {
		t.Errorf("%s: outcome %s, want %s", o.Target, p.last, want)
	}
	var attempts uint64
	for _, n := range p.tallies.attempts {
		attempts += n
	}
	if want == local {
		attempts += p.tallies.missed[missedLocal]
	}
	if attempts != 1 {
		t.Errorf("%s: %d outcomes", o.Target, attempts)
	}
	var durations, sum float64
	for _, h := range p.tallies.durations {
		if h != nil {
			durations += h.sum
		}
	}
	for i, h := range p.tallies.phases {
		if h == nil {
			continue
		}
		sum += h.sum
		if !slices.Contains(p.phases(), phase(i)) {
			t.Errorf("%s: phase %s is not declared", o.Target, phaseNames[i])
		}
	}
	if d := sum - durations; d > 1e-9 || d < -1e-9 || durations > took.Seconds() {
		t.Errorf("%s: phases of %v s, duration %v s of %v", o.Target, sum, durations, took)
	}
	return p
}

// lab is a collector with a registry of its own.
type lab struct {
	*Probes
	registry *metric.Registry
	group    *metric.Group
	snapshot *metric.Snapshot
}

func newLab(t testing.TB, list ...Options) *lab {
	t.Helper()
	r := metric.NewRegistry(instrumentation.Scope{})
	l := &lab{registry: r, group: r.Group(Name, metric.ClassService, 8000), snapshot: r.NewSnapshot()}
	host := resource.NewSchemaless(attribute.String("host.id", "0f3c"), attribute.String("host.name", "web-17"),
		attribute.String("service.name", "host"), attribute.String("os.type", "linux"))
	c, err := NewProbes(collector.Env{Metrics: l.group, Host: host, Log: slog.New(slog.DiscardHandler)}, "1.2.3", list)
	if err != nil {
		t.Fatal(err)
	}
	l.Probes = c.(*Probes)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// take collects and returns the snapshot.
func (l *lab) take(t testing.TB) []metricdata.ResourceMetrics {
	t.Helper()
	now := time.Now()
	if err := l.Collect(context.Background(), now); err != nil {
		t.Fatal(err)
	}
	l.group.Collected(now)
	l.snapshot.Take(now)
	return l.snapshot.Resources
}

func find(list []metricdata.ResourceMetrics, name string) metricdata.Aggregation {
	for _, r := range list {
		for _, m := range r.ScopeMetrics[0].Metrics {
			if m.Name == name {
				return m.Data
			}
		}
	}
	return nil
}

// total returns the sum of a counter over the series with an attribute value; "" is any.
func total(list []metricdata.ResourceMetrics, name string, key attribute.Key, value string) (n int64) {
	for _, r := range list {
		for _, m := range r.ScopeMetrics[0].Metrics {
			if m.Name != name {
				continue
			}
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				if v, _ := p.Attributes.Value(key); value == "" || v.AsString() == value {
					n += p.Value
				}
			}
		}
	}
	return n
}

// TestEverythingIsZeroAtFirst: a failure that never was is known to be none, on a resource of the probe's own.
func TestEverythingIsZeroAtFirst(t *testing.T) {
	o := targeting(t, "https://127.0.0.1:1/health?token=secret")
	o.Interval = time.Hour
	list := newLab(t, o).take(t)
	if len(list) != 1 {
		t.Fatalf("%d resources", len(list))
	}
	want := map[attribute.Key]string{
		"service.name": "s", "service.instance.id": "0f3c/probe/p", "host.id": "0f3c", "host.name": "web-17",
		"probe.kind": "https", "probe.target": "https://127.0.0.1:1/health",
	}
	if n := list[0].Resource.Len(); n != len(want) {
		t.Errorf("resource %v", list[0].Resource)
	}
	for k, v := range want {
		if got := attributeOf(list[0].Resource, k); got != v {
			t.Errorf("%s is %q, want %q", k, got, v)
		}
	}
	for name, series := range map[string]int{"probe.attempts": int(outcomes), "probe.schedule.missed": int(missedReasons)} {
		points := find(list, name).(metricdata.Sum[int64]).DataPoints
		if len(points) != series || total(list, name, "", "") != 0 {
			t.Errorf("%s: %v", name, points)
		}
	}
	for name, series := range map[string]int{"probe.duration": 1, "probe.phase.duration": 5} {
		if points := find(list, name).(metricdata.ExponentialHistogram[float64]).DataPoints; len(points) != series {
			t.Errorf("%s: %v", name, points)
		}
	}
	if find(list, "probe.tls.certificate.expiry") != nil {
		t.Error("a certificate that nobody has seen has an expiry")
	}
}

func TestWithoutProbesNothingRuns(t *testing.T) {
	l := newLab(t)
	if list := l.take(t); len(list) != 0 {
		t.Errorf("exports %v", list)
	}
}

// TestCollectAllocatesNothing, once every outcome has occurred.
func TestCollectAllocatesNothing(t *testing.T) {
	o := targeting(t, "https://127.0.0.1:1/")
	o.Interval = time.Hour
	l := newLab(t, o)
	p := l.probes[0]
	for i := range outcomes {
		p.note(newTimeline(time.Now(), phaseTLS), i, nil)
	}
	p.tallies.expiry = time.Now()
	l.take(t)
	if n := testing.AllocsPerRun(100, func() { _ = l.Collect(t.Context(), time.Now()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestVerdicts: a row for all, and one for each that slid itself cannot do.
func TestVerdicts(t *testing.T) {
	good, bad := targeting(t, "tcp://127.0.0.1:1"), targeting(t, "https://127.0.0.1:1/")
	good.Interval, bad.Interval = time.Hour, time.Hour
	bad.Name, bad.CA = "bad", "/nonesuch/ca.pem"
	l := newLab(t, good, bad)
	v := l.Verdicts()
	if v[0].State != verdict.Active || v[0].Hook != "tcp 1, https 1" {
		t.Errorf("%+v", v)
	}
	l.probes[1].attempt(t.Context(), time.Now())
	if again := l.Verdicts(); !slices.Equal(v, again) {
		t.Errorf("before the first attempt %+v, afterwards %+v", v, again)
	}
	if len(v) != 2 || v[1].Name != "service/probe/bad" || v[1].State != verdict.Unavailable ||
		!strings.Contains(v[1].Missing, "/nonesuch/ca.pem") {
		t.Errorf("%+v", v)
	}
	if got := total(l.take(t), "probe.schedule.missed", reasonKey, "local"); got != 1 {
		t.Errorf("%d missed", got)
	}
}

// TestEveryErrorHasOneOutcome: whatever the error and the phase, there is an outcome, and slid's own faults are not the target's.
func TestEveryErrorHasOneOutcome(t *testing.T) {
	wrap := func(err error) error { return &net.OpError{Op: "dial", Err: err} }
	for _, tt := range []struct {
		err  error
		at   phase
		late bool
		want outcome
	}{
		{nil, phaseTransfer, true, success}, // it came in time: the clock ran out afterwards
		{context.DeadlineExceeded, phaseConnect, true, timeout},
		{context.DeadlineExceeded, phaseDNS, true, noName},
		{wrap(syscall.ETIMEDOUT), phaseConnect, false, timeout},
		{wrap(syscall.ECONNREFUSED), phaseConnect, false, refused},
		{wrap(syscall.EHOSTUNREACH), phaseConnect, false, unreachable},
		{wrap(syscall.EMFILE), phaseConnect, false, local},
		{wrap(syscall.EPERM), phaseFirstByte, false, local},
		{wrap(syscall.ECONNRESET), phaseTLS, false, tlsFailed},
		{wrap(syscall.ECONNRESET), phaseFirstByte, false, closed},
		{errors.New("malformed"), phaseTransfer, false, protocol},
		{errors.New("strange"), phaseConnect, false, other},
		{&failure{badBody, errors.New("x")}, phaseTransfer, true, badBody},
	} {
		if got := classify(tt.err, tt.at, tt.late); got != tt.want {
			t.Errorf("%v in %s, late %v: %s, want %s", tt.err, phaseNames[tt.at], tt.late, got, tt.want)
		}
	}
}

// TestTallyEqualsTheRegister: the copy has the buckets that recording into the register itself would have given.
func TestTallyEqualsTheRegister(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		values := rapid.SliceOf(rapid.Int64Range(0, int64(2*time.Minute))).Draw(rt, "ns")
		r := metric.NewRegistry(instrumentation.Scope{})
		g := r.Group("x", metric.ClassService, 10)
		e := g.Entity(resource.Empty(), time.Now())
		copied := g.Histogram(metric.Desc{Name: "copied"}).With(e)
		direct := g.Histogram(metric.Desc{Name: "direct"}).With(e)
		var h tally
		for _, v := range values {
			h.record(time.Duration(v))
			direct.Record(time.Duration(v).Seconds())
		}
		h.copyTo(copied)
		g.Collected(time.Now())
		s := r.NewSnapshot()
		s.Take(time.Now())
		a := find(s.Resources, "copied").(metricdata.ExponentialHistogram[float64]).DataPoints[0]
		b := find(s.Resources, "direct").(metricdata.ExponentialHistogram[float64]).DataPoints[0]
		if a.Count != b.Count || a.ZeroCount != b.ZeroCount || a.Sum != b.Sum || a.PositiveBucket.Offset != b.PositiveBucket.Offset ||
			!slices.Equal(a.PositiveBucket.Counts, b.PositiveBucket.Counts) {
			rt.Errorf("copied %+v, recorded %+v", a, b)
		}
	})
}
