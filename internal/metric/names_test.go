package metric

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// sentSeries returns "name unit {attributes} value" of every point of whole numbers of a snapshot, in its order.
func sentSeries(s *Snapshot) []string {
	var list []string
	for _, rm := range s.Resources {
		for _, m := range rm.ScopeMetrics[0].Metrics {
			var points []metricdata.DataPoint[int64]
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = d.DataPoints
			case metricdata.Gauge[int64]:
				points = d.DataPoints
			}
			for _, p := range points {
				attrs := p.Attributes.Encoded(attribute.DefaultEncoder())
				list = append(list, fmt.Sprintf("%s %s {%s} %d", m.Name, m.Unit, attrs, p.Value))
			}
		}
	}
	return list
}

// machine is a registry with one metric of each shape that maps of names treat differently.
func machine() *Registry {
	r := NewRegistry(instrumentation.Scope{Name: "slid", SchemaURL: SchemaURL})
	g := r.Group("host", ClassHost, 100)
	e := g.Entity(host, boot)
	series := func(g *Group, e *Entity, name, unit string, kind Kind, value int64, attrs ...string) {
		var kvs []attribute.KeyValue
		for i := 0; i < len(attrs); i += 2 {
			kvs = append(kvs, attribute.String(attrs[i], attrs[i+1]))
		}
		g.Int(Desc{Name: name, Unit: unit, Kind: kind}).With(e, kvs...).Set(value)
	}
	io := []string{"system.device", "sda", "disk.io.direction"}
	series(g, e, "system.disk.io", "By", Counter, 1, append(io, "read")...)
	series(g, e, "system.disk.io", "By", Counter, 2, append(io, "write")...)
	series(g, e, "system.memory.usage", "By", UpDownCounter, 3, "system.memory.state", "used")
	series(g, e, "system.memory.usage", "By", UpDownCounter, 4, "system.memory.state", "buffers")
	series(g, e, "system.memory.linux.slab.usage", "By", UpDownCounter, 5, "system.memory.linux.slab.state", "reclaimable")
	series(g, e, "system.process.created", "{process}", Counter, 6)
	series(g, e, "system.unheard.of", "{thing}", Gauge, 7)
	agent := r.Group("slid", ClassAgent, 10)
	series(agent, agent.Entity(resource.NewSchemaless(attribute.String("service.name", "slid")), boot), "system.process.created", "{process}", Counter, 8)
	g.Collected(tick)
	agent.Collected(tick)
	return r
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		names Names
		want  []string
	}{
		{Semconv, []string{
			"system.disk.io By {disk.io.direction=read,system.device=sda} 1",
			"system.disk.io By {disk.io.direction=write,system.device=sda} 2",
			"system.memory.usage By {system.memory.state=used} 3",
			"system.memory.usage By {system.memory.state=buffers} 4",
			"system.memory.linux.slab.usage By {system.memory.linux.slab.state=reclaimable} 5",
			"system.process.created {process} {} 6",
			"system.unheard.of {thing} {} 7",
			"system.process.created {process} {} 8",
		}},
		{OTelColLegacy, []string{ // two families meet in system.memory.usage
			"system.disk.io By {device=sda,direction=read} 1",
			"system.disk.io By {device=sda,direction=write} 2",
			"system.memory.usage By {system.memory.state=used} 3",
			"system.memory.usage By {state=buffered} 4",
			"system.memory.usage By {state=slab_reclaimable} 5",
			"system.processes.created {processes} {} 6",
			"system.unheard.of {thing} {} 7",
			"system.process.created {process} {} 8", // the agent's own
		}},
		{Prometheus, []string{ // one family parts into several
			"node_disk_read_bytes_total By {device=sda} 1",
			"node_disk_written_bytes_total By {device=sda} 2",
			"system.memory.usage By {system.memory.state=used} 3",
			"node_memory_Buffers_bytes By {} 4",
			"node_memory_SReclaimable_bytes By {} 5",
			"node_forks_total {process} {} 6",
			"system.unheard.of {thing} {} 7",
			"system.process.created {process} {} 8",
		}},
	} {
		s := machine().NewSnapshot().Named(tt.names)
		s.Take(tick)
		if diff := cmp.Diff(tt.want, sentSeries(s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.names, diff)
		}
		rm := s.Resources[0]
		wantScope := map[Names]string{Semconv: SchemaURL}[tt.names]
		if rm.Resource.SchemaURL() != SchemaURL || rm.ScopeMetrics[0].Scope.SchemaURL != wantScope {
			t.Errorf("%s: schema of the resource %q, of the scope %q, want %q", tt.names,
				rm.Resource.SchemaURL(), rm.ScopeMetrics[0].Scope.SchemaURL, wantScope)
		}
	}
}

