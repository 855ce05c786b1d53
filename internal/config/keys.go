package config

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/syscalls"
)

// config decodes the whole file.
func (d *decoder) config(v value, c *Config) {
	var intervals []givenInterval
	valid := true
	d.mapping(v, []field{
		{"interval", "10s", func(v value) { valid = d.interval(v, &c.Interval) }},
		{"host", "{root: /}", func(v value) { d.host(v, c) }},
		{"latency", "{disabled: [runqueue]}", func(v value) { d.latency(v, c) }},
		{"services", "[{name: checkout, match: {port: 8080}}]", func(v value) { d.services(v, c) }},
		{"slos", "[{name: checkout-fast, service: checkout, target: 99.9%}]", func(v value) { d.slos(v, c) }},
		{"probes", "[{name: checkout, target: https://checkout/health}]", func(v value) { d.probes(v, c) }},
		{"export", "[{name: slo, endpoint: https://host:4317}]", func(v value) { intervals = d.exports(v, c) }},
		{"spool", "", nil},
	})
	for i := range c.Export {
		if c.Export[i].Interval == 0 {
			c.Export[i].Interval = c.Interval
		}
	}
	if valid {
		d.checkMultiples(intervals, c.Interval)
	}
}

func (d *decoder) host(v value, c *Config) {
	d.mapping(v, []field{
		{"disabled", "[disk]", func(v value) { c.Host.Disabled = d.collectors(v, c, "host", false) }},
		{"root", "/host", func(v value) { d.root(v, &c.Host.Root) }},
		{"per_cpu", "true", func(v value) { d.truth(v, &c.Host.PerCPU) }},
	})
}

func (d *decoder) latency(v value, c *Config) {
	d.mapping(v, []field{
		{"disabled", "[runqueue]", func(v value) { c.Latency.Disabled = d.collectors(v, c, "latency", false) }},
		{"enabled", "[softirq]", func(v value) { c.Latency.Enabled = d.collectors(v, c, "latency", true) }},
		{"cpu_budget", "0.5%", func(v value) { d.share(v, &c.Latency.CPUBudget) }},
		{"syscalls", "[openat, fsync]", func(v value) { d.syscalls(v, &c.Latency.Syscalls) }},
	})
}

// collectors decodes a list of names and keeps their places for CheckCollectors.
func (d *decoder) collectors(v value, c *Config, area string, enabled bool) []string {
	var names []string
	d.words(v, func(v value, word string) {
		names = append(names, word)
		c.named = append(c.named, named{area, word, enabled, *d.problem(v.node, v.path, "", "")})
	})
	return names
}

// syscalls decodes a list of system calls. No list at all stands for the default.
func (d *decoder) syscalls(v value, into *[]string) {
	var names []string
	known := syscalls.Names()
	d.words(v, func(v value, word string) {
		switch {
		case !slices.Contains(known, word):
			remedy := suggest(word, known, "")
			if !strings.HasPrefix(remedy, "did you mean") {
				remedy = "use names as in syscalls(2), e.g. openat"
			}
			d.wrong(v, "there is no system call "+show(word), remedy)
		case !syscalls.Returns(word):
			d.wrong(v, show(word)+" never comes back to its program", "remove it")
		default:
			names = append(names, word)
		}
	})
	switch n := len(v.node.Content); {
	case v.node.Kind != yaml.SequenceNode:
	case n == 0:
		d.wrong(v, "names no system call", "name some, or remove the key for the default")
	case n > MaxSyscalls:
		d.wrong(v, fmt.Sprintf("names %d system calls", n), fmt.Sprintf("name at most %d", MaxSyscalls))
	default:
		*into = names
	}
}

// share decodes a percentage.
func (d *decoder) share(v value, into *float64) {
	if !d.has(v, yaml.ScalarNode, "a percentage") {
		return
	}
	s := v.node.Value
	number, percent := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	switch {
	case !percent || err != nil:
		d.wrong(v, show(s)+" is no percentage", "write it like this: "+v.example)
	case !(n > 0 && n <= 100):
		d.wrong(v, show(s)+" is out of range", "use more than 0% and at most 100%")
	default:
		*into = n / 100
	}
}

func (d *decoder) root(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if !path.IsAbs(s) {
		d.wrong(v, show(s)+" is no absolute path", "begin it with /, e.g. /host")
		return
	}
	*into = path.Clean(s)
}

func (d *decoder) services(v value, c *Config) {
	first := make(map[Match]string) // the path of the first service with a match
	d.list(v, func(v value) {
		s := d.service(v)
		if s.Match == (Match{}) {
			return
		}
		if other := first[s.Match]; other != "" {
			d.wrong(v, "matches the same as "+other, "the first wins: remove one of the two")
			return
		}
		first[s.Match] = v.path
		c.Services = append(c.Services, s)
	})
}

