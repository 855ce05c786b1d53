package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/net"

	"github.com/slid-agent/slid/internal/procfs"
)

// The tests of this file compare with gopsutil, which reads the same tree: the recorded ones, where every number
// must be equal, and this machine's own /proc, read before and after, where every number must lie between.

func oracle(root string) context.Context {
	return context.WithValue(context.Background(), common.EnvKey, common.EnvMap{
		common.HostProcEnvKey: filepath.Join(root, "proc"),
		common.HostSysEnvKey:  filepath.Join(root, "sys"),
	})
}

// compare checks that ask gives the values that a collector exports: equal on each tree, and on this machine
// between what ask gives before and after. Values that fall are left out there.
func compare(t *testing.T, open factory, ask func(context.Context) (points, error)) {
	t.Helper()
	for _, tree := range []string{treeVM, treeServer, treeOld} {
		t.Run(tree, func(t *testing.T) {
			r := start(t, copyOf(t, tree), open)
			want, err := ask(oracle(r.env.Root))
			if err != nil {
				t.Fatal(err)
			}
			got := r.must()
			for key, p := range want {
				got.want(t, key, p.value)
			}
			t.Logf("%d values", len(want))
		})
	}
	t.Run("live", func(t *testing.T) {
		r := start(t, envAt("/"), open)
		before, err := ask(oracle("/"))
		if err != nil {
			t.Fatal(err)
		}
		got := r.must()
		after, err := ask(oracle("/"))
		if err != nil {
			t.Fatal(err)
		}
		for key, low := range before {
			high, ok := after[key]
			if !ok || high.value < low.value {
				continue // a device went, or an amount fell
			}
			p, ok := got[key]
			if !ok || p.value < low.value-1e-9 || p.value > high.value+1e-9 {
				t.Errorf("%s = %v (exported: %v), want %v to %v", key, p.value, ok, low.value, high.value)
			}
		}
		t.Logf("%d values", len(before))
	})
}

func (p points) put(key string, value float64) { p[key] = point{value: value} }

func TestOracleMemory(t *testing.T) {
	compare(t, NewMemory, func(ctx context.Context) (points, error) {
		m, err := mem.VirtualMemoryWithContext(ctx)
		if err != nil {
			return nil, err
		}
		p := points{}
		p.put("system.memory.limit", float64(m.Total))
		p.put("system.memory.usage{free}", float64(m.Free))
		p.put("system.memory.usage{buffers}", float64(m.Buffers))
		p.put("system.memory.usage{cached}", float64(m.Cached))
		p.put("system.memory.usage{used}", float64(m.Used))
		p.put("system.memory.linux.shared", float64(m.Shared))
		p.put("system.memory.linux.slab.usage{reclaimable}", float64(m.Sreclaimable))
		p.put("system.memory.linux.slab.usage{unreclaimable}", float64(m.Sunreclaim))
		if ctx.Value(common.EnvKey).(common.EnvMap)[common.HostProcEnvKey] == "/proc" {
			delete(p, "system.memory.usage{used}") // made of several lines: need not lie between
			p.put("system.memory.linux.available", float64(m.Available))
		}
		return p, nil
	})
}

func TestOracleDisk(t *testing.T) {
	compare(t, NewDisk, func(ctx context.Context) (points, error) {
		devices, err := disk.IOCountersWithContext(ctx)
		if err != nil {
			return nil, err
		}
		// Which of them are partitions the kernel says by a file; the old tree has no /sys.
		sys := ctx.Value(common.EnvKey).(common.EnvMap)[common.HostSysEnvKey]
		p := points{}
		for name, d := range devices {
			if _, err := os.Stat(filepath.Join(sys, "block", strings.ReplaceAll(name, "/", "!"))); err != nil && name != "sda" {
				continue
			}
			p.put("system.disk.io{read,"+name+"}", float64(d.ReadBytes))
			p.put("system.disk.io{write,"+name+"}", float64(d.WriteBytes))
			p.put("system.disk.operations{read,"+name+"}", float64(d.ReadCount))
			p.put("system.disk.operations{write,"+name+"}", float64(d.WriteCount))
			p.put("system.disk.merged{read,"+name+"}", float64(d.MergedReadCount))
			p.put("system.disk.merged{write,"+name+"}", float64(d.MergedWriteCount))
			p.put("system.disk.operation_time{read,"+name+"}", float64(d.ReadTime)/1e3)
			p.put("system.disk.operation_time{write,"+name+"}", float64(d.WriteTime)/1e3)
			p.put("system.disk.io_time{"+name+"}", float64(d.IoTime)/1e3)
			p.put("system.disk.pending_operations{"+name+"}", float64(d.IopsInProgress))
		}
		return p, nil
	})
}

