package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The numbers of a line of /proc/net/dev that are used, by their place in an interfaceTotals.
const (
	netBytes = iota
	netPackets
	netErrors
	netDrops
	netKinds // of each direction
)

const (
	netReceive = iota
	netTransmit
	netDirections
)

// interfaceTotals are the numbers of an interface by direction and kind.
type interfaceTotals [netDirections][netKinds]uint64

// transmitColumn is the place of the first number of what was sent in a line of /proc/net/dev.
const transmitColumn = 8

// maxInterfaceName is the longest name of an interface (IFNAMSIZ less its NUL).
const maxInterfaceName = 15

// parseInterface reads a line like "  eth0: 150322848 9753 0 0 0 0 0 0 874525 8380 0 0 0 0 0 0".
func parseInterface(line []byte, totals *interfaceTotals) (name []byte, err error) {
	name, numbers, err := interfaceName(line)
	if err != nil {
		return nil, err
	}
	var v [transmitColumn + netKinds]uint64
	n, _, err := procfs.Uints(numbers, v[:])
	if err == nil && n < len(v) {
		err = procfs.ErrTruncated
	}
	copy(totals[netReceive][:], v[:])
	copy(totals[netTransmit][:], v[transmitColumn:])
	return name, err
}

// interfaceName cuts the name off a line of /proc/net/dev.
func interfaceName(line []byte) (name, numbers []byte, err error) {
	colon := bytes.LastIndexByte(line, ':')
	if colon < 0 {
		return nil, nil, errors.New("no name of an interface")
	}
	name, _ = procfs.Field(line[:colon])
	if len(name) == 0 || len(name) > maxInterfaceName {
		return nil, nil, errors.New("no name of an interface")
	}
	return name, line[colon+1:], nil
}

// fell says whether any number of now is below that of before.
func (t *interfaceTotals) fell(now *interfaceTotals) bool {
	for d := range t {
		for k := range t[d] {
			if now[d][k] < t[d][k] {
				return true
			}
		}
	}
	return false
}

// virtualName is the network.interface.name of the series that stands for all virtual interfaces.
const virtualName = "virtual"

// maxNamedVirtual is how many virtual interfaces have series of their own where there is no physical one, which is
// so in a container's network namespace.
const maxNamedVirtual = 8

// Network collects the traffic of network interfaces from /proc/1/net/dev: that is the host's network namespace
// even where slid has one of its own. Physical interfaces, bonds of them and lo have series of their own. All
// others (veth, bridges, tunnels, VLANs) are added up into one, called virtual: hundreds may come and go with
// containers, and what crosses two of them counts twice in it.
type Network struct {
	health
	env        collector.Env
	file       *procfs.File
	class      netClass
	interfaces roster[netInterface]
	physical   bool // there is a physical interface
	named      int  // virtual interfaces with series of their own
	last       time.Time

	io, packets, errors, dropped metric.IntFamily
	virtual                      *interfaceRegisters // nil until there is a virtual interface
	virtualTotals                interfaceTotals
}

// interfaceKind says how an interface is shown.
type interfaceKind uint8

const (
	kindOwn     interfaceKind = iota + 1 // with series of its own
	kindNamed                            // the same, though virtual
	kindVirtual                          // added to the others
)

// netInterface is the state of one interface.
type netInterface struct {
	kind      interfaceKind
	totals    interfaceTotals
	registers *interfaceRegisters
}

// interfaceRegisters are the series of one interface, or of all virtual ones.
type interfaceRegisters struct {
	entity *metric.Entity
	totals [netDirections][netKinds]*metric.Int
}

// openNet opens a file of the host's network namespace: that of process 1, whatever namespace slid is in. Where
// process 1 is hidden it opens the one of slid's own namespace, which makes the source degraded. The error is that
// of both.
func (h *health) openNet(proc, name string, open func(string) (*procfs.File, error)) (*procfs.File, error) {
	file, err := open(filepath.Join(proc, "1/net", name))
	if err == nil {
		return file, nil
	}
	file, own := open(filepath.Join(proc, "net", name))
	if own != nil {
		return nil, fmt.Errorf("%w; %w", err, own)
	}
	h.reason = "shows the network namespace of slid, which need not be the host's: " + err.Error()
	h.missing = "a view of process 1 (hidepid, ProtectProc=)"
	return file, nil
}

// NewNetwork opens /proc/1/net/dev, or /proc/net/dev if process 1 is hidden: that shows the network namespace of
// slid, and the verdict says so.
func NewNetwork(env collector.Env) (collector.Collector, error) {
	n := &Network{env: env, class: netClassOf(env)}
	n.health.name = "host/network"
	file, err := n.openNet(env.Proc, "dev", procfs.Open)
	if err != nil {
		return nil, unavailable(err)
	}
	n.file, n.hook = file, file.Path()
	if _, err := os.Stat(string(n.class)); err != nil && n.reason == "" {
		n.reason = "cannot tell physical interfaces from virtual ones: " + err.Error()
		n.missing = "the host's /sys"
	}
	n.declare(env.Metrics)
	return n, nil
}

// netAbsent says whether an error of openNet means that neither namespace has such a file.
func netAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission)
}

func (n *Network) declare(m *metric.Group) {
	family := func(device attribute.Key, name, unit, description string) metric.IntFamily {
		d := counter(name, unit, "/proc/1/net/dev", description)
		d.Attributes = []attribute.Key{device, "network.io.direction"}
		return m.Int(d)
	}
	const name, device = "network.interface.name", "system.device"
	n.io = family(name, "system.network.io", "By", "Bytes received and transmitted.")
	n.packets = family(device, "system.network.packet.count", "{packet}", "Packets received and transmitted.")
	n.errors = family(name, "system.network.errors", "{error}", "Packets that were lost to errors.")
	n.dropped = family(name, "system.network.packet.dropped", "{packet}",
		"Packets that were dropped, most for lack of room in a queue.")
}

