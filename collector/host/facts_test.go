package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shirou/gopsutil/v3/host"
)

func factsOf(t *testing.T, info Info) map[string]string {
	t.Helper()
	facts := map[string]string{}
	for _, kv := range info.Resource.Attributes() {
		facts[string(kv.Key)] = kv.Value.String()
	}
	return facts
}

func TestFactsOfARecordedTree(t *testing.T) {
	root := filepath.Join("testdata", treeVM)
	info, err := Facts(root, filepath.Join(root, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	kernel, _ := host.KernelVersion()
	got := factsOf(t, info)
	if got["host.arch"] == "" {
		t.Error("no host.arch")
	}
	delete(got, "host.arch") // of the machine that runs the test
	if diff := cmp.Diff(map[string]string{
		"host.id": "0123456789abcdef0123456789abcdef", "host.name": "web-17",
		"host.cpu.vendor.id": "GenuineIntel", "host.cpu.family": "6", "host.cpu.model.id": "207",
		"host.cpu.model.name": "Intel(R) Xeon(R) Processor",
		"os.type":             "linux", "os.name": "Debian GNU/Linux", "os.version": "12", "os.build_id": kernel,
		"os.description": "Debian GNU/Linux 12 (bookworm), Linux " + kernel,
	}, got); diff != "" {
		t.Error(diff)
	}
	if !info.Boot.Equal(time.Unix(1795404888, 0)) {
		t.Errorf("boot %v", info.Boot.Unix())
	}
}

func TestFactsTolerateMissingFiles(t *testing.T) {
	root := filepath.Join("testdata", treeServer) // has no machine id and no cpuinfo
	info, err := Facts(root, filepath.Join(root, "proc"))
	if err == nil || !strings.Contains(err.Error(), "etc/machine-id") {
		t.Errorf("error %v, want one with the missing file", err)
	}
	got := factsOf(t, info)
	if !strings.HasPrefix(got["os.description"], `Red Hat "Enterprise" Linux 9.4, Linux `) {
		t.Errorf("os.description %q", got["os.description"])
	}
	if got["os.build_id"] != "20240410" || got["host.name"] == "" {
		t.Errorf("%v", got)
	}

	info, err = Facts(t.TempDir(), t.TempDir()) // nothing at all
	if err == nil || factsOf(t, info)["os.type"] != "linux" {
		t.Errorf("%v, %v", info, err)
	}
	if d := time.Since(info.Boot); d <= 0 || d > 10*365*24*time.Hour {
		t.Errorf("boot by the clock: %v ago", d)
	}
}

// TestFactsAgreeWithGopsutil compares with gopsutil on this machine.
func TestFactsAgreeWithGopsutil(t *testing.T) {
	info, err := Facts("/", "/proc")
	if err != nil {
		t.Log("not everything is there: ", err)
	}
	got := factsOf(t, info)
	if name, err := os.Hostname(); err != nil || got["host.name"] != name {
		t.Errorf("host.name %q, want %q, %v", got["host.name"], name, err)
	}
	booted, err := host.BootTimeWithContext(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	// gopsutil subtracts the uptime from the clock, so it may be a second off.
	if d := info.Boot.Unix() - int64(booted); d < -2 || d > 2 {
		t.Errorf("boot %d, gopsutil %d", info.Boot.Unix(), booted)
	}
	if d := bootByClock().Sub(info.Boot); d < -2*time.Second || d > 2*time.Second {
		t.Errorf("boot by the clock is %v after btime", d)
	}
	again, _ := Facts("/", "/proc")
	if !again.Boot.Equal(info.Boot) || !again.Resource.Equal(info.Resource) {
		t.Error("two readings differ")
	}
}

func TestMachineID(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/machine-id", "uninitialized\n")
	if id, err := machineID(root); id != "" || err == nil || !strings.Contains(err.Error(), "no machine id") {
		t.Errorf("%q, %v", id, err)
	}
	write("var/lib/dbus/machine-id", strings.Repeat("a1", 16)+"\n")
	if id, err := machineID(root); id != strings.Repeat("a1", 16) || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}

func TestArchName(t *testing.T) {
	for in, want := range map[string]string{
		"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm32", "i686": "x86", "ppc64le": "ppc64", "s390x": "s390x",
	} {
		if got := archName(in); got != want {
			t.Errorf("archName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzOSRelease(f *testing.F) {
	f.Add(string(readTree(f, treeServer, "etc/os-release")))
	f.Add("A='\nB=\"\\\"\nC=\"\\\n")
	f.Fuzz(func(_ *testing.T, content string) { parseOSRelease(content) })
}
