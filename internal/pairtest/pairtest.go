// Package pairtest compares two conditions on a machine that others use at the same time: they are measured by turns, in
// random order within each pair, and the figures are the median over the pairs and its 95 % bootstrap interval.
package pairtest

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Run calls measure with true and with false, in random order, and returns what it returned for each.
func Run[T any](measure func(with bool) T) (with, without T) {
	if rand.IntN(2) == 0 {
		with = measure(true)
		return with, measure(false)
	}
	without = measure(false)
	return measure(true), without
}

// Report adds a metric, the median of the values, and its interval as two more.
func Report(b *testing.B, values []float64, unit string) {
	low, high := bootstrap(values)
	b.ReportMetric(median(values), unit)
	b.ReportMetric(low, unit+"-low")
	b.ReportMetric(high, unit+"-high")
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// bootstrap returns the 95 % interval of the median: its spread over samples drawn anew from the values.
func bootstrap(values []float64) (low, high float64) {
	random := rand.New(rand.NewPCG(1, 2))
	medians := make([]float64, 2000)
	sample := make([]float64, len(values))
	for i := range medians {
		for j := range sample {
			sample[j] = values[random.IntN(len(values))]
		}
		medians[i] = median(sample)
	}
	slices.Sort(medians)
	return medians[len(medians)/40], medians[len(medians)-1-len(medians)/40]
}
