package otlp

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	metricpb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// A request is what the wire carries: a marshalled ExportMetricsServiceRequest. Nothing changes it once it is made,
// and its memory is never reused: gRPC may still read the body of a cancelled call after the call returned.
type request struct {
	body   []byte
	points int64
	call   call
}

// A call is all that the vendor set up for a request, taken from the interceptor's arguments.
type call struct {
	method  string
	header  metadata.MD
	timeout time.Duration // of one attempt; 0: none
	conn    *grpc.ClientConn
	options []grpc.CallOption
	invoke  grpc.UnaryInvoker // puts the call on the wire, past the interceptor
}

// A batch gathers one tick's resources into as few requests as the limit allows.
type batch struct {
	limit int // bytes of a request; a single resource may be larger

	open  request
	full  []*request
	total int64 // points ever added
	last  int   // bytes of the last request taken: a good guess for the next
}

// intercept takes the request and ends the call with success before it reaches the wire (grpc.UnaryClientInterceptor).
func (b *batch) intercept(ctx context.Context, method string, req, _ any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	message, ok := req.(*colmetricpb.ExportMetricsServiceRequest)
	if !ok {
		return fmt.Errorf("exporter sends %T instead of metrics", req)
	}
	size := proto.Size(message)
	if len(b.open.body)+size > b.limit {
		b.cut()
	}
	if b.open.body == nil {
		c := call{method: method, conn: conn, invoke: invoke}
		c.header, _ = metadata.FromOutgoingContext(ctx)
		if deadline, ok := ctx.Deadline(); ok {
			c.timeout = time.Until(deadline)
		}
		c.options = append(slices.Clip(options), grpc.ForceCodecV2(rawCodec{}))
		b.open = request{body: make([]byte, 0, max(size, b.last+b.last/16)), call: c}
	}
	return b.add(message)
}

// add appends a message, whose size was just computed, to the open request.
func (b *batch) add(message *colmetricpb.ExportMetricsServiceRequest) error {
	body, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b.open.body, message)
	if err != nil {
		return fmt.Errorf("marshal metrics: %w", err)
	}
	points := countSent(message.ResourceMetrics)
	b.open.body = body
	b.open.points += points
	b.total += points
	return nil
}

// cut finishes the open request.
func (b *batch) cut() {
	r := b.open
	b.open = request{}
	if len(r.body) > 0 { // nothing empty goes out
		b.last = len(r.body)
		b.full = append(b.full, &r)
	}
}

// take returns the requests of the tick. They belong to the caller.
func (b *batch) take() []*request {
	b.cut()
	full := b.full
	b.full = nil
	return full
}

// countPoints returns the number of data points in a snapshot's resource.
func countPoints(rm *metricdata.ResourceMetrics) (n int64) {
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Gauge[int64]:
				n += int64(len(data.DataPoints))
			case metricdata.Gauge[float64]:
				n += int64(len(data.DataPoints))
			case metricdata.Sum[int64]:
				n += int64(len(data.DataPoints))
			case metricdata.Sum[float64]:
				n += int64(len(data.DataPoints))
			case metricdata.ExponentialHistogram[float64]:
				n += int64(len(data.DataPoints))
			}
		}
	}
	return n
}

// countSent returns the number of data points in transformed resources.
func countSent(resources []*metricpb.ResourceMetrics) (n int64) {
	for _, rm := range resources {
		for _, scope := range rm.ScopeMetrics {
			for _, m := range scope.Metrics {
				n += int64(len(m.GetGauge().GetDataPoints()) + len(m.GetSum().GetDataPoints()) +
					len(m.GetExponentialHistogram().GetDataPoints()))
			}
		}
	}
	return n
}
