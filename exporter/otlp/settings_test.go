package otlp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
)

// authority signs certificates for one test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue writes a certificate and its key and returns the files.
func (a *authority) issue(t *testing.T, name string, usage x509.ExtKeyUsage) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return a.write(t, name+".crt", "CERTIFICATE", der), a.write(t, name+".key", "EC PRIVATE KEY", keyDER)
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// server returns the configuration of a TLS server that asks clients for a certificate or not.
func (a *authority) server(t *testing.T, clients tls.ClientAuthType) *tls.Config {
	t.Helper()
	certFile, keyFile := a.issue(t, "server", x509.ExtKeyUsageServerAuth)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: clients, ClientCAs: a.pool()}
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	b := serve(t, "127.0.0.1:0", a.server(t, tls.NoClientCert))
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", a.write(t, "ca.crt", "CERTIFICATE", a.cert.Raw))
	s := newSource(t, Options{Endpoint: "https://" + b.addr}, fast, 1, 2)
	s.export(t, 1)
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
}

func TestTLSWithUnknownAuthority(t *testing.T) {
	a := newAuthority(t)
	b := serve(t, "127.0.0.1:0", a.server(t, tls.NoClientCert))
	s := newSource(t, Options{Endpoint: "https://" + b.addr}, fast, 1, 2)
	s.export(t, 1)
	await(t, "the failure to be logged", func() bool { return s.log.count("signed by unknown authority") == 1 })
	if s.delivered(t) != 0 || s.value(t, descInflight.Name, "") != s.points {
		t.Errorf("%d points delivered, %d kept", s.delivered(t), s.value(t, descInflight.Name, ""))
	}
}

func TestMutualTLS(t *testing.T) {
	a := newAuthority(t)
	b := serve(t, "127.0.0.1:0", a.server(t, tls.RequireAndVerifyClientCert))
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", a.write(t, "ca.crt", "CERTIFICATE", a.cert.Raw))

	without := newSource(t, Options{Endpoint: "https://" + b.addr}, fast, 1, 2)
	without.export(t, 1)
	await(t, "the failure to be logged", func() bool { return without.log.count("export fails") == 1 })

	certFile, keyFile := a.issue(t, "client", x509.ExtKeyUsageClientAuth)
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", certFile)
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", keyFile)
	with := newSource(t, Options{Endpoint: "https://" + b.addr}, fast, 1, 2)
	with.export(t, 1)
	await(t, "delivery", func() bool { return with.delivered(t) == with.points })
	if without.delivered(t) != 0 {
		t.Error("delivered without a client certificate")
	}
}

// A certificate in the environment is no reason to speak TLS to an http:// endpoint of the configuration.
func TestPlainEndpointIgnoresCertificates(t *testing.T) {
	a := newAuthority(t)
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", a.write(t, "ca.crt", "CERTIFICATE", a.cert.Raw))
	b := serve(t, "127.0.0.1:0", nil)
	s := newSource(t, Options{Endpoint: "http://" + b.addr}, fast, 1, 2)
	s.export(t, 1)
	await(t, "delivery", func() bool { return s.delivered(t) == s.points })
}

func TestEnvironment(t *testing.T) {
	const prefix = "OTEL_EXPORTER_OTLP_"
	for name, tt := range map[string]struct {
		env         map[string]string // %: the backend's address
		options     Options
		compression string
		header      metadata.MD
	}{
		"endpoint":         {env: map[string]string{"ENDPOINT": "http://%"}, compression: "gzip"},
		"metrics endpoint": {env: map[string]string{"ENDPOINT": "http://x:1", "METRICS_ENDPOINT": "http://%"}, compression: "gzip"},
		"insecure":         {env: map[string]string{"ENDPOINT": "//%", "INSECURE": "true"}, compression: "gzip"},
		"no compression":   {env: map[string]string{"ENDPOINT": "http://%", "COMPRESSION": "none"}},
		"metrics gzip": {
			env:         map[string]string{"ENDPOINT": "http://%", "COMPRESSION": "none", "METRICS_COMPRESSION": "gzip"},
			compression: "gzip",
		},
		"headers": {
			env:         map[string]string{"ENDPOINT": "http://%", "HEADERS": "x-tenant=a%20b"},
			compression: "gzip", header: metadata.Pairs("x-tenant", "a b"),
		},
		"configuration wins": {
			env:         map[string]string{"ENDPOINT": "http://x:1", "HEADERS": "x-tenant=env"},
			options:     Options{Endpoint: "http://%", Headers: map[string]string{"x-tenant": "config"}},
			compression: "gzip", header: metadata.Pairs("x-tenant", "config"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t, "127.0.0.1:0", nil)
			for key, value := range tt.env {
				t.Setenv(prefix+key, withAddr(value, b.addr))
			}
			tt.options.Endpoint = withAddr(tt.options.Endpoint, b.addr)
			s := newSource(t, tt.options, fast, 1, 2)
			s.export(t, 1)
			got := b.next(t)
			for key, want := range tt.header {
				if values := got.header.Get(key); len(values) != 1 || values[0] != want[0] {
					t.Errorf("header %s: %q, want %q", key, values, want)
				}
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.compression[0] != tt.compression {
				t.Errorf("compression %q, want %q", b.compression[0], tt.compression)
			}
		})
	}
}

// withAddr puts the address in the place of a % at the end.
func withAddr(s, addr string) string {
	if s != "" && s[len(s)-1] == '%' {
		return s[:len(s)-1] + addr
	}
	return s
}
