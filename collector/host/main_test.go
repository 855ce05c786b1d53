package host

import (
	"os"
	"runtime"
	"testing"
)

// mainThread keeps the process's first thread for TestMain's goroutine, from the start of the program. Tests change
// namespaces, capabilities and filters of threads that end with them; the first one never ends, and it is the one whose
// view /proc/self and /proc/net show.
var mainThread = func() bool {
	runtime.LockOSThread()
	return true
}()

func TestMain(m *testing.M) {
	if !mainThread {
		os.Exit(1)
	}
	os.Exit(m.Run())
}
