package host

import (
	"context"
	"testing"

	"github.com/shirou/gopsutil/v3/cpu"
)

// TestOracleCPUTimes compares the times with gopsutil's of each processor.
func TestOracleCPUTimes(t *testing.T) {
	compare(t, NewCPU, func(ctx context.Context) (points, error) {
		times, err := cpu.TimesWithContext(ctx, true)
		if err != nil {
			return nil, err
		}
		p := points{}
		add := func(mode string, seconds float64) {
			p.put("system.cpu.time{"+mode+"}", p["system.cpu.time{"+mode+"}"].value+seconds)
		}
		for _, c := range times {
			add("user", c.User-c.Guest)
			add("nice", c.Nice-c.GuestNice)
			add("system", c.System)
			add("idle", c.Idle)
			add("iowait", c.Iowait)
			add("interrupt", c.Irq+c.Softirq)
			add("steal", c.Steal)
		}
		p.put("system.cpu.logical.count", float64(len(times)))
		return p, nil
	})
}
