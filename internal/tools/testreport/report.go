package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`. Builds give events too: `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // builds: "package [package.test]"
	Test       string
	Output     string
}

// An allowList maps the tests that may be skipped to the reason. nil allows all.
type allowList map[string]string

// readAllowed reads lines of "test: reason"; empty lines and those that begin with # are comments.
func readAllowed(path string) (allowList, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list := allowList{}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		test, reason, ok := strings.Cut(line, ": ")
		if !ok || reason == "" {
			return nil, fmt.Errorf("%s:%d: want \"package.Test: reason\", have %q", path, number, line)
		}
		list[test] = reason
	}
	return list, nil
}

// has says whether a test or one that contains it may be skipped.
func (l allowList) has(pkg, test string) bool {
	for name := range l {
		suffix, top, ok := strings.Cut(name, ".")
		if ok && (pkg == suffix || strings.HasSuffix(pkg, "/"+suffix)) &&
			(test == top || strings.HasPrefix(test, top+"/")) {
			return true
		}
	}
	return false
}

// A report prints what matters of a stream of events.
type report struct {
	out     io.Writer
	allowed allowList
	output  map[string]*bytes.Buffer // of the tests that run, by package and test
	failed  bool
	refused []string // tests that were skipped and must not be
}

func newReport(out io.Writer, allowed allowList) *report {
	return &report{out: out, allowed: allowed, output: map[string]*bytes.Buffer{}}
}

// read reports all events and says whether they are a success. Lines that are no events are passed through: go
// prints some errors so.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if errors.Is(err, io.EOF) {
			return r.result()
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
	}
}

func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprint(r.out, string(line))
		return
	}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Action == "build-fail":
		r.failed = true
	case e.Test == "":
		r.packageEvent(e)
	default:
		r.testEvent(e)
	}
}

// packageEvent prints go test's closing line of a package, and all of its output if it failed. PASS alone says
// nothing more.
func (r *report) packageEvent(e event) {
	key := e.Package
	switch e.Action {
	case "output":
		if e.Output != "PASS\n" {
			r.buffer(key).WriteString(e.Output)
		}
	case "fail":
		r.failed = true
		r.failUnfinished(e.Package)
		r.print(key)
	case "pass":
		r.print(key)
	case "skip": // a package without tests
		delete(r.output, key)
	}
}

// failUnfinished prints the output of tests that never ended: those that were running when the process died.
func (r *report) failUnfinished(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(r.output)) {
		if strings.HasPrefix(key, pkg+" ") {
			r.print(key)
		}
	}
}

func (r *report) testEvent(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.buffer(key).WriteString(e.Output)
	case "pass":
		delete(r.output, key)
	case "fail":
		r.failed = true
		r.print(key)
	case "skip":
		r.skip(e)
	}
}

// skip prints a skipped test with its reason.
func (r *report) skip(e event) {
	key := e.Package + " " + e.Test
	reason := skipReason(r.buffer(key).String())
	delete(r.output, key)
	fmt.Fprintf(r.out, "SKIP\t%s.%s\t%s\n", e.Package, e.Test, reason)
	if r.allowed != nil && !r.allowed.has(e.Package, e.Test) {
		r.refused = append(r.refused, fmt.Sprintf("%s.%s: %s", e.Package, e.Test, reason))
	}
}

// skipReason returns what a skipped test said, without go test's frame: "    file.go:12: reason".
func skipReason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if _, after, ok := strings.Cut(line, ".go:"); ok {
			_, line, _ = strings.Cut(after, ": ")
		}
		said = append(said, line)
	}
	return strings.Join(said, " ")
}

func (r *report) buffer(key string) *bytes.Buffer {
	b := r.output[key]
	if b == nil {
		b = &bytes.Buffer{}
		r.output[key] = b
	}
	return b
}

func (r *report) print(key string) {
	if b := r.output[key]; b != nil {
		fmt.Fprint(r.out, b.String())
		delete(r.output, key)
	}
}

func (r *report) result() error {
	if r.failed {
		return errors.New("tests failed")
	}
	if len(r.refused) > 0 {
		return fmt.Errorf("tests were skipped that must run here:\n  %s", strings.Join(r.refused, "\n  "))
	}
	return nil
}
