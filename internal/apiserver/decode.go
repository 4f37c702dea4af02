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

	"skiff/internal/apis"
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

// decoder reads bodies of one kind: one that says another kind is refused, one
// that says none is taken to be right.
type decoder struct {
	gvk schema.GroupVersionKind
	// oldVersions of the kind have the same fields and are read as well.
	oldVersions []string
	// fieldValidation says what comes of unknown and duplicate fields.
	fieldValidation string
	// version is that of the objects, if they are a resource's.
	version *verbs.Version
}

// decoderOf reads objects of the version.
func decoderOf(v *verbs.Version, fieldValidation string) decoder {
	return decoder{gvk: v.GVK(), fieldValidation: fieldValidation, version: v}
}

// request reads the request's body into obj.
func (d decoder) request(r *http.Request, obj runtime.Object) error {
	media, err := bodyMedia(r)
	if err != nil {
		return err
	}
	data, err := readBody(r)
	if err != nil {
		return err
	}
	if err := d.decode(r.Context(), media, data, obj); err != nil {
		return err
	}
	recordRequest(r.Context(), obj, d.gvk)
	return nil
}

// decode reads data, which is in the serialisation, into obj.
func (d decoder) decode(ctx context.Context, media string, data []byte, obj runtime.Object) error {
	var strict []error
	switch media {
	case mediaProtobuf:
		return d.protobuf(data, obj)
	case mediaCBOR:
		js, err := jsonOfCBOR(data)
		if err != nil {
			return err
		}
		data = js
	case mediaYAML:
		js, err := yaml.YAMLToJSON(data)
		if err != nil {
			return unrecognized(d.gvk, data, err.Error())
		}
		if _, err := yaml.YAMLToJSONStrict(data); err != nil {
			strict = doubled(ctx, err, d.fieldValidation)
		}
		data = js
	}
	said, err := verbs.KindOf(data)
	if err != nil {
		return unrecognized(d.gvk, data, err.Error())
	}
	_, custom := obj.(*unstructured.Unstructured)
	if !custom {
		if err := d.checkKind(said); err != nil {
			return err
		}
	}
	if err := verbs.WithStrict(ctx, strict, d.json(ctx, data, obj), d.fieldValidation); err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return err
		}
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", d.gvk.Kind, d.gvk.Version, d.gvk.Kind, err))
	}
	if custom {
		if err := checkCustomKind(said, d.gvk); err != nil {
			return err
		}
		obj.GetObjectKind().SetGroupVersionKind(d.gvk)
	} else {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return nil
}

func (d decoder) json(ctx context.Context, data []byte, obj runtime.Object) error {
	if d.version != nil {
		return d.version.DecodeJSON(ctx, data, obj.(apis.Object), d.fieldValidation)
	}
	return verbs.DecodeJSON(ctx, data, obj, d.fieldValidation)
}

func (d decoder) protobuf(data []byte, obj runtime.Object) error {
	var u runtime.Unknown
	if !bytes.HasPrefix(data, []byte("k8s\x00")) {
		return unrecognized(d.gvk, data, "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
	}
	if err := u.Unmarshal(data[4:]); err != nil {
		return unrecognized(d.gvk, data, err.Error())
	}
	if err := d.checkKind(schema.FromAPIVersionAndKind(u.APIVersion, u.Kind)); err != nil {
		return err
	}
	m, ok := obj.(interface{ Unmarshal([]byte) error })
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("%s has no protobuf form: send application/json", d.gvk))
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return apierrors.NewBadRequest("decoding protobuf: " + err.Error())
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

func (d decoder) checkKind(said schema.GroupVersionKind) error {
	if said.GroupKind() == d.gvk.GroupKind() && slices.Contains(d.oldVersions, said.Version) {
		return nil
	}
	if (said.Kind == "" || said.Kind == d.gvk.Kind) && (said.GroupVersion().Empty() || said.GroupVersion() == d.gvk.GroupVersion()) {
		return nil
	}
	return verbs.OtherKind(said, d.gvk)
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
