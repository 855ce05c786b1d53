package host

import (
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
)

// sensorMetric is one of the metrics of sensors.
type sensorMetric int

// The metrics of sensors.
const (
	sensorTemperature sensorMetric = iota
	sensorTemperatureLimit
	sensorFanSpeed
	sensorFanSpeedLimit
	sensorVoltage
	sensorVoltageLimit
	sensorCurrent
	sensorCurrentLimit
	sensorPower
	sensorEnergy
	sensorErrors
	sensorStatus
	sensorBatteryCharge
	sensorBatteryTimeLeft
	sensorSupplyUsage
	sensorSupplyLimit
	sensorMetrics
)

// sensorFamily is a declared metric: one of the two.
type sensorFamily struct {
	float metric.FloatFamily
	whole metric.IntFamily
	isInt bool
}

// sensorDesc returns the declaration of a gauge that every sensor's name and place go with.
func sensorDesc(name, unit string, kind metric.Kind, source, description string, attrs ...attribute.Key) metric.Desc {
	return metric.Desc{
		Name: name, Unit: unit, Kind: kind, Source: source, Description: description,
		Attributes: append([]attribute.Key{"hw.id", "hw.name", "hw.parent"}, attrs...),
	}
}

// sensorDescs returns the declarations of all metrics of sensors.
func sensorDescs() [sensorMetrics]metric.Desc {
	const (
		hwmon    = "/sys/class/hwmon"
		supplies = "/sys/class/power_supply"
		place    = attribute.Key("hw.sensor_location")
		limit    = attribute.Key("hw.limit_type")
		kind     = attribute.Key("hw.type")
	)
	return [sensorMetrics]metric.Desc{
		sensorTemperature: sensorDesc("hw.temperature", "Cel", metric.Gauge, hwmon+", /sys/class/thermal",
			"Temperature at a sensor.", place),
		sensorTemperatureLimit: sensorDesc("hw.temperature.limit", "Cel", metric.Gauge, hwmon+", /sys/class/thermal",
			"Temperature from which on the hardware is stressed, throttled or in danger.", place, limit),
		sensorFanSpeed: sensorDesc("hw.fan.speed", "rpm", metric.Gauge, hwmon, "Speed of a fan.", place),
		sensorFanSpeedLimit: sensorDesc("hw.fan.speed.limit", "rpm", metric.Gauge, hwmon,
			"Lowest or highest speed that a fan is meant for.", place, limit),
		sensorVoltage: sensorDesc("hw.voltage", "V", metric.Gauge, hwmon, "Voltage at a sensor.", place),
		sensorVoltageLimit: sensorDesc("hw.voltage.limit", "V", metric.Gauge, hwmon,
			"Voltage that the hardware is not meant to go below or above.", place, limit),
		sensorCurrent: sensorDesc("hw.linux.current", "A", metric.Gauge, hwmon, "Current through a sensor.", place),
		sensorCurrentLimit: sensorDesc("hw.linux.current.limit", "A", metric.Gauge, hwmon,
			"Current that the hardware is not meant to go above.", place, limit),
		sensorPower: sensorDesc("hw.power", "W", metric.Gauge, hwmon,
			"Power drawn; the driver's average if it has one.", kind),
		sensorEnergy: sensorDesc("hw.energy", "J", metric.Counter, "/sys/class/powercap/intel-rapl:*, "+hwmon,
			"Energy used since the first reading. Zones within a package are a part of it (hw.parent).", kind),
		sensorErrors: sensorDesc("hw.errors", "{error}", metric.Counter,
			"/sys/devices/system/edac/mc, /sys/bus/pci/devices/*/aer_dev_*",
			"Errors of memory modules and of PCI Express devices.", kind, "error.type"),
		sensorStatus: sensorDesc("hw.status", "1", metric.UpDownCounter, hwmon+", "+supplies,
			"1 for the state that the hardware is in by its own alarms, 0 for the others.", kind, "hw.state"),
		sensorBatteryCharge: sensorDesc("hw.battery.charge", "1", metric.Gauge, supplies,
			"Charge of a battery, as a share of the full one.", "hw.battery.chemistry", "hw.model", "hw.vendor"),
		sensorBatteryTimeLeft: sensorDesc("hw.battery.time_left", "s", metric.Gauge, supplies,
			"Time until a battery is empty (discharging) or full (charging).",
			"hw.battery.chemistry", "hw.model", "hw.vendor", "hw.state", "hw.battery.state"),
		sensorSupplyUsage: sensorDesc("hw.power_supply.usage", "W", metric.UpDownCounter, supplies,
			"Power that a supply delivers.", "hw.model", "hw.vendor"),
		sensorSupplyLimit: sensorDesc("hw.power_supply.limit", "W", metric.UpDownCounter, supplies,
			"Power that a supply can deliver.", "hw.model", "hw.vendor", limit),
	}
}

