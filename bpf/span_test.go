package bpf

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/slid-agent/slid/bpf/gen"
)

// What span_end returns: enum span_end (include/span.h).
const (
	spanUnknown = iota
	spanOuter
	spanEnded
)

// spans runs include/span.h on the test's own thread.
type spans struct {
	t *testing.T
	o gen.SpanTestObjects
}

func newSpans(t *testing.T) *spans {
	t.Helper()
	requireCapabilities(t)
	runtime.LockOSThread() // the storage is the thread's
	t.Cleanup(runtime.UnlockOSThread)
	spec, err := gen.LoadSpanTest()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps[gen.SpanTestMapProbeCpus].MaxEntries = uint32(ebpf.MustPossibleCPU())
	s := &spans{t: t}
	if err := spec.LoadAndAssign(&s.o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.o.Close() })
	if err := s.o.ProbeSince.Set(uint64(0)); err != nil { // as if it were attached
		t.Fatal(err)
	}
	return s
}

func (s *spans) run(p *ebpf.Program, arg uint64) uint32 {
	s.t.Helper()
	var ctx bytes.Buffer
	_ = binary.Write(&ctx, binary.NativeEndian, arg)
	ret, err := p.Run(&ebpf.RunOptions{Context: ctx.Bytes()})
	if err != nil {
		s.t.Fatal(err)
	}
	return ret
}

func (s *spans) begin(id uint64) { s.t.Helper(); s.run(s.o.SpanBegins, id) }

// end ends a span and checks what comes of it.
func (s *spans) end(id uint64, want uint32) {
	s.t.Helper()
	if got := s.run(s.o.SpanEnds, id); got != want {
		s.t.Errorf("the end of %d: got %d, want %d", id, got, want)
	}
}

func (s *spans) set(v *ebpf.Variable, value uint32) {
	s.t.Helper()
	if err := v.Set(value); err != nil {
		s.t.Fatal(err)
	}
}

// attachAgain does what Probe.Attach does.
func (s *spans) attachAgain() {
	s.t.Helper()
	if err := s.o.ProbeSince.Set(monotonic()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *spans) lasted() time.Duration {
	s.t.Helper()
	var ns uint64
	if err := s.o.SpanLasted.Get(&ns); err != nil {
		s.t.Fatal(err)
	}
	return time.Duration(ns)
}

// counts adds up what all CPUs counted.
func (s *spans) counts() (sum probeCPU) {
	s.t.Helper()
	table, err := openTable[probeCPU](s.o.ProbeCpus, ebpf.MustPossibleCPU())
	if err != nil {
		s.t.Fatal(err)
	}
	for cpu := range table.Slots() {
		if err := table.AddTo(cpu, &sum); err != nil {
			s.t.Fatal(err)
		}
	}
	return sum
}

func (s *spans) want(want probeCPU) {
	s.t.Helper()
	if got := s.counts(); got != want {
		s.t.Errorf("counts: got %+v, want %+v", got, want)
	}
}

func TestSpanIsTimed(t *testing.T) {
	s := newSpans(t)
	begun := time.Now()
	s.begin(1)
	began := time.Now()
	time.Sleep(5 * time.Millisecond)
	least := time.Since(began)
	s.end(1, spanEnded)
	most := time.Since(begun)
	if got := s.lasted(); got < least || got > most {
		t.Errorf("the span lasted %v, the test's clock says %v to %v", got, least, most)
	}
	s.want(probeCPU{})
}

// What began before the probe was there is not measured.
func TestSpanWithoutBeginning(t *testing.T) {
	s := newSpans(t)
	s.end(1, spanUnknown) // the thread has no storage yet
	s.begin(2)
	s.end(3, spanUnknown)
	s.end(2, spanEnded)
	s.end(2, spanUnknown)
	s.want(probeCPU{Unmatched: 3})
}

// An end that was missed makes no giant: the next beginning counts.
func TestSpanWithoutEnd(t *testing.T) {
	s := newSpans(t)
	s.begin(1)
	time.Sleep(50 * time.Millisecond)
	begun := time.Now()
	s.begin(1)
	s.end(1, spanEnded)
	if got := s.lasted(); got > time.Since(begun) {
		t.Errorf("it lasted %v, which is since the first beginning", got)
	}
	s.want(probeCPU{Unmatched: 1})
}

// Of two that are nested the inner one is measured.
func TestSpanNested(t *testing.T) {
	s := newSpans(t)
	for range 3 {
		s.begin(1)
		s.begin(2)
		s.begin(3)
		s.end(3, spanEnded)
		s.begin(4)
		s.end(4, spanEnded)
		s.end(2, spanOuter)
		s.end(1, spanOuter)
	}
	s.begin(1)
	s.begin(2)
	s.begin(3)
	s.end(3, spanEnded)
	s.end(1, spanOuter) // that of 2 was missed
	s.begin(1)
	s.end(1, spanEnded)
	s.want(probeCPU{})
	s.end(1, spanUnknown)
	s.end(2, spanUnknown)
	s.want(probeCPU{Unmatched: 2})
}

// What goes on while the probe is detached has an unknown length afterwards.
func TestSpanAcrossAttach(t *testing.T) {
	s := newSpans(t)
	s.begin(1)
	s.attachAgain()
	s.end(1, spanUnknown)
	s.begin(2)
	s.begin(3)
	s.attachAgain()
	s.end(2, spanUnknown)
	s.begin(2)
	s.end(2, spanEnded)
	s.want(probeCPU{Unmatched: 2})
}

func TestSpanOfNegativeLength(t *testing.T) {
	s := newSpans(t)
	s.begin(1)
	s.run(s.o.SpanMove, uint64(time.Hour))
	s.end(1, spanUnknown)
	s.want(probeCPU{Discarded: 1})
}

// Spans that are left out are neither measured nor unmatched, and leave no beginning behind that a later end could
// match. The others have their weight.
func TestSpanSampled(t *testing.T) {
	s := newSpans(t)
	const shift, n = 2, 4000
	s.begin(1) // its end is missed
	s.set(s.o.SampleShift, shift)
	time.Sleep(50 * time.Millisecond)
	ended := uint64(0)
	for range n {
		begun := time.Now()
		s.begin(1)
		if s.run(s.o.SpanEnds, 1) != spanEnded {
			continue
		}
		ended++
		if got := s.lasted(); got > time.Since(begun) {
			t.Fatalf("one lasted %v, which is since an earlier beginning", got)
		}
	}
	c := s.counts()
	if c.Skipped+ended != n || c.Unmatched > 1 || c.Lost+c.Discarded != 0 {
		t.Errorf("%d ended, %+v", ended, c)
	}
	if ended < n>>shift/2 || ended > n>>shift*2 {
		t.Errorf("%d of %d are recorded, want one of %d", ended, n, 1<<shift)
	}
	var weight uint64
	if err := s.o.SpanStood.Get(&weight); err != nil || weight != 1<<shift {
		t.Errorf("weight %d, %v", weight, err)
	}
}
