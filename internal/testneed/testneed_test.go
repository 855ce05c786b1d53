package testneed

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// recorder is a testing.TB that notes the reason of a skip. Like the real one it ends the goroutine.
type recorder struct {
	testing.TB
	reason string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.reason = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// reason returns why f skips, or "".
func reason(need func(r *recorder)) string {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		need(r)
	}()
	<-done
	return r.reason
}

func TestReasonsNameTheRemedy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, tt := range []struct {
		name string
		need func(r *recorder)
		want string
	}{
		{"program of another package", func(r *recorder) { Tool(r, "ab") }, "needs ab: apt-get install apache2-utils"},
		{"program of its own package", func(r *recorder) { Tool(r, "wrk") }, "needs wrk: apt-get install wrk"},
		{
			"file", func(r *recorder) { File(r, "/nonesuch", "a kernel with CONFIG_PSI=y") },
			"needs a kernel with CONFIG_PSI=y: stat /nonesuch: no such file or directory",
		},
		{"file that is there", func(r *recorder) { File(r, "/proc/stat", "procfs") }, ""},
	} {
		if got := reason(tt.need); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestRoot(t *testing.T) {
	want := "needs root to load BPF programs"
	if os.Geteuid() == 0 {
		want = ""
	}
	if got := reason(func(r *recorder) { Root(r, "to load BPF programs") }); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestToolIsFoundInPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := os.WriteFile(dir+"/wrk", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := Tool(t, "wrk"); got != dir+"/wrk" {
		t.Errorf("Tool returned %q", got)
	}
}
