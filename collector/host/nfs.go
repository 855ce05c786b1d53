package host

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/procfs"
)

// The numbers of the lines net and rpc of /proc/net/rpc/nfs.
const (
	nfsPackets = iota // datagrams and segments together
	nfsUDP
	nfsTCP
	nfsConnections
	nfsNet
)

const (
	nfsCalls = iota
	nfsRetransmits
	nfsAuthRefreshes
	nfsRPC
)

// maxNFSOperations is the most operations of a version: Linux 6.14 has 71 of version 4.
const maxNFSOperations = 128

// nfsOperations are the counts of one version of the protocol.
type nfsOperations struct {
	n      int
	counts [maxNFSOperations]uint64
}

// nfsSample is what /proc/net/rpc/nfs says.
type nfsSample struct {
	net        [nfsNet]uint64
	rpc        [nfsRPC]uint64
	operations [nfsVersions]nfsOperations
}

// The versions of the protocol, by their place in a sample: 2, 3 and 4.
const (
	nfsVersions     = 3
	nfsFirstVersion = 2
)

// parse reads the file: lines of a word and numbers. Lines of other words are left out.
func (s *nfsSample) parse(b []byte) error {
	*s = nfsSample{}
	seen := 0
	for len(b) > 0 {
		line, rest, ok := procfs.Line(b)
		if !ok {
			return procfs.ErrTruncated
		}
		b = rest
		word, numbers := procfs.Field(line)
		var err error
		switch string(word) {
		case "net":
			err = wholeLine(numbers, s.net[:])
			seen++
		case "rpc":
			err = wholeLine(numbers, s.rpc[:])
			seen++
		case "proc2", "proc3", "proc4":
			err = s.operations[word[4]-'0'-nfsFirstVersion].parse(numbers)
		}
		if err != nil {
			return err
		}
	}
	if seen < 2 {
		return procfs.ErrTruncated
	}
	return nil
}

func wholeLine(numbers []byte, dst []uint64) error {
	n, _, err := procfs.Uints(numbers, dst)
	if err == nil && n < len(dst) {
		err = procfs.ErrTruncated
	}
	return err
}

// parse reads how many numbers follow, and them. What a newer kernel has more than maxNFSOperations is left out.
func (o *nfsOperations) parse(numbers []byte) error {
	var n [1]uint64
	_, rest, err := procfs.Uints(numbers, n[:])
	if err != nil {
		return err
	}
	o.n = int(min(n[0], maxNFSOperations))
	return wholeLine(rest, o.counts[:o.n])
}

// NFS collects what the kernel's NFS client did from /proc/1/net/rpc/nfs. A host without one has no series, and no
// complaint about it; the file appears with the first mount.
type NFS struct {
	health
	env    collector.Env
	path   attributePath
	read   attributeReader
	sample nfsSample

	procedures, ops metric.IntFamily
	entity          *metric.Entity // nil while there is no client
	netRegisters    [nfsNet]*metric.Int
	rpcRegisters    [nfsRPC]*metric.Int
	// used has those operations that were used at least once.
	used [nfsVersions][maxNFSOperations]*metric.Int

	transport, connections, rpc, retransmits, refreshes metric.IntFamily
}

// NewNFS looks for /proc/1/net/rpc/nfs, or /proc/net/rpc/nfs if process 1 is hidden.
func NewNFS(env collector.Env) (collector.Collector, error) {
	n := &NFS{env: env}
	path := filepath.Join(env.Proc, "1/net/rpc/nfs")
	if _, err := n.read.read(newAttributePath(filepath.Join(env.Proc, "1/net/dev"))); err != nil {
		n.reason = "shows the network namespace of slid, which need not be the host's: " + err.Error()
		n.missing = "a view of process 1 (hidepid, ProtectProc=)"
		path = filepath.Join(env.Proc, "net/rpc/nfs")
	}
	n.name, n.hook, n.path = "host/nfs", path, newAttributePath(path)
	n.declare(env.Metrics)
	return n, nil
}

func (n *NFS) declare(m *metric.Group) {
	family := func(name, unit, description string, keys ...attribute.Key) metric.IntFamily {
		d := counter(name, unit, "/proc/1/net/rpc/nfs", description)
		d.Attributes = keys
		return m.Int(d)
	}
	n.transport = family("nfs.client.net.count", "{record}", "UDP datagrams and TCP segments of the NFS client.",
		"network.transport")
	n.connections = family("nfs.client.net.tcp.connection.accepted", "{connection}", "TCP connections of the NFS client.")
	n.rpc = family("nfs.client.rpc.count", "{request}", "Calls of the NFS client, whatever the server answered.")
	n.retransmits = family("nfs.client.rpc.retransmit.count", "{retransmit}",
		"Calls that were sent again for want of an answer.")
	n.refreshes = family("nfs.client.rpc.authrefresh.count", "{authrefresh}",
		"Times that the credentials of a call had to be renewed.")
	n.procedures = family("nfs.client.procedure.count", "{procedure}",
		"Procedures of NFS 2 and 3, of those that were used.", "onc_rpc.version", "onc_rpc.procedure.name")
	n.ops = family("nfs.client.operation.count", "{operation}",
		"Operations of NFS 4, of those that were used; named in the order of Linux 3.13 and later.",
		"onc_rpc.version", "nfs.operation.name")
}

