package otlp

import (
	"context"
	"slices"
	"sync"
)

// A queue holds requests in the order of their making, in bounded memory. Over the limit the oldest go first, except
// the one that is on the wire: it may have arrived already.
type queue struct {
	limit   int // bytes
	stats   *stats
	wake    chan struct{} // tells the only receiver that something changed
	closing chan struct{} // closed by close

	mu       sync.Mutex // guards the fields below
	requests []*request
	size     int  // bytes of all requests
	sending  bool // requests[0] is on the wire
	overflow bool // something was dropped since the queue was last empty
	closed   bool
}

func newQueue(limit int, s *stats) *queue {
	return &queue{limit: limit, stats: s, wake: make(chan struct{}, 1), closing: make(chan struct{})}
}

// push adds a request and returns those that had to go, maybe the new one itself, with the reason. first says that
// these are the first lost since the queue was last empty.
func (q *queue) push(r *request) (dropped []*request, reason string, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return []*request{r}, errShutdown, false
	}
	oldest := 0
	if q.sending {
		oldest = 1
	}
	for q.size+cap(r.body) > q.limit && len(q.requests) > oldest {
		dropped = append(dropped, q.removeLocked(oldest))
	}
	if q.size+cap(r.body) > q.limit {
		dropped = append(dropped, r)
	} else {
		q.requests = append(q.requests, r)
		q.changeLocked(r, 1)
		q.signal()
	}
	first = len(dropped) > 0 && !q.overflow
	q.overflow = q.overflow || first
	return dropped, errQueueFull, first
}

// next waits for the oldest request and holds it against being dropped until release. It returns nil when ctx ends,
// or when the queue is closed and empty.
func (q *queue) next(ctx context.Context) *request {
	for ctx.Err() == nil {
		r, closed := q.hold()
		if r != nil || closed {
			return r
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

func (q *queue) hold() (r *request, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.requests) == 0 {
		return nil, q.closed
	}
	q.sending = true
	return q.requests[0], q.closed
}

// release ends the hold of next; a request that is done leaves the queue.
func (q *queue) release(done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = false
	if done {
		q.removeLocked(0)
	}
	if len(q.requests) == 0 {
		q.overflow = false
	}
}

// close refuses further requests. It is called once.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	close(q.closing)
	q.signal()
}

// drain takes everything out.
func (q *queue) drain() (rest []*request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.requests) > 0 {
		rest = append(rest, q.removeLocked(0))
	}
	return rest
}

func (q *queue) removeLocked(i int) *request {
	r := q.requests[i]
	q.requests = slices.Delete(q.requests, i, i+1)
	q.changeLocked(r, -1)
	return r
}

// changeLocked accounts for a request that came (1) or went (-1).
func (q *queue) changeLocked(r *request, sign int) {
	q.size += sign * cap(r.body)
	q.stats.queued(r, int64(sign))
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // already told
	}
}
