// Package syscalls knows the numbers of Linux's system calls by name. They differ by architecture; the tables have those
// that slid is built for, whatever it runs on, since one configuration serves hosts of both.
package syscalls

import (
	"slices"
	"strconv"
	"strings"
)

// Number returns the number of a system call on an architecture, amd64 or arm64. Some calls exist on one of them alone:
// open is openat on arm64.
func Number(arch, name string) (number uint32, ok bool) {
	for line := range strings.Lines(table(arch)) {
		call, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		if call != name {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		return uint32(n), err == nil
	}
	return 0, false
}

// Names returns the names of the calls of all architectures, sorted.
func Names() []string {
	var names []string
	for _, arch := range Architectures() {
		for line := range strings.Lines(table(arch)) {
			name, _, _ := strings.Cut(line, " ")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Architectures returns those that the package knows, by Go's names for them.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Returns says whether programs come back from a call and it has a length of its own.
func Returns(name string) bool {
	return !slices.Contains([]string{"exit", "exit_group", "rt_sigreturn", "restart_syscall"}, name)
}

func table(arch string) string {
	switch arch {
	case "amd64":
		return amd64Table
	case "arm64":
		return arm64Table
	}
	return ""
}
