package host

import (
	"bytes"
	"errors"
	"slices"

	"go.opentelemetry.io/otel/attribute"
)

// findPowerSupply finds out what a battery or a supply of /sys/class/power_supply has
// (Documentation/ABI/testing/sysfs-class-power): in millionths of a watt, a watt-hour, a volt, an ampere or an
// ampere-hour, and seconds.
func findPowerSupply(c *sensorChip) error {
	if c.text("scope") == "Device" { // of a mouse or a headset
		return nil
	}
	c.id, c.title = text(c.entry), c.text("model_name")
	c.parent = identifyDevice(c.dir + "/device").id
	p := supplyChip{c, c.list("."), c.title}
	if p.name == "" {
		p.name = c.id
	}
	switch c.text("type") {
	case "Battery":
		p.addBattery()
	default: // Mains, UPS, USB, Wireless
		p.addSupply()
	}
	if len(c.outputs) == 0 {
		c.files = nil
	}
	return nil
}

// supplyChip is a power supply while it is found out what it has.
type supplyChip struct {
	*sensorChip
	names []string
	name  string
}

func (p supplyChip) has(names ...string) bool {
	for _, name := range names {
		if !slices.Contains(p.names, name) {
			return false
		}
	}
	return true
}

// describe returns the attributes that say which product it is, as far as that is known.
func (p supplyChip) describe(more ...attribute.KeyValue) []attribute.KeyValue {
	list := more
	for key, file := range map[attribute.Key]string{"hw.model": "model_name", "hw.vendor": "manufacturer"} {
		if v := p.text(file); v != "" {
			list = append(list, key.String(v))
		}
	}
	return list
}

// addOutput adds what is made of some files.
func (p supplyChip) addOutput(m sensorMetric, attrs []attribute.KeyValue, compute func([]int64) (float64, bool), files ...string) {
	o := sensorOutput{metric: m, name: p.name, attrs: attrs, compute: compute}
	for _, file := range files {
		parse := parseSensor
		switch file {
		case "status":
			parse = parseBatteryStatus
		case "health":
			parse = parseBatteryHealth
		}
		o.from = append(o.from, p.addOnce(file, parse))
	}
	p.outputs = append(p.outputs, o)
}

// addOnce is add for files that several outputs share.
func (p supplyChip) addOnce(file string, parse func([]byte) (int64, error)) int {
	for i := range p.files {
		if p.files[i].path() == file {
			return i
		}
	}
	return p.add(file, parse)
}

// addBattery adds what a battery has.
func (p supplyChip) addBattery() {
	attrs := p.describe()
	if chemistry := p.text("technology"); chemistry != "" && chemistry != "Unknown" {
		attrs = append(attrs, attribute.String("hw.battery.chemistry", chemistry))
	}
	ratio := func(v []int64) (float64, bool) { return float64(v[0]) / float64(v[1]), v[1] > 0 }
	switch { // the finest first
	case p.has("energy_now", "energy_full"):
		p.addOutput(sensorBatteryCharge, attrs, ratio, "energy_now", "energy_full")
	case p.has("charge_now", "charge_full"):
		p.addOutput(sensorBatteryCharge, attrs, ratio, "charge_now", "charge_full")
	case p.has("capacity"):
		p.addOutput(sensorBatteryCharge, attrs, scaled(100), "capacity")
	}
	p.addTimeLeft(attrs)
	if p.has("health") {
		p.outputs = append(p.outputs, sensorOutput{
			metric: sensorStatus, name: p.name, states: []sensorState{sensorOK, sensorDegraded, sensorFailed},
			attrs: []attribute.KeyValue{attribute.String("hw.type", "battery")},
			from:  []int{p.addOnce("health", parseBatteryHealth)},
		})
	}
}

