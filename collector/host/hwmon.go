package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// The files of a hwmon chip are described in Documentation/hwmon/sysfs-interface.rst: <kind><number>_<item>, in
// thousandths of a degree, a volt or an ampere, millionths of a watt or a joule, and revolutions per minute.

// hwmonKind is a kind of sensor.
type hwmonKind struct {
	prefix  string   // of its files
	inputs  []string // the items that have the value, the best first
	metric  sensorMetric
	limit   sensorMetric
	divisor float64
	limits  []hwmonLimit
	status  string   // hw.type of its status; empty: its alarms are left out
	failed  []string // alarms that say that it failed
	warned  []string // alarms that say that it is beyond a limit
}

// hwmonLimit is a file with a limit.
type hwmonLimit struct {
	item string
	kind string // hw.limit_type
	zero bool   // zero is a limit, and does not mean that there is none
}

// hwmonKinds returns all kinds of sensors that are read. The alarms of most voltages are left out: boards wire their
// inputs as they like and set no limits, so half of them are always on.
func hwmonKinds() []hwmonKind {
	return []hwmonKind{
		{
			prefix: "temp", inputs: []string{"input"}, metric: sensorTemperature, limit: sensorTemperatureLimit, divisor: 1e3,
			limits: []hwmonLimit{
				{"max", "high.degraded", false},
				{"crit", "high.critical", false},
				{"min", "low.degraded", true},
				{"lcrit", "low.critical", true},
			},
			status: "temperature", failed: []string{"fault", "crit_alarm", "emergency_alarm", "lcrit_alarm"},
			warned: []string{"alarm", "max_alarm", "min_alarm"},
		},
		{
			prefix: "fan", inputs: []string{"input"}, metric: sensorFanSpeed, limit: sensorFanSpeedLimit, divisor: 1,
			limits: []hwmonLimit{{"min", "low.degraded", false}, {"max", "max", false}},
			status: "fan", failed: []string{"fault"}, warned: []string{"alarm", "min_alarm", "max_alarm"},
		},
		{
			prefix: "in", inputs: []string{"input"}, metric: sensorVoltage, limit: sensorVoltageLimit, divisor: 1e3,
			limits: []hwmonLimit{
				{"max", "high.degraded", false},
				{"crit", "high.critical", false},
				{"min", "low.degraded", false},
				{"lcrit", "low.critical", false},
			},
			status: "voltage", failed: []string{"crit_alarm", "lcrit_alarm"},
		},
		{
			prefix: "curr", inputs: []string{"input"}, metric: sensorCurrent, limit: sensorCurrentLimit, divisor: 1e3,
			limits: []hwmonLimit{{"max", "high.degraded", false}, {"crit", "high.critical", false}},
		},
		{prefix: "power", inputs: []string{"average", "input"}, metric: sensorPower, divisor: 1e6},
		{prefix: "energy", inputs: []string{"input"}, metric: sensorEnergy},
	}
}

// findHwmon finds out what a chip of /sys/class/hwmon has.
func (s *Sensors) findHwmon(c *sensorChip) error {
	names, base := c.list("."), ""
	if !slices.ContainsFunc(names, isHwmonInput) { // before Linux 3.13 many chips had their files in the device
		names, base = c.list("device"), "device/"
	}
	c.title = c.text("name")
	if c.title == "" {
		c.title = c.text("device/name")
	}
	if c.title == "nvme" && s.virtual && !s.nvme {
		c.remark = "not read in a virtual machine, where reading stops some devices for seconds"
		return nil
	}
	device := identifyDevice(filepath.Join(c.dir, "device"))
	c.id, c.parent = c.title+"@"+device.id, device.id
	if device.class != "" { // PCI; sensors on slower buses sleep between readings, and are meant to
		c.addGate()
	}
	has := make(map[string]bool, len(names))
	for _, name := range names {
		has[name] = true
	}
	component := device.component(c.title)
	for _, kind := range hwmonKinds() {
		for _, name := range names {
			if key, ok := kind.sensor(name, has); ok {
				c.addHwmon(&kind, base, key, component, has)
			}
		}
	}
	if len(c.outputs) == 0 {
		c.files = nil
	}
	return nil
}

