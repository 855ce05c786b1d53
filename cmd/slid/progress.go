package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/internal/metric"
)

// progress is a line on stderr that is written over and erased in the end. Where nobody would see it, it is mute.
type progress struct {
	to    *os.File // nil: mute
	shown bool
}

func newProgress(f *os.File) *progress {
	if !interactive(f) {
		return &progress{}
	}
	return &progress{to: f}
}

func (p *progress) visible() bool { return p.to != nil }

// print replaces the line. What is wider than the terminal is cut: a line that wraps could not be erased.
func (p *progress) print(line string) {
	if p.to == nil {
		return
	}
	if w := width(p.to); w > 0 && len(line) >= w {
		line = line[:w-1] // ASCII
	}
	fmt.Fprint(p.to, "\r\x1b[K"+line)
	p.shown = true
}

// erase takes the line away.
func (p *progress) erase() {
	if p.shown {
		fmt.Fprint(p.to, "\r\x1b[K")
		p.shown = false
	}
}

// counts sums up the traffic since the first take.
type counts struct {
	snapshot  *metric.Snapshot
	first     bool
	responses int64 // at the first take
}

func newCounts(r *metric.Registry) *counts {
	return &counts{snapshot: r.NewSnapshot(metric.ClassService), first: true}
}

// take returns e.g. "3 services, 12,345 requests so far".
func (c *counts) take() string {
	c.snapshot.Take(time.Now())
	var services int
	var responses int64
	for _, rm := range c.snapshot.Resources {
		if name := attributeOf(rm.Resource, "service.name"); name == "" || name == "slid" {
			continue // the host and slid itself
		}
		if attributeOf(rm.Resource, "probe.target") != "" {
			continue // what slid asks is nobody's request
		}
		services++
		for _, m := range rm.ScopeMetrics[0].Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "http.server.response.count" {
				for i := range sum.DataPoints {
					responses += sum.DataPoints[i].Value
				}
			}
		}
	}
	if c.first {
		c.first, c.responses = false, responses
	}
	// A service that went takes its requests along.
	return plural(services, "service") + ", " + plural(int(max(responses-c.responses, 0)), "request") + " so far"
}

// plural returns "1 service", "12,345 services".
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return thousands(n) + " " + what
}

// thousands writes a number that is not negative with a comma before each three digits.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
