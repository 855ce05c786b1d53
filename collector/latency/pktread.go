package latency

import (
	"time"

	"github.com/slid-agent/slid/bpf"
	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
)

// PacketReadName is the packet-to-read collector's name in verdicts.
const PacketReadName = "latency/pktread"

// packetReadRegisters are those of the host or of an owner.
type packetReadRegisters struct{ wait *histogram }

// NewPacketRead loads the packet-to-read probe. It has a series for the host and for each owner that attribution tells
// apart. The error is a *verdict.UnavailableError where the kernel or the process's capabilities do not allow it.
func (d Deps) NewPacketRead(env collector.Env) (collector.Collector, error) {
	probe, err := bpf.NewPacketRead(d.Kernel, bpf.SocketOptions{})
	if err != nil {
		return nil, err
	}
	c := d.watch("pktread", probe.Probe, true)
	return newTally(env, d.Attribution, c, probe.Table, nil, declared(env.Metrics, declarePacketRead, packetReadRegisters.store)), nil
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
