// Package exporter is the contract between the pipeline and the places metrics go to, and nothing else.
package exporter

import (
	"context"

	"github.com/slid-agent/slid/internal/metric"
)

// An Exporter takes snapshots to one destination.
type Exporter interface {
	// Export takes what it needs from the snapshot before it returns; the memory is reused after. It must not
	// wait for a network peer: delivery is the exporter's own affair, with bounded memory.
	Export(ctx context.Context, s *metric.Snapshot) error

	// Shutdown delivers what is still queued until ctx ends, then gives up and counts the rest as lost.
	Shutdown(ctx context.Context) error
}
