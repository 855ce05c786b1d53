package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"os"
	"time"

	"github.com/slid-agent/slid/internal/verdict"
)

// dial looks up the host and connects to it, entering the phases of that. Of several addresses, the first that answers
// is taken, as clients do (RFC 8305).
func dial(ctx context.Context, t *timeline, network, address string) (net.Conn, error) {
	trace := &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { t.enter(phaseDNS) },
		DNSDone: func(info httptrace.DNSDoneInfo) {
			switch {
			case info.Err != nil: // the phase ends with the attempt
			case network == "udp": // sends nothing to connect
				t.enter(phaseFirstByte)
			default:
				t.enter(phaseConnect)
			}
		},
	}
	var d net.Dialer
	d.KeepAlive = -1 // the connection lives as long as the attempt
	return d.DialContext(httptrace.WithClientTrace(ctx, trace), network, address)
}

// askTCP asks by connecting.
func askTCP(o Options) ask {
	return func(ctx context.Context, t *timeline) error {
		conn, err := dial(ctx, t, "tcp", o.address(""))
		if err != nil {
			return err
		}
		hangUp(conn)
		return nil
	}
}

// hangUp closes a connection that has told what it should. How the server takes that does not count.
func hangUp(conn io.Closer) { _ = conn.Close() }

// askTLS asks by a TLS handshake.
func askTLS(o Options) ask {
	trust, err := newTrust(o)
	return func(ctx context.Context, t *timeline) error {
		if err != nil {
			return err
		}
		conn, err := dial(ctx, t, "tcp", o.address(""))
		if err != nil {
			return err
		}
		defer hangUp(conn)
		t.enter(phaseTLS)
		return tls.Client(conn, trust.config(t)).HandshakeContext(ctx)
	}
}

// trust says which certificates of a server are in order.
type trust struct {
	name  string // whom they must be for
	roots *x509.CertPool
}

// newTrust reads the authorities once. If it cannot, no attempt of the probe can be made.
func newTrust(o Options) (*trust, error) {
	t := &trust{name: o.ServerName}
	if t.name == "" {
		t.name = o.host()
	}
	if o.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, &failure{local, &verdict.UnavailableError{
			Reason: "the authorities to trust cannot be read", Missing: o.CA + ", readable for the user slid runs as", Err: err,
		}}
	}
	t.roots = x509.NewCertPool()
	if !t.roots.AppendCertsFromPEM(pem) {
		return nil, &failure{local, &verdict.UnavailableError{
			Reason: "the file of the authorities to trust has none", Missing: "a PEM certificate in " + o.CA,
		}}
	}
	return t, nil
}

// config returns the settings of one handshake. It verifies by itself: the expiry shall be known also of
// a certificate that is expired or somebody else's.
func (s *trust) config(t *timeline, protocols ...string) *tls.Config {
	return &tls.Config{
		ServerName: s.name, NextProtos: protocols,
		InsecureSkipVerify: true, // VerifyConnection does it instead
		VerifyConnection: func(state tls.ConnectionState) error {
			expiry, err := s.verify(state.PeerCertificates)
			t.certificate(expiry)
			return err
		},
	}
}

// verify checks the chain that a server presented, and returns when it ends: the first certificate of the chain that
// lasts longest, or the server's own if there is no chain to be trusted.
func (s *trust) verify(presented []*x509.Certificate) (time.Time, error) {
	if len(presented) == 0 {
		return time.Time{}, errors.New("the server has no certificate")
	}
	options := x509.VerifyOptions{DNSName: s.name, Roots: s.roots, Intermediates: x509.NewCertPool()}
	for _, c := range presented[1:] {
		options.Intermediates.AddCert(c)
	}
	chains, err := presented[0].Verify(options)
	if err != nil {
		return presented[0].NotAfter, fmt.Errorf("certificate: %w", err)
	}
	var last time.Time
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last, nil
}
