package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSelfAgreesWithTheKernel compares what the agent says of itself with other files of the kernel: status, which
// counts memory by its kind, and stat, which counts CPU time in ticks.
func TestSelfAgreesWithTheKernel(t *testing.T) {
	r := newRig(time.Second)
	p := New(r.Options)
	p.Start(t.Context())
	ballast := bytes.Repeat([]byte{1}, 32<<20) // anonymous memory that stays
	if err := p.Tick(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	status, user, system := kernelStatus(t), cpuTicks(t, 14), cpuTicks(t, 15)
	runtime.KeepAlive(ballast)

	near := func(name string, want, tolerance float64) {
		t.Helper()
		if got := r.sink.value(t, name); got < want-tolerance || got > want+tolerance {
			t.Errorf("%s = %v, the kernel says %v", name, got, want)
		}
	}
	near("process.memory.usage{}", status["VmRSS"], 8<<20)
	near("process.memory.linux.anonymous{}", status["RssAnon"], 8<<20)
	near("process.cpu.time{cpu.mode=user}", user, 0.5)
	near("process.cpu.time{cpu.mode=system}", system, 0.5)
	near("go.goroutine.count{}", float64(runtime.NumGoroutine()), 2)
	if used := r.sink.value(t, "go.memory.used{go.memory.type=other}"); used < float64(len(ballast)) {
		t.Errorf("go.memory.used = %v with %d bytes alive", used, len(ballast))
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// kernelStatus returns the sizes in /proc/self/status in bytes.
func kernelStatus(t *testing.T) map[string]float64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]float64{}
	for line := range strings.Lines(string(status)) {
		var kb float64
		name, value, _ := strings.Cut(line, ":")
		if n, _ := fmt.Sscanf(value, "%f kB", &kb); n == 1 {
			sizes[name] = kb * 1024
		}
	}
	return sizes
}

// cpuTicks returns a field of /proc/self/stat, counted from 1 as proc_pid_stat(5) does, in seconds.
func cpuTicks(t *testing.T, field int) float64 {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold spaces
	ticks, err := strconv.ParseFloat(strings.Fields(rest)[field-3], 64)
	if err != nil {
		t.Fatal(err)
	}
	return ticks / 100 // USER_HZ
}

func TestParseStatm(t *testing.T) {
	for _, c := range []struct {
		text                string
		resident, anonymous int64
		bad                 bool
	}{
		{text: "3027 1251 898 9 0 397 0\n", resident: 1251, anonymous: 353},
		{text: "0 0 0 0 0 0 0\n"},
		{text: "", bad: true},
		{text: "3027 1251", bad: true},
		{text: "3027 1251 898", bad: true}, // cut short: the third number may go on
		{text: "3027 898 1251 9", bad: true},
		{text: "-1 2 3 4", bad: true},
		{text: "99999999999999999999999999 1 1 1", bad: true},
	} {
		resident, anonymous, err := parseStatm([]byte(c.text))
		if resident != c.resident || anonymous != c.anonymous || (err != nil) != c.bad {
			t.Errorf("parseStatm(%q) = %d, %d, %v", c.text, resident, anonymous, err)
		}
	}
}

func FuzzParseStatm(f *testing.F) {
	f.Add([]byte("3027 1251 898 9 0 397 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		resident, anonymous, err := parseStatm(b)
		if err != nil {
			return
		}
		fields := bytes.Split(b, []byte(" "))
		want, parseErr := strconv.ParseInt(string(fields[1]), 10, 64)
		if parseErr != nil || resident != want || anonymous < 0 || anonymous > resident {
			t.Errorf("parseStatm(%q) = %d, %d; strconv says %d, %v", b, resident, anonymous, want, parseErr)
		}
	})
}
