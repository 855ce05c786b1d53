package text

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/verdict"
)

// SchemaVersion is the version of the JSON form of Report. It grows when a field changes its meaning or goes away;
// new fields may come without.
const SchemaVersion = 1

// A Report is what was measured within one window. Its JSON form is a contract with users and their scripts. A field
// that is nil or empty and marked so was not measured; it is never 0 for that reason.
type Report struct {
	SchemaVersion int               `json:"schema_version"`
	Host          string            `json:"host"`
	Time          time.Time         `json:"time"` // end of the window, UTC, whole seconds
	WindowSeconds float64           `json:"window_seconds"`
	System        *System           `json:"system,omitempty"`
	Services      []Service         `json:"services"`         // worst first: by share of errors, then by requests
	Probes        []Probe           `json:"probes,omitempty"` // what slid asks by itself: worst first; absent without probes
	SLOs          []SLO             `json:"slos"`             // worst budget first
	Latency       []Latency         `json:"latency"`
	Owners        []Owner           `json:"owners"` // units and containers that waited in the kernel, longest first
	Agent         Agent             `json:"agent"`
	Sources       []verdict.Verdict `json:"sources"` // the sources that are not active though the machine has them, by name
}

// A Service is one listening port of one service.
type Service struct {
	Service  string `json:"service"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol,omitempty"` // http, opaque, ...; empty as long as no connection told

	Requests    *int64           `json:"requests,omitempty"` // answered requests; nil for a protocol that slid does not read
	Errors      *int64           `json:"errors,omitempty"`   // responses 5xx
	Status      map[string]int64 `json:"status,omitzero"`    // responses by class, "2xx"
	StatusCodes map[string]int64 `json:"status_codes,omitzero"`
	Aborted     *int64           `json:"aborted,omitempty"` // requests without a whole response
	Connections *int64           `json:"connections,omitempty"`

	LatencySeconds *Quantiles `json:"latency_seconds,omitempty"` // first request byte to last response byte
	TTFBSeconds    *Quantiles `json:"ttfb_seconds,omitempty"`    // first request byte to first response byte

	Coverage   *float64 `json:"coverage,omitempty"`    // 0 to 1: share of the traffic seen that was understood
	EventsLost *int64   `json:"events_lost,omitempty"` // events of this service that were seen and lost
	// DurationsLost counts requests that are in Requests but not in the latencies, as their time is not known.
	DurationsLost *int64 `json:"durations_lost,omitempty"`

	Unit      string `json:"unit"`      // systemd unit or ""
	Container string `json:"container"` // container id or ""

	Routes []Route `json:"routes,omitempty"` // those by which the service is counted and that were asked for; worst first
}

// Route is a part of a service: the requests whose path begins so and with no longer route. Those of no route are "_OTHER";
// those of which the path is not known are in the service alone.
type Route struct {
	Route          string           `json:"route"`
	Requests       int64            `json:"requests"`
	Errors         int64            `json:"errors"` // responses 5xx
	StatusCodes    map[string]int64 `json:"status_codes"`
	LatencySeconds *Quantiles       `json:"latency_seconds,omitempty"`
}

// Quantiles are estimates in seconds, each off by less than 9.05 % (one histogram bucket).
type Quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// Latency is what one kernel probe measured, in seconds. The quantiles are nil if nothing happened.
type Latency struct {
	Probe        string   `json:"probe"`
	Count        int64    `json:"count"`
	P50          *float64 `json:"p50,omitempty"`
	P90          *float64 `json:"p90,omitempty"`
	P99          *float64 `json:"p99,omitempty"`
	MaxBucket    *float64 `json:"max_bucket,omitempty"`   // no value was larger than this; it is at most 9.05 % too high
	Distribution []Bucket `json:"distribution,omitempty"` // counts between powers of two, not cumulative
}

// A Bucket counts the values of half its bound to its bound, inclusive.
type Bucket struct {
	LE    float64 `json:"le"`
	Count int64   `json:"count"`
}

// System is the state of the host.
type System struct {
	OS             string              `json:"os,omitempty"`
	CPUs           *int64              `json:"cpus,omitempty"`
	CPUUtilization *float64            `json:"cpu_utilization,omitempty"` // 0 to 1: neither idle nor waiting for I/O
	CPUModes       map[string]float64  `json:"cpu_modes,omitempty"`       // share of each mode, together 1
	Load           map[string]float64  `json:"load,omitempty"`            // "1m", "5m", "15m"
	Memory         *Memory             `json:"memory,omitempty"`
	Disks          []Disk              `json:"disks"`              // busiest first
	Networks       []Network           `json:"networks"`           // most traffic first
	Pressure       map[string]Pressure `json:"pressure,omitempty"` // "cpu", "memory", "io", "irq"
}

