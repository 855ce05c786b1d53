package latency

import (
	"context"
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// A tally is the collector of a probe that counts the same for every owner, and so for the host: T is what the kernel
// counts in a slot, R the registers that it goes to.
type tally[T, R any] struct {
	common
	ledger *ledger[T, R]
	host   R
}

// registers says how a tally makes the registers of the host and of an owner, and how it fills them.
type registers[T, R any] struct {
	host, owner func(*metric.Entity) R
	store       func(R, *T, time.Time)
}

// declared returns the registers of metrics that declare declares of an area: system for the host, container for owners.
func declared[T, R any](g *metric.Group, declare func(g *metric.Group, area string) func(*metric.Entity) R,
	store func(R, *T, time.Time),
) registers[T, R] {
	return registers[T, R]{declare(g, "system"), declare(g, "container"), store}
}

// newTally returns the collector of a watched probe and its table. moved is what tells the probe that groups got other
// slots; nil if it need not know.
func newTally[T, R any](env collector.Env, a *Attribution, c common, table bpf.Table[T], moved func() error,
	r registers[T, R],
) *tally[T, R] {
	start := c.probe.Start() // the kernel's counters began with the probe
	return &tally[T, R]{
		common: c,
		host:   r.host(env.Metrics.Entity(env.Host, start)),
		ledger: newLedger(env, a, table, start, moved, r.owner, r.store),
	}
}

// Collect copies the kernel's counts.
func (c *tally[T, R]) Collect(_ context.Context, now time.Time) error {
	err := c.ledger.collect(now)
	c.ledger.store(c.host, &c.ledger.total, now)
	return err
}

// Close detaches the probe.
func (c *tally[T, R]) Close() error {
	c.ledger.close()
	return c.common.Close()
}