func TestOracleNetwork(t *testing.T) {
	compare(t, NewNetwork, func(ctx context.Context) (points, error) {
		interfaces, err := net.IOCountersWithContext(ctx, true)
		if err != nil {
			return nil, err
		}
		class := filepath.Join(ctx.Value(common.EnvKey).(common.EnvMap)[common.HostSysEnvKey], "class/net")
		physical, _ := filepath.Glob(class + "/*/device")
		bonds, _ := filepath.Glob(class + "/*/bonding")
		own := strings.Join(append(append(physical, bonds...), ""), "|")
		p := points{}
		for _, i := range interfaces {
			name := i.Name
			if name != "lo" && own != "" && !strings.Contains(own, "/"+name+"/") {
				name = virtualName
			}
			add := func(key string, v uint64) { p.put(key, p[key].value+float64(v)) }
			add("system.network.io{"+name+",receive}", i.BytesRecv)
			add("system.network.io{"+name+",transmit}", i.BytesSent)
			add("system.network.packet.count{receive,"+name+"}", i.PacketsRecv)
			add("system.network.packet.count{transmit,"+name+"}", i.PacketsSent)
			add("system.network.errors{"+name+",receive}", i.Errin)
			add("system.network.errors{"+name+",transmit}", i.Errout)
			add("system.network.packet.dropped{"+name+",receive}", i.Dropin)
			add("system.network.packet.dropped{"+name+",transmit}", i.Dropout)
		}
		return p, nil
	})
}

// TestOracleCPU compares what gopsutil's load has, and the times with the kernel's own sum over all processors,
// the first line of the file. The kernel rounds each line down to ticks, so our sum may be a tick per processor
// less; in the tree with an offline processor the sum has the time of that one too, so it is left out.
func TestOracleCPU(t *testing.T) {
	compare(t, NewCPU, func(ctx context.Context) (points, error) {
		misc, err := load.MiscWithContext(ctx)
		if err != nil {
			return nil, err
		}
		avg, err := load.AvgWithContext(ctx)
		if err != nil {
			return nil, err
		}
		p := points{}
		p.put("system.cpu.linux.context_switches", float64(misc.Ctxt))
		if misc.ProcsCreated > 0 { // gopsutil reads it from /proc/stat too
			p.put("system.process.created", float64(misc.ProcsCreated))
		}
		p.put("system.cpu.load_average.1m", avg.Load1)
		p.put("system.cpu.load_average.5m", avg.Load5)
		p.put("system.cpu.load_average.15m", avg.Load15)
		return p, nil
	})
}

func TestCPUTimesAddUpToTheKernelsSum(t *testing.T) {
	for _, root := range []string{filepath.Join("testdata", treeVM), "/"} {
		before := kernelSum(t, root)
		r := start(t, envAt(root), NewCPU)
		p := r.must()
		after := kernelSum(t, root)
		rounding := p["system.cpu.logical.count"].value * 2 / userHz // two of the kernel's times in interrupt
		for mode, low := range before {
			got := p["system.cpu.time{"+mode+"}"].value
			if got < low-rounding-1e-9 || got > after[mode]+rounding+1e-9 {
				t.Errorf("%s: %s = %v, want %v to %v", root, mode, got, low, after[mode])
			}
		}
	}
}

// kernelSum returns the first line of /proc/stat in seconds by mode.
func kernelSum(t *testing.T, root string) map[string]float64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "proc/stat"))
	if err != nil {
		t.Fatal(err)
	}
	var v [10]uint64
	if _, _, err := procfs.Uints(b[len("cpu"):strings.IndexByte(string(b), '\n')], v[:]); err != nil {
		t.Fatal(err)
	}
	return map[string]float64{
		"user": float64(v[0]-v[8]) / userHz, "nice": float64(v[1]-v[9]) / userHz, "system": float64(v[2]) / userHz,
		"idle": float64(v[3]) / userHz, "iowait": float64(v[4]) / userHz, "interrupt": float64(v[5]+v[6]) / userHz,
		"steal": float64(v[7]) / userHz,
	}
}

// TestOraclePressure compares with the kernel's file, read with the standard library, before and after.
func TestOraclePressure(t *testing.T) {
	if _, err := os.Stat("/proc/pressure/cpu"); err != nil {
		t.Skip("needs a kernel with CONFIG_PSI=y, booted with psi=1: ", err)
	}
	r := start(t, envAt("/"), NewPressure)
	before := pressureTotals(t)
	got := r.must()
	after := pressureTotals(t)
	for key, low := range before {
		if v := got[key].value; v < low || v > after[key] {
			t.Errorf("%s = %v, want %v to %v", key, v, low, after[key])
		}
	}
}

func pressureTotals(t *testing.T) map[string]float64 {
	t.Helper()
	totals := map[string]float64{}
	for _, key := range []string{"cpu,some", "memory,some", "memory,full", "io,some", "io,full"} {
		resource, scope, _ := strings.Cut(key, ",")
		b, err := os.ReadFile("/proc/pressure/" + resource)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, scope) {
				_, total, _ := strings.Cut(strings.TrimSpace(line), "total=")
				us, err := procfs.Uint([]byte(total))
				if err != nil {
					t.Fatal(err)
				}
				totals["system.pressure.linux.stall_time{"+key+"}"] = float64(us) / 1e6
			}
		}
	}
	return totals
}
