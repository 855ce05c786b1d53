package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// Filesystem collects how full filesystems are. /proc/1/mountinfo lists them (mounts.go): each that stores something
// once, whatever else it is mounted at; statfs(2) asks them (statfs.go). A server that does not answer, as of NFS or
// FUSE, costs one thread and delays nothing: the filesystem shows as stuck, without values, until it answers.
//
// One that answers, but later than a collection waits, is not waited for again: what it said since the last
// collection counts for the next one.
type Filesystem struct {
	health
	env    collector.Env
	mounts *mountTable
	types  fsTypes
	strip  string // what mount points begin with, where slid's own list of mounts is all there is

	list   []*filesystem // in the order of mount points
	local  *statfsCrew   // for block devices
	remote *statfsCrew   // for servers, which cannot take the workers of block devices
	last   time.Time     // the previous collection

	always  string // why it is degraded as long as it lives
	remedy  string
	summary filesystemSummary // what the verdict was made of
	badList string            // what was logged about mountinfo

	usage, limit, inodes, inodeLimit, stuck, readOnly metric.IntFamily
	failures                                          *metric.Int
}

// filesystem is the state of one filesystem.
type filesystem struct {
	mount    filesystemMount
	crew     *statfsCrew
	probe    *statfsProbe
	listed   bool // it is in the present list of mounts
	readOnly bool
	// flagged is whether statfs says that nothing can be written. That may hold only for the mount that slid sees; a
	// change is a reason to read the list of mounts again.
	flagged, asked bool

	suspect    bool // the last question was not answered in time
	late       bool // it was answered since the last collection, by lateAnswer and lateErr
	lateAnswer unix.Statfs_t
	lateErr    error

	stuck  bool
	err    error // of the last answer
	logged error // the last that was logged
	shown  *filesystemRegisters
	status *filesystemStatus
}

// filesystemMount identifies a filesystem.
type filesystemMount struct {
	device                [2]uint64
	point, fsType, source string
}

// filesystemRegisters are the series of a filesystem that has answered.
type filesystemRegisters struct {
	entity                *metric.Entity
	used, free, reserved  *metric.Int
	limit                 *metric.Int
	usedInodes            *metric.Int // nil if it does not count inodes
	freeInodes, allInodes *metric.Int
}

// filesystemStatus are the series that a filesystem has even if it does not answer.
type filesystemStatus struct {
	entity          *metric.Entity
	stuck, readOnly *metric.Int
}

// filesystemSummary is what the verdict tells.
type filesystemSummary struct {
	stuck, failed, unasked int
	first                  *filesystem // the first of them
	err                    error       // of first
	list                   string      // what is wrong with the list of mounts
}

// add counts a filesystem.
func (s *filesystemSummary) add(fs *filesystem, count *int, err error) {
	*count++
	if s.first == nil {
		s.first, s.err = fs, err
	}
}

// NewFilesystem opens /proc/1/mountinfo, or that of slid itself if process 1 is hidden: then the verdict says so.
func NewFilesystem(env collector.Env) (collector.Collector, error) {
	return newFilesystem(env, (*statfsProbe).ask)
}

func newFilesystem(env collector.Env, ask func(*statfsProbe) error) (*Filesystem, error) {
	f := &Filesystem{env: env, types: fsTypes{path: filepath.Join(env.Proc, "filesystems")}}
	f.name = "host/filesystem"
	mounts, err := openMounts(filepath.Join(env.Proc, "1/mountinfo"))
	if err != nil {
		f.always = "shows the mounts of slid, which need not be all of the host's: " + err.Error()
		f.remedy = "a view of process 1 (hidepid, ProtectProc=)"
		var own error
		if mounts, own = openMounts(filepath.Join(env.Proc, "self/mountinfo")); own != nil {
			return nil, unavailable(fmt.Errorf("%w; %w", err, own))
		}
		if env.Root != "" && env.Root != "/" {
			f.strip = env.Root
		}
	}
	f.mounts, f.hook = mounts, mounts.file.Path()
	f.reason, f.missing = f.always, f.remedy
	f.local, f.remote = newStatfsCrew(ask), newStatfsCrew(ask)
	f.declare(env.Metrics)
	return f, nil
}

