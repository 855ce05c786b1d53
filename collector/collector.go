// Package collector is the contract between the pipeline and the sources of metrics, and nothing else. The sources
// live in its subfolders; cmd/slid has the one list of them.
package collector

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// A Collector reads one source into registers that it declared when it was made. The pipeline never calls its
// methods concurrently. Recording into registers allocates nothing; discovering something new (a disk, a service)
// may allocate.
type Collector interface {
	// Collect reads the source once. now is the tick it belongs to. After an error the registers keep their
	// values and age; what could be read in spite of it is stored.
	Collect(ctx context.Context, now time.Time) error

	// Verdicts says how the source fares at present: one row for each part that can fail by itself.
	Verdicts() []verdict.Verdict

	// Close gives back files, programs and maps.
	Close() error
}

// Env is everything a collector borrows. Tests point the roots at recorded trees; a container points them at the
// host's.
type Env struct {
	Root   string // where the host's / is seen: "/" or e.g. "/host"
	Proc   string // the host's /proc
	Sys    string // the host's /sys
	Cgroup string // the host's cgroup2 mount; "" if there is none

	Metrics *metric.Group      // the collector's own share of the registry
	Host    *resource.Resource // describes this host
	Boot    time.Time          // when the host booted: the start of the kernel's counters
	Log     *slog.Logger
}

// A Lane is how often a collector runs.
type Lane uint8

// The lanes.
const (
	Core    Lane = iota // once before each export
	Burst               // several times a second, for distributions inside the interval
	Slow                // once a minute: what costs more or changes seldom
	Derived             // after those of the core lane: what is computed of others' metrics
)

// BurstPeriod is the time between two runs of a collector in the burst lane.
const BurstPeriod = 200 * time.Millisecond

// A Factory is a line in the list of collectors.
type Factory struct {
	Name   string       // e.g. host/cpu; the name in verdicts, logs and self-metrics
	Class  metric.Class // who wants its metrics
	Budget int          // most series it may have
	OptIn  bool         // it runs only where the configuration asks for it
	Lane   Lane
	// New opens the source. An *verdict.UnavailableError means that this machine has none or does not allow it;
	// the agent goes on without.
	New func(Env) (Collector, error)
}
