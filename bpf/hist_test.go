package bpf

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
	"github.com/slid-agent/slid/internal/metric"
)

// The limits of include/hist.h.
const (
	histZeroNS = 59
	histMaxNS  = 256e9
)

// loadHistTest loads the programs that run hist.h on given values.
func loadHistTest(tb testing.TB) *gen.HistTestObjects {
	tb.Helper()
	requireCapabilities(tb)
	var o gen.HistTestObjects
	if err := gen.LoadHistTestObjects(&o, nil); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { o.Close() })
	return &o
}

// runOn runs a program on a packet with ns behind the link-layer header.
func runOn(t *testing.T, p *ebpf.Program, packet []byte, ns uint64) int32 {
	t.Helper()
	binary.LittleEndian.PutUint64(packet[14:], ns)
	ret, err := p.Run(&ebpf.RunOptions{Data: packet})
	if err != nil {
		t.Fatal(err)
	}
	return int32(ret)
}

// histValues returns durations in ns: both sides of every bucket bound, the limits of the range, and random ones
// of all magnitudes.
func histValues(n int) []uint64 {
	values := []uint64{
		0, 1, 2, 58, 59, 60, 61, 255999999999, 256000000000, 256000000001, 1 << 40, 1 << 62, math.MaxInt64, math.MaxUint64,
	}
	first := int(metric.Durations.Offset())
	for i := -1; i < metric.Durations.Buckets(); i++ {
		bound := uint64(metric.UpperBound(first+i) * 1e9)
		for d := range uint64(7) {
			values = append(values, bound+d-3)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for len(values) < n {
		values = append(values, uint64(math.Exp2(rng.Float64()*39)))
	}
	return values
}

// The kernel puts every duration into the bucket that internal/metric puts it in, without exception.
func TestHistBucketsEqualMetricIndex(t *testing.T) {
	o := loadHistTest(t)
	packet := make([]byte, 64)
	values := histValues(12000)
	mismatches := 0
	for _, ns := range values {
		if ns <= histZeroNS || ns > histMaxNS {
			continue
		}
		got := int(runOn(t, o.HistTestBucket, packet, ns))
		want := metric.Index(float64(ns)/1e9) - int(metric.Durations.Offset())
		if got != want {
			mismatches++
			t.Errorf("%d ns: bucket %d in the kernel, %d in Go", ns, got, want)
		}
	}
	t.Logf("%d values, %d mismatches", len(values), mismatches)
}

// Both record functions count as the limits say: zero, overflow, sum and buckets.
func TestHistRecord(t *testing.T) {
	o := loadHistTest(t)
	packet := make([]byte, 64)
	var want gen.HistTestHist
	for _, ns := range histValues(4000) {
		if ret := runOn(t, o.HistTestRecord, packet, ns); ret != 0 {
			t.Fatalf("record %d ns: program returned %d", ns, ret)
		}
		recordAsMetric(&want, ns)
	}
	for key, name := range []string{"hist_record", "hist_record_atomic"} {
		var got gen.HistTestHist
		if err := o.HistTestHist.Lookup(uint32(key), &got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s: got %+v\nwant %+v", name, got, want)
		}
	}
}

// recordAsMetric counts a duration as metric.Hist would, with the sum in ns.
func recordAsMetric(h *gen.HistTestHist, ns uint64) {
	h.SumNs += ns
	seconds := float64(ns) / 1e9
	if seconds <= metric.Durations.ZeroThreshold() {
		h.Zero++
		return
	}
	i := metric.Index(seconds) - int(metric.Durations.Offset())
	if i >= len(h.Buckets) {
		i = len(h.Buckets) - 1
		h.Overflow++
	}
	h.Buckets[i]++
}

// BenchmarkHistRecord times the plain record function in the kernel, on durations of up to 4 s. The time includes the
// kernel's own for each repetition, some 30 ns.
func BenchmarkHistRecord(b *testing.B) {
	o := loadHistTest(b)
	packet := make([]byte, 64)
	b.ReportAllocs()
	const repeat = 10000
	for b.Loop() {
		if _, err := o.HistTestSpeed.Run(&ebpf.RunOptions{Data: packet, Repeat: repeat}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/repeat, "ns/record")
}
