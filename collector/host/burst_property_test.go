package host

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/slid-agent/slid/internal/metric"
)

// burstWorld is a made-up host. What is true of it is kept beside what its files show, and the distributions are
// computed from that by brute force: from lists of all samples.
type burstWorld struct {
	rng  *rand.Rand
	r    *burstRig
	cpus [4]burstCore

	running, available int
	stall, busy, rx    int // µs, ms, bytes since boot
	reads, inFlight    int

	want  map[string][]float64 // the values that must be recorded
	since burstBase            // of the last reading
	late  int                  // samples that are missing for lateness
}

// burstCore is a processor. Its ticks are user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice.
type burstCore struct {
	online bool
	ticks  [10]int
	high   [10]int // the most that each showed since the processor is online
	back   int     // by how much the idle time shown is behind the true one
}

// burstBase is what was true at a reading.
type burstBase struct {
	at              time.Duration
	cpus            [4]burstCore
	stall, busy, rx int
	reads           int
}

const burstTotal = 1 << 20 // kB

// live lets the host work for a time with a given share of its processors, and more or less of all else.
func (w *burstWorld) live(passed time.Duration) {
	load := w.rng.Float64()
	ticks := int(passed / (10 * time.Millisecond))
	for i := range w.cpus {
		c := &w.cpus[i]
		if !c.online {
			continue
		}
		for range ticks {
			mode := 3 + w.rng.IntN(2) // idle, iowait
			if w.rng.Float64() < load {
				mode = []int{0, 1, 2, 5, 6, 7}[w.rng.IntN(6)]
			}
			c.ticks[mode]++
			if mode == 0 && w.rng.IntN(4) == 0 {
				c.ticks[8]++ // a guest's time is user time too
			}
		}
		if c.back = 0; w.rng.IntN(10) == 0 {
			c.back = w.rng.IntN(5)
		}
	}
	w.running, w.available = 1+w.rng.IntN(20), w.rng.IntN(burstTotal)
	w.stall += int(load * float64(passed/time.Microsecond))
	w.busy += int(w.rng.Float64() * float64(passed/time.Millisecond))
	w.rx += int(w.rng.Float64() * 125e6 * passed.Seconds())
	w.reads++
	w.inFlight = w.rng.IntN(3)
}

// accident does what happens now and then: processors go and come, devices count anew.
func (w *burstWorld) accident() {
	switch i := 1 + w.rng.IntN(len(w.cpus)-1); w.rng.IntN(20) {
	case 0:
		w.cpus[i].online = false
	case 1:
		if !w.cpus[i].online {
			w.cpus[i] = burstCore{online: true}
			for mode := range 8 {
				w.cpus[i].ticks[mode] = w.rng.IntN(1000)
			}
		}
	case 2:
		w.rx = w.rng.IntN(1000)
	case 3:
		if w.since.reads > 0 { // else nothing would tell the new disk from the old one
			w.reads, w.busy = 0, w.rng.IntN(100)
		}
	case 4:
		w.stall = 0
	}
}

// write puts the host into its files.
func (w *burstWorld) write() {
	var stat strings.Builder
	stat.WriteString("cpu  1 2 3 4 5 6 7 8 9 10\n") // not to be used
	for i := range w.cpus {
		c := &w.cpus[i]
		if !c.online {
			continue
		}
		shown := c.ticks
		shown[3] = max(shown[3]-c.back, 0)
		fmt.Fprintf(&stat, "cpu%d %s\n", i, strings.Trim(fmt.Sprint(shown), "[]"))
	}
	fmt.Fprintf(&stat, "intr 1 2 3\nctxt 4\nbtime 5\nprocesses 6\nprocs_running %d\nprocs_blocked 0\nsoftirq 1\n", w.running)
	w.r.write("proc/stat", stat.String())
	w.r.write("proc/meminfo", fmt.Sprintf("MemTotal: %d kB\nMemFree: 1 kB\nMemAvailable: %d kB\n", burstTotal, w.available))
	w.r.write("proc/pressure/io", fmt.Sprintf("some avg10=0.00 avg60=0.00 avg300=0.00 total=%d\n", w.stall))
	w.r.write("sys/block/sda/stat", fmt.Sprintf("%d 0 1 1 1 1 1 1 %d %d 1\n", w.reads, w.inFlight, w.busy%(1<<32)))
	w.r.write("sys/class/net/eno1/statistics/rx_bytes", fmt.Sprintln(w.rx))
}

