package host

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
	"github.com/slid-agent/slid/internal/verdict"
)

// The attributes of /sys/class/net that are read again and again.
const (
	linkFlags   = iota // IFF_UP and others, hexadecimal
	linkCarrier        // 1 or 0; EINVAL while the interface is disabled
	linkChanges        // how often the carrier came or went
	linkSpeed          // Mbit/s; -1 if unknown; EINVAL while disabled, or where the driver does not tell
	linkDuplex         // full, half or unknown; EINVAL like speed
	linkMTU
	linkAttributes
)

// linkAttribute returns the name of the file of an attribute.
func linkAttribute(i int) string {
	return [linkAttributes]string{"flags", "carrier", "carrier_changes", "speed", "duplex", "mtu"}[i]
}

// linkFacts is what the attributes of an interface say.
type linkFacts struct {
	enabled bool // by the administrator
	carrier bool
	changes uint64
	speed   int64 // Mbit/s; 0 if unknown
	half    bool
	mtu     uint64
}

// parseFlags reads the attribute flags, like 0x1003.
func parseFlags(b []byte) (enabled bool, err error) {
	line := bytes.TrimSuffix(b, []byte{'\n'})
	digits, ok := bytes.CutPrefix(line, []byte("0x"))
	if !ok {
		return false, procfs.ErrSyntax
	}
	flags, err := netHex(digits)
	return flags&unix.IFF_UP != 0, err
}

// parseSpeed reads the attribute speed in Mbit/s; it is 0 if the kernel does not know.
func parseSpeed(b []byte) (int64, error) {
	line := bytes.TrimSuffix(b, []byte{'\n'})
	if len(line) > 1 && line[0] == '-' {
		_, err := procfs.Uint(line[1:])
		return 0, err
	}
	v, err := procfs.Uint(line)
	if v >= 1<<31-1 { // SPEED_UNKNOWN, as old kernels print it
		v = 0
	}
	return int64(v), err
}

// parseLinkNumber reads an attribute that is one number.
func parseLinkNumber(b []byte) (uint64, error) { return procfs.Uint(bytes.TrimSuffix(b, []byte{'\n'})) }

// Link collects the state of each physical network interface and bond: whether it has a carrier and how often that
// changed, its speed, and what a bond has left of its members. Which interfaces there are it learns from
// /proc/1/net/dev, their attributes from /sys/class/net. The kernel asks the driver for the speed under a lock that
// all changes of the network wait for, so this belongs to the slow lane; carrier changes are counted by the kernel
// and none is missed.
type Link struct {
	health
	env   collector.Env
	dev   *procfs.File
	class netClass
	links roster[linkState]
	last  time.Time

	bandwidth, up, enabled, changes, half, mtu, members metric.IntFamily
}

// linkState is one interface.
type linkState struct {
	name    string
	shown   bool  // it is physical or a bond
	unknown bool  // /sys does not have it
	refused error // why its attributes cannot be opened
	gone    bool  // its attributes could not be found the last time
	files   [linkAttributes]*procfs.File
	silent  bool // the driver does not tell speed and duplex; it is asked again when the carrier changes
	facts   linkFacts
	bond    *bondState // nil if it is none

	entity                 *metric.Entity
	up, enabled, half, mtu *metric.Int
	changes                *metric.Int // nil before Linux 3.15
	speed                  *metric.Entity
	bandwidth              *metric.Int
}

// NewLink opens the list of interfaces. Without the host's /sys nothing is known of their links.
func NewLink(env collector.Env) (collector.Collector, error) {
	l := &Link{env: env, class: netClassOf(env)}
	l.name, l.hook = "host/link", string(l.class)
	if _, err := os.Stat(string(l.class)); err != nil {
		return nil, &verdict.UnavailableError{Reason: "cannot see the host's interfaces", Missing: "the host's /sys", Err: err}
	}
	dev, err := l.openNet(env.Proc, "dev", procfs.Open)
	if err != nil {
		return nil, unavailable(err)
	}
	l.dev = dev
	l.declare(env.Metrics)
	return l, nil
}

