package latency

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// spread is the number and the sum of a histogram's values.
type spread struct {
	count uint64
	sum   float64
}

// spreads returns the histograms of a metric by their attributes, on all resources; nil if it is not exported.
func spreads(t *testing.T, registry *metric.Registry, name string) map[string]spread {
	t.Helper()
	s := registry.NewSnapshot()
	s.Take(time.Now())
	var found map[string]spread
	for _, r := range s.Resources {
		for _, scope := range r.ScopeMetrics {
			for _, m := range scope.Metrics {
				if m.Name != name {
					continue
				}
				if found == nil {
					found = map[string]spread{}
				}
				for _, p := range m.Data.(metricdata.ExponentialHistogram[float64]).DataPoints {
					key := p.Attributes.Encoded(attribute.DefaultEncoder())
					found[key] = spread{found[key].count + p.Count, found[key].sum + p.Sum}
				}
			}
		}
	}
	return found
}

// The kinds have the names of /proc/softirqs, and the timer always occurs.
func TestSoftIRQExportsKinds(t *testing.T) {
	env, registry := newEnv(metric.ClassLatency)
	env.Proc = "/proc"
	c := open(t, env, newDeps(t).NewSoftIRQ)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		collect(t, c, env)
		wait := spreads(t, registry, "system.cpu.linux.softirq.wait_duration")["system.cpu.softirq=TIMER"]
		service := spreads(t, registry, "system.cpu.linux.softirq.service_duration")["system.cpu.softirq=TIMER"]
		if wait.count > 0 && wait.sum > 0 && service.count > 0 && service.sum > 0 {
			t.Logf("TIMER: waits %+v, rounds %+v", wait, service)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no timer in 20 s: waits %+v, rounds %+v", wait, service)
		}
	}
	if v := c.Verdicts(); len(v) != 1 || v[0].State != verdict.Active || v[0].Name != SoftIRQName {
		t.Errorf("got verdicts %+v", v)
	}
	collectsWithoutAllocating(t, "softirq", env, c)
}

func TestSoftIRQNames(t *testing.T) {
	names, err := softIRQNames("/proc/softirqs")
	if err != nil || strings.Join(names, " ") != "HI TIMER NET_TX NET_RX BLOCK IRQ_POLL TASKLET SCHED HRTIMER RCU" {
		t.Errorf("got %q, %v", names, err)
	}
	other := filepath.Join(t.TempDir(), "softirqs")
	if err := os.WriteFile(other, []byte("  CPU0\n  HI: 0\n  NEW: 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := softIRQNames(other); err == nil || !strings.Contains(err.Error(), "2 kinds") {
		t.Errorf("of a kernel with other kinds: got %q, %v", names, err)
	}
	if names, err := softIRQNames(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Errorf("without the file: got %q", names)
	}
}
