package host

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// cpuDetail gives each processor series of its own. One that goes offline loses them; when it is back, it has new
// ones that count from then: what it did before was counted, and its idle time may have begun anew.
type cpuDetail struct {
	env     collector.Env
	family  metric.FloatFamily
	single  []singleCPU // by number
	live    int         // how many have series
	reading uint64      // counts the whole ones
}

// singleCPU is one processor.
type singleCPU struct {
	reading uint64 // the last that had it
	seen    seenTimes
	total   cpuTimes
	entity  *metric.Entity // nil while it is offline
	number  int
	times   [modes]*metric.Float // guest is nil until a guest ran
}

// newCPUDetail declares the times d with the number of the processor.
func newCPUDetail(env collector.Env, d metric.Desc) *cpuDetail {
	d.Attributes = append(d.Attributes, "cpu.logical_number")
	return &cpuDetail{env: env, family: env.Metrics.Float(d)}
}

// store takes a reading over. Only a whole one tells who is offline and who is new.
func (d *cpuDetail) store(processors []processor, whole bool, now time.Time) {
	if whole {
		d.reading++
	}
	for i := range processors {
		p := &processors[i]
		for n := len(d.single); uint64(n) <= p.number; n++ {
			d.single = append(d.single, singleCPU{number: n})
		}
		c := &d.single[p.number]
		c.reading = d.reading
		switch {
		case c.entity == nil && !whole:
			continue
		case c.entity == nil:
			d.begin(c, p, now)
		case c.restarted(&p.times): // it was offline between two readings
			d.end(c)
			d.begin(c, p, now)
		default:
			c.seen.addTo(&c.total, &p.times)
		}
		d.observe(c, now)
	}
	if whole && d.live != len(processors) {
		for i := range d.single {
			if c := &d.single[i]; c.entity != nil && c.reading != d.reading {
				d.end(c)
			}
		}
	}
}

// begin makes the series of a processor: those of the first reading count from boot, later ones from now.
func (d *cpuDetail) begin(c *singleCPU, p *processor, now time.Time) {
	start := now
	c.total = cpuTimes{}
	if d.reading == 1 {
		start, c.total = d.env.Boot, p.times
	}
	c.seen.times = p.times
	c.entity = d.env.Metrics.Entity(d.env.Host, start)
	for mode := range modeGuest {
		c.times[mode] = d.with(c, mode)
	}
	d.live++
}

func (d *cpuDetail) with(c *singleCPU, mode int) *metric.Float {
	return d.family.With(c.entity, modeAttribute(mode), attribute.Int("cpu.logical_number", c.number))
}

func (d *cpuDetail) observe(c *singleCPU, now time.Time) {
	if c.times[modeGuest] == nil && c.total[modeGuest] > 0 {
		c.times[modeGuest] = d.with(c, modeGuest)
	}
	for mode, register := range c.times {
		if register != nil {
			register.Observe(float64(c.total[mode])/userHz, now)
		}
	}
}

// end takes the series of a processor away.
func (d *cpuDetail) end(c *singleCPU) {
	c.entity.Remove()
	c.entity, c.times = nil, [modes]*metric.Float{}
	d.live--
}

// restarted says whether a time fell by more than estimates do.
func (c *singleCPU) restarted(now *cpuTimes) bool {
	for mode, v := range now {
		if last := c.seen.times[mode]; last > v && last-v > resetTicks {
			return true
		}
	}
	return false
}
