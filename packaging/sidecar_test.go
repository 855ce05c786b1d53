package packaging

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slid-agent/slid/internal/testneed"
)

// What the test sends to the application beside slid and to its neighbour.
const (
	appRequests       = 2000
	neighbourRequests = 700
)

// slid runs as the sidecar of an application, as runc starts it: as a user that is not root, with the five
// capabilities, under the seccomp profile, with a read-only mount of the host's cgroup2 tree. It counts every request
// of the application beside it, and none of a neighbour who listens on the same port in a namespace of its own.
func TestSidecarCountsItsApplication(t *testing.T) {
	testneed.Root(t, "to make containers")
	runc, nsenter := testneed.Tool(t, "runc"), testneed.Tool(t, "nsenter")
	testneed.File(t, "/sys/kernel/btf/vmlinux", "a kernel with CONFIG_DEBUG_INFO_BTF=y")
	app, neighbour := startApplication(t, "app"), startApplication(t, "neighbour")
	s := startSidecar(t, runc, bundle(t, buildSlid(t), app,
		"sli", "--watch", "1s", "--for", "30s", "-o", "ndjson", "--config", "/etc/slid/slid.yaml"))
	s.window(t) // slid measures

	app.request(t, nsenter, appRequests)
	neighbour.request(t, nsenter, neighbourRequests)
	for s.seen.Requests < appRequests && s.window(t) {
	}
	s.window(t) // what comes late would be too much
	s.stop(t)

	want := counts{Requests: appRequests, Errors: appRequests / failEvery}
	if s.seen != want {
		t.Errorf("slid counted %+v on port %d, want %+v", s.seen, serverPort, want)
	}
	if want := commandOf(t, app.pid); len(s.names) != 1 || !s.names[want] {
		t.Errorf("services on port %d: %v, want %s alone", serverPort, s.names, want)
	}
}

// An application serves HTTP in a container of its own: network, pid, mount and cgroup namespaces.
type application struct {
	pid int
}

// commandOf returns the name of a process, which slid gives to a service that has no unit and no container.
func commandOf(t *testing.T, pid int) string {
	t.Helper()
	return strings.TrimSpace(string(read(t, fmt.Sprintf("/proc/%d/comm", pid))))
}

// testName returns the name of a container or cgroup of this process.
func testName(what string) string { return fmt.Sprintf("slid-test-%d-%s", os.Getpid(), what) }

// startApplication starts the server of this test binary in a cgroup and namespaces of its own. It ends with the test.
func startApplication(t *testing.T, name string) application {
	t.Helper()
	cgroup := filepath.Join(cgroup2(t), testName(name))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, cgroup) })
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=server")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: ownNamespaces, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // its end is all it says
		if err := cmd.Wait(); err != nil {
			t.Error("application:", err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("application says %q: %v", line, err)
	}
	return application{cmd.Process.Pid}
}

// removeCgroup removes a cgroup once its last process is gone from the kernel's books.
func removeCgroup(t *testing.T, path string) {
	t.Helper()
	await(t, "the end of "+path, func() bool {
		err := os.Remove(path)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("waited in vain for %s", what)
			return
		}
	}
}

// request sends so many requests to the application, from a process in its network namespace.
func (a application) request(t *testing.T, nsenter string, count int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nsenter, "--target", strconv.Itoa(a.pid), "--net", self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=client:%d", roleVariable, count))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("clients: %v\n%s", err, out)
	}
}

// cgroup2 returns where the host's cgroup2 tree is mounted.
func cgroup2(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(string(read(t, "/proc/self/mounts"))) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("needs a mounted cgroup2 tree: mount -t cgroup2 none /mnt")
	return ""
}

// bundle writes what runc needs to run slid beside an application: slid where the image has it, the five capabilities,
// a user that is not root, the seccomp profile, and the host's cgroup2 tree read-only below /host.
func bundle(t *testing.T, slid string, app application, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	write(t, filepath.Join(root, "slid"), read(t, slid), 0o755)
	for _, mountPoint := range []string{"proc", "sys", "host/sys/fs/cgroup"} {
		if err := os.MkdirAll(filepath.Join(root, mountPoint), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/slid/slid.yaml"), []byte("host: {root: /host}\n"), 0o644)
	config, err := json.Marshal(containerConfig(t, app, args))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.json"), config, 0o600)
	return dir
}

type object = map[string]any

// containerConfig is what a runtime makes of sidecar.yaml, for a user that is not root (OCI runtime specification 1.0).
func containerConfig(t *testing.T, app application, args []string) object {
	t.Helper()
	readOnly := []string{"nosuid", "noexec", "nodev", "ro"}
	namespace := func(kind, file string) object {
		return object{"type": kind, "path": fmt.Sprintf("/proc/%d/ns/%s", app.pid, file)}
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": 65532, "gid": 65532}, "cwd": "/", "args": append([]string{"/slid"}, args...),
			"noNewPrivileges": true,
			"capabilities": object{
				"bounding": capabilities, "effective": capabilities, "permitted": capabilities,
				"inheritable": capabilities, "ambient": capabilities,
			},
		},
		"root":     object{"path": "rootfs", "readonly": true},
		"hostname": "sidecar",
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": readOnly},
			{
				"destination": "/host/sys/fs/cgroup", "type": "bind", "source": cgroup2(t),
				"options": append([]string{"bind"}, readOnly...),
			},
		},
		"linux": object{
			"cgroupsPath": "/" + testName("sidecar"),
			"namespaces": []object{
				namespace("network", "net"), namespace("pid", "pid"),
				{"type": "mount"},
				{"type": "ipc"},
				{"type": "uts"},
				{"type": "cgroup"},
			},
			"seccomp": json.RawMessage(read(t, "container/seccomp.json")),
		},
	}
}

// A sidecar is slid in a container. Its windows come as lines of JSON.
type sidecar struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	stderr bytes.Buffer // read it after stop
	last   string       // line

	seen  counts
	names map[string]bool // of the services on the port of the application
}

type counts struct{ Requests, Errors int64 }

// startSidecar starts a container. It ends with the test.
func startSidecar(t *testing.T, runc, bundle string) *sidecar {
	t.Helper()
	s := &sidecar{names: map[string]bool{}}
	state := t.TempDir()
	s.cmd = exec.Command(runc, "--root", state, "run", "--bundle", bundle, testName("sidecar"))
	s.cmd.Stderr = &s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.lines = bufio.NewScanner(stdout)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// After a test that failed half-way; otherwise there is nothing to delete.
		exec.Command(runc, "--root", state, "delete", "--force", testName("sidecar")).Run()
		if t.Failed() {
			t.Logf("slid's last report: %s\nits stderr:\n%s", s.last, &s.stderr)
		}
	})
	return s
}

// window reads one line and adds up what it says of the application's port. It returns false at the end.
func (s *sidecar) window(t *testing.T) bool {
	t.Helper()
	if !s.lines.Scan() {
		return false
	}
	s.last = s.lines.Text()
	var report struct {
		Services []struct {
			Service string
			Port    int
			counts
		}
	}
	if err := json.Unmarshal(s.lines.Bytes(), &report); err != nil {
		t.Fatalf("%v in %s", err, s.lines.Bytes())
	}
	for _, service := range report.Services {
		if service.Port == serverPort {
			s.names[service.Service] = true
			s.seen.Requests += service.Requests
			s.seen.Errors += service.Errors
		}
	}
	return true
}

// stop ends slid as Ctrl-C does and reads what it still has to say.
func (s *sidecar) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil { // runc passes it on
		t.Error("runc:", err)
	}
	for s.window(t) {
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("slid: %v", err)
	}
}
