package metric

import (
	"math"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// An IntFamily is a declared metric with whole-number values.
type IntFamily struct{ family *family }

// Int declares a metric with whole-number values.
func (g *Group) Int(d Desc) IntFamily { return IntFamily{g.declare(d)} }

// With returns the register of the series with the given attributes. Calling it again with equal attributes
// returns the same register.
func (f IntFamily) With(e *Entity, attrs ...attribute.KeyValue) *Int {
	return add(e, f.family, attrs, &Int{})
}

// An Int is the register of one series of whole numbers. One goroutine may write while others read.
type Int struct {
	register
	value atomic.Int64
}

// Add adds n, which must not be negative for a Counter.
func (i *Int) Add(n int64) { i.value.Add(n) }

// Set stores v: the value of a Gauge or UpDownCounter.
func (i *Int) Set(v int64) {
	i.value.Store(v)
	i.firstValue()
}

// Observe stores the total of a Counter that is kept elsewhere (by the kernel), as read at the given time. A total
// below the previous one means that the counter began anew: the series gets a new start time.
func (i *Int) Observe(total uint64, at time.Time) {
	v := int64(min(total, math.MaxInt64))
	if v < i.value.Load() {
		i.restart()
	}
	i.value.Store(v)
	i.last = at.UnixNano()
}

// Value returns the present value.
func (i *Int) Value() int64 { return i.value.Load() }

// A FloatFamily is a declared metric with floating-point values.
type FloatFamily struct{ family *family }

// Float declares a metric with floating-point values.
func (g *Group) Float(d Desc) FloatFamily { return FloatFamily{g.declare(d)} }

// With returns the register of the series with the given attributes. Calling it again with equal attributes
// returns the same register.
func (f FloatFamily) With(e *Entity, attrs ...attribute.KeyValue) *Float {
	return add(e, f.family, attrs, &Float{})
}

// A Float is the register of one series of floating-point numbers. One goroutine may write while others read.
type Float struct {
	register
	bits atomic.Uint64
}

// Add adds v, which must not be negative for a Counter. Only the owner of the register may call it.
func (f *Float) Add(v float64) { f.bits.Store(math.Float64bits(f.Value() + v)) }

// Set stores v: the value of a Gauge or UpDownCounter.
func (f *Float) Set(v float64) {
	f.bits.Store(math.Float64bits(v))
	f.firstValue()
}

// Unset takes the value of a Gauge away: it is not exported until it is set again.
func (f *Float) Unset() {
	if f.seen.Swap(false) && f.family.desc.Kind == Gauge {
		f.family.group.registry.version.Add(1)
	}
}

// Observe stores the total of a Counter that is kept elsewhere, as Int.Observe does.
func (f *Float) Observe(total float64, at time.Time) {
	if total < f.Value() {
		f.restart()
	}
	f.bits.Store(math.Float64bits(total))
	f.last = at.UnixNano()
}

// Value returns the present value.
func (f *Float) Value() float64 { return math.Float64frombits(f.bits.Load()) }
