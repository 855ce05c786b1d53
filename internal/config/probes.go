package config

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The limits of probes. Ten attempts a second are what a target may notice; a minute is longer than anybody waits.
const (
	MinProbeInterval = 100 * time.Millisecond
	MinProbeTimeout  = 10 * time.Millisecond
	MaxProbeTimeout  = time.Minute
	// MaxProbes bounds the probes of a host: each holds 30 KiB.
	MaxProbes = 200
	// MaxProbeOverlap bounds the attempts of one probe that may be under way at once: its timeout over its interval.
	MaxProbeOverlap = 64
)

// Probe is a question that slid asks a server again and again.
type Probe struct {
	Name string // unique; letters, digits, dots, dashes and underscores
	// Target is what to ask: the scheme is http, https, tcp, grpc, grpcs, dns, icmp or tls. It has a host, and a port
	// where the scheme has no usual one.
	Target   *url.URL
	Service  string // the service.name of its metrics; by default its own name
	Interval time.Duration
	Timeout  time.Duration

	Method  string            // of http and https
	Headers map[string]string // likewise; the names in lower case
	Expect  Expect
	TLS     ProbeTLS
}

// Expect says which answer to http and https is a success.
type Expect struct {
	Status []string // codes and classes, e.g. 204 and 2xx; empty: 2xx and 3xx
	Body   string   // a text that the body must contain; empty: any body will do
}

// ProbeTLS says whom to trust.
type ProbeTLS struct {
	CA         string // a PEM file of authorities, an absolute path; empty: those of the host
	ServerName string // the name the certificate must be for; empty: the host of the target
}

// probes decodes the probes.
func (d *decoder) probes(v value, c *Config) {
	first := make(map[string]string) // the path of the first probe of a name
	d.list(v, func(v value) {
		p := d.probe(v)
		if other := first[p.Name]; other != "" {
			d.wrong(v, fmt.Sprintf("has the name %s, as has %s", p.Name, other), "give each its own name")
		} else if p.Name != "" {
			first[p.Name] = v.path
		}
		c.Probes = append(c.Probes, p)
		if len(c.Probes) == MaxProbes+1 {
			d.wrong(v, fmt.Sprintf("is one more than %d probes", MaxProbes), "let another host have the rest")
		}
	})
}

func (d *decoder) probe(v value) Probe {
	p := Probe{Interval: 10 * time.Second, Timeout: 5 * time.Second}
	at := make(map[string]value) // the keys that belong to some kinds of probe only
	keep := func(key string, decode func(value)) func(value) {
		return func(v value) {
			at[key] = v
			decode(v)
		}
	}
	seen := d.mapping(v, []field{
		{"name", "checkout", func(v value) { d.label(v, "a probe", &p.Name) }},
		{"target", "https://checkout/health", func(v value) { p.Target = d.probeTarget(v) }},
		{"service", "checkout", func(v value) { p.Service, _ = d.text(v) }},
		{"interval", "10s", func(v value) { d.duration(v, &p.Interval, MinProbeInterval, MaxInterval) }},
		{"timeout", "5s", keep("", func(v value) { d.duration(v, &p.Timeout, MinProbeTimeout, MaxProbeTimeout) })},
		{"method", "GET", keep("method", func(v value) { d.probeMethod(v, &p.Method) })},
		{"headers", "{accept: text/html}", keep("headers", func(v value) { p.Headers = d.probeHeaders(v) })},
		{"expect", "{status: [2xx], body: ok}", keep("expect", func(v value) { d.expect(v, &p.Expect) })},
		{"tls", "{ca: /etc/ssl/own-ca.pem}", keep("tls", func(v value) { d.probeTLS(v, &p.TLS) })},
	})
	d.require(v, seen, "name", "add e.g. name: checkout")
	d.require(v, seen, "target", "add e.g. target: https://checkout/health")
	if p.Service == "" {
		p.Service = p.Name
	}
	if most := MaxProbeOverlap * p.Interval; p.Timeout > most {
		where, ok := at[""]
		if !ok {
			where = v
		}
		d.wrong(where, fmt.Sprintf("%s is more than %d times the interval of %s", short(p.Timeout), MaxProbeOverlap, short(p.Interval)),
			"use at most "+short(most)+", or a longer interval")
	}
	if p.Target != nil {
		d.checkKind(&p, at)
	}
	return p
}