// isHwmonInput says whether a file has the value of a sensor.
func isHwmonInput(name string) bool {
	for _, kind := range hwmonKinds() {
		for _, item := range kind.inputs {
			if prefix, number := splitNumbered(name); prefix == kind.prefix && number >= 0 && strings.HasSuffix(name, "_"+item) {
				return true
			}
		}
	}
	return false
}

// sensor returns the name of the sensor whose best value a file has: temp1 of temp1_input.
func (k *hwmonKind) sensor(name string, has map[string]bool) (key string, ok bool) {
	key, item, _ := strings.Cut(name, "_")
	if prefix, number := splitNumbered(key); prefix != k.prefix || number < 0 || !slices.Contains(k.inputs, item) {
		return "", false
	}
	for _, best := range k.inputs {
		if has[key+"_"+best] {
			return key, best == item
		}
	}
	return "", false
}

// addHwmon adds the series of one sensor.
func (c *sensorChip) addHwmon(k *hwmonKind, base, key string, component sensorComponent, has map[string]bool) {
	label := c.text(base + key + "_label")
	o := sensorOutput{key: key, name: label, compute: scaled(k.divisor)}
	if label == "" {
		o.name = key
	}
	location := component.location
	if label != "" {
		location += " " + label
	}
	o.attrs = []attribute.KeyValue{attribute.String("hw.sensor_location", location)}
	switch k.metric {
	case sensorPower, sensorEnergy:
		o.attrs = []attribute.KeyValue{attribute.String("hw.type", component.kind)}
	default:
		c.addHwmonLimits(k, base, o, has)
	}
	input := base + key + "_" + k.inputs[0]
	for _, item := range k.inputs {
		if has[key+"_"+item] {
			input = base + key + "_" + item
			break
		}
	}
	o.metric, o.from = k.metric, []int{c.add(input, parseSensor)}
	if k.metric == sensorEnergy {
		o.meter, o.compute = &energyMeter{}, nil
	}
	fault := -1
	if has[key+"_fault"] {
		fault = c.add(base+key+"_fault", parseSensor)
		o.from = append(o.from, fault)
		o.compute = func(v []int64) (float64, bool) { return float64(v[0]) / k.divisor, v[1] == 0 }
	}
	c.outputs = append(c.outputs, o)
	c.addHwmonStatus(k, base, o, fault, has)
}

// addHwmonLimits adds the limits of a sensor, as far as somebody has set them.
func (c *sensorChip) addHwmonLimits(k *hwmonKind, base string, o sensorOutput, has map[string]bool) {
	for _, limit := range k.limits {
		if !has[o.key+"_"+limit.item] {
			continue
		}
		v, ok := c.number(base + o.key + "_" + limit.item)
		if !ok || v == 0 && !limit.zero || k.metric == sensorTemperature && !plausibleLimit(v) {
			continue
		}
		c.addLimit(o, k.limit, limit.kind, float64(v)/k.divisor)
	}
}

// plausibleLimit says whether a limit in thousandths of a degree is one: NVMe devices tell 0 and 65535 kelvin for
// none, thermal zones a value below absolute zero.
func plausibleLimit(v int64) bool { return v > -273_000 && v < 1_000_000 }

// addLimit adds a limit, which is no more than a number.
func (c *sensorChip) addLimit(of sensorOutput, metric sensorMetric, kind string, v float64) {
	of.metric, of.fixed, of.from, of.compute = metric, v, nil, nil
	of.attrs = append(slices.Clip(of.attrs), attribute.String("hw.limit_type", kind))
	c.outputs = append(c.outputs, of)
}

