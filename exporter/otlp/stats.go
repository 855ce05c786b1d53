package otlp

import (
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
)

// Reasons for the loss of points that no status code of gRPC names: values of error.type.
const (
	errQueueFull = "queue_full" // the backend took too little for too long
	errShutdown  = "shutdown"   // slid ended first
	errInvalid   = "invalid"    // the transformation refused them
	errRejected  = "rejected"   // the backend took the request without them (partial success)
)

const (
	componentName = attribute.Key("otel.component.name")
	errorType     = attribute.Key("error.type")
)

// The metrics that one destination has of itself, named as semantic conventions name those of an SDK's exporter.
var (
	descExported = metric.Desc{
		Name: "otel.sdk.exporter.metric_data_point.exported", Unit: "{data_point}", Kind: metric.Counter,
		Description: "Data points whose export has ended: delivered, or lost for the reason in error.type.",
		Attributes:  []attribute.Key{componentName, errorType}, Source: "OTLP exporter",
	}
	descInflight = metric.Desc{
		Name: "otel.sdk.exporter.metric_data_point.inflight", Unit: "{data_point}", Kind: metric.UpDownCounter,
		Description: "Data points that wait for delivery or are being sent.",
		Attributes:  []attribute.Key{componentName}, Source: "OTLP exporter",
	}
	descSize = metric.Desc{
		Name: "slid.export.queue.size", Unit: "By", Kind: metric.UpDownCounter,
		Description: "Memory of the requests that wait for delivery or are being sent.",
		Attributes:  []attribute.Key{componentName}, Source: "OTLP exporter",
	}
	descLimit = metric.Desc{
		Name: "slid.export.queue.limit", Unit: "By", Kind: metric.UpDownCounter,
		Description: "Most memory that the queue may take; beyond it the oldest data is dropped.",
		Attributes:  []attribute.Key{componentName}, Source: "OTLP exporter",
	}
)

// stats are the exporter's registers. Export and the sender both add to them.
type stats struct {
	group    *metric.Group
	entity   *metric.Entity
	name     attribute.KeyValue
	exported metric.IntFamily

	delivered, inflight, size *metric.Int

	lost atomic.Int64 // all points that failed, for logs
}

func newStats(o Options, l limits) *stats {
	s := &stats{
		group: o.Metrics, entity: o.Metrics.Entity(o.Agent, time.Now()),
		name: componentName.String(o.Name), exported: o.Metrics.Int(descExported),
	}
	s.delivered = s.exported.With(s.entity, s.name)
	s.inflight = o.Metrics.Int(descInflight).With(s.entity, s.name)
	s.size = o.Metrics.Int(descSize).With(s.entity, s.name)
	o.Metrics.Int(descLimit).With(s.entity, s.name).Set(int64(l.queue))
	return s
}

// queued accounts for a request that came into the queue (sign 1) or left it (-1).
func (s *stats) queued(r *request, sign int64) {
	s.inflight.Add(sign * r.points)
	s.size.Add(sign * int64(cap(r.body)))
}

// fail counts lost points by reason.
func (s *stats) fail(reason string, points int64) {
	if points <= 0 {
		return
	}
	s.lost.Add(points)
	s.exported.With(s.entity, s.name, errorType.String(reason)).Add(points)
}
