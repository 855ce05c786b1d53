package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/slid-agent/slid/exporter/text"
)

// commit is set by the linker, where the build knows it.
var commit = ""

// versionReport is the JSON of slid version.
type versionReport struct {
	SchemaVersion int    `json:"schema_version"`
	Version       string `json:"version"`
	Commit        string `json:"commit,omitempty"`
	Go            string `json:"go"`
	OS            string `json:"os"`
	Arch          string `json:"arch"`
	BPF           string `json:"bpf_sha256"` // over the instructions of all kernel programs in the binary
}

func versionCommand() command {
	return command{
		name: "version", summary: "print the version, and what the binary was built of",
		about: "Prints the version of slid, of Go, and the hash of the kernel programs in the binary.",
		setup: func(flags *flag.FlagSet) action {
			asJSON := choose(flags, "o", "print as `FORMAT`", []option[bool]{{"text", false}, {"json", true}})
			return func(_ context.Context, t terminal, _ []string) error { return printVersion(t.stdout, *asJSON) }
		},
	}
}

func printVersion(w io.Writer, asJSON bool) error {
	programs, err := programsHash()
	if err != nil {
		return err
	}
	v := versionReport{
		SchemaVersion: text.SchemaVersion, Version: version, Commit: buildCommit(), Go: runtime.Version(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, BPF: programs,
	}
	if asJSON {
		return printJSON(w, v)
	}
	var ofCommit string
	if v.Commit != "" {
		ofCommit = " (commit " + v.Commit + ")"
	}
	_, err = fmt.Fprintf(w, "slid %s%s\n%s %s/%s\nkernel programs sha256:%s\n", v.Version, ofCommit, v.Go, v.OS, v.Arch, v.BPF)
	return err
}

// buildCommit returns the commit the linker was told, or else the one Go noted.
func buildCommit() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

// programsHash returns the SHA-256 of the instructions of all kernel programs, as they are before the kernel's types
// are filled in. It tells whether two binaries measure by the same programs.
func programsHash() (string, error) {
	h := sha256.New()
	for _, load := range objects() {
		spec, err := load()
		if err != nil {
			return "", fmt.Errorf("read the kernel programs in the binary: %w", err)
		}
		for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
			fmt.Fprintf(h, "%s\n%v\n", name, spec.Programs[name].Instructions)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// printJSON writes an indented JSON document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
