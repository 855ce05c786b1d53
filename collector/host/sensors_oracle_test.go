package host

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slid-agent/slid/internal/testneed"
)

// sensorExporter returns what node_exporter exports of the sensors of a tree: name{label values}.
func sensorExporter(t *testing.T, root string) map[string]float64 {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, testneed.Tool(t, "prometheus-node-exporter"), "--web.listen-address="+address,
		"--path.sysfs="+filepath.Join(root, "sys"), "--path.procfs="+filepath.Join(root, "proc"),
		"--collector.disable-defaults", "--collector.hwmon", "--collector.rapl", "--collector.edac",
		"--collector.powersupplyclass", "--collector.thermal_zone")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	for n := 0; ; n++ {
		list, err := scrapeSensors(ctx, "http://"+address+"/metrics")
		if err == nil {
			return list
		}
		if n == 500 {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func scrapeSensors(ctx context.Context, url string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return parseSensorExposition(response.Body)
}

var sensorLabel = regexp.MustCompile(`[a-z_]+="([^"]*)"`)

func parseSensorExposition(body io.Reader) (map[string]float64, error) {
	list := map[string]float64{}
	scanner := bufio.NewScanner(body)
	for scanner.Scan() {
		line := scanner.Text()
		end := strings.LastIndexByte(line, ' ')
		if end < 0 || line[0] == '#' {
			continue
		}
		name, labels, _ := strings.Cut(line[:end], "{")
		var values []string
		for _, m := range sensorLabel.FindAllStringSubmatch(labels, -1) {
			values = append(values, m[1])
		}
		v, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			return nil, err
		}
		list[name+"{"+strings.Join(values, ",")+"}"] = v
	}
	return list, scanner.Err()
}

// sensorExporterHwmon translates what node_exporter calls the sensors of the server's hwmon chips.
func sensorExporterHwmon(key string) (ours string, ok bool) {
	name, labels, _ := strings.Cut(strings.TrimSuffix(key, "}"), "{")
	chip, sensor, _ := strings.Cut(labels, ",")
	metric := map[string]string{
		"node_hwmon_temp_celsius":       "hw.temperature[%s]",
		"node_hwmon_temp_max_celsius":   "hw.temperature.limit[%s] high.degraded",
		"node_hwmon_temp_crit_celsius":  "hw.temperature.limit[%s] high.critical",
		"node_hwmon_temp_min_celsius":   "hw.temperature.limit[%s] low.degraded",
		"node_hwmon_temp_lcrit_celsius": "hw.temperature.limit[%s] low.critical",
		"node_hwmon_fan_rpm":            "hw.fan.speed[%s]",
		"node_hwmon_fan_min_rpm":        "hw.fan.speed.limit[%s] low.degraded",
		"node_hwmon_in_volts":           "hw.voltage[%s]",
		"node_hwmon_in_max_volts":       "hw.voltage.limit[%s] high.degraded",
		"node_hwmon_in_min_volts":       "hw.voltage.limit[%s] low.degraded",
		"node_hwmon_curr_amps":          "hw.linux.current[%s]",
		"node_hwmon_curr_crit_amps":     "hw.linux.current.limit[%s] high.critical",
		"node_hwmon_power_average_watt": "hw.power[%s]",
		"node_hwmon_power_watt":         "hw.power[%s]",
		"node_hwmon_fan_alarm":          "hw.status[%s] degraded",
		"node_hwmon_temp_alarm":         "hw.status[%s] degraded",
		"node_hwmon_temp_fault":         "hw.status[%s] failed",
	}[name]
	device := map[string]string{
		"0000:00:03_1_0000:03:00_0": "amdgpu@0000:03:00.0",
		"i2c_0_0_0018":              "jc42@0-0018",
		"lnxsybus:00_acpi000d:00":   "power_meter@ACPI000D:00",
		"nvme_nvme0":                "nvme@0000:01:00.0",
		"platform_coretemp_0":       "coretemp@coretemp.0",
		"platform_nct6775_656":      "nct6798@nct6775.656",
		"target0:0:0_0:0:0:0":       "drivetemp@naa.5000c500a1b2c3d4",
	}[chip]
	return strings.Replace(metric, "%s", device+"/"+sensor, 1), metric != ""
}

// TestSensorsOracleNodeExporter compares every value of node_exporter's on the server's tree.
func TestSensorsOracleNodeExporter(t *testing.T) {
	explained := map[string]string{
		"node_hwmon_temp_celsius{platform_nct6775_656,temp2}":             "its fault flag says that nothing is connected",
		"node_hwmon_temp_celsius{0000:00:03_1_0000:03:00_0,temp1}":        "reading it wakes the GPU",
		"node_hwmon_power_average_watt{0000:00:03_1_0000:03:00_0,power1}": "reading it wakes the GPU",
		"node_hwmon_power_watt{lnxsybus:00_acpi000d:00,power1}":           "there is an average",
		"node_hwmon_temp_max_celsius{nvme_nvme0,temp2}":                   "65535 kelvin is no limit",
		"node_hwmon_temp_min_celsius{nvme_nvme0,temp2}":                   "0 kelvin is no limit",
		"node_hwmon_temp_max_celsius{i2c_0_0_0018,temp1}":                 "0 is no limit that anybody set",
		"node_hwmon_in_max_volts{platform_nct6775_656,in1}":               "0 is no limit that anybody set",
		"node_hwmon_in_min_volts{platform_nct6775_656,in0}":               "0 is no limit that anybody set",
		"node_hwmon_in_min_volts{platform_nct6775_656,in1}":               "0 is no limit that anybody set",
	}
	r := startSensors(t, sensorsServer)
	p := r.collectValues()
	compared := 0
	for key, v := range sensorExporter(t, r.env.Root) {
		ours, ok := sensorExporterHwmon(key)
		if !ok {
			continue
		}
		if why := explained[key]; why != "" {
			t.Logf("%s = %v: %s", key, v, why)
			if got, ok := p[ours]; ok && got.value == v {
				t.Errorf("%s = %v is exported, though %s", ours, v, why)
			}
			continue
		}
		p.want(t, ours, v)
		t.Logf("%s = %s = %v", key, ours, v)
		compared++
	}
	if compared < 35 {
		t.Errorf("only %d values compared", compared)
	}
}

// TestSensorsOracleNodeExporterTotals compares totals: of memory errors by controller, and of energy between two
// readings, for node_exporter shows the bare counter.
func TestSensorsOracleNodeExporterTotals(t *testing.T) {
	r := startSensors(t, sensorsServer)
	p := r.collectValues()
	before := sensorExporter(t, r.env.Root)
	for theirs, kind := range map[string]string{
		"node_edac_correctable_errors_total{0}": "corrected", "node_edac_uncorrectable_errors_total{0}": "uncorrected",
	} {
		sum := 0.0
		for key, v := range p {
			if strings.HasPrefix(key, "hw.errors[mc0") && strings.HasSuffix(key, " "+kind) {
				sum += v.value
			}
		}
		if want, ok := before[theirs]; !ok || sum != want {
			t.Errorf("%s errors: %v, want %v", kind, sum, want)
		}
	}
	r.write("sys/class/powercap/intel-rapl:0:1/energy_uj", "65123456789\n")
	r.write("sys/class/powercap/intel-rapl:1/energy_uj", "107000001\n")
	after, p := sensorExporter(t, r.env.Root), r.collectValues()
	zones := 0
	for key, v := range after {
		if zone := key[strings.LastIndexByte(key, '/')+1:]; strings.HasPrefix(key, "node_rapl_") && !strings.Contains(zone, "mmio") {
			p.want(t, "hw.energy["+strings.TrimSuffix(zone, "}")+"]", v-before[key])
			zones++
		}
	}
	if zones != 4 {
		t.Errorf("%d zones compared, want 4", zones)
	}
}

// TestSensorsOracleNodeExporterSupplies compares batteries and supplies, and the zones of a laptop.
func TestSensorsOracleNodeExporterSupplies(t *testing.T) {
	r := startSensors(t, sensorsLaptop)
	remove(t, filepath.Join(r.env.Sys, "class/hwmon/hwmon2")) // node_exporter fails as a whole on two equal chips
	remove(t, filepath.Join(r.env.Sys, "class/thermal/thermal_zone1"))
	p, theirs := r.collectValues(), sensorExporter(t, r.env.Root)
	for key, want := range map[string]float64{
		"hw.battery.charge[BAT0]":                                       theirs["node_power_supply_energy_watthour{BAT0}"] / theirs["node_power_supply_energy_full{BAT0}"],
		"hw.battery.charge[sbs-1]":                                      theirs["node_power_supply_capacity{sbs-1}"] / 100,
		"hw.battery.time_left[BAT0] discharging":                        theirs["node_power_supply_energy_watthour{BAT0}"] / theirs["node_power_supply_power_watt{BAT0}"] * 3600,
		"hw.power_supply.usage[psu0]":                                   theirs["node_power_supply_voltage_volt{psu0}"] * theirs["node_power_supply_current_ampere{psu0}"],
		"hw.status[AC] ok":                                              theirs["node_power_supply_online{AC}"],
		"hw.status[psu0] ok":                                            theirs["node_power_supply_online{psu0}"],
		"hw.temperature[cpu_thermal@thermal/temp1]":                     theirs["node_hwmon_temp_celsius{thermal_thermal_zone0,temp1}"],
		"hw.temperature.limit[cpu_thermal@thermal/temp1] high.critical": theirs["node_hwmon_temp_crit_celsius{thermal_thermal_zone0,temp1}"],
	} {
		p.want(t, key, want)
	}
	if v := theirs["node_thermal_zone_temp{cpu-thermal,0}"]; v != 48.312 {
		t.Errorf("node_exporter's zone is %v; it shows the same temperature twice", v)
	}
}
