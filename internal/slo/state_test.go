package slo

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// full returns a tracker with a past, and its now.
func full() (*Tracker, time.Time) {
	tr := NewTracker(simple(Occurrences))
	now := feed(tr, noon(), 3*time.Hour, Counts{Good: 9, Bad: 1, Missed: 1, Excluded: 2})
	return tr, feed(tr, now.Add(5*time.Hour), 20*time.Minute, Counts{Good: 5})
}

func TestStateComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := simple(Method(rapid.IntRange(0, 2).Draw(t, "method")))
		before, after := NewTracker(o), NewTracker(o)
		ticks := run(t, 1)
		for _, tk := range ticks {
			before.Add(tk.at, tk.counts)
		}
		now := ticks[len(ticks)-1].at
		if _, err := Decode(Encode([]*Tracker{before}), []*Tracker{after}, now); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before.Status(now), after.Status(now)); diff != "" {
			t.Fatalf("(-before +after):\n%s", diff)
		}
	})
}

func TestStateFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "slo.state")
	if _, err := Load(path, nil, noon()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	tr, now := full()
	for range 2 { // the second replaces the first
		if err := Save(path, []*Tracker{tr}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("files %v, %v", list, err)
	}
	again := NewTracker(tr.Objective())
	if forgotten, err := Load(path, []*Tracker{again}, now); err != nil || len(forgotten) != 0 {
		t.Fatal(forgotten, err)
	}
	if diff := cmp.Diff(tr.Status(now), again.Status(now)); diff != "" {
		t.Errorf("(-saved +loaded):\n%s", diff)
	}
	if err := Save(filepath.Join(dir, "none", "slo.state"), nil); err == nil {
		t.Error("saved into a folder that does not exist")
	}
}

// TestStateOfAnotherDefinition: counts at another threshold are no counts of this one; those under another target are.
func TestStateOfAnotherDefinition(t *testing.T) {
	tr, now := full()
	data := Encode([]*Tracker{tr})
	stricter := simple(Occurrences)
	stricter.Target = 0.999
	stricter.Window.Span.Count = 3
	other := simple(Occurrences)
	other.Members[0].Indicator.Good = Always()
	unknown := simple(Occurrences)
	unknown.Name = "another"
	for _, tt := range []struct {
		o         Objective
		forgotten int
		total     uint64
	}{{stricter, 0, 3*3600 + 600}, {other, 1, 0}, {unknown, 0, 0}} {
		got := NewTracker(tt.o)
		forgotten, err := Decode(data, []*Tracker{got}, now)
		if err != nil || len(forgotten) != tt.forgotten {
			t.Errorf("%+v: %v %v", tt.o, forgotten, err)
		}
		if n := got.Status(now).Counts.Total(); n != tt.total {
			t.Errorf("%s at %v: %d events, want %d", tt.o.Name, tt.o.Target, n, tt.total)
		}
	}
}

// signed gives contents that were changed a length and a checksum that fit.
func signed(data []byte) []byte {
	data = data[:len(data)-4]
	binary.LittleEndian.PutUint32(data[stateHeader-4:], uint32(len(data)-stateHeader))
	return binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

func TestWrongStates(t *testing.T) {
	tr, now := full()
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"empty", func([]byte) []byte { return nil }, "it is no state file of slid"},
		{"text", func([]byte) []byte { return []byte("interval: 10s, and so on") }, "it is no state file of slid"},
		{"truncated", func(b []byte) []byte { return b[:100] }, "it has 100 of 928 bytes"},
		{"longer", func(b []byte) []byte { return append(b, 0) }, "it has 929 of 928 bytes"},
		{"another version", func(b []byte) []byte { b[7] = 9; return b }, "it has version 9, this slid knows 1"},
		{"a flipped bit", func(b []byte) []byte { b[60] ^= 4; return b }, "its checksum is wrong"},
		{"a body that ends early", func(b []byte) []byte { return signed(b[:80]) }, "its contents make no sense"},
		{"a body that goes on", func(b []byte) []byte { return signed(append(b, 1, 2, 3)) }, "its contents make no sense"},
		{"too large", func([]byte) []byte { return make([]byte, maxState+1) }, "it is larger than 64 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "slo.state")
			if err := os.WriteFile(path, tt.change(Encode([]*Tracker{tr})), 0o600); err != nil {
				t.Fatal(err)
			}
			got := NewTracker(tr.Objective())
			_, err := Load(path, []*Tracker{got}, now)
			if want := path + ": " + tt.want + "; starting without a past"; err == nil || err.Error() != want {
				t.Errorf("got %v\nwant %s", err, want)
			}
			if s := got.Status(now); s.State != Unknown || s.Counts != (Counts{}) {
				t.Errorf("took something from it: %+v", s)
			}
		})
	}
	_, err := Decode(Encode([]*Tracker{tr}), []*Tracker{tr}, now.Add(-3*time.Hour))
	if want := "state: it was written 3h after now: the clock was set back; starting without a past"; err == nil || err.Error() != want {
		t.Errorf("future: %v", err)
	}
}

func FuzzState(f *testing.F) {
	tr, now := full()
	f.Add(Encode([]*Tracker{tr}))
	f.Add(Encode([]*Tracker{NewTracker(simple(Timeslices))}))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := NewTracker(tr.Objective())
		if len(data) >= stateHeader+4 {
			data = signed(append([]byte{}, data...)) // or nothing would get past the checksum
		}
		_, err := Decode(data, []*Tracker{got}, now)
		if _, ok := errors.AsType[*StateError](err); err != nil && !ok {
			t.Errorf("error %v", err)
		}
		got.Status(now)
		got.Add(now.Add(time.Hour), []Counts{{Good: 1, Measured: time.Second}})
		if s := got.Status(now.Add(time.Hour)); s.Counts.Good == 0 {
			t.Errorf("lost the newest count: %+v", s)
		}
	})
}
