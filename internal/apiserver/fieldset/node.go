package fieldset

import (
	"cmp"
	"reflect"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// A node writes what a value sets. Added tells that an empty object has nothing
// in the value's place. Otherwise it has the zero value there, and write reports
// false if v does not differ from that.
type node interface {
	write(p *printer, v reflect.Value, added bool) bool
}

// leaf is owned as a whole.
type leaf struct{}

func (leaf) write(p *printer, v reflect.Value, added bool) bool {
	if !added && isZero(v) {
		return false
	}
	p.out = append(p.out, none...)
	return true
}

// isZero tells whether v looks like the zero value in JSON.
func isZero(v reflect.Value) bool {
	if v.Kind() != reflect.Struct || v.IsZero() {
		return v.IsZero()
	}
	got, err := value.NewValueReflect(v.Addr().Interface())
	zero, zeroErr := value.NewValueReflect(reflect.New(v.Type()).Interface())
	return err == nil && zeroErr == nil && value.Equals(got, zero)
}

// pointer is what it points to. In an empty object it is null where it is not
// absent, so all that it points to is added.
type pointer struct{ to node }

func (n pointer) write(p *printer, v reflect.Value, added bool) bool {
	if v.IsNil() {
		return leaf{}.write(p, v, added)
	}
	if s, ok := n.to.(*structNode); ok {
		start := p.open(added)
		s.children(p, v.Elem(), true)
		return p.end(start, added, true)
	}
	return n.to.write(p, v.Elem(), true)
}

// structNode is owned field by field.
type structNode struct{ fields []field }

type field struct {
	entry *value.FieldCacheEntry
	name  string
	node  node
	// always tells that empty structs have the field.
	always bool
}

func (n *structNode) write(p *printer, v reflect.Value, added bool) bool {
	start := p.open(added)
	n.children(p, v, added)
	return p.end(start, added, false)
}

func (n *structNode) children(p *printer, v reflect.Value, added bool) {
	for i := range n.fields {
		f := &n.fields[i]
		if fv := f.entry.GetFrom(v); !f.entry.CanOmit(fv) {
			p.element(f.name, f.node, fv, added || !f.always)
		}
	}
}

// without returns n without some of its fields.
func (n *structNode) without(names []string) structNode {
	var out structNode
	for _, f := range n.fields {
		if !slices.Contains(names, f.entry.JsonName) {
			out.fields = append(out.fields, f)
		}
	}
	return out
}

// mapNode is owned key by key.
type mapNode struct{ element node }

func (n mapNode) write(p *printer, v reflect.Value, added bool) bool {
	start := p.open(added)
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	for _, k := range keys {
		if !plain(k.String()) {
			p.failed = true
			break
		}
		p.element(`"f:`+k.String()+`":`, n.element, v.MapIndex(k), true)
	}
	return p.end(start, added, !v.IsNil())
}