func (l *Link) declare(m *metric.Group) {
	const area = "system.network.link.linux."
	file := func(attribute string) string { return "/sys/class/net/*/" + attribute }
	family := func(d metric.Desc, keys ...attribute.Key) metric.IntFamily {
		d.Attributes = keys
		return m.Int(d)
	}
	l.bandwidth = family(amount("hw.network.bandwidth.limit", "By/s", file("speed"),
		"Speed of the link, each way."), "hw.id", "hw.name")
	l.up = family(amount("hw.network.up", "1", file("carrier"), "1 if the interface is enabled and has a carrier, else 0."),
		"hw.id", "hw.name")
	const name = "network.interface.name"
	l.enabled = family(amount(area+"enabled", "1", file("flags"),
		"1 if the interface is enabled by the administrator: then it ought to be up."), name)
	l.changes = family(counter(area+"carrier_changes", "{change}", file("carrier_changes"),
		"Times that the carrier came or went."), name)
	l.half = family(amount(area+"half_duplex", "1", file("duplex"),
		"1 if the link can only receive or transmit at a time, mostly by a mistake in negotiation; else 0."), name)
	l.mtu = family(amount(area+"mtu", "By", file("mtu"), "Largest packet that the interface transmits."), name)
	l.members = family(amount("system.network.bond.linux.members", "{interface}", file("bonding_slave/mii_status"),
		"Interfaces of a bond by the state of their link."), name, memberState)
}

// Collect implements collector.Collector.
func (l *Link) Collect(_ context.Context, now time.Time) error {
	b, err := l.dev.Read()
	if err != nil {
		return l.collected(err, false)
	}
	l.links.begin()
	bad, unknown, errs := l.collectLines(b, now)
	if bad.err == nil {
		l.links.sweep((*linkState).remove)
	}
	l.judge(unknown)
	l.last = now
	return l.collected(errors.Join(bad.asError(l.dev), errs), l.links.next > 0)
}

// collectLines stores the state of all interfaces of the list. unknown is one that /sys does not have.
func (l *Link) collectLines(b []byte, now time.Time) (bad tableError, unknown string, errs error) {
	lines := 0
	for ; len(b) > 0; lines++ {
		line, rest, ok := procfs.Line(b)
		if !ok {
			bad.note(lines, procfs.ErrTruncated)
			break
		}
		b = rest
		if lines < headerLines {
			continue
		}
		name, _, err := interfaceName(line)
		if err != nil {
			bad.note(lines, err)
			continue
		}
		s := l.find(name)
		if s.unknown {
			unknown = s.name
		}
		errs = errors.Join(errs, l.collectLink(s, now))
	}
	if lines <= headerLines { // every namespace has lo
		bad.note(lines, procfs.ErrTruncated)
	}
	return bad, unknown, errs
}

// strangers is the reason of the verdict when /sys and /proc show different network namespaces.
const strangers = "shows another network namespace than the host's: it does not have "

// judge notes whether /sys has all interfaces of the host. One that it lacks may also be about to go.
func (l *Link) judge(unknown string) {
	if l.reason != "" && !strings.HasPrefix(l.reason, strangers) {
		return
	}
	l.reason, l.missing = "", ""
	if unknown != "" {
		l.reason, l.missing = strangers+unknown, "the host's /sys"
	}
}

// find returns the state of an interface.
func (l *Link) find(name []byte) *linkState {
	member, fresh := l.links.find(name)
	s := &member.T
	if fresh {
		s.name = text(member.name)
	}
	if fresh || s.unknown || s.refused != nil {
		l.examine(s, member.name)
	}
	return s
}

// examine asks /sys what kind an interface is, and opens the attributes of those that are shown.
func (l *Link) examine(s *linkState, name string) {
	_, err := os.Stat(l.class.path(name, ""))
	s.unknown = errors.Is(err, fs.ErrNotExist)
	if s.shown = l.class.physical(name); !s.shown {
		return
	}
	s.refused = nil
	for i := range s.files {
		file, err := procfs.OpenSingle(l.class.path(name, linkAttribute(i)))
		switch {
		case err == nil:
			s.files[i] = file
		case i == linkFlags: // the others need not be there
			s.refused = err
			return
		}
	}
	if _, err := os.Stat(l.class.path(name, "bonding")); err == nil {
		s.bond = &bondState{class: l.class, path: l.class.path(name, "bonding/slaves")}
	}
}

