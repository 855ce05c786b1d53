package host

import (
	"context"
	"sync"
	"time"
)

// The limits of reading chips. Good chips answer in microseconds, those behind slow buses in some milliseconds.
const (
	// sensorBudget is how long the readings of one chip may take.
	sensorBudget = 100 * time.Millisecond
	// sensorFirst is how long the collector waits for a chip that also has to say what it has.
	sensorFirst = time.Second
	// sensorGrace is how long the collector waits in the end for chips that were too slow.
	sensorGrace = 500 * time.Millisecond
	// sensorStrikes is how many slow readings in a row bring a chip into quarantine.
	sensorStrikes = 3
	// The first quarantine, and the longest: each is twice as long as the one before.
	shortQuarantine = 5 * time.Minute
	longQuarantine  = 6 * time.Hour
	// mostReaders bounds the goroutines, and so the threads that hanging files can hold.
	mostReaders = 16
)

// sensorReaders read chips in goroutines, for a file of /sys may block for as long as its device likes. Normally
// there is one, and it reads one chip after the other. If it hangs, another takes its place; it ends when its chip
// lets go of it.
type sensorReaders struct {
	jobs  chan *sensorChip // room for each reader, so giving never waits
	done  chan *sensorChip // as well
	live  int              // goroutines
	out   int              // chips that are with a reader
	timer *time.Timer

	mu     sync.Mutex
	closed bool // what comes back now is closed by its reader
}

func newSensorReaders() *sensorReaders {
	r := &sensorReaders{
		jobs: make(chan *sensorChip, mostReaders), done: make(chan *sensorChip, mostReaders),
		timer: time.NewTimer(time.Hour),
	}
	r.timer.Stop()
	return r
}

// give hands a chip to a reader and returns false if all of them hang.
func (r *sensorReaders) give(c *sensorChip) bool {
	if r.out == r.live {
		if r.live == mostReaders {
			return false
		}
		r.live++
		go r.loop()
	}
	r.out++
	r.jobs <- c
	return true
}

// loop reads chips until Close.
func (r *sensorReaders) loop() {
	buf := make([]byte, sensorPage)
	for c := range r.jobs {
		c.read(buf)
		r.mu.Lock()
		if r.closed {
			c.close()
		} else {
			r.done <- c
		}
		r.mu.Unlock()
	}
}

// await returns the next chip that comes back, or nil after the given time or when ctx ends.
func (r *sensorReaders) await(ctx context.Context, patience time.Duration) *sensorChip {
	if c := r.poll(); c != nil {
		return c
	}
	r.timer.Reset(patience)
	defer r.timer.Stop()
	select {
	case c := <-r.done:
		r.out--
		return c
	case <-r.timer.C:
	case <-ctx.Done():
	}
	return nil
}

// poll returns a chip that is back already, or nil.
func (r *sensorReaders) poll() *sensorChip {
	select {
	case c := <-r.done:
		r.out--
		return c
	default:
		return nil
	}
}

// close lets the readers end: at once, or when their chip lets go of them. Nobody waits for that.
func (r *sensorReaders) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	close(r.jobs)
	for c := r.poll(); c != nil; c = r.poll() {
		c.close()
	}
}

// judge notes how long a reading took. Slow ones in a row bring the chip into quarantine, which gets longer as long
// as the reading after it is slow again.
func (c *sensorChip) judge(took, budget time.Duration, now time.Time) {
	c.took = took
	if took <= budget {
		c.strikes, c.pause = 0, 0
		return
	}
	if c.strikes++; c.strikes >= sensorStrikes {
		c.pause = min(max(2*c.pause, shortQuarantine), longQuarantine)
		c.until = now.Add(c.pause)
	}
}

// quarantined says whether the chip is to be left alone at present.
func (c *sensorChip) quarantined(now time.Time) bool { return c.pause > 0 && now.Before(c.until) }
