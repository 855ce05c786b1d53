package text

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/slid-agent/slid/internal/verdict"
)

// none stands for what was not measured.
const none = "-"

// trusted is the coverage below which a service's figures are marked.
const trusted = 0.99

// renderTable writes the report for people.
func renderTable(b *bytes.Buffer, r *Report, l layout) {
	p := newPage(b, l)
	p.header(r)
	p.objectives(r.SLOs)
	p.services(r)
	p.probes(r.Probes)
	p.latency(r.Latency)
	p.owners(r)
	p.host(r.System)
	p.agent(r)
	p.sources(r.Sources)
}

func (p *page) header(r *Report) {
	host := r.Host
	if host == "" {
		host = "this host"
	}
	p.put(bold, host)
	if r.System != nil {
		if r.System.OS != "" {
			p.put(dim, " · "+r.System.OS)
		}
		if n := r.System.CPUs; n != nil {
			p.put(dim, " · "+plural(*n, "CPU"))
		}
	}
	p.end()
	p.line(dim, FormatDuration(r.WindowSeconds)+" up to "+r.Time.Format("2006-01-02 15:04:05 MST"))
}

func (p *page) services(r *Report) {
	var idle, opaque []string
	g := grid{titles: []string{
		"", "SERVICES", "PORT", "PROTO", "REQ/S", "REQUESTS", "ERRORS", "P50", "P90", "P99", "COVER",
	}}
	for _, s := range r.Services {
		switch {
		case !s.idle():
			g.rows = append(g.rows, s.row(r.WindowSeconds))
			g.rows = append(g.rows, s.routeRows(r.WindowSeconds)...)
		case s.Protocol == protocolOpaque: // its old connections may be busy, but tell nothing
			opaque = append(opaque, s.address())
		default:
			idle = append(idle, s.address())
		}
	}
	if len(g.rows) > 0 {
		p.grid(g)
	} else {
		p.title("SERVICES")
	}
	for i := range r.Services {
		if note := r.Services[i].note(); note != "" {
			p.paragraph(yellow, "  ", note)
		}
	}
	if len(idle) > 0 {
		p.paragraph(dim, "  without requests: ", strings.Join(idle, ", "))
	}
	if len(opaque) > 0 {
		p.paragraph(dim, "  not HTTP/1.x, not measured: ", strings.Join(opaque, ", "))
	}
	if len(r.Services) == 0 {
		p.paragraph(plain, "  ", noServices(r))
	}
}

// noServices says why there is no service to show.
func noServices(r *Report) string {
	for _, v := range r.Sources {
		if v.Name == "service/traffic" && v.State == verdict.Unavailable {
			return "Services cannot be seen here: " + v.Name + " under NOT SEEN says why."
		}
	}
	return "No service was seen: nothing on this host answered a connection within " +
		FormatDuration(r.WindowSeconds) + ". Send some requests, or measure for longer."
}

// idle says whether nothing is known to have happened. What was not measured is not idle.
func (s *Service) idle() bool {
	return (s.Requests != nil || s.Connections != nil) &&
		valueOr(s.Requests, 0) == 0 && valueOr(s.Connections, 0) == 0 && valueOr(s.Aborted, 0) == 0
}

func (s *Service) address() string { return s.Service + ":" + strconv.Itoa(s.Port) }

func (s *Service) row(seconds float64) []cell {
	row := slices.Concat(
		[]cell{s.mark(), {text: s.Service}, {text: strconv.Itoa(s.Port)}, {text: orNone(s.Protocol)}},
		figures(s.Requests, s.errorRatio(), s.LatencySeconds, seconds),
		[]cell{{text: optional(s.Coverage, FormatShare)}})
	if s.doubtful() {
		row[len(row)-1].style = yellow
	}
	return row
}

// figures returns the cells of a service's or route's requests.
func figures(requests *int64, errors float64, q *Quantiles, seconds float64) []cell {
	row := []cell{{text: none}, {text: none}, {text: none}, {text: none}, {text: none}, {text: none}}
	if n := requests; n != nil {
		if seconds > 0 {
			row[0].text = FormatCount(float64(*n) / seconds)
		}
		row[1].text = strconv.FormatInt(*n, 10)
		if *n > 0 {
			row[2].text = FormatShare(errors)
		}
	}
	if errors > 0 {
		row[2].style = red
	}
	if q != nil {
		row[3].text, row[4].text, row[5].text = FormatDuration(q.P50), FormatDuration(q.P90), FormatDuration(q.P99)
	}
	return row
}

// maxRouteRows bounds how many routes of a service are shown; JSON has them all.
const maxRouteRows = 8

func (s *Service) routeRows(seconds float64) [][]cell {
	var rows [][]cell
	for i, route := range s.Routes {
		if i == maxRouteRows {
			rows = append(rows, []cell{{}, {text: fmt.Sprintf("  and %d more", len(s.Routes)-i), style: dim}})
			break
		}
		rows = append(rows, slices.Concat([]cell{{}, {text: "  " + route.Route}, {}, {}},
			figures(&route.Requests, ratio(route.Errors, route.Requests), route.LatencySeconds, seconds), []cell{{}}))
	}
	return rows
}

