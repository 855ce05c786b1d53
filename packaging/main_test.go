package packaging

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary also plays the application in a container and its clients. roleVariable says which, "" is the test.
const roleVariable = "SLID_PACKAGING_ROLE"

const (
	serverAddress = "0.0.0.0:8080"
	serverURL     = "http://127.0.0.1:8080"
	serverPort    = 8080
)

func TestMain(m *testing.M) {
	role, count, _ := strings.Cut(os.Getenv(roleVariable), ":")
	var err error
	switch role {
	case "server":
		err = serve()
	case "client":
		err = load(count)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// serve answers requests until stdin ends. Its network namespace is new, so it brings up the loopback interface first.
func serve() error {
	if err := loopbackUp(); err != nil {
		return err
	}
	var listener net.ListenConfig
	l, err := listener.Listen(context.Background(), "tcp", serverAddress)
	if err != nil {
		return err
	}
	http.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	go http.Serve(l, nil)
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request))
}

// failEvery is the distance of the requests that the server answers with 500.
const failEvery = 10

// load sends so many requests over four connections and fails unless each is answered as it should be.
func load(count string) error {
	var total int64
	if _, err := fmt.Sscan(count, &total); err != nil {
		return err
	}
	var sent atomic.Int64
	var failure atomic.Value
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for n := sent.Add(1); n <= total; n = sent.Add(1) {
				if err := request(n); err != nil {
					failure.Store(err)
					return
				}
			}
		})
	}
	clients.Wait()
	err, _ := failure.Load().(error)
	return err
}

func request(n int64) error {
	path, want := "/", http.StatusOK
	if n%failEvery == 0 {
		path, want = "/fail", http.StatusInternalServerError
	}
	response, err := http.Get(serverURL + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != want {
		return fmt.Errorf("request %d: status %d", n, response.StatusCode)
	}
	return nil
}

// buildSlid builds the static binary as the Makefile does.
func buildSlid(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slid")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", path, "./cmd/slid")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// run runs a command to its end and returns its stdout.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return out
}

// ownNamespaces are those of a container of its own.
const ownNamespaces = syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP
