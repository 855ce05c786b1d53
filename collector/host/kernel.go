package host

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The files below /proc/sys that are read.
const (
	sysctlFiles = iota
	sysctlAIO
	sysctlAIOMax
	sysctlPTY
	sysctlPTYMax
	sysctlPIDMax
	sysctlThreadsMax
	sysctlTainted
	sysctlHungTasks
	sysctlEntropy
	sysctlPoolSize
	sysctls
)

// sysctlPath returns the path of a file below /proc/sys.
func sysctlPath(number int) string {
	return [sysctls]string{
		"fs/file-nr", "fs/aio-nr", "fs/aio-max-nr", "kernel/pty/nr", "kernel/pty/max", "kernel/pid_max",
		"kernel/threads-max", "kernel/tainted", "kernel/hung_task_detect_count", "kernel/random/entropy_avail",
		"kernel/random/poolsize",
	}[number]
}

// sysctlFields returns how many numbers a file has that are needed.
func sysctlFields(number int) int {
	if number == sysctlFiles {
		return 3 // open, free, limit
	}
	return 1
}

// sysctl is one file of numbers.
type sysctl struct {
	path   string
	file   *procfs.File // nil while it cannot be opened
	absent bool         // this kernel does not have it
	value  [3]uint64
	good   bool  // value is of the last reading
	lost   error // why it is not
}

// read takes the first numbers of the file over.
func (s *sysctl) read(fields int) {
	s.good, s.lost = false, nil
	if s.absent {
		return
	}
	if s.file == nil {
		if s.file, s.lost = procfs.OpenSingle(s.path); s.lost != nil {
			return
		}
	}
	b, err := s.file.Read()
	if err == nil {
		err = parseError(s.file, parseSysctl(b, s.value[:fields]))
	}
	s.good, s.lost = err == nil, err
}

// parseSysctl reads the line of a file into numbers, all of which it must have.
func parseSysctl(b []byte, numbers []uint64) error {
	line, _, ok := procfs.Line(b)
	if !ok {
		return procfs.ErrTruncated
	}
	n, _, err := procfs.Uints(line, numbers)
	if err == nil && n < len(numbers) {
		err = procfs.ErrTruncated
	}
	return err
}

// Kernel collects the kernel's own condition: limits of the whole host with what is used of them, taints, hung
// tasks and uptime, from /proc/sys and CLOCK_BOOTTIME.
type Kernel struct {
	health
	entity *metric.Entity
	files  [sysctls]sysctl
	clock  unix.Timespec

	amounts   [sysctls]*metric.Int // of the files that are exported as they are
	handles   *metric.Int
	processes *metric.Int
	hung      *metric.Int
	uptime    *metric.Float
	taint     metric.IntFamily
	taints    [64]*metric.Int // nil until the flag is set, unless it tells of a fault
	flags     uint64          // those with a register
}

// NewKernel reads the files below /proc/sys that this kernel has. It is unavailable only if none can be read.
func NewKernel(env collector.Env) (collector.Collector, error) {
	k := &Kernel{}
	k.name, k.hook = "host/kernel", filepath.Join(env.Proc, "sys")
	var absent error
	some := false
	for number := range k.files {
		s := &k.files[number]
		s.path = filepath.Join(k.hook, sysctlPath(number))
		s.read(sysctlFields(number))
		if errors.Is(s.lost, fs.ErrNotExist) {
			absent, s.absent, s.lost = s.lost, true, nil
		}
		some = some || s.good
	}
	if !some {
		return nil, errors.Join(unavailable(errors.Join(k.firstLost(), absent)), k.Close())
	}
	k.declare(env)
	k.judge()
	return k, nil
}

// firstLost returns why a file cannot be read that this kernel has, or nil.
func (k *Kernel) firstLost() error {
	for number := range k.files {
		if err := k.files[number].lost; err != nil {
			return err
		}
	}
	return nil
}

// judge keeps the reason up to date: the first file that cannot be read.
func (k *Kernel) judge() {
	k.reason, k.missing = "", ""
	if err := k.firstLost(); err != nil {
		k.reason, k.missing = "not all of it can be read: "+err.Error(), remedy(err)
	}
}

func (k *Kernel) declare(env collector.Env) {
	k.entity = env.Metrics.Entity(env.Host, env.Boot)
	declare := func(number int, name, unit, description string) *metric.Int {
		family := env.Metrics.Int(amount(name, unit, "/proc/sys/"+sysctlPath(number), description))
		if k.files[number].absent {
			return nil
		}
		return family.With(k.entity)
	}
	as := func(number int, name, unit, description string) {
		k.amounts[number] = declare(number, name, unit, description)
	}
	as(sysctlFiles, "system.file_handle.linux.usage", "{handle}", "Open files of all processes.")
	k.handles = declare(sysctlFiles, "system.file_handle.linux.limit", "{handle}",
		"The most files that all processes may have open (fs.file-max).")
	as(sysctlAIO, "system.aio.linux.usage", "{request}", "Requests of asynchronous I/O that programs have set aside.")
	as(sysctlAIOMax, "system.aio.linux.limit", "{request}", "The most of them (fs.aio-max-nr).")
	as(sysctlPTY, "system.pty.linux.usage", "{terminal}", "Pseudo-terminals in use.")
	as(sysctlPTYMax, "system.pty.linux.limit", "{terminal}", "The most of them (kernel.pty.max).")
	k.processes = declare(sysctlThreadsMax, "system.process.limit", "{thread}",
		"The most threads there can be: the smaller of kernel.threads-max and kernel.pid_max.")
	k.declareEntropy(as)
	hung := counter("system.process.linux.hung_tasks", "{event}", "/proc/sys/"+sysctlPath(sysctlHungTasks),
		"Tasks found hung: in uninterruptible sleep for longer than kernel.hung_task_timeout_secs.")
	if family := env.Metrics.Int(hung); !k.files[sysctlHungTasks].absent {
		k.hung = family.With(k.entity)
	}
	d := amount("system.kernel.linux.tainted", "1", "/proc/sys/"+sysctlPath(sysctlTainted),
		"1 if the kernel is tainted so: what tells of a fault is always there, other flags once they are set.")
	d.Attributes = []attribute.Key{"system.kernel.taint"}
	k.taint = env.Metrics.Int(d)
	k.uptime = env.Metrics.Float(metric.Desc{
		Name: "system.uptime", Unit: "s", Kind: metric.Gauge, Source: "CLOCK_BOOTTIME",
		Description: "Time since the host booted, sleep included; no step of the wall clock changes it.",
	}).With(k.entity)
}

