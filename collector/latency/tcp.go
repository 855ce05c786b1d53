package latency

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// TCPName is the TCP collector's name in verdicts.
const TCPName = "latency/tcp"

// sweepRest is how many times as long as a sweep took there is none after it: sweeps take at most 0.5 % of a CPU. With
// 10,000 connections one takes some 4 ms, and there is one each tick; with 500,000 there is one in 40 s. sweepRestMax is
// the longest rest all the same, so that a long connection is seen within a minute.
const (
	sweepRest    = 200
	sweepRestMax = 40 * time.Second
)

// Attribute keys of the TCP metrics.
const (
	keyTCPPeer   = attribute.Key("linux.tcp.peer")
	keyTCPOpen   = attribute.Key("linux.tcp.open")
	keyDirection = attribute.Key("network.io.direction")
)

// tcpHooks are the sources of the TCP metrics.
const tcpHooks = "tp_btf/inet_sock_set_state, iter/bpf_sk_storage_map"

// tcp collects what becomes of TCP connections.
type tcp struct {
	*tally[bpf.TCPCounts, *tcpRegisters]
	connections *bpf.TCP
	next        time.Time // of the next sweep
}

// tcpRegisters are those of the host or of an owner.
type tcpRegisters struct {
	entity                                    *metric.Entity
	connect                                   [2]*histogram
	rtt                                       *histogram
	opened                                    [2][2]*metric.Int
	failures                                  metric.IntFamily
	failed                                    [bpf.TCPCauses][2]*metric.Int // nil as long as an owner has none
	sent, received                            [2]*metric.Int
	retransmitted, resetsSent, resetsReceived *metric.Int
}

// Values of attributes.
var (
	tcpPeers  = [...]string{bpf.TCPRemote: "remote", bpf.TCPLoopback: "loopback"}
	tcpOpens  = [...]string{bpf.TCPActive: "active", bpf.TCPPassive: "passive"}
	tcpCauses = [...]string{
		bpf.TCPRefused: "connection_refused", bpf.TCPTimeout: "timeout", bpf.TCPHostUnreachable: "host_unreachable",
		bpf.TCPNetUnreachable: "network_unreachable", bpf.TCPAborted: "aborted", bpf.TCPNotSent: "not_sent",
		bpf.TCPOther: "_OTHER",
	}
)

// NewTCP loads the TCP probe. It has 28 series for the host, and 14 for each owner that attribution tells apart and one
// more for each cause of failures. A tick costs some 0.4 us for each connection that is open, and some microseconds
// for each owner. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not
// allow it.
func (d Deps) NewTCP(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewTCP(d.Kernel, bpf.TCPOptions{})
	if err != nil {
		return nil, err
	}
	watched := d.watchAll(probe.Probe, probe, probe.Watched("tcp"))
	c := &tcp{connections: probe, tally: newTally(env, d.Attribution, watched, probe.Table, nil,
		declared(env.Metrics, declareTCP, (*tcpRegisters).store))}
	for cause := range c.host.failed {
		for peer := range tcpPeers {
			c.host.fail(cause, peer)
		}
	}
	return c, nil
}

