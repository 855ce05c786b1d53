package arch

import (
	"bytes"
	"debug/elf"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/modules.txt anew")

const modulesFile = "testdata/modules.txt"

const modulesHeader = `# The modules that are linked into cmd/slid (linux, without cgo). After a wanted change:
#   go test ./internal/arch -run TestLinkedModules -update
# Each one that go.mod requires directly has the reason why it is worth its size and its upkeep.
`

// TestLinkedModules makes every new dependency of the binary visible in review.
func TestLinkedModules(t *testing.T) {
	linked := linkedModules(t, root(t))
	reasons := readModules(t)
	if *update {
		writeModules(t, linked, reasons)
		reasons = readModules(t)
	}
	for path, direct := range linked {
		reason, ok := reasons[path]
		if !ok {
			t.Errorf("%s is linked and not in %s", path, modulesFile)
		} else if direct && reason == "" {
			t.Errorf("%s is required directly: %s must say why", path, modulesFile)
		}
	}
	for path := range reasons {
		if _, ok := linked[path]; !ok {
			t.Errorf("%s is in %s and no longer linked", path, modulesFile)
		}
	}
}

// linkedModules returns the paths of the modules in the binary, and whether our own code imports them.
func linkedModules(t *testing.T, top string) map[string]bool {
	t.Helper()
	const format = `{{with .Module}}{{$.ImportPath}} {{.Path}}{{range $.Imports}} {{.}}{{end}}{{end}}`
	cmd := exec.Command("go", "list", "-deps", "-f", format, "./cmd/slid")
	cmd.Dir = top
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errors.String())
	}
	owner, ours := map[string]string{}, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		owner[fields[0]] = fields[1]
		for _, imported := range fields[2:] {
			ours[imported] = ours[imported] || fields[1] == module
		}
	}
	linked := map[string]bool{}
	for pkg, path := range owner {
		if path != module {
			linked[path] = linked[path] || ours[pkg]
		}
	}
	return linked
}

// readModules returns the modules of the golden file with the reasons it gives.
func readModules(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(modulesFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		path, reason, _ := strings.Cut(line, ": ")
		reasons[path] = reason
	}
	return reasons
}

func writeModules(t *testing.T, linked map[string]bool, reasons map[string]string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(modulesHeader)
	for _, path := range slices.Sorted(maps.Keys(linked)) {
		b.WriteString(path)
		if reason := reasons[path]; reason != "" && linked[path] {
			b.WriteString(": " + reason)
		}
		b.WriteString("\n")
	}
	if err := os.WriteFile(modulesFile, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKernelObjectsAreGPL: the kernel lends most helpers to GPL programs only, and tells from this section.
func TestKernelObjectsAreGPL(t *testing.T) {
	objects, err := filepath.Glob(filepath.Join(root(t), "bpf", "gen", "*.o"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range objects {
		if got := license(t, name); got != "GPL\x00" {
			t.Errorf("%s: license section %q, want \"GPL\"", filepath.Base(name), got)
		}
	}
}

// license returns the section of that name of a BPF object.
func license(t *testing.T, name string) string {
	t.Helper()
	object, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Close()
	section := object.Section("license")
	if section == nil {
		return ""
	}
	data, err := section.Data()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(data)
}
