package metric

import (
	"math"
	"math/big"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"pgregory.net/rapid"
)

// indexAt returns the bucket of v at a scale by the definition of OpenTelemetry's data model alone, in exact arithmetic:
// the i with 2^(i/2^scale) < v <= 2^((i+1)/2^scale), that is 2^i < v^(2^scale) <= 2^(i+1).
func indexAt(v float64, scale int) int {
	power := new(big.Float).SetPrec(4096).SetFloat64(v)
	for range scale {
		power.Mul(power, power)
	}
	mantissa := new(big.Float)
	exp := power.MantExp(mantissa) // power = mantissa * 2^exp, 0.5 <= mantissa < 1
	if mantissa.Cmp(big.NewFloat(0.5)) == 0 {
		exp-- // a power of two is the upper bound of its bucket
	}
	return exp - 1
}

// histOf returns the buckets that a histogram of the values is exported with.
func histOf(values []float64) metricdata.ExponentialHistogramDataPoint[float64] {
	r := NewRegistry(instrumentation.Scope{Name: "test"})
	g := r.Group("test", ClassLatency, 1)
	h := g.Histogram(Desc{Name: "x", Unit: "s"}).With(g.Entity(resource.Empty(), time.Unix(1, 0)))
	for _, v := range values {
		h.Record(v)
	}
	g.Collected(time.Unix(2, 0))
	s := r.NewSnapshot()
	s.Take(time.Unix(2, 0))
	return s.Resources[0].ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints[0]
}

// bucketsOf returns the counts of a point by index at a scale that is no finer than its own: each step to a coarser scale
// puts two neighbours together (OpenTelemetry data model, "Exponential Scale").
func bucketsOf(p metricdata.ExponentialHistogramDataPoint[float64], scale int) map[int]uint64 {
	counts := map[int]uint64{}
	for i, n := range p.PositiveBucket.Counts {
		if n > 0 {
			counts[(int(p.PositiveBucket.Offset)+i)>>(Scale-scale)] += n
		}
	}
	return counts
}

func equal(a, b map[int]uint64) bool {
	for i, n := range a {
		if b[i] != n {
			return false
		}
	}
	return len(a) == len(b)
}

// Durations of all magnitudes, and those at the very bounds of buckets.
func durations(t *rapid.T, label string) []float64 {
	one := rapid.OneOf(
		rapid.Map(rapid.Float64Range(-23.9, 7.9), math.Exp2),
		rapid.Map(rapid.IntRange(-190, 62), UpperBound),
		rapid.Map(rapid.IntRange(-190, 62), func(i int) float64 { return math.Nextafter(UpperBound(i), math.Inf(1)) }),
	)
	return rapid.SliceOfN(one, 1, 50).Draw(t, label)
}

// Adding up two hosts' histograms bucket by bucket gives the histogram of all their values, and a coarser histogram made of a
// fine one is the one that the values themselves make at that scale: nothing is lost by either.
func TestMergingAndDownscalingLoseNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := durations(t, "a"), durations(t, "b")
		both := append(append([]float64{}, a...), b...)
		pa, pb, pBoth := histOf(a), histOf(b), histOf(both)
		for scale := Scale; scale >= -4; scale-- {
			merged := bucketsOf(pa, scale)
			for i, n := range bucketsOf(pb, scale) {
				merged[i] += n
			}
			direct := map[int]uint64{}
			for _, v := range both {
				direct[coarse(v, scale)]++
			}
			if !equal(merged, direct) || !equal(merged, bucketsOf(pBoth, scale)) {
				t.Fatalf("scale %d: merged %v, directly %v", scale, merged, direct)
			}
		}
		if pa.Count+pb.Count != pBoth.Count {
			t.Errorf("%d and %d values, together %d", pa.Count, pb.Count, pBoth.Count)
		}
	})
}

// coarse is indexAt for scales that may be negative: there a bucket is several octaves.
func coarse(v float64, scale int) int {
	if scale >= 0 {
		return indexAt(v, scale)
	}
	return indexAt(v, 0) >> -scale
}
