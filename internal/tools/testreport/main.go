// Command testreport turns the events of `go test -json` into a report that can be read while the tests run: one of
// go test's own lines for each package as it ends, before it the whole output of the tests that failed, and the
// reason of each test that was skipped.
//
//	go test -json ./... | testreport [-allow FILE]
//
// It exits 1 if a test or a build failed. With -allow, also if a test was skipped that the file does not list: one
// line per test, "package-path-suffix.TestName: why it cannot run there".
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

// run reads the arguments and the allowed skips, then reports in until it ends.
func run(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("testreport", flag.ContinueOnError)
	allow := flags.String("allow", "", "file of the tests that may be skipped; any other skip is an error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var allowed allowList
	if *allow != "" {
		var err error
		if allowed, err = readAllowed(*allow); err != nil {
			return err
		}
	}
	return newReport(out, allowed).read(in)
}