// Memory is the host's memory in bytes.
type Memory struct {
	Used      *int64 `json:"used_bytes,omitempty"`
	Limit     *int64 `json:"limit_bytes,omitempty"`
	Available *int64 `json:"available_bytes,omitempty"` // what programs can get without swapping (MemAvailable)
}

// Disk is one block device.
type Disk struct {
	Device      string   `json:"device"`
	Read        *float64 `json:"read_bytes_per_second,omitempty"`
	Written     *float64 `json:"write_bytes_per_second,omitempty"`
	Operations  *float64 `json:"operations_per_second,omitempty"`
	Utilization *float64 `json:"utilization,omitempty"`   // 0 to 1: share of the time with an operation in flight
	Await       *float64 `json:"await_seconds,omitempty"` // mean time of an operation; nil if there was none
}

// Network is one network interface.
type Network struct {
	Interface   string   `json:"interface"`
	Received    *float64 `json:"receive_bytes_per_second,omitempty"`
	Sent        *float64 `json:"transmit_bytes_per_second,omitempty"`
	ReceivedPkt *float64 `json:"receive_packets_per_second,omitempty"`
	SentPkt     *float64 `json:"transmit_packets_per_second,omitempty"`
	Errors      *int64   `json:"errors,omitempty"`  // within the window, both directions
	Dropped     *int64   `json:"dropped,omitempty"` // packets within the window, both directions
}

// Pressure is the share of the window, 0 to 1, in which tasks waited for a resource: some of them, or all at once.
type Pressure struct {
	Some *float64 `json:"some,omitempty"`
	Full *float64 `json:"full,omitempty"`
}

// Agent is what slid itself cost within the window.
type Agent struct {
	CPUSeconds         *float64 `json:"cpu_seconds,omitempty"`
	ProbeKernelSeconds *float64 `json:"probe_kernel_seconds,omitempty"` // CPU time of the kernel probes, on top of it
	RSSBytes           *int64   `json:"rss_bytes,omitempty"`
	HeapBytes          *int64   `json:"heap_bytes,omitempty"`
	EventsLost         *int64   `json:"events_lost,omitempty"`
	TicksMissed        *int64   `json:"ticks_missed,omitempty"`
}

// newReport computes the report of a window. It is a pure function but for the call of o.Verdicts.
func newReport(w window, o Options) *Report {
	r := &Report{
		SchemaVersion: SchemaVersion,
		Host:          o.Host,
		Time:          w.to.at.UTC().Truncate(time.Second),
		WindowSeconds: w.to.at.Sub(w.from.at).Round(time.Millisecond).Seconds(),
		System:        w.system(),
		Services:      w.services(),
		Probes:        w.probes(),
		SLOs:          objectives(o),
		Latency:       w.latencies(),
		Owners:        w.owners(),
		Agent:         w.agent(),
		Sources:       []verdict.Verdict{},
	}
	if r.Host == "" {
		r.Host = w.to.find(func(t *target) bool { return t.text(keyHostName) != "" }).text(keyHostName)
	}
	if o.Verdicts == nil {
		return r
	}
	for _, v := range o.Verdicts() {
		if v.State != verdict.Active && !v.Absent { // what the machine does not have is not missed
			r.Sources = append(r.Sources, v)
		}
	}
	verdict.Sort(r.Sources)
	return r
}

// latencies returns the probes that have a histogram.
func (w window) latencies() []Latency {
	list := []Latency{}
	for _, p := range probes {
		t := w.to.find(func(t *target) bool { return t.has(p.metric) })
		d, ok := w.distribution(t, p.metric, func(attrs attribute.Set) bool {
			return text(attrs, keyDeviceKind) != "stacked" // the disks below it count the same I/O
		})
		if !ok {
			continue
		}
		l := Latency{Probe: p.name, Count: int64(d.count())}
		if l.Count > 0 {
			l.P50, l.P90, l.P99 = measured(d.quantile(0.5)), measured(d.quantile(0.9)), measured(d.quantile(0.99))
			top := d.top()
			l.MaxBucket = &top
			l.Distribution = d.octaves()
		}
		list = append(list, l)
	}
	return list
}

// agent returns what slid cost. What it tells of itself by names of its own may stand on any resource: the losses of a
// probe belong to the host it watches.
func (w window) agent() Agent {
	t := w.to.find(func(t *target) bool { return t.text(keyServiceName) == agentName && t.has(processCPU) })
	return Agent{
		CPUSeconds:         sum(w.changes(t, processCPU), anySeries),
		ProbeKernelSeconds: sum(w.everywhere(kernelTime), anySeries),
		RSSBytes:           t.amount(processMemory, anySeries),
		HeapBytes:          t.amount(goMemory, anySeries),
		EventsLost:         count(w.everywhere(eventsLost), anySeries),
		TicksMissed:        count(w.everywhere(ticksMissed), anySeries),
	}
}
