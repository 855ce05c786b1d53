package otlp

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metricpb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/slid-agent/slid/exporter/otlp/oteltest"
)

// What a real Collector understood: names, units, values, resources, start times, exponential histograms.
func TestCollectorUnderstands(t *testing.T) {
	c := oteltest.Start(t)
	s := newSource(t, Options{Endpoint: c.Endpoint}, fast, 1, 2)
	s.snapshot = mixedRegistry().NewSnapshot()
	for i := range int64(3) {
		s.snapshot.Take(tick)
		s.export(t, 1)
		await(t, "delivery", func() bool { return s.delivered(t) == 4*(i+1) })
	}
	got := c.Await(t, 3)
	sums := protocmp.FilterField(&metricpb.ExponentialHistogramDataPoint{}, "sum", cmp.Comparer(
		func(a, b float64) bool { return a-b < 1e-12 && b-a < 1e-12 }))
	for i, request := range got {
		// The Collector writes empty submessages that we leave out and the other way round.
		empty := protocmp.IgnoreEmptyMessages()
		if diff := cmp.Diff(wantMixed(), request, protocmp.Transform(), sums, empty); diff != "" {
			t.Errorf("request %d (-want +got):\n%s", i, diff)
		}
	}
	if len(got) != 3 {
		t.Errorf("%d requests, want 3", len(got))
	}
}

// The Collector has gRPC's default limit of 4 MiB: what slid splits, it takes.
func TestCollectorTakesManySeries(t *testing.T) {
	c := oteltest.Start(t)
	l := fast
	l.queue = 64 << 20
	s := newSource(t, Options{Endpoint: c.Endpoint}, l, 1, 1)
	s.enlarge()
	s.export(t, 1)
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
	if err := s.exporter.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Stop(t)
	requests := c.Requests(t)
	if got := points(requests...); got != s.points {
		t.Errorf("the Collector wrote %d points, want %d", got, s.points)
	}
	t.Logf("%d points in %d requests", points(requests...), len(requests))
}