// declareTCP declares the metrics of the host (system) or of owners (container), and returns what makes their registers.
func declareTCP(g *metric.Group, area string) func(*metric.Entity) *tcpRegisters {
	connect, rtt := declareTCPTimes(g, area)
	counter := func(name, unit, source, description string, keys ...attribute.Key) metric.IntFamily {
		return g.Int(metric.Desc{
			Name: area + ".network.tcp.linux." + name, Unit: unit, Kind: metric.Counter, Description: description,
			Attributes: keys, Source: source,
		})
	}
	opened := counter("connections", "{connection}", "tp_btf/inet_sock_set_state",
		"Connections that this end (active) or the other one (passive) asked for and that were made.", keyTCPOpen, keyTCPPeer)
	failures := counter("connect.failures", "{connection}", "tp_btf/inet_sock_set_state",
		"Connections that this end asked for and did not get: aborted ones were given up by the program, mostly at a "+
			"timeout of its own; not_sent ones had no free local port, mostly. Not counted: destinations without a route.",
		keyErrorType, keyTCPPeer)
	io := counter("io", "By", tcpHooks,
		"Payload that connections sent and received, each byte once. One byte received of a connection is held back until its end.",
		keyDirection, keyTCPPeer)
	retransmitted := counter("retransmitted_segments", "{segment}", tcpHooks+", tp_btf/tcp_retransmit_synack",
		"Segments that were sent once more, requests for connections and answers to these included.")
	resets := counter("reset_segments", "{segment}", "tp_btf/tcp_send_reset, tcp_receive_reset",
		"Segments that reset a connection: sent, as by closed ports, too; received by connections.", keyDirection)
	return func(e *metric.Entity) *tcpRegisters {
		r := &tcpRegisters{entity: e, failures: failures, rtt: newHistogram(rtt.With(e))}
		for i, name := range tcpPeers {
			peer := keyTCPPeer.String(name)
			r.connect[i] = newHistogram(connect.With(e, peer))
			for j, open := range tcpOpens {
				r.opened[j][i] = opened.With(e, keyTCPOpen.String(open), peer)
			}
			r.sent[i] = io.With(e, keyDirection.String("transmit"), peer)
			r.received[i] = io.With(e, keyDirection.String("receive"), peer)
		}
		r.retransmitted = retransmitted.With(e)
		r.resetsSent = resets.With(e, keyDirection.String("transmit"))
		r.resetsReceived = resets.With(e, keyDirection.String("receive"))
		return r
	}
}

// declareTCPTimes declares the histograms.
func declareTCPTimes(g *metric.Group, area string) (connect, rtt metric.HistogramFamily) {
	connect = g.Histogram(metric.Desc{
		Name: area + ".network.tcp.linux.connect.duration",
		Unit: "s",
		Description: "Time from asking for a connection to having it, of those that were made: to other hosts (remote), or " +
			"to 127.0.0.0/8, ::1 or the own address (loopback).",
		Attributes: []attribute.Key{keyTCPPeer},
		Source:     "tp_btf/inet_sock_set_state",
	})
	rtt = g.Histogram(metric.Desc{
		Name: area + ".network.tcp.linux.rtt",
		Unit: "s",
		Description: "Smoothed round-trip times of connections to other hosts: one when a connection ends or is first seen " +
			"at a tick, and one at each tick and at the end if it sent payload since the last one.",
		Source: tcpHooks,
	})
	return connect, rtt
}

// fail returns the register of a cause, and makes it if need be.
func (r *tcpRegisters) fail(cause, peer int) *metric.Int {
	register := &r.failed[cause][peer]
	if *register == nil {
		*register = r.failures.With(r.entity, keyErrorType.String(tcpCauses[cause]), keyTCPPeer.String(tcpPeers[peer]))
	}
	return *register
}

func (r *tcpRegisters) store(v *bpf.TCPCounts, now time.Time) {
	for peer := range tcpPeers {
		r.connect[peer].load(&v.Connect[peer])
		for open := range tcpOpens {
			r.opened[open][peer].Observe(v.Opened[open][peer], now)
		}
		for cause := range tcpCauses {
			if n := v.Failed[cause][peer]; n > 0 || r.failed[cause][peer] != nil {
				r.fail(cause, peer).Observe(n, now)
			}
		}
		r.sent[peer].Observe(v.Sent[peer], now)
		r.received[peer].Observe(v.Received[peer], now)
	}
	r.rtt.load(&v.RTT)
	r.retransmitted.Observe(v.Retransmitted, now)
	r.resetsSent.Observe(v.ResetsSent, now)
	r.resetsReceived.Observe(v.ResetsReceived, now)
}

// Collect lets the kernel look at the connections that are open, and copies its counts.
func (c *tcp) Collect(ctx context.Context, now time.Time) error {
	return errors.Join(c.sweep(now), c.tally.Collect(ctx, now))
}

// sweep looks at the open connections unless the last look took so long that it is too early.
func (c *tcp) sweep(now time.Time) error {
	if now.Before(c.next) {
		return nil
	}
	began := time.Now()
	err := c.connections.Sweep()
	c.next = now.Add(min(sweepRest*time.Since(began), sweepRestMax))
	return err
}