// addTimeLeft adds the time to the end of charging and of discharging: as the battery says, or by what flows now.
func (p supplyChip) addTimeLeft(attrs []attribute.KeyValue) {
	if !p.has("status") {
		return
	}
	state := func(s string) []attribute.KeyValue {
		return append(slices.Clip(attrs), attribute.String("hw.battery.state", s), attribute.String("hw.state", "ok"))
	}
	while := func(status int64) func(v []int64) (float64, bool) {
		return func(v []int64) (float64, bool) { return float64(v[1]), v[0] == status && v[1] > 0 }
	}
	emptying := func(v []int64) (float64, bool) {
		return float64(v[1]) / float64(v[2]) * 3600, v[0] == batteryDischarging && v[2] > 0
	}
	filling := func(v []int64) (float64, bool) {
		return float64(v[3]-v[1]) / float64(v[2]) * 3600, v[0] == batteryCharging && v[2] > 0 && v[3] >= v[1]
	}
	stored, flow, full := "energy_now", "power_now", "energy_full"
	if !p.has(stored, flow, full) {
		stored, flow, full = "charge_now", "current_now", "charge_full"
	}
	switch {
	case p.has("time_to_empty_avg"):
		p.addOutput(sensorBatteryTimeLeft, state("discharging"), while(batteryDischarging), "status", "time_to_empty_avg")
	case p.has("time_to_empty_now"):
		p.addOutput(sensorBatteryTimeLeft, state("discharging"), while(batteryDischarging), "status", "time_to_empty_now")
	case p.has(stored, flow):
		p.addOutput(sensorBatteryTimeLeft, state("discharging"), emptying, "status", stored, flow)
	}
	switch {
	case p.has("time_to_full_avg"):
		p.addOutput(sensorBatteryTimeLeft, state("charging"), while(batteryCharging), "status", "time_to_full_avg")
	case p.has("time_to_full_now"):
		p.addOutput(sensorBatteryTimeLeft, state("charging"), while(batteryCharging), "status", "time_to_full_now")
	case p.has(stored, flow, full):
		p.addOutput(sensorBatteryTimeLeft, state("charging"), filling, "status", stored, flow, full)
	}
}

// addSupply adds what a supply has.
func (p supplyChip) addSupply() {
	attrs := p.describe()
	switch {
	case p.has("power_now"):
		p.addOutput(sensorSupplyUsage, attrs, scaled(1e6), "power_now")
	case p.has("voltage_now", "current_now"):
		p.addOutput(sensorSupplyUsage, attrs, func(v []int64) (float64, bool) {
			return float64(v[0]) * float64(v[1]) / 1e12, true
		}, "voltage_now", "current_now")
	}
	if v, ok := p.number("power_max"); ok && v > 0 && p.has("power_max") {
		p.addLimit(sensorOutput{name: p.name, attrs: attrs}, sensorSupplyLimit, "max", float64(v)/1e6)
	}
	if p.has("online") {
		p.outputs = append(p.outputs, sensorOutput{
			metric: sensorStatus, name: p.name, states: []sensorState{sensorOK, sensorDegraded},
			attrs: []attribute.KeyValue{attribute.String("hw.type", "power_supply")},
			from:  []int{p.addOnce("online", parseSensor)},
			compute: func(v []int64) (float64, bool) {
				if v[0] == 0 {
					return float64(sensorDegraded), true
				}
				return float64(sensorOK), true
			},
		})
	}
}

// What a battery does.
const (
	batteryOther int64 = iota
	batteryCharging
	batteryDischarging
)

// parseBatteryStatus reads the file status.
func parseBatteryStatus(b []byte) (int64, error) {
	switch string(bytes.TrimSpace(b)) {
	case "Charging":
		return batteryCharging, nil
	case "Discharging":
		return batteryDischarging, nil
	case "Unknown", "Not charging", "Full":
		return batteryOther, nil
	}
	return 0, errWord
}

// parseBatteryHealth reads the file health as a sensorState.
func parseBatteryHealth(b []byte) (int64, error) {
	switch string(bytes.TrimSpace(b)) {
	case "Good":
		return int64(sensorOK), nil
	case "Overheat", "Cold", "Cool", "Warm", "Hot", "Over current", "Calibration required", "Watchdog timer expire",
		"Safety timer expire", "No battery", "Over voltage", "Under voltage", "Blown fuse", "Cell imbalance", "Cell Imbalance":
		return int64(sensorDegraded), nil
	case "Dead", "Unspecified failure":
		return int64(sensorFailed), nil
	case "Unknown":
		return 0, errNoValue
	}
	return 0, errWord
}

var errWord = errors.New("not a word that is known")
