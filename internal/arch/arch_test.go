package arch

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// A rule says which packages of ours a package may import. "x/*" stands for each folder directly below x.
type rule struct {
	folder  string
	imports []string
	tests   []string // more for its tests
}

// forTests says whether a package exists for tests alone. Only tests import it, and it may start processes.
func forTests(folder string) bool {
	return folder == "internal/testneed" || strings.HasSuffix(folder, "test")
}

// everything stands for every package of ours.
const everything = "..."

// rules has a line for every package of the repo. Data goes from left to right: collector, pipeline, exporter; only
// cmd/slid knows the concrete ones.
var rules = []rule{
	{folder: "internal/metric"},
	{folder: "internal/verdict"},
	{folder: "internal/procfs"},
	{folder: "internal/cgroup"},
	{folder: "internal/slo"},
	{folder: "internal/local"},
	{folder: "internal/schedule"},
	{folder: "internal/sli", imports: []string{"internal/metric", "internal/slo", "internal/cgroup"}},
	{folder: "internal/spool"},
	{folder: "internal/syscalls"},
	{folder: "internal/testneed"},
	{folder: "internal/loadtest"},
	{folder: "internal/pairtest"},
	{folder: "internal/blocktest", imports: []string{"internal/testneed"}},
	{folder: "internal/promtest"},
	{folder: "internal/arch"},
	{folder: "internal/tools/testreport"},
	{folder: "internal/tools/kernels"},
	{folder: "internal/rules", imports: []string{"internal/slo"}, tests: []string{"internal/config"}},
	{folder: "internal/config", imports: []string{"internal/metric", "internal/slo", "internal/syscalls"}},
	{folder: "bpf/gen"},
	{folder: "bpf", imports: []string{"bpf/gen", "internal/verdict"}, tests: []string{"internal/metric", "internal/cgroup"}},
	{folder: "collector", imports: []string{"internal/metric", "internal/verdict"}},
	{folder: "collector/service", imports: []string{"collector", "bpf", "internal/metric", "internal/verdict", "internal/cgroup", "internal/sli", "internal/slo"}},
	{folder: "collector/*", imports: []string{
		"collector", "bpf", "bpf/gen", "internal/metric", "internal/slo", "internal/verdict", "internal/procfs",
		"internal/cgroup", "internal/syscalls", "internal/schedule", "internal/sli",
	}},
	{folder: "exporter", imports: []string{"internal/metric"}},
	{folder: "exporter/otlp/oteltest", imports: []string{"internal/testneed"}},
	{folder: "exporter/*", imports: []string{"exporter", "internal/metric", "internal/verdict", "internal/spool"}},
	{folder: "internal/pipeline", imports: []string{"collector", "exporter", "internal/metric", "internal/verdict"}},
	{folder: "cmd/slid", imports: []string{everything}},
	{folder: "packaging", tests: []string{everything}},
}

// ruleFor returns the rule of a folder.
func ruleFor(folder string) (rule, bool) {
	for _, r := range rules {
		if r.folder == folder || r.folder == path.Dir(folder)+"/*" {
			return r, true
		}
	}
	return rule{}, false
}

// allows says whether a file under the rule may import a folder of ours.
func (r rule) allows(f file, folder string) bool {
	list := r.imports
	if f.test() {
		list = slices.Concat(list, r.tests, []string{f.folder})
	}
	if forTests(folder) && !forTests(f.folder) {
		return f.test()
	}
	return slices.Contains(list, folder) || slices.Contains(list, everything)
}

func TestImportDirections(t *testing.T) {
	for _, f := range sources(t) {
		r, ok := ruleFor(f.folder)
		if !ok {
			t.Errorf("%s: its folder has no line in the rules of this test", f.path)
			continue
		}
		for _, imported := range f.imports(t) {
			folder, ours := strings.CutPrefix(imported, module+"/")
			if ours && !r.allows(f, folder) {
				t.Errorf("%s: %s may not import %s", f.path, f.folder, folder)
			}
		}
	}
}

// TestNoProcesses: the agent starts no processes, on purpose or by a library of its own.
func TestNoProcesses(t *testing.T) {
	for _, f := range sources(t) {
		if f.test() || forTests(f.folder) {
			continue
		}
		if slices.Contains(f.imports(t), "os/exec") {
			t.Errorf("%s: imports os/exec; read the kernel's files instead", f.path)
		}
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range sources(t) {
		if f.test() {
			continue
		}
		documented[f.folder] = documented[f.folder] || f.ast.Doc != nil
		if f.ast.Doc != nil {
			checkDocStart(t, f)
		}
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("%s: no file of the package has a comment on its package clause", folder)
		}
	}
}

// checkDocStart checks that a package comment begins as go doc expects.
func checkDocStart(t *testing.T, f file) {
	t.Helper()
	want := "Package " + f.ast.Name.Name + " "
	if f.ast.Name.Name == "main" {
		want = "Command " + path.Base(f.folder) + " "
	}
	if text := f.ast.Doc.Text(); !strings.HasPrefix(text, want) && !f.generated() {
		t.Errorf("%s: the package comment begins with %.30q, want %q", f.path, text, want)
	}
}

// longest is the most lines a function may have outside of tests.
const longest = 50

// TestFunctions: nothing happens before main, and every function fits on a page.
func TestFunctions(t *testing.T) {
	for _, f := range sources(t) {
		if f.generated() {
			continue
		}
		for _, d := range f.ast.Decls {
			function, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := function.Name.Name
			if name == "init" && function.Recv == nil {
				t.Errorf("%s: has an init function; call it from main or make it a value", f.path)
			}
			first, last := f.lines.Position(function.Pos()).Line, f.lines.Position(function.End()).Line
			if lines := last - first + 1; lines > longest && !f.test() {
				t.Errorf("%s:%d: %s has %d lines, at most %d", f.path, first, name, lines, longest)
			}
		}
	}
}
