package latency

import (
	"errors"
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// A ledger carries a table of the kernel into registers: a slot for each owner, all of them together for the host. T is
// what the kernel counts in a slot, R the registers of an owner.
//
// What an owner counted before it was started again, and what owners counted that are gone, stays in the sums: they
// never fall. An owner has series from its first event on, until the tick after its last counts were taken.
type ledger[T any, R any] struct {
	attribution *Attribution
	member      *member
	table       bpf.Table[T]
	group       *metric.Group
	start       time.Time // of the table
	// open makes the registers of an owner, and store fills them.
	open  func(*metric.Entity) R
	store func(R, *T, time.Time)

	accounts map[*Owner]*account[T, R]
	gone     T // counts of slots that were cleared
	total    T // of the host, as of the last collect
	part     T // reused
	stamp    uint64
}

// An account is what a ledger has of an owner.
type account[T any, R any] struct {
	entity    *metric.Entity
	registers R
	sum       T
	past      *T // counts of slots that were cleared; nil if there are none
	stamp     uint64
}

// newLedger returns a ledger of a table whose counters began at start. moved is what tells the probe that groups got
// other slots; nil if it need not know.
func newLedger[T, R any](env collector.Env, a *Attribution, table bpf.Table[T], start time.Time, moved func() error,
	open func(*metric.Entity) R, store func(R, *T, time.Time),
) *ledger[T, R] {
	return &ledger[T, R]{
		attribution: a, member: a.Join(moved), table: table, group: env.Metrics, start: start,
		open: open, store: store, accounts: map[*Owner]*account[T, R]{},
	}
}

// collect brings the registers of all owners, and total, up to date.
func (l *ledger[T, R]) collect(now time.Time) error {
	l.stamp++
	l.total = l.gone
	err := l.collectRest()
	l.attribution.Slots(l.member, func(slot int, o *Owner, last bool) bool {
		if e := l.table.Read(slot, &l.part); e != nil {
			err = errors.Join(err, e)
			return false
		}
		if slot != bpf.RestSlot {
			bpf.Plus(&l.total, &l.part)
		}
		if l.credit(o, last) {
			err = errors.Join(err, l.table.Clear(slot))
		}
		return true
	})
	for o, a := range l.accounts {
		if a.stamp != l.stamp {
			a.entity.Remove()
			delete(l.accounts, o)
			continue
		}
		l.store(a.registers, &a.sum, now)
	}
	return err
}

// collectRest adds the slot that every event without an owner counts in, which need not have one itself.
func (l *ledger[T, R]) collectRest() error {
	return l.table.AddTo(bpf.RestSlot, &l.total)
}

// credit gives what was read to an owner. Last counts are kept, and true says that the slot can be cleared.
func (l *ledger[T, R]) credit(o *Owner, last bool) bool {
	a := l.accounts[o]
	if a == nil {
		if !bpf.Any(&l.part) {
			return last
		}
		start := o.Start
		if start.Before(l.start) {
			start = l.start
		}
		a = &account[T, R]{entity: l.group.Entity(o.Resource, start)}
		a.registers = l.open(a.entity)
		l.accounts[o] = a
	}
	if a.stamp != l.stamp {
		a.stamp = l.stamp
		clear(bpf.Words(&a.sum))
		if a.past != nil {
			a.sum = *a.past
		}
	}
	bpf.Plus(&a.sum, &l.part)
	if last {
		if a.past == nil {
			a.past = new(T)
		}
		bpf.Plus(a.past, &l.part)
		bpf.Plus(&l.gone, &l.part)
	}
	return last
}

// close takes the ledger out of the attribution.
func (l *ledger[T, R]) close() { l.attribution.Leave(l.member) }
