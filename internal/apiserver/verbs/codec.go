package verbs

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

// protobufMagic starts every stored or sent protobuf envelope (upstream's
// "k8s" followed by a zero byte); a runtime.Unknown message follows.
var protobufMagic = []byte{'k', '8', 's', 0}

// protobufMarshaler is what generated messages have.
type protobufMarshaler interface {
	Size() int
	MarshalTo(data []byte) (int, error)
	MarshalToSizedBuffer(data []byte) (int, error)
}

type protobufUnmarshaler interface {
	Unmarshal(data []byte) error
}

// storageEncode makes the stored form of a hub object, upstream's: protobuf
// in its envelope, or JSON for types without protobuf (custom resources). The
// object's resource version must be empty: it is the store's revision.
func storageEncode(v *apis.Version, obj apis.Object) ([]byte, error) {
	m, ok := obj.(protobufMarshaler)
	if !ok {
		obj.GetObjectKind().SetGroupVersionKind(v.GVK())
		return json.Marshal(obj)
	}
	return Envelope(v, m)
}

// storedAsJSON are the groups of which upstream stores JSON.
var storedAsJSON = map[string]bool{"apiextensions.k8s.io": true, "apiregistration.k8s.io": true}

// Envelope returns obj's protobuf form in upstream's envelope.
func Envelope(v *apis.Version, obj protobufMarshaler) ([]byte, error) {
	apiVersion, kind := v.GVK().ToAPIVersionAndKind()
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}}
	size := obj.Size()
	// Raw takes a tag byte and a varint of at most ten bytes more.
	buf := make([]byte, len(protobufMagic)+u.Size()+size+11)
	n, err := u.NestedMarshalTo(buf[len(protobufMagic):], obj, uint64(size))
	if err != nil {
		return nil, err
	}
	copy(buf, protobufMagic)
	return buf[:len(protobufMagic)+n], nil
}

// storageDecoder reads what storageEncode wrote.
func storageDecoder(d *apis.Resource) func([]byte) (apis.Object, error) {
	if d.Custom != nil {
		return d.Custom.Decode
	}
	return func(value []byte) (apis.Object, error) {
		obj := d.Hub.New()
		if !bytes.HasPrefix(value, protobufMagic) {
			if err := json.Unmarshal(value, obj); err != nil {
				return nil, fmt.Errorf("stored %s is not readable: %w", d.Kind, err)
			}
			return obj, nil
		}
		var u runtime.Unknown
		if err := u.Unmarshal(value[len(protobufMagic):]); err != nil {
			return nil, fmt.Errorf("stored %s is not readable: %w", d.Kind, err)
		}
		// Another API server may have stored one of the older versions.
		toHub := func(o apis.Object) (apis.Object, error) { return o, nil }
		for i := range d.Other {
			v := &d.Other[i]
			if apiVersion, kind := v.GVK().ToAPIVersionAndKind(); u.APIVersion == apiVersion && u.Kind == kind && v.ToHub != nil {
				obj, toHub = v.New(), v.ToHub
			}
		}
		target, ok := obj.(protobufUnmarshaler)
		if !ok {
			return nil, fmt.Errorf("stored %s is protobuf, but the type has no such form", d.Kind)
		}
		if err := target.Unmarshal(u.Raw); err != nil {
			return nil, fmt.Errorf("stored %s is not readable: %w", d.Kind, err)
		}
		return toHub(obj)
	}
}
