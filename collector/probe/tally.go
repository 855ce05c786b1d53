package probe

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/schedule"
)

// missed is why an attempt that was due was not made: a schedule.Missed, or that slid's host did not allow it.
type missed = schedule.Missed

const (
	missedLocal   = schedule.Crowded + 1
	missedReasons = missedLocal + 1
)

var missedNames = [missedReasons]string{"late", "busy", "crowded", "local"}

// A tally is a histogram of durations in the registers' own buckets.
type tally struct {
	zero    uint64
	sum     float64 // seconds
	buckets [256]uint64
}

// record counts a duration.
func (h *tally) record(d time.Duration) {
	v := d.Seconds()
	h.sum += v
	if v <= metric.Durations.ZeroThreshold() {
		h.zero++
		return
	}
	// An attempt lasts two minutes at the most, and the buckets end at four.
	h.buckets[min(metric.Index(v)-int(metric.Durations.Offset()), len(h.buckets)-1)]++
}

// copyTo stores the tally into its register.
func (h *tally) copyTo(r *metric.Hist) {
	r.Load(h.zero, 0, h.sum, func(i int) uint64 { return h.buckets[i] })
}

// tallies are what the attempts of a probe added up to. Histograms are made when they are needed first.
type tallies struct {
	attempts  [outcomes]uint64
	missed    [missedReasons]uint64
	durations [outcomes]*tally
	phases    [phases]*tally
	expiry    time.Time // of the certificate that was seen last; zero before the first
}

// add adds a finished attempt.
func (t *tallies) add(l *timeline, o outcome) {
	t.attempts[o]++
	record(&t.durations[o], l.duration())
	for i, entered := range l.entered {
		if entered {
			record(&t.phases[i], l.spent[i])
		}
	}
	if !l.expiry.IsZero() {
		t.expiry = l.expiry
	}
}

func record(h **tally, d time.Duration) {
	if *h == nil {
		*h = &tally{}
	}
	(*h).record(d)
}

const (
	nameKey    = attribute.Key("probe.name")
	outcomeKey = attribute.Key("probe.outcome")
	phaseKey   = attribute.Key("probe.phase")
	reasonKey  = attribute.Key("probe.missed.reason")
)

// families are the metrics of all probes.
type families struct {
	attempts, missed  metric.IntFamily
	durations, phases metric.HistogramFamily
	expiry            metric.FloatFamily
}

func declare(g *metric.Group) families {
	const source = "slid's own requests"
	return families{
		attempts: g.Int(metric.Desc{
			Name: "probe.attempts", Unit: "{attempt}", Kind: metric.Counter, Source: source,
			Attributes: []attribute.Key{nameKey, outcomeKey},
			Description: "Attempts by how they ended: success, or timeout, dns, refused, unreachable, tls, closed, protocol, " +
				"status, body or other, the one class of each failure.",
		}),
		durations: g.Histogram(metric.Desc{
			Name: "probe.duration", Unit: "s", Source: source, Attributes: []attribute.Key{nameKey, outcomeKey},
			Description: "Time from the moment at which an attempt was due until its outcome was known; an outcome has a histogram " +
				"from the first time on that it occurs.",
		}),
		phases: g.Histogram(metric.Desc{
			Name: "probe.phase.duration", Unit: "s", Source: source, Attributes: []attribute.Key{nameKey, phaseKey},
			Description: "Time of the phases of all attempts, also of those that failed in them: schedule (slid's own delay), dns, " +
				"connect, tls, first_byte and transfer. The phases of an attempt add up to its duration.",
		}),
		expiry: g.Float(metric.Desc{
			Name: "probe.tls.certificate.expiry", Unit: "s", Kind: metric.Gauge, Source: source, Attributes: []attribute.Key{nameKey},
			Description: "Time until the certificate chain of the server ends, or of one that is not trusted its own certificate; " +
				"negative when it is over. It counts down from the chain that was seen last.",
		}),
		missed: g.Int(metric.Desc{
			Name: "probe.schedule.missed", Unit: "{attempt}", Kind: metric.Counter, Source: source,
			Attributes: []attribute.Key{nameKey, reasonKey},
			Description: "Attempts that were due and not made, which says nothing of the target: slid stood still (late), too many " +
				"of the probe's (busy) or of all probes' (crowded) were under way, or slid's host did not allow it (local).",
		}),
	}
}

// registers are the series of one probe.
type registers struct {
	families  *families
	entity    *metric.Entity
	name      attribute.KeyValue
	attempts  [outcomes]*metric.Int
	missed    [missedReasons]*metric.Int
	durations [outcomes]*metric.Hist
	phases    [phases]*metric.Hist
	expiry    *metric.Float // nil for what has no TLS
}

// registersOf makes the series of a probe, from zero: a failure that never was is known to be none.
func (f *families) registersOf(p *prober, e *metric.Entity) registers {
	r := registers{families: f, entity: e, name: nameKey.String(p.Name)}
	for i := range r.attempts {
		r.attempts[i] = f.attempts.With(e, r.name, outcomeKey.String(outcomeNames[i]))
	}
	for i := range r.missed {
		r.missed[i] = f.missed.With(e, r.name, reasonKey.String(missedNames[i]))
	}
	r.duration(success)
	for _, i := range p.phases() {
		r.phase(i)
	}
	if p.secured() {
		r.expiry = f.expiry.With(e, r.name)
	}
	return r
}

// duration returns the histogram of an outcome.
func (r *registers) duration(o outcome) *metric.Hist {
	if r.durations[o] == nil {
		r.durations[o] = r.families.durations.With(r.entity, r.name, outcomeKey.String(o.String()))
	}
	return r.durations[o]
}

// phase returns the histogram of a phase.
func (r *registers) phase(i phase) *metric.Hist {
	if r.phases[i] == nil {
		r.phases[i] = r.families.phases.With(r.entity, r.name, phaseKey.String(phaseNames[i]))
	}
	return r.phases[i]
}

// store copies the tallies into the registers, all of one moment: the attempts are as many as their durations.
func (p *prober) store(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, r := &p.tallies, &p.registers
	for i, n := range t.attempts {
		r.attempts[i].Observe(n, now)
	}
	for i, n := range t.missed {
		r.missed[i].Observe(n, now)
	}
	for i, h := range t.durations {
		if h != nil {
			h.copyTo(r.duration(outcome(i)))
		}
	}
	for i, h := range t.phases {
		if h != nil {
			h.copyTo(r.phase(phase(i)))
		}
	}
	if r.expiry != nil && !t.expiry.IsZero() {
		r.expiry.Set(t.expiry.Sub(now).Seconds())
	}
}

// secured says whether the probe gets to see a certificate.
func (p *prober) secured() bool {
	return p.Target.Scheme == "https" || p.Target.Scheme == "grpcs" || p.Target.Scheme == "tls"
}

// phases returns the phases that the probe's attempts can have.
func (p *prober) phases() []phase {
	list := []phase{phaseSchedule}
	if p.named() {
		list = append(list, phaseDNS)
	}
	switch p.Target.Scheme {
	case "dns", "icmp":
		return append(list, phaseFirstByte)
	}
	list = append(list, phaseConnect)
	if p.secured() {
		list = append(list, phaseTLS)
	}
	switch p.Target.Scheme {
	case "http", "https":
		list = append(list, phaseFirstByte, phaseTransfer)
	case "grpc", "grpcs":
		list = append(list, phaseFirstByte)
	}
	return list
}
