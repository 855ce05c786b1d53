package bpf

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openSoftIRQ(tb testing.TB, opts SoftIRQOptions) *SoftIRQ {
	tb.Helper()
	requireCapabilities(tb)
	s, err := NewSoftIRQ(&Kernel{}, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// softIRQTotals is what the probe counted of all kinds.
type softIRQTotals [SoftIRQKinds]SoftIRQCounts

func (s *SoftIRQ) mustRead(tb testing.TB) *softIRQTotals {
	tb.Helper()
	var t softIRQTotals
	for kind := range t {
		if err := s.Read(kind, &t[kind]); err != nil {
			tb.Fatal(err)
		}
	}
	return &t
}

// softIRQsOf reads what the kernel counted on a CPU of each kind: a column of /proc/softirqs.
func softIRQsOf(tb testing.TB, cpu int) (counts [SoftIRQKinds]uint64) {
	tb.Helper()
	text, err := os.ReadFile("/proc/softirqs")
	if err != nil {
		tb.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(string(text)), "\n")[1:]
	if len(rows) != SoftIRQKinds {
		tb.Fatalf("/proc/softirqs has %d rows, not %d", len(rows), SoftIRQKinds)
	}
	for i, row := range rows {
		counts[i] = spanNumber(tb, strings.Fields(row)[1+cpu])
	}
	return counts
}

// netRX is the number of the soft interrupt that takes packets (NET_RX_SOFTIRQ).
const netRX = 3

// sendToItself sends datagrams over the loopback interface from CPU 0 until until returns true. The kernel delivers
// each within the system call, as a soft interrupt of the same CPU.
func sendToItself(tb testing.TB, until func() bool) {
	tb.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
		done <- sendFromCPU0(until)
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

func sendFromCPU0(until func() bool) error {
	var set unix.CPUSet
	set.Set(0)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	self := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(fd, self); err != nil {
		return err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	var buf [64]byte
	for !until() {
		if err := unix.Sendto(fd, buf[:], 0, bound); err != nil {
			return err
		}
		if _, _, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT); err != nil && err != unix.EAGAIN {
			return err
		}
	}
	return nil
}

// Of each kind, the probe sees as many rounds of work as /proc/softirqs counts; each has a wait, or is counted as one
// without a known raise. Both sides are read one after the other, so the probe's growth lies between the least and the
// most that the kernel's can have been. A round that is under way at a reading is in the kernel's count already. In one
// of fifteen runs Linux 6.18 did not call the tracepoints for a few rounds of one kind (7 of 196), as it does not for a
// few switches (see TestRunQueueAgreesWithSchedstat).
func TestSoftIRQAgreesWithProcSoftirqs(t *testing.T) {
	s := openSoftIRQ(t, SoftIRQOptions{OnlyCPU: 1})
	begin := time.Now()
	before0 := softIRQsOf(t, 0)
	from, counts0 := s.mustRead(t), s.Counts()
	before1 := softIRQsOf(t, 0)
	sent := 0
	sendToItself(t, func() bool { sent++; return sent > 50000 })
	after0 := softIRQsOf(t, 0)
	to, counts1 := s.mustRead(t), s.Counts()
	after1 := softIRQsOf(t, 0)
	elapsed := uint64(time.Since(begin))

	var waits, works, most uint64
	for kind := range to {
		work := to[kind].Service.Count() - from[kind].Service.Count()
		wait := to[kind].Wait.Count() - from[kind].Wait.Count()
		low, high := after0[kind]-before1[kind], after1[kind]-before0[kind]
		t.Logf("kind %d: %d waits, %d rounds; the kernel counted %d to %d", kind, wait, work, low, high)
		if work+max(10, low/100) < low || work > high+1 {
			t.Errorf("kind %d: %d rounds, the kernel counted %d to %d", kind, work, low, high)
		}
		waits, works, most = waits+wait, works+work, most+high
	}
	unmatched := counts1.Unmatched - counts0.Unmatched
	t.Logf("%d of %d rounds without a known raise, missed: %v", unmatched, works, spanMissed(t, s.Probe))
	if waits+unmatched+1 < works || waits > most+1 {
		t.Errorf("%d waits and %d without a raise in %d rounds", waits, unmatched, works)
	}
	if unmatched > works/20 {
		t.Errorf("%d of %d rounds without a known raise", unmatched, works)
	}
	if counts1.Discarded != 0 || counts1.Lost != 0 {
		t.Errorf("discarded or lost some: %+v", counts1)
	}
	rounds := to[netRX].Service.Count() - from[netRX].Service.Count()
	if rounds < 25000 { // a busy CPU takes several at a time
		t.Errorf("%d rounds for 50000 datagrams that were sent one by one", rounds)
	}
	// One at a time waits, and one is at work: neither can take longer than the time that passed.
	for name, ns := range map[string]uint64{
		"wait": to[netRX].Wait.SumNs - from[netRX].Wait.SumNs, "service": to[netRX].Service.SumNs - from[netRX].Service.SumNs,
	} {
		t.Logf("%s of NET_RX %d ns in %d ns", name, ns, elapsed)
		if ns == 0 || ns > elapsed {
			t.Errorf("%s of NET_RX took %d ns in %d ns", name, ns, elapsed)
		}
	}
}

// softIRQTime reads the time of CPU 0 in soft interrupts from /proc/stat, in ns.
func softIRQTime(tb testing.TB) uint64 {
	tb.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "cpu0" {
			return spanNumber(tb, f[7]) * uint64(10*time.Millisecond) // USER_HZ is 100 everywhere
		}
	}
	tb.Fatal("/proc/stat has no cpu0")
	return 0
}

// The time at work is that of /proc/stat as far as its accounting goes: most kernels look once in a tick what the CPU is
// doing, and see what is shorter than that by chance.
func TestSoftIRQTimeAgreesWithProcStat(t *testing.T) {
	const least, most = uint64(500 * time.Millisecond), 30 * time.Second
	s := openSoftIRQ(t, SoftIRQOptions{OnlyCPU: 1})
	begin := time.Now()
	stat0, from := softIRQTime(t), s.mustRead(t)
	turn := 0
	sendToItself(t, func() bool {
		turn++
		return turn%10000 == 0 && (softIRQTime(t)-stat0 >= least || time.Since(begin) > most)
	})
	stat, to := softIRQTime(t)-stat0, s.mustRead(t)
	var ns uint64
	for kind := range to {
		ns += to[kind].Service.SumNs - from[kind].Service.SumNs
	}
	t.Logf("probe: %v, /proc/stat: %v, in %v", time.Duration(ns), time.Duration(stat), time.Since(begin))
	if stat < least {
		t.Skipf("/proc/stat tells of %v only in %v: too little to compare", time.Duration(stat), most)
	}
	if ns > 3*stat || stat > 3*ns {
		t.Errorf("%v at work, /proc/stat says %v", time.Duration(ns), time.Duration(stat))
	}
}

// What was raised before the programs were detached does not wait until they are attached again.
func TestSoftIRQForgetsWhenDetached(t *testing.T) {
	s := openSoftIRQ(t, SoftIRQOptions{})
	for range 3 {
		if err := s.Detach(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // the wait that must not show
		before := s.mustRead(t)
		begin := time.Now()
		if err := s.Attach(); err != nil {
			t.Fatal(err)
		}
		sent := 0
		sendToItself(t, func() bool { sent++; return sent > 1000 })
		elapsed := time.Since(begin)
		after := s.mustRead(t)
		for kind := range after {
			if ns := spanLongest(&after[kind].Wait, &before[kind].Wait); ns > elapsed {
				t.Errorf("kind %d: a wait of %v within %v", kind, ns, elapsed)
			}
		}
	}
}

// Sampled, the weights make up for what is left out.
func TestSoftIRQSamples(t *testing.T) {
	const datagrams = 60000
	s := openSoftIRQ(t, SoftIRQOptions{OnlyCPU: 1})
	if err := s.Sample(3); err != nil {
		t.Fatal(err)
	}
	from, counts0 := s.mustRead(t), s.Counts()
	kernel0 := softIRQsOf(t, 0)
	sent := 0
	sendToItself(t, func() bool { sent++; return sent > datagrams })
	to, counts1 := s.mustRead(t), s.Counts()
	rounds := softIRQsOf(t, 0)[netRX] - kernel0[netRX]
	for name, n := range map[string]uint64{
		"waits":  to[netRX].Wait.Count() - from[netRX].Wait.Count(),
		"rounds": to[netRX].Service.Count() - from[netRX].Service.Count(),
	} {
		t.Logf("%d %s, the kernel counted %d", n, name, rounds)
		if n%8 != 0 || !within(n, rounds, 0.15) { // 5 % would be three standard deviations
			t.Errorf("%d %s, the kernel counted %d", n, name, rounds)
		}
	}
	if counts1.Skipped == counts0.Skipped {
		t.Error("nothing was left out")
	}
}

func TestSoftIRQReadAllocatesNothing(t *testing.T) {
	s := openSoftIRQ(t, SoftIRQOptions{})
	var counts SoftIRQCounts
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Read(netRX, &counts), s.Counts() }); n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}

// BenchmarkSoftIRQ reports the kernel's own figure for one run of each program, and for one datagram.
func BenchmarkSoftIRQ(b *testing.B) {
	s := openSoftIRQ(b, SoftIRQOptions{})
	spanStats(b)
	sendToItself(b, func() bool { return !b.Loop() })
	spanReport(b, s.Probe)
}
