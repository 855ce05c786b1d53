package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// The counts of /proc/vmstat that are used.
const (
	vmFaults = iota
	vmMajorFaults
	vmSwapIn
	vmSwapOut
	vmPageIn
	vmPageOut
	vmScanKswapd
	vmScanDirect
	vmStealKswapd
	vmStealDirect
	vmAllocStall
	vmRefaultAnon
	vmRefaultFile
	vmCompactStall
	vmCompactFail
	vmOOMKills
	vmFields
)

// vmstatField returns the field of a key of /proc/vmstat, or -1. Kernels before 4.8 counted reclaim by zone.
func vmstatField(key []byte) int {
	switch string(key) {
	case "pgfault":
		return vmFaults
	case "pgmajfault":
		return vmMajorFaults
	case "pswpin":
		return vmSwapIn
	case "pswpout":
		return vmSwapOut
	case "pgpgin":
		return vmPageIn
	case "pgpgout":
		return vmPageOut
	case "workingset_refault_anon":
		return vmRefaultAnon
	case "workingset_refault_file", "workingset_refault": // before 5.9 only pages of files were watched
		return vmRefaultFile
	case "compact_stall":
		return vmCompactStall
	case "compact_fail":
		return vmCompactFail
	case "oom_kill":
		return vmOOMKills
	}
	return reclaimField(key)
}

// reclaimField returns the field of a key that may end with the name of a zone, or -1.
func reclaimField(key []byte) int {
	if len(key) < len("pgscan_") || string(key[:3]) != "pgs" && string(key[:3]) != "all" {
		return -1
	}
	if i := bytes.LastIndexByte(key, '_'); i >= 0 {
		switch string(key[i+1:]) {
		case "dma", "dma32", "normal", "high", "movable", "device":
			key = key[:i]
		}
	}
	switch string(key) {
	case "pgscan_kswapd":
		return vmScanKswapd
	case "pgscan_direct":
		return vmScanDirect
	case "pgsteal_kswapd":
		return vmStealKswapd
	case "pgsteal_direct":
		return vmStealDirect
	case "allocstall":
		return vmAllocStall
	}
	return -1
}

// vmLines says how many lines of /proc/vmstat make up each field.
type vmLines [vmFields]uint8

// vmstat is what is used of /proc/vmstat.
type vmstat struct {
	value [vmFields]uint64
	lines vmLines
}

// parse reads the content of /proc/vmstat until it has found so many of the lines that are used. Damaged lines are
// left out and the first is the error.
func (v *vmstat) parse(b []byte, most int) (bad tableError) {
	*v = vmstat{}
	for number, found := 0, 0; found < most && len(b) > 0; number++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(number, procfs.ErrTruncated)
			break
		}
		b = rest
		key, value := procfs.Field(line)
		field := vmstatField(key)
		if field < 0 {
			continue
		}
		found++
		n, err := firstUint(value)
		if err != nil {
			bad.note(number, err)
			continue
		}
		v.value[field] += n
		v.lines[field]++
	}
	return bad
}

// missing returns an error that names the fields that do not have all the lines they had at first.
func (v *vmstat) missing(expected *vmLines) error {
	if v.lines == *expected {
		return nil
	}
	names := [vmFields]string{
		"pgfault", "pgmajfault", "pswpin", "pswpout", "pgpgin", "pgpgout", "pgscan_kswapd", "pgscan_direct",
		"pgsteal_kswapd", "pgsteal_direct", "allocstall", "workingset_refault_anon", "workingset_refault_file",
		"compact_stall", "compact_fail", "oom_kill",
	}
	var list []string
	for field, name := range names {
		if v.lines[field] != expected[field] {
			list = append(list, name)
		}
	}
	return errors.New("no " + strings.Join(list, ", "))
}

// Paging collects faults, swapping, reclaim, compaction and out-of-memory kills from /proc/vmstat, and the swap
// devices from /proc/swaps.
type Paging struct {
	health
	env      collector.Env
	vmstat   *procfs.File
	sample   vmstat
	expected vmLines // what this kernel has
	lines    int     // all of them
	counts   [vmFields]*metric.Int
	minor    *metric.Int

	swaps     *procfs.File // nil if the kernel cannot swap, or while it cannot be read
	swapsPath string
	swapsLost error
	usage     metric.IntFamily
	devices   roster[swapDevice]
}

// swapDevice are the series of one swap device or file.
type swapDevice struct {
	entity     *metric.Entity
	used, free *metric.Int
}

