// Package testneed says what a test needs of the machine it runs on: a program, root, a kernel file. A test whose
// need is not met skips with a reason that names the remedy. In CI a skip is a failure unless .ci/allowed-skips
// has it: internal/tools/testreport sees to that, so that no test has to know where it runs.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// debian says which package has a program that is not in a package of its own name.
func debian(program string) string {
	switch program {
	case "nginx":
		return "nginx-light"
	case "ab":
		return "apache2-utils"
	case "ip", "ss", "tc":
		return "iproute2"
	case "unshare", "nsenter", "setpriv":
		return "util-linux"
	case "capsh", "setcap", "getcap":
		return "libcap2-bin"
	case "systemd-analyze":
		return "systemd"
	case "redis-benchmark":
		return "redis-tools"
	case "iptables-legacy":
		return "iptables"
	}
	return program
}

// Tool returns the path of a program, or skips the test and names the Debian package that has it.
func Tool(tb testing.TB, program string) string {
	tb.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		tb.Skipf("needs %s: apt-get install %s", program, debian(program))
	}
	return path
}

// Root skips the test unless it runs as root. purpose ends the sentence "needs root ...", e.g. "to load BPF
// programs".
func Root(tb testing.TB, purpose string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skipf("needs root %s", purpose)
	}
}

// File skips the test unless the machine has the file. has says what of the machine gives it, e.g. "a kernel with
// CONFIG_PSI=y".
func File(tb testing.TB, path, has string) {
	tb.Helper()
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("needs %s: %v", has, err)
	}
}