const (
	burstUse      = "system.cpu.utilization"
	burstQueue    = "system.cpu.linux.runqueue.length"
	burstMem      = "system.memory.linux.available_ratio"
	burstIO       = "system.pressure.linux.stall_ratio{io,some}"
	burstBusy     = "system.disk.utilization{sda}"
	burstInFlight = "system.disk.pending_operations{sda}"
	burstReceive  = "system.network.utilization{eno1,receive}"
)

// sampled notes what a sample at the given time must have recorded.
func (w *burstWorld) sampled(at time.Duration) {
	passed := (at - w.since.at).Seconds()
	w.seen()
	add := func(key string, v float64) { w.want[key] = append(w.want[key], min(v, 1)) }
	add(burstUse, w.use())
	w.want[burstQueue] = append(w.want[burstQueue], float64(w.running-1))
	add(burstMem, float64(w.available)/burstTotal)
	w.want[burstInFlight] = append(w.want[burstInFlight], float64(w.inFlight))
	if w.stall >= w.since.stall {
		add(burstIO, float64(w.stall-w.since.stall)/1e6/passed)
	}
	if w.reads >= w.since.reads {
		add(burstBusy, float64(w.busy-w.since.busy)/1e3/passed)
	} else { // made anew: no sample
		w.want[burstInFlight] = w.want[burstInFlight][:len(w.want[burstInFlight])-1]
	}
	if w.rx >= w.since.rx {
		add(burstReceive, float64(w.rx-w.since.rx)/passed/125e6)
	}
	w.late += int((at-w.since.at+burstPeriod/2)/burstPeriod) - 1
	w.base(at)
}

// seen keeps the most that the processors showed, up to this reading.
func (w *burstWorld) seen() {
	for i := range w.cpus {
		c := &w.cpus[i]
		for mode, v := range c.ticks {
			if mode == 3 {
				v = max(v-c.back, 0)
			}
			c.high[mode] = max(c.high[mode], v)
		}
	}
}

// use returns the share of the ticks that were not idle, on processors that were online at both readings.
func (w *burstWorld) use() float64 {
	busy, all := 0, 0
	for i := range w.cpus {
		if !w.cpus[i].online || !w.since.cpus[i].online {
			continue
		}
		for mode := range 8 { // what guests got is in user and nice
			n := w.cpus[i].high[mode] - w.since.cpus[i].high[mode]
			if all += n; mode != 3 && mode != 4 {
				busy += n
			}
		}
	}
	return float64(busy) / float64(all)
}

func (w *burstWorld) base(at time.Duration) {
	w.since = burstBase{at, w.cpus, w.stall, w.busy, w.rx, w.reads}
}

// TestBurstAgainstBruteForce runs made-up hosts through hundreds of samples, some late, some too early.
func TestBurstAgainstBruteForce(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &burstWorld{rng: rand.New(rand.NewPCG(7, seed)), want: map[string][]float64{}}
			w.r = startBurst(t, copyOf(t, burstServer))
			for i := range w.cpus {
				w.cpus[i].online = true
			}
			w.live(time.Minute)
			w.write()
			w.r.step(0)
			w.seen()
			w.base(w.r.at)
			for range 200 {
				w.turn()
			}
			w.check(t)
		})
	}
}

// turn is one call of Collect.
func (w *burstWorld) turn() {
	passed := 150*time.Millisecond + time.Duration(w.rng.IntN(100))*time.Millisecond
	switch w.rng.IntN(10) {
	case 0:
		passed = time.Duration(1+w.rng.IntN(30)) * burstPeriod
	case 1:
		passed = time.Duration(20+w.rng.IntN(70)) * time.Millisecond // too early
	}
	w.live(passed)
	if w.r.at+passed-w.since.at >= burstPeriod/2 {
		w.accident()
		w.write()
		w.r.step(passed)
		w.sampled(w.r.at)
		return
	}
	w.write()
	w.r.step(passed)
}

// check compares the distributions with those of the lists.
func (w *burstWorld) check(t *testing.T) {
	p := takeBurst(w.r.snapshot)
	for key, list := range w.want {
		rng := burstShares()
		if key == burstQueue || key == burstInFlight {
			rng = metric.Range{MinExp: -1, MaxExp: 16}
		}
		name, attrs, _ := strings.Cut(key, "{")
		if attrs != "" {
			attrs = "{" + attrs
		}
		wantHist(t, key, p.hists[name+".distribution"+attrs], burstOf(rng, list))
	}
	wantSum(t, p, "slid.sample.missed{cpu}", float64(w.late))
	wantSum(t, p, "slid.sample.missed{memory}", float64(w.late))
}
