package bpf

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An earlyRig is a network namespace with a server whose connections come with their first data.
type earlyRig struct {
	*tcpRig
	http     *HTTP
	listener *tcpSocket
	family   int
}

func newEarlyRig(t *testing.T, family int) *earlyRig {
	t.Helper()
	r := &earlyRig{tcpRig: newTCPRig(t, false), http: newHTTP(t), family: family}
	r.listener = r.socketOf(family, unix.IPPROTO_TCP)
	r.must(unix.Bind(r.listener.fd, r.at(0)))
	r.must(unix.Listen(r.listener.fd, 4))
	return r
}

// at returns the loopback address with a port.
func (r *earlyRig) at(port int) unix.Sockaddr {
	if r.family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}
	}
	return &unix.SockaddrInet4{Port: port, Addr: tcpLocal}
}

func (r *earlyRig) port() int {
	name, err := unix.Getsockname(r.listener.fd)
	r.must(err)
	if a, ok := name.(*unix.SockaddrInet6); ok {
		return a.Port
	}
	return name.(*unix.SockaddrInet4).Port
}

// client connects from a port, or any if that is 0.
func (r *earlyRig) client(from int) *tcpSocket {
	r.Helper()
	c := r.socketOf(r.family, unix.IPPROTO_TCP)
	c.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	r.must(unix.Bind(c.fd, r.at(from)))
	r.must(unix.Connect(c.fd, r.at(r.port())))
	return c
}

// early returns a function that puts the one request that waits for its connection back to where it is now.
func (r *earlyRig) early() func() {
	r.Helper()
	var key, value []byte
	m := r.http.collection.Maps["http_early"]
	all := m.Iterate()
	if !all.Next(&key, &value) {
		r.Fatal("no request waits")
	}
	key, value = slices.Clone(key), slices.Clone(value)
	return func() { r.must(m.Put(key, value)) }
}

func (s *tcpSocket) write(text string) {
	s.Helper()
	_, err := unix.Write(s.fd, []byte(text))
	s.must(err)
}

func (s *tcpSocket) read() string {
	s.Helper()
	var buf [4096]byte
	n, err := unix.Read(s.fd, buf[:])
	s.must(err)
	return string(buf[:n])
}

// TestHTTPEarlyRequests has requests that the socket of their connection never sees: the listening one does.
func TestHTTPEarlyRequests(t *testing.T) {
	one := counted{Codes: map[int]uint64{200: 1}, HTTP: 1, FirstBytes: 1, Durations: 1}
	for name, family := range map[string]int{"IPv4": unix.AF_INET, "IPv6": unix.AF_INET6} {
		deferred := func(t *testing.T) *earlyRig {
			r := newEarlyRig(t, family)
			r.listener.set(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 10)
			return r
		}
		t.Run(name+"/deferred accept", func(t *testing.T) {
			r := deferred(t)
			c := r.client(0)
			c.write(get)
			s := r.listener.accept()
			time.Sleep(30 * time.Millisecond) // belongs to the request
			s.read()
			s.write(ok)
			c.close()
			s.close()
			checkCount(t, r.http, r.port(), one)
			if d := countOf(t, r.http, r.port()).DurationSum; d < 30*time.Millisecond || d > 10*time.Second {
				t.Errorf("the request took %v", d)
			}
		})
		t.Run(name+"/fast open", func(t *testing.T) {
			r := newEarlyRig(t, family)
			r.sysctl("tcp_fastopen", "519") // without cookies
			r.listener.set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 4)
			c := r.socketOf(family, unix.IPPROTO_TCP)
			r.must(unix.Sendto(c.fd, []byte(get), unix.MSG_FASTOPEN, r.at(r.port())))
			s := r.listener.accept()
			s.read()
			s.write(ok)
			c.read()
			c.write(get)
			s.read()
			s.write(ok)
			c.close()
			s.close()
			checkCount(t, r.http, r.port(), counted{Codes: map[int]uint64{200: 2}, HTTP: 1, FirstBytes: 2, Durations: 2})
			if r.kernel("TcpExt", "TCPFastOpenPassive") != 1 {
				t.Error("the kernel did it in another way")
			}
		})
		t.Run(name+"/in pieces", func(t *testing.T) {
			r := deferred(t)
			c := r.client(0)
			c.write(get[:3])
			s := r.listener.accept()
			c.write(get[3:20])
			c.write(get[20:])
			s.read()
			s.write(ok)
			c.close()
			s.close()
			checkCount(t, r.http, r.port(), one)
		})
		t.Run(name+"/aborted", func(t *testing.T) {
			r := deferred(t)
			for _, end := range []func(c, s *tcpSocket){
				func(_, s *tcpSocket) { s.abort() },
				func(c, _ *tcpSocket) { c.abort() },
				func(_, s *tcpSocket) { s.read(); s.close() },
				func(c, s *tcpSocket) { c.write("more of it"); s.close() },
			} {
				c := r.client(0)
				c.write(get)
				end(c, r.listener.accept())
			}
			checkCount(t, r.http, r.port(), counted{Aborted: 4})
		})
		t.Run(name+"/without a request", func(t *testing.T) {
			r := newEarlyRig(t, family)
			c := r.client(0)
			r.must(unix.Shutdown(c.fd, unix.SHUT_WR))
			s := r.listener.accept()
			if s.read() != "" {
				t.Fatal("the client sent something")
			}
			s.write("HTTP/1.1 400 Bad Request\r\n\r\n") // as haproxy answers
			s.close()
			c = r.client(0) // an event to wait for
			c.write(get)
			s = r.listener.accept()
			s.write(ok)
			s.close()
			checkCount(t, r.http, r.port(), one)
		})
		t.Run(name+"/not HTTP", func(t *testing.T) {
			r := deferred(t)
			c := r.client(0)
			c.write("\x16\x03\x01 is how TLS begins")
			s := r.listener.accept()
			s.read()
			s.write("\x16\x03\x03 and goes on")
			checkCount(t, r.http, r.port(), counted{Opaque: 1})
		})
		t.Run(name+"/port used again", func(t *testing.T) {
			r := deferred(t)
			c := r.client(0)
			name, err := unix.Getsockname(c.fd)
			r.must(err)
			c.write("POST /old HTTP/1.1\r\n\r\n")
			s := r.listener.accept()
			again := r.early()
			s.abort()
			c.close()
			again()
			from := 0
			switch a := name.(type) {
			case *unix.SockaddrInet4:
				from = a.Port
			case *unix.SockaddrInet6:
				from = a.Port
			}
			c = r.client(from)
			c.write("x") // nothing may come of the request that is still noted for the same addresses and ports
			s = r.listener.accept()
			s.read()
			s.write("y")
			checkCount(t, r.http, r.port(), counted{Opaque: 1, Aborted: 1})
		})
	}
}
