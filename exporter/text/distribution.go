package text

import (
	"math"
	"slices"

	"github.com/slid-agent/slid/internal/metric"
)

// distribution is a base-2 exponential histogram of metric.Scale, as metric.Snapshot has them: counts[i] values lie
// in the bucket with the OpenTelemetry index offset+i.
type distribution struct {
	zero   uint64
	offset int
	counts []uint64
	sum    float64 // of all values
}

// count returns the number of all values.
func (d distribution) count() uint64 {
	n := d.zero
	for _, c := range d.counts {
		n += c
	}
	return n
}

// at returns the count of the bucket with the given OpenTelemetry index.
func (d distribution) at(index int) uint64 {
	if i := index - d.offset; i >= 0 && i < len(d.counts) {
		return d.counts[i]
	}
	return 0
}

// within says whether no bucket of d has more than the same bucket of other.
func (d distribution) within(other distribution) bool {
	if d.zero > other.zero {
		return false
	}
	for i, c := range d.counts {
		if c > other.at(d.offset+i) {
			return false
		}
	}
	return true
}

// minus returns d without the values of other, which must be within d.
func (d distribution) minus(other distribution) distribution {
	rest := distribution{
		zero: d.zero - other.zero, offset: d.offset, counts: make([]uint64, len(d.counts)), sum: max(d.sum-other.sum, 0),
	}
	for i, c := range d.counts {
		rest.counts[i] = c - other.at(d.offset+i)
	}
	return rest
}

// plus returns the values of both.
func (d distribution) plus(other distribution) distribution {
	if len(d.counts) == 0 {
		return distribution{d.zero + other.zero, other.offset, other.counts, d.sum + other.sum}
	}
	if len(other.counts) == 0 {
		return distribution{d.zero + other.zero, d.offset, d.counts, d.sum + other.sum}
	}
	first := min(d.offset, other.offset)
	end := max(d.offset+len(d.counts), other.offset+len(other.counts))
	both := distribution{
		zero: d.zero + other.zero, offset: first, counts: make([]uint64, end-first), sum: d.sum + other.sum,
	}
	for i := range both.counts {
		both.counts[i] = d.at(first+i) + other.at(first+i)
	}
	return both
}

// quantile estimates the q-quantile, 0 < q <= 1: the value of rank ceil(q*n) among the n sorted values. Its bucket
// is exact. Inside the bucket the values are taken to lie evenly on a logarithmic scale, each in the middle of its
// share, so the estimate is off by less than the width of a bucket: 9.05 %. A quantile among the zeros is 0.
// It is NaN if there is no value.
func (d distribution) quantile(q float64) float64 {
	n := d.count()
	if n == 0 {
		return math.NaN()
	}
	rank := max(uint64(math.Ceil(q*float64(n))), 1)
	before := d.zero
	if rank <= before {
		return 0
	}
	for i, c := range d.counts {
		if rank > before+c {
			before += c
			continue
		}
		low, high := metric.UpperBound(d.offset+i-1), metric.UpperBound(d.offset+i)
		share := (float64(rank-before) - 0.5) / float64(c)
		return low * math.Pow(high/low, share)
	}
	return d.top() // rounding of q*n above 2^53 values
}

// top returns the upper bound of the highest bucket in use, or 0 if only zeros are.
func (d distribution) top() float64 {
	for i, c := range slices.Backward(d.counts) {
		if c > 0 {
			return metric.UpperBound(d.offset + i)
		}
	}
	return 0
}

// octaves returns the counts between powers of two, from the lowest in use to the highest, without the zeros.
func (d distribution) octaves() []Bucket {
	var list []Bucket
	for i, c := range d.counts {
		le := math.Ldexp(1, (d.offset+i)>>metric.Scale+1)
		for len(list) > 0 && list[len(list)-1].LE < le {
			list = append(list, Bucket{LE: 2 * list[len(list)-1].LE})
		}
		switch {
		case len(list) > 0:
			list[len(list)-1].Count += int64(c)
		case c > 0:
			list = append(list, Bucket{LE: le, Count: int64(c)})
		}
	}
	for len(list) > 0 && list[len(list)-1].Count == 0 {
		list = list[:len(list)-1]
	}
	return list
}

// quantiles returns the usual three, or nil if there is no value.
func (d distribution) quantiles() *Quantiles {
	if d.count() == 0 {
		return nil
	}
	return &Quantiles{P50: round(d.quantile(0.5)), P90: round(d.quantile(0.9)), P99: round(d.quantile(0.99))}
}
