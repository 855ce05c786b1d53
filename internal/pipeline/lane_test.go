package pipeline

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPhaseOfSpreadsHosts(t *testing.T) {
	const hosts, slots = 20_000, 10
	var count [slots]int
	for i := range hosts {
		id := fmt.Sprintf("%032x", i)
		phase := PhaseOf(id, time.Minute)
		if phase != PhaseOf(id, time.Minute) || phase < 0 || phase >= time.Minute {
			t.Fatalf("PhaseOf(%s) = %v, want always the same in [0, 1m)", id, phase)
		}
		count[phase*slots/time.Minute]++
	}
	for i, n := range count { // expected 2000 with a standard deviation of 42
		if n < 1750 || n > 2250 {
			t.Errorf("slot %d of %d has %d of %d hosts", i, slots, n, hosts)
		}
	}
	if PhaseOf("x", 0) != 0 {
		t.Error("no interval, no phase")
	}
}

func TestSchedule(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(0, int64(s*1e9)) }
	for _, c := range []struct {
		name            string
		interval, phase time.Duration
		t, want         float64
	}{
		{"between", 10 * time.Second, 0, 1003, 1010},
		{"on a tick", 10 * time.Second, 0, 1010, 1020},
		{"with a phase", 10 * time.Second, 3 * time.Second, 1001, 1003},
		{"on a tick with a phase", 10 * time.Second, 3 * time.Second, 1003, 1013},
		{"a phase of a longer interval", 10 * time.Second, 43 * time.Second, 1001, 1003},
		{"burst", 200 * time.Millisecond, 0, 1000.1, 1000.2},
		{"a clock that was never set", 10 * time.Second, 3 * time.Second, 0, 13},
	} {
		if got := newSchedule(c.interval, c.phase).after(at(c.t)); !got.Equal(at(c.want)) {
			t.Errorf("%s: after(%v) = %v, want %v", c.name, c.t, got, at(c.want))
		}
	}
	s := newSchedule(10*time.Second, 0)
	for _, c := range []struct {
		planned, next float64
		want          int64
	}{{1000, 1010, 0}, {1000, 1020, 1}, {1000, 4600, 359}, {1000, 500, 0}, {1000, 1000, 0}} {
		if got := s.missed(at(c.planned), at(c.next)); got != c.want {
			t.Errorf("missed(%v, %v) = %d, want %d", c.planned, c.next, got, c.want)
		}
	}
}

func TestTicksLieOnTheScheduleOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(10 * time.Second)
		r.Phase = 43 * time.Second // of a destination's 60 s: 3 s in ours
		_, stop := r.run(t)
		time.Sleep(65 * time.Second)
		got := r.sink.exports()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(got) != 7 {
			t.Fatalf("%d exports in 65 s, want 7", len(got))
		}
		for _, at := range got {
			if at.UnixNano()%int64(10*time.Second) != int64(3*time.Second) {
				t.Errorf("export at %v, want 3 s after a multiple of 10 s", at)
			}
		}
		if n := r.sink.value(t, "slid.tick.missed{slid.lane=core}"); n != 0 {
			t.Errorf("%v ticks missed", n)
		}
	})
}

// TestClockChanges sets the wall clock forth and back under a running pipeline.
func TestClockChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  time.Duration
		exports int // in the 60 s after the change
		missed  float64
	}{
		{"an hour forth", time.Hour, 6, 360},
		{"an hour back", -time.Hour, 6, 0},
		{"three seconds back", -3 * time.Second, 6, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(10 * time.Second)
				p := New(r.Options)
				var offset atomic.Int64
				p.clock = func() time.Time { return time.Now().Round(0).Add(time.Duration(offset.Load())) }
				stop := runOf(t, p)
				time.Sleep(21 * time.Second)
				before := len(r.sink.exports())
				offset.Store(int64(c.change))
				time.Sleep(time.Minute)
				if n := len(r.sink.exports()) - before; n < c.exports-1 || n > c.exports+1 {
					t.Errorf("%d exports in the minute after the change, want %d", n, c.exports)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				if n := r.sink.value(t, "slid.tick.missed{slid.lane=core}"); n < c.missed-1 || n > c.missed {
					t.Errorf("%v ticks missed, want %v", n, c.missed)
				}
			})
		})
	}
}

// TestProgressBetweenTicks proves that a watchdog shorter than the interval is fed.
func TestProgressBetweenTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(time.Minute)
		var calls atomic.Int32
		r.Progress = func() { calls.Add(1) }
		_, stop := r.run(t)
		time.Sleep(59 * time.Second)
		if n := calls.Load(); n < 11 {
			t.Errorf("%d signs of progress in 59 s, want one each %v", n, heartbeat)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
