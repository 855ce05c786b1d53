package host

import (
	"bytes"
	"context"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// RAID collects the state of Linux software RAID (md) from /sys/block/md*/md, which unlike /proc/mdstat is made to
// be read by programs (Documentation/admin-guide/md.rst). It is for the slow lane.
type RAID struct {
	health
	env   collector.Env
	block *deviceList // /sys/block
	read  attributeReader
	// sampled is of the present array.
	sampled raidSample
	found   func([]byte) // made once, for a closure allocates
	arrays  map[string]*raidArray
	order   []*raidArray
	tick    uint64
	last    time.Time
	bad     complaints
	failed  error // the first of this collection

	status, limit, disks, raidDisks, mismatches metric.IntFamily
	progress, speed                             metric.FloatFamily
}

// The health of an array, and its hw.state.
const (
	raidOK = iota
	raidDegraded
	raidFailed
	raidStates
)

func raidStateName(state int) string { return [raidStates]string{"ok", "degraded", "failed"}[state] }

// raidFiles are the files of an array.
type raidFiles struct {
	state, level, disks, degraded, action, completed, speed, mismatches, size attributePath
}

// raidArray is the state of one array.
type raidArray struct {
	name  string
	tick  uint64
	files raidFiles
	level string
	shown *raidRegisters
	sync  *raidSync
}

// raidRegisters are the series of an array.
type raidRegisters struct {
	entity     *metric.Entity
	states     [raidStates]*metric.Int
	limit      *metric.Int
	disks      *metric.Int
	missing    *metric.Int // nil without redundancy
	wanted     *metric.Int
	mismatches *metric.Int
}

// raidSync are the series of a check or rebuild under way.
type raidSync struct {
	action   string
	entity   *metric.Entity
	progress *metric.Float
	speed    *metric.Float
}

// raidSample is what the files of an array say.
type raidSample struct {
	state, action string
	level         string
	disks         uint64
	missing       uint64
	redundant     bool   // missing is known
	done, total   uint64 // of what is under way, in sectors; total is 0 if nothing is
	speed         uint64 // KiB/s
	mismatches    uint64
	sectors       uint64
}

// NewRAID opens /sys/block. A machine without arrays has no series.
func NewRAID(env collector.Env) (collector.Collector, error) {
	block, err := openDeviceList(filepath.Join(env.Sys, "block"))
	if err != nil {
		return nil, unavailable(err)
	}
	r := &RAID{env: env, block: block, arrays: make(map[string]*raidArray)}
	r.name, r.hook = "host/raid", filepath.Join(block.path, "md*/md")
	r.found = r.collectDevice
	r.declare(env.Metrics)
	return r, nil
}

func (r *RAID) declare(m *metric.Group) {
	const source = "/sys/block/md*/md/"
	keys := func(more ...attribute.Key) []attribute.Key {
		return append([]attribute.Key{"hw.id", "hw.name"}, more...)
	}
	family := func(name, unit, file, description string, more ...attribute.Key) metric.IntFamily {
		d := amount(name, unit, source+file, description)
		d.Attributes = keys(more...)
		return m.Int(d)
	}
	r.status = family("hw.status", "1", "{array_state,degraded}",
		"1 for the state that an array is in: degraded if disks are missing, failed if its data cannot be reached.",
		"hw.type", "hw.state")
	r.limit = family("hw.logical_disk.limit", "By", "../size", "Size of an array.", "hw.logical_disk.raid_level")
	r.disks = family("hw.logical_disk.linux.disks", "{disk}", "{raid_disks,degraded}",
		"Places for disks in an array by whether a working disk fills them.", "hw.logical_disk.linux.disk.state")
	r.raidDisks = family("hw.logical_disk.linux.disks.limit", "{disk}", "raid_disks", "Places for disks in an array.")
	r.mismatches = family("hw.logical_disk.linux.mismatches", "{sector}", "mismatch_cnt",
		"Sectors whose copies or parity did not agree at the last check.")
	gauge := func(name, unit, file, description string) metric.FloatFamily {
		return m.Float(metric.Desc{
			Name: name, Unit: unit, Kind: metric.Gauge, Source: source + file, Description: description,
			Attributes: keys("hw.logical_disk.linux.sync.action"),
		})
	}
	r.progress = gauge("hw.logical_disk.linux.sync.progress", "1", "sync_completed",
		"Share of a check, resync or recovery under way that is done.")
	r.speed = gauge("hw.logical_disk.linux.sync.speed", "By/s", "sync_speed",
		"How fast a check, resync or recovery goes on.")
}

// Collect implements collector.Collector.
func (r *RAID) Collect(_ context.Context, now time.Time) error {
	r.tick++
	r.failed = nil
	if err := r.block.each(r.found); err != nil {
		return r.collected(err, false)
	}
	kept := r.order[:0]
	for _, a := range r.order {
		if a.tick == r.tick {
			kept = append(kept, a)
			continue
		}
		a.remove()
		delete(r.arrays, a.name)
	}
	clear(r.order[len(kept):])
	r.order = kept
	r.last = now
	_ = r.collected(r.failed, true)
	return nil // the other arrays are fresh
}

// collectDevice stores what /sys says of a block device, if it is an array.
func (r *RAID) collectDevice(name []byte) {
	a := r.arrays[string(name)]
	if a == nil {
		if !bytes.HasPrefix(name, []byte("md")) { // the kernel gives no other name to an array
			return
		}
		a = r.newArray(string(name))
		r.arrays[a.name] = a
		r.order = append(r.order, a)
	}
	a.tick = r.tick
	state, err := r.read.read(a.files.state)
	if isAbsent(err) { // no array in spite of its name, or one that goes at this moment
		a.remove()
		return
	}
	s := &r.sampled
	*s = raidSample{}
	if err == nil {
		s.state = wordOf(state, "clear", "inactive", "suspended", "readonly", "read-auto", "clean", "active",
			"write-pending", "active-idle", "broken")
		err = r.sample(a, s)
	}
	if err != nil {
		r.complain(a.files.state, err)
		return
	}
	r.store(a, s)
}

func (r *RAID) newArray(name string) *raidArray {
	dir := filepath.Join(r.block.path, name)
	file := func(name string) attributePath { return newAttributePath(filepath.Join(dir, "md", name)) }
	return &raidArray{name: name, files: raidFiles{
		state: file("array_state"), level: file("level"), disks: file("raid_disks"), degraded: file("degraded"),
		action: file("sync_action"), completed: file("sync_completed"), speed: file("sync_speed"),
		mismatches: file("mismatch_cnt"), size: newAttributePath(filepath.Join(dir, "size")),
	}}
}

// complain keeps the first error for the verdict and logs those that are new.
func (r *RAID) complain(path attributePath, err error) {
	if r.failed == nil {
		r.failed = err
	}
	if r.bad.fresh(path, err) {
		r.env.Log.Warn("cannot read the state of an array", "error", err)
	}
}

// wordOf returns which of the words b is, or "" for another one.
func wordOf(b []byte, words ...string) string {
	for _, word := range words {
		if string(b) == word {
			return word
		}
	}
	return ""
}

// sample reads the other files of an array. Those that not every level has may be absent.
func (r *RAID) sample(a *raidArray, s *raidSample) error {
	level, err := r.read.read(a.files.level)
	if err != nil && !isAbsent(err) {
		return attributeError(a.files.level, err)
	}
	if s.level = a.level; string(level) != a.level {
		s.level = text(string(level))
	}
	for _, f := range [...]struct {
		path attributePath
		to   *uint64
	}{
		{a.files.disks, &s.disks},
		{a.files.size, &s.sectors},
		{a.files.mismatches, &s.mismatches},
		{a.files.degraded, &s.missing},
	} {
		v, err := r.read.number(f.path)
		if err != nil && !isAbsent(err) {
			return attributeError(f.path, err)
		}
		*f.to = v
		s.redundant = err == nil // by the last of them
	}
	s.missing, s.sectors = min(s.missing, s.disks), min(s.sectors, 1<<53)
	return r.sampleSync(a, s)
}

// sampleSync reads what is going on in an array.
func (r *RAID) sampleSync(a *raidArray, s *raidSample) error {
	b, err := r.read.read(a.files.action)
	if err != nil {
		return nil // no redundancy, so nothing to repair
	}
	s.action = wordOf(b, "resync", "recover", "check", "repair", "reshape")
	if s.action == "" { // idle, frozen
		return nil
	}
	if b, err = r.read.read(a.files.completed); err == nil {
		s.done, s.total, err = parseCompleted(b)
	}
	if err != nil && !isAbsent(err) {
		return attributeError(a.files.completed, err)
	}
	if speed, err := r.read.number(a.files.speed); err == nil {
		s.speed = min(speed, 1<<50)
	}
	return nil
}

// parseCompleted reads "12345 / 67890", in sectors; "none" and "delayed" are 0 of 0.
func parseCompleted(b []byte) (done, total uint64, err error) {
	if wordOf(b, "none", "delayed") != "" {
		return 0, 0, nil
	}
	first, second, ok := bytes.Cut(b, []byte(" / "))
	if !ok {
		return 0, 0, procfs.ErrSyntax
	}
	if done, err = procfs.Uint(bytes.TrimSpace(first)); err != nil {
		return 0, 0, err
	}
	total, err = procfs.Uint(bytes.TrimSpace(second))
	return min(done, total), total, err
}

// health returns the state of an array. The kernel stops some levels itself once too many disks are missing (broken),
// others stay active and fail each request.
func (s *raidSample) health() int {
	switch s.state {
	case "broken", "inactive":
		return raidFailed
	}
	if !s.redundant || s.missing == 0 {
		return raidOK
	}
	most := s.disks // how many may be missing at best
	switch s.level {
	case "raid4", "raid5":
		most = 1
	case "raid6":
		most = 2
	case "raid1":
		most = s.disks - 1
	case "raid10":
		most = s.disks / 2
	}
	if s.missing > most {
		return raidFailed
	}
	return raidDegraded
}

// store takes over what the files say. An array without a level holds no data: it is being made or taken apart, or
// only carries the metadata of others (external).
func (r *RAID) store(a *raidArray, s *raidSample) {
	changed := a.level != s.level
	a.level = s.level
	if s.state == "clear" || s.level == "" || s.level == "container" || s.disks == 0 {
		a.remove()
		return
	}
	if a.shown != nil && (changed || (a.shown.missing != nil) != s.redundant) {
		a.remove()
	}
	if a.shown == nil {
		a.shown = r.register(a, s)
	}
	health := s.health()
	for state, register := range a.shown.states {
		register.Set(oneWhile(state == health))
	}
	a.shown.limit.Set(int64(s.sectors) * sectorSize)
	a.shown.wanted.Set(int64(s.disks))
	a.shown.disks.Set(int64(s.disks - s.missing))
	if s.redundant {
		a.shown.missing.Set(int64(s.missing))
		a.shown.mismatches.Set(int64(min(s.mismatches, 1<<62)))
	}
	r.storeSync(a, s)
}

// storeSync shows what is going on in an array, as long as it does.
func (r *RAID) storeSync(a *raidArray, s *raidSample) {
	if a.sync != nil && a.sync.action != s.action {
		a.sync.entity.Remove()
		a.sync = nil
	}
	if s.action == "" {
		return
	}
	if a.sync == nil {
		e := r.env.Metrics.Entity(r.env.Host, r.since())
		attrs := append(a.attributes(), attribute.String("hw.logical_disk.linux.sync.action", s.action))
		a.sync = &raidSync{
			action: s.action, entity: e, progress: r.progress.With(e, attrs...), speed: r.speed.With(e, attrs...),
		}
	}
	share := 0.0
	if s.total > 0 {
		share = float64(s.done) / float64(s.total)
	}
	a.sync.progress.Set(share)
	a.sync.speed.Set(float64(s.speed) * 1024)
}

// register makes the series of an array.
func (r *RAID) register(a *raidArray, s *raidSample) *raidRegisters {
	e := r.env.Metrics.Entity(r.env.Host, r.since())
	with := func(family metric.IntFamily, more ...attribute.KeyValue) *metric.Int {
		return family.With(e, append(a.attributes(), more...)...)
	}
	const disk = "hw.logical_disk.linux.disk.state"
	shown := &raidRegisters{
		entity: e,
		limit:  with(r.limit, attribute.String("hw.logical_disk.raid_level", s.level)),
		wanted: with(r.raidDisks),
		disks:  with(r.disks, attribute.String(disk, "active")),
	}
	for state := range raidStates {
		shown.states[state] = with(r.status, attribute.String("hw.type", "logical_disk"),
			attribute.String("hw.state", raidStateName(state)))
	}
	if s.redundant {
		shown.missing = with(r.disks, attribute.String(disk, "missing"))
		shown.mismatches = with(r.mismatches)
	}
	return shown
}

func (r *RAID) since() time.Time {
	if r.last.IsZero() {
		return r.env.Boot
	}
	return r.last
}

// Close implements collector.Collector.
func (r *RAID) Close() error { return r.block.close() }

func (a *raidArray) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("hw.id", text(a.name)), attribute.String("hw.name", text(a.name))}
}

// remove takes the series of an array away.
func (a *raidArray) remove() {
	if a.sync != nil {
		a.sync.entity.Remove()
		a.sync = nil
	}
	if a.shown != nil {
		a.shown.entity.Remove()
		a.shown = nil
	}
}
