// Package houserules keeps the rules that a compiler does not: which package
// may import which, and how the code is written. It has tests only; each
// failure says what to do instead.
package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the module path that imports of the project's own packages begin
// with.
const module = "skiff/"

// A source is one Go file of the project.
type source struct {
	// name is the file's path and dir its folder, both below the project's root
	// and with slashes.
	name, dir string
	syntax    *ast.File
	lines     int
}

// test reports whether the file is no part of the product: a test, or a package
// that only tests use (its name ends in "test" or is testcluster).
func (s *source) test() bool { return strings.HasSuffix(s.name, "_test.go") || testPackage(s.dir) }

func testPackage(dir string) bool {
	return strings.HasSuffix(dir, "test") || path.Base(dir) == "testcluster"
}

// imports returns the paths that the file imports.
func (s *source) imports() []string {
	var out []string
	for _, i := range s.syntax.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, p)
	}
	return out
}

// A tree is the project as its files show it.
type tree struct {
	fset  *token.FileSet
	files []*source
	// texts are the other files that people read, by name.
	texts map[string]string
}

// readable are the kinds of files, beside Go, that the rules about wording and
// length hold for.
var readable = []string{".md", ".sh", ".yaml", ".py", ".js", ".ts", ".css", ".html", ".mod"}

// project reads the whole project once.
var project = sync.OnceValues(func() (*tree, error) {
	t := &tree{fset: token.NewFileSet(), texts: map[string]string{}}
	root := os.DirFS(filepath.Join("..", ".."))
	return t, fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if entry.IsDir() {
			if name != "." && name != ".ci" && (strings.HasPrefix(base, ".") || base == "bin" || base == "testdata" || base == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		script := base == "Makefile" || base == "Dockerfile" || path.Dir(name) == ".ci"
		if path.Ext(name) != ".go" && !script && !slices.Contains(readable, path.Ext(name)) {
			return nil
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if path.Ext(name) != ".go" {
			t.texts[name] = string(data)
			return nil
		}
		syntax, err := parser.ParseFile(t.fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		t.files = append(t.files, &source{
			name: name, dir: path.Dir(name), syntax: syntax, lines: strings.Count(string(data), "\n"),
		})
		return nil
	})
})

func load(t *testing.T) *tree {
	t.Helper()
	p, err := project()
	if err != nil {
		t.Fatal(err)
	}
	// Whoever moves this package must not get rules about nothing.
	if len(p.files) < 100 {
		t.Fatalf("only %d Go files found: these tests must run two folders below the project's root", len(p.files))
	}
	return p
}

// at says where a node stands, as file:line.
func (t *tree) at(n ast.Node) string {
	p := t.fset.Position(n.Pos())
	return p.Filename + ":" + strconv.Itoa(p.Line)
}

// within reports whether dir is root or below it.
func within(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }
