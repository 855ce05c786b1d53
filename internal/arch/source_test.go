package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/slid-agent/slid"

// A file is one Go file of the repo.
type file struct {
	path   string // from the root of the repo
	folder string
	ast    *ast.File
	lines  *token.FileSet
}

func (f file) test() bool      { return strings.HasSuffix(f.path, "_test.go") }
func (f file) generated() bool { return ast.IsGenerated(f.ast) }

// imports returns what the file imports.
func (f file) imports(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: %v", f.path, err)
		}
		list = append(list, p)
	}
	return list
}

// root returns the root of the repo: the nearest folder above with a go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod in any folder above")
		}
		dir = filepath.Dir(dir)
	}
}

// sources parses every Go file of the module. Modules inside it (the tools) are not part of it.
func sources(t *testing.T) []file {
	t.Helper()
	top := root(t)
	var list []file
	err := filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return enter(top, name)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		lines := token.NewFileSet()
		tree, err := parser.ParseFile(lines, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		list = append(list, file{path: rel, folder: path.Dir(rel), ast: tree, lines: lines})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// enter returns fs.SkipDir for folders that go itself skips: hidden ones, testdata, and other modules.
func enter(top, dir string) error {
	if dir == top {
		return nil
	}
	if base := filepath.Base(dir); base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}
