package probe

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/schedule"
)

// fake returns a probe that asks by a function and runs in a bubble of its own time.
func fake(t *testing.T, o Options, all int, f ask) *prober {
	t.Helper()
	p := single(t, o)
	p.schedule.All, p.ask = make(chan struct{}, all), f
	return p
}

// running runs a probe for a time of the bubble.
func running(t *testing.T, p *prober, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { p.run(ctx, &tasks) })
	time.Sleep(d)
	cancel()
	tasks.Wait()
}

// TestScheduleIsOpen: a target that takes longer than the interval gets the next attempts in time, at equal distances.
func TestScheduleIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := targeting(t, "tcp://127.0.0.1:1")
		o.Interval, o.Timeout = time.Second, 5*time.Second
		var mu sync.Mutex
		var starts []time.Time
		p := fake(t, o, maxAttempts, func(ctx context.Context, _ *timeline) error {
			mu.Lock()
			starts = append(starts, time.Now())
			mu.Unlock()
			time.Sleep(3500 * time.Millisecond)
			return ctx.Err()
		})
		p.schedule.Offset = 250 * time.Millisecond
		running(t, p, 60*time.Second)
		for i, s := range starts {
			if got := time.Duration(s.UnixNano()) % time.Second; got != p.schedule.Offset || i > 0 && s.Sub(starts[i-1]) != time.Second {
				t.Errorf("attempt %d at %v", i, s)
			}
		}
		if len(starts) != 60 || p.tallies.missed != [missedReasons]uint64{} {
			t.Errorf("%d attempts, missed %v", len(starts), p.tallies.missed)
		}
		if n := p.tallies.attempts[success]; n != 57 { // the three under way at the end are nobody's
			t.Errorf("%d counted", n)
		}
	})
}

// TestAttemptsAreBounded: with no slot left, an attempt is missed and not put off.
func TestAttemptsAreBounded(t *testing.T) {
	for _, tt := range []struct {
		all  int
		want missed
	}{{maxAttempts, schedule.Busy}, {2, schedule.Crowded}} {
		synctest.Test(t, func(t *testing.T) {
			o := targeting(t, "tcp://127.0.0.1:1")
			o.Interval, o.Timeout = time.Second, 3*time.Second
			under, most := 0, 0
			var mu sync.Mutex
			p := fake(t, o, tt.all, func(context.Context, *timeline) error { // one that ignores its time limit
				mu.Lock()
				under++
				most = max(most, under)
				mu.Unlock()
				time.Sleep(time.Minute)
				mu.Lock()
				under--
				mu.Unlock()
				return errors.New("late")
			})
			running(t, p, 50*time.Second)
			bound := min(overlap(o), tt.all)
			if most != bound || p.tallies.missed[tt.want] != uint64(50-bound) {
				t.Errorf("%d at once, want %d; missed %v", most, bound, p.tallies.missed)
			}
		})
	}
}

// TestStandstillOfSlid: what was due while slid stood still is missed, and does not burst on the target afterwards.
func TestStandstillOfSlid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := targeting(t, "tcp://127.0.0.1:1")
		o.Interval, o.Timeout = time.Second, time.Second
		p := fake(t, o, maxAttempts, func(context.Context, *timeline) error { return nil })
		var tasks sync.WaitGroup
		now := time.Now()
		for i := range 10 {
			p.schedule.Start(t.Context(), now.Add(time.Duration(i-9)*time.Second), &tasks, p.attempt, p.miss)
		}
		tasks.Wait()
		if p.tallies.missed[schedule.Late] != 9 || p.tallies.attempts[success] != 1 {
			t.Errorf("missed %v, attempts %v", p.tallies.missed, p.tallies.attempts)
		}
		p.schedule.Start(t.Context(), now.Add(-400*time.Millisecond), &tasks, p.attempt, p.miss)
		tasks.Wait()
		if got := p.tallies.phases[phaseSchedule].sum; got != 0.4 {
			t.Errorf("%v s of delay, want 0.4", got)
		}
		p.ask = func(ctx context.Context, _ *timeline) error { // stopped amid an attempt, and woken up
			time.Sleep(10 * time.Second)
			return ctx.Err()
		}
		p.attempt(t.Context(), time.Now())
		if p.tallies.missed[schedule.Late] != 10 || p.tallies.attempts[timeout] != 0 {
			t.Errorf("missed %v, attempts %v", p.tallies.missed, p.tallies.attempts)
		}
	})
}

