// Command markers writes down what only comments in the source of API types
// say of them: which values an enum has, how lists and maps are merged, which
// fields are optional, defaults and unions, and the documentation of types that
// carry none. See [Generate] for the form.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	text, err := Generate()
	if err == nil {
		_, err = os.Stdout.WriteString(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// The types that are published are those of resources, and those that documents
// have besides, in these modules.
var (
	resources = []string{"skiff/internal/apis/...", "skiff/internal/apiserver/openapi"}
	modules   = regexp.MustCompile(`^k8s\.io/(api|apimachinery|apiextensions-apiserver|kube-aggregator)/`)
)

// Generate returns a section for each type of which comments say something,
// sorted. A section begins with a line with the package's path and the type's
// name. Each line after it begins with a tab. In an enum's section, there is a
// line for each value: the quoted value, and after a space what it means. In a
// struct's section, there is a line for each field: the name in JSON (none: the
// struct itself) and its facts, all after tabs. Facts are
//
//	optional, required   where the field's tag says otherwise
//	listType=            as in x-kubernetes-list-type
//	listMapKey=          one of x-kubernetes-list-map-keys
//	mapType=             as in x-kubernetes-map-type
//	default=             in JSON
//	union=               one of x-kubernetes-unions, in JSON
//	doc=                 what it is for, quoted
func Generate() (string, error) {
	packages, err := find()
	if err != nil {
		return "", err
	}
	sources := map[string]*source{}
	for path, dir := range packages {
		p := &source{all: sources, types: map[string]declared{}, constants: map[string]declared{}, carried: map[string]map[string]string{}}
		sources[path] = p
		if err := p.parse(dir); err != nil {
			return "", err
		}
	}
	sections := map[string][]string{}
	for path, p := range sources {
		for name := range p.types {
			if lines := p.section(name); len(lines) > 0 {
				sections[path+"."+name] = lines
			}
		}
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		out.WriteString(name + "\n")
		for _, line := range sections[name] {
			out.WriteString("\t" + line + "\n")
		}
	}
	return out.String(), nil
}

// find returns the directories of the packages with published types.
func find() (map[string]string, error) {
	imports, err := list("{{range .Imports}}{{.}}\n{{end}}", resources...)
	if err != nil {
		return nil, err
	}
	imports = slices.DeleteFunc(imports, func(path string) bool { return !modules.MatchString(path) })
	slices.Sort(imports)
	lines, err := list("{{.ImportPath}}={{.Dir}}", slices.Compact(imports)...)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, line := range lines {
		path, dir, _ := strings.Cut(line, "=")
		out[path] = dir
	}
	return out, nil
}

func list(format string, packages ...string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-f", format}, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(packages, " "), err)
	}
	return strings.Fields(string(out)), nil
}

// source is a package.
type source struct {
	all map[string]*source // by path
	// published says that all types are, if theirs do not say otherwise.
	published bool
	// types and constants are what the package declares, by name.
	types, constants map[string]declared
	// carried is the documentation that types carry, by type and field.
	carried map[string]map[string]string
}

// declared is the declaration of a type or a constant.
type declared struct {
	file *ast.File
	doc  []string
	// typ is the type, or the constant's.
	typ   ast.Expr
	value ast.Expr
}

func (p *source) parse(dir string) error {
	set := token.NewFileSet()
	names, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, dir+"/"+name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, c := range file.Comments {
			if c.End() < file.Package && slices.Contains(markers(linesOf(c))["k8s:openapi-gen"], "true") {
				p.published = true
			}
		}
		for _, d := range file.Decls {
			if d, ok := d.(*ast.GenDecl); ok {
				for _, s := range d.Specs {
					p.declare(file, d, s)
				}
			}
		}
	}
	return nil
}

