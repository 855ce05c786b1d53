package host

import (
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/testneed"
)

// burstLive samples this machine n times in real time; after is called right after each sample.
func burstLive(t *testing.T, env collector.Env, n int, after func(i int)) (*rig, burstPoints) {
	t.Helper()
	r := start(t, env, NewBurst)
	ticker := time.NewTicker(burstPeriod)
	defer ticker.Stop()
	for i := range n {
		now := <-ticker.C
		if err := r.Collect(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		r.env.Metrics.Collected(now)
		after(i)
	}
	return r, takeBurst(r.snapshot)
}

// TestBurstOfTheProcessors fills all processors for 300 ms of 10 s: the distribution shows that they were full,
// which the average of gopsutil over the same 10 s hides.
func TestBurstOfTheProcessors(t *testing.T) {
	if testing.Short() {
		t.Skip("needs 10 s: run without -short")
	}
	const samples, length = 50, 300 * time.Millisecond
	before := burstTimes(t)
	_, p := burstLive(t, envAt("/"), samples, func(i int) {
		if i == 20 {
			fillProcessors(t, length)
		}
	})
	after := burstTimes(t)
	average := 1 - (after.Idle+after.Iowait-before.Idle-before.Iowait)/(burstSum(after)-burstSum(before))
	h := p.hists["system.cpu.utilization.distribution"]
	t.Logf("average by gopsutil %.3f; distribution: mean %.3f p50 %.3f p99 %.3f max %.3f, above 90 %% for %v s",
		average, h.mean(), h.quantile(0.5), h.quantile(0.99), h.quantile(1), p.sums["system.cpu.saturated_time"])
	if average > 0.6 {
		t.Skipf("needs a machine that is not busy: the average was %.0f %%", 100*average)
	}
	if h.quantile(1) < 0.9 || p.sums["system.cpu.saturated_time"] < 0.15 {
		t.Errorf("no sample shows the burst: max %v, %v s above 90 %%", h.quantile(1), p.sums["system.cpu.saturated_time"])
	}
	if math.Abs(h.mean()-average) > 0.15 {
		t.Errorf("mean of the distribution %.3f, by gopsutil %.3f", h.mean(), average)
	}
}

func burstTimes(t *testing.T) cpu.TimesStat {
	t.Helper()
	list, err := cpu.Times(false)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	return list[0]
}

// burstSum is all that passed: guests are in user and nice.
func burstSum(t cpu.TimesStat) float64 {
	return t.User + t.Nice + t.System + t.Idle + t.Iowait + t.Irq + t.Softirq + t.Steal
}

// fillProcessors keeps each processor busy for a time, in the background, with a thread that stays on it.
func fillProcessors(t *testing.T, length time.Duration) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(length)
	for i := range len(set) * 64 {
		if !set.IsSet(i) {
			continue
		}
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its affinity
			var one unix.CPUSet
			one.Set(i)
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				t.Error(err)
			}
			for time.Now().Before(end) {
				continue
			}
		}()
	}
}

// TestBurstOfADisk keeps a disk busy for 400 ms of 3 s and compares each sample with what gopsutil reads from
// /proc/diskstats at the same moments.
func TestBurstOfADisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Skip("needs a file system with direct I/O: ", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var read []map[string]disk.IOCountersStat
	var stamps []time.Time
	var writing atomic.Bool
	done := make(chan struct{})
	_, p := burstLive(t, envAt("/"), 15, func(i int) {
		counters, err := disk.IOCounters()
		if err != nil {
			t.Fatal(err)
		}
		read, stamps = append(read, counters), append(stamps, time.Now())
		if i == 5 {
			writing.Store(true)
			go func() {
				defer close(done)
				keepWriting(t, fd, &writing)
			}()
		}
		if i == 7 {
			writing.Store(false)
		}
	})
	<-done
	compared := 0
	for key, h := range p.hists {
		name, ok := strings.CutPrefix(key, "system.disk.utilization.distribution{")
		if !ok || h.Count != uint64(len(read)-1) {
			continue
		}
		compared++
		name = strings.TrimSuffix(name, "}")
		var shares []float64
		for i := 1; i < len(read); i++ {
			busy := float64(read[i][name].IoTime-read[i-1][name].IoTime) / 1e3
			shares = append(shares, busy/stamps[i].Sub(stamps[i-1]).Seconds())
		}
		wantBusy(t, name, h, shares)
	}
	if compared == 0 {
		t.Skip("needs a temporary directory on a physical disk")
	}
}

// wantBusy compares the busy shares of a disk with those that gopsutil gives: read a moment later, in other windows.
func wantBusy(t *testing.T, name string, h burstHist, shares []float64) {
	t.Helper()
	most, mean := 0.0, 0.0
	for _, v := range shares {
		most, mean = max(most, v), mean+v/float64(len(shares))
	}
	t.Logf("%s: mean %.3f max %.3f; by gopsutil %.3f and %.3f", name, h.mean(), h.quantile(1), mean, most)
	if math.Abs(h.mean()-mean) > 0.1 || h.quantile(1) < 0.8*min(most, 1)-0.1 || h.quantile(1) > 1.1*most+0.1 {
		t.Errorf("%s: mean %.3f max %.3f; by gopsutil %.3f and %.3f", name, h.mean(), h.quantile(1), mean, most)
	}
}

