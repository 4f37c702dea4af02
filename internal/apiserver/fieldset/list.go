package fieldset

import (
	"cmp"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"

	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// A scalar names a list item, or is a part of its name.
type scalar struct {
	// key is the field that it is the value of; empty if it is the item itself.
	key string
	// text is quoted; numbers have none.
	text   string
	number int64
}

// scalarOf reports false for values that cannot name an item.
func scalarOf(key string, v reflect.Value) (scalar, bool) {
	switch {
	case v.Kind() == reflect.String:
		return scalar{key: key, text: `"` + v.String() + `"`}, plain(v.String())
	case v.CanInt():
		return scalar{key: key, number: v.Int()}, true
	}
	return scalar{}, false
}

func (s scalar) String() string {
	if s.text != "" {
		return s.text
	}
	return strconv.FormatInt(s.number, 10)
}

func compare(a, b scalar) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.number, b.number), cmp.Compare(a.text, b.text))
}

// An item of a list, and what names it among the others.
type item struct {
	id []scalar
	v  reflect.Value
}

// element is the name as part of the fields: v:"a" or k:{"name":"a"}, inside a
// string.
func (i item) element() string {
	if len(i.id) == 1 && i.id[0].key == "" {
		return quote("v:" + i.id[0].String())
	}
	text := "k:{"
	for n, s := range i.id {
		if n > 0 {
			text += ","
		}
		text += `"` + s.key + `":` + s.String()
	}
	return quote(text + "}")
}

func quote(plain string) string {
	out, _ := json.Marshal(plain) // never fails for strings
	return string(out) + ":"
}

// writeItems writes the items of the list v in the order of their names.
func writeItems(p *printer, v reflect.Value, items []item, n node, added bool) bool {
	slices.SortFunc(items, func(a, b item) int { return slices.CompareFunc(a.id, b.id, compare) })
	start := p.open(added)
	for i, it := range items {
		if i > 0 && slices.Equal(it.id, items[i-1].id) {
			p.failed = true
			return true
		}
		p.element(it.element(), n, it.v, true)
	}
	return p.end(start, added, !v.IsNil())
}

// setNode is a list of scalars, which are owned one by one.
type setNode struct{}

func (setNode) write(p *printer, v reflect.Value, added bool) bool {
	items := make([]item, v.Len())
	for i := range items {
		id, ok := scalarOf("", v.Index(i))
		if !ok {
			p.failed = true
			return true
		}
		items[i] = item{[]scalar{id}, v.Index(i)}
	}
	return writeItems(p, v, items, leaf{}, added)
}

// keyedNode is a list of structs, which are owned one by one and known by some
// of their fields.
type keyedNode struct {
	// keys are in the order of their names.
	keys []listKey
	item node
}

type listKey struct {
	entry *value.FieldCacheEntry
	// otherwise is the value of those that leave the key out. Without it they
	// are different from all that have one.
	otherwise *scalar
}

func (n *keyedNode) write(p *printer, v reflect.Value, added bool) bool {
	items := make([]item, v.Len())
	for i := range items {
		items[i] = item{make([]scalar, 0, len(n.keys)), v.Index(i)}
		for _, k := range n.keys {
			part, ok := k.of(v.Index(i))
			if !ok {
				p.failed = true
				return true
			}
			if part != nil {
				items[i].id = append(items[i].id, *part)
			}
		}
		if len(items[i].id) == 0 {
			p.failed = true
			return true
		}
	}
	return writeItems(p, v, items, n.item, added)
}

// of returns the key's value in the struct v, nil if it has none.
func (k *listKey) of(v reflect.Value) (*scalar, bool) {
	fv := k.entry.GetFrom(v)
	if k.entry.CanOmit(fv) {
		return k.otherwise, true
	}
	if fv.Kind() == reflect.Pointer {
		if fv.IsNil() {
			return nil, false
		}
		fv = fv.Elem()
	}
	part, ok := scalarOf(k.entry.JsonName, fv)
	return &part, ok
}