func (p *source) declare(file *ast.File, d *ast.GenDecl, s ast.Spec) {
	// A comment above parentheses is about all that is between them.
	var above *ast.CommentGroup
	if !d.Lparen.IsValid() {
		above = d.Doc
	}
	switch s := s.(type) {
	case *ast.TypeSpec:
		p.types[s.Name.Name] = declared{file: file, doc: linesOf(cmp.Or(s.Doc, above)), typ: s.Type}
	case *ast.ValueSpec:
		if len(s.Values) != 1 {
			return
		}
		name := s.Names[0].Name
		if d.Tok == token.CONST {
			c := declared{file: file, doc: linesOf(cmp.Or(s.Doc, above)), typ: s.Type, value: s.Values[0]}
			if conversion, ok := c.value.(*ast.CallExpr); ok && len(conversion.Args) == 1 {
				c.typ, c.value = conversion.Fun, conversion.Args[0]
			}
			p.constants[name] = c
			return
		}
		// What SwaggerDoc returns is in variables.
		of, ok := strings.CutPrefix(name, "map_")
		texts, is := s.Values[0].(*ast.CompositeLit)
		if !ok || !is {
			return
		}
		p.carried[of] = map[string]string{}
		for _, element := range texts.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok {
				p.carried[of][literal(pair.Key)] = literal(pair.Value)
			}
		}
	}
}

// literal returns the value of a string literal.
func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	return constant.StringVal(constant.MakeFromLiteral(l.Value, token.STRING, 0))
}

// value returns the value of a string constant.
func (p *source) value(c declared) string {
	switch e := c.value.(type) {
	case *ast.Ident:
		return p.value(p.constants[e.Name])
	case *ast.SelectorExpr:
		of, ok := e.X.(*ast.Ident)
		if !ok {
			break
		}
		for _, i := range c.file.Imports {
			path := literal(i.Path)
			if other := p.all[path]; other != nil && i.Name != nil && i.Name.Name == of.Name {
				return other.value(other.constants[e.Sel.Name])
			}
		}
	}
	return literal(c.value)
}

// enum says whether e is an enum or points to one.
func (p *source) enum(e ast.Expr) bool {
	if pointer, ok := e.(*ast.StarExpr); ok {
		e = pointer.X
	}
	name, ok := e.(*ast.Ident)
	return ok && markers(p.types[name.Name].doc)["enum"] != nil
}

// values returns an enum's values and what is said of them.
func (p *source) values(enum string) map[string]string {
	out := map[string]string{}
	for name, c := range p.constants {
		if t, ok := c.typ.(*ast.Ident); ok && t.Name == enum {
			meaning := strings.TrimPrefix(strings.TrimSpace(strings.Join(c.doc, " ")), name)
			out[p.value(c)] = strings.Join(strings.Fields(meaning), " ")
		}
	}
	return out
}

func linesOf(doc *ast.CommentGroup) []string {
	return strings.Split(strings.TrimSuffix(doc.Text(), "\n"), "\n")
}

// marker is +name or +name=value in a comment.
var marker = regexp.MustCompile(`^\s*\+([a-zA-Z0-9:_-]+)(?:=(.*))?$`)

// markers returns the values of the markers in a comment.
func markers(lines []string) map[string][]string {
	out := map[string][]string{}
	for _, line := range lines {
		if m := marker.FindStringSubmatch(line); m != nil {
			out[m[1]] = append(out[m[1]], m[2])
		}
	}
	return out
}

