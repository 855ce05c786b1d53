package host

import (
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// raplPrefix begins the zones of Intel's and AMD's running average power limit. Those of intel-rapl-mmio are left out:
// they show the same energy once more.
const raplPrefix = "intel-rapl:"

// findRAPL finds out what a zone of /sys/class/powercap has (Documentation/ABI/testing/sysfs-class-powercap). Its
// counter has 32 bits in the processor and wraps within minutes to hours at max_energy_range_uj.
func findRAPL(c *sensorChip) error {
	c.title = c.text("name")
	if c.title == "" {
		return nil
	}
	c.id, c.parent = c.entry, c.entry[:strings.LastIndexByte(c.entry, ':')]
	kind := "cpu"
	switch c.title {
	case "dram":
		kind = "memory"
	case "psys": // the platform: all the rest and more
		kind = "enclosure"
	}
	span, _ := c.number("max_energy_range_uj")
	c.outputs = []sensorOutput{{
		metric: sensorEnergy, name: c.title, meter: &energyMeter{span: span},
		attrs: []attribute.KeyValue{attribute.String("hw.type", kind)},
		from:  []int{c.add("energy_uj", parseSensor)},
	}}
	return nil
}

// mostWatts is more than any processor takes on average: what bounds how long a counter may go unread.
const mostWatts = 500

// An energyMeter turns readings of a counter of microjoules, which began at an unknown number and wraps, into joules
// since the first reading.
type energyMeter struct {
	span   int64 // at which the counter wraps; 0: it does not
	last   int64
	at     time.Time
	sum    int64 // microjoules, which add up without an error
	joules float64
}

// advance takes a reading. fresh says that the joules begin anew: with the first reading, after one that was too long
// ago to know how often the counter wrapped, and when a counter that does not wrap fell.
func (m *energyMeter) advance(counter int64, now time.Time) (fresh bool) {
	delta := counter - m.last
	since := now.Sub(m.at)
	known := !m.at.IsZero()
	switch {
	case m.span > 0 && since > m.longest():
		known = false
	case delta >= 0:
	case m.span >= m.last:
		delta += m.span
	default:
		known = false
	}
	m.last, m.at = counter, now
	if !known {
		m.joules, m.sum = 0, 0
		return true
	}
	m.sum += delta
	m.joules = float64(m.sum) / 1e6
	return false
}

// longest returns how long the counter may go unread without wrapping twice.
func (m *energyMeter) longest() time.Duration {
	return time.Duration(float64(m.span) / 1e6 / mostWatts * float64(time.Second))
}
