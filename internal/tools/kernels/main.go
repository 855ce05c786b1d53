// Command kernels makes the table "kernel x probe x verdict" of bpf/README.md from what `slid doctor -o json` said on
// each kernel.
//
//	kernels off < doctor.json           prints a configuration that switches on what doctor calls off
//	kernels table README SERIES=FILE... compares the table in README with the files, or writes it with UPDATE=1
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "off":
		return switchOn(os.Stdin, os.Stdout)
	case len(args) >= 3 && args[0] == "table":
		return updateTable(args[1], args[2:], os.Getenv("UPDATE") == "1")
	}
	return errors.New("usage: kernels off | kernels table README SERIES=FILE")
}

// switchOn writes a configuration with every source that is off by default.
func switchOn(in io.Reader, out io.Writer) error {
	r, err := readReport(in)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range r.Sources {
		if name, ok := strings.CutPrefix(s.Name, "latency/"); ok && s.Off {
			names = append(names, name)
		}
	}
	_, err = fmt.Fprintf(out, "latency: {enabled: [%s]}\n", strings.Join(names, ", "))
	return err
}

func updateTable(readme string, columns []string, update bool) error {
	var kernels []kernel
	for _, c := range columns {
		series, file, ok := strings.Cut(c, "=")
		if !ok {
			return fmt.Errorf("%q is not SERIES=FILE", c)
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		r, err := readReport(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		kernels = append(kernels, kernel{series, r})
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	page, err := replaceTable(string(old), table(kernels))
	if err != nil || page == string(old) {
		return err
	}
	if !update {
		return fmt.Errorf("the table in %s is not current: UPDATE=1 make test-vm; it would be\n%s", readme, table(kernels))
	}
	return os.WriteFile(readme, []byte(page), 0o644)
}

func readReport(in io.Reader) (r report, err error) {
	err = json.NewDecoder(in).Decode(&r)
	return r, err
}