// section returns the lines of a type.
func (p *source) section(name string) []string {
	t := p.types[name]
	marks := markers(t.doc)
	var lines []string
	s, isStruct := t.typ.(*ast.StructType)
	if !isStruct {
		if marks["enum"] == nil {
			return nil
		}
		values := p.values(name)
		for _, value := range slices.Sorted(maps.Keys(values)) {
			lines = append(lines, strings.TrimSpace(strconv.Quote(value)+" "+values[value]))
		}
		return lines
	}
	published := p.published
	if says := marks["k8s:openapi-gen"]; says != nil {
		published = says[0] == "true"
	}
	if !ast.IsExported(name) || !published {
		return nil
	}
	add := func(field string, facts []string) {
		if len(facts) > 0 {
			lines = append(lines, strings.Join(append([]string{field}, facts...), "\t"))
		}
	}
	facts := p.facts(marks)
	if u := union(s, marks); u != "" {
		facts = append(facts, "union="+u)
	}
	carried := p.carried[name]
	if text := strings.TrimSpace(description(t.doc)); text != carried[""] {
		facts = append(facts, "doc="+strconv.Quote(text))
	}
	add("", facts)
	for _, f := range s.Fields.List {
		tag, options := jsonTag(f)
		if tag == "" || tag == "-" {
			continue
		}
		doc := linesOf(f.Doc)
		marks := markers(doc)
		var facts []string
		optional := strings.Contains(options, "omitempty")
		switch {
		case marks["required"] != nil && optional:
			facts = append(facts, "required")
		case marks["required"] == nil && marks["optional"] != nil && !optional:
			facts = append(facts, "optional")
		}
		facts = append(facts, p.facts(marks)...)
		text := description(doc)
		if !p.enum(f.Type) {
			text = strings.TrimSpace(text)
		}
		if text != carried[tag] {
			facts = append(facts, "doc="+strconv.Quote(text))
		}
		add(tag, facts)
	}
	return lines
}

// facts returns those that structs and fields have in common.
func (p *source) facts(marks map[string][]string) []string {
	var facts []string
	for _, mark := range []string{"listType", "listMapKey", "mapType", "structType"} {
		for _, value := range marks[mark] {
			facts = append(facts, strings.Replace(mark, "structType", "mapType", 1)+"="+value)
		}
	}
	for _, value := range marks["default"] {
		if constant, ok := strings.CutPrefix(value, "ref("); ok {
			value = strconv.Quote(p.value(p.constants[strings.TrimSuffix(constant, ")")]))
		}
		facts = append(facts, "default="+value)
	}
	return facts
}

// union describes the union that a struct is, or that some of its fields are.
func union(s *ast.StructType, marks map[string][]string) string {
	type union struct {
		Discriminator string            `json:"discriminator,omitempty"`
		Fields        map[string]string `json:"fields-to-discriminateBy"`
	}
	u := union{Fields: map[string]string{}}
	for _, f := range s.Fields.List {
		tag, _ := jsonTag(f)
		if tag == "" || tag == "-" {
			continue
		}
		of := markers(linesOf(f.Doc))
		switch {
		case of["unionDiscriminator"] != nil:
			u.Discriminator = tag
		case marks["union"] != nil || of["unionDeprecated"] != nil:
			u.Fields[tag] = f.Names[0].Name
		}
	}
	if marks["union"] == nil && len(u.Fields) == 0 {
		return ""
	}
	text, err := json.Marshal(u)
	if err != nil {
		panic(err) // strings are always encoded
	}
	return string(text)
}

func jsonTag(f *ast.Field) (name, options string) {
	if f.Tag == nil {
		return "", ""
	}
	tag, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return "", ""
	}
	name, options, _ = strings.Cut(reflect.StructTag(tag).Get("json"), ",")
	return name, options
}

// plan begins a line about what somebody means to do.
const plan = "TO" + "DO"

// description joins the lines of paragraphs; indented lines stay as they are.
// Where an empty line is the last, so is a line break of the description: an
// enum's values come after it.
func description(lines []string) string {
	var out []byte
	// Each line ends with what separates it from the next, unless that begins
	// with a separator of its own.
	separate := func(text string) {
		out = append(out[:max(len(out)-1, 0)], text...)
	}
	for _, line := range lines {
		if line == "---" {
			break
		}
		text := strings.TrimLeft(line, " ")
		switch {
		case line == "":
			separate("\n\n")
		case strings.HasPrefix(text, plan), strings.HasPrefix(text, "+"):
		case line[0] == ' ' || line[0] == '\t':
			separate("\n" + line + "\n")
		default:
			out = append(out, line+" "...)
		}
	}
	separate("")
	return strings.TrimLeft(string(out), " \n")
}
