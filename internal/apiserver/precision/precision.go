// Package precision gives the times in objects the precision that clients see:
// whole seconds in a metav1.Time, microseconds in a metav1.MicroTime. Objects
// that this process made never went over a wire, and would otherwise differ
// from what everybody reads of them. So would lists that are there but empty,
// which protobuf cannot say.
package precision

import (
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	timeType      = reflect.TypeFor[metav1.Time]()
	microTimeType = reflect.TypeFor[metav1.MicroTime]()
	bytesType     = reflect.TypeFor[map[string][]byte]()
)

// Rounder rounds objects of one type. It goes only where there is something to
// round; nil rounds nothing.
type Rounder struct{ round walk }

// walk rounds what is in v, and reports whether it changed anything. It writes
// nothing that is exact already: what is stored is, and may be shared.
type walk func(v reflect.Value) bool

// Of returns the rounder of the objects that a pointer of example's type can
// point to. Lists that clients see though they are empty become none if the
// objects are stored in protobuf.
func Of(example any, protobuf bool) *Rounder {
	b := builder{made: map[reflect.Type]*walk{}, lists: protobuf}
	round := b.walk(reflect.TypeOf(example).Elem())
	if round == nil {
		return nil
	}
	return &Rounder{round}
}

// Round rounds the object that pointer points to.
func (r *Rounder) Round(pointer any) {
	if r != nil {
		r.round(reflect.ValueOf(pointer).Elem())
	}
}

// builder holds the walks that are made, or being made, of types that may hold
// themselves, and whether they are about lists, too.
type builder struct {
	made  map[reflect.Type]*walk
	lists bool
}

// walk returns the walk of a type, nil if there is nothing to round in it.
func (b builder) walk(t reflect.Type) walk {
	switch {
	case t == timeType:
		return roundTime
	case t == microTimeType:
		return roundMicroTime
	case b.lists && t == bytesType:
		return emptyBytes
	case !b.reaches(t, map[reflect.Type]bool{}):
		return nil
	}
	if made := b.made[t]; made != nil {
		return func(v reflect.Value) bool { return (*made)(v) }
	}
	made := new(walk)
	b.made[t] = made
	switch t.Kind() {
	case reflect.Pointer:
		*made = throughPointer(b.walk(t.Elem()))
	case reflect.Slice, reflect.Array:
		*made = throughList(b.walk(t.Elem()))
	case reflect.Map:
		*made = throughMap(t.Elem(), b.walk(t.Elem()))
	case reflect.Struct:
		*made = b.throughStruct(t)
	}
	return *made
}

// reaches reports whether there may be something to round in a value of the
// type. Times in interfaces and in fields that are not exported are no part of
// an API.
func (b builder) reaches(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == timeType || t == microTimeType || b.lists && t == bytesType {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return b.reaches(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && (b.shownEmpty(f) || b.reaches(f.Type, seen)) {
				return true
			}
		}
	}
	return false
}

// shownEmpty reports whether clients can tell an empty list in the field from
// none.
func (b builder) shownEmpty(f reflect.StructField) bool {
	list := f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() != reflect.Uint8 || f.Type.Kind() == reflect.Map
	return b.lists && list && !strings.Contains(f.Tag.Get("json"), "omit")
}

// emptied makes an empty list none; there may be nothing to round in others.
func emptied(others walk) walk {
	return func(v reflect.Value) bool {
		if v.Len() > 0 {
			return others != nil && others(v)
		}
		there := !v.IsNil()
		if there {
			v.SetZero()
		}
		return there
	}
}

// emptyBytes makes values that are not there empty.
func emptyBytes(v reflect.Value) bool {
	changed := false
	for key, value := range v.Interface().(map[string][]byte) {
		if value == nil {
			v.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf([]byte{}))
			changed = true
		}
	}
	return changed
}

func roundTime(v reflect.Value) bool {
	t := v.Addr().Interface().(*metav1.Time)
	return set(&t.Time, time.Unix(t.Unix(), 0))
}

func roundMicroTime(v reflect.Value) bool {
	t := v.Addr().Interface().(*metav1.MicroTime)
	return set(&t.Time, time.Unix(t.Unix(), int64(t.Nanosecond())/1000*1000))
}

// set makes t exactly what a decoder makes: local, and without the reading of a
// clock of this process.
func set(t *time.Time, rounded time.Time) bool {
	if t.IsZero() || *t == rounded {
		return false
	}
	*t = rounded
	return true
}

func throughPointer(to walk) walk {
	return func(v reflect.Value) bool { return !v.IsNil() && to(v.Elem()) }
}

func throughList(each walk) walk {
	return func(v reflect.Value) bool {
		changed := false
		for i := range v.Len() {
			changed = each(v.Index(i)) || changed
		}
		return changed
	}
}

// throughMap rounds copies, as values in maps cannot be changed in place.
func throughMap(elem reflect.Type, each walk) walk {
	return func(v reflect.Value) bool {
		changed := false
		for it := v.MapRange(); it.Next(); {
			value := reflect.New(elem).Elem()
			value.Set(it.Value())
			if each(value) {
				v.SetMapIndex(it.Key(), value)
				changed = true
			}
		}
		return changed
	}
}

func (b builder) throughStruct(t reflect.Type) walk {
	type field struct {
		index int
		round walk
	}
	var fields []field
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		round := b.walk(t.Field(i).Type)
		if b.shownEmpty(t.Field(i)) {
			round = emptied(round)
		}
		if round != nil {
			fields = append(fields, field{i, round})
		}
	}
	return func(v reflect.Value) bool {
		changed := false
		for _, f := range fields {
			changed = f.round(v.Field(f.index)) || changed
		}
		return changed
	}
}
