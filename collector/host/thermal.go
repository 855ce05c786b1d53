package host

import (
	"path/filepath"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// findThermal finds out what a zone of /sys/class/thermal has (Documentation/driver-api/thermal/sysfs-api.rst): a
// temperature, and trip points at which the kernel acts. Zones that are a hwmon chip as well are left to hwmon.go.
func (s *Sensors) findThermal(c *sensorChip) error {
	c.title = c.text("type")
	if c.title == "" || c.inHwmon(filepath.Join(s.env.Sys, "class/hwmon")) {
		return nil
	}
	c.id, c.parent = c.title+"@thermal", "thermal"
	location := c.title
	if strings.Contains(strings.ToLower(c.title), "cpu") || c.title == "x86_pkg_temp" {
		location = "cpu " + c.title
	}
	o := sensorOutput{
		metric: sensorTemperature, name: c.title, compute: scaled(1e3),
		attrs: []attribute.KeyValue{attribute.String("hw.sensor_location", location)},
	}
	for kind, v := range c.tripPoints() {
		c.addLimit(o, sensorTemperatureLimit, kind, float64(v)/1e3)
	}
	o.from = []int{c.add("temp", parseSensor)}
	c.outputs = append(c.outputs, o)
	return nil
}

// inHwmon says whether a zone is a hwmon chip as well: the kernel made one of it (CONFIG_THERMAL_HWMON), with a name
// in which a dash cannot be, or its driver did. x86_pkg_temp is the same register as coretemp's packages.
func (c *sensorChip) inHwmon(class string) bool {
	for _, name := range c.list(".") {
		if strings.HasPrefix(name, "hwmon") {
			return true
		}
	}
	chips, _ := filepath.Glob(filepath.Join(class, "hwmon*"))
	for _, chip := range chips {
		driver := fileText(filepath.Join(chip, "name"))
		same := driver == strings.ReplaceAll(c.title, "-", "_") || driver == "coretemp" && c.title == "x86_pkg_temp"
		if !same {
			continue
		}
		if inputs, _ := filepath.Glob(filepath.Join(chip, "temp*_input")); len(inputs) > 0 {
			return true
		}
	}
	return false
}

// tripPoints returns the lowest temperature of each kind of trip point, in thousandths of a degree, by hw.limit_type.
func (c *sensorChip) tripPoints() map[string]int64 {
	kinds := map[string]string{"critical": "high.critical", "hot": "high.degraded", "passive": "throttled"}
	lowest := map[string]int64{}
	for _, name := range c.list(".") {
		point, ok := strings.CutSuffix(name, "_type")
		if !ok || !strings.HasPrefix(point, "trip_point_") {
			continue
		}
		kind := kinds[c.text(name)]
		v, ok := c.number(point + "_temp")
		if kind == "" || !ok || v == 0 || !plausibleLimit(v) {
			continue
		}
		if before, known := lowest[kind]; !known || v < before {
			lowest[kind] = v
		}
	}
	return lowest
}
