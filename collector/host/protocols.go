package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// Protocols collects how TCP, UDP, IP and ICMP fare in the host's network namespace: retransmissions, refused and
// overflowing connections, lost datagrams. The numbers are the kernel's own of /proc/1/net/snmp, netstat and snmp6
// (RFC 1213 and Linux' extensions); which of them there are depends on the kernel. A collection costs what the
// kernel needs to add them up over all processors.
type Protocols struct {
	health
	entity *metric.Entity
	set    *protoSet
	files  []*protocolFile
}

// protocolFile is one of the files.
type protocolFile struct {
	file  *procfs.File
	parse func(b []byte, into *protoSet) error
}

// NewProtocols opens the files. Without snmp there is nothing; without netstat the extensions are missing; and a
// host without IPv6 has no snmp6.
func NewProtocols(env collector.Env) (collector.Collector, error) {
	p := &Protocols{}
	p.name = "host/protocols"
	snmp, err := p.openNet(env.Proc, "snmp", procfs.OpenSingle)
	if err != nil {
		return nil, unavailable(err)
	}
	p.hook = snmp.Path()
	p.files = []*protocolFile{{snmp, new(pairFile).parse}}
	for _, more := range [...]struct {
		name  string
		parse func([]byte, *protoSet) error
	}{{"netstat", new(pairFile).parse}, {"snmp6", parseNamedNumbers}} {
		file, err := p.openNet(env.Proc, more.name, procfs.OpenSingle)
		switch {
		case err == nil:
			p.files = append(p.files, &protocolFile{file, more.parse})
			p.hook += ", " + file.Path()
		case more.name != "snmp6" || !netAbsent(err):
			p.reason, p.missing = "not all of it can be read: "+err.Error(), remedy(err)
		}
	}
	p.entity = env.Metrics.Entity(env.Host, env.Boot)
	p.set = newProtoSet(env.Metrics, protocolMetrics())
	return p, nil
}

// Collect implements collector.Collector.
func (p *Protocols) Collect(_ context.Context, now time.Time) error {
	p.set.begin()
	var errs error
	for _, f := range p.files {
		if err := f.collect(p.set); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	stored, err := p.set.store(p.entity, now)
	switch {
	case stored == 0 && errs == nil:
		errs = fmt.Errorf("parse %s: %w", p.hook, errors.New("nothing known in it"))
	case err != nil && errs == nil:
		errs = fmt.Errorf("parse %s: %w", p.hook, err)
	}
	return p.collected(errs, stored > 0)
}

// collect reads one file into the set.
func (f *protocolFile) collect(into *protoSet) error {
	b, err := f.file.Read()
	if err != nil {
		return err
	}
	return parseError(f.file, f.parse(b, into))
}

// Close implements collector.Collector.
func (p *Protocols) Close() error {
	var errs error
	for _, f := range p.files {
		errs = errors.Join(errs, f.file.Close())
	}
	return errs
}