func (f *Filesystem) declare(m *metric.Group) {
	const device, fsType = "system.device", "system.filesystem.type"
	const mode, point = "system.filesystem.mode", "system.filesystem.mountpoint"
	family := func(name, unit, description string, more ...attribute.Key) metric.IntFamily {
		d := amount(name, unit, "statfs(2)", description)
		d.Attributes = append([]attribute.Key{device, fsType, mode, point}, more...)
		return m.Int(d)
	}
	f.usage = family("system.filesystem.usage", "By",
		"Space of a filesystem by state: free is what everybody may use, reserved what only root may use.",
		"system.filesystem.state")
	f.limit = family("system.filesystem.limit", "By", "Size of a filesystem.")
	f.inodes = family("system.filesystem.inodes.usage", "{inode}",
		"Inodes of a filesystem by state. One that makes them as it needs has none of these series.",
		"system.filesystem.state")
	f.inodeLimit = family("system.filesystem.inodes.limit", "{inode}", "Inodes that a filesystem can have.")
	gauge := func(name, source, description string) metric.IntFamily {
		return m.Int(metric.Desc{
			Name: name, Unit: "1", Kind: metric.Gauge, Source: source, Description: description,
			Attributes: []attribute.Key{device, fsType, point},
		})
	}
	f.stuck = gauge("system.filesystem.linux.stuck", "statfs(2)",
		"1 while a filesystem does not answer: then its other series have no values.")
	f.readOnly = gauge("system.filesystem.linux.read_only", "/proc/1/mountinfo",
		"1 if nothing can be written: a filesystem is mounted so, or has stopped writing after an error.")
	f.failures = m.Int(counter("system.filesystem.linux.failures", "{failure}", "statfs(2)",
		"Questions for the size of a filesystem that ended with an error.")).With(m.Entity(f.env.Host, time.Now()))
}

// Collect implements collector.Collector.
func (f *Filesystem) Collect(_ context.Context, now time.Time) error {
	known, err := f.refresh(now)
	if !known {
		return f.collected(err, false)
	}
	f.askAll()
	summary := filesystemSummary{list: f.badList}
	turned := false
	for _, fs := range f.list {
		before := fs.flagged
		first := !fs.asked
		f.settle(fs, &summary)
		turned = turned || !first && fs.flagged != before
	}
	if turned {
		f.mounts.stale = true // read the list of mounts next time
		if _, err := f.refresh(now); err == nil {
			f.relabel()
		}
	}
	f.report(&summary)
	f.last = now
	return f.collected(nil, true)
}

// refresh takes over the list of mounts if it changed. known is false if there never was one.
func (f *Filesystem) refresh(now time.Time) (known bool, err error) {
	changed, some, err := f.mounts.refresh(now)
	f.logList(err)
	if changed && some {
		f.update(err == nil)
	}
	return some || len(f.list) > 0, err
}

// logList logs what is wrong with the list of mounts when that is new.
func (f *Filesystem) logList(err error) {
	if err == nil {
		f.badList = ""
		return
	}
	if text := oneLine(err); text != f.badList {
		f.badList = text
		f.env.Log.Warn("cannot read the whole list of mounts", "error", err)
	}
}

