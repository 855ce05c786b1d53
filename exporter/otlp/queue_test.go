package otlp

import (
	"context"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"pgregory.net/rapid"

	"github.com/slid-agent/slid/internal/metric"
)

func newTestQueue(limit int) *queue {
	own := metric.NewRegistry(instrumentation.Scope{})
	o := Options{Name: "test", Agent: agent, Metrics: own.Group("export", metric.ClassAgent, 24)}
	return newQueue(limit, newStats(o, fast))
}

// queueModel does to a queue and to a plain slice the same things.
type queueModel struct {
	queue    *queue
	requests []*request // what should be queued
	sending  bool
}

func (m *queueModel) push(t *rapid.T) {
	r := &request{body: make([]byte, rapid.IntRange(1, 120).Draw(t, "size")), points: 1}
	dropped, reason, _ := m.queue.push(r)
	m.requests = append(m.requests, r)
	for _, d := range dropped {
		oldest := 0
		if m.sending {
			oldest = 1
		}
		if bytesOf(m.requests) <= m.queue.limit || m.requests[oldest] != d && d != r || reason != errQueueFull {
			t.Fatalf("dropped %p for %s of %d bytes", d, reason, bytesOf(m.requests))
		}
		m.requests = slices.DeleteFunc(m.requests, func(r *request) bool { return r == d })
	}
}

func (m *queueModel) next(t *rapid.T) {
	if m.sending || len(m.requests) == 0 {
		t.Skip("nothing to take")
	}
	if r := m.queue.next(context.Background()); r != m.requests[0] {
		t.Fatal("next is not the oldest")
	}
	m.sending = true
}

func (m *queueModel) release(t *rapid.T) {
	if !m.sending {
		t.Skip("nothing is held")
	}
	done := rapid.Bool().Draw(t, "done")
	m.queue.release(done)
	m.sending = false
	if done {
		m.requests = m.requests[1:]
	}
}

func (m *queueModel) check(t *rapid.T) {
	q := m.queue
	if !slices.Equal(q.requests, m.requests) {
		t.Fatalf("queue %v, want %v", q.requests, m.requests)
	}
	if q.size != bytesOf(m.requests) || q.size > q.limit {
		t.Fatalf("size %d, want %d, at most %d", q.size, bytesOf(m.requests), q.limit)
	}
	if q.stats.inflight.Value() != int64(len(m.requests)) || q.stats.size.Value() != int64(q.size) {
		t.Fatalf("metrics say %d points and %d bytes", q.stats.inflight.Value(), q.stats.size.Value())
	}
}

// Whatever happens in whatever order, each request leaves the queue once, the oldest first, never the one on the
// wire, and only when the limit demands it.
func TestQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &queueModel{queue: newTestQueue(100)}
		t.Repeat(map[string]func(*rapid.T){"push": m.push, "next": m.next, "release": m.release, "": m.check})
	})
}

func bytesOf(requests []*request) (n int) {
	for _, r := range requests {
		n += cap(r.body)
	}
	return n
}

func TestQueueEnds(t *testing.T) {
	q := newTestQueue(100)
	r := &request{body: make([]byte, 10), points: 1}
	q.push(r)
	q.close()
	if dropped, reason, _ := q.push(r); len(dropped) != 1 || reason != errShutdown {
		t.Errorf("push after close dropped %d for %q", len(dropped), reason)
	}
	if q.next(t.Context()) != r {
		t.Error("what was queued is lost by close")
	}
	q.release(true)
	if q.next(t.Context()) != nil {
		t.Error("closed and empty, but next returns a request")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if newTestQueue(100).next(ctx) != nil {
		t.Error("next outlives its context")
	}
}
