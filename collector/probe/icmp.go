package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/slid-agent/slid/internal/verdict"
)

// A family is one of the two versions of ICMP.
type family struct {
	ping, raw, any string // networks of the two kinds of socket, and the address to open them at
	number         int    // of the protocol
	request, reply icmp.Type
}

func familyOf(a netip.Addr) family {
	if a.Unmap().Is4() {
		return family{"udp4", "ip4:icmp", "0.0.0.0", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	}
	return family{"udp6", "ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
}

// open opens a socket for echos: a ping socket, for which the kernel asks no capability of the groups in
// net.ipv4.ping_group_range, or else a raw one.
func (f family) open() (conn *icmp.PacketConn, raw bool, err error) {
	if conn, err = icmp.ListenPacket(f.ping, f.any); err == nil {
		return conn, false, nil
	}
	conn, rawErr := icmp.ListenPacket(f.raw, f.any)
	if rawErr == nil {
		return conn, true, nil
	}
	if !errors.Is(rawErr, os.ErrPermission) {
		return nil, false, errors.Join(err, rawErr)
	}
	return nil, false, &failure{local, &verdict.UnavailableError{
		Reason: "this host does not let slid send an echo", Missing: "CAP_NET_RAW, or slid's group in the sysctl net.ipv4.ping_group_range",
		Err: rawErr,
	}}
}

// checkEcho returns why no echo can be sent to a host, or nil.
func checkEcho(host string) error {
	a, err := netip.ParseAddr(host)
	if err != nil {
		a = netip.IPv4Unspecified()
	}
	conn, _, err := familyOf(a).open()
	if err != nil {
		return err
	}
	return conn.Close()
}

// askICMP returns how to ask for an echo.
func askICMP(o Options) ask {
	return func(ctx context.Context, t *timeline) error {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", o.host())
		if err != nil {
			return err
		}
		t.enter(phaseFirstByte)
		to := addresses[0].Unmap()
		f := familyOf(to)
		conn, raw, err := f.open()
		if err != nil {
			return err
		}
		defer hangUp(conn)
		release := deadline(ctx, conn)
		defer release()
		return f.echo(conn, to, raw)
	}
}

// echo sends a request and waits for its reply. A ping socket gets nothing else; of what a raw one gets, the address and
// the 16 random bytes tell it.
func (f family) echo(conn *icmp.PacketConn, to netip.Addr, raw bool) error {
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails, as its documentation says
	request, err := (&icmp.Message{Type: f.request, Body: &icmp.Echo{ID: int(token[0]), Seq: 1, Data: token}}).Marshal(nil)
	if err != nil {
		return &failure{local, fmt.Errorf("marshal the echo: %w", err)}
	}
	var address net.Addr = &net.UDPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	if raw {
		address = &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	}
	if _, err := conn.WriteTo(request, address); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if isEcho(f, buffer[:n], token) && sameHost(from, to) {
			return nil
		}
	}
}

// isEcho says whether a message is the reply to the request with the token.
func isEcho(f family, data, token []byte) bool {
	m, err := icmp.ParseMessage(f.number, data)
	if err != nil || m.Type != f.reply {
		return false
	}
	body, ok := m.Body.(*icmp.Echo)
	return ok && bytes.Equal(body.Data, token)
}

func sameHost(from net.Addr, to netip.Addr) bool {
	var ip net.IP
	switch a := from.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	a, ok := netip.AddrFromSlice(ip)
	return ok && a.Unmap() == to.WithZone("")
}