// update compares the list of mounts with the filesystems that are known. Those that are not in it went, if the list
// is whole.
func (f *Filesystem) update(whole bool) {
	f.types.load()
	known := make(map[filesystemMount]*filesystem, len(f.list))
	for _, fs := range f.list {
		known[fs.mount] = fs
		fs.listed = false
	}
	old := f.list
	f.list = nil
	for _, m := range f.mounts.filesystems(f.wanted) {
		key := filesystemMount{m.device, unescapeMount(m.point), string(m.fsType), unescapeMount(m.source)}
		fs := known[key]
		if fs == nil {
			fs = f.discover(key, m)
		} else if fs.probe.state.Load() == statfsIdle {
			fs.probe.check = m.sharesNumber()
		}
		fs.listed = true
		f.setMode(fs, m.readOnly())
		f.list = append(f.list, fs)
	}
	for _, fs := range old {
		switch {
		case fs.listed:
		case whole:
			fs.remove()
		default:
			f.list = append(f.list, fs)
		}
	}
}

// wanted says whether a mount is of a filesystem that is shown.
func (f *Filesystem) wanted(m *mountLine) bool {
	if f.strip != "" && !strings.HasPrefix(unescapeMount(m.point)+"/", f.strip+"/") {
		return false
	}
	return f.types.wanted(m)
}

// discover makes the state of a filesystem.
func (f *Filesystem) discover(key filesystemMount, m *mountLine) *filesystem {
	path := hostPath(f.env.Root, key.point)
	if f.strip != "" {
		path = key.point
	}
	fs := &filesystem{mount: key, crew: f.local, probe: newStatfsProbe(path, key.device, m.sharesNumber())}
	if f.types.remote(m) {
		fs.crew = f.remote
	}
	fs.readOnly = m.readOnly()
	return fs
}

// setMode notes whether a filesystem can be written. Its series have that as an attribute, so they begin anew.
func (f *Filesystem) setMode(fs *filesystem, readOnly bool) {
	if fs.readOnly == readOnly {
		return
	}
	fs.readOnly = readOnly
	fs.hide()
	f.env.Log.Warn("the mode of a filesystem changed", "mountpoint", fs.mount.point, "device", fs.mount.source,
		"mode", fs.mode())
}

// relabel shows the last answers again after modes changed.
func (f *Filesystem) relabel() {
	for _, fs := range f.list {
		if fs.shown == nil && fs.asked && fs.err == nil && !fs.stuck && fs.probe.state.Load() == statfsIdle {
			f.show(fs, &fs.probe.result)
		}
	}
}

// askAll asks each filesystem that does not owe an answer, and waits for those that were quick the last time.
func (f *Filesystem) askAll() {
	now := time.Now()
	for _, awaited := range []bool{true, false} { // first those that are quick
		for _, fs := range f.list {
			if fs.suspect == awaited {
				continue
			}
			switch fs.probe.state.Load() {
			case statfsAnswered: // since the last collection
				fs.late, fs.lateAnswer, fs.lateErr = true, fs.probe.result, fs.probe.err
				fs.crew.add(fs.probe, awaited, now)
			case statfsIdle:
				fs.crew.add(fs.probe, awaited, now)
			}
		}
	}
	f.local.begin()
	f.remote.begin()
	deadline := now.Add(statfsPatience)
	f.local.wait(deadline)
	f.remote.wait(deadline)
}

// settle stores what became of the question to a filesystem.
func (f *Filesystem) settle(fs *filesystem, summary *filesystemSummary) {
	answer, err := &fs.lateAnswer, error(nil)
	stuck, unasked := false, false
	switch state := fs.probe.state.Load(); {
	case state == statfsAnswered:
		answer, err = &fs.probe.result, fs.probe.err
		fs.suspect = false
		fs.probe.state.Store(statfsIdle)
	case fs.late:
		err = fs.lateErr
	case fs.suspect && time.Since(fs.probe.since) < statfsPatience: // it was asked just now: nothing is known yet
		if fs.stuck {
			summary.add(fs, &summary.stuck, nil)
		}
		return
	case state == statfsAsking:
		fs.suspect, stuck = true, true
	default:
		unasked = true
	}
	f.setStuck(fs, stuck)
	switch {
	case stuck:
		summary.add(fs, &summary.stuck, nil)
	case unasked:
		summary.add(fs, &summary.unasked, nil)
		fs.conceal()
	case err != nil:
		summary.add(fs, &summary.failed, err)
		f.fail(fs, err)
	default:
		f.answered(fs, answer)
	}
	fs.late = false
}

