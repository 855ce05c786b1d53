package latency

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/cgroup"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// DNSName is the DNS collector's name in verdicts.
const DNSName = "latency/dns"

const keyResponseCode = attribute.Key("dns.response_code")

// dns collects how long queries take.
type dns struct {
	*tally[bpf.DNSCounts, dnsRegisters]
	queries *bpf.DNS
}

// dnsRegisters are those of the host or of an owner.
type dnsRegisters struct {
	duration            *histogram
	responses           [5]*metric.Int
	truncated           *metric.Int
	sentAgain           *metric.Int
	timeouts, abandoned *metric.Int
	tcp                 *metric.Int
}

// NewDNS loads the DNS probe. It has eleven series for the host and for each owner that attribution tells apart. A tick
// takes three system calls and a pass of the kernel over the sockets that sent a query and are open, some 200 ns each.
// The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it, or where the
// root of the cgroup2 tree is out of sight.
func (d Deps) NewDNS(env collector.Env) (collector.Collector, error) {
	if env.Cgroup == "" || !cgroup.IsRoot(env.Cgroup) {
		return nil, &verdict.UnavailableError{
			Reason:  "the root of the host's cgroup2 tree is out of sight",
			Missing: "the host's cgroup2 tree mounted at " + filepath.Join(env.Root, "sys/fs/cgroup"),
		}
	}
	probe, err := bpf.NewDNS(d.Kernel, bpf.DNSOptions{Cgroup: env.Cgroup})
	if err != nil {
		return nil, err
	}
	// Not sampled: nearly all of its cost is with packets that are no DNS.
	c := d.watchAll(probe.Probe, probe, probe.Watched("dns", false))
	return &dns{newTally(env, d.Attribution, c, probe.Table, nil, declared(env.Metrics, declareDNS, dnsRegisters.store)), probe}, nil
}

// declareDNS declares the metrics of the host (system) or of owners (container), and returns what makes their registers.
func declareDNS(g *metric.Group, area string) func(*metric.Entity) dnsRegisters {
	const source = "cgroup_skb, UDP and TCP port 53"
	duration := g.Histogram(metric.Desc{
		Name: area + ".dns.linux.query.duration", Unit: "s",
		Description: "Time from the first sending of a DNS query over UDP to its answer.", Source: source,
	})
	counter := func(name, unit, description string, keys ...attribute.Key) metric.IntFamily {
		return g.Int(metric.Desc{
			Name: area + ".dns.linux." + name, Unit: unit, Kind: metric.Counter, Description: description,
			Attributes: keys, Source: source,
		})
	}
	responses := counter("responses", "{response}", "Answers to DNS queries, by response code.", keyResponseCode)
	truncated := counter("truncated", "{response}", "Of these, the ones that were cut: the client has to ask by TCP.")
	sentAgain := counter("retransmits", "{query}", "Queries sent once more, with the same number from the same socket.")
	unanswered := counter("unanswered", "{query}",
		"Queries without an answer: for 10 s (timeout), or until the client closed the socket (abandoned).", keyErrorType)
	tcp := counter("tcp_connections", "{connection}", "TCP connections to port 53 that were tried; what they say is not seen.")
	return func(e *metric.Entity) (r dnsRegisters) {
		r.duration = newHistogram(duration.With(e))
		for i, code := range [...]string{
			bpf.DNSNoError: "NOERROR", bpf.DNSNXDomain: "NXDOMAIN", bpf.DNSServFail: "SERVFAIL", bpf.DNSRefused: "REFUSED",
			bpf.DNSOther: "other",
		} {
			r.responses[i] = responses.With(e, keyResponseCode.String(code))
		}
		r.truncated, r.sentAgain, r.tcp = truncated.With(e), sentAgain.With(e), tcp.With(e)
		r.timeouts = unanswered.With(e, keyErrorType.String("timeout"))
		r.abandoned = unanswered.With(e, keyErrorType.String("abandoned"))
		return r
	}
}

func (r dnsRegisters) store(v *bpf.DNSCounts, now time.Time) {
	r.duration.load(&v.Duration)
	for i, n := range v.Responses {
		r.responses[i].Observe(n, now)
	}
	r.truncated.Observe(v.Truncated, now)
	r.sentAgain.Observe(v.SentAgain, now)
	r.timeouts.Observe(v.Timeouts, now)
	r.abandoned.Observe(v.Abandoned, now)
	r.tcp.Observe(v.TCP, now)
}

// Collect looks for queries that nobody answers, and copies the kernel's counts.
func (c *dns) Collect(ctx context.Context, now time.Time) error {
	return errors.Join(c.queries.Sweep(), c.tally.Collect(ctx, now))
}
