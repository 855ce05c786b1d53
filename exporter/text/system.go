package text

import (
	"cmp"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// system returns the state of the host, or nil if nothing was measured of it.
func (w window) system() *System {
	t := w.to.find(func(t *target) bool { return t.hasPrefix(kernelCounters) })
	if !t.hasPrefix(kernelCounters) {
		return nil
	}
	s := &System{
		OS:       osName(t),
		CPUs:     t.amount(cpuCount, anySeries),
		Load:     t.load(),
		Memory:   t.memory(),
		Disks:    w.disks(t),
		Networks: w.networks(t),
		Pressure: w.pressure(t),
	}
	s.CPUUtilization, s.CPUModes = w.cpu(t)
	return s
}

// osName returns the operating system and its version as far as the resource tells.
func osName(t *target) string {
	if d := t.text(keyOS); d != "" {
		return d
	}
	return strings.TrimSpace(t.text(keyOSName) + " " + t.text(keyOSVersion))
}

// cpu returns the share of the time in which the processors worked, and the share of each mode.
func (w window) cpu(t *target) (utilization *float64, modes map[string]float64) {
	var total, idle float64
	modes = map[string]float64{}
	for _, c := range w.changes(t, cpuTime) {
		mode := text(c.attrs, keyCPUMode)
		modes[mode] += c.value
		total += c.value
		if mode == "idle" || mode == "iowait" {
			idle += c.value
		}
	}
	if total <= 0 {
		return nil, nil
	}
	for mode, v := range modes {
		modes[mode] = round(v / total)
	}
	return measured((total - idle) / total), modes
}

// load returns the load averages by the length of their time: "1m", "5m", "15m".
func (t *target) load() map[string]float64 {
	list := map[string]float64{}
	for _, span := range []string{"1m", "5m", "15m"} {
		if v := t.level(loadPrefix+span, anySeries); v != nil {
			list[span] = *v
		}
	}
	return list
}

func (t *target) memory() *Memory {
	m := Memory{
		Used:      t.amount(memoryUsage, having(keyMemoryState, "used")),
		Limit:     t.amount(memoryLimit, anySeries),
		Available: t.amount(memoryAvailable, anySeries),
	}
	if m == (Memory{}) {
		return nil
	}
	return &m
}

// disks returns all disks, the busiest first.
func (w window) disks(t *target) []Disk {
	bytes, operations := w.changesBy(t, diskIO, keyDevice), w.changesBy(t, diskOperations, keyDevice)
	busy, duration := w.changesBy(t, diskBusyTime, keyDevice), w.changesBy(t, diskOperationTime, keyDevice)
	list := []Disk{}
	for _, name := range t.values(keyDevice, diskIO, diskOperations, diskBusyTime) {
		list = append(list, Disk{
			Device:      name,
			Read:        rate(bytes[name], having(keyDiskDirection, "read")),
			Written:     rate(bytes[name], having(keyDiskDirection, "write")),
			Operations:  rate(operations[name], anySeries),
			Utilization: atMostOne(rate(busy[name], anySeries)),
			Await:       quotient(sum(duration[name], anySeries), sum(operations[name], anySeries)),
		})
	}
	slices.SortStableFunc(list, func(a, b Disk) int {
		return cmp.Or(
			cmp.Compare(valueOr(b.Utilization, -1), valueOr(a.Utilization, -1)),
			cmp.Compare(valueOr(b.Operations, -1), valueOr(a.Operations, -1)),
		)
	})
	return list
}

// networks returns all network interfaces, those with the most traffic first.
func (w window) networks(t *target) []Network {
	// The conventions name the interface in two ways: packet counts call it a device.
	by := func(metric string) map[string][]change { return w.changesBy(t, metric, keyInterface, keyDevice) }
	bytes, packets, errors, dropped := by(networkIO), by(networkPackets), by(networkErrors), by(networkDropped)
	in, out := having(keyNetDirection, "receive"), having(keyNetDirection, "transmit")
	list := []Network{}
	for _, name := range t.values(keyInterface, networkIO) {
		list = append(list, Network{
			Interface:   name,
			Received:    rate(bytes[name], in),
			Sent:        rate(bytes[name], out),
			ReceivedPkt: rate(packets[name], in),
			SentPkt:     rate(packets[name], out),
			Errors:      count(errors[name], anySeries),
			Dropped:     count(dropped[name], anySeries),
		})
	}
	slices.SortStableFunc(list, func(a, b Network) int {
		return cmp.Compare(valueOr(b.Received, 0)+valueOr(b.Sent, 0), valueOr(a.Received, 0)+valueOr(a.Sent, 0))
	})
	return list
}

// pressure returns the share of the window in which tasks waited, by resource.
func (w window) pressure(t *target) map[string]Pressure {
	list := map[string]Pressure{}
	for name, changes := range w.changesBy(t, pressureTime, keyPressure) {
		p := Pressure{
			Some: atMostOne(rate(changes, having(keyScope, "some"))),
			Full: atMostOne(rate(changes, having(keyScope, "full"))),
		}
		if p != (Pressure{}) {
			list[name] = p
		}
	}
	return list
}

// values returns all values of an attribute on the series of the given metrics, sorted.
func (t *target) values(k attribute.Key, metrics ...string) []string {
	var list []string
	for _, name := range metrics {
		for _, n := range t.numbers[name] {
			if v := text(n.attrs, k); v != "" {
				list = append(list, v)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// atMostOne caps a share: two clocks that are read one after the other can make it a little more than 1.
func atMostOne(v *float64) *float64 {
	if v != nil && *v > 1 {
		*v = 1
	}
	return v
}

// quotient returns a/b, or nil if either is unknown or b is 0.
func quotient(a, b *float64) *float64 {
	if a == nil || b == nil || *b == 0 {
		return nil
	}
	return measured(*a / *b)
}
