package latency

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/syscalls"
	"github.com/slid-agent/slid/internal/verdict"
)

// SyscallsName is the system-call collector's name in verdicts.
const SyscallsName = "latency/syscalls"

const (
	keySyscall = attribute.Key("linux.syscall.name")
)

// systemCalls collects how long the wanted system calls take and how they fail.
type systemCalls struct {
	common
	ledger *ledger[bpf.SyscallSums, *syscallRegisters]
	table  bpf.Table[bpf.SyscallCounts]
	entity *metric.Entity
	names  []attribute.KeyValue // in the order of the kernel's slots
	absent []string             // calls that this architecture does not have

	duration metric.HistogramFamily
	errors   metric.IntFamily
	calls    []syscallHost
	part     bpf.SyscallCounts // reused
}

// syscallHost are the registers of a call on the host; nil until they count something.
type syscallHost struct {
	duration *histogram
	errors   [bpf.SyscallErrors]*metric.Int
}

// NewSyscalls loads the probe of system calls for those of latency.syscalls in the configuration. While it is attached,
// every system call of the host takes longer, wanted or not: getppid, which does nothing, twice as long. For each wanted
// call that occurs the host has a histogram and a series for each error, and each owner that attribution tells apart
// three series. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewSyscalls(names []string) func(collector.Env) (collector.Collector, error) {
	return func(env collector.Env) (collector.Collector, error) {
		c := &systemCalls{}
		numbers := c.choose(names)
		if len(numbers) == 0 {
			return nil, &verdict.UnavailableError{Reason: "none of the wanted system calls exists on " + runtime.GOARCH}
		}
		probe, err := bpf.NewSyscalls(d.Kernel, bpf.SyscallsOptions{Numbers: numbers})
		if err != nil {
			return nil, err
		}
		c.common, c.table = d.watch("syscalls", probe.Probe, true), probe.Calls
		c.entity = env.Metrics.Entity(env.Host, probe.Start())
		c.declare(env.Metrics)
		c.ledger = newLedger(env, d.Attribution, probe.Table, probe.Start(), nil, c.declareOwners(env.Metrics),
			(*syscallRegisters).store)
		return c, nil
	}
}

// choose notes which calls this architecture has, and returns their numbers.
func (c *systemCalls) choose(names []string) (numbers []uint32) {
	for _, name := range names {
		if n, ok := syscalls.Number(runtime.GOARCH, name); ok {
			numbers, c.names = append(numbers, n), append(c.names, keySyscall.String(name))
		} else {
			c.absent = append(c.absent, name)
		}
	}
	c.calls = make([]syscallHost, len(numbers))
	return numbers
}

const syscallSource = "tp_btf/sys_enter, sys_exit"

func (c *systemCalls) declare(g *metric.Group) {
	c.duration = g.Histogram(metric.Desc{
		Name: "system.linux.syscall.duration",
		Unit: "s",
		Description: "Time of system calls from entry to return, failed ones included. A call that a signal stopped and " +
			"that went on is one.",
		Attributes: []attribute.Key{keySyscall},
		Source:     syscallSource,
	})
	c.errors = g.Int(metric.Desc{
		Name: "system.linux.syscall.errors",
		Unit: "{call}",
		Kind: metric.Counter,
		Description: "System calls that failed, by the error's name in errno(3), as ENOENT. EAGAIN and EINPROGRESS are what " +
			"calls on non-blocking files answer.",
		Attributes: []attribute.Key{keySyscall, keyErrorType},
		Source:     syscallSource,
	})
}

// syscallRegisters are those of an owner, by call; nil until it made one.
type syscallRegisters struct {
	of     *systemCalls
	entity *metric.Entity
	calls  metric.IntFamily
	time   metric.FloatFamily
	errors metric.IntFamily
	list   []syscallSums
}

type syscallSums struct {
	calls, errors *metric.Int
	time          *metric.Float
}

// declareOwners declares the metrics of owners, and returns what makes their registers.
func (c *systemCalls) declareOwners(g *metric.Group) func(*metric.Entity) *syscallRegisters {
	count := func(name, description string) metric.IntFamily {
		return g.Int(metric.Desc{
			Name: name, Unit: "{call}", Kind: metric.Counter, Description: description,
			Attributes: []attribute.Key{keySyscall}, Source: syscallSource,
		})
	}
	calls := count("container.linux.syscall.calls", "System calls that came back.")
	failed := count("container.linux.syscall.errors", "System calls that failed.")
	spent := g.Float(metric.Desc{
		Name: "container.linux.syscall.time", Unit: "s", Kind: metric.Counter, Description: "Time of these calls.",
		Attributes: []attribute.Key{keySyscall}, Source: syscallSource,
	})
	return func(e *metric.Entity) *syscallRegisters {
		return &syscallRegisters{
			of: c, entity: e, calls: calls, time: spent, errors: failed, list: make([]syscallSums, len(c.names)),
		}
	}
}

func (r *syscallRegisters) store(v *bpf.SyscallSums, now time.Time) {
	for i := range r.list {
		k := &r.list[i]
		if k.calls == nil {
			if v.Calls[i] == 0 {
				continue
			}
			name := r.of.names[i]
			k.calls, k.errors, k.time = r.calls.With(r.entity, name), r.errors.With(r.entity, name), r.time.With(r.entity, name)
		}
		k.calls.Observe(v.Calls[i], now)
		k.errors.Observe(v.Errors[i], now)
		k.time.Observe(seconds(v.TimeNS[i]), now)
	}
}

// Collect copies the kernel's counts.
func (c *systemCalls) Collect(_ context.Context, now time.Time) error {
	err := c.ledger.collect(now)
	for i := range c.calls {
		if e := c.table.Read(i, &c.part); e != nil {
			return errors.Join(err, e)
		}
		c.store(i, now)
	}
	return err
}

// store stores the counts of a call.
func (c *systemCalls) store(i int, now time.Time) {
	r := &c.calls[i]
	if r.duration == nil {
		if !bpf.Any(&c.part) {
			return
		}
		r.duration = newHistogram(c.duration.With(c.entity, c.names[i]))
	}
	r.duration.load(&c.part.Duration)
	for number, n := range &c.part.Errors {
		if r.errors[number] == nil {
			if n == 0 {
				continue
			}
			r.errors[number] = c.errors.With(c.entity, c.names[i], keyErrorType.String(errorName(number)))
		}
		r.errors[number].Observe(n, now)
	}
}

// errorName returns the name of an error number, or _OTHER for those that none of Linux's own has.
func errorName(number int) string {
	if name := unix.ErrnoName(unix.Errno(number)); name != "" {
		return name
	}
	return "_OTHER"
}

// Verdicts says how the probe measures.
func (c *systemCalls) Verdicts() []verdict.Verdict {
	list := c.common.Verdicts()
	v := &list[0]
	if len(c.absent) > 0 && v.State == verdict.Active {
		v.State = verdict.Degraded
		v.Reason = fmt.Sprintf("%s does not have: %s", runtime.GOARCH, strings.Join(c.absent, ", "))
	}
	if v.State != verdict.Unavailable {
		v.Reason = strings.TrimPrefix(v.Reason+"; ", "; ") + "every system call of the host takes longer while it is attached"
	}
	return list
}

// Close detaches the probe.
func (c *systemCalls) Close() error {
	c.ledger.close()
	return c.common.Close()
}