// checkKind checks that the keys of a probe fit its kind.
func (d *decoder) checkKind(p *Probe, at map[string]value) {
	isHTTP := p.Target.Scheme == "http" || p.Target.Scheme == "https"
	for _, key := range []string{"method", "headers", "expect"} {
		if v, ok := at[key]; ok && !isHTTP {
			d.wrong(v, "means nothing to a probe by "+p.Target.Scheme, "remove it, or use http or https")
		}
	}
	if v, ok := at["tls"]; ok && !slices.Contains([]string{"https", "grpcs", "tls"}, p.Target.Scheme) {
		d.wrong(v, "means nothing to a probe by "+p.Target.Scheme, "remove it, or use https, grpcs or tls")
	}
	if isHTTP && p.Method == "" {
		p.Method = http.MethodGet
	}
	if v, ok := at["expect"]; ok && p.Method == http.MethodHead && p.Expect.Body != "" {
		d.wrong(v, "wants a body, and an answer to HEAD has none", "use method: GET")
	}
}

// schemes are the schemes of targets and how one is written.
var schemes = []struct{ name, example string }{
	{"http", "http://host/path"},
	{"https", "https://host/path"},
	{"tcp", "tcp://host:port"},
	{"grpc", "grpc://host:port/service"},
	{"grpcs", "grpcs://host:port/service"},
	{"dns", "dns://server/name?type=A"},
	{"icmp", "icmp://host"},
	{"tls", "tls://host:port"},
}

// probeTarget decodes the target of a probe, or returns nil. Messages do not repeat it: people put passwords into URLs.
func (d *decoder) probeTarget(v value) *url.URL {
	s, ok := d.text(v)
	if !ok {
		return nil
	}
	var known []string
	for _, sch := range schemes {
		known = append(known, sch.name)
	}
	scheme, _, ok := strings.Cut(s, "://")
	if !ok {
		d.wrong(v, "has no scheme", "write e.g. https://host/path; schemes: "+strings.Join(known, ", "))
		return nil
	}
	i := slices.Index(known, scheme)
	if i < 0 {
		d.wrong(v, "there is no probe by "+show(scheme), suggest(scheme, known, "schemes"))
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		d.wrong(v, "is no URL", "write "+schemes[i].example)
		return nil
	}
	what, remedy := targetFault(u)
	if what == "" {
		if what = targetExcess(u); what != "" {
			remedy = "write " + schemes[i].example
		}
	}
	if what != "" {
		d.wrong(v, what, remedy)
		return nil
	}
	return u
}

// targetFault says what a target lacks, and what to do about it.
func targetFault(u *url.URL) (what, remedy string) {
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Hostname() == "":
		return "has no host", "write one behind " + u.Scheme + "://"
	case strings.ContainsAny(u.Hostname(), " %"):
		return "has a host that is none", "write a name or an address"
	case u.User != nil:
		return "has a user name", "give credentials as headers"
	case u.Port() != "" && (err != nil || n == 0):
		return show(u.Port()) + " is no port", "use 1 to 65535"
	case u.Port() == "" && slices.Contains([]string{"tcp", "grpc", "grpcs", "tls"}, u.Scheme):
		return "has no port", "add it behind the host, e.g. " + u.Scheme + "://host:443"
	case u.Scheme == "dns":
		return dnsFault(u)
	}
	return "", ""
}

