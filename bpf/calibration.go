package bpf

import (
	"errors"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// calibrationRuns is how often a program is run to find out what measuring takes: together some 50 us.
const calibrationRuns = 500

// A calibration is what measuring a run takes itself. bpf statistics read the clock before and after a run, and a probe
// that times itself does likewise: about one reading is in the result, 20 to 70 ns, as much as a short program takes.
// The figures here come from programs that do nothing, run in a row with everything in the caches: the least it takes.
// What it takes more in cold caches stays in the figures of the probes, where it stands for the way into them.
type calibration struct {
	nothing *ebpf.Program // returns
	clock   *ebpf.Program // returns the time between two readings of the clock, in ns

	stats float64 // seconds in a mean by bpf statistics
	timed float64 // seconds in a mean by a probe's own timing

	runs  uint64 // of nothing, when last looked at
	spent time.Duration
}

// open loads the programs and times the clock. What is not allowed leaves the figures at zero.
func (c *calibration) open() {
	c.nothing = calibrationProgram(asm.Mov.Imm(asm.R0, 0), asm.Return())
	c.clock = calibrationProgram(
		asm.FnKtimeGetNs.Call(), asm.Mov.Reg(asm.R6, asm.R0), asm.FnKtimeGetNs.Call(), asm.Sub.Reg(asm.R0, asm.R6), asm.Return(),
	)
	least := uint32(0)
	for range calibrationRuns / 10 {
		if ns, ok := runAlone(c.clock, 1); ok && (least == 0 || ns < least) {
			least = ns
		}
	}
	c.timed = float64(least) / 1e9
}

// calibrationProgram returns nil where it may not be loaded.
func calibrationProgram(code ...asm.Instruction) *ebpf.Program {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: code})
	if err != nil {
		return nil
	}
	return p
}

// runAlone runs a program without an event and returns what it returns.
func runAlone(p *ebpf.Program, times uint32) (uint32, bool) {
	if p == nil {
		return 0, false
	}
	ret, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: times})
	return ret, err == nil
}

// measure finds out what bpf statistics take. They must be on.
func (c *calibration) measure() {
	if _, ok := runAlone(c.nothing, calibrationRuns); !ok {
		return
	}
	s, err := c.nothing.Stats()
	if err != nil || s.RunCount == c.runs {
		return
	}
	c.stats = (s.Runtime - c.spent).Seconds() / float64(s.RunCount-c.runs)
	c.runs, c.spent = s.RunCount, s.Runtime
}

func (c *calibration) close() error {
	var errs []error
	for _, p := range []*ebpf.Program{c.nothing, c.clock} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}
