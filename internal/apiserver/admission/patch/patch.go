// Package patch makes the changes to an object that admission webhooks and
// policies answer.
package patch

import (
	"context"
	"fmt"
	"reflect"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// maxOperations bounds a patch, as it does for patches that clients send.
const maxOperations = 10000

// Operations are a JSON patch (RFC 6902).
type Operations = jsonpatch.Patch

// Decode reads a JSON patch.
func Decode(data []byte) (Operations, error) {
	ops, err := jsonpatch.DecodePatch(data)
	if err == nil && len(ops) > maxOperations {
		return nil, fmt.Errorf("the patch has %d operations, the allowed maximum is %d", len(ops), maxOperations)
	}
	return ops, err
}

// Replace makes the write's object what document, its JSON form in version v,
// says, and reports whether that changed it. If strict is set, the document must
// have no fields that the type lacks.
func Replace(ctx context.Context, a *admission.Attributes, v *apis.Version, document []byte, strict bool) (changed bool, err error) {
	var obj runtime.Object
	if a.Codec != nil {
		if obj, err = a.Codec.Read(ctx, document, v, strict); err != nil {
			return false, err
		}
	} else {
		// A subresource's own kind has a single version.
		obj = reflect.New(reflect.TypeOf(a.Object).Elem()).Interface().(runtime.Object)
		unknown, err := kjson.UnmarshalStrict(document, obj)
		if err != nil {
			return false, err
		}
		if strict && len(unknown) > 0 {
			return false, runtime.NewStrictDecodingError(unknown)
		}
		obj.GetObjectKind().SetGroupVersionKind(a.Object.GetObjectKind().GroupVersionKind())
	}
	if equality.Semantic.DeepEqual(a.Object, obj) {
		return false, nil
	}
	// The object is known to those who have the write carried out by its
	// address.
	reflect.ValueOf(a.Object).Elem().Set(reflect.ValueOf(obj).Elem())
	return true, nil
}
