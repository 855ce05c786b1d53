package text

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slid-agent/slid/internal/metric"
)

// A Keeper keeps the last window instead of printing it, for whoever asks. It implements exporter.Exporter; Report and
// JSON may be called by any goroutine, and never make Export wait. It needs the metrics of Metrics alone, and keeps two
// copies of them.
type Keeper struct {
	options Options

	mu     sync.Mutex // guards the fields below; nobody computes anything with it
	window window     // from is nil before the second snapshot, both before the first

	asked  sync.Mutex // guards the fields below
	told   *index     // the end of the window that answer is about
	answer []byte
}

// NewKeeper returns a keeper that has seen no snapshot yet. Of the options Host, Verdicts and SLOs count.
func NewKeeper(o Options) *Keeper { return &Keeper{options: o} }

// Export takes the snapshot as the end of a window and the begin of the next.
func (k *Keeper) Export(_ context.Context, s *metric.Snapshot) error {
	latest := newIndex(s)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.window = window{from: k.window.to, to: latest}
	return nil
}

// Shutdown does nothing: no report is held back.
func (k *Keeper) Shutdown(context.Context) error { return nil }

// Report returns the report of the last window. Before the first one is over it is about no time at all: then nothing is
// known but the state of the sources and of the objectives.
func (k *Keeper) Report() *Report {
	return newReport(k.last(), k.options)
}

func (k *Keeper) last() window {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.window
	if w.to == nil {
		w.to = &index{at: time.Now()}
	}
	if w.from == nil {
		w.from = w.to
	}
	return w
}

// JSON returns the report of the last window as one line of JSON. It is made once in each window, however many ask. The
// caller must not change it.
func (k *Keeper) JSON() ([]byte, error) {
	k.asked.Lock()
	defer k.asked.Unlock()
	w := k.last()
	if k.told != nil && k.told == w.to {
		return k.answer, nil
	}
	var b bytes.Buffer
	if err := newReport(w, k.options).render(&b, Options{Format: NDJSON}); err != nil {
		return nil, err
	}
	k.told, k.answer = w.to, b.Bytes()
	return k.answer, nil
}

// Screen returns the report as lines for a terminal that shows it again and again: what matters most first, and as many
// lines as the height has room for (0: all).
func (r *Report) Screen(o Options, height int) []string {
	var b bytes.Buffer
	p := newPage(&b, layout{width: o.Width, color: o.Color})
	p.header(r)
	p.objectives(r.SLOs)
	p.services(r)
	p.probes(r.Probes)
	p.owners(r)
	p.latency(slices.DeleteFunc(slices.Clone(r.Latency), func(l Latency) bool { return l.Count == 0 }))
	p.agent(r)
	p.sources(r.Sources)
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	return lines
}