func (d *decoder) service(v value) Service {
	var s Service
	seen := d.mapping(v, []field{
		{"name", "checkout", func(v value) { s.Name, _ = d.text(v) }},
		{"match", "{port: 8080}", func(v value) { s.Match = d.match(v) }},
		{"routes", "[/pay/, /cart/]", func(v value) { s.Routes, s.place = d.routes(v), *d.problem(v.node, v.path, "", "") }},
	})
	d.require(v, seen, "name", "add e.g. name: checkout")
	d.require(v, seen, "match", "add e.g. match: {port: 8080}")
	return s
}

func (d *decoder) match(v value) Match {
	var m Match
	seen := d.mapping(v, []field{
		{"port", "8080", func(v value) { d.port(v, &m.Port) }},
		{"unit", "nginx.service", func(v value) { d.unit(v, &m.Unit) }},
		{"container", "4c01db0b339c", func(v value) { m.Container, _ = d.text(v) }},
		{"command", "nginx", func(v value) { m.Command, _ = d.text(v) }},
	})
	if isNull(v.node) || seen != nil && len(seen) == 0 {
		d.wrong(v, "is empty and would match every service", "set port, unit, container or command")
	}
	return m
}

// unit decodes the name of a systemd unit. Without its type it would match nothing.
func (d *decoder) unit(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if !strings.Contains(s, ".") {
		d.wrong(v, show(s)+" has no unit type", "write "+show(s)+".service")
		return
	}
	*into = s
}

// require notes that a mapping lacks a key.
func (d *decoder) require(v value, seen map[string]bool, key, remedy string) {
	if seen != nil && !seen[key] {
		d.wrong(v, key+" is missing", remedy)
	}
}

// givenInterval is the interval of a destination with its place.
type givenInterval struct {
	value
	interval time.Duration
}

// exports decodes the destinations and returns the intervals that they name.
func (d *decoder) exports(v value, c *Config) []givenInterval {
	var intervals []givenInterval
	first := make(map[string]string) // the path of the first destination of a name
	d.list(v, func(v value) {
		dest, given := d.destination(v)
		if other := first[dest.Name]; other != "" {
			d.wrong(v, fmt.Sprintf("has the name %s, as has %s", dest.Name, other), "give each its own name")
		} else if dest.Name != "" {
			first[dest.Name] = v.path
		}
		c.Export = append(c.Export, dest)
		intervals = append(intervals, given...)
	})
	return intervals
}

func (d *decoder) destination(v value) (dest Destination, given []givenInterval) {
	dest.Names = metric.Semconv
	dest.Select = []metric.Class{metric.ClassHost, metric.ClassLatency, metric.ClassService, metric.ClassSLO, metric.ClassAgent}
	seen := d.mapping(v, []field{
		{"name", "capacity", func(v value) { d.label(v, "a destination", &dest.Name) }},
		{"endpoint", "https://host:4317", func(v value) { d.endpoint(v, &dest.Endpoint) }},
		{"headers", "{authorization: Bearer abc}", func(v value) { dest.Headers = d.headers(v) }},
		{"select", "[host, service]", func(v value) { dest.Select = d.classes(v, dest.Select) }},
		{"names", "otelcol-legacy", func(v value) { d.names(v, &dest.Names) }},
		{"interval", "60s", func(v value) {
			if d.interval(v, &dest.Interval) {
				given = append(given, givenInterval{v, dest.Interval})
			}
		}},
	})
	d.require(v, seen, "name", "add e.g. name: capacity")
	d.require(v, seen, "endpoint", "add e.g. endpoint: https://host:4317")
	return dest, given
}

// checkMultiples checks that destinations are due at ticks.
func (d *decoder) checkMultiples(given []givenInterval, tick time.Duration) {
	for _, g := range given {
		if g.interval%tick == 0 {
			continue
		}
		below, above := g.interval.Truncate(tick), g.interval.Truncate(tick)+tick
		remedy := "use " + short(above)
		switch {
		case above > MaxInterval:
			remedy = "use " + short(below)
		case below > 0:
			remedy = "use " + short(below) + " or " + short(above)
		}
		d.wrong(g.value, fmt.Sprintf("%s is no multiple of the interval %s", short(g.interval), short(tick)), remedy)
	}
}