// TestNamesFollowTheRegisters checks that renamed points are tied to their registers and cost nothing per Take, and
// that a resource keeps its identity when other series come and go.
func TestNamesFollowTheRegisters(t *testing.T) {
	for _, names := range AllNames() {
		r := machine()
		s := r.NewSnapshot().Named(names)
		s.Take(tick)
		if n := testing.AllocsPerRun(100, func() { s.Take(tick) }); n != 0 {
			t.Errorf("%s: %v allocations per Take", names, n)
		}
		before, series := s.Resources[0].Resource, len(sentSeries(s))
		more := r.groups[0].Entity(resource.NewSchemaless(attribute.String("host.name", "other")), boot)
		r.groups[0].Int(Desc{Name: "system.process.created"}).With(more).Set(9)
		s.Take(tick)
		if s.Resources[0].Resource != before {
			t.Errorf("%s: the resource was made anew", names)
		}
		if len(s.Resources) != 3 || len(sentSeries(s)) != series+1 {
			t.Errorf("%s: %q", names, sentSeries(s))
		}
		more.Remove()
		s.Take(tick)
		if len(s.pinned) != 2 {
			t.Errorf("%s: %d resources are kept, 2 are left", names, len(s.pinned))
		}
	}
}

// TestFamiliesOfOneNameAreOneMetric: several collectors may declare a metric, each for devices of its own.
func TestFamiliesOfOneNameAreOneMetric(t *testing.T) {
	r := NewRegistry(instrumentation.Scope{Name: "slid"})
	for _, name := range []string{"raid", "sensors"} {
		g := r.Group(name, ClassHost, 10)
		g.Int(Desc{Name: "hw.status", Unit: "1", Kind: UpDownCounter}).
			With(g.Entity(host, boot), attribute.String("hw.id", name)).Set(1)
		g.Collected(tick)
	}
	for _, names := range AllNames() {
		s := r.NewSnapshot().Named(names)
		s.Take(tick)
		if n := len(s.Resources[0].ScopeMetrics[0].Metrics); n != 1 {
			t.Errorf("%s: %d metrics", names, n)
		}
		want := []string{"hw.status 1 {hw.id=raid} 1", "hw.status 1 {hw.id=sensors} 1"}
		if diff := cmp.Diff(want, sentSeries(s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", names, diff)
		}
	}
}

// BenchmarkLayout measures what the coming or going of one series costs a destination with 3,000.
func BenchmarkLayout(b *testing.B) {
	for _, names := range AllNames() {
		b.Run(string(names), func(b *testing.B) {
			r := NewRegistry(instrumentation.Scope{Name: "slid", SchemaURL: SchemaURL})
			g := r.Group("host", ClassHost, 1e6)
			g.Collected(tick)
			io := g.Int(Desc{Name: "system.disk.io", Unit: "By", Kind: Counter})
			for i := range 1500 {
				e := g.Entity(host, boot)
				device := attribute.Int("system.device", i)
				io.With(e, device, attribute.String("disk.io.direction", "read"))
				io.With(e, device, attribute.String("disk.io.direction", "write"))
			}
			s := r.NewSnapshot().Named(names)
			b.ReportAllocs()
			for b.Loop() {
				s.Resources = nil // as if a series had come
				s.Take(tick)
			}
		})
	}
}
