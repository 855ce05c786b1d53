package schedule

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestFirstAfter: the first attempt is within an interval, at the probe's place in it, and has the monotonic clock.
func TestFirstAfter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		interval := time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(time.Hour)).Draw(rt, "interval"))
		offset := time.Duration(rapid.Int64Range(0, int64(interval)-1).Draw(rt, "offset"))
		now := time.Unix(0, rapid.Int64Range(0, math.MaxInt64/2).Draw(rt, "now"))
		first := FirstAfter(now, interval, offset)
		if d := first.Sub(now); d <= 0 || d > interval {
			rt.Errorf("after %v", d)
		}
		if got := time.Duration(first.UnixNano()) % interval; got != offset {
			rt.Errorf("offset %v, want %v", got, offset)
		}
	})
}

// TestWallClockMayJump: what is due is counted by the monotonic clock, which shows in a time's text.
func TestWallClockMayJump(t *testing.T) {
	due := FirstAfter(time.Now(), time.Second, 0).Add(time.Hour)
	if !strings.Contains(due.String(), " m=+") {
		t.Errorf("%v has no reading of the monotonic clock", due)
	}
}

// TestHostsSpread: of a thousand hosts with the same probe, each tenth of the interval gets about a tenth.
func TestHostsSpread(t *testing.T) {
	var tenths [10]int
	for i := range 1000 {
		tenths[Offset(fmt.Sprintf("host-%04d", i), "checkout", 10*time.Second)/time.Second]++
	}
	for i, n := range tenths {
		if n < 60 || n > 140 {
			t.Errorf("tenth %d has %d of 1000", i, n)
		}
	}
	if Offset("a", "b", time.Hour) == Offset("a", "c", time.Hour) {
		t.Error("the place must be the probe's own")
	}
}
