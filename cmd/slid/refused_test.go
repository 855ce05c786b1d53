package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// asRefused makes the test binary run slid where bpf(2) is refused.
const asRefused = "SLID_TEST_REFUSED"

// refuseAndRun makes bpf(2) fail with EPERM for this process, as container runtimes do (seccomp(2)), and becomes slid.
func refuseAndRun() {
	if err := testneed.RefuseBPF(true); err != nil {
		panic(err)
	}
	os.Unsetenv(asRefused)
	os.Setenv(asSlid, "1")
	panic(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// doctorOfAll runs slid doctor with every probe switched on, in a process that change prepares, and returns the verdicts.
func doctorOfAll(t *testing.T, change func(*exec.Cmd)) map[string]verdict.Verdict {
	t.Helper()
	var optIn []string
	for _, f := range collectors(latency.Deps{}, config.Default()) {
		if f.OptIn {
			optIn = append(optIn, strings.TrimPrefix(f.Name, "latency/"))
		}
	}
	if len(optIn) == 0 {
		t.Fatal("no probe is opt-in")
	}
	path := filepath.Join(t.TempDir(), "slid.yaml")
	if err := os.WriteFile(path, []byte("latency: {enabled: ["+strings.Join(optIn, ", ")+"]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := newSlid(t, "doctor", "-o", "json", "--config", path)
	change(cmd)
	var report doctorReport
	if err := json.Unmarshal([]byte(output(t, cmd)), &report); err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]verdict.Verdict{}
	for _, v := range report.Sources {
		verdicts[v.Name] = v
	}
	return verdicts
}

// eachProbe calls check with the verdict on each kernel probe.
func eachProbe(t *testing.T, verdicts map[string]verdict.Verdict, check func(v verdict.Verdict)) {
	t.Helper()
	for _, f := range collectors(latency.Deps{}, config.Default()) {
		if f.Name != latency.CostName && (strings.HasPrefix(f.Name, "latency/") || f.Name == "service/traffic") {
			v, ok := verdicts[f.Name]
			if !ok {
				t.Errorf("%s has no verdict", f.Name)
				continue
			}
			check(v)
		}
	}
}

// Without privileges every probe is unavailable and names the capability, and nothing else of slid is worse for it.
func TestEveryProbeNamesTheCapability(t *testing.T) {
	verdicts := doctorOfAll(t, func(cmd *exec.Cmd) { unprivileged(t, cmd) })
	eachProbe(t, verdicts, func(v verdict.Verdict) {
		if v.State != verdict.Unavailable || v.Absent || !strings.Contains(v.Missing, "CAP_BPF") {
			t.Errorf("got %+v", v)
		}
	})
	if v := verdicts["host/cpu"]; v.State != verdict.Active {
		t.Errorf("got %+v", v)
	}
}

// Under a seccomp profile that refuses bpf(2), every probe says so.
func TestEveryProbeNamesSeccomp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("without privileges it is not seccomp that refuses")
	}
	verdicts := doctorOfAll(t, func(cmd *exec.Cmd) {
		cmd.Env = append(os.Environ(), asRefused+"=1", "OTEL_EXPORTER_OTLP_ENDPOINT=")
	})
	eachProbe(t, verdicts, func(v verdict.Verdict) {
		if v.State != verdict.Unavailable || v.Absent || v.Missing != "" || !strings.Contains(v.Reason, "look at a seccomp filter") {
			t.Errorf("got %+v", v)
		}
	})
	if v := verdicts["host/cpu"]; v.State != verdict.Active {
		t.Errorf("got %+v", v)
	}
}

// Three capabilities are enough for every probe: it is as good as with all of root's, but for what reading statistics takes.
func TestEveryProbeWorksWithThreeCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give the capabilities")
	}
	root := doctorOfAll(t, func(*exec.Cmd) {})
	three := doctorOfAll(t, func(cmd *exec.Cmd) {
		unprivileged(t, cmd)
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN}
	})
	eachProbe(t, three, func(v verdict.Verdict) {
		if want := root[v.Name]; v.State != want.State || v.Hook != want.Hook {
			t.Errorf("%s is %s by %q (%s), as root %s by %q", v.Name, v.State, v.Hook, v.Reason, want.State, want.Hook)
		}
	})
}
