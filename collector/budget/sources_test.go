package budget

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/sli"
	"github.com/slid-agent/slid/internal/slo"
)

// TestWhatCannotBeToldIsNotMeasured: of two indicators of one collector, one cannot be told for a while. That time is not
// measured for it, what is lost makes it unknown, and what comes afterwards counts in full.
func TestWhatCannotBeToldIsNotMeasured(t *testing.T) {
	b := newBench(t, promise("scraped", "shop"), promise("runs", "shop"))
	group := b.registry.Group("service/scrape", metric.ClassService, 100)
	families := sli.Declare(group, sli.Declaration{Source: slo.ScrapeSource, Reasons: []string{"timeout"}})
	scraped := families.Of("scraped", "shop", resource.Empty(), b.wall)
	runs := families.Of("runs", "shop", resource.Empty(), b.wall)
	sum, failed := uint64(0), uint64(0)
	tick := func(answers bool) {
		b.pass(10 * time.Second)
		if answers {
			sum += 100
			scraped.Begin(b.wall.Add(-10 * time.Second))
			scraped.Store(sum, 0, b.wall)
			scraped.Cover(1)
		} else {
			failed++
			scraped.StoreLost(0, failed, b.wall)
			scraped.Cover(0)
		}
		runs.Add(true, b.wall)
		group.Collected(b.wall)
		b.evaluate()
	}
	tick(false)
	if s := b.status(0); s.Counts.Measured != 0 || s.State != slo.Unknown {
		t.Errorf("before any answer: %+v", s)
	}
	for range 6 {
		tick(true)
	}
	if c := b.status(0).Counts; c.Good != 600 || c.Bad != 0 || c.Measured != time.Minute || c.Missed != 1 {
		t.Errorf("a minute of answers: %+v", c)
	}
	for range 30 {
		tick(false)
	}
	c := b.status(0).Counts
	if c.Good != 600 || c.Measured != time.Minute || c.Missed != 31 {
		t.Errorf("after five minutes without: %+v", c)
	}
	if s := b.status(0); s.State != slo.Unknown {
		t.Errorf("31 lost of 631 are understood: %+v", s)
	}
	if other := b.status(1); other.Counts.Good != 37 || other.Counts.Measured < 6*time.Minute || other.State != slo.OK {
		t.Errorf("the other one: %+v", other)
	}
	sum += 3000 // what the service served meanwhile
	tick(true)
	if c := b.status(0).Counts; c.Good != 3700 || c.Measured != time.Minute+31*10*time.Second {
		t.Errorf("the next answer: %+v", c)
	}
}
