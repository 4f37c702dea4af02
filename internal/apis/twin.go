package apis

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Twin is a further version with the same fields as the hub, whose type is H.
func Twin[H, T any, PH pointer[H], PT pointer[T]](gvk schema.GroupVersionKind, newList func() runtime.Object) Version {
	return Cousin[H, T, PH, PT](gvk, newList, nil, nil)
}

// Cousin is a further version whose fields are the hub's after toHub has changed
// an object's JSON form; fromHub does the opposite.
func Cousin[H, T any, PH pointer[H], PT pointer[T]](gvk schema.GroupVersionKind, newList func() runtime.Object, toHub, fromHub func(doc map[string]any)) Version {
	return Version{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind,
		New:     func() Object { return PT(new(T)) },
		NewList: newList,
		ToHub:   func(obj Object) (Object, error) { return translate(obj, PH(new(H)), toHub) },
		FromHub: func(hub Object) (Object, error) { return translate(hub, PT(new(T)), fromHub) },
	}
}

type pointer[T any] interface {
	*T
	Object
}

// translate fills into, which is empty, with what from says, but for its kind.
func translate(from, into Object, change func(doc map[string]any)) (Object, error) {
	data, err := json.Marshal(from)
	if err == nil && change != nil {
		data, err = changed(data, change)
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return nil, fmt.Errorf("converting %T to %T: %w", from, into, err)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return into, nil
}

func changed(data []byte, change func(doc map[string]any)) ([]byte, error) {
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // numbers stay as exact as they are
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	change(doc)
	return json.Marshal(doc)
}
