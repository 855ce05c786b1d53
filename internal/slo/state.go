package slo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"
)

// The state file: the magic with the version, the length of the body, the body and a checksum of all before it. The
// body has an entry for each objective: its name, its fingerprint, and for each history when it began and was last
// added to and the slots of its rings, newest first, runs of empty ones as one number. All numbers are varints.
const (
	stateMagic   = "slidslo"
	stateVersion = 1
	stateHeader  = len(stateMagic) + 1 + 4
	// maxState bounds the file in bytes: ten times what 200 objectives of 28 days need.
	maxState = 64 << 20
)

// A StateError is a state file that cannot be used. Nothing was taken from it: histories begin anew.
type StateError struct {
	Path string // may be empty
	What string // what is wrong
}

// Error returns the message.
func (e *StateError) Error() string {
	name := e.Path
	if name == "" {
		name = "state"
	}
	return name + ": " + e.What + "; starting without a past"
}

// Save writes the histories of trackers to a file. It replaces the file at once or not at all: whoever is interrupted
// leaves the old one.
func Save(path string, trackers []*Tracker) error { return Store(path, Encode(trackers)) }

// Store is Save for histories that are encoded already.
func Store(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), unfinished)
	if err != nil {
		return fmt.Errorf("save service levels: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save service levels: %w", err), os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(path))
}

// unfinished is the pattern of the names of files that are being written.
const unfinished = ".slo-*"

// Tidy removes what a crash amid Save left in the folder of a state file. Nobody may be saving there.
func Tidy(path string) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), unfinished))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// syncFolder makes a renaming last beyond a power failure.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("save service levels: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Load fills trackers with the histories of a file. forgotten are the objectives whose definition is another than the
// file's: their counts would mean something else. The error is a *StateError if the file cannot be used, and
// os.ErrNotExist if there is none.
func Load(path string, trackers []*Tracker, now time.Time) (forgotten []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, &StateError{path, err.Error()}
	}
	forgotten, err = Decode(data, trackers, now)
	if bad, ok := errors.AsType[*StateError](err); ok {
		bad.Path = path
	}
	return forgotten, err
}