// declareEntropy declares the entropy of kernels before 5.18. Later ones have a pool of 256 bits, which stay there
// once it was filled and tell nothing.
func (k *Kernel) declareEntropy(as func(number int, name, unit, description string)) {
	const laterPool = 256
	if pool := &k.files[sysctlPoolSize]; pool.good && pool.value[0] == laterPool {
		k.files[sysctlEntropy].drop()
		pool.drop()
	}
	as(sysctlEntropy, "system.entropy.linux.available", "bit", "Random bits in the kernel's pool, before Linux 5.18.")
	as(sysctlPoolSize, "system.entropy.linux.limit", "bit", "The size of the pool.")
}

// drop leaves a file alone from now on.
func (s *sysctl) drop() {
	if s.file != nil {
		_ = s.file.Close()
	}
	*s = sysctl{absent: true}
}

// taintName returns the name of a flag of /proc/sys/kernel/tainted (admin-guide/tainted-kernels.rst).
func taintName(bit int) string {
	names := [...]string{
		"proprietary_module", "forced_module", "cpu_out_of_spec", "forced_rmmod", "machine_check", "bad_page",
		"user_request", "died", "overridden_acpi_table", "warning", "staging_driver", "firmware_workaround",
		"out_of_tree_module", "unsigned_module", "soft_lockup", "live_patch", "auxiliary", "randstruct", "test",
		"fwctl_debug",
	}
	if bit < len(names) {
		return names[bit]
	}
	return "bit_" + strconv.Itoa(bit)
}

// taintFaults are the flags that tell of a fault: machine check, bad page, died (an oops or a BUG), warning, soft
// lockup.
const taintFaults = 1<<4 | 1<<5 | 1<<7 | 1<<9 | 1<<14

// Collect implements collector.Collector. A file that cannot be read any more is an error once and a degraded
// verdict until it is back; its series keep their values.
func (k *Kernel) Collect(_ context.Context, now time.Time) error {
	var errs error
	changed, some := false, false
	for number := range k.files {
		s := &k.files[number]
		wasLost := s.lost != nil
		s.read(sysctlFields(number))
		if s.lost != nil && !wasLost {
			errs = errors.Join(errs, s.lost)
		}
		changed = changed || wasLost != (s.lost != nil)
		some = some || s.good
	}
	if changed {
		k.judge()
	}
	if !some {
		errs = errors.Join(errs, k.firstLost())
	}
	k.store(now)
	return k.collected(errors.Join(errs, k.storeUptime()), some)
}

// store takes over what the last reading has.
func (k *Kernel) store(now time.Time) {
	for number, register := range k.amounts {
		if s := &k.files[number]; s.good && register != nil {
			register.Set(bounded(s.value[0]))
		}
	}
	if s := &k.files[sysctlFiles]; s.good {
		k.handles.Set(bounded(s.value[2]))
	}
	threads, pids := &k.files[sysctlThreadsMax], &k.files[sysctlPIDMax]
	switch {
	case threads.good && pids.good:
		k.processes.Set(bounded(min(threads.value[0], pids.value[0])))
	case threads.good && pids.absent:
		k.processes.Set(bounded(threads.value[0]))
	}
	if s := &k.files[sysctlHungTasks]; s.good {
		k.hung.Observe(s.value[0], now)
	}
	if s := &k.files[sysctlTainted]; s.good {
		k.storeTaints(s.value[0])
	}
}

// bounded returns v, or the largest number that fits: it stands for no limit.
func bounded(v uint64) int64 { return int64(min(v, math.MaxInt64)) }

func (k *Kernel) storeTaints(set uint64) {
	for rest := (set | taintFaults) &^ k.flags; rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros64(rest)
		k.taints[bit] = k.taint.With(k.entity, attribute.String("system.kernel.taint", taintName(bit)))
		k.flags |= 1 << bit
	}
	for rest := k.flags; rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros64(rest)
		k.taints[bit].Set(int64(set >> bit & 1))
	}
}

func (k *Kernel) storeUptime() error {
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &k.clock); err != nil {
		return os.NewSyscallError("clock_gettime", err)
	}
	k.uptime.Set(float64(k.clock.Nano()) / 1e9)
	return nil
}

// Close implements collector.Collector.
func (k *Kernel) Close() error {
	var errs error
	for number := range k.files {
		if file := k.files[number].file; file != nil {
			errs = errors.Join(errs, file.Close())
		}
	}
	return errs
}
