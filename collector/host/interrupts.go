package host

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// Interrupts come from the lines intr and softirq of /proc/stat, which the collector of the processors reads anyway:
// /proc/interrupts and /proc/softirqs would cost a table of all processors each. Both lines sum over all processors
// that are possible, so that none going offline takes its share out of them.

// softirqTypes is the number of types of soft interrupts.
const softirqTypes = 10

// softirqName returns the name of a type as /proc/softirqs has it. The order of the line in /proc/stat never
// changes, for tools rely on it (include/linux/interrupt.h).
func softirqName(number int) string {
	return [softirqTypes]string{
		"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
	}[number]
}

// interruptCounts are what /proc/stat says of interrupts, as it says it.
type interruptCounts struct {
	hasHard, hasSoft bool
	hard             uint64
	soft             [softirqTypes]uint64
}

// parseHard reads the line intr after its key: the total. What follows, thousands of numbers on a large host, is
// left alone.
func (c *interruptCounts) parseHard(line []byte) (err error) {
	c.hard, err = firstUint(line)
	c.hasHard = err == nil
	return err
}

// parseSoft reads the line softirq after its key: the total and the count of each type. Kernels before 2.6.32 have
// fewer types, in another order: they are left out.
func (c *interruptCounts) parseSoft(line []byte) error {
	var v [1 + softirqTypes]uint64
	n, _, err := procfs.Uints(line, v[:])
	if err != nil {
		return err
	}
	c.hasSoft = n == len(v)
	copy(c.soft[:], v[1:])
	return nil
}

// wrapping carries on a total that the kernel keeps in 32 bits, or adds up from numbers of 32 bits: when one of
// them is full, the total falls by 2^32.
type wrapping struct {
	last, total uint64
}

// advance takes a reading over and returns the total, which never falls. The first reading counts from boot.
func (w *wrapping) advance(now uint64) uint64 {
	const full = 1 << 32
	switch fall := w.last - now; {
	case now >= w.last:
		w.total += now - w.last
	case fall > full/2 && fall <= full:
		w.total += full - fall
	}
	w.last = now
	return w.total
}

// interrupts are the series of hard and soft interrupts.
type interrupts struct {
	entity     *metric.Entity
	hardFamily metric.IntFamily
	softFamily metric.IntFamily
	hard       *metric.Int // nil until the kernel shows it
	soft       [softirqTypes]*metric.Int
	hardTotal  wrapping
	softTotal  [softirqTypes]wrapping
}

func (i *interrupts) declare(env collector.Env, entity *metric.Entity, source string) {
	i.entity = entity
	i.hardFamily = env.Metrics.Int(counter("system.cpu.linux.interrupts", "{interrupt}", source,
		"Interrupts that processors took."))
	d := counter("system.cpu.linux.softirqs", "{interrupt}", source,
		"Soft interrupts by type: work that interrupts left for later, as NET_RX for packets that came in.")
	d.Attributes = []attribute.Key{"system.cpu.softirq"}
	i.softFamily = env.Metrics.Int(d)
}

// store takes over what a reading has.
func (i *interrupts) store(c *interruptCounts, now time.Time) {
	if c.hasHard {
		if i.hard == nil {
			i.hard = i.hardFamily.With(i.entity)
		}
		i.hard.Observe(i.hardTotal.advance(c.hard), now)
	}
	if !c.hasSoft {
		return
	}
	for number, count := range c.soft {
		if i.soft[number] == nil {
			i.soft[number] = i.softFamily.With(i.entity, attribute.String("system.cpu.softirq", softirqName(number)))
		}
		i.soft[number].Observe(i.softTotal[number].advance(count), now)
	}
}
