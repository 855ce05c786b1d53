package bpf

import (
	"errors"
	"testing"

	"github.com/slid-agent/slid/internal/verdict"
)

// A way to measure without extras says so when one is wanted, and not when none is; so does an extra whose tracepoint the
// kernel does not have.
func TestExtrasThatAreNotThere(t *testing.T) {
	requireCapabilities(t)
	rungs := blockIORungs()
	rungs[0].extras[BlockIOBios].tracepoints[0].name = "block_no_such_thing"
	for name, list := range map[string][]rung{"no extras": rungs[1:], "no tracepoint": rungs[:1]} {
		t.Run(name, func(t *testing.T) {
			b, err := newBlockIO(&Kernel{}, BlockIOOptions{}, list)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.Extend(BlockIOBios, false); err != nil {
				t.Error(err)
			}
			err = b.Extend(BlockIOBios, true)
			if _, ok := errors.AsType[*verdict.UnavailableError](err); !ok || b.Extended(BlockIOBios) {
				t.Errorf("got %v", err)
			}
			want := verdict.Active
			if name == "no extras" {
				want = verdict.Degraded
			}
			if v := b.Verdict("x"); v.State != want || v.Hook != "tp_btf/block_rq_complete" {
				t.Errorf("got %+v", v)
			}
		})
	}
}
