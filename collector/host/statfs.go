package host

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How long a collection waits.
const (
	// statfsPatience is the longest that one collection waits for filesystems that answered the last time.
	statfsPatience = 500 * time.Millisecond
	// statfsHesitation is how long the queue may stand still before one more worker comes.
	statfsHesitation = 20 * time.Millisecond
	// maxStatfsWorkers is how many questions of one crew may hang: each occupies a thread.
	maxStatfsWorkers = 32
)

// errElsewhere says that the path of a mount leads to something else: the namespace of slid does not have the mount.
var errElsewhere = errors.New("not visible to slid: another filesystem is at its path")

// The states of a question.
const (
	statfsIdle     = iota
	statfsQueued   // waits for a worker
	statfsAsking   // a worker waits for the kernel
	statfsAnswered // result and err are valid
)

// A statfsProbe asks one filesystem for its size. The collector owns it while it is idle or answered, a worker while
// it is asking; so there is never more than one question under way.
type statfsProbe struct {
	path   string
	cpath  []byte    // the same, ending with NUL
	device [2]uint64 // what the path must lead to
	check  bool      // see to that first
	since  time.Time // when it was queued last

	state   atomic.Uint32
	awaited bool // the present round waits for it; guarded by the mutex of the crew
	result  unix.Statfs_t
	err     error
}

func newStatfsProbe(path string, device [2]uint64, check bool) *statfsProbe {
	return &statfsProbe{path: path, cpath: append([]byte(path), 0), device: device, check: check}
}

// ask makes the system call. It may never return.
func (p *statfsProbe) ask() error {
	if p.check {
		var st unix.Stat_t
		at := unix.AT_FDCWD
		// Not unix.Stat and unix.Statfs, which copy the path each time.
		_, _, errno := unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(at), uintptr(unsafe.Pointer(&p.cpath[0])),
			uintptr(unsafe.Pointer(&st)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if uint64(unix.Major(st.Dev)) != p.device[0] || uint64(unix.Minor(st.Dev)) != p.device[1] {
			return errElsewhere
		}
		p.check = false
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_STATFS, uintptr(unsafe.Pointer(&p.cpath[0])),
			uintptr(unsafe.Pointer(&p.result)), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// A statfsCrew asks filesystems in goroutines of its own, one after the other. Who hangs keeps its worker, and
// another one goes on with the queue.
type statfsCrew struct {
	ask      func(*statfsProbe) error
	finished chan struct{} // capacity 1: nobody of the round is awaited any more
	timer    *time.Timer
	// exhausted says that no worker was free when the round began.
	exhausted bool

	mu      sync.Mutex // guards the fields below
	work    sync.Cond  // something is in the queue, or the crew is closed
	queue   []*statfsProbe
	next    int // the first of the queue that nobody took
	left    int // how many the round still waits for
	workers int // idle and hanging ones too
	idle    int
	closed  bool
}

func newStatfsCrew(ask func(*statfsProbe) error) *statfsCrew {
	c := &statfsCrew{ask: ask, finished: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	c.work.L = &c.mu
	return c
}

// add puts a question into the queue of the coming round, which begins now. The round waits for it if awaited says
// so.
func (c *statfsCrew) add(p *statfsProbe, awaited bool, now time.Time) {
	p.since = now
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == len(c.queue) {
		c.queue, c.next = c.queue[:0], 0
	}
	p.state.Store(statfsQueued)
	p.awaited = awaited
	if awaited {
		c.left++
	}
	c.queue = append(c.queue, p)
}

// begin lets somebody work at the queue.
func (c *statfsCrew) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select { // forget the end of a round that nobody waited for
	case <-c.finished:
	default:
	}
	// If the questions of earlier rounds have all workers, waiting is most likely in vain.
	c.exhausted = c.workers == maxStatfsWorkers && c.idle == 0
	c.reinforce(1)
}

// reinforce wakes an idle worker, or adds up to n. The mutex is held.
func (c *statfsCrew) reinforce(n int) {
	waiting := len(c.queue) - c.next
	if waiting == 0 || c.closed {
		return
	}
	if c.idle > 0 {
		c.work.Signal()
		return
	}
	for range min(n, waiting, maxStatfsWorkers-c.workers) {
		c.workers++
		go c.run()
	}
}

// wait returns when all that are awaited have answered, or at the deadline. Questions that nobody took until then
// are withdrawn.
func (c *statfsCrew) wait(deadline time.Time) {
	if c.exhausted {
		deadline = time.Now().Add(statfsHesitation)
	}
	for {
		c.mu.Lock()
		left := c.left
		c.mu.Unlock()
		if left == 0 {
			return
		}
		rest := time.Until(deadline)
		if rest <= 0 {
			c.giveUp()
			return
		}
		c.timer.Reset(min(rest, statfsHesitation))
		select {
		case <-c.finished:
			c.timer.Stop()
		case <-c.timer.C:
			c.mu.Lock()
			c.reinforce(max(1, c.workers)) // twice as many each time
			c.mu.Unlock()
		}
	}
}

// giveUp ends the round: nobody is awaited any more.
func (c *statfsCrew) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = 0
	kept := c.queue[:0]
	for i, p := range c.queue {
		switch {
		case i < c.next:
			p.awaited = false
		case p.awaited:
			p.awaited = false
			p.state.Store(statfsIdle)
		default:
			kept = append(kept, p)
		}
	}
	clear(c.queue[len(kept):])
	c.queue, c.next = kept, 0
}

// withdraw takes a question back that no worker took. Others are left alone.
func (c *statfsCrew) withdraw(p *statfsProbe) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.state.CompareAndSwap(statfsQueued, statfsIdle)
}

// run is the life of a worker.
func (c *statfsCrew) run() {
	for p := c.take(nil); p != nil; p = c.take(p) {
		p.err = c.ask(p)
	}
}

// take notes that a question is answered and returns the next one. It waits if there is none, and returns nil if
// the worker is not needed: one idle worker is enough.
func (c *statfsCrew) take(answered *statfsProbe) *statfsProbe {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answered != nil {
		c.finish(answered)
	}
	for {
		for c.next < len(c.queue) && !c.closed {
			p := c.queue[c.next]
			c.next++
			if p.state.CompareAndSwap(statfsQueued, statfsAsking) {
				return p
			}
		}
		if c.closed || c.idle > 0 {
			c.workers--
			return nil
		}
		c.idle++
		c.work.Wait()
		c.idle--
	}
}

// finish hands an answer over and counts it. The mutex is held.
func (c *statfsCrew) finish(p *statfsProbe) {
	awaited := p.awaited
	p.awaited = false
	p.state.Store(statfsAnswered)
	if !awaited {
		return
	}
	if c.left--; c.left == 0 {
		select {
		case c.finished <- struct{}{}:
		default:
		}
	}
}

// close lets the workers end: those that hang, when the kernel answers.
func (c *statfsCrew) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.work.Broadcast()
}