// NewPaging opens and reads /proc/vmstat, without which there is no collector, and /proc/swaps.
func NewPaging(env collector.Env) (collector.Collector, error) {
	file, err := procfs.Open(filepath.Join(env.Proc, "vmstat"))
	if err != nil {
		return nil, unavailable(err)
	}
	p := &Paging{env: env, vmstat: file, swapsPath: filepath.Join(env.Proc, "swaps")}
	p.name, p.hook = "host/paging", file.Path()+", "+p.swapsPath
	if err := p.learn(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	p.declare()
	if p.swaps, err = procfs.Open(p.swapsPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.swapsLost = err
	}
	p.judge()
	return p, nil
}

// learn reads /proc/vmstat for the first time: which lines there are depends on the kernel and its configuration.
func (p *Paging) learn() error {
	b, err := p.vmstat.Read()
	if err != nil {
		return unavailable(err)
	}
	if bad := p.sample.parse(b, len(b)); bad.err != nil {
		return unavailable(bad.asError(p.vmstat))
	}
	p.expected = p.sample.lines
	for _, n := range p.expected {
		p.lines += int(n)
	}
	if p.expected[vmFaults] == 0 {
		return &verdict.UnavailableError{
			Reason: "the kernel does not count paging: no pgfault in " + p.vmstat.Path(), Missing: "CONFIG_VM_EVENT_COUNTERS=y",
		}
	}
	return nil
}

// judge keeps the reason up to date: what this kernel does not count, and swap devices that cannot be read.
func (p *Paging) judge() {
	p.reason, p.missing = "", ""
	all := vmLines{}
	for field := range all {
		all[field] = max(1, p.expected[field])
	}
	first := vmstat{lines: p.expected}
	if err := first.missing(&all); err != nil {
		p.reason = err.Error() + " in " + p.vmstat.Path()
	}
	if p.swapsLost != nil {
		p.reason, p.missing = "no swap devices: "+p.swapsLost.Error(), remedy(p.swapsLost)
	}
}

func (p *Paging) declare() {
	const source = "/proc/vmstat"
	e := p.env.Metrics.Entity(p.env.Host, p.env.Boot)
	family := func(name, unit, description string, keys ...attribute.Key) metric.IntFamily {
		d := counter(name, unit, source, description)
		d.Attributes = keys
		return p.env.Metrics.Int(d)
	}
	optional := func(field int, f metric.IntFamily, attrs ...attribute.KeyValue) {
		if p.expected[field] > 0 {
			p.counts[field] = f.With(e, attrs...)
		}
	}
	const kind, direction = attribute.Key("system.paging.fault.type"), attribute.Key("system.paging.direction")
	major, in, out := kind.String("major"), direction.String("in"), direction.String("out")
	faults := family("system.paging.faults", "{fault}",
		"Page faults: major ones had to wait for a disk, minor ones did not.", kind)
	optional(vmMajorFaults, faults, major)
	p.minor = faults.With(e, kind.String("minor"))
	swapped := family("system.paging.operations", "{operation}",
		"Pages read from swap devices and written to them.", kind, direction)
	optional(vmSwapIn, swapped, major, in)
	optional(vmSwapOut, swapped, major, out)
	paged := family("system.paging.linux.io", "By",
		"Bytes read from block devices and written to them, files and swap (pgpgin, pgpgout).", direction)
	optional(vmPageIn, paged, in)
	optional(vmPageOut, paged, out)
	p.declareReclaim(family, optional)

	d := amount("system.paging.usage", "By", "/proc/swaps", "Space on swap devices by state.")
	d.Attributes = []attribute.Key{"system.device", "system.paging.state"}
	p.usage = p.env.Metrics.Int(d)
}

// declareReclaim declares what tells of a shortage of memory.
func (p *Paging) declareReclaim(
	family func(name, unit, description string, keys ...attribute.Key) metric.IntFamily,
	optional func(field int, f metric.IntFamily, attrs ...attribute.KeyValue),
) {
	const who, what = attribute.Key("system.memory.linux.reclaim.by"), attribute.Key("system.memory.linux.refault.type")
	kswapd, direct := who.String("kswapd"), who.String("direct")
	scanned := family("system.memory.linux.reclaim.scanned", "{page}",
		"Pages looked at for reclaim, by the background thread (kswapd) or by programs that had to wait (direct).", who)
	optional(vmScanKswapd, scanned, kswapd)
	optional(vmScanDirect, scanned, direct)
	reclaimed := family("system.memory.linux.reclaim.reclaimed", "{page}",
		"Pages reclaimed; few for many scanned means that reclaim is in trouble.", who)
	optional(vmStealKswapd, reclaimed, kswapd)
	optional(vmStealDirect, reclaimed, direct)
	optional(vmAllocStall, family("system.memory.linux.reclaim.stalls", "{event}",
		"Allocations that had to reclaim memory themselves."))
	refaults := family("system.memory.linux.refaults", "{page}",
		"Pages read again soon after they were reclaimed: the working set does not fit.", what)
	optional(vmRefaultAnon, refaults, what.String("anon"))
	optional(vmRefaultFile, refaults, what.String("file"))
	optional(vmCompactStall, family("system.memory.linux.compaction.stalls", "{event}",
		"Allocations of several pages in a row that had to move others out of the way."))
	optional(vmCompactFail, family("system.memory.linux.compaction.failures", "{event}",
		"Compactions after which there still was no row of free pages."))
	optional(vmOOMKills, family("system.memory.linux.oom_kills", "{event}",
		"Processes killed because memory ran out, of the host or of a control group."))
}

// Collect implements collector.Collector.
func (p *Paging) Collect(_ context.Context, now time.Time) error {
	some, err := p.collectVmstat(now)
	return p.collected(errors.Join(err, p.collectSwaps()), some)
}

// collectVmstat stores the fields all of whose lines are good.
func (p *Paging) collectVmstat(now time.Time) (some bool, err error) {
	b, err := p.vmstat.Read()
	if err != nil {
		return false, err
	}
	bad := p.sample.parse(b, p.lines)
	err = errors.Join(bad.asError(p.vmstat), parseError(p.vmstat, p.sample.missing(&p.expected)))
	whole := func(field int) bool { return p.sample.lines[field] == p.expected[field] }
	for field, register := range p.counts {
		if register != nil && whole(field) {
			register.Observe(p.sample.total(field), now)
			some = true
		}
	}
	if whole(vmFaults) && whole(vmMajorFaults) {
		// A major fault may be counted before the kernel counts it among all: that is no fall.
		faults := p.sample.value[vmFaults]
		minor := int64(faults - min(faults, p.sample.value[vmMajorFaults]))
		p.minor.Observe(uint64(max(minor, p.minor.Value())), now)
	}
	return some, err
}

// total returns the value of a field in the unit of its metric.
func (v *vmstat) total(field int) uint64 {
	if field == vmPageIn || field == vmPageOut {
		return v.value[field] << 10 // from kB
	}
	return v.value[field]
}

// collectSwaps stores the swap devices. If their file cannot be read, they go: that is an error once and a degraded
// verdict until it is back.
func (p *Paging) collectSwaps() error {
	if p.swaps == nil && p.swapsLost == nil {
		return nil // the kernel cannot swap
	}
	b, err := p.readSwaps()
	if err != nil {
		again := p.swapsLost != nil
		p.swapsLost = err
		p.devices.begin()
		p.devices.sweep((*swapDevice).remove)
		if again {
			return nil
		}
		p.judge()
		return err
	}
	if p.swapsLost != nil {
		p.swapsLost = nil
		p.judge()
	}
	return p.storeSwaps(b)
}

func (p *Paging) readSwaps() (b []byte, err error) {
	if p.swaps == nil {
		if p.swaps, err = procfs.Open(p.swapsPath); err != nil {
			return nil, err
		}
	}
	return p.swaps.Read()
}

// storeSwaps reads the content of /proc/swaps: a head and a line for each device.
func (p *Paging) storeSwaps(b []byte) error {
	p.devices.begin()
	var bad tableError
	for number := 0; number == 0 || len(b) > 0; number++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(number, procfs.ErrTruncated)
			break
		}
		b = rest
		if number == 0 {
			continue
		}
		name, size, used, err := parseSwap(line)
		if err != nil {
			bad.note(number, err)
			continue
		}
		member, fresh := p.devices.find(name)
		device := &member.T
		if fresh {
			device.entity = p.env.Metrics.Entity(p.env.Host, p.env.Boot)
			path := attribute.String("system.device", text(unescape(member.name)))
			device.used = p.usage.With(device.entity, path, attribute.String("system.paging.state", "used"))
			device.free = p.usage.With(device.entity, path, attribute.String("system.paging.state", "free"))
		}
		device.used.Set(used)
		device.free.Set(max(0, size-used))
	}
	if bad.err == nil { // in a damaged file a device without a line need not be gone
		p.devices.sweep((*swapDevice).remove)
	}
	return bad.asError(p.swaps)
}

// parseSwap reads a line like "/dev/dm-1  partition  8388604  1024  -2": name, type, and size and use in kB, which
// it returns in bytes.
func parseSwap(line []byte) (name []byte, size, used int64, err error) {
	name, line = procfs.Field(line)
	_, line = procfs.Field(line)
	var v [2]uint64
	n, _, err := procfs.Uints(line, v[:])
	switch {
	case err != nil:
		return nil, 0, 0, err
	case n < len(v):
		return nil, 0, 0, procfs.ErrTruncated
	case max(v[0], v[1]) > 1<<52:
		return nil, 0, 0, fmt.Errorf("size of %s: %w", name, procfs.ErrRange)
	}
	return name, int64(v[0]) << 10, int64(v[1]) << 10, nil
}

// unescape undoes how the kernel writes blanks, tabs, newlines and backslashes in a path: a backslash and three
// octal digits.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func (d *swapDevice) remove() { d.entity.Remove() }

// Close implements collector.Collector.
func (p *Paging) Close() error {
	err := p.vmstat.Close()
	if p.swaps != nil {
		err = errors.Join(err, p.swaps.Close())
	}
	return err
}