// setStuck shows whether a filesystem answers, and says so when that changes.
func (f *Filesystem) setStuck(fs *filesystem, stuck bool) {
	switch {
	case stuck && !fs.stuck:
		f.env.Log.Warn("a filesystem does not answer: showing it as stuck", "mountpoint", fs.mount.point,
			"device", fs.mount.source, "type", fs.mount.fsType)
	case !stuck && fs.stuck:
		f.env.Log.Info("a filesystem answers again", "mountpoint", fs.mount.point)
	}
	fs.stuck = stuck
	if stuck {
		fs.hide()
		f.showStatus(fs)
	}
}

// fail counts an error and logs it if it is another than the last one.
func (f *Filesystem) fail(fs *filesystem, err error) {
	f.failures.Add(1)
	fs.err = err
	fs.conceal()
	if fs.logged == nil || !errors.Is(err, fs.logged) {
		fs.logged = err
		f.env.Log.Warn("cannot ask a filesystem for its size", "mountpoint", fs.mount.point, "path", fs.probe.path,
			"error", err)
	}
}

// answered shows what a filesystem said. One without blocks stores nothing.
func (f *Filesystem) answered(fs *filesystem, s *unix.Statfs_t) {
	fs.err, fs.logged = nil, nil
	fs.flagged, fs.asked = s.Flags&unix.ST_RDONLY != 0, true
	if s.Blocks == 0 {
		fs.conceal()
		return
	}
	f.show(fs, s)
	f.showStatus(fs)
}

// showStatus stores what is known without an answer.
func (f *Filesystem) showStatus(fs *filesystem) {
	if fs.status == nil {
		e := f.env.Metrics.Entity(f.env.Host, f.since())
		attrs := fs.attributes()
		fs.status = &filesystemStatus{
			entity: e, stuck: f.stuck.With(e, attrs...), readOnly: f.readOnly.With(e, attrs...),
		}
	}
	fs.status.stuck.Set(oneWhile(fs.stuck))
	fs.status.readOnly.Set(oneWhile(fs.readOnly))
}

// show stores how full a filesystem is.
func (f *Filesystem) show(fs *filesystem, s *unix.Statfs_t) {
	space := spaceOf(s)
	if r := fs.shown; r != nil && (r.usedInodes != nil) != (space.inodes > 0) {
		fs.hide()
	}
	if fs.shown == nil {
		fs.shown = f.register(fs, space.inodes > 0)
	}
	r := fs.shown
	r.used.Set(space.used)
	r.free.Set(space.free)
	r.reserved.Set(space.reserved)
	r.limit.Set(space.limit)
	if r.usedInodes != nil {
		r.usedInodes.Set(space.inodes - space.freeInodes)
		r.freeInodes.Set(space.freeInodes)
		r.allInodes.Set(space.inodes)
	}
}

// register makes the series of a filesystem.
func (f *Filesystem) register(fs *filesystem, inodes bool) *filesystemRegisters {
	e := f.env.Metrics.Entity(f.env.Host, f.since())
	attrs := append(fs.attributes(), attribute.String("system.filesystem.mode", fs.mode()))
	state := func(family metric.IntFamily, name string) *metric.Int {
		return family.With(e, append(slices.Clip(attrs), attribute.String("system.filesystem.state", name))...)
	}
	r := &filesystemRegisters{
		entity: e, used: state(f.usage, "used"), free: state(f.usage, "free"), reserved: state(f.usage, "reserved"),
		limit: f.limit.With(e, attrs...),
	}
	if inodes {
		r.usedInodes, r.freeInodes = state(f.inodes, "used"), state(f.inodes, "free")
		r.allInodes = f.inodeLimit.With(e, attrs...)
	}
	return r
}

