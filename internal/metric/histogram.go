package metric

import (
	"fmt"
	"math"
	"sync"

	"go.opentelemetry.io/otel/attribute"
)

// Scale is the scale of every histogram: 2^Scale buckets to a doubling, each 9.05 % wide.
const Scale = 3

// perOctave is the number of buckets between a power of two and the next.
const perOctave = 1 << Scale

// A Range bounds the buckets of a histogram: values in (2^MinExp, 2^MaxExp] are told apart. Smaller values count as
// zero (OpenTelemetry's zero threshold), larger ones into the last bucket, where Hist.Overflowed counts them.
type Range struct{ MinExp, MaxExp int }

// Durations is the range of latencies in seconds: 60 ns (2^-24 s) to 256 s (2^8 s). The kernel's histograms have
// the same 256 buckets (bpf/include/hist.h).
var Durations = Range{MinExp: -24, MaxExp: 8}

// Buckets returns the number of buckets of the range.
func (r Range) Buckets() int { return (r.MaxExp - r.MinExp) * perOctave }

// Offset returns the OpenTelemetry index of the first bucket.
func (r Range) Offset() int32 { return int32(r.MinExp * perOctave) }

// ZeroThreshold returns the largest value that counts as zero.
func (r Range) ZeroThreshold() float64 { return math.Ldexp(1, r.MinExp) }

// mantissaBounds holds the fraction bits of the largest float64 not above 2^(k/8), k = 1..7: within a doubling,
// bucket k-1 ends there. The bounds are irrational, so no float64 lies on one.
var mantissaBounds = func() (b [perOctave - 1]uint64) {
	for k := range b {
		b[k] = math.Float64bits(roots[k]) & fractionMask
	}
	return b
}()

const fractionMask = 1<<52 - 1

// roots are the largest float64 values not above 2^(k/8), k = 1..7; the test proves each with math/big.
var roots = [perOctave - 1]float64{
	0x1.172b83c7d517ap+0,
	0x1.306fe0a31b715p+0,
	0x1.4bfdad5362a27p+0,
	0x1.6a09e667f3bccp+0,
	0x1.8ace5422aa0dbp+0,
	0x1.ae89f995ad3adp+0,
	0x1.d5818dcfba487p+0,
}

// Index returns the OpenTelemetry bucket index of v at scale 3: the i with 2^(i/8) < v <= 2^((i+1)/8), exact for
// every positive normal float64.
func Index(v float64) int {
	bits := math.Float64bits(v)
	exp := int(bits>>52&0x7ff) - 1023
	fraction := bits & fractionMask
	if fraction == 0 { // a power of two is the upper bound of the bucket below
		return exp*perOctave - 1
	}
	// Three comparisons find the bucket among eight.
	k := 0
	for step := perOctave / 2; step > 0; step /= 2 {
		if fraction > mantissaBounds[k+step-1] {
			k += step
		}
	}
	return exp*perOctave + k
}

// UpperBound returns the inclusive upper bound of the bucket with the given OpenTelemetry index.
func UpperBound(index int) float64 {
	octave, k := (index+1)>>Scale, (index+1)&(perOctave-1)
	if k == 0 {
		return math.Ldexp(1, octave)
	}
	return math.Ldexp(roots[k-1], octave)
}

// A HistogramFamily is a declared histogram.
type HistogramFamily struct{ family *family }

// Histogram declares a histogram; its values have the unit of the Desc.
func (g *Group) Histogram(d Desc) HistogramFamily {
	if d.Range == (Range{}) {
		d.Range = Durations
	}
	d.Kind = Histogram
	return HistogramFamily{g.declare(d)}
}

// With returns the register of the series with the given attributes. Calling it again with equal attributes
// returns the same register.
func (f HistogramFamily) With(e *Entity, attrs ...attribute.KeyValue) *Hist {
	return add(e, f.family, attrs, &Hist{
		rng:     f.family.desc.Range,
		buckets: make([]uint64, f.family.desc.Range.Buckets()),
	})
}

// A Hist is the register of one exponential histogram. It may be written and read concurrently.
type Hist struct {
	register
	rng Range

	mu       sync.Mutex // guards the fields below, so that a snapshot sees sum and buckets of one moment
	zero     uint64
	overflow uint64
	sum      float64
	buckets  []uint64
}

// Record counts one value. NaN is ignored; negative values count as zero.
func (h *Hist) Record(v float64) { h.RecordN(v, 1) }

// RecordN counts a value n times.
func (h *Hist) RecordN(v float64, n uint64) {
	if v != v {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if v <= h.rng.ZeroThreshold() {
		h.zero += n
		h.sum += max(v, 0) * float64(n)
		return
	}
	i := Index(v) - int(h.rng.Offset())
	if i >= len(h.buckets) {
		i = len(h.buckets) - 1
		h.overflow += n
	}
	h.buckets[i] += n
	h.sum += v * float64(n)
}

// Load stores a whole histogram that is kept elsewhere (by the kernel): zero, overflow and sum are totals, and
// buckets is called for each bucket i of the range, from the smallest values up. It allocates nothing.
func (h *Hist) Load(zero, overflow uint64, sum float64, bucket func(i int) uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.zero, h.overflow, h.sum = zero, overflow, sum
	for i := range h.buckets {
		h.buckets[i] = bucket(i)
	}
}

// Overflowed returns how many values were larger than the range and stand in the last bucket.
func (h *Hist) Overflowed() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.overflow
}

// copyInto appends the buckets from the first to the last that is not empty to dst and returns them with the
// OpenTelemetry index of the first, the total count, the count of zeros and the sum.
func (h *Hist) copyInto(dst []uint64) (counts []uint64, offset int32, count, zero uint64, sum float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first, last := -1, -1
	count = h.zero
	for i, n := range h.buckets {
		if n == 0 {
			continue
		}
		if first < 0 {
			first = i
		}
		last = i
		count += n
	}
	if first < 0 {
		return dst[:0], 0, count, h.zero, h.sum
	}
	return append(dst[:0], h.buckets[first:last+1]...), h.rng.Offset() + int32(first), count, h.zero, h.sum
}

// String returns the bounds of the range.
func (r Range) String() string { return fmt.Sprintf("(2^%d, 2^%d]", r.MinExp, r.MaxExp) }
