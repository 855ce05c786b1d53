package latency

import (
	"context"
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"
)

// PacketReadName is the packet-to-read collector's name in verdicts.
const PacketReadName = "latency/pktread"

// packetRead collects how long data waits in sockets.
type packetRead struct {
	common
	ledger *ledger[bpf.PacketReadCounts, packetReadRegisters]
	host   packetReadRegisters
}

// packetReadRegisters are those of the host or of an owner.
type packetReadRegisters struct{ wait *histogram }

// NewPacketRead loads the packet-to-read probe. It has a series for the host and for each owner that attribution tells
// apart. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewPacketRead(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewPacketRead(d.Kernel, bpf.SocketOptions{})
	if err != nil {
		return nil, err
	}
	c := &packetRead{common: d.watch("pktread", probe.Probe, true)}
	system, container := declarePacketRead(env.Metrics, "system"), declarePacketRead(env.Metrics, "container")
	c.host = system(env.Metrics.Entity(env.Host, probe.Start()))
	c.ledger = newLedger(env, d.Attribution, probe.Table, probe.Start(), nil, container, packetReadRegisters.store)
	return c, nil
}

// declarePacketRead declares the metrics of the host (system) or of owners (container), and returns what makes their
// registers.
func declarePacketRead(g *metric.Group, area string) func(*metric.Entity) packetReadRegisters {
	wait := g.Histogram(metric.Desc{
		Name: area + ".network.tcp.linux.packet_to_read.duration",
		Unit: "s",
		Description: "Time received data waited in a TCP socket until the application read it: of one connection of 64, " +
			"one segment at a time. Each measurement counts 64 times.",
		Source: "tp_btf/tcp_probe, tcp_rcv_space_adjust",
	})
	return func(e *metric.Entity) packetReadRegisters { return packetReadRegisters{newHistogram(wait.With(e))} }
}

func (r packetReadRegisters) store(v *bpf.PacketReadCounts, _ time.Time) { r.wait.load(&v.Wait) }

// Collect copies the kernel's counts.
func (c *packetRead) Collect(_ context.Context, now time.Time) error {
	err := c.ledger.collect(now)
	c.host.store(&c.ledger.total, now)
	return err
}

// Verdicts says how the probe measures.
func (c *packetRead) Verdicts() []verdict.Verdict { return c.verdicts(PacketReadName) }

// Close detaches the probe.
func (c *packetRead) Close() error {
	c.ledger.close()
	return c.close()
}
