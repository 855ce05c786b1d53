package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// events is what `go test -json` printed for a package with a failing, a skipping and a passing test.
const events = `{"Action":"start","Package":"example/p"}
{"Action":"run","Package":"example/p","Test":"TestGood"}
{"Action":"output","Package":"example/p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"example/p","Test":"TestGood","Output":"--- PASS: TestGood (0.00s)\n"}
{"Action":"pass","Package":"example/p","Test":"TestGood","Elapsed":0}
{"Action":"run","Package":"example/p","Test":"TestSkip"}
{"Action":"output","Package":"example/p","Test":"TestSkip","Output":"=== RUN   TestSkip\n"}
{"Action":"output","Package":"example/p","Test":"TestSkip","Output":"    p_test.go:9: needs root: run as root\n"}
{"Action":"output","Package":"example/p","Test":"TestSkip","Output":"--- SKIP: TestSkip (0.00s)\n"}
{"Action":"skip","Package":"example/p","Test":"TestSkip","Elapsed":0}
`

const passed = `{"Action":"output","Package":"example/p","Output":"PASS\n"}
{"Action":"output","Package":"example/p","Output":"ok  \texample/p\t0.003s\n"}
{"Action":"pass","Package":"example/p","Elapsed":0.003}
`

const failed = `{"Action":"output","Package":"example/p","Test":"TestBad","Output":"    p_test.go:5: no\n"}
{"Action":"output","Package":"example/p","Test":"TestBad","Output":"--- FAIL: TestBad (0.00s)\n"}
{"Action":"fail","Package":"example/p","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"example/p","Output":"FAIL\n"}
{"Action":"output","Package":"example/p","Output":"FAIL\texample/p\t0.003s\n"}
{"Action":"fail","Package":"example/p","Elapsed":0.003}
`

const died = `{"Action":"output","Package":"example/p","Test":"TestHang","Output":"=== RUN   TestHang\n"}
{"Action":"output","Package":"example/p","Test":"TestHang","Output":"panic: test timed out\n"}
{"Action":"output","Package":"example/p","Output":"FAIL\texample/p\t9s\n"}
{"Action":"fail","Package":"example/p","Elapsed":9}
`

const unbuilt = `{"ImportPath":"example/p [example/p.test]","Action":"build-output","Output":"p_test.go:3: undefined: x\n"}
{"ImportPath":"example/p [example/p.test]","Action":"build-fail"}
{"Action":"output","Package":"example/p","Output":"FAIL\texample/p [build failed]\n"}
{"Action":"fail","Package":"example/p","Elapsed":0,"FailedBuild":"example/p [example/p.test]"}
`

const skipLine = "SKIP\texample/p.TestSkip\tneeds root: run as root\n"

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name, in, allow, want, err string
	}{
		{"pass", events + passed, "-", skipLine + "ok  \texample/p\t0.003s\n", ""},
		{
			"fail", events + failed, "-",
			skipLine + "    p_test.go:5: no\n--- FAIL: TestBad (0.00s)\nFAIL\nFAIL\texample/p\t0.003s\n", "tests failed",
		},
		{"died", died, "-", "=== RUN   TestHang\npanic: test timed out\nFAIL\texample/p\t9s\n", "tests failed"},
		{"unbuilt", unbuilt, "-", "p_test.go:3: undefined: x\nFAIL\texample/p [build failed]\n", "tests failed"},
		{
			"no tests", `{"Action":"output","Package":"example/p","Output":"?   \texample/p\t[no test files]\n"}
{"Action":"skip","Package":"example/p","Elapsed":0}`, "-", "", "",
		},
		{"no event", "go: no such module\n", "-", "go: no such module\n", ""},
		{"skip allowed", events + passed, "# machines\np.TestSkip: no root here\n", skipLine + "ok  \texample/p\t0.003s\n", ""},
		{
			"skip refused", events + passed, "p.TestOther: reason\n", skipLine + "ok  \texample/p\t0.003s\n",
			"tests were skipped that must run here:\n  example/p.TestSkip: needs root: run as root",
		},
		{"bad list", events, "p.TestSkip\n", "", ":1: want \"package.Test: reason\", have \"p.TestSkip\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var args []string
			if tt.allow != "-" {
				path := filepath.Join(t.TempDir(), "allowed")
				if err := os.WriteFile(path, []byte(tt.allow), 0o600); err != nil {
					t.Fatal(err)
				}
				args = []string{"-allow", path}
			}
			var out bytes.Buffer
			err := run(args, strings.NewReader(tt.in), &out)
			if out.String() != tt.want {
				t.Errorf("output:\n%s\nwant:\n%s", out.String(), tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestAllowListKnowsSubtests(t *testing.T) {
	list := allowList{"bpf.TestLoad": "why", "collector/host.TestGPU/nvidia": "why"}
	for test, want := range map[[2]string]bool{
		{"example/bpf", "TestLoad"}:                     true,
		{"example/bpf", "TestLoad/runqueue"}:            true,
		{"example/bpf", "TestLoadAll"}:                  false,
		{"example/notbpf", "TestLoad"}:                  false,
		{"example/collector/host", "TestGPU"}:           false,
		{"example/collector/host", "TestGPU/nvidia"}:    true,
		{"example/collector/host", "TestGPU/nvidia/a1"}: true,
	} {
		if got := list.has(test[0], test[1]); got != want {
			t.Errorf("%v: %v, want %v", test, got, want)
		}
	}
}
