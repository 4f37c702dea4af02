package verbs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"skiff/internal/apis"
	"skiff/internal/apis/builtin"
)

// EncodeJSON returns obj with its apiVersion and kind.
func EncodeJSON(gvk schema.GroupVersionKind, obj runtime.Object) ([]byte, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	if _, custom := obj.(*unstructured.Unstructured); custom {
		return data, nil
	}
	return WithKind(gvk, data), nil
}

// WithKind puts apiVersion and kind in front of the fields of an object that
// was encoded without them.
func WithKind(gvk schema.GroupVersionKind, data []byte) []byte {
	if bytes.HasPrefix(data, []byte(`{"kind":`)) || bytes.HasPrefix(data, []byte(`{"apiVersion":`)) {
		return data
	}
	out := AppendKind(make([]byte, 0, len(data)+64), gvk)
	if len(data) > 2 {
		out = append(out, ',')
	}
	return append(out, data[1:]...)
}

// AppendKind appends the opening of an object of the kind, up to where its
// other fields follow after a comma.
func AppendKind(dst []byte, gvk schema.GroupVersionKind) []byte {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	dst = append(dst, `{"kind":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","apiVersion":"`...)
	dst = append(dst, apiVersion...)
	return append(dst, '"')
}

// DecodeJSON reads data into obj. Unknown and duplicate fields are refused
// (with a strict decoding error), warned of or ignored as fieldValidation says
// (KEP-2885; Warn when empty).
func DecodeJSON(ctx context.Context, data []byte, obj any, fieldValidation string) error {
	if fieldValidation == metav1.FieldValidationIgnore {
		return kjson.UnmarshalCaseSensitivePreserveInts(data, obj)
	}
	strict, err := kjson.UnmarshalStrict(data, obj)
	if err != nil {
		return err
	}
	return refuseOrWarn(ctx, strict, fieldValidation)
}

// DecodeJSON reads data, an object in this version, into obj as DecodeJSON
// does. What a custom resource's schema does not know is dropped.
func (v *Version) DecodeJSON(ctx context.Context, data []byte, obj apis.Object, fieldValidation string) error {
	u, custom := obj.(*unstructured.Unstructured)
	if !custom {
		return DecodeJSON(ctx, data, obj, fieldValidation)
	}
	u.Object = nil
	strict, err := kjson.UnmarshalStrict(data, &u.Object)
	if err != nil {
		return err
	}
	if u.GetKind() == "" {
		return fmt.Errorf("Object 'Kind' is missing in '%s'", summary(data))
	}
	if v.Prune != nil && u.GetKind() == v.Kind && v.holds(obj) {
		unknown, err := v.Prune(obj)
		if err != nil {
			return err
		}
		for _, path := range unknown {
			strict = append(strict, fmt.Errorf("unknown field %q", path))
		}
	}
	return refuseOrWarn(ctx, strict, fieldValidation)
}

// summary is the beginning of a body, for error messages.
func summary(data []byte) string {
	const limit = 1024
	if len(data) > limit {
		return string(data[:limit]) + "..."
	}
	return string(data)
}

// refuseOrWarn does with unknown and duplicate fields what fieldValidation
// says.
func refuseOrWarn(ctx context.Context, strict []error, fieldValidation string) error {
	if len(strict) == 0 || fieldValidation == metav1.FieldValidationIgnore {
		return nil
	}
	if fieldValidation == metav1.FieldValidationStrict {
		return runtime.NewStrictDecodingError(strict)
	}
	for _, e := range strict {
		Warn(ctx, e.Error())
	}
	return nil
}

// WithStrict adds to the outcome of decoding an object what was found wrong in
// the text that it was made of: duplicate keys of a YAML document or a patch.
func WithStrict(ctx context.Context, found []error, outcome error, fieldValidation string) error {
	if outcome != nil {
		unknown, strict := runtime.AsStrictDecodingError(outcome)
		if !strict {
			return outcome
		}
		found = append(found, unknown.Errors()...)
	}
	return refuseOrWarn(ctx, found, fieldValidation)
}

// typeMeta is what every document should begin with; upstream's messages show it
// as it is here.
type typeMeta = struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
}

// known are the types that there are besides a request's own.
var known = sync.OnceValue(builtin.NewScheme)

// KindOf returns what kind a document says to be of.
func KindOf(data []byte) (schema.GroupVersionKind, error) {
	var meta typeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &meta); err != nil {
		return schema.GroupVersionKind{}, fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	gv, err := schema.ParseGroupVersion(meta.APIVersion)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return gv.WithKind(meta.Kind), nil
}

// CheckKind makes sure that a document says to be of no other kind than the
// given one, which is built in.
func CheckKind(data []byte, want schema.GroupVersionKind) error {
	got, err := KindOf(data)
	if err != nil {
		return err
	}
	return checkKind(got, want)
}

func checkKind(got, want schema.GroupVersionKind) error {
	if got.Kind == "" {
		got.Kind = want.Kind
	}
	if got.GroupVersion().Empty() {
		got.Group, got.Version = want.Group, want.Version
	}
	switch {
	case got == want:
		return nil
	case got.Kind == "Scale" && want.Kind == "Scale":
		return nil // it has been in several groups
	case !known().Recognizes(got):
		return fmt.Errorf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", got.Kind, got.GroupVersion())
	case got.GroupKind() == want.GroupKind():
		return nil
	}
	return fmt.Errorf("converting (%s.%s) to (%s): unknown conversion", got.Version, got.Kind, InternalName(want.GroupKind()))
}

// OtherKind refuses a body of another kind than the wanted one, which is built in.
func OtherKind(got, want schema.GroupVersionKind) error {
	err := checkKind(got, want)
	if err == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	version := want.Version
	if got.Version != "" {
		version = got.Version
	}
	kind := want.Kind
	if got.Kind != "" {
		kind = got.Kind
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", kind, version, want.Kind, err))
}

// InternalName is what upstream's messages call the type of a built-in kind.
func InternalName(gk schema.GroupKind) string {
	name, _, _ := strings.Cut(gk.Group, ".")
	if name == "" || name == "events" {
		name = "core"
	}
	return name + "." + gk.Kind
}
