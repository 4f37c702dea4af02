package apiserver

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"skiff/internal/apiserver/verbs"
)

// maxBody is the largest request body in bytes (upstream's default).
const maxBody = 3 << 20

func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxBody {
		return nil, tooLarge()
	}
	return data, nil
}

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
}

// decodeInto reads a body of the serialisation into obj, which must be of the
// kind: a body that says another kind is refused, one that says none is taken
// to be right.
func decodeInto(ctx context.Context, media string, data []byte, obj runtime.Object, gvk schema.GroupVersionKind, fieldValidation string) error {
	return decodeAs(ctx, media, data, obj, gvk, fieldValidation, func(data []byte) error {
		return verbs.DecodeJSON(ctx, data, obj, fieldValidation)
	})
}

// decodeAs is decodeInto with the way to read JSON, and old versions of the kind
// that have the same fields.
func decodeAs(ctx context.Context, media string, data []byte, obj runtime.Object, gvk schema.GroupVersionKind, fieldValidation string, decode func(data []byte) error, oldVersions ...string) error {
	var strict []error
	switch media {
	case mediaProtobuf:
		var u runtime.Unknown
		if !bytes.HasPrefix(data, []byte("k8s\x00")) {
			return unrecognized(gvk, data, "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
		}
		if err := u.Unmarshal(data[4:]); err != nil {
			return unrecognized(gvk, data, err.Error())
		}
		if err := checkKind(schema.FromAPIVersionAndKind(u.APIVersion, u.Kind), gvk, oldVersions); err != nil {
			return err
		}
		m, ok := obj.(interface{ Unmarshal([]byte) error })
		if !ok {
			return apierrors.NewBadRequest(fmt.Sprintf("%s has no protobuf form: send application/json", gvk))
		}
		if err := m.Unmarshal(u.Raw); err != nil {
			return apierrors.NewBadRequest("decoding protobuf: " + err.Error())
		}
		return nil
	case mediaCBOR:
		js, err := jsonOfCBOR(data)
		if err != nil {
			return err
		}
		data = js
	case mediaYAML:
		js, err := yaml.YAMLToJSON(data)
		if err != nil {
			return unrecognized(gvk, data, err.Error())
		}
		if _, err := yaml.YAMLToJSONStrict(data); err != nil {
			strict = doubled(ctx, err, fieldValidation)
		}
		data = js
	}
	_, custom := obj.(*unstructured.Unstructured)
	said, err := verbs.KindOf(data)
	if err != nil {
		return unrecognized(gvk, data, err.Error())
	}
	if !custom {
		if err := checkKind(said, gvk, oldVersions); err != nil {
			return err
		}
	}
	if err := verbs.WithStrict(ctx, strict, decode(data), fieldValidation); err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return err
		}
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, gvk.Kind, err))
	}
	if custom {
		if err := checkCustomKind(said, gvk); err != nil {
			return err
		}
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	} else {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return nil
}

// unrecognized refuses a body that is no object at all; it shows the beginning.
func unrecognized(gvk schema.GroupVersionKind, data []byte, why string) error {
	const limit = 30
	shown, more := data, ""
	if len(data) > limit {
		shown, more = data[:limit], " ..."
	}
	text := hex.EncodeToString(shown)
	switch {
	case len(data) == 0:
		text = "<empty>"
	case data[0] == '{':
		text = string(shown)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %s (%s%s)", gvk.Kind, why, text, more))
}

func checkKind(got, want schema.GroupVersionKind, oldVersions []string) error {
	if got.GroupKind() == want.GroupKind() && slices.Contains(oldVersions, got.Version) {
		return nil
	}
	if (got.Kind == "" || got.Kind == want.Kind) && (got.GroupVersion().Empty() || got.GroupVersion() == want.GroupVersion()) {
		return nil
	}
	return verbs.OtherKind(got, want)
}

func checkCustomKind(got, want schema.GroupVersionKind) error {
	if got.Kind != want.Kind {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: the request is for %s", got.Kind, got.Version, want.Kind, want))
	}
	if got.GroupVersion() != want.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	return nil
}

// doubled warns of the keys that a YAML document has twice, or returns what is
// to be refused because of them.
func doubled(ctx context.Context, err error, fieldValidation string) []error {
	switch fieldValidation {
	case metav1.FieldValidationStrict:
		return []error{err}
	case metav1.FieldValidationIgnore:
		return nil
	}
	verbs.WarnDoubled(ctx, err)
	return nil
}