// keepWriting writes blocks to the disk itself, one at a time.
func keepWriting(t *testing.T, fd int, on *atomic.Bool) {
	const size = 1 << 16
	block, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = unix.Munmap(block) }()
	for i := int64(0); on.Load(); i++ {
		if _, err := unix.Pwrite(fd, block, i%16*size); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestBurstOfALine sends for 300 ms of 3 s what a line of 100 Mbit/s cannot carry. The counters are the kernel's,
// of lo in a network namespace of the test's own; that it is a physical interface of that speed is made up.
func TestBurstOfALine(t *testing.T) {
	testneed.Root(t, "to make a network namespace")
	env := envAt(t.TempDir())
	r := &rig{t: t, env: env}
	for _, tree := range []string{"proc/stat", "proc/meminfo"} {
		r.write(tree, string(readTree(t, burstServer, tree)))
	}
	r.write("sys/block/README", "none")
	r.write("sys/class/net/eth9/device/uevent", "")
	r.write("sys/class/net/eth9/speed", "100\n")
	mount := filepath.Join(env.Root, "mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(mount, "class/net/lo/statistics"), filepath.Join(env.Sys, "class/net/eth9/statistics")); err != nil {
		t.Fatal(err)
	}
	var p burstPoints
	done := make(chan struct{})
	go func() { // a failed step ends the goroutine, so done is deferred
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespaces with it
		ownNetwork(t, mount)
		send, receive := burstSockets(t)
		defer func() { _, _ = send.Close(), receive.Close() }()
		_, p = burstLive(t, env, 15, func(i int) {
			if i == 5 {
				go keepSending(send, 300*time.Millisecond)
			}
		})
	}()
	<-done
	if t.Failed() || t.Skipped() {
		return
	}
	h := p.hists["system.network.utilization.distribution{eth9,receive}"]
	t.Logf("mean %.3f max %.3f, above 90 %% for %v s", h.mean(), h.quantile(1),
		p.sums["system.network.saturated_time{eth9,receive}"])
	if h.Count != 9 || h.quantile(1) < 0.9 || h.quantile(0.5) > 0.1 || h.mean() > 0.4 {
		t.Errorf("%+v: the burst does not show", h)
	}
}

// ownNetwork moves the thread to a network namespace with nothing but lo and shows its /sys at mount.
func ownNetwork(t *testing.T, mount string) {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Skip("needs CAP_SYS_ADMIN to make a network namespace: ", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sysfs", mount, "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		t.Fatal(err)
	}
}

// burstSockets returns two ends over lo of the thread's network.
func burstSockets(t *testing.T) (send, receive net.Conn) {
	t.Helper()
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	from, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	return from, to
}

// keepSending sends for a time; nobody reads, so the kernel drops what does not fit, after counting it.
func keepSending(to net.Conn, length time.Duration) {
	datagram := make([]byte, 32<<10)
	for end := time.Now().Add(length); time.Now().Before(end); {
		_, _ = to.Write(datagram)
	}
}

// BenchmarkBurst measures one sample of everything on this machine: one after the other, and in step with the
// lane, where each finds the caches cold and pays for being woken. cpu-ns/op is user and system time of the process.
func BenchmarkBurst(b *testing.B) {
	sample := func(b *testing.B, pause time.Duration, env collector.Env) {
		at := time.Duration(0)
		r := start(b, env, func(env collector.Env) (collector.Collector, error) {
			return newBurst(env, func() time.Duration { at += burstPeriod / 16; return at })
		})
		ctx := b.Context()
		b.ReportAllocs()
		before, n := cpuTime(b), 0
		for b.Loop() {
			time.Sleep(pause)
			at += burstPeriod
			if err := r.Collect(ctx, tick0); err != nil {
				b.Fatal(err)
			}
			n++
		}
		each := float64(cpuTime(b)-before) / float64(n)
		b.ReportMetric(each, "cpu-ns/op")
		b.ReportMetric(100*each/float64(burstPeriod), "%core-at-5Hz")
	}
	b.Run("live", func(b *testing.B) { sample(b, 0, envAt("/")) })
	b.Run("paced", func(b *testing.B) { sample(b, burstPeriod, envAt("/")) })
	b.Run("server", func(b *testing.B) { sample(b, 0, copyOf(b, burstServer)) })
	for _, source := range burstSources(envAt("/"), nil) {
		b.Run("only/"+source.name, func(b *testing.B) { burstSourceAlone(b, source.name) })
	}
}

// burstSourceAlone measures one source.
func burstSourceAlone(b *testing.B, name string) {
	at := time.Duration(0)
	r := start(b, envAt("/"), func(env collector.Env) (collector.Collector, error) {
		return newBurst(env, func() time.Duration { at += burstPeriod / 16; return at })
	})
	for _, s := range r.Collector.(*Burst).sources {
		if s.name != name || s.sampler == nil {
			continue
		}
		before, n := cpuTime(b), 0
		for b.Loop() {
			if _, err := s.sampler.sample(tick0); err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.ReportMetric(float64(cpuTime(b)-before)/float64(n), "cpu-ns/op")
	}
}
