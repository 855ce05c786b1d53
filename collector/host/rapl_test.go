package host

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

const raplPackage = "sys/class/powercap/intel-rapl:0/energy_uj"

func TestSensorsRAPL(t *testing.T) {
	r := startSensors(t, sensorsServer)
	first := r.collectValues()
	first.exactly(t, "hw.energy", map[string]float64{
		"[intel-rapl:0]": 0, "[intel-rapl:0:0]": 0, "[intel-rapl:0:1]": 0, "[intel-rapl:1]": 0,
		"[power_meter@ACPI000D:00/energy1]": 0,
	})
	for _, tt := range []struct{ id, key, want string }{
		{"intel-rapl:0", "hw.type", "cpu"},
		{"intel-rapl:0", "hw.name", "package-0"},
		{"intel-rapl:0", "hw.parent", "intel-rapl"},
		{"intel-rapl:0:1", "hw.type", "memory"},
		{"intel-rapl:0:1", "hw.parent", "intel-rapl:0"},
		{"intel-rapl:1", "hw.type", "enclosure"},
	} {
		set := r.attributes("hw.energy", tt.id)
		if got, _ := set.Value(attribute.Key(tt.key)); got.AsString() != tt.want {
			t.Errorf("%s: %s is %q, want %q", tt.id, tt.key, got.AsString(), tt.want)
		}
	}
	// 262143000000 of 262143328850, and on to 1000000000: it wrapped.
	r.write(raplPackage, "1000000000\n")
	p := r.collectValues()
	p.want(t, "hw.energy[intel-rapl:0]", 1000.32885)
	if got := p["hw.energy[intel-rapl:0]"].start; !got.Equal(tick(0)) {
		t.Errorf("counts from %v, want the first reading %v", got, tick(0))
	}
	r.write("sys/class/hwmon/hwmon6/energy1_input", "7500000\n")
	r.collectValues().want(t, "hw.energy[power_meter@ACPI000D:00/energy1]", 2.5)
	// A driver that was loaded anew.
	r.write("sys/class/hwmon/hwmon6/energy1_input", "100\n")
	p = r.collectValues()
	p.want(t, "hw.energy[power_meter@ACPI000D:00/energy1]", 0)
	if got := p["hw.energy[power_meter@ACPI000D:00/energy1]"].start; !got.Equal(tick(3)) {
		t.Errorf("counts from %v, want %v", got, tick(3))
	}
}

// TestSensorsRAPLGap: after a gap in which the counter may have wrapped more than once, counting begins anew.
func TestSensorsRAPLGap(t *testing.T) {
	const span = 65_712_999_613
	for _, tt := range []struct {
		gap   time.Duration
		fresh bool
	}{{time.Minute, false}, {131 * time.Second, false}, {132 * time.Second, true}} {
		m := energyMeter{span: span}
		if !m.advance(5e9, tick0) {
			t.Error("the first reading is no beginning")
		}
		if fresh := m.advance(1e9, tick0.Add(tt.gap)); fresh != tt.fresh {
			t.Errorf("after %v: fresh is %v", tt.gap, fresh)
		}
		if want := float64(span-4e9) / 1e6; !tt.fresh && m.joules != want {
			t.Errorf("%v J, want %v", m.joules, want)
		}
	}
}

// TestSensorsRAPLLong counts for a year through thousands of wraps without losing a microjoule.
func TestSensorsRAPLLong(t *testing.T) {
	const span = 65_712_999_613
	m := energyMeter{span: span}
	now, total := tick0, int64(12345)
	m.advance(total, now)
	first := total
	for range 365 * 24 * 60 {
		now = now.Add(time.Minute)
		total += int64(60 * (50 + rand.Float64()*400) * 1e6)
		m.advance(total%span, now)
	}
	if got, want := m.sum, total-first; got != want {
		t.Errorf("%d uJ, want %d", got, want)
	}
}