// Collect implements collector.Collector.
func (n *Network) Collect(_ context.Context, now time.Time) error {
	b, err := n.file.Read()
	if err != nil {
		return n.collected(err, false)
	}
	n.interfaces.begin()
	bad := n.collectLines(b, now)
	if bad.err == nil { // in a damaged file an interface without a line need not be gone
		n.interfaces.sweep(n.remove)
	}
	if n.virtual != nil {
		n.virtual.observe(&n.virtualTotals, now)
	}
	n.last = now
	return n.collected(bad.asError(n.file), n.interfaces.next > 0)
}

// headerLines stand above the interfaces.
const headerLines = 2

// collectLines stores the lines of all interfaces.
func (n *Network) collectLines(b []byte, now time.Time) (bad tableError) {
	lines := 0
	for ; len(b) > 0; lines++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(lines, procfs.ErrTruncated)
			return bad
		}
		b = rest
		if lines < headerLines {
			continue
		}
		if err := n.collectLine(line, now); err != nil {
			bad.note(lines, err)
		}
	}
	if lines <= headerLines { // every namespace has lo
		bad.note(lines, procfs.ErrTruncated)
	}
	return bad
}

// collectLine stores what one line says.
func (n *Network) collectLine(line []byte, now time.Time) error {
	var totals interfaceTotals
	name, err := parseInterface(line, &totals)
	if err != nil {
		return err
	}
	member, fresh := n.interfaces.find(name)
	i := &member.T
	if fresh {
		i.kind = n.classify(member.name)
	}
	if i.kind == kindVirtual {
		n.addVirtual(i, &totals)
		return nil
	}
	if i.registers != nil && i.totals.fell(&totals) { // made anew, or reset by its driver
		i.registers.entity.Remove()
		i.registers = nil
	}
	if i.registers == nil {
		i.registers = n.register(text(member.name), n.since())
	}
	i.totals = totals
	i.registers.observe(&totals, now)
	return nil
}

// classify says how an interface is shown. It asks /sys, for names tell nothing.
func (n *Network) classify(name string) interfaceKind {
	if name == "lo" || n.class.physical(name) {
		return kindOwn
	}
	if n.physical || n.named == maxNamedVirtual { // the search is for few: it looks at all interfaces
		return kindVirtual
	}
	if n.physical = n.class.anyPhysical(); n.physical {
		return kindVirtual
	}
	n.named++
	return kindNamed
}

// A netClass is the path of /sys/class/net, which tells what kind an interface is.
type netClass string

func netClassOf(env collector.Env) netClass { return netClass(filepath.Join(env.Sys, "class/net")) }

// path returns the path of an attribute of an interface.
func (c netClass) path(name, attribute string) string {
	return filepath.Join(string(c), filepath.Base(name), attribute)
}

// physical says whether a device of the machine is behind an interface, or it is a bond of such.
func (c netClass) physical(name string) bool {
	for _, entry := range [...]string{"device", "bonding"} {
		if _, err := os.Stat(c.path(name, entry)); err == nil {
			return true
		}
	}
	return false
}

func (c netClass) anyPhysical() bool {
	list, err := os.ReadDir(string(c))
	if err != nil {
		return false
	}
	for _, entry := range list {
		if c.physical(entry.Name()) {
			return true
		}
	}
	return false
}

// addVirtual adds the progress of a virtual interface to the sum. A new one adds all it has: it was made since the
// previous collection, or is there at the first one, which counts from boot.
func (n *Network) addVirtual(i *netInterface, now *interfaceTotals) {
	if n.virtual == nil {
		n.virtual = n.register(virtualName, n.since())
	}
	before := i.totals
	if before.fell(now) {
		before = interfaceTotals{}
	}
	for d := range now {
		for k, v := range now[d] {
			n.virtualTotals[d][k] += v - before[d][k]
		}
	}
	i.totals = *now
}

// since returns the start of series that are made now: the previous collection, when they had not begun, or boot
// at the first one.
func (n *Network) since() time.Time {
	if n.last.IsZero() {
		return n.env.Boot
	}
	return n.last
}

// register makes the series of an interface.
func (n *Network) register(name string, start time.Time) *interfaceRegisters {
	r := &interfaceRegisters{entity: n.env.Metrics.Entity(n.env.Host, start)}
	iface, device := attribute.String("network.interface.name", name), attribute.String("system.device", name)
	for d, direction := range [netDirections]string{netReceive: "receive", netTransmit: "transmit"} {
		dir := attribute.String("network.io.direction", direction)
		r.totals[d] = [netKinds]*metric.Int{
			netBytes:   n.io.With(r.entity, iface, dir),
			netPackets: n.packets.With(r.entity, device, dir),
			netErrors:  n.errors.With(r.entity, iface, dir),
			netDrops:   n.dropped.With(r.entity, iface, dir),
		}
	}
	return r
}

// observe stores the totals.
func (r *interfaceRegisters) observe(totals *interfaceTotals, now time.Time) {
	for d := range r.totals {
		for k, register := range r.totals[d] {
			register.Observe(totals[d][k], now)
		}
	}
}

// remove takes the series of an interface that has gone away.
func (n *Network) remove(i *netInterface) {
	if i.registers != nil {
		i.registers.entity.Remove()
	}
	if i.kind == kindNamed {
		n.named--
	}
}

// Close implements collector.Collector.
func (n *Network) Close() error { return n.file.Close() }
