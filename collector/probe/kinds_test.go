package probe

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/slid-agent/slid/internal/testneed"
)

// authority is a CA of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a certificate for a name that ends after a time.
func (a *authority) issue(t testing.TB, name string, end time.Duration) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(end), DNSNames: []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

func TestHTTP(t *testing.T) {
	var seen atomic.Pointer[http.Request]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r)
		switch r.URL.Path {
		case "/missing":
			http.NotFound(w, r)
		case "/away":
			http.Redirect(w, r, "/missing", http.StatusFound)
		case "/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "short")
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 4096)); err != nil {
					return
				}
			}
		case "/slow":
			for r.Context().Err() == nil {
				fmt.Fprint(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		case "/headers":
			w.Header().Set("X", strings.Repeat("x", 2*maxHead))
		case "/abort":
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprint(w, "all is well")
		}
	}))
	defer server.Close()
	for _, tt := range []struct {
		path   string
		change func(*Options)
		want   outcome
	}{
		{"/", nil, success},
		{"/", func(o *Options) { o.Body = "is well" }, success},
		{"/", func(o *Options) { o.Body = "is ill" }, badBody},
		{"/", func(o *Options) { o.Status = []string{"204", "3xx"} }, badStatus},
		{"/missing", nil, badStatus},
		{"/missing", func(o *Options) { o.Status = []string{"4xx"} }, success},
		{"/missing", func(o *Options) { o.Status = []string{"404"} }, success},
		{"/away", nil, success}, // not followed
		{"/away", func(o *Options) { o.Status = []string{"2xx"} }, badStatus},
		{"/cut", nil, closed},
		{"/endless", nil, success},
		{"/endless", func(o *Options) { o.Body = "y" }, badBody},
		{"/slow", func(o *Options) { o.Timeout = 300 * time.Millisecond }, timeout},
		{"/headers", nil, protocol},
		{"/abort", nil, closed},
	} {
		o := targeting(t, server.URL+tt.path)
		if tt.change != nil {
			tt.change(&o)
		}
		once(t, o, tt.want)
	}
	o := targeting(t, server.URL+"/?deep=1")
	o.Method, o.Headers = "POST", map[string]string{"host": "shop.internal", "x-tenant": "sre"}
	once(t, o, success)
	r := seen.Load()
	if r.Method != http.MethodPost || r.Host != "shop.internal" || r.Header.Get("X-Tenant") != "sre" || r.URL.RawQuery != "deep=1" ||
		r.UserAgent() != "slid/test (probe)" || !r.Close {
		t.Errorf("the server saw %+v", r)
	}
}

// TestDeadServers: what answers nothing, or what is no HTTP.
func TestDeadServers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	silent := listenSilently(t)
	garbage := serve(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = conn.Write([]byte("\x00\x01garbage\r\n\r\n"))
	})
	hangup := serve(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 4096)) })
	for _, tt := range []struct {
		address string
		want    map[string]outcome // by scheme
	}{
		{nobody, map[string]outcome{"http": refused, "https": refused, "tcp": refused, "tls": refused, "grpc": refused, "grpcs": refused}},
		{silent, map[string]outcome{"http": timeout, "https": timeout, "tcp": success, "tls": timeout, "grpc": timeout, "grpcs": timeout}},
		{garbage, map[string]outcome{"http": protocol, "https": tlsFailed, "tcp": success, "tls": tlsFailed, "grpcs": tlsFailed}},
		{hangup, map[string]outcome{"http": closed, "https": tlsFailed, "tcp": success, "tls": tlsFailed, "grpc": closed, "grpcs": tlsFailed}},
		{"name.invalid:1", map[string]outcome{"http": noName, "tcp": noName, "tls": noName, "grpc": noName, "dns": noName}},
	} {
		for scheme, want := range tt.want {
			o := targeting(t, scheme+"://"+tt.address+map[string]string{"dns": "/example.com"}[scheme])
			o.Timeout = 300 * time.Millisecond
			once(t, o, want)
		}
	}
	o := targeting(t, "grpc://"+garbage)
	p := single(t, o)
	p.attempt(t.Context(), time.Now())
	if p.last != closed && p.last != protocol { // gRPC has one code for both
		t.Errorf("grpc of garbage: %s", p.last)
	}
}

