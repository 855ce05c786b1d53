package probe

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// An outcome is how an attempt ended.
type outcome uint8

const (
	success     outcome = iota
	timeout             // the target did not answer in full in time
	noName              // the name of the target was not resolved
	refused             // nobody listens
	unreachable         // no way leads to the target
	tlsFailed           // no handshake, or a certificate that is not to be trusted
	closed              // the connection broke
	protocol            // what came was no answer of the protocol
	badStatus           // an answer that says no
	badBody             // an answer without what was expected in it
	other               // none of these
	outcomes
	local // slid itself could not ask: says nothing of the target, and is no outcome
)

var outcomeNames = [...]string{
	"success", "timeout", "dns", "refused", "unreachable", "tls", "closed", "protocol", "status", "body", "other",
	outcomes: "", local: "local",
}

// String returns the value of the attribute probe.outcome.
func (o outcome) String() string { return outcomeNames[o] }

// A failure is an error whose outcome is known.
type failure struct {
	outcome outcome
	err     error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// ownFaults are errors of sockets that come from slid's host and not from the target: no descriptors, ports, buffers or
// permission left, or a filter on the way out.
var ownFaults = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM,
	syscall.EAFNOSUPPORT,
}

var noWays = []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.ENONET}

var breaks = []error{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed}

// classify returns the one outcome of an attempt that ended in a phase with an error. late says whether its time was
// over.
func classify(err error, at phase, late bool) outcome {
	if err == nil {
		return success
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.outcome
	}
	if isAny(err, ownFaults) {
		return local
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok || at == phaseDNS {
		return noName // also when it took too long: the target was never asked
	}
	if e, ok := errors.AsType[net.Error](err); late || ok && e.Timeout() {
		return timeout
	}
	return classifyConnection(err, at)
}

// classifyConnection tells what became of a connection.
func classifyConnection(err error, at phase) outcome {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case isAny(err, noWays):
		return unreachable
	case at == phaseTLS:
		return tlsFailed
	case isAny(err, breaks):
		return closed
	case at >= phaseFirstByte:
		return protocol
	}
	return other
}

func isAny(err error, list []error) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
