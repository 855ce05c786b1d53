package host

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestSensorsPowerSupply(t *testing.T) {
	r := startSensors(t, sensorsLaptop)
	p := r.collectValues()
	p.exactly(t, "hw.battery.charge", map[string]float64{"[BAT0]": 0.8, "[sbs-1]": 0.25})
	p.exactly(t, "hw.battery.time_left", map[string]float64{"[BAT0] discharging": 4 * 3600, "[sbs-1] charging": 5400})
	p.exactly(t, "hw.power_supply.usage", map[string]float64{"[psu0]": 60})
	p.exactly(t, "hw.power_supply.limit", map[string]float64{"[psu0] max": 65})
	p.exactly(t, "hw.status", map[string]float64{
		"[AC] ok": 0, "[AC] degraded": 1, "[psu0] ok": 1, "[psu0] degraded": 0,
		"[sbs-1] ok": 1, "[sbs-1] degraded": 0, "[sbs-1] failed": 0,
	})
	p.without(t, "hidpp")
	set := r.attributes("hw.battery.charge", "BAT0")
	if got := set.Encoded(attribute.DefaultEncoder()); got !=
		"hw.battery.chemistry=Li-poly,hw.id=BAT0,hw.model=02DL005,hw.name=02DL005,hw.parent=PNP0C0A:00,hw.vendor=SMP" {
		t.Error(got)
	}
	r.wantRow("host/sensors/power_supply", verdict.Active)
	r.write("sys/class/power_supply/BAT0/status", "Charging\n")
	r.write("sys/class/power_supply/sbs-1/health", "Dead\n")
	p = r.collectValues()
	p.exactly(t, "hw.battery.time_left", map[string]float64{"[BAT0] charging": 3600, "[sbs-1] charging": 5400})
	p.want(t, "hw.status[sbs-1] failed", 1)
	p.want(t, "hw.status[sbs-1] ok", 0)
	r.write("sys/class/power_supply/sbs-1/health", "Unknown\n")
	r.collectValues().without(t, "hw.status[sbs-1]")
	r.wantRow("host/sensors/power_supply", verdict.Active)
	r.write("sys/class/power_supply/sbs-1/status", "Bribed\n")
	r.collectValues().without(t, "hw.battery.time_left[sbs-1]")
	r.wantRow("host/sensors/power_supply", verdict.Degraded, "status of sbs-1", "not a word that is known")
}

func FuzzSensorWords(f *testing.F) {
	f.Add([]byte("Charging\n"))
	f.Add([]byte("Good\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseBatteryStatus(b); err == nil && (v < batteryOther || v > batteryDischarging) {
			t.Errorf("status %q is %d", b, v)
		}
		if v, err := parseBatteryHealth(b); err == nil && (v < int64(sensorOK) || v > int64(sensorFailed)) {
			t.Errorf("health %q is %d", b, v)
		}
		if v, _ := parseSuspended(b); v < 0 || v > 1 {
			t.Errorf("runtime status %q is %d", b, v)
		}
	})
}
