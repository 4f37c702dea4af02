package cache

import (
	"reflect"
	"slices"
	"strconv"
	"sync/atomic"

	"skiff/internal/apis"
	"skiff/internal/store"
)

// Entry is one object at one revision. It is immutable and shared by all.
type Entry struct {
	Key string
	// Revision is the store revision of this state (the resource version);
	// Created that of the object's creation.
	Revision, Created int64

	collection *Collection
	// size is that of the stored form, in bytes.
	size        int
	content     atomic.Pointer[content]
	encodings   atomic.Pointer[encoding]
	conversions atomic.Pointer[conversion]
}

// content is what an entry holds: its stored form until that is decoded, and
// then the object, or why there is none. Some collections keep the stored form.
type content struct {
	value  []byte
	object apis.Object
	err    error
}

// Format names one wire form of an object.
type Format struct {
	// Version is the served group/version, Media a short name of the
	// serialisation.
	Version, Media string
}

type encoding struct {
	format Format
	data   []byte
	next   *encoding
}

// Object returns the decoded object with its resource version. It is shared:
// whoever wants to change it copies it first.
func (e *Entry) Object() (apis.Object, error) {
	c := e.content.Load()
	if c.object != nil || c.err != nil {
		return c.object, c.err
	}
	if f := e.collection.fleeting; f != nil {
		d := f.load(e)
		return d.object, d.err
	}
	d := &content{}
	d.object, d.err = e.decode(c.value)
	if e.collection.keepStored {
		d.value = c.value
	}
	// Two readers may both have decoded; all must see the same object.
	e.content.CompareAndSwap(c, d)
	d = e.content.Load()
	return d.object, d.err
}

func (e *Entry) decode(value []byte) (apis.Object, error) {
	obj, err := e.collection.decode(value)
	if err == nil {
		obj.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
	}
	return obj, err
}

// Encoded returns the object's form f, made by encode the first time it is
// asked for. It is shared, and has no room behind it: appending to it copies.
func (e *Entry) Encoded(f Format, encode func(apis.Object) ([]byte, error)) ([]byte, error) {
	for n := e.encodings.Load(); n != nil; n = n.next {
		if n.format == f {
			return n.data, nil
		}
	}
	obj, err := e.Object()
	if err != nil {
		return nil, err
	}
	data, err := encode(obj)
	if err != nil {
		return nil, err
	}
	data = slices.Clip(data)
	if e.collection != nil && e.collection.fleeting != nil {
		return data, nil
	}
	node := &encoding{format: f, data: data}
	for {
		node.next = e.encodings.Load()
		if e.encodings.CompareAndSwap(node.next, node) {
			return data, nil
		}
	}
}

// conversion is the object in another version than the stored one.
type conversion struct {
	version string
	object  apis.Object
	next    *conversion
}

// Converted returns the object in the version, if Convert was given it.
func (e *Entry) Converted(version string) (apis.Object, bool) {
	for n := e.conversions.Load(); n != nil; n = n.next {
		if n.version == version {
			return n.object, true
		}
	}
	return nil, false
}

// Convert keeps obj as the object in the version and returns the one that all
// readers see.
func (e *Entry) Convert(version string, obj apis.Object) apis.Object {
	node := &conversion{version: version, object: obj}
	for {
		node.next = e.conversions.Load()
		if have, ok := e.Converted(version); ok {
			return have
		}
		if e.conversions.CompareAndSwap(node.next, node) {
			return obj
		}
	}
}

// DetachedEntry makes an entry of an object that is not in the store: the
// result of a dry run, or an object as it was at an older revision.
func DetachedEntry(key string, obj apis.Object) *Entry {
	rev, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	e := &Entry{Key: key, Revision: rev}
	e.content.Store(&content{object: obj})
	return e
}

// newEntry makes an entry of what is stored; obj is what it decodes to, if that
// is known.
func newEntry(c *Collection, kv store.KV, obj any) *Entry {
	e := &Entry{Key: kv.Key, Revision: kv.ModRevision, Created: kv.CreateRevision, collection: c, size: len(kv.Value)}
	o, known := obj.(apis.Object)
	if known {
		o.SetResourceVersion(strconv.FormatInt(kv.ModRevision, 10))
	}
	switch {
	case !known:
		e.content.Store(&content{value: kv.Value})
	case c.fleeting != nil:
		e.content.Store(&content{value: kv.Value})
		c.fleeting.keep(e, &content{object: o})
	case c.keepStored:
		e.content.Store(&content{value: kv.Value, object: o})
	default:
		e.content.Store(&content{object: o})
	}
	return e
}

// tombstone is the last state of a deleted object, carrying the revision of
// its deletion as upstream's DELETED events do.
func (e *Entry) tombstone(rev int64) *Entry {
	t := &Entry{Key: e.Key, Revision: rev, Created: e.Created, collection: e.collection}
	obj, err := e.Object()
	if err == nil {
		obj = ShallowCopy(obj)
		obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	}
	t.content.Store(&content{object: obj, err: err})
	return t
}

// ShallowCopy returns a copy of obj whose direct fields (and metadata's) can
// be set without changing obj; everything behind a pointer, map or slice stays
// shared.
func ShallowCopy(obj apis.Object) apis.Object {
	v := reflect.ValueOf(obj).Elem()
	if v.Kind() != reflect.Struct || v.Type().NumField() < 2 {
		return obj.DeepCopyObject().(apis.Object)
	}
	if _, ok := obj.(interface{ UnstructuredContent() map[string]any }); ok {
		return obj.DeepCopyObject().(apis.Object)
	}
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	return c.Interface().(apis.Object)
}