// labelForm is what the name of a destination or a probe may be: it becomes an attribute and the name of a folder.
var labelForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (d *decoder) label(v value, of string, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if !labelForm.MatchString(s) {
		d.wrong(v, show(s)+" is no name for "+of,
			"use up to 63 letters, digits, dots, dashes and underscores, the first a letter or digit")
		return
	}
	*into = s
}

// endpoint decodes the URL of a gRPC server. Messages do not repeat it: people put passwords into URLs.
func (d *decoder) endpoint(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if !strings.Contains(s, "://") {
		d.wrong(v, "has no scheme", "write https://host:port, or http:// for a server without TLS")
		return
	}
	u, err := url.Parse(s)
	if err != nil {
		d.wrong(v, "is no URL", "write https://host:port")
		return
	}
	if what, remedy := endpointFault(u); what != "" {
		d.wrong(v, what, remedy)
		return
	}
	*into = s
}

// maxHeader bounds the value of a header in bytes: what servers take of one.
const maxHeader = 8 << 10

// headerForm is what the name of a header may be in gRPC, which reserves those that begin with "grpc-".
var headerForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// headers decodes the headers of a destination. Their names do not tell upper from lower case.
func (d *decoder) headers(v value) map[string]string {
	headers := make(map[string]string)
	d.entries(v, func(key *yaml.Node, v value) {
		name := strings.ToLower(key.Value)
		_, twice := headers[name]
		switch {
		case !headerForm.MatchString(name) || strings.HasPrefix(name, "grpc-"):
			d.report(key, v.path, "is no name for a header", "use letters, digits, dots, dashes and underscores")
			return
		case twice:
			d.report(key, v.path, "the header is here twice", "keep one of the two")
			return
		}
		v.example = "authorization: Bearer abc"
		s, ok := d.line(v, maxHeader)
		if ok && strings.ContainsFunc(s, func(r rune) bool { return r > '~' }) {
			d.wrong(v, "has characters outside ASCII", "encode them as the backend asks")
			return
		}
		headers[name] = s
	})
	return headers
}

// endpointFault says what a gRPC endpoint may not have or lacks, and what to do about it.
func endpointFault(u *url.URL) (what, remedy string) {
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "has the scheme " + show(u.Scheme), "use https, or http for a server without TLS"
	case u.Hostname() == "":
		return "has no host", "write https://host:port"
	case u.User != nil:
		return "has a user name", "give credentials as headers"
	case u.Port() == "":
		return "has no port", "add it; OTLP over gRPC mostly has 4317"
	case err != nil || n == 0:
		return show(u.Port()) + " is no port", "use 1 to 65535"
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "has more after host and port", "end it there: OTLP over gRPC knows no paths"
	}
	return "", ""
}

// selectable are the words of export.select and the class of metrics behind each. The sli word means the service
// metrics, counters of good and bad events among them; capacity has no metrics yet and may stand beside others.
var selectable = []struct {
	word  string
	class metric.Class
}{
	{"host", metric.ClassHost},
	{"latency", metric.ClassLatency},
	{"service", metric.ClassService},
	{"agent", metric.ClassAgent},
	{"sli", metric.ClassService},
	{"slo", metric.ClassSLO},
	{"capacity", ""},
}

// classes decodes the selection of a destination. Without a single class that exists, it keeps all.
func (d *decoder) classes(v value, all []metric.Class) []metric.Class {
	if isNull(v.node) {
		return all
	}
	before := len(d.problems)
	var list []metric.Class
	d.words(v, func(v value, word string) {
		class, ok := d.class(v, word)
		if ok && class != "" && !slices.Contains(list, class) {
			list = append(list, class)
		}
	})
	if len(list) == 0 && len(d.problems) == before && v.node.Kind == yaml.SequenceNode {
		d.wrong(v, "selects nothing that this version has", "add host, latency, service, slo or agent")
	}
	if !slices.Contains(list, metric.ClassAgent) {
		list = append(list, metric.ClassAgent)
	}
	return list
}

// names decodes which map of names a destination wants.
func (d *decoder) names(v value, into *metric.Names) {
	word, ok := d.text(v)
	if !ok {
		return
	}
	all := metric.AllNames()
	if slices.Contains(all, metric.Names(word)) {
		*into = metric.Names(word)
		return
	}
	known := make([]string, len(all))
	for i, n := range all {
		known[i] = string(n)
	}
	d.wrong(v, "there is no map of names "+show(word), suggest(word, known, "maps"))
}

func (d *decoder) class(v value, word string) (metric.Class, bool) {
	known := make([]string, len(selectable))
	for i, s := range selectable {
		if s.word == word {
			return s.class, true
		}
		known[i] = s.word
	}
	d.wrong(v, "there is no class "+show(word), suggest(word, known, "classes"))
	return "", false
}
