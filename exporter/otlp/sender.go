package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// condition is how delivery fares. Each change is logged once, attempts are not.
type condition uint8

const (
	delivering condition = iota
	partial              // the backend takes requests and complains
	retrying             // it takes nothing at present
	refused              // it will never take what we send
)

// A sender delivers the requests of a queue one after the other. One goroutine owns it.
type sender struct {
	queue *queue
	stats *stats
	log   *slog.Logger
	pause pause
	hurry <-chan struct{} // when closed, the present pause ends, unless the backend asked for it; nil after

	condition condition
	since     time.Time // of the last change from delivering
	lost      int64     // stats.lost at that time
}

// run sends until ctx ends, or until the queue is closed and empty.
func (s *sender) run(ctx context.Context) {
	for r := s.queue.next(ctx); r != nil; r = s.queue.next(ctx) {
		o := r.send(ctx)
		if o.err != nil && ctx.Err() != nil {
			s.queue.release(false) // our own doing: it stays for the count of what is lost
			return
		}
		s.settle(r, o)
		s.report(o)
		if o.retry {
			s.sleep(ctx, o.throttle)
		}
	}
}

// settle counts an ended request and takes it out of the queue, or leaves it there for another attempt.
func (s *sender) settle(r *request, o outcome) {
	switch {
	case o.retry:
	case o.err != nil:
		s.stats.fail(codeName(o.code), r.points)
	default:
		rejected := min(o.rejected, r.points)
		s.stats.delivered.Add(r.points - rejected)
		s.stats.fail(errRejected, rejected)
	}
	if !o.retry {
		s.pause.reset()
	}
	s.queue.release(!o.retry)
}

// report logs a change of the condition.
func (s *sender) report(o outcome) {
	now := delivering
	switch {
	case o.retry:
		now = retrying
	case o.err != nil:
		now = refused
	case o.rejected > 0 || o.message != "":
		now = partial
	}
	if now == s.condition {
		return
	}
	if s.condition == delivering {
		s.since, s.lost = time.Now(), s.stats.lost.Load()
	}
	s.condition = now
	switch now {
	case delivering:
		s.log.Info("export recovered", "after", time.Since(s.since).Round(time.Second),
			"lost_points", s.stats.lost.Load()-s.lost)
	case partial:
		s.log.Warn("backend accepts data with objections", "rejected_points", o.rejected, "message", o.message)
	case retrying:
		s.log.Warn("export fails, data is kept in memory", "error", o.err, "limit_bytes", s.queue.limit)
	case refused:
		s.log.Error("backend refuses data for good, it is dropped", "error", o.err)
	}
}

// send makes one attempt.
func (r *request) send(ctx context.Context) outcome {
	c := r.call
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	ctx = metadata.NewOutgoingContext(ctx, c.header)
	var reply colmetricpb.ExportMetricsServiceResponse
	err := c.invoke(ctx, c.method, r.body, &reply, c.conn, c.options...)
	return classify(&reply, err)
}

// sleep pauses after a failed attempt, or until ctx ends. When slid shuts down there is one more attempt at once.
func (s *sender) sleep(ctx context.Context, throttle time.Duration) {
	timer := time.NewTimer(s.pause.next(throttle))
	defer timer.Stop()
	hurry := s.hurry
	if throttle > 0 {
		hurry = nil
	}
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-hurry:
		s.hurry = nil
		s.pause.reset()
	}
}

// rawCodec passes marshalled requests through and unmarshals responses (encoding.CodecV2).
type rawCodec struct{}

// Marshal returns the bytes themselves; gRPC only reads them.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	body, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("marshal %T: want marshalled bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(body)}, nil
}

// Unmarshal parses a protobuf message.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("unmarshal into %T: want a protobuf message", v)
	}
	return proto.Unmarshal(data.Materialize(), message)
}

// Name says that both ends speak protobuf.
func (rawCodec) Name() string { return "proto" }
