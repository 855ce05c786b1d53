package host

import (
	"bytes"
	"strings"
	"testing"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/internal/metric"
	"github.com/slid-agent/slid/internal/verdict"

	"go.opentelemetry.io/otel/sdk/instrumentation"
)

func TestNFSValues(t *testing.T) {
	r := start(t, copyOf(t, "nfs/client"), NewNFS)
	p := r.must()
	for key, want := range map[string]float64{
		"nfs.client.net.count{udp}":               0,
		"nfs.client.net.count{tcp}":               17,
		"nfs.client.net.tcp.connection.accepted":  3,
		"nfs.client.rpc.count":                    56789,
		"nfs.client.rpc.retransmit.count":         12,
		"nfs.client.rpc.authrefresh.count":        56790,
		"nfs.client.procedure.count{GETATTR,3}":   310,
		"nfs.client.procedure.count{COMMIT,3}":    7,
		"nfs.client.operation.count{READ,4}":      1200,
		"nfs.client.operation.count{READ_PLUS,4}": 9,
		"nfs.client.operation.count{71,4}":        5, // unknown to us
		"nfs.client.operation.count{SEQUENCE,4}":  40000,
	} {
		p.want(t, key, want)
	}
	p.without(t, "WRITECACHE")
	if len(p) != 12 {
		t.Errorf("%d series: %v", len(p), p.with(""))
	}
	r.verdict(verdict.Active)
	if s := p["nfs.client.rpc.count"].start; !s.Equal(boot) {
		t.Errorf("counts since %v, want boot", s)
	}
	r.replace("proc/1/net/rpc/nfs", "rpc 56789 12", "rpc 5 0")
	if s := r.must()["nfs.client.rpc.count"].start; !s.Equal(tick(0)) {
		t.Errorf("a count that fell counts since %v, want %v", s, tick(0))
	}
}

// TestNoNFS: most hosts have no client. It may come and go.
func TestNoNFS(t *testing.T) {
	r := start(t, copyOf(t, "nfs/client"), NewNFS)
	whole := r.file("proc/1/net/rpc/nfs")
	all := r.must()
	remove(t, r.env.Root+"/proc/1/net/rpc")
	if p := r.must(); len(p) != 0 {
		t.Errorf("%v without a client", p.with(""))
	}
	r.verdict(verdict.Active)
	if n := testing.AllocsPerRun(100, func() { _ = r.Collect(t.Context(), tick(9)) }); n != 0 {
		t.Errorf("%v allocations without a client", n)
	}
	r.write("proc/1/net/rpc/nfs", whole)
	if p := r.must(); len(p) != len(all) {
		t.Errorf("%d series when it is back, want %d", len(p), len(all))
	}
	if n := testing.AllocsPerRun(100, func() { _ = r.Collect(t.Context(), tick(9)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNFSBadInput(t *testing.T) {
	r := start(t, copyOf(t, "nfs/client"), NewNFS)
	whole := r.file("proc/1/net/rpc/nfs")
	before := r.must()
	for name, content := range map[string]string{
		"empty": "", "cut": whole[:len(whole)/2], "binary": "\x00\xffnet\n9 \n", "long": strings.Repeat(whole, 20),
		"no numbers": "net a\nrpc 1 2 3\n", "too many promised": "net 0 0 0 0\nrpc 0 0 0\nproc4 99 1\n",
	} {
		r.write("proc/1/net/rpc/nfs", content)
		if err := r.collect(); err == nil || !strings.Contains(err.Error(), "net/rpc/nfs") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.verdict(verdict.Unavailable, "net/rpc/nfs")
	r.write("proc/1/net/rpc/nfs", whole)
	if p := r.must(); len(p) != len(before) {
		t.Errorf("%d series after recovery, want %d", len(p), len(before))
	}
	r.verdict(verdict.Active)
	env := envAt(t.TempDir())
	env.Metrics = metric.NewRegistry(instrumentation.Scope{}).Group("nfs", metric.ClassHost, 100)
	var c collector.Collector
	c, err := NewNFS(env)
	if err != nil || c.Verdicts()[0].State != verdict.Degraded {
		t.Errorf("without process 1: %v, %+v", err, c.Verdicts())
	}
}

func TestNFSOperationNames(t *testing.T) {
	// Places by the kernel's enumeration.
	for i, want := range map[int]string{
		0: "NULL", 10: "FSINFO", 36: "SECINFO", 37: "FSID_PRESENT", 45: "GETDEVICEINFO", 58: "CLONE", 68: "READ_PLUS",
		69: "OFFLOAD_STATUS", 70: "70",
	} {
		if got := nfsOperationName(4, i); got != want {
			t.Errorf("operation %d is %s, want %s", i, got, want)
		}
	}
	if a, b := nfsOperationName(3, 21), nfsOperationName(2, 17); a != "COMMIT" || b != "STATFS" {
		t.Error(a, b)
	}
}

func FuzzNFS(f *testing.F) {
	f.Add(readTree(f, "nfs/client", "proc/1/net/rpc/nfs"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s nfsSample
		if err := s.parse(b); err == nil && !bytes.HasSuffix(b, []byte{'\n'}) {
			t.Fatalf("no error for %q", b)
		}
		for _, o := range &s.operations {
			if o.n < 0 || o.n > maxNFSOperations {
				t.Fatal(o.n)
			}
		}
	})
}
