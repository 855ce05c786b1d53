package slo

import (
	"testing"
	"time"
)

// TestSlicesThatEnded counts slices by how they ended: each minute of a log is written down, and the tracker agrees.
func TestSlicesThatEnded(t *testing.T) {
	o := Objective{
		Target: 0.99, Method: Timeslices, Slice: time.Minute, SliceTarget: 0.9, Window: Window{Span: Span{30, Day}},
		Members: []Member{{Target: 0.99, Weight: 1}},
	}
	tr := NewTracker(o)
	start := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, minute := range []struct {
		begins    time.Duration
		good, bad uint64
		want      Slices // that ended before
	}{
		{0, 10, 0, Slices{}},
		{1, 9, 1, Slices{Good: 1}},
		{2, 8, 2, Slices{Good: 2}},
		{3, 0, 0, Slices{Good: 2, Bad: 1}},
		{4, 0, 1, Slices{Good: 2, Bad: 1, NoData: 1}},
		{9, 1, 0, Slices{Good: 2, Bad: 2, NoData: 5}}, // the host slept for four minutes
		{10, 1, 0, Slices{Good: 3, Bad: 2, NoData: 5}},
	} {
		for _, second := range []time.Duration{10, 40} {
			c := Counts{Measured: 30 * time.Second}
			if second == 10 {
				c.Good, c.Bad = minute.good, minute.bad
			}
			tr.Add(start.Add(minute.begins*time.Minute+second*time.Second), []Counts{c})
		}
		if got := tr.Slices(); got != minute.want {
			t.Errorf("in minute %d: %+v, want %+v", minute.begins, got, minute.want)
		}
	}
}