// collectLink stores the state of one interface. That its files are gone is believed at the second time: it may
// have been removed since the list was read.
func (l *Link) collectLink(s *linkState, now time.Time) error {
	if !s.shown {
		return nil
	}
	err := s.refused
	if err == nil {
		err = s.read()
	}
	vanished := err != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV))
	first := vanished && !s.gone
	s.gone = vanished
	switch {
	case first:
		return nil
	case err != nil:
		return err
	}
	if s.entity == nil {
		l.register(s)
	}
	s.store(now)
	l.storeSpeed(s)
	if s.bond != nil {
		return s.bond.collect(s.name, s.entity, l.members)
	}
	return nil
}

// read reads the attributes of an interface. A disabled one has no carrier, and one without a carrier no speed: the
// kernel is not asked.
func (s *linkState) read() (err error) {
	before := s.facts.changes
	s.facts = linkFacts{}
	f := &s.facts
	if f.enabled, err = readLinkAttribute(s.files[linkFlags], parseFlags); err != nil {
		return err
	}
	if f.changes, err = readLinkAttribute(s.files[linkChanges], parseLinkNumber); err != nil {
		return err
	}
	if f.mtu, err = readLinkAttribute(s.files[linkMTU], parseLinkNumber); err != nil || !f.enabled {
		return err
	}
	carrier, err := readLinkAttribute(s.files[linkCarrier], parseLinkNumber)
	if f.carrier = carrier == 1; err != nil || !f.carrier {
		s.silent = false
		return linkHasNone(err)
	}
	if s.silent && f.changes == before {
		return nil
	}
	f.speed, err = readLinkAttribute(s.files[linkSpeed], parseSpeed)
	if err == nil {
		f.half, err = readLinkAttribute(s.files[linkDuplex], parseDuplex)
	}
	s.silent = err != nil && linkHasNone(err) == nil
	return linkHasNone(err)
}

// readLinkAttribute reads an attribute, if the interface has it.
func readLinkAttribute[T any](file *procfs.File, parse func([]byte) (T, error)) (v T, err error) {
	if file == nil {
		return v, nil
	}
	b, err := file.Read()
	if err != nil {
		return v, err
	}
	v, err = parse(b)
	return v, parseError(file, err)
}

// linkHasNone drops the errors by which the kernel says that an interface has no such thing, or not while it is down.
func linkHasNone(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// parseDuplex reads the attribute duplex.
func parseDuplex(b []byte) (half bool, err error) {
	switch string(b) {
	case "half\n":
		return true, nil
	case "full\n", "unknown\n":
		return false, nil
	}
	return false, errors.New("neither full, half nor unknown")
}

// since returns the start of series that are made now.
func (l *Link) since() time.Time {
	if l.last.IsZero() {
		return l.env.Boot
	}
	return l.last
}

// register makes the series of an interface.
func (l *Link) register(s *linkState) {
	s.entity = l.env.Metrics.Entity(l.env.Host, l.since())
	name := attribute.String("network.interface.name", s.name)
	s.up = l.up.With(s.entity, linkIdentity(s.name)...)
	s.enabled = l.enabled.With(s.entity, name)
	s.half = l.half.With(s.entity, name)
	s.mtu = l.mtu.With(s.entity, name)
	if s.files[linkChanges] != nil {
		s.changes = l.changes.With(s.entity, name)
	}
}

// linkIdentity returns what identifies an interface among the hardware.
func linkIdentity(name string) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("hw.id", name), attribute.String("hw.name", name)}
}

