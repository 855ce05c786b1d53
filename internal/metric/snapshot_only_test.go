package metric

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
)

// shop describes a service, anew with each call.
func shop() *resource.Resource {
	return resource.NewSchemaless(attribute.String("service.name", "shop"))
}

// names returns the metrics of a snapshot.
func names(s *Snapshot) (list []string) {
	for _, rm := range s.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			list = append(list, m.Name)
		}
	}
	return list
}

// TestOnly: a snapshot of some metrics has no others, not even the agent's own, and tells when its layout changed.
func TestOnly(t *testing.T) {
	r := NewRegistry(instrumentation.Scope{})
	service, agent := r.Group("service", ClassService, 10), r.Group("slid", ClassAgent, 10)
	now := time.Unix(1e9, 0)
	for _, g := range []*Group{service, agent} {
		e := g.Entity(shop(), now)
		g.Int(Desc{Name: "wanted", Kind: Counter}).With(e)
		g.Int(Desc{Name: "other", Kind: Counter}).With(e)
		g.Collected(now)
	}
	s := agent.Snapshot("wanted")
	s.Take(now)
	if got := names(s); len(got) != 1 || got[0] != "wanted" {
		t.Errorf("got %v", got)
	}
	layout := s.Layout()
	s.Take(now)
	if s.Layout() != layout {
		t.Error("the layout changed by itself")
	}
	service.Int(Desc{Name: "wanted", Kind: Counter}).With(service.Entity(shop(), now), attribute.Int("n", 1))
	s.Take(now)
	if s.Layout() == layout {
		t.Error("a new series left the layout as it was")
	}
}

// TestEqualResourcesAreOne: whoever describes a service, its metrics stand together on the wire, also when the description
// comes from a snapshot.
func TestEqualResourcesAreOne(t *testing.T) {
	r := NewRegistry(instrumentation.Scope{SchemaURL: SchemaURL})
	now := time.Unix(1e9, 0)
	g := r.Group("a", ClassService, 10)
	a := g.Int(Desc{Name: "a", Kind: Counter})
	a.With(g.Entity(shop(), now))
	g.Collected(now)
	s := r.NewSnapshot()
	s.Take(now)
	h := r.Group("b", ClassSLO, 10)
	h.Int(Desc{Name: "b", Kind: Counter}).With(h.Entity(s.Resources[0].Resource, now))
	h.Int(Desc{Name: "c", Kind: Counter}).With(h.Entity(shop(), now))
	h.Collected(now)
	s.Take(now)
	if got := names(s); len(s.Resources) != 1 || len(got) != 3 {
		t.Errorf("%d resources with %v", len(s.Resources), got)
	}
}

// TestUnset: a gauge without a value is not exported, and comes back with the next.
func TestUnset(t *testing.T) {
	r := NewRegistry(instrumentation.Scope{})
	g := r.Group("a", ClassSLO, 10)
	now := time.Unix(1e9, 0)
	gauge := g.Float(Desc{Name: "burn", Kind: Gauge}).With(g.Entity(shop(), now))
	g.Collected(now)
	s := r.NewSnapshot()
	for i, step := range []struct {
		do   func()
		want int
	}{{func() {}, 0}, {func() { gauge.Set(1) }, 1}, {gauge.Unset, 0}, {gauge.Unset, 0}, {func() { gauge.Set(2) }, 1}} {
		step.do()
		s.Take(now)
		if got := names(s); len(got) != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}
