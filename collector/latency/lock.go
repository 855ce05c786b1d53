package latency

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// LockName is the lock collector's name in verdicts.
const LockName = "latency/lock"

// keyLockKind says what kind of lock of the kernel it is.
const keyLockKind = attribute.Key("linux.lock.kind")

// lockKind returns the name of a kind of lock.
func lockKind(kind int) attribute.KeyValue {
	return keyLockKind.String([bpf.LockKinds]string{
		bpf.LockMutex: "mutex", bpf.LockMutexSpin: "mutex_spin",
		bpf.LockRWSemRead: "rwsem_read", bpf.LockRWSemWrite: "rwsem_write",
		bpf.LockPerCPURead: "percpu_rwsem_read", bpf.LockPerCPUWrite: "percpu_rwsem_write",
		bpf.LockRTMutex: "rtmutex", bpf.LockSpin: "spinlock",
		bpf.LockRWLockRead: "rwlock_read", bpf.LockRWLockWrite: "rwlock_write",
	}[kind])
}

// lock collects how long tasks and CPUs wait for locks of the kernel that are taken.
type lock struct {
	common
	ledger *ledger[bpf.LockCounts, *lockRegisters]
	table  bpf.Table[bpf.Hist]
	entity *metric.Entity
	wait   metric.HistogramFamily
	kinds  [bpf.LockKinds]*histogram // nil until there is a wait
	part   bpf.Hist                  // reused
}

// NewLock loads the lock probe, which runs twice for each lock that is not had at once. The host has a histogram for
// each kind of lock that occurs, and each owner that attribution tells apart two series for each kind that tasks wait
// for. The error is a *verdict.UnavailableError where the kernel (Linux 5.19 has it) or the process's capabilities do
// not allow it.
func (d Deps) NewLock(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewLock(d.Kernel, bpf.LockOptions{})
	if err != nil {
		return nil, err
	}
	c := &lock{
		common: d.watch("lock", probe.Probe, true), table: probe.Kinds,
		entity: env.Metrics.Entity(env.Host, probe.Start()),
		wait: env.Metrics.Histogram(metric.Desc{
			Name: "system.linux.lock.wait_duration",
			Unit: "s",
			Description: "Time a task or a CPU waited for a lock of the kernel that was taken. A mutex is of the kind " +
				"mutex_spin if its waiter got it without sleeping.",
			Attributes: []attribute.Key{keyLockKind},
			Source:     "tp_btf/contention_begin, contention_end",
		}),
	}
	c.ledger = newLedger(env, d.Attribution, probe.Table, probe.Start(), nil, declareLocks(env.Metrics), (*lockRegisters).store)
	return c, nil
}

// lockRegisters are those of an owner; nil for kinds that it did not wait for yet.
type lockRegisters struct {
	entity *metric.Entity
	waits  metric.IntFamily
	time   metric.FloatFamily
	kinds  [bpf.LockTaskKinds]struct {
		waits *metric.Int
		time  *metric.Float
	}
}

// declareLocks declares the metrics of owners, and returns what makes their registers.
func declareLocks(g *metric.Group) func(*metric.Entity) *lockRegisters {
	waits := g.Int(metric.Desc{
		Name:        "container.linux.lock.waits",
		Unit:        "{wait}",
		Kind:        metric.Counter,
		Description: "Times that a task waited for a lock of the kernel that was taken.",
		Attributes:  []attribute.Key{keyLockKind},
		Source:      "tp_btf/contention_begin, contention_end",
	})
	waitTime := g.Float(metric.Desc{
		Name:        "container.linux.lock.wait_time",
		Unit:        "s",
		Kind:        metric.Counter,
		Description: "Time of these waits.",
		Attributes:  []attribute.Key{keyLockKind},
		Source:      "tp_btf/contention_begin, contention_end",
	})
	return func(e *metric.Entity) *lockRegisters { return &lockRegisters{entity: e, waits: waits, time: waitTime} }
}

func (r *lockRegisters) store(v *bpf.LockCounts, now time.Time) {
	for kind := range r.kinds {
		k := &r.kinds[kind]
		if k.waits == nil {
			if v.Waits[kind] == 0 {
				continue
			}
			k.waits, k.time = r.waits.With(r.entity, lockKind(kind)), r.time.With(r.entity, lockKind(kind))
		}
		k.waits.Observe(v.Waits[kind], now)
		k.time.Observe(seconds(v.WaitNS[kind]), now)
	}
}

// Collect copies the kernel's counts.
func (c *lock) Collect(_ context.Context, now time.Time) error {
	err := c.ledger.collect(now)
	for kind := range c.kinds {
		if e := c.table.Read(kind, &c.part); e != nil {
			return errors.Join(err, e)
		}
		if c.kinds[kind] == nil {
			if !bpf.Any(&c.part) {
				continue
			}
			c.kinds[kind] = newHistogram(c.wait.With(c.entity, lockKind(kind)))
		}
		c.kinds[kind].load(&c.part)
	}
	return err
}

// Close detaches the probe.
func (c *lock) Close() error {
	c.ledger.close()
	return c.common.Close()
}