// Encode returns the histories of trackers as a state file.
func Encode(trackers []*Tracker) []byte {
	b := append(make([]byte, 0, 1<<16), stateMagic...)
	b = append(b, stateVersion, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, uint64(len(trackers)))
	for _, t := range trackers {
		b = appendText(b, t.objective.Name)
		b = binary.AppendUvarint(b, t.fingerprint())
		b = binary.AppendUvarint(b, uint64(len(t.tracks)))
		for _, tr := range t.tracks {
			b = appendHistory(b, tr.history)
		}
	}
	binary.LittleEndian.PutUint32(b[stateHeader-4:], uint32(len(b)-stateHeader))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendHistory(b []byte, h *History) []byte {
	b = binary.AppendVarint(b, nanos(h.began))
	b = binary.AppendVarint(b, nanos(h.last))
	for _, r := range h.rings {
		b = binary.AppendVarint(b, r.newest)
		b = binary.AppendUvarint(b, uint64(len(r.slots)))
		empty := uint64(0)
		for age := range int64(len(r.slots)) {
			slot := r.at(r.newest - age)
			if slot == nil || *slot == (increment{}) {
				empty++
				continue
			}
			b = binary.AppendUvarint(b, empty)
			empty = 0
			for _, n := range []uint32{slot.good, slot.bad, slot.events, slot.missed, slot.excluded, slot.measured} {
				b = binary.AppendUvarint(b, uint64(n))
			}
		}
		b = binary.AppendUvarint(b, empty)
	}
	return b
}

// nanos returns the time since 1970 in nanoseconds, 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// Decode is Load for the contents of a file. Trackers are filled only if all of it can be used.
func Decode(data []byte, trackers []*Tracker, now time.Time) (forgotten []string, err error) {
	body, err := stateBody(data)
	if err != nil {
		return nil, err
	}
	d := &stateDecoder{rest: body}
	found := map[*Tracker][]*History{}
	for range d.count(maxState) {
		name := d.text()
		fingerprint := d.uvarint()
		t := trackerOf(trackers, name)
		known := t != nil && t.fingerprint() == fingerprint
		if t != nil && !known {
			forgotten = append(forgotten, name)
		}
		period := time.Duration(0)
		if known {
			period = t.objective.Period()
		}
		tracks := d.count(1 << 10)
		if known && tracks != len(t.tracks) {
			d.failed = true
		}
		for range tracks {
			h := d.history(period, now)
			if d.failed {
				break
			}
			if known {
				found[t] = append(found[t], h)
			}
		}
		if d.failed {
			break
		}
	}
	switch {
	case d.future > stepBack:
		return nil, &StateError{What: "it was written " + coarse(d.future) + " after now: the clock was set back"}
	case d.failed || len(d.rest) > 0:
		return nil, &StateError{What: "its contents make no sense"}
	}
	for t, histories := range found {
		for i, h := range histories {
			t.tracks[i].history = h
		}
	}
	return forgotten, nil
}

func trackerOf(trackers []*Tracker, name string) *Tracker {
	for _, t := range trackers {
		if t.objective.Name == name {
			return t
		}
	}
	return nil
}

// stateBody checks everything around the body and returns that.
func stateBody(data []byte) ([]byte, error) {
	fault := func(format string, args ...any) ([]byte, error) {
		return nil, &StateError{What: fmt.Sprintf(format, args...)}
	}
	switch {
	case len(data) > maxState:
		return fault("it is larger than %d MiB", maxState>>20)
	case len(data) < stateHeader || string(data[:len(stateMagic)]) != stateMagic:
		return fault("it is no state file of slid")
	case data[len(stateMagic)] != stateVersion:
		return fault("it has version %d, this slid knows %d", data[len(stateMagic)], stateVersion)
	}
	want := stateHeader + int(binary.LittleEndian.Uint32(data[stateHeader-4:])) + 4
	if len(data) != want {
		return fault("it has %d of %d bytes", len(data), want)
	}
	sum := binary.LittleEndian.Uint32(data[want-4:])
	if crc32.Checksum(data[:want-4], crc32.MakeTable(crc32.Castagnoli)) != sum {
		return fault("its checksum is wrong")
	}
	return data[stateHeader : want-4], nil
}

// A stateDecoder reads a body. After a failure it returns zeros.
type stateDecoder struct {
	rest   []byte
	failed bool
	future time.Duration // how far the newest count is ahead of now
}

func (d *stateDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *stateDecoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads a number that is not larger than most.
func (d *stateDecoder) count(most uint64) int {
	v := d.uvarint()
	if v > most {
		d.failed, d.rest = true, nil
		return 0
	}
	return int(v)
}

func (d *stateDecoder) text() string {
	n := d.count(uint64(len(d.rest)))
	s := string(d.rest[:min(n, len(d.rest))])
	d.rest = d.rest[len(s):]
	return s
}

// history reads a history into one of the given period, which may be another than it was: the newest slots count.
func (d *stateDecoder) history(period time.Duration, now time.Time) *History {
	h := NewHistory(period)
	h.began, h.last = fromNanos(d.varint()), fromNanos(d.varint())
	d.future = max(d.future, h.last.Sub(now))
	for _, r := range h.rings {
		r.newest = d.varint()
		if !h.plausible(r) {
			d.failed = true
		}
		slots := d.count(1 << 20)
		for age := d.count(1 << 20); age < slots && !d.failed; age += 1 + d.count(1<<20) {
			var slot increment
			for _, to := range []*uint32{
				&slot.good, &slot.bad, &slot.events, &slot.missed, &slot.excluded, &slot.measured,
			} {
				*to = uint32(d.count(1<<32 - 1))
			}
			if kept := r.at(r.newest - int64(age)); kept != nil {
				*kept = slot
			}
		}
	}
	return h
}

// plausible tells whether a ring ends where the history does, a step back of the clock aside.
func (h *History) plausible(r *ring) bool {
	if h.last.IsZero() {
		return r.newest == math.MinInt64
	}
	ahead := r.newest - r.slotOf(h.last)
	return ahead >= 0 && ahead <= int64(stepBack/r.width)+1
}
