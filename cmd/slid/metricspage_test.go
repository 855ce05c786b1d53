package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/slid-agent/slid/collector"
	"github.com/slid-agent/slid/collector/latency"
	"github.com/slid-agent/slid/internal/config"
	"github.com/slid-agent/slid/internal/metric"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsPage = "../../docs/metrics.md"

const pageIntro = `# Metrics

Written by ` + "`make docs`" + ` from the declarations in the source, which a test compares with this page. Do not edit it.

Names follow OpenTelemetry's semantic conventions 1.44; what these lack follows their pattern
` + "`system.<area>.linux.<name>`" + `. Counters and histograms are cumulative and carry the time since which they count: the
boot for those of the kernel. Attributes marked with \* need a key of the configuration. A section ends with what makes
the source unavailable or degraded; ` + "`slid doctor`" + ` says how it is on a machine. How many series a collector may have
is bounded; what goes over it is counted in ` + "`slid.series.dropped`" + `. Core collectors run once before each export, slow ones
once a minute, burst ones five times a second, derived ones after the core ones.

A destination gets other names by the key ` + "`export.names`" + `: see [Other names](#other-names).
`

// TestMetricsPage compares docs/metrics.md with what the collectors declare, section by section: one that needs a
// privilege that is not here cannot be compared, and stays as it is when the page is written anew.
func TestMetricsPage(t *testing.T) {
	all := declarations(t)
	old := readSections(t)
	page := newSections()
	page.add("", pageIntro)
	texts := collectorTexts(t)
	var area string
	for _, d := range all {
		if title := areaTitle(d.Class); title != area {
			area = title
			page.add("## "+area, "## "+area+"\n")
		}
		title := "### " + d.Name
		if d.err != nil {
			t.Logf("%s cannot be opened: %v", d.Name, d.err)
			page.add(title, cmp.Or(old.text[title], title+"\n"))
			continue
		}
		page.add(title, d.section(title, texts[d.Name]))
	}
	page.add("## Other names", otherNames())
	if *update {
		if err := os.WriteFile(metricsPage, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := gocmp.Diff(old.String(), page.String()); diff != "" {
		t.Errorf("docs/metrics.md is not current: make docs (-page +declared):\n%s", diff)
	}
	for _, d := range all {
		if d.err != nil {
			t.Run(d.Name, func(t *testing.T) { t.Skipf("the section of %s was not compared: %v", d.Name, d.err) })
		}
	}
}

// sections is a page cut at its titles.
type sections struct {
	titles []string
	text   map[string]string
}

func newSections() *sections { return &sections{text: map[string]string{}} }

func (s *sections) add(title, text string) {
	s.titles = append(s.titles, title)
	s.text[title] = strings.TrimRight(text, "\n") + "\n"
}

func (s *sections) String() string {
	parts := make([]string, len(s.titles))
	for i, title := range s.titles {
		parts[i] = s.text[title]
	}
	return strings.Join(parts, "\n")
}

func readSections(t *testing.T) *sections {
	t.Helper()
	data, err := os.ReadFile(metricsPage)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	s, title, text := newSections(), "", ""
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "##") {
			s.add(title, text)
			title, text = strings.TrimSpace(line), ""
		}
		text += line
	}
	s.add(title, text)
	return s
}

func areaTitle(c metric.Class) string {
	return map[metric.Class]string{
		metric.ClassHost:    "Host (class `host`)",
		metric.ClassLatency: "Kernel latencies (class `latency`)",
		metric.ClassService: "Services (class `service`)",
		metric.ClassSLO:     "Objectives (class `slo`)",
		metric.ClassAgent:   "slid itself (class `agent`, for every destination)",
	}[c]
}

// section is a collector in the page.
func (d *declaration) section(title string, text collectorText) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", title)
	if text.about != "" {
		fmt.Fprintf(&b, "%s\n\n", text.about)
	}
	if d.New != nil {
		lane := map[collector.Lane]string{collector.Core: "Core", collector.Burst: "Burst", collector.Slow: "Slow", collector.Derived: "Derived"}[d.Lane]
		fmt.Fprintf(&b, "%s lane, at most %d series.\n\n", lane, d.Budget)
	}
	if len(d.descs) > 0 {
		b.WriteString("| metric | unit | kind | attributes | from | |\n|---|---|---|---|---|---|\n")
	}
	for _, desc := range d.descs {
		if strings.Contains(desc.Source, "testdata") {
			desc.Source = "DEFECT: the declaration names the path of this machine"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", desc.Name, code(desc.Unit), desc.Kind,
			d.attributes(desc), cell(desc.Source), cell(desc.Description))
	}
	if text.opening != "" {
		fmt.Fprintf(&b, "\n%s\n", text.opening)
	}
	return b.String()
}

func (d *declaration) attributes(desc metric.Desc) string {
	var list []string
	for _, key := range desc.Attributes {
		list = append(list, "`"+string(key)+"`")
	}
	for _, key := range d.optional[desc.Name] {
		list = append(list, "`"+string(key)+"`*")
	}
	return strings.Join(list, ", ")
}

func code(s string) string { return "`" + s + "`" }

// cell makes a text fit for a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// otherNames is the table of the maps of names.
func otherNames() string {
	var b strings.Builder
	b.WriteString("## Other names\n\nWhat has no row keeps its name: without a counterpart, or with one whose number means something else.\n")
	for _, names := range metric.AllNames() {
		renames := names.Renames()
		if len(renames) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### `names: %s`\n\n%s| declared | sent | unit | attributes | differs |\n|---|---|---|---|---|\n", names, nameNotes()[names])
		for _, r := range renames {
			fmt.Fprintf(&b, "| `%s`%s | `%s` | %s | %s | %s |\n", r.Metric, where(r.Where), r.Name,
				strings.ReplaceAll(code(r.Unit), "``", ""), renamed(r), cell(r.Differs))
		}
	}
	return b.String()
}

