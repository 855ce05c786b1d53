package host

import (
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slid-agent/slid/internal/verdict"
)

func TestClockTruth(t *testing.T) {
	for name, c := range map[string]struct {
		state int
		timex unix.Timex
		want  clockTruth
	}{
		"never synchronized": {
			unix.TIME_ERROR,
			unix.Timex{Maxerror: 16_000_000, Esterror: 16_000_000, Status: unix.STA_UNSYNC},
			clockTruth{estimated: 16, maximum: 16},
		},
		"nanoseconds": {
			unix.TIME_OK,
			unix.Timex{
				Offset: -1_234_567, Freq: -3_276_800, Maxerror: 2500, Esterror: 12,
				Status: unix.STA_PLL | unix.STA_NANO,
			},
			clockTruth{offset: -0.001234567, estimated: 12e-6, maximum: 2.5e-3, frequency: -50e-6, synchronized: true},
		},
		"microseconds": {
			unix.TIME_OK,
			unix.Timex{Offset: 1500, Freq: 65536, Status: unix.STA_PLL},
			clockTruth{offset: 1.5e-3, frequency: 1e-6, synchronized: true},
		},
		"leap second to come": {
			unix.TIME_INS, unix.Timex{Status: unix.STA_PLL | unix.STA_INS}, clockTruth{synchronized: true},
		},
		"clock error": {
			unix.TIME_ERROR, unix.Timex{Status: unix.STA_PLL | unix.STA_CLOCKERR}, clockTruth{},
		},
	} {
		got := truthOf(c.state, &c.timex)
		if math.Abs(got.offset-c.want.offset) > 1e-12 || math.Abs(got.frequency-c.want.frequency) > 1e-15 ||
			math.Abs(got.estimated-c.want.estimated) > 1e-12 || math.Abs(got.maximum-c.want.maximum) > 1e-12 ||
			got.synchronized != c.want.synchronized {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestClockOfThisMachine(t *testing.T) {
	c, err := NewClock(kernelTestEnv())
	if err != nil {
		t.Skip("needs a machine that allows adjtimex: ", err)
	}
	_ = c.Close()
	r := start(t, envAt("/"), NewClock)
	p := r.must()
	if len(p) != 5 {
		t.Errorf("%d series, want 5: %v", len(p), p)
	}
	if e := p["system.clock.linux.maximum_error"].value; e < 0 || e > 16.1 {
		t.Errorf("maximum error %v", e)
	}
	kernelAllocs(t, "live", r)
	r.verdict(verdict.Active)
}

// TestClockRefusedBySeccomp asks under a filter as a container's or that of ProtectClock=yes.
func TestClockRefusedBySeccomp(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS} {
		err := withoutAdjtimex(t, errno, func() error {
			_, err := NewClock(kernelTestEnv())
			return err
		})
		v := verdict.FromError("host/clock", err)
		if v.State != verdict.Unavailable || !strings.Contains(v.Reason, "seccomp") ||
			!strings.Contains(v.Missing, "adjtimex") {
			t.Errorf("%+v", v)
		}
	}
}

// withoutAdjtimex runs f on a thread whose seccomp filter refuses adjtimex.
func withoutAdjtimex(t *testing.T, errno unix.Errno, f func() error) error {
	t.Helper()
	result := make(chan error)
	skip := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and its filter with it
		if err := refuse(unix.SYS_ADJTIMEX, errno); err != nil {
			skip <- err
			return
		}
		result <- f()
	}()
	select {
	case err := <-skip:
		t.Skip("needs seccomp filters: ", err)
		return nil
	case err := <-result:
		return err
	}
}

// refuse installs a seccomp filter on this thread that answers one system call with an error.
func refuse(call uint32, errno unix.Errno) error {
	const retErrno, retAllow = 0x00050000, 0x7fff0000 // SECCOMP_RET_*
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: retErrno | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: retAllow},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, failed := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter)))
	if failed != 0 {
		return os.NewSyscallError("seccomp", failed)
	}
	return nil
}

func BenchmarkClock(b *testing.B) { benchmarkKernel(b, NewClock) }