// targetExcess says what a target has that means nothing.
func targetExcess(u *url.URL) string {
	bare := strings.Trim(u.Path, "/") == ""
	switch scheme := u.Scheme; {
	case u.Fragment != "":
		return "has a fragment, which no server gets to see"
	case u.RawQuery != "" && scheme != "http" && scheme != "https" && scheme != "dns":
		return "has a query, which means nothing to " + scheme
	case !bare && (scheme == "tcp" || scheme == "icmp" || scheme == "tls"):
		return "has a path, which means nothing to " + scheme
	case u.Port() != "" && scheme == "icmp":
		return "has a port, which means nothing to icmp"
	}
	return ""
}

// recordTypes are the types of records that a dns probe can ask for.
var recordTypes = []string{"A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"}

// dnsFault says what is wrong with the question of a dns probe.
func dnsFault(u *url.URL) (what, remedy string) {
	const remedyName = "write the name behind the server: dns://server/name?type=A"
	name := strings.Trim(u.Path, "/.")
	switch {
	case name == "":
		return "has no name to ask for", remedyName
	case len(name) > 253 || strings.ContainsAny(name, "/ ") || strings.Contains(name, ".."):
		return "has a name to ask for that is none", remedyName
	case slices.ContainsFunc(strings.Split(name, "."), func(label string) bool { return len(label) > 63 }):
		return "has a name to ask for that is none", remedyName
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "has a query that is none", remedyName
	}
	for key, values := range query {
		if key != "type" || len(values) != 1 {
			return "has more in its query than one type", remedyName
		}
		if !slices.Contains(recordTypes, strings.ToUpper(values[0])) {
			return "there is no type " + show(values[0]), "types: " + strings.Join(recordTypes, ", ")
		}
	}
	return "", ""
}

// methods are those of HTTP that a probe may use. One that sends a body would need one.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost}

func (d *decoder) probeMethod(v value, into *string) {
	s, ok := d.text(v)
	if !ok {
		return
	}
	if !slices.Contains(methods, s) {
		d.wrong(v, "there is no method "+show(s), suggest(strings.ToUpper(s), methods, "methods"))
		return
	}
	*into = s
}

// probeHeaders decodes the headers of a probe.
func (d *decoder) probeHeaders(v value) map[string]string {
	headers := d.headers(v)
	if _, ok := headers["user-agent"]; ok {
		d.wrong(v, "has user-agent, by which servers tell probes from users", "leave it out: it is slid/VERSION (probe)")
	}
	return headers
}

func (d *decoder) expect(v value, e *Expect) {
	d.mapping(v, []field{
		{"status", "[2xx, 301]", func(v value) { e.Status = d.statuses(v) }},
		{"body", "ok", func(v value) { e.Body, _ = d.text(v) }},
	})
}

// statuses decodes a list of status codes and classes of HTTP.
func (d *decoder) statuses(v value) []string {
	var list []string
	d.list(v, func(v value) {
		if !d.has(v, yaml.ScalarNode, "a status") {
			return
		}
		s := v.node.Value
		n, err := strconv.Atoi(s)
		class := len(s) == 3 && s[0] >= '2' && s[0] <= '5' && s[1:] == "xx"
		switch {
		case !class && (err != nil || n < 200 || n > 599):
			d.wrong(v, show(s)+" is no status", "use a code, e.g. 204, or a class, e.g. 2xx")
		case slices.Contains(list, s):
			d.wrong(v, show(s)+" is listed twice", "keep one of the two")
		default:
			list = append(list, s)
		}
	})
	return list
}

func (d *decoder) probeTLS(v value, t *ProbeTLS) {
	d.mapping(v, []field{
		{"ca", "/etc/ssl/own-ca.pem", func(v value) {
			s, ok := d.text(v)
			if ok && !path.IsAbs(s) {
				d.wrong(v, show(s)+" is no absolute path", "begin it with /, e.g. /etc/ssl/own-ca.pem")
			} else if ok {
				t.CA = path.Clean(s)
			}
		}},
		{"server_name", "checkout.internal", func(v value) { t.ServerName, _ = d.text(v) }},
	})
}