// TestCertificates: the expiry is known whatever is wrong with the certificate, and from a handshake alone.
func TestCertificates(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	for _, tt := range []struct {
		name  string
		cert  tls.Certificate
		trust *authority
		end   time.Duration
		want  outcome
	}{
		{"good", ca.issue(t, "shop.internal", 90*24*time.Hour), ca, 1000 * time.Hour, success}, // the authority ends first
		{"short", ca.issue(t, "shop.internal", 5*time.Hour), ca, 5 * time.Hour, success},
		{"expired", ca.issue(t, "shop.internal", -time.Hour), ca, -time.Hour, tlsFailed},
		{"of another name", ca.issue(t, "cart.internal", 5*time.Hour), ca, 5 * time.Hour, tlsFailed},
		{"of another authority", ca.issue(t, "shop.internal", 5*time.Hour), foreign, 5 * time.Hour, tlsFailed},
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.Config.ErrorLog = discardLog()
		server.TLS = &tls.Config{Certificates: []tls.Certificate{tt.cert}}
		server.StartTLS()
		for _, scheme := range []string{"https", "tls"} {
			o := targeting(t, scheme+"://"+server.Listener.Addr().String())
			o.CA, o.ServerName = tt.trust.file, "shop.internal"
			p := once(t, o, tt.want)
			if d := time.Until(p.tallies.expiry) - tt.end; d < -2*time.Minute || d > 2*time.Minute {
				t.Errorf("%s by %s: ends in %v, want %v", tt.name, scheme, time.Until(p.tallies.expiry), tt.end)
			}
		}
		server.Close()
	}
	if _, err := (&trust{}).verify(nil); err == nil {
		t.Error("no certificate is trusted")
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"https", "tls", "grpcs"} {
		o := targeting(t, scheme+"://127.0.0.1:1")
		o.CA = empty
		once(t, o, local)
	}
}

// healthServer runs a gRPC server with the health service.
func healthServer(t *testing.T, options ...grpc.ServerOption) (address string, h *health.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, h := grpc.NewServer(options...), health.NewServer()
	grpc_health_v1.RegisterHealthServer(s, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String(), h
}

func TestGRPC(t *testing.T) {
	address, h := healthServer(t)
	h.SetServingStatus("shop.Cart", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("shop.Pay", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	for path, want := range map[string]outcome{"": success, "/shop.Cart": success, "/shop.Pay": badStatus, "/shop.Unknown": badStatus} {
		once(t, targeting(t, "grpc://"+address+path), want)
	}
	ca := newAuthority(t)
	cert := ca.issue(t, "shop.internal", 5*time.Hour)
	secure, _ := healthServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	o := targeting(t, "grpcs://"+secure)
	o.CA, o.ServerName = ca.file, "shop.internal"
	if p := once(t, o, success); time.Until(p.tallies.expiry) > 5*time.Hour {
		t.Errorf("ends at %v", p.tallies.expiry)
	}
	o.ServerName = "cart.internal"
	once(t, o, tlsFailed)
	refusing, _ := healthServer(t, grpc.UnaryInterceptor(
		func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			return nil, status.Error(codes.Unavailable, "not today")
		}))
	once(t, targeting(t, "grpc://"+refusing), badStatus)
	slow, _ := healthServer(t, grpc.UnaryInterceptor(
		func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	o = targeting(t, "grpc://"+slow)
	o.Timeout = 200 * time.Millisecond
	once(t, o, timeout)
}

// nameServer answers each question with what f makes of it.
func nameServer(t *testing.T, f func(q dnsmessage.Message) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buffer[:n]) == nil {
				if answer := f(q); answer != nil {
					_, _ = conn.WriteTo(answer, from)
				}
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

// answer packs an answer with one A record, changed by f.
func answer(q dnsmessage.Message, f func(*dnsmessage.Message)) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true}, Questions: q.Questions}
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}},
	}}
	if f != nil {
		f(&m)
	}
	data, _ := m.Pack()
	return data
}