// doubtful says whether too little of the service's traffic was understood to trust its figures. That a protocol
// cannot be read at all is no doubt but a fact.
func (s *Service) doubtful() bool {
	return s.Coverage != nil && *s.Coverage < trusted && s.Protocol != protocolOpaque
}

// mark sets off a service with errors, or with figures that cannot be trusted.
func (s *Service) mark() cell {
	switch {
	case s.doubtful() || valueOr(s.EventsLost, 0) > 0:
		return cell{"?", yellow}
	case valueOr(s.Errors, 0) > 0:
		return cell{"!", red}
	}
	return cell{" ", plain}
}

// note says what the numbers of the row do not.
func (s *Service) note() string {
	var parts []string
	if s.Protocol == protocolOpaque && valueOr(s.Connections, 0) > 0 {
		parts = append(parts, plural(*s.Connections, "connection")+" in a protocol that slid does not read")
	}
	if n := valueOr(s.Aborted, 0); n > 0 {
		parts = append(parts, plural(n, "request")+" broken off")
	}
	if n := valueOr(s.EventsLost, 0); n > 0 {
		parts = append(parts, plural(n, "event")+" lost")
	}
	if n := valueOr(s.DurationsLost, 0); n > 0 {
		parts = append(parts, plural(n, "request")+" without a known duration")
	}
	if s.doubtful() {
		parts = append(parts, "only "+FormatShare(*s.Coverage)+" of the traffic understood")
	}
	if len(parts) == 0 {
		return ""
	}
	return s.address() + ": " + strings.Join(parts, ", ")
}

func (p *page) latency(list []Latency) {
	if len(list) == 0 {
		return
	}
	g := grid{titles: []string{"", "KERNEL LATENCY", "COUNT", "P50", "P90", "P99", "MAX"}}
	for _, l := range list {
		g.add(l.label(), FormatCount(float64(l.Count)), optional(l.P50, FormatDuration), optional(l.P90, FormatDuration),
			optional(l.P99, FormatDuration), optional(l.MaxBucket, FormatDuration))
	}
	p.grid(g)
	for _, l := range list {
		if len(l.Distribution) == 0 {
			continue
		}
		first, last := l.Distribution[0].LE/2, l.Distribution[len(l.Distribution)-1].LE
		p.put(dim, "  "+pad(l.label(), len("KERNEL LATENCY"), false)+"  "+FormatDuration(first)+" ")
		p.put(plain, sparkline(l.Distribution))
		p.line(dim, " "+FormatDuration(last))
	}
}

// label returns what people call the probe.
func (l *Latency) label() string {
	for _, p := range probes {
		if p.name == l.Probe {
			return p.label
		}
	}
	return l.Probe
}

// agent writes what slid cost, so that nobody has to ask.
func (p *page) agent(r *Report) {
	a := r.Agent
	var parts []string
	add := func(text string, known bool) {
		if known {
			parts = append(parts, text)
		}
	}
	ofCPU := func(v *float64) string {
		if r.WindowSeconds <= 0 {
			return FormatDuration(valueOr(v, 0)) + " of CPU time"
		}
		return FormatShare(valueOr(v, 0)/r.WindowSeconds) + " of a CPU"
	}
	add(ofCPU(a.CPUSeconds), a.CPUSeconds != nil)
	add(ofCPU(a.ProbeKernelSeconds)+" in kernel probes", a.ProbeKernelSeconds != nil)
	add(FormatBytes(float64(valueOr(a.RSSBytes, 0)))+" resident", a.RSSBytes != nil)
	add(FormatBytes(float64(valueOr(a.HeapBytes, 0)))+" heap", a.HeapBytes != nil)
	add(plural(valueOr(a.EventsLost, 0), "event")+" lost", a.EventsLost != nil)
	add(plural(valueOr(a.TicksMissed, 0), "tick")+" missed", a.TicksMissed != nil)
	if len(parts) == 0 {
		return
	}
	p.end()
	p.paragraph(dim, "slid itself: ", strings.Join(parts, ", "))
}

// sources writes what could not be measured, or not in full, and what would help.
func (p *page) sources(list []verdict.Verdict) {
	if len(list) == 0 {
		return
	}
	p.title("NOT SEEN, OR NOT IN FULL")
	longest := 0
	for _, v := range list {
		longest = max(longest, width(clean(v.Name)))
	}
	longest = min(longest, 24)
	for _, v := range list {
		text := string(v.State)
		if v.Reason != "" {
			text += ": " + v.Reason
		}
		if v.Missing != "" {
			text += "; needs " + v.Missing
		}
		p.paragraph(plain, "  "+pad(v.Name, longest, false)+"  ", text)
	}
}

// plural returns "1 tick", "2 ticks".
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// optional formats *v, or writes that there is none.
func optional(v *float64, format func(float64) string) string {
	if v == nil {
		return none
	}
	return format(*v)
}