// addHwmonStatus adds the state of a sensor, as far as it has alarms.
func (c *sensorChip) addHwmonStatus(k *hwmonKind, base string, of sensorOutput, fault int, has map[string]bool) {
	if k.status == "" {
		return
	}
	o := sensorOutput{metric: sensorStatus, key: of.key, name: of.name, states: []sensorState{sensorOK}}
	o.attrs = []attribute.KeyValue{attribute.String("hw.type", k.status)}
	add := func(items []string, state sensorState) {
		before := len(o.from)
		for _, item := range items {
			switch {
			case !has[of.key+"_"+item]:
			case item == "fault":
				o.from = append(o.from, fault)
			default:
				o.from = append(o.from, c.add(base+of.key+"_"+item, parseSensor))
			}
		}
		if len(o.from) > before {
			o.states = append(o.states, state)
		}
	}
	add(k.failed, sensorFailed)
	failing := len(o.from)
	add(k.warned, sensorDegraded)
	if len(o.from) == 0 {
		return
	}
	o.compute = func(v []int64) (float64, bool) { return float64(worst(v, failing)), true }
	c.outputs = append(c.outputs, o)
}

// worst returns the state by alarms, the first of which say that something failed.
func worst(alarms []int64, failing int) sensorState {
	state := sensorOK
	for i, alarm := range alarms {
		switch {
		case alarm == 0:
		case i < failing:
			return sensorFailed
		default:
			state = sensorDegraded
		}
	}
	return state
}

// A sensorDevice is what a sensor sits on.
type sensorDevice struct {
	id    string // as stable over reboots as the machine is
	class string // of a PCI device: 0x030000
}

// sensorComponent says what kind of hardware a sensor belongs to.
type sensorComponent struct{ kind, location string }

// identifyDevice finds the device behind a link of /sys. The names of classes (nvme0, hwmon3) are given in the order
// in which drivers start, so they do not count; the addresses on a bus (0000:01:00.0, coretemp.0, 0-0048) do. SCSI
// addresses do not either; their devices have a worldwide name.
func identifyDevice(link string) sensorDevice {
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return sensorDevice{id: "virtual"}
	}
	for p := path; len(p) > 1; p = filepath.Dir(p) {
		subsystem, err := os.Readlink(filepath.Join(p, "subsystem"))
		switch {
		case err != nil && p == path:
			p = "/" // it says nothing of itself
		case err != nil: // a directory that only groups, such as .../0000:01:00.0/nvme
		case filepath.Base(subsystem) == "thermal":
			return sensorDevice{id: "thermal"}
		case filepath.Base(filepath.Dir(subsystem)) == "bus":
			path, p = p, "/"
		}
	}
	d := sensorDevice{id: text(filepath.Base(path)), class: fileText(filepath.Join(path, "class"))}
	if wwid := fileText(filepath.Join(path, "wwid")); wwid != "" {
		d.id = strings.Join(strings.Fields(wwid), "_")
	}
	return d
}

// fileText returns the content of a small file without blanks around it; what cannot be read is empty.
func fileText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return text(strings.TrimSpace(string(b)))
}

// component tells what a chip is part of: by the class of its PCI device, else by its driver, else the board.
func (d sensorDevice) component(driver string) sensorComponent {
	switch pciKind(d.class) {
	case "gpu":
		return sensorComponent{"gpu", "gpu"}
	case "network":
		return sensorComponent{"network", "network"}
	case "physical_disk":
		return sensorComponent{"physical_disk", "disk"}
	}
	switch driver {
	case "coretemp", "k8temp", "k10temp", "zenpower", "zenergy", "fam15h_power", "amd_energy", "via_cputemp", "cpu_thermal",
		"peci_cputemp":
		return sensorComponent{"cpu", "cpu"}
	case "nvme", "drivetemp":
		return sensorComponent{"physical_disk", "disk"}
	case "jc42", "spd5118", "peci_dimmtemp":
		return sensorComponent{"memory", "memory"}
	}
	return sensorComponent{"enclosure", driver}
}

// pciKind returns the hw.type of a PCI device by its class.
func pciKind(class string) string {
	switch {
	case strings.HasPrefix(class, "0x0108"):
		return "physical_disk"
	case strings.HasPrefix(class, "0x01"):
		return "disk_controller"
	case strings.HasPrefix(class, "0x02"):
		return "network"
	case strings.HasPrefix(class, "0x03"), strings.HasPrefix(class, "0x12"):
		return "gpu"
	case strings.HasPrefix(class, "0x06"):
		return "pci_bridge"
	}
	return "pci_device"
}