func TestDNS(t *testing.T) {
	for name, tt := range map[string]struct {
		f    func(q dnsmessage.Message) []byte
		want outcome
	}{
		"right":   {func(q dnsmessage.Message) []byte { return answer(q, nil) }, success},
		"silence": {func(dnsmessage.Message) []byte { return nil }, timeout},
		"garbage": {func(dnsmessage.Message) []byte { return []byte("garbage that is no DNS") }, protocol},
		"short":   {func(dnsmessage.Message) []byte { return []byte{1} }, protocol},
		"cut off": {func(q dnsmessage.Message) []byte { a := answer(q, nil); return a[:len(a)-3] }, protocol},
		"echo":    {func(q dnsmessage.Message) []byte { data, _ := q.Pack(); return data }, protocol},
		"id":      {func(q dnsmessage.Message) []byte { return answer(q, func(m *dnsmessage.Message) { m.ID++ }) }, protocol},
		"refused": {func(q dnsmessage.Message) []byte {
			return answer(q, func(m *dnsmessage.Message) { m.RCode, m.Answers = dnsmessage.RCodeRefused, nil })
		}, badStatus},
		"no such name": {func(q dnsmessage.Message) []byte {
			return answer(q, func(m *dnsmessage.Message) { m.RCode, m.Answers = dnsmessage.RCodeNameError, nil })
		}, badStatus},
		"empty": {func(q dnsmessage.Message) []byte { return answer(q, func(m *dnsmessage.Message) { m.Answers = nil }) }, badBody},
		"truncated": {func(q dnsmessage.Message) []byte {
			return answer(q, func(m *dnsmessage.Message) { m.Answers, m.Truncated = nil, true })
		}, success},
		"another question": {func(q dnsmessage.Message) []byte {
			return answer(q, func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX })
		}, protocol},
	} {
		t.Run(name, func(t *testing.T) {
			o := targeting(t, "dns://"+nameServer(t, tt.f)+"/Shop.example.com?type=a")
			o.Timeout = 300 * time.Millisecond
			once(t, o, tt.want)
		})
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	once(t, targeting(t, "dns://"+conn.LocalAddr().String()+"/example.com"), refused)
}

func TestICMP(t *testing.T) {
	if err := checkEcho("127.0.0.1"); err != nil {
		t.Skipf("needs root or the sysctl net.ipv4.ping_group_range: %v", err)
	}
	once(t, targeting(t, "icmp://127.0.0.1"), success)
	if err := checkEcho("::1"); err == nil {
		once(t, targeting(t, "icmp://[::1]"), success)
	}
}

// TestEchoByRawSocket: the same with the other kind of socket, which gets everybody's messages.
func TestEchoByRawSocket(t *testing.T) {
	testneed.Root(t, "to open a raw socket")
	f := familyOf(netipAddr("127.0.0.1"))
	for range 2 {
		conn, err := icmp.ListenPacket(f.raw, f.any)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		if err := f.echo(conn, netipAddr("127.0.0.1"), true); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
}

func FuzzDNSAnswer(f *testing.F) {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("a.b."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{question}}
	f.Add(answer(query, nil))
	f.Add(answer(query, func(m *dnsmessage.Message) { m.RCode = 2 }))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		err := checkAnswer(data, 7, question)
		if o := classify(err, phaseFirstByte, false); err != nil && o != protocol && o != badStatus && o != badBody {
			t.Errorf("%v is %s", err, o)
		}
	})
}

func FuzzEcho(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 1, 't'}, []byte("t"))
	f.Fuzz(func(t *testing.T, data, token []byte) {
		if isEcho(familyOf(netipAddr("10.0.0.1")), data, token) && !bytes.Contains(data, token) {
			t.Error("took a reply without the token")
		}
	})
}

// FuzzReadFor compares with a search in the whole text, however it is cut into reads.
func FuzzReadFor(f *testing.F) {
	f.Add([]byte("all is well"), "is", byte(1))
	f.Add(bytes.Repeat([]byte("ab"), chunk), "ba", byte(0))
	f.Fuzz(func(t *testing.T, body []byte, text string, way byte) {
		body = append(bytes.Repeat([]byte{'.'}, chunk-2), body...) // so that the edge of a chunk is near
		var r io.Reader = bytes.NewReader(body)
		switch way % 3 {
		case 1:
			r = iotest.HalfReader(r)
		case 2:
			r = iotest.DataErrReader(r)
		}
		found, err := readFor(r, text)
		if want := bytes.Contains(body, []byte(text)); err != nil || found != want {
			t.Errorf("%v, %v; want %v", found, err, want)
		}
	})
}

func netipAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
