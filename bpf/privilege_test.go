package bpf

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// requireCapabilities skips a test that loads programs where that is not allowed.
func requireCapabilities(tb testing.TB) {
	tb.Helper()
	have, err := effective()
	if err != nil {
		tb.Fatal(err)
	}
	if missing := have.missing([]capability{capBPF, capPerfmon, capNetAdmin}); missing != "" {
		tb.Skip("loading kernel programs needs", missing)
	}
}

// without runs f on a thread of its own that lacks the given capabilities.
func without(t *testing.T, f func(), dropped ...capability) {
	t.Helper()
	onThread(t, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			return err
		}
		for _, c := range dropped {
			data[c/32].Effective &^= 1 << (c % 32)
		}
		return unix.Capset(&header, &data[0])
	}, f)
}

// onThread runs prepare and then f on a thread that ends with them.
func onThread(t *testing.T, prepare func() error, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := prepare()
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