// since returns when series that begin now have their start: with the previous collection, or boot.
func (f *Filesystem) since() time.Time {
	if f.last.IsZero() {
		return f.env.Boot
	}
	return f.last
}

// report makes the verdict anew if there is something else to tell.
func (f *Filesystem) report(s *filesystemSummary) {
	if *s == f.summary {
		return
	}
	f.summary = *s
	f.reason, f.missing = f.always, f.remedy
	reasons := make([]string, 0, 5)
	if f.always != "" {
		reasons = append(reasons, f.always)
	}
	if s.list != "" {
		reasons = append(reasons, s.list)
	}
	count := func(n int, what string) {
		if n > 0 {
			reasons = append(reasons, fmt.Sprintf("%d of %d filesystems %s", n, len(f.list), what))
		}
	}
	count(s.stuck, "do not answer")
	count(s.failed, "cannot be asked")
	count(s.unasked, "are not asked while so many others do not answer")
	if s.first != nil {
		example := "e.g. " + s.first.mount.point
		if s.err != nil {
			example += ": " + s.err.Error()
			f.missing = f.helps(s.err)
		}
		reasons = append(reasons, example)
	}
	f.reason = strings.Join(reasons, "; ")
}

// helps names what would let slid see a filesystem.
func (f *Filesystem) helps(err error) string {
	if errors.Is(err, errElsewhere) || errors.Is(err, unix.ENOENT) {
		return "the mounts of the host below " + f.env.Root + " (rslave propagation)"
	}
	return remedy(err)
}

// Close implements collector.Collector. Workers whose question hangs end when the kernel answers.
func (f *Filesystem) Close() error {
	f.local.close()
	f.remote.close()
	return f.mounts.close()
}

// attributes are those that identify the filesystem.
func (fs *filesystem) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("system.device", text(fs.mount.source)),
		attribute.String("system.filesystem.type", text(fs.mount.fsType)),
		attribute.String("system.filesystem.mountpoint", text(fs.mount.point)),
	}
}

func (fs *filesystem) mode() string {
	if fs.readOnly {
		return "ro"
	}
	return "rw"
}

// hide takes the values away.
func (fs *filesystem) hide() {
	if fs.shown != nil {
		fs.shown.entity.Remove()
		fs.shown = nil
	}
}

// conceal takes all series away.
func (fs *filesystem) conceal() {
	fs.hide()
	if fs.status != nil {
		fs.status.entity.Remove()
		fs.status = nil
	}
}

// remove forgets a filesystem that was unmounted.
func (fs *filesystem) remove() {
	fs.conceal()
	fs.crew.withdraw(fs.probe)
}

// filesystemSpace is how full a filesystem is, in bytes and inodes. used, free and reserved add up to limit.
type filesystemSpace struct {
	used, free, reserved, limit int64
	inodes, freeInodes          int64
}

// spaceOf reckons as df(1) does. A server may say anything, so each part is kept within the whole.
func spaceOf(s *unix.Statfs_t) filesystemSpace {
	unit := uint64(max(s.Frsize, 0))
	if unit == 0 {
		unit = uint64(max(s.Bsize, 1))
	}
	blocks := min(s.Blocks, math.MaxInt64/unit)
	free := min(s.Bfree, blocks)
	available := s.Bavail
	if int64(available) < 0 { // some count what root took of the reserve as less than nothing
		available = 0
	}
	available = min(available, free)
	files := min(s.Files, math.MaxInt64)
	return filesystemSpace{
		used:     int64((blocks - free) * unit),
		free:     int64(available * unit),
		reserved: int64((free - available) * unit),
		limit:    int64(blocks * unit),
		inodes:   int64(files), freeInodes: int64(min(s.Ffree, files)),
	}
}

// oneWhile returns 1 for true, for gauges of states.
func oneWhile(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
