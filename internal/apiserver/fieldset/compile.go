package fieldset

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// A compiler makes nodes of Go types and their schemas.
type compiler struct {
	schema *schema.Schema
	// known are the structs met so far; types may contain themselves.
	known map[compiled]*structNode
}

type compiled struct {
	t    reflect.Type
	name string
}

func (c *compiler) node(t reflect.Type, ref schema.TypeRef) (node, error) {
	if t.Kind() == reflect.Pointer {
		to, err := c.node(t.Elem(), ref)
		if err != nil {
			return nil, err
		}
		switch to.(type) {
		case leaf, *structNode:
			return pointer{to}, nil
		}
		return nil, fmt.Errorf("%s points to neither a struct nor a whole", t)
	}
	atom, ok := c.schema.Resolve(ref)
	if !ok {
		return nil, fmt.Errorf("%s has no schema", t)
	}
	entry := value.TypeReflectEntryOf(t)
	switch {
	case entry.CanConvertToUnstructured():
		if granular(atom) {
			return nil, fmt.Errorf("%s has a form of its own, whose parts are owned", t)
		}
		return leaf{}, nil
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		return c.mapping(t, entry, atom.Map, ref)
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return c.list(t, atom.List)
	case t.Kind() == reflect.Interface || atom.Scalar == nil:
		return nil, fmt.Errorf("%s has no scalar schema", t)
	}
	return leaf{}, nil
}

// granular reports whether parts of a value may be owned.
func granular(a schema.Atom) bool {
	return a.Map != nil && a.Map.ElementRelationship != schema.Atomic ||
		a.List != nil && a.List.ElementRelationship != schema.Atomic
}

func (c *compiler) mapping(t reflect.Type, entry *value.TypeReflectCacheEntry, m *schema.Map, ref schema.TypeRef) (node, error) {
	if m == nil {
		return nil, fmt.Errorf("%s has no schema of a map", t)
	}
	if m.ElementRelationship == schema.Atomic {
		return leaf{}, nil
	}
	if t.Kind() == reflect.Map {
		if t.Key().Kind() != reflect.String {
			return nil, fmt.Errorf("%s has keys that are no strings", t)
		}
		element, err := c.node(t.Elem(), m.ElementType)
		return mapNode{element}, err
	}
	k := compiled{t: t}
	if ref.NamedType != nil {
		k.name = *ref.NamedType
		if known := c.known[k]; known != nil {
			return known, nil
		}
	}
	n := &structNode{}
	c.known[k] = n
	zero := reflect.New(t).Elem()
	for _, f := range entry.OrderedFields() {
		s, ok := m.FindField(f.JsonName)
		if !ok {
			return nil, fmt.Errorf("%s: no schema of %s", t, f.JsonName)
		}
		empty := f.GetFrom(zero)
		below, err := c.node(empty.Type(), s.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.JsonName, err)
		}
		n.fields = append(n.fields, field{f, `"f:` + f.JsonName + `":`, below, !f.CanOmit(empty)})
	}
	return n, nil
}

func (c *compiler) list(t reflect.Type, l *schema.List) (node, error) {
	switch {
	case l == nil:
		return nil, fmt.Errorf("%s has no schema of a list", t)
	case l.ElementRelationship == schema.Atomic:
		return leaf{}, nil
	case len(l.Keys) == 0:
		if n, err := c.node(t.Elem(), l.ElementType); n != (leaf{}) {
			return nil, fmt.Errorf("%s is a set of what is no scalar (%v)", t, err)
		}
		return setNode{}, nil
	}
	below, err := c.node(t.Elem(), l.ElementType)
	if err != nil {
		return nil, err
	}
	n := &keyedNode{item: below}
	atom, _ := c.schema.Resolve(l.ElementType)
	fields := value.TypeReflectEntryOf(t.Elem()).Fields()
	for _, name := range l.Keys {
		k := listKey{entry: fields[name]}
		if k.entry == nil || atom.Map == nil {
			return nil, fmt.Errorf("%s has no field %s", t.Elem(), name)
		}
		if s, _ := atom.Map.FindField(name); s.Default != nil {
			otherwise, ok := scalarOf(name, reflect.ValueOf(s.Default))
			if !ok {
				return nil, fmt.Errorf("%s: %v cannot be part of a name", name, s.Default)
			}
			k.otherwise = &otherwise
		}
		n.keys = append(n.keys, k)
	}
	slices.SortFunc(n.keys, func(a, b listKey) int { return cmp.Compare(a.entry.JsonName, b.entry.JsonName) })
	return n, nil
}
