package bpf

import (
	"errors"
	"io"
	"testing"

	"github.com/slid-agent/slid/internal/verdict"
)

// Without a capability each probe says which, whatever ways there are to measure.
func TestStallProbesNameWhatIsMissing(t *testing.T) {
	requireCapabilities(t)
	for name, open := range map[string]func() (io.Closer, error){
		"the reclaim probe": func() (io.Closer, error) { return NewReclaim(new(Kernel)) },
		"the OOM probe":     func() (io.Closer, error) { return NewOOM(new(Kernel)) },
		"the fsync probe":   func() (io.Closer, error) { return NewFsync(new(Kernel)) },
	} {
		without(t, func() {
			probe, err := open()
			if err == nil {
				probe.Close()
			}
			u, ok := errors.AsType[*verdict.UnavailableError](err)
			if !ok || u.Missing != "CAP_PERFMON" || u.Reason != "not permitted to load "+name {
				t.Errorf("%s: %v", name, err)
			}
		}, capSysAdmin, capPerfmon)
	}
}
