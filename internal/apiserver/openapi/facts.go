package openapi

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

//go:generate sh -c "go run ./internal/markers > facts.txt.new && mv facts.txt.new facts.txt"

// written is what only comments in the source of types say of them. Its form
// is that of internal/markers.
//
//go:embed facts.txt
var written string

// sections are the parts of what is written, by type.
var sections = sync.OnceValue(func() map[string]string {
	out := map[string]string{}
	for rest := written; rest != ""; {
		name, lines, _ := strings.Cut(rest, "\n")
		end := 0
		for end < len(lines) && lines[end] == '\t' {
			end += strings.IndexByte(lines[end:], '\n') + 1
		}
		out[name], rest = lines[:end], lines[end:]
	}
	return out
})

// linesOf returns the lines that are written of a type.
func linesOf(t reflect.Type) []string {
	section := sections()[t.PkgPath()+"."+t.Name()]
	if section == "" {
		return nil
	}
	return strings.Split(strings.TrimPrefix(strings.TrimSuffix(section, "\n"), "\t"), "\n\t")
}

// facts are those of a struct's fields, and with no name of the struct.
type facts map[string][]string

func factsOf(t reflect.Type) facts {
	out := facts{}
	for _, line := range linesOf(t) {
		of := strings.Split(line, "\t")
		out[of[0]] = of[1:]
	}
	return out
}

// apply completes the schema of a field, or of the struct if there is no name.
// It says whether the field is optional, which it is told of the field's tag.
func (f facts) apply(field string, s *spec.Schema, optional bool) bool {
	var keys, unions []any
	for _, fact := range f[field] {
		name, value, _ := strings.Cut(fact, "=")
		switch name {
		case "optional", "required":
			optional = name == "optional"
		case "listType":
			s.AddExtension("x-kubernetes-list-type", value)
		case "listMapKey":
			keys = append(keys, value)
		case "mapType":
			s.AddExtension("x-kubernetes-map-type", value)
		case "default":
			s.Default = decoded(value)
		case "union":
			unions = append(unions, decoded(value))
		case "doc":
			s.Description = unquoted(value)
		}
	}
	if keys != nil {
		s.AddExtension("x-kubernetes-list-map-keys", keys)
	}
	if unions != nil {
		s.AddExtension("x-kubernetes-unions", unions)
	}
	return optional
}

func decoded(text string) (v any) {
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic("openapi: " + text + " is no JSON; run go generate ./internal/apiserver/openapi")
	}
	return v
}

func unquoted(text string) string {
	out, err := strconv.Unquote(text)
	if err != nil {
		panic("openapi: " + text + " is not quoted; run go generate ./internal/apiserver/openapi")
	}
	return out
}

// enumOf returns the values of an enum, and a text with what they mean.
func enumOf(t reflect.Type) (values []any, meanings string) {
	if t.Kind() != reflect.String {
		return nil, ""
	}
	for _, line := range linesOf(t) {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			panic("openapi: " + line + " has no value; run go generate ./internal/apiserver/openapi")
		}
		values = append(values, unquoted(quoted))
		meanings += "\n - `" + quoted + "`" + line[len(quoted):]
	}
	return values, meanings
}

// zero is the default of a field of type t that is never without a value: of a
// struct, and of a scalar unless it is absent when it is empty.
func zero(t reflect.Type, absent bool) any {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		// These are null.
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		if t.NumField() == 1 && t.Field(0).Anonymous {
			return zero(t.Field(0).Type, absent)
		}
		return map[string]any{}
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array, reflect.Interface:
		return nil
	}
	if absent {
		return nil
	}
	switch t.Kind() {
	case reflect.String:
		return ""
	case reflect.Bool:
		return false
	}
	return 0
}
