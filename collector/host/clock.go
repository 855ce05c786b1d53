package host

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// Clock collects what the kernel knows of its clock's truth from adjtimex(2), to which whatever keeps the clock
// (chronyd, ntpd, systemd-timesyncd, ptp4l by way of phc2sys) reports. It asks without changing anything (modes 0),
// for which the kernel wants no capability.
type Clock struct {
	health
	timex unix.Timex

	offset, estimated, maximum, frequency, synchronized *metric.Float
}

// NewClock asks once: seccomp filters of containers and of systemd (ProtectClock) often refuse the call.
func NewClock(env collector.Env) (collector.Collector, error) {
	c := &Clock{}
	c.name, c.hook = "host/clock", "adjtimex(2)"
	if _, err := c.ask(); err != nil {
		return nil, noClock(err)
	}
	m := env.Metrics
	e := m.Entity(env.Host, env.Boot)
	gauge := func(name, unit, description string) *metric.Float {
		return m.Float(metric.Desc{
			Name: "system.clock.linux." + name, Unit: unit, Kind: metric.Gauge, Source: "adjtimex(2)",
			Description: description,
		}).With(e)
	}
	c.offset = gauge("offset", "s", "What the clock is still to be moved by until it is right.")
	c.estimated = gauge("estimated_error", "s", "How far the clock is off, by the estimate of what keeps it.")
	c.maximum = gauge("maximum_error", "s",
		"How far the clock can be off at most; it grows until the clock is set by its source again, up to 16 s.")
	c.frequency = gauge("frequency", "1",
		"Share by which the clock is made to run faster than its oscillator (negative: slower).")
	c.synchronized = gauge("sync_status", "1", "1 if the kernel holds the clock to be synchronized, 0 if not.")
	return c, nil
}

// noClock says what would allow the call.
func noClock(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOSYS) {
		return unavailable(err)
	}
	return &verdict.UnavailableError{
		Reason: "not allowed to ask the kernel about its clock: " +
			"the seccomp filter of the container or of the systemd unit (ProtectClock=yes) refuses adjtimex",
		Missing: "a seccomp filter that allows adjtimex",
		Err:     err,
	}
}

// ask returns the state that adjtimex returns; the rest is in timex.
func (c *Clock) ask() (state int, err error) {
	c.timex = unix.Timex{}
	state, err = unix.Adjtimex(&c.timex)
	if err != nil {
		return state, os.NewSyscallError("adjtimex", err)
	}
	return state, nil
}

// clockTruth is what adjtimex says, in seconds.
type clockTruth struct {
	offset, estimated, maximum float64
	frequency                  float64 // share
	synchronized               bool
}

// truthOf understands an answer. STA_NANO says in which unit the offset is, frequencies are in 2^-16 parts per
// million (adjtimex(2)).
func truthOf(state int, t *unix.Timex) clockTruth {
	unit := 1e-6
	if t.Status&unix.STA_NANO != 0 {
		unit = 1e-9
	}
	return clockTruth{
		offset:       float64(t.Offset) * unit,
		estimated:    float64(t.Esterror) / 1e6,
		maximum:      float64(t.Maxerror) / 1e6,
		frequency:    float64(t.Freq) / (1 << 16) / 1e6,
		synchronized: state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0,
	}
}

// Collect implements collector.Collector.
func (c *Clock) Collect(context.Context, time.Time) error {
	state, err := c.ask()
	if err != nil {
		return c.collected(err, false)
	}
	t := truthOf(state, &c.timex)
	c.offset.Set(t.offset)
	c.estimated.Set(t.estimated)
	c.maximum.Set(t.maximum)
	c.frequency.Set(t.frequency)
	synchronized := 0.
	if t.synchronized {
		synchronized = 1
	}
	c.synchronized.Set(synchronized)
	return c.collected(nil, true)
}

// Close implements collector.Collector.
func (c *Clock) Close() error { return nil }
