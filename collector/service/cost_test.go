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
	"github.com/slid-agent/slid/internal/slo"
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
// With "-bench HTTPCost/alone -benchtime 40x" it takes two minutes. The pairs of the other sub-benchmarks are the probe with
// something and without: five objectives of nginx with four routes, and 199 other services with one and 20; and nginx
// counted by four routes.
func BenchmarkHTTPCost(b *testing.B) {
	testneed.Root(b, "to load BPF programs")
	n := startNginx(b, false)
	loadFor(b, n, "1s") // warm up
	b.Run("alone", func(b *testing.B) {
		comparePairs(b, func(with bool) round { return measure(b, n, with, nil) })
	})
	objectives := objectivesOf(b, manyIndicators(b)...).sets(map[bpf.HTTPEndpoint]uint32{{Port: uint32(n.port)}: bpf.HTTPFirstSet})
	b.Run("objectives", func(b *testing.B) {
		comparePairs(b, func(with bool) round {
			if !with {
				return measure(b, n, true, nil)
			}
			return measure(b, n, true, objectives)
		})
	})
	routes := routesOf(b, "tested", "/", "/pay/", "/pay/card/", "/cart/").sets(map[bpf.HTTPEndpoint]uint32{{Port: uint32(n.port)}: bpf.HTTPFirstSet})
	b.Run("routes", func(b *testing.B) {
		comparePairs(b, func(with bool) round {
			if !with {
				return measure(b, n, true, nil)
			}
			return measure(b, n, true, routes)
		})
	})
}

// manyIndicators returns five of the service "tested", and one for each of 199 others.
func manyIndicators(tb testing.TB) []slo.Indicator {
	const good = "status < 500 && duration <= 100ms"
	list := []slo.Indicator{
		indicator(tb, "all", "", good, ""),
		indicator(tb, "root", "/", good, ""),
		indicator(tb, "pay", "/pay/", good, ""),
		indicator(tb, "card", "/pay/card/", good, `route == "/pay/card/health"`),
		indicator(tb, "errors", "", "status < 500", "status == 404"),
	}
	for n := range 199 {
		var routes []string
		for k := range 20 {
			routes = append(routes, fmt.Sprintf(`"/api/v%d/"`, k))
		}
		i := indicator(tb, fmt.Sprint("other-", n), "", good+" && route in ["+strings.Join(routes, ", ")+"]", "")
		i.Select.Service = fmt.Sprint("other-", n)
		list = append(list, i)
	}
	return list
}

// TestMemoryOfObjectives bounds what 204 objectives of 200 services take of the kernel's memory.
func TestMemoryOfObjectives(t *testing.T) {
	testneed.Root(t, "to load BPF programs")
	mount := cgroupMount(t)
	memory := func(o *bpf.HTTPSets) uint64 {
		probe, err := bpf.NewHTTP(&bpf.Kernel{}, bpf.HTTPOptions{Cgroup: mount, Sets: o})
		if err != nil {
			t.Fatal(err)
		}
		defer probe.Close()
		return probe.Memory()
	}
	without := memory(nil)
	with := memory(objectivesOf(t, manyIndicators(t)...).sets(nil))
	if more := with - without; more > 2<<20 {
		t.Errorf("objectives take %d KiB", more>>10)
	}
	t.Logf("%d KiB without objectives, %d KiB with", without>>10, with>>10)
}

// comparePairs runs pairs of rounds and reports what is different with.
func comparePairs(b *testing.B, measure func(with bool) round) {
	b.Helper()
	var added, ratio []float64
	for b.Loop() {
		with, without := pairtest.Run(measure)
		added = append(added, float64((with.cpu-without.cpu).Nanoseconds())/1000)
		ratio = append(ratio, with.throughput/without.throughput)
	}
	pairtest.Report(b, added, "us-added/request")
	pairtest.Report(b, ratio, "throughput-ratio")
}

func measure(b *testing.B, n nginx, probed bool, objectives *bpf.HTTPSets) round {
	if probed {
		mount, err := cgroup.Mount("/")
		if err != nil {
			b.Skip(err)
		}
		probe, err := bpf.NewHTTP(&bpf.Kernel{}, bpf.HTTPOptions{Cgroup: mount, Sets: objectives})
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
