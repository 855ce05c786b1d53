package bpf

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

// A capability is a Linux capability by its number (capabilities(7)).
type capability uint

const (
	capNetAdmin capability = unix.CAP_NET_ADMIN // attach to cgroups and sockets
	capSysAdmin capability = unix.CAP_SYS_ADMIN // includes CAP_BPF and CAP_PERFMON
	capPerfmon  capability = unix.CAP_PERFMON   // load programs that read kernel memory
	capBPF      capability = unix.CAP_BPF       // create maps, load programs
)

// String returns the capability's name.
func (c capability) String() string {
	switch c {
	case capNetAdmin:
		return "CAP_NET_ADMIN"
	case capSysAdmin:
		return "CAP_SYS_ADMIN"
	case capPerfmon:
		return "CAP_PERFMON"
	case capBPF:
		return "CAP_BPF"
	}
	return "an unnamed capability"
}

// A capabilitySet has a bit for each capability.
type capabilitySet uint64

// has says whether the set holds c or a capability that includes it.
func (s capabilitySet) has(c capability) bool {
	if s>>c&1 == 1 {
		return true
	}
	return (c == capBPF || c == capPerfmon) && s.has(capSysAdmin)
}

// missing returns the names of the needed capabilities that the set lacks, or "".
func (s capabilitySet) missing(needs []capability) string {
	var names []string
	for _, c := range needs {
		if !s.has(c) {
			names = append(names, c.String())
		}
	}
	return strings.Join(names, ", ")
}

// effective returns the effective capabilities of the calling thread (capget(2)).
func effective() (capabilitySet, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, err
	}
	return capabilitySet(data[1].Effective)<<32 | capabilitySet(data[0].Effective), nil
}

// unavailable says why an operation on a probe failed. needs are the capabilities it takes.
//
// EPERM stands for many refusals. The advice of cilium/ebpf to raise RLIMIT_MEMLOCK, which it appends to each, fits
// none of them, so only the error number is kept of such errors.
func unavailable(operation string, err error, needs ...capability) error {
	if u, ok := errors.AsType[*verdict.UnavailableError](err); ok {
		return u
	}
	verifier, _ := errors.AsType[*ebpf.VerifierError](err) // it says EACCES of programs it does not understand
	refused := (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && (verifier == nil || len(verifier.Log) == 0)
	have, capErr := effective()
	if capErr != nil && refused {
		return &verdict.UnavailableError{Reason: "not permitted to " + operation, Err: errnoOf(err)}
	}
	// Tests for features fail without permission too, and then deny that the kernel has them.
	if missing := have.missing(needs); capErr == nil && missing != "" && (refused || errors.Is(err, ebpf.ErrNotSupported)) {
		return &verdict.UnavailableError{Reason: "not permitted to " + operation, Missing: missing}
	}
	if !refused {
		return &verdict.UnavailableError{Reason: "cannot " + operation, Err: plain(err)}
	}
	return &verdict.UnavailableError{
		Reason: "refused to " + operation + " in spite of sufficient capabilities: " + refusedBy(),
		Err:    plain(err),
	}
}

// plain strips an error of advice that misleads and of a verifier's log beyond its last line.
func plain(err error) error {
	if v, ok := errors.AsType[*ebpf.VerifierError](err); ok && len(v.Log) > 0 {
		return v // its message is the log's last line; the advice stands outside of it
	}
	if errors.Is(err, unix.EPERM) {
		return errnoOf(err)
	}
	return err
}

// errnoOf returns the error number at the bottom of err, or err when there is none.
func errnoOf(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// refusedBy names what may stand between a capable process and bpf(2), as far as the process can see it.
func refusedBy() string {
	var causes []string
	if s, err := os.ReadFile("/proc/thread-self/status"); err == nil && bytes.Contains(s, []byte("\nSeccomp:\t2")) {
		causes = append(causes, "a seccomp filter")
	}
	if m, err := os.ReadFile("/proc/self/uid_map"); err == nil && !wholeMap(m) {
		causes = append(causes, "a user namespace, where capabilities do not count for BPF")
	}
	if l, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil && !bytes.Contains(l, []byte("[none]")) {
		causes = append(causes, "kernel lockdown")
	}
	if causes == nil {
		return "by a security module or the kernel's own policy"
	}
	return "look at " + strings.Join(causes, " and ")
}

// wholeMap says whether /proc/self/uid_map maps all users to themselves, as in the initial user namespace.
func wholeMap(m []byte) bool {
	f := bytes.Fields(m)
	return len(f) == 3 && string(f[0]) == "0" && string(f[1]) == "0" && string(f[2]) == "4294967295"
}
