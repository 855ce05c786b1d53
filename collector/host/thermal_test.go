package host

import (
	"testing"

	"github.com/slid-agent/slid/internal/verdict"
)

// TestSensorsThermalOnce: a zone that is a hwmon chip too is shown once.
func TestSensorsThermalOnce(t *testing.T) {
	r := startSensors(t, sensorsLaptop)
	p := r.collectValues()
	p.exactly(t, "hw.temperature", map[string]float64{"[cpu_thermal@thermal/temp1]": 48.312})
	p.want(t, "hw.temperature.limit[cpu_thermal@thermal/temp1] high.critical", 110)
	// iwlwifi's cannot be read while the interface is down.
	r.wantRow("host/sensors/thermal", verdict.Unavailable, "temp of thermal_zone1 (iwlwifi_1)")
	p.want(t, "hw.linux.sensor.missed[] thermal failed", 1)
	remove(t, r.env.Sys+"/class/thermal/thermal_zone1/temp")
	r.write("sys/class/thermal/thermal_zone1/temp", "39000\n")
	r.collectValues().want(t, "hw.temperature[iwlwifi_1@thermal]", 39)
	r.wantRow("host/sensors/thermal", verdict.Active)
}
