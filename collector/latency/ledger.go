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
	rest     T // of what has no slot of its own, likewise
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
		attribution: a, member: a.join(moved), table: table, group: env.Metrics, start: start,
		open: open, store: store, accounts: map[*Owner]*account[T, R]{},
	}
}

// collect brings the registers of all owners, and total, up to date.
func (l *ledger[T, R]) collect(now time.Time) error {
	l.stamp++
	err := l.table.Read(bpf.RestSlot, &l.rest) // every event without an owner is there, whether that has one or not
	l.total = l.gone
	bpf.Plus(&l.total, &l.rest)
	l.attribution.visit(l.member, func(slot int, o *Owner, last bool) bool {
		e := l.take(slot, o, last)
		err = errors.Join(err, e)
		return e == nil
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

// take reads a slot and gives its counts to the owner. Last counts are taken for good.
func (l *ledger[T, R]) take(slot int, o *Owner, last bool) error {
	if slot == bpf.RestSlot {
		l.credit(o, &l.rest, false)
		return nil
	}
	if err := l.table.Read(slot, &l.part); err != nil {
		return err
	}
	bpf.Plus(&l.total, &l.part)
	l.credit(o, &l.part, last)
	if last {
		bpf.Plus(&l.gone, &l.part)
		return l.table.Clear(slot)
	}
	return nil
}

// credit adds counts to what an owner has, for good if they are the last of their slot.
func (l *ledger[T, R]) credit(o *Owner, counts *T, last bool) {
	a := l.accounts[o]
	if a == nil {
		if !bpf.Any(counts) {
			return
		}
		a = l.account(o)
	}
	if a.stamp != l.stamp {
		a.stamp = l.stamp
		clear(bpf.Words(&a.sum))
		if a.past != nil {
			a.sum = *a.past
		}
	}
	bpf.Plus(&a.sum, counts)
	if last {
		if a.past == nil {
			a.past = new(T)
		}
		bpf.Plus(a.past, counts)
	}
}

// account opens the account of an owner.
func (l *ledger[T, R]) account(o *Owner) *account[T, R] {
	start := o.Start
	if start.Before(l.start) {
		start = l.start
	}
	a := &account[T, R]{entity: l.group.Entity(o.Resource, start)}
	a.registers = l.open(a.entity)
	l.accounts[o] = a
	return a
}

// close takes the ledger out of the attribution.
func (l *ledger[T, R]) close() { l.attribution.leave(l.member) }