// declare declares all metrics.
func (s *Sensors) declare(m *metric.Group) {
	for i, d := range sensorDescs() {
		f := &s.metrics[i]
		switch sensorMetric(i) {
		case sensorFanSpeed, sensorFanSpeedLimit, sensorErrors, sensorStatus:
			f.isInt, f.whole = true, m.Int(d)
		default:
			f.float = m.Float(d)
		}
	}
	s.missed = m.Int(metric.Desc{
		Name: "hw.linux.sensor.missed", Unit: "{reading}", Kind: metric.Counter, Source: "/sys",
		Description: "Readings of sensors that failed, or were not made because the sensor is too slow.",
		Attributes:  []attribute.Key{"hw.linux.source", "error.type"},
	})
}

// store stores a value and makes its series if there is none.
func (s *Sensors) store(c *sensorChip, o *sensorOutput, v float64, now time.Time) {
	if o.meter != nil {
		if fresh := o.meter.advance(int64(v), now); fresh {
			o.withdraw()
			o.start = now
		}
		v = o.meter.joules
	}
	if o.sum {
		s.follow(o, v)
	}
	o.total, o.seen = v, now
	if o.entity == nil {
		s.register(c, o)
	} else if len(o.from) == 0 {
		return // a limit: it is set
	}
	o.set(v, now)
}

// follow finds out when a total that the kernel keeps began: it may have been reset while there was no series.
func (s *Sensors) follow(o *sensorOutput, total float64) {
	switch {
	case o.start.IsZero() && !s.last.IsZero(): // it came since
		o.start = s.last
	case total < o.total && o.entity == nil:
		o.start = o.seen
	}
}

// register makes the series of an output.
func (s *Sensors) register(c *sensorChip, o *sensorOutput) {
	id, parent := c.prefix, c.parent
	if o.key != "" {
		id, parent = c.prefix+"/"+o.key, c.prefix
	}
	attrs := append([]attribute.KeyValue{
		attribute.String("hw.id", id), attribute.String("hw.name", o.name), attribute.String("hw.parent", parent),
	}, o.attrs...)
	if o.start.IsZero() {
		o.start = s.env.Boot // it makes no difference to what is no total
	}
	o.entity = s.env.Metrics.Entity(s.env.Host, o.start)
	f := &s.metrics[o.metric]
	switch {
	case o.states != nil:
		o.set = statusSetter(f.whole, o, attrs)
	case f.isInt && o.sum:
		register := f.whole.With(o.entity, attrs...)
		o.set = func(v float64, now time.Time) { register.Observe(uint64(v), now) }
	case f.isInt:
		register := f.whole.With(o.entity, attrs...)
		o.set = func(v float64, _ time.Time) { register.Set(int64(v)) }
	case o.meter != nil:
		register := f.float.With(o.entity, attrs...)
		o.set = register.Observe
	default:
		register := f.float.With(o.entity, attrs...)
		o.set = func(v float64, _ time.Time) { register.Set(v) }
	}
}

// sensorState is a state of hardware.
type sensorState int

// The states that the kernel can tell.
const (
	sensorOK sensorState = iota
	sensorDegraded
	sensorFailed
)

func (h sensorState) String() string { return [...]string{"ok", "degraded", "failed"}[h] }

// statusSetter makes one series for each state. Exactly one of them is 1.
func statusSetter(family metric.IntFamily, o *sensorOutput, attrs []attribute.KeyValue) func(float64, time.Time) {
	registers := make([]*metric.Int, len(o.states))
	for i, state := range o.states {
		registers[i] = family.With(o.entity, append(slices.Clip(attrs), attribute.Stringer("hw.state", state))...)
	}
	states := o.states
	return func(v float64, _ time.Time) {
		for i, state := range states {
			is := int64(0)
			if state == sensorState(v) {
				is = 1
			}
			registers[i].Set(is)
		}
	}
}
