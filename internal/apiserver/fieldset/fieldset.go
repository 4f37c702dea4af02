// Package fieldset writes which fields a new object sets, in the form of
// metadata.managedFields (FieldsV1 of server-side apply, KEP-555).
//
// structured-merge-diff finds that out by comparing the object with an empty
// one, for which it validates both, builds a set of paths and encodes it. A
// Writer is compiled once from a Go type and its merge schema, and writes the
// same bytes in one walk.
package fieldset

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// unowned are the fields of an object that nobody owns: they identify it, or
// the server sets them.
var (
	unowned         = []string{"apiVersion", "kind"}
	unownedMetadata = []string{
		"name", "namespace", "creationTimestamp", "selfLink", "uid",
		"clusterName", "generation", "managedFields", "resourceVersion",
	}
)

// A Writer writes the fields of new objects of one type.
type Writer struct{ root structNode }

// Compile makes a Writer for the Go type of empty, an object without any field,
// whose merge schema is that of typed, the same object. The top-level fields
// named by reset are left out. It fails for types of whose values only the
// values themselves tell how they are merged.
func Compile(empty any, typed *typed.TypedValue, reset ...string) (*Writer, error) {
	t := reflect.TypeOf(empty)
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("%s is not a pointer to a struct", t)
	}
	c := compiler{schema: typed.Schema(), known: make(map[compiled]*structNode)}
	n, err := c.node(t.Elem(), typed.TypeRef())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Elem(), err)
	}
	whole, ok := n.(*structNode)
	if !ok {
		return nil, fmt.Errorf("%s is merged as a whole", t.Elem())
	}
	// Other places share these nodes: pod templates have metadata too.
	w := &Writer{root: whole.without(append(reset, unowned...))}
	for i, f := range w.root.fields {
		if metadata, ok := f.node.(*structNode); ok && f.entry.JsonName == "metadata" {
			owned := metadata.without(unownedMetadata)
			w.root.fields[i].node = &owned
		}
	}
	return w, nil
}

// Of returns the fields that obj, a pointer to a struct of the Writer's type,
// sets; nil if there are none. It reports false for objects that it cannot tell
// the fields of: those with list items of equal keys, or with keys that need
// escaping, which no valid object has.
func (w *Writer) Of(obj any) (fields []byte, ok bool) {
	p := printer{out: append(make([]byte, 0, 2048), '{')}
	w.root.children(&p, reflect.ValueOf(obj).Elem(), false)
	if p.failed {
		return nil, false
	}
	if len(p.out) == 1 {
		return nil, true
	}
	return slices.Clip(append(p.out, '}')), true
}

// A printer holds what has been written so far.
type printer struct {
	out []byte
	// failed is set when the object is one that cannot be written.
	failed bool
}

// element writes a name, colon included, and its node unless there is nothing
// to say about it.
func (p *printer) element(name string, n node, v reflect.Value, added bool) {
	start := len(p.out)
	if p.out[start-1] != '{' {
		p.out = append(p.out, ',')
	}
	p.out = append(p.out, name...)
	if !n.write(p, v, added) {
		p.out = p.out[:start]
	}
}

const (
	self = `".":{}`
	none = `{}`
)

// open begins what is below an element. Elements that an empty object does not
// have are owned themselves too.
func (p *printer) open(added bool) (start int) {
	start = len(p.out)
	p.out = append(p.out, '{')
	if added {
		p.out = append(p.out, self...)
	}
	return start
}

// end ends what was opened. If nothing was written in between, the element is
// owned as a whole, provided that it differs from that of an empty object.
func (p *printer) end(start int, added, differs bool) bool {
	opened := 1
	if added {
		opened += len(self)
	}
	if len(p.out) > start+opened {
		p.out = append(p.out, '}')
		return true
	}
	p.out = p.out[:start]
	if added || differs {
		p.out = append(p.out, none...)
		return true
	}
	return false
}

// plain reports whether s is written as it is inside a string in JSON, however
// carefully that is escaped.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			return false
		}
	}
	return true
}
