package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// asSlid makes the test binary behave as slid itself.
const asSlid = "SLID_TEST_AS_SLID"

// patience is how long a condition may take on a busy machine.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asRefused) != "" {
		refuseAndRun()
	}
	if os.Getenv(asSlid) != "" {
		main()
		return
	}
	testscript.Main(m, map[string]func(){"slid": main})
}

// TestScripts runs the files in testdata/script: each is a session of commands and what they must print.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(e *testscript.Env) error {
		e.Setenv("RUNTIME_DIRECTORY", e.WorkDir) // an agent of this machine is none of the test's
		return nil
	}})
}

// newSlid returns slid with the given arguments as a process of its own, which is killed if it outlives the test.
func newSlid(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asSlid+"=1", "OTEL_EXPORTER_OTLP_ENDPOINT=",
		"RUNTIME_DIRECTORY="+t.TempDir(), "STATE_DIRECTORY=") // an agent of this machine is none of the test's
	return cmd
}

// unprivileged makes cmd run as nobody, without capabilities. It needs a binary that nobody may read.
func unprivileged(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	dir := t.TempDir()
	binary, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = filepath.Join(dir, "slid")
	cmd.Dir = "/"
	if err := os.WriteFile(cmd.Path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// buffer collects what a process writes, for many readers.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await waits until the condition holds; what names it.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v passed without %s", patience, what)
		}
	}
}
