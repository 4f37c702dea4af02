package apis

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Twin is a further version with the same fields as the hub, whose type is H.
func Twin[H, T any, PH pointer[H], PT pointer[T]](gvk schema.GroupVersionKind, newList func() runtime.Object) Version {
	return Version{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind,
		New:     func() Object { return PT(new(T)) },
		NewList: newList,
		ToHub:   func(obj Object) (Object, error) { return Translate(obj, PH(new(H))) },
		FromHub: func(hub Object) (Object, error) { return Translate(hub, PT(new(T))) },
	}
}

type pointer[T any] interface {
	*T
	Object
}

// Translate fills into, which is empty, with what from says, but for its kind.
func Translate(from, into Object) (Object, error) {
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return nil, fmt.Errorf("converting %T to %T: %w", from, into, err)
	}
	into.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return into, nil
}
