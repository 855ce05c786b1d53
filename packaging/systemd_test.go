package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/internal/testneed"
)

const unit = "systemd/slid.service"

// capabilities are the five that slid runs with, wherever it runs.
var capabilities = []string{"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}

// install writes the unit, with the given drop-ins, into a folder of its own. A stand-in is at ExecStart, because
// systemd-analyze wants the program to exist.
func install(t *testing.T, dropIns ...string) string {
	t.Helper()
	dir := t.TempDir()
	standIn := filepath.Join(dir, "slid")
	write(t, standIn, []byte("#!/bin/sh\n"), 0o755)
	text := strings.ReplaceAll(string(read(t, unit)), "/usr/bin/slid", standIn)
	path := filepath.Join(dir, "slid.service")
	write(t, path, []byte(text), 0o644)
	for _, d := range dropIns {
		write(t, filepath.Join(path+".d", filepath.Base(d)), read(t, d), 0o644)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

// dropIns returns every example drop-in.
func dropIns(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("systemd/examples/*.conf")
	if err != nil || len(list) == 0 {
		t.Fatal("no drop-ins", err)
	}
	return list
}

// systemd-analyze verify exits 0 even on unknown keys; only its silence is a yes.
func TestUnitVerifies(t *testing.T) {
	analyze := testneed.Tool(t, "systemd-analyze")
	sets := [][]string{nil}
	for _, d := range dropIns(t) {
		sets = append(sets, []string{d})
	}
	for _, set := range sets {
		out, err := exec.Command(analyze, "verify", install(t, set...)).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("with %v: %v\n%s", set, err, out)
		}
	}
}

// The test above proves something only if the same call tells of mistakes in the unit and in a drop-in.
func TestVerifyWouldTell(t *testing.T) {
	analyze := testneed.Tool(t, "systemd-analyze")
	mistake := []byte("[Service]\nProtectSytem=strict\n")
	for _, name := range []string{"slid.service", "slid.service.d/mistake.conf"} {
		path := install(t)
		file := filepath.Join(filepath.Dir(path), name)
		before, _ := os.ReadFile(file) // the drop-in is new
		write(t, file, append(before, mistake...), 0o644)
		if out, _ := exec.Command(analyze, "verify", path).CombinedOutput(); !strings.Contains(string(out), "ProtectSytem") {
			t.Errorf("a misspelt key in %s passes unnoticed", name)
		}
	}
}

// The threshold is 3.0 of 10; comparable agents are shipped at 9.
func TestUnitExposure(t *testing.T) {
	analyze := testneed.Tool(t, "systemd-analyze")
	cmd := exec.Command(analyze, "security", "--offline=true", "--threshold=30", "--no-pager", unit)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Log(lastLine(out))
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// setting finds the values of a key of the unit.
func setting(text []byte, key string) []string {
	var values []string
	for _, m := range regexp.MustCompile(`(?m)^`+key+`=(.*)$`).FindAllSubmatch(text, -1) {
		values = append(values, string(m[1]))
	}
	return values
}

func TestUnitCapabilities(t *testing.T) {
	text := read(t, unit)
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		want := []string{strings.Join(capabilities, " ")}
		if diff := cmp.Diff(want, setting(text, key)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
		none := read(t, "systemd/examples/no-ebpf.conf")
		if got := setting(none, key); !slices.Equal(got, []string{""}) {
			t.Errorf("no-ebpf.conf has %s=%v", key, got)
		}
	}
}
