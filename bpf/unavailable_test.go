package bpf

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/testneed"
	"github.com/slid-agent/slid/internal/verdict"
)

// Each capability that a probe lacks is named, and those it does not lack are not.
func TestMissingCapabilityIsNamed(t *testing.T) {
	requireCapabilities(t)
	have, err := effective()
	if err != nil {
		t.Fatal(err)
	}
	checkMissing(t, "") // the loader remembers what it found the kernel to have, which must not be without capabilities
	for name, test := range map[string]struct {
		dropped []capability
		want    string // missing; "" if the probe works
	}{
		"none dropped":      {nil, ""},
		"only sys_admin":    {[]capability{capSysAdmin}, ""},
		"all but sys_admin": {[]capability{capBPF, capPerfmon}, ""},
		"bpf":               {[]capability{capSysAdmin, capBPF}, "CAP_BPF"},
		"perfmon":           {[]capability{capSysAdmin, capPerfmon}, "CAP_PERFMON"},
		"both":              {[]capability{capSysAdmin, capBPF, capPerfmon}, "CAP_BPF, CAP_PERFMON"},
		"all":               {[]capability{capSysAdmin, capBPF, capPerfmon, capNetAdmin}, "CAP_BPF, CAP_PERFMON"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "all but sys_admin" && !have.has(capSysAdmin) {
				t.Skip("needs CAP_SYS_ADMIN, which includes the others")
			}
			without(t, func() { checkMissing(t, test.want) }, test.dropped...)
		})
	}
}

// checkMissing opens the run-queue probe and compares what its error says is missing.
func checkMissing(t *testing.T, want string) {
	r, err := NewRunQueue(&Kernel{}, RunQueueOptions{})
	if err == nil {
		r.Close()
	}
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	u, ok := errors.AsType[*verdict.UnavailableError](err)
	if !ok {
		t.Errorf("got error %v, want an UnavailableError", err)
		return
	}
	if u.Missing != want || u.Reason != "not permitted to load the run-queue probe" {
		t.Errorf("got %+v, want missing %q", u, want)
	}
	if strings.Contains(err.Error(), "MEMLOCK") {
		t.Errorf("%v blames the memory lock limit", err)
	}
}

// A refusal in spite of all capabilities is not blamed on them, and the filter that made it is named.
func TestRefusalBySeccompIsNamed(t *testing.T) {
	requireCapabilities(t)
	onThread(t, func() error { return testneed.RefuseBPF(false) }, func() {
		_, err := NewRunQueue(&Kernel{}, RunQueueOptions{})
		u, ok := errors.AsType[*verdict.UnavailableError](err)
		if !ok {
			t.Errorf("got error %v, want an UnavailableError", err)
			return
		}
		if u.Missing != "" || !strings.Contains(u.Reason, "in spite of sufficient capabilities: look at a seccomp filter") {
			t.Errorf("got %+v", u)
		}
		if strings.Contains(err.Error(), "MEMLOCK") {
			t.Errorf("%v blames the memory lock limit", err)
		}
	})
}

// A kernel that does not tell its types is named as such.
func TestMissingTypesAreNamed(t *testing.T) {
	requireCapabilities(t)
	hide := func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return unix.Mount("none", "/sys/kernel/btf", "tmpfs", 0, "")
	}
	onThread(t, hide, func() {
		_, err := NewRunQueue(&Kernel{}, RunQueueOptions{})
		u, ok := errors.AsType[*verdict.UnavailableError](err)
		if !ok || u.Missing != "CONFIG_DEBUG_INFO_BTF=y" || !strings.Contains(u.Reason, "no type information") {
			t.Errorf("got error %v, want an UnavailableError", err)
		}
	})
}

func TestRequireFields(t *testing.T) {
	types := loadTypes(t)
	if err := requireFields(types, runQueueRungs()[0].fields); err != nil {
		t.Error(err)
	}
	for _, f := range []field{
		{"sched_info", "no_such_field", "CONFIG_A=y"},
		{"no_such_struct", "run_delay", "CONFIG_B=y"},
	} {
		u, ok := errors.AsType[*verdict.UnavailableError](requireFields(types, []field{f}))
		if !ok || u.Missing != f.option || !strings.Contains(u.Reason, f.structure) {
			t.Errorf("%+v: got %+v", f, u)
		}
	}
}

func TestRequireTracepoint(t *testing.T) {
	types := loadTypes(t)
	for _, test := range []struct {
		name string
		args []string
		want string // in the error; "" for none
	}{
		{"sched_switch", []string{"", "task_struct", "task_struct"}, ""},
		{"sched_wakeup", []string{"task_struct"}, ""},
		{"sched_switch", []string{"task_struct", "task_struct"}, "other arguments"},
		{"sched_switch", []string{"", "task_struct", "rq"}, "other arguments"},
		{"sched_switch", make([]string, 12), "other arguments"},
		{"no_such_event", nil, "no tracepoint"},
	} {
		err := requireTracepoint(types, tracepoint{test.name, test.args})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s%v: got error %v, want %q", test.name, test.args, err, test.want)
		}
	}
}

func loadTypes(t *testing.T) *btf.Spec {
	t.Helper()
	types, err := (&Kernel{}).types()
	if err != nil {
		t.Skip(err)
	}
	return types
}

func TestWholeMap(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"         0       1000          1\n": false,
		"0 100000 65536\n":                   false,
		"":                                   false,
		"0 0 4294967295\n1 1 1\n":            false,
		"         0          0 4294967294\n         1 2 3 4 5 6 7\n": false,
	} {
		if got := wholeMap([]byte(text)); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}
