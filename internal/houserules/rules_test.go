package houserules

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const longestFile = 800

func TestFilesAreShort(t *testing.T) {
	p := load(t)
	for _, f := range p.files {
		if f.lines > longestFile {
			t.Errorf("%s has %d lines, more than %d: split it by idea.", f.name, f.lines, longestFile)
		}
	}
	for name, text := range p.texts {
		if n := strings.Count(text, "\n"); n > longestFile {
			t.Errorf("%s has %d lines, more than %d: split it by idea.", name, n, longestFile)
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	p := load(t)
	said := map[string]bool{}
	for _, f := range p.files {
		switch base := path.Base(f.dir); base {
		case "util", "utils", "common", "helper", "helpers", "misc", "base", "shared":
			t.Errorf("%s: a package named %s says nothing. Name it after the one idea it holds.", f.name, base)
		}
		said[f.dir] = said[f.dir] || f.syntax.Doc != nil
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment: say in one file what the package is for and what it rests on.", dir)
		}
	}
}

// TestNoProcessWideState keeps whole clusters independent of each other in one
// process.
func TestNoProcessWideState(t *testing.T) {
	p := load(t)
	variables := map[string]map[string]bool{} // by package
	for _, f := range p.files {
		if f.test() {
			continue
		}
		if variables[f.dir] == nil {
			variables[f.dir] = map[string]bool{}
		}
		for _, d := range f.syntax.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					variables[f.dir][name.Name] = true
				}
			}
		}
	}
	for _, f := range p.files {
		if f.test() {
			continue
		}
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init registers something for the whole process. Pass it in a Config.", p.at(fn))
			}
			local := declared(fn)
			ast.Inspect(fn, func(n ast.Node) bool {
				for _, target := range targets(n) {
					if name := root(target); name != nil && variables[f.dir][name.Name] && !local[name.Name] {
						t.Errorf("%s: the package variable %s changes. Make it a field of who uses it.", p.at(target), name.Name)
					}
				}
				return true
			})
		}
	}
}

// declared returns the names that a function declares anywhere in it.
func declared(fn *ast.FuncDecl) map[string]bool {
	names := map[string]bool{"_": true}
	add := func(e ast.Expr) {
		if id, ok := e.(*ast.Ident); ok {
			names[id.Name] = true
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, id := range n.Names {
				add(id)
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				add(id)
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, e := range n.Lhs {
					add(e)
				}
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				add(n.Key)
				add(n.Value)
			}
		}
		return true
	})
	return names
}

// targets returns what a statement assigns to.
func targets(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	}
	return nil
}

// root returns the variable at the left end of x, x.y, x[i] and *x.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// TestOnlyMainExits lets every other place return its error, so that what was
// started is stopped.
func TestOnlyMainExits(t *testing.T) {
	p := load(t)
	for _, f := range p.files {
		if f.test() || within(f.dir, "cmd") || f.syntax.Name.Name == "main" {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				switch name := selector(call.Fun); name {
				case "os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "log.Panic", "log.Panicf":
					t.Errorf("%s: %s ends the process. Return an error; only main exits.", p.at(call), name)
				}
			}
			return true
		})
	}
}

// TestLogsArePassedIn keeps the process's own logger, error stream and
// metric registry out of the parts.
func TestLogsArePassedIn(t *testing.T) {
	p := load(t)
	for _, f := range p.files {
		if f.test() || within(f.dir, "cmd") || within(f.dir, "bench") {
			continue
		}
		if slices.Contains(f.imports(), "log") {
			t.Errorf("%s imports log: take a *slog.Logger in the Config.", f.name)
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch name := selector(call.Fun); name {
			case "slog.Default", "slog.SetDefault", "slog.Debug", "slog.Info", "slog.Warn", "slog.Error":
				t.Errorf("%s: %s uses the process's logger. Take a *slog.Logger in the Config.", p.at(call), name)
			case "prometheus.MustRegister", "prometheus.Register":
				t.Errorf("%s: %s uses the process's registry. Take a prometheus.Registerer in the Config.", p.at(call), name)
			}
			return true
		})
	}
}

// TestTestsWaitForConditions allows time.Sleep between two looks at a
// condition, and nowhere else.
func TestTestsWaitForConditions(t *testing.T) {
	p := load(t)
	for _, f := range p.files {
		if !f.test() {
			continue
		}
		var loops []ast.Node
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ForStmt, *ast.RangeStmt:
				loops = append(loops, n)
			case *ast.CallExpr:
				polling := slices.ContainsFunc(loops, func(l ast.Node) bool { return l.Pos() <= n.Pos() && n.End() <= l.End() })
				if selector(n.Fun) == "time.Sleep" && !polling {
					t.Errorf("%s: time.Sleep hopes that something has happened. Wait for it: a channel, a watch, or a bounded loop that looks.", p.at(n))
				}
			}
			return true
		})
	}
}

// selector returns package.Name of a qualified name.
func selector(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if id, ok := s.X.(*ast.Ident); ok {
			return id.Name + "." + s.Sel.Name
		}
	}
	return ""
}

// unwanted are words that no text of the project holds. The patterns are
// written so that they do not match themselves.
var unwanted = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b(TOD[O]|FIXM[E]|XX[X])\b`), "Do it now, or write in docs what is missing and why."},
	{regexp.MustCompile(`(?i)\bissues? #?[0-9]`), "Say the reason itself, not where it was discussed."},
	{regexp.MustCompile(`(?i)\b(this|earlier|previous|later) sessio[n]\b`), "The project speaks of itself, not of how it was written."},
	{regexp.MustCompile(`(?i)\b(clau[d]e|anthropi[c]|chatgp[t]|langua[g]e model)\b`), "The project speaks of itself, not of how it was written."},
	{regexp.MustCompile(`(^|[^\w./-])/(wor[k]|tm[p]/helper)/`), "Paths of one machine mean nothing on another."},
	{regexp.MustCompile(`\b(gopro[x]y|GOPROX[Y]|goprox[y]\.)`), "Where modules are downloaded from is the machine's business."},
}

func TestWording(t *testing.T) {
	p := load(t)
	check := func(where, text string) {
		for number, l := range strings.Split(text, "\n") {
			for _, u := range unwanted {
				if found := u.pattern.FindString(l); found != "" {
					t.Errorf("%s, line %d of the text: %q. %s", where, number+1, strings.TrimSpace(found), u.instead)
				}
			}
		}
	}
	for name, text := range p.texts {
		check(name, text)
	}
	for _, f := range p.files {
		for _, c := range f.syntax.Comments {
			check(p.at(c), c.Text())
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				check(p.at(lit), lit.Value)
			}
			return true
		})
	}
}

// TestNoDeadCode finds code that was commented out instead of deleted.
func TestNoDeadCode(t *testing.T) {
	p := load(t)
	code := regexp.MustCompile(`^//\s*(if .+ \{|for .+ \{|return\b.*\)|[\w.]+ :?= .+\)|func \w+\(.*\{)$`)
	for _, f := range p.files {
		for _, group := range f.syntax.Comments {
			for _, c := range group.List {
				// An indented line is an example in a doc comment.
				if code.MatchString(c.Text) && !strings.HasPrefix(c.Text, "//\t") {
					t.Errorf("%s: %q. Delete code that is not used; git keeps it.", p.at(c), c.Text)
				}
			}
		}
	}
}
