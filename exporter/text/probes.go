package text

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// The metrics of active probes and what tells their series apart.
const (
	probeAttempts = "probe.attempts"
	probeDuration = "probe.duration"
	probeExpiry   = "probe.tls.certificate.expiry"
	probeMissed   = "probe.schedule.missed"

	keyProbe        = attribute.Key("probe.name")
	keyProbeKind    = attribute.Key("probe.kind")
	keyProbeTarget  = attribute.Key("probe.target")
	keyProbeOutcome = attribute.Key("probe.outcome")
)

const (
	probeSuccess = "success"
	probeTimeout = "timeout"
)

// A Probe is a server that slid asks by itself.
type Probe struct {
	Probe   string `json:"probe"`
	Service string `json:"service"`
	Kind    string `json:"kind"` // http, tcp, ...
	Target  string `json:"target"`

	Attempts     int64            `json:"attempts"`
	Outcomes     map[string]int64 `json:"outcomes"`                // those that occurred; together the attempts
	SuccessRatio *float64         `json:"success_ratio,omitempty"` // 0 to 1; nil without attempts
	// LatencySeconds is of the attempts that succeeded or timed out: a quick refusal is no quick answer.
	LatencySeconds *Quantiles `json:"latency_seconds,omitempty"`
	Missed         *int64     `json:"missed,omitempty"` // attempts that slid could not make, which tells nothing of the target
	// CertificateExpirySeconds is the time until the certificate seen last ends; negative if it is over.
	CertificateExpirySeconds *float64 `json:"certificate_expiry_seconds,omitempty"`
}

// probes returns the active probes, worst first.
func (w window) probes() []Probe {
	var list []Probe
	for _, t := range w.to.targets {
		if t.has(probeAttempts) {
			list = append(list, w.probe(t))
		}
	}
	slices.SortStableFunc(list, func(a, b Probe) int {
		return cmp.Or(
			cmp.Compare(valueOr(a.SuccessRatio, 2), valueOr(b.SuccessRatio, 2)),
			cmp.Compare(a.Service, b.Service),
			cmp.Compare(a.Probe, b.Probe),
		)
	})
	return list
}

func (w window) probe(t *target) Probe {
	p := Probe{
		Probe: text(t.numbers[probeAttempts][0].attrs, keyProbe), Service: t.text(keyServiceName),
		Kind: t.text(keyProbeKind), Target: t.text(keyProbeTarget), Outcomes: map[string]int64{},
		Missed: count(w.changes(t, probeMissed), anySeries),
		LatencySeconds: w.quantiles(t, probeDuration, func(attrs attribute.Set) bool {
			o := text(attrs, keyProbeOutcome)
			return o == probeSuccess || o == probeTimeout
		}),
	}
	for _, c := range w.changes(t, probeAttempts) {
		if n := int64(c.value); n > 0 {
			p.Outcomes[text(c.attrs, keyProbeOutcome)] += n
			p.Attempts += n
		}
	}
	if p.Attempts > 0 {
		p.SuccessRatio = measured(float64(p.Outcomes[probeSuccess]) / float64(p.Attempts))
	}
	if v := t.level(probeExpiry, anySeries); v != nil {
		p.CertificateExpirySeconds = measured(*v)
	}
	return p
}

// probes writes the active probes, if there are any.
func (p *page) probes(list []Probe) {
	if len(list) == 0 {
		return
	}
	g := grid{titles: []string{"", "PROBES", "BY", "ATTEMPTS", "OK", "P50", "P99", "CERT"}}
	for i := range list {
		g.rows = append(g.rows, list[i].row())
	}
	p.grid(g)
	for i := range list {
		if note := list[i].note(); note != "" {
			p.paragraph(yellow, "  ", note)
		}
	}
}

func (p *Probe) row() []cell {
	row := []cell{
		{" ", plain},
		{text: p.Probe},
		{text: orNone(p.Kind)},
		{text: strconv.FormatInt(p.Attempts, 10)},
		{text: optional(p.SuccessRatio, FormatShare)},
		{text: none},
		{text: none},
		{text: none},
	}
	switch {
	case valueOr(p.SuccessRatio, 1) < 1:
		row[0], row[4].style = cell{"!", red}, red
	case valueOr(p.Missed, 0) > 0:
		row[0] = cell{"?", yellow}
	}
	if q := p.LatencySeconds; q != nil {
		row[5].text, row[6].text = FormatDuration(q.P50), FormatDuration(q.P99)
	}
	if left := p.CertificateExpirySeconds; left != nil {
		row[7] = certificateDays(*left)
	}
	return row
}

// certificateDays writes the whole days that a certificate lasts still, and sets off the last two weeks.
func certificateDays(seconds float64) cell {
	days := math.Floor(seconds / (24 * 60 * 60))
	c := cell{text: strconv.FormatFloat(days, 'f', 0, 64) + " d"}
	switch {
	case days < 0:
		c.style = red
	case days < 14:
		c.style = yellow
	}
	return c
}

// note says how attempts failed and how many were not made.
func (p *Probe) note() string {
	var parts []string
	for _, o := range slices.Sorted(maps.Keys(p.Outcomes)) {
		if o != probeSuccess {
			parts = append(parts, fmt.Sprintf("%d %s", p.Outcomes[o], o))
		}
	}
	if n := valueOr(p.Missed, 0); n > 0 {
		parts = append(parts, plural(n, "attempt")+" not made by slid")
	}
	if len(parts) == 0 {
		return ""
	}
	return p.Probe + ": " + strings.Join(parts, ", ")
}