func (s *linkState) store(now time.Time) {
	s.up.Set(linkBit(s.facts.enabled && s.facts.carrier))
	s.enabled.Set(linkBit(s.facts.enabled))
	s.half.Set(linkBit(s.facts.half))
	s.mtu.Set(int64(min(s.facts.mtu, 1<<32)))
	if s.changes != nil {
		s.changes.Observe(s.facts.changes, now)
	}
}

func linkBit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// storeSpeed stores the speed. Its series is there while the speed is known.
func (l *Link) storeSpeed(s *linkState) {
	if s.facts.speed == 0 {
		if s.speed != nil {
			s.speed.Remove()
			s.speed = nil
		}
		return
	}
	if s.speed == nil {
		s.speed = l.env.Metrics.Entity(l.env.Host, l.since())
		s.bandwidth = l.bandwidth.With(s.speed, linkIdentity(s.name)...)
	}
	const bytesPerMbit = 1e6 / 8
	s.bandwidth.Set(s.facts.speed * bytesPerMbit)
}

// remove takes the series of an interface that has gone away.
func (s *linkState) remove() {
	_ = s.close() // its files went with it
	if s.entity != nil {
		s.entity.Remove()
	}
	if s.speed != nil {
		s.speed.Remove()
	}
}

// close gives back the files of an interface.
func (s *linkState) close() error {
	var errs error
	for _, f := range s.files {
		if f != nil {
			errs = errors.Join(errs, f.Close())
		}
	}
	if s.bond != nil {
		errs = errors.Join(errs, s.bond.close())
	}
	return errs
}

// Close implements collector.Collector.
func (l *Link) Close() error {
	errs := l.dev.Close()
	for _, member := range l.links.byName {
		errs = errors.Join(errs, member.T.close())
	}
	return errs
}

// memberState is the attribute that says how the link of a bond's member is.
const memberState = attribute.Key("system.network.bond.member.state")

// bondState is the members of a bond.
type bondState struct {
	class    netClass
	path     string       // of the list of members
	file     *procfs.File // nil until it is open
	list     []byte       // as it was read the last time
	members  []*procfs.File
	up, down *metric.Int
}

// collect counts the members whose link is up, and the others.
func (b *bondState) collect(name string, e *metric.Entity, family metric.IntFamily) (err error) {
	if b.file == nil {
		if b.file, err = procfs.OpenSingle(b.path); err != nil {
			return err
		}
	}
	list, err := b.file.Read()
	if err != nil {
		return err
	}
	if !bytes.Equal(list, b.list) || b.up == nil {
		if err := b.open(list); err != nil {
			return err
		}
	}
	up, down := int64(0), int64(0)
	for _, member := range b.members {
		good, err := readLinkAttribute(member, parseMemberState)
		if err != nil {
			return err
		}
		if good {
			up++
		} else {
			down++
		}
	}
	if b.up == nil {
		with := func(state string) *metric.Int {
			return family.With(e, attribute.String("network.interface.name", name), memberState.String(state))
		}
		b.up, b.down = with("up"), with("down")
	}
	b.up.Set(up)
	b.down.Set(down)
	return nil
}

// open opens the state of each member of a list like "eno1 eno2".
func (b *bondState) open(list []byte) error {
	for _, f := range b.members {
		_ = f.Close()
	}
	b.list, b.members = nil, nil
	for name := range strings.FieldsSeq(string(list)) {
		f, err := procfs.OpenSingle(b.class.path(name, "bonding_slave/mii_status"))
		if err != nil {
			return err
		}
		b.members = append(b.members, f)
	}
	b.list = append(b.list, list...)
	return nil
}

// parseMemberState says whether the link of a member is up; "going down" and "going back" are not.
func parseMemberState(b []byte) (up bool, err error) {
	switch state := string(bytes.TrimSuffix(b, []byte{'\n'})); state {
	case "up":
		return true, nil
	case "down", "going down", "going back":
		return false, nil
	default:
		return false, errors.New("state " + strconv.Quote(state))
	}
}

func (b *bondState) close() error {
	var errs error
	for _, f := range b.members {
		errs = errors.Join(errs, f.Close())
	}
	if b.file != nil {
		errs = errors.Join(errs, b.file.Close())
	}
	return errs
}
