package host

import (
	"testing"

	"github.com/shirou/gopsutil/v3/host"
	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestSensorsHwmonTemperatures(t *testing.T) {
	p := startSensors(t, sensorsServer).collectValues()
	p.exactly(t, "hw.temperature", map[string]float64{
		"[coretemp@coretemp.0/temp1]":            45,
		"[coretemp@coretemp.0/temp2]":            43,
		"[coretemp@coretemp.0/temp10]":           44,
		"[nct6798@nct6775.656/temp1]":            34, // temp2 is not connected, temp3 cannot be read
		"[nvme@0000:01:00.0/temp1]":              38.85,
		"[nvme@0000:01:00.0/temp2]":              41.85,
		"[drivetemp@naa.5000c500a1b2c3d4/temp1]": 31,
		"[jc42@0-0018/temp1]":                    36.25,
		"[acpitz@thermal]":                       27.8,
	})
	p.exactly(t, "hw.temperature.limit", map[string]float64{
		"[coretemp@coretemp.0/temp1] high.degraded":            80,
		"[coretemp@coretemp.0/temp1] high.critical":            100,
		"[coretemp@coretemp.0/temp2] high.degraded":            80,
		"[coretemp@coretemp.0/temp2] high.critical":            100,
		"[coretemp@coretemp.0/temp10] high.degraded":           80,
		"[coretemp@coretemp.0/temp10] high.critical":           100,
		"[nct6798@nct6775.656/temp1] high.degraded":            80,
		"[nvme@0000:01:00.0/temp1] high.degraded":              83.85,
		"[nvme@0000:01:00.0/temp1] high.critical":              88.85,
		"[nvme@0000:01:00.0/temp1] low.degraded":               -20.15,
		"[drivetemp@naa.5000c500a1b2c3d4/temp1] high.degraded": 60,
		"[drivetemp@naa.5000c500a1b2c3d4/temp1] high.critical": 70,
		"[drivetemp@naa.5000c500a1b2c3d4/temp1] low.degraded":  0,
		"[drivetemp@naa.5000c500a1b2c3d4/temp1] low.critical":  -41,
		"[acpitz@thermal] high.critical":                       119,
		"[acpitz@thermal] throttled":                           90,
	})
}

func TestSensorsHwmonOthers(t *testing.T) {
	r := startSensors(t, sensorsServer)
	p := r.collectValues()
	p.exactly(t, "hw.fan.speed", map[string]float64{
		"[nct6798@nct6775.656/fan1]": 1180, "[nct6798@nct6775.656/fan2]": 0,
	})
	p.exactly(t, "hw.fan.speed.limit", map[string]float64{
		"[nct6798@nct6775.656/fan1] low.degraded": 300, "[nct6798@nct6775.656/fan2] low.degraded": 300,
	})
	p.exactly(t, "hw.voltage", map[string]float64{
		"[nct6798@nct6775.656/in0]": 0.872, "[nct6798@nct6775.656/in1]": 1.008,
	})
	p.exactly(t, "hw.voltage.limit", map[string]float64{"[nct6798@nct6775.656/in0] high.degraded": 1.744})
	p.exactly(t, "hw.power", map[string]float64{
		"[power_meter@ACPI000D:00/power1]": 187, // the average
		"[power_meter@ACPI000D:00/power2]": 12.5,
	})
	p.exactly(t, "hw.linux.current", map[string]float64{"[power_meter@ACPI000D:00/curr1]": 1.5})
	p.exactly(t, "hw.linux.current.limit", map[string]float64{"[power_meter@ACPI000D:00/curr1] high.critical": 20})
}

func TestSensorsHwmonStatus(t *testing.T) {
	p := startSensors(t, sensorsServer).collectValues()
	p.exactly(t, "hw.status", map[string]float64{
		"[coretemp@coretemp.0/temp1] ok": 1, "[coretemp@coretemp.0/temp1] failed": 0,
		"[coretemp@coretemp.0/temp2] ok": 1, "[coretemp@coretemp.0/temp2] failed": 0,
		"[coretemp@coretemp.0/temp10] ok": 0, "[coretemp@coretemp.0/temp10] failed": 1,
		"[nct6798@nct6775.656/fan1] ok": 1, "[nct6798@nct6775.656/fan1] degraded": 0,
		"[nct6798@nct6775.656/fan2] ok": 0, "[nct6798@nct6775.656/fan2] degraded": 1,
		"[nct6798@nct6775.656/temp1] ok": 1, "[nct6798@nct6775.656/temp1] degraded": 0,
		"[nct6798@nct6775.656/temp1] failed": 0,
		"[nct6798@nct6775.656/temp2] ok":     0, "[nct6798@nct6775.656/temp2] failed": 1,
		"[nvme@0000:01:00.0/temp1] ok": 1, "[nvme@0000:01:00.0/temp1] degraded": 0,
		"[jc42@0-0018/temp1] ok": 0, "[jc42@0-0018/temp1] degraded": 1,
	})
}

func TestSensorsHwmonNames(t *testing.T) {
	r := startSensors(t, sensorsServer)
	r.collectValues()
	for _, tt := range []struct{ metric, id, key, want string }{
		{"hw.temperature", "coretemp@coretemp.0/temp1", "hw.name", "Package id 0"},
		{"hw.temperature", "coretemp@coretemp.0/temp1", "hw.parent", "coretemp@coretemp.0"},
		{"hw.temperature", "coretemp@coretemp.0/temp1", "hw.sensor_location", "cpu Package id 0"},
		{"hw.temperature", "nvme@0000:01:00.0/temp2", "hw.sensor_location", "disk Sensor 1"},
		{"hw.temperature", "jc42@0-0018/temp1", "hw.name", "temp1"},
		{"hw.temperature", "jc42@0-0018/temp1", "hw.sensor_location", "memory"},
		{"hw.voltage", "nct6798@nct6775.656/in0", "hw.sensor_location", "nct6798"},
		{"hw.power", "power_meter@ACPI000D:00/power1", "hw.type", "enclosure"},
		{"hw.status", "coretemp@coretemp.0/temp1", "hw.type", "temperature"},
	} {
		set := r.attributes(tt.metric, tt.id)
		if got, _ := set.Value(attribute.Key(tt.key)); got.AsString() != tt.want {
			t.Errorf("%s of %s: %s is %q, want %q", tt.metric, tt.id, tt.key, got.AsString(), tt.want)
		}
	}
}

// TestSensorsSleepingDevice: the temperature of a GPU that sleeps is not read, for that wakes it.
func TestSensorsSleepingDevice(t *testing.T) {
	r := startSensors(t, sensorsServer)
	r.collectValues().without(t, "amdgpu")
	const status = "sys/devices/pci0000:00/0000:00:03.1/0000:03:00.0/power/runtime_status"
	r.write(status, "active\n")
	p := r.collectValues()
	p.want(t, "hw.temperature[amdgpu@0000:03:00.0/temp1]", 51)
	p.want(t, "hw.power[amdgpu@0000:03:00.0/power1]", 9)
	set := r.attributes("hw.power", "amdgpu@0000:03:00.0/power1")
	if v, _ := set.Value("hw.type"); v.AsString() != "gpu" {
		t.Errorf("hw.type is %q", v.AsString())
	}
	r.write(status, "suspended\n")
	r.collectValues().without(t, "amdgpu")
}

// TestSensorsNVMeInVM: reading it stops the disk for seconds on some clouds.
func TestSensorsNVMeInVM(t *testing.T) {
	r := startSensors(t, sensorsVM)
	if p := r.collectValues(); len(p) > 0 {
		t.Errorf("%v is exported", p)
	}
	r.wantRow("host/sensors/hwmon", verdict.Active, "hwmon0 (nvme): not read in a virtual machine")
	wanted := startSensorsAt(t, r.env.Root, NewSensorsWithNVMe)
	wanted.collectValues().want(t, "hw.temperature[nvme@0000:00:04.0/temp1]", 35.85)
	wanted.wantRow("host/sensors/hwmon", verdict.Active)
}

func TestSensorsHwmonOld(t *testing.T) {
	r := startSensors(t, sensorsOld)
	p := r.collectValues()
	p.exactly(t, "hw.temperature", map[string]float64{
		"[coretemp@coretemp.0/temp1]": 52, "[LNXTHERM:00@thermal]": 40,
	})
	p.want(t, "hw.temperature.limit[coretemp@coretemp.0/temp1] high.critical", 100)
	p.want(t, "hw.fan.speed[gpio_fan@virtual/fan1]", 3000)
	p.want(t, "hw.fan.speed.limit[gpio_fan@virtual/fan1] max", 6000)
	r.wantRow("host/sensors/hwmon", verdict.Active)
}

// TestSensorsEqualChips: two chips of one name on one device get identities of their own.
func TestSensorsEqualChips(t *testing.T) {
	r := startSensors(t, sensorsLaptop)
	for range 3 {
		p := r.collectValues()
		p.want(t, "hw.energy[i915@0000:00:02.0/energy1]", 0)
		p.want(t, "hw.energy[i915@0000:00:02.0#2/energy1]", 0)
	}
}

// TestSensorsOracleGopsutil: gopsutil reads the same temperatures from the same trees. It knows nothing of faults.
func TestSensorsOracleGopsutil(t *testing.T) {
	for _, tree := range []string{sensorsServer, sensorsLaptop, sensorsOld} {
		r := startSensors(t, tree)
		p := r.collectValues()
		list, _ := host.SensorsTemperaturesWithContext(oracle(r.env.Root)) // warns of what cannot be read
		want := map[float64]int{}
		for _, s := range list {
			if s.Temperature != -62 && s.SensorKey != "amdgpu_edge" { // not connected; asleep
				want[s.Temperature]++
			}
		}
		got := map[float64]int{}
		for _, m := range r.s.parts[0].chips.order { // the thermal zones are not in its list
			for i := range m.T.series {
				if o := &m.T.series[i]; o.metric == sensorTemperature && o.entity != nil {
					got[p["hw.temperature["+m.T.prefix+"/"+o.key+"]"].value]++
				}
			}
		}
		if len(want) == 0 {
			t.Errorf("%s: gopsutil sees nothing", tree)
		}
		for v, n := range want {
			if got[v] != n {
				t.Errorf("%s: %d sensors at %v, gopsutil sees %d", tree, got[v], v, n)
			}
			delete(got, v)
		}
		if len(got) > 0 {
			t.Errorf("%s: gopsutil does not see %v", tree, got)
		}
		t.Logf("%s: %d temperatures compared", tree, len(list))
	}
}