// nameNotes is what users of a map must know.
func nameNotes() map[metric.Names]string {
	return map[metric.Names]string{
		metric.Prometheus: "Names are whole: Prometheus must add neither units nor `_total` to them " +
			"(`otlp: {translation_strategy: UnderscoreEscapingWithoutSuffixes}`).\n\n",
	}
}

func where(p metric.Pairs) string {
	var list []string
	for key, value := range p {
		list = append(list, key+"="+value)
	}
	if list == nil {
		return ""
	}
	slices.Sort(list)
	return " `{" + strings.Join(list, ", ") + "}`"
}

// renamed says how the attributes of a row change.
func renamed(r metric.Rename) string {
	var list []string
	for key, sent := range r.Keys {
		text := "`" + key + "` is `" + sent + "`"
		if sent == "" {
			text = "without `" + key + "`"
		}
		if prefix := r.Prefix[key]; prefix != "" {
			text += " (`" + prefix + "N`)"
		}
		list = append(list, text)
	}
	for _, values := range r.Values {
		for value, sent := range values {
			if value != sent {
				list = append(list, "`"+value+"` is `"+sent+"`")
			}
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// collectorPackages are the folders below collector.
var collectorPackages = []string{"budget", "host", "latency", "probe", "resource", "scrape", "service", "unit"}

// collectorText is what the source says of a collector.
type collectorText struct {
	about   string // what it collects and what that costs: the comment of its type
	opening string // what it needs and what it does without: the comment of its constructor
}

// collectorTexts reads the comments of the constructors in tables.go and of their types, by the collector's name.
func collectorTexts(t *testing.T) map[string]collectorText {
	t.Helper()
	docs := map[string]map[string]string{}
	for _, pkg := range collectorPackages {
		docs[pkg] = packageDocs(t, "../../collector/"+pkg)
	}
	texts := map[string]collectorText{}
	names := constructors(t)
	for i, f := range collectors(latency.Deps{}, config.Default()) {
		pkg, name := names[i][0], names[i][1]
		base := strings.TrimSuffix(strings.TrimPrefix(name, "New"), "Options")
		texts[f.Name] = collectorText{
			about: sentence(docs[pkg][base], base), opening: sentence(docs[pkg]["New"+base], "New"+base),
		}
	}
	return texts
}

// sentence makes the sentence "Collects times." of "CPU collects times.".
func sentence(text, subject string) string {
	text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), subject+" "))
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// packageDocs returns the comments of the exported types and functions of a package.
func packageDocs(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := token.NewFileSet()
	var syntax []*ast.File
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && path != folder {
			return cmp.Or(err, fs.SkipDir)
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			f, err := parser.ParseFile(files, path, nil, parser.ParseComments)
			syntax = append(syntax, f)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := doc.NewFromFiles(files, syntax, folder)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	functions := pkg.Funcs
	for _, typ := range pkg.Types {
		docs[typ.Name] = plainDoc(pkg, typ.Doc)
		functions = append(functions, typ.Funcs...)
	}
	for _, typ := range pkg.Types {
		functions = append(functions, typ.Methods...) // some are constructors
	}
	for _, f := range functions {
		if docs[f.Name] == "" { // the method of a type of options is named as the function it stands for
			docs[f.Name] = plainDoc(pkg, f.Doc)
		}
	}
	return docs
}

// plainDoc returns a comment without what is about Go.
func plainDoc(pkg *doc.Package, text string) string {
	return strings.NewReplacer(
		" It implements collector.Collector.", "", "The error is a \\*verdict.UnavailableError", "It is unavailable",
		"Collect implements collector.Collector.", "",
	).Replace(string(pkg.Markdown(text)))
}

// constructors returns package and name of what opens each collector in the list of tables.go, in its order.
func constructors(t *testing.T) [][2]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "tables.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found [][2]string
	ast.Inspect(f, func(n ast.Node) bool {
		if kv, ok := n.(*ast.KeyValueExpr); ok && fmt.Sprint(kv.Key) == "New" {
			found = append(found, constructorIn(kv.Value, false, map[any]bool{}))
		}
		return true
	})
	return found
}

// constructorIn returns the first name of a package of collectors in n, or in what n names of the file. deps says whether
// latency.Deps will do, of which constructors are methods.
func constructorIn(n ast.Node, deps bool, seen map[any]bool) (found [2]string) {
	ast.Inspect(n, func(n ast.Node) bool {
		if found[1] != "" || n == nil {
			return false
		}
		switch n := n.(type) {
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if ok && pkg.Obj != nil && n.Sel.Name != "New" { // a method of options, named as the constructor
				if of := constructorIn(pkg, true, seen)[0]; of != "" {
					found = [2]string{of, n.Sel.Name}
				}
				return false
			}
			if ok && slices.Contains(collectorPackages, pkg.Name) &&
				n.Sel.Name != "Override" && n.Sel.Name != "Options" && (deps || n.Sel.Name != "Deps") {
				found = [2]string{pkg.Name, n.Sel.Name}
			}
		case *ast.Ident:
			if n.Obj == nil || seen[n.Obj.Decl] {
				break
			}
			if decl, ok := n.Obj.Decl.(ast.Node); ok {
				seen[decl] = true
				found = constructorIn(decl, deps, seen)
			}
		}
		return found[1] == ""
	})
	return found
}
