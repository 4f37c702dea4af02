package cache

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/apis"
	"skiff/internal/store"
)

// TestStoredFormIsDropped: an object is in memory once, unless its collection
// needs the stored form again.
func TestStoredFormIsDropped(t *testing.T) {
	decode := func([]byte) (apis.Object, error) { return &corev1.Pod{}, nil }
	kv := store.KV{Key: "/registry/pods/a/b", Value: []byte("stored"), CreateRevision: 1, ModRevision: 2}
	for _, c := range []struct {
		what    string
		keep    bool
		decoded any
	}{
		{"read", false, nil}, {"written here", false, &corev1.Pod{}},
		{"read, replaceable", true, nil}, {"written here, replaceable", true, &corev1.Pod{}},
	} {
		e := newEntry(&Collection{decode: decode, keepStored: c.keep}, kv, c.decoded)
		if e.size != len(kv.Value) {
			t.Errorf("%s: the size is %d", c.what, e.size)
		}
		obj, err := e.Object()
		if err != nil || obj.GetResourceVersion() != "2" {
			t.Fatalf("%s: %v, %v", c.what, obj, err)
		}
		if kept := e.content.Load().value != nil; kept != c.keep {
			t.Errorf("%s: the stored form is kept: %v", c.what, kept)
		}
	}
}