// TestPanicIsAnOutcome: nothing that a server sends may end slid.
func TestPanicIsAnOutcome(t *testing.T) {
	p := fake(t, targeting(t, "tcp://127.0.0.1:1"), 1, func(context.Context, *timeline) error { panic("at the answer") })
	p.attempt(t.Context(), time.Now())
	if p.tallies.attempts[other] != 1 {
		t.Errorf("%v", p.tallies.attempts)
	}
}

// stalling is a server that answers at once, but for a time in which everybody waits for its end. It keeps a log.
type stalling struct {
	mu         sync.Mutex
	begin, end time.Time
	held       []time.Duration
	served     int
}

func (s *stalling) ServeHTTP(http.ResponseWriter, *http.Request) {
	now := time.Now()
	s.mu.Lock()
	s.served++
	wait := s.end.Sub(now)
	if now.Before(s.begin) || wait < 0 {
		wait = 0
	} else {
		s.held = append(s.held, wait)
	}
	s.mu.Unlock()
	time.Sleep(wait)
}

// TestCoordinatedOmission: a server that stalls for 2 s while it is asked each 100 ms delays 20 attempts, by 2 s, 1.9 s,
// ... 0.1 s. A probe that waits for its answer would see one.
func TestCoordinatedOmission(t *testing.T) {
	const stall, interval = 2 * time.Second, 100 * time.Millisecond
	begin := time.Now().Add(500 * time.Millisecond)
	s := &stalling{begin: begin, end: begin.Add(stall)}
	server := httptest.NewServer(s)
	defer server.Close()
	o := targeting(t, server.URL)
	o.Interval, o.Timeout = interval, 5*time.Second
	l := newLab(t, o)
	time.Sleep(time.Until(s.end.Add(500 * time.Millisecond)))
	list := l.take(t)

	s.mu.Lock()
	defer s.mu.Unlock()
	var held time.Duration
	for _, d := range s.held {
		held += d
	}
	if n := len(s.held); n < 19 || n > 21 {
		t.Fatalf("the server held %d, want 20", n)
	}
	d := find(list, "probe.duration").(metricdata.ExponentialHistogram[float64]).DataPoints[0]
	if total(list, "probe.schedule.missed", "", "") != 0 || int(d.Count) < s.served-1 || int(d.Count) > s.served {
		t.Errorf("%d durations of %d served", d.Count, s.served)
	}
	if more := d.Sum - held.Seconds(); more < 0 || more > 0.02*float64(s.served) {
		t.Errorf("durations of %v s, the server held for %v", d.Sum, held)
	}
	for _, tt := range []struct{ longer, want float64 }{{0.5, 15}, {1, 10}, {1.5, 5}} {
		if n := above(d, tt.longer); math.Abs(n-tt.want) > 2 {
			t.Errorf("%v took longer than %v s, want %v", n, tt.longer, tt.want)
		}
	}
	t.Logf("%d attempts, %d held for %v in all; durations sum to %.3f s; %v over 0.5 s, %v over 1 s, %v over 1.5 s",
		d.Count, len(s.held), held, d.Sum, above(d, .5), above(d, 1), above(d, 1.5))
}

// above returns how many values lie in buckets that begin at v or above.
func above(d metricdata.ExponentialHistogramDataPoint[float64], v float64) (n float64) {
	for i, c := range d.PositiveBucket.Counts {
		if metric.UpperBound(int(d.PositiveBucket.Offset)+i-1) >= v*0.9999 {
			n += float64(c)
		}
	}
	return n
}

// TestCloseEndsEverything: attempts at a server that never answers do not hold up the end, and count as nothing.
func TestCloseEndsEverything(t *testing.T) {
	silent := listenSilently(t)
	o := targeting(t, "http://"+silent)
	o.Interval, o.Timeout = 100*time.Millisecond, 6*time.Second
	l := newLab(t, o)
	time.Sleep(time.Second)
	begun := time.Now()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 500*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if n := total(l.take(t), "probe.attempts", "", ""); n != 0 {
		t.Errorf("%d counted", n)
	}
}

// listenSilently accepts connections and says nothing.
func listenSilently(t testing.TB) string {
	t.Helper()
	return serve(t, func(conn net.Conn) { <-t.Context().Done() })
}

// serve gives each connection to f and closes it afterwards.
func serve(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer conn.Close()
				f(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		tasks.Wait()
	})
	return l.Addr().String()
}