// Collect implements collector.Collector.
func (n *NFS) Collect(_ context.Context, now time.Time) error {
	b, err := n.read.read(n.path)
	if isAbsent(err) {
		n.forget()
		return n.collected(nil, true)
	}
	if err == nil {
		if len(b) == len(n.read.buf) {
			err = procfs.ErrTooLarge
		} else {
			err = n.sample.parse(n.read.buf[:len(b)+1]) // the newline that read cuts off
		}
	}
	if err != nil {
		return n.collected(attributeError(n.path, err), false)
	}
	n.store(now)
	return n.collected(nil, true)
}

// forget takes the series away: the client was unloaded.
func (n *NFS) forget() {
	if n.entity == nil {
		return
	}
	n.entity.Remove()
	n.entity = nil
	n.used = [nfsVersions][maxNFSOperations]*metric.Int{}
}

// store takes the totals over.
func (n *NFS) store(now time.Time) {
	if n.entity == nil {
		n.register()
	}
	for i, register := range n.netRegisters {
		if register != nil {
			register.Observe(n.sample.net[i], now)
		}
	}
	for i, register := range n.rpcRegisters {
		register.Observe(n.sample.rpc[i], now)
	}
	for v := range n.sample.operations {
		o := &n.sample.operations[v]
		for i, count := range o.counts[:o.n] {
			if count > 0 && n.used[v][i] == nil {
				n.used[v][i] = n.operation(v+nfsFirstVersion, i)
			}
			if register := n.used[v][i]; register != nil {
				register.Observe(count, now)
			}
		}
	}
}

// register makes the series that every client has.
func (n *NFS) register() {
	e := n.env.Metrics.Entity(n.env.Host, n.env.Boot)
	n.entity = e
	n.netRegisters[nfsUDP] = n.transport.With(e, attribute.String("network.transport", "udp"))
	n.netRegisters[nfsTCP] = n.transport.With(e, attribute.String("network.transport", "tcp"))
	n.netRegisters[nfsConnections] = n.connections.With(e)
	n.rpcRegisters[nfsCalls] = n.rpc.With(e)
	n.rpcRegisters[nfsRetransmits] = n.retransmits.With(e)
	n.rpcRegisters[nfsAuthRefreshes] = n.refreshes.With(e)
}

// operation makes the series of an operation.
func (n *NFS) operation(version, i int) *metric.Int {
	family, key := n.procedures, attribute.Key("onc_rpc.procedure.name")
	if version == 4 {
		family, key = n.ops, "nfs.operation.name"
	}
	return family.With(n.entity, attribute.Int("onc_rpc.version", version), key.String(nfsOperationName(version, i)))
}

// nfsOperationName returns the name of an operation by its place in the file: RFC 1094, RFC 1813, and for version 4
// the kernel's own list (NFSPROC4_CLNT_* in include/linux/nfs4.h), which only grows at its end.
func nfsOperationName(version, i int) string {
	var names string
	switch version {
	case 2:
		names = "NULL GETATTR SETATTR ROOT LOOKUP READLINK READ WRITECACHE WRITE CREATE REMOVE RENAME LINK SYMLINK " +
			"MKDIR RMDIR READDIR STATFS"
	case 3:
		names = "NULL GETATTR SETATTR LOOKUP ACCESS READLINK READ WRITE CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR " +
			"RENAME LINK READDIR READDIRPLUS FSSTAT FSINFO PATHCONF COMMIT"
	case 4:
		names = "NULL READ WRITE COMMIT OPEN OPEN_CONFIRM OPEN_NOATTR OPEN_DOWNGRADE CLOSE SETATTR FSINFO RENEW " +
			"SETCLIENTID SETCLIENTID_CONFIRM LOCK LOCKT LOCKU ACCESS GETATTR LOOKUP LOOKUP_ROOT REMOVE RENAME LINK " +
			"SYMLINK CREATE PATHCONF STATFS READLINK READDIR SERVER_CAPS DELEGRETURN GETACL SETACL FS_LOCATIONS " +
			"RELEASE_LOCKOWNER SECINFO FSID_PRESENT EXCHANGE_ID CREATE_SESSION DESTROY_SESSION SEQUENCE " +
			"GET_LEASE_TIME RECLAIM_COMPLETE LAYOUTGET GETDEVICEINFO LAYOUTCOMMIT LAYOUTRETURN SECINFO_NO_NAME " +
			"TEST_STATEID FREE_STATEID GETDEVICELIST BIND_CONN_TO_SESSION DESTROY_CLIENTID SEEK ALLOCATE DEALLOCATE " +
			"LAYOUTSTATS CLONE COPY OFFLOAD_CANCEL LOOKUPP LAYOUTERROR COPY_NOTIFY GETXATTR SETXATTR LISTXATTRS " +
			"REMOVEXATTR READ_PLUS OFFLOAD_STATUS"
	}
	list := bytes.Fields([]byte(names))
	if i < len(list) {
		return string(list[i])
	}
	return strconv.Itoa(i)
}

// Close implements collector.Collector.
func (n *NFS) Close() error { return nil }
