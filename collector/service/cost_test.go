package service

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/pairtest"
	"github.com/slid-agent/slid/internal/testneed"
)

// A round is what one second of load showed.
type round struct {
	cpu        time.Duration // per request, of nginx and wrk
	throughput float64       // requests per second
}

// BenchmarkHTTPCost measures what the probe adds to nginx's smallest response, served over loopback to wrk: both ends
// pass the probe, so each request runs it four times. Rounds of one second come in pairs, with the probe and without,
// in random order within the pair; the figures are the median of the differences and its 95 % bootstrap interval.
// With "-bench HTTPCost -benchtime 40x" it takes two minutes.
func BenchmarkHTTPCost(b *testing.B) {
	testneed.Root(b, "to load BPF programs")
	n := startNginx(b, false)
	loadFor(b, n, "1s") // warm up
	var added, ratio []float64
	for b.Loop() {
		with, without := pairtest.Run(func(with bool) round { return measure(b, n, with) })
		added = append(added, float64((with.cpu-without.cpu).Nanoseconds())/1000)
		ratio = append(ratio, with.throughput/without.throughput)
	}
	pairtest.Report(b, added, "us-added/request")
	pairtest.Report(b, ratio, "throughput-ratio")
}

func measure(b *testing.B, n nginx, probed bool) round {
	if probed {
		mount, err := cgroup.Mount("/")
		if err != nil {
			b.Skip(err)
		}
		probe, err := bpf.NewHTTP(&bpf.Kernel{}, bpf.HTTPOptions{Cgroup: mount})
		if err != nil {
			b.Fatal(err)
		}
		defer probe.Close()
	}
	before := n.cpu(b)
	wrk, requests := loadFor(b, n, "1s")
	cpu := wrk + n.cpu(b) - before
	return round{cpu: cpu / time.Duration(requests), throughput: float64(requests)}
}

// loadFor runs wrk and returns its CPU time and the requests it made.
func loadFor(tb testing.TB, n nginx, duration string) (cpu time.Duration, requests int) {
	tb.Helper()
	cmd := exec.Command(testneed.Tool(tb, "wrk"), "-t1", "-c32", "-d"+duration, fmt.Sprintf("http://127.0.0.1:%d/", n.port))
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("wrk: %v\n%s", err, out)
	}
	before, _, found := strings.Cut(string(out), " requests in ")
	fields := strings.Fields(before)
	requests, err = strconv.Atoi(fields[len(fields)-1])
	if !found || err != nil {
		tb.Fatalf("wrk printed:\n%s", out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), requests
}

// cpu returns the CPU time of nginx's workers, from /proc/PID/schedstat.
func (n nginx) cpu(tb testing.TB) (total time.Duration) {
	tb.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", n.pid, n.pid))
	if err != nil {
		tb.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(children)) {
		stat, err := os.ReadFile("/proc/" + pid + "/schedstat")
		if err != nil {
			tb.Fatal(err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		total += time.Duration(ns)
	}
	return total
}
