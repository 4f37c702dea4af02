package verbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"skiff/internal/apis"
)

// patchesOfCustom are the media types of patches of custom resources.
const patchesOfCustom = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"

// maxPatchOperations bounds a JSON patch, as upstream does.
const maxPatchOperations = 10000

// textPatch is a patch that is applied to the JSON form of an object.
type textPatch struct {
	kind            types.PatchType
	text            []byte
	fieldValidation string
}

// over returns old with the patch applied, in the hub version and defaulted.
func (p *textPatch) over(ctx context.Context, req *Request, old apis.Object) (apis.Object, error) {
	current, err := req.Version.FromHub(old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	gvk := req.Version.GVK()
	doc, err := EncodeJSON(gvk, current)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	obj := req.Version.Version.New()
	if req.Resource().Custom == nil {
		err = p.into(ctx, doc, obj, gvk)
	} else {
		err = p.intoCustom(ctx, req, doc, obj)
	}
	if err != nil {
		return nil, err
	}
	clearKind(obj)
	if err := checkName(req, obj); err != nil {
		return nil, err
	}
	hub, err := req.Version.ToHub(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return hub, nil
}

// into applies the patch to a document and reads the result into obj, which is of
// a built-in kind.
func (p *textPatch) into(ctx context.Context, doc []byte, obj apis.Object, gvk schema.GroupVersionKind) error {
	if p.kind == types.StrategicMergePatchType {
		return p.merge(ctx, doc, obj)
	}
	return p.change(ctx, doc, func(out []byte) error {
		if err := CheckKind(out, gvk); err != nil {
			return err
		}
		return DecodeJSON(ctx, out, obj, p.fieldValidation)
	})
}

// intoCustom does the same for a custom resource.
func (p *textPatch) intoCustom(ctx context.Context, req *Request, doc []byte, obj apis.Object) error {
	err := p.change(ctx, doc, func(out []byte) error { return req.Version.DecodeJSON(ctx, out, obj, p.fieldValidation) })
	if err != nil {
		return err
	}
	if got, want := obj.GetObjectKind().GroupVersionKind(), req.Version.GVK(); got != want {
		return invalid(req.Resource(), req.Name, kindErrors(got, want))
	}
	return nil
}

// change applies the patch to a document and has the result read.
func (p *textPatch) change(ctx context.Context, doc []byte, read func(out []byte) error) error {
	found, err := p.strict()
	if err != nil {
		return err
	}
	out, err := p.apply(doc)
	if err != nil {
		return err
	}
	if err := WithStrict(ctx, found, read(out), p.fieldValidation); err != nil {
		return patchResultError(string(out), err)
	}
	return nil
}

// merge applies a strategic merge patch to a document and puts the result into
// obj, whose type says how its fields are merged.
func (p *textPatch) merge(ctx context.Context, doc []byte, obj apis.Object) error {
	var original, change map[string]any
	strict := p.fieldValidation != metav1.FieldValidationIgnore
	var found []error
	var err error
	if strict {
		found, err = kjson.UnmarshalStrict(p.text, &change)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.text, &change)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &original); err != nil {
		return apierrors.NewInternalError(err)
	}
	out, err := strategicpatch.StrategicMergeMapPatch(original, change, obj)
	switch err {
	case nil:
	case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys, mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
		return apierrors.NewBadRequest(err.Error())
	case mergepatch.ErrNoListOfLists, mergepatch.ErrPatchContentNotMatchRetainKeys:
		return unprocessable()
	default:
		return err // as upstream, an error of the server
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(out, obj, strict)
	if err := WithStrict(ctx, found, err, p.fieldValidation); err != nil {
		return patchResultError(fmt.Sprintf("%+v", change), err)
	}
	return nil
}

type jsonPatchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// strict finds duplicate and unknown fields in the patch's own text.
func (p *textPatch) strict() ([]error, error) {
	if p.fieldValidation == metav1.FieldValidationIgnore {
		return nil, nil
	}
	var into any = &map[string]any{}
	if p.kind == types.JSONPatchType {
		into = &[]jsonPatchOp{}
	}
	found, err := kjson.UnmarshalStrict(p.text, into)
	if err != nil {
		text := strings.ReplaceAll(err.Error(), "verbs.jsonPatchOp", "handlers.jsonPatchOp") // as upstream calls it
		return nil, apierrors.NewBadRequest("error decoding patch: " + text)
	}
	if p.kind == types.JSONPatchType {
		for i, e := range found {
			found[i] = fmt.Errorf("json patch %w", e)
		}
	}
	return found, nil
}

// apply applies the patch to a document.
func (p *textPatch) apply(doc []byte) ([]byte, error) {
	switch p.kind {
	case types.JSONPatchType:
		operations, err := jsonpatch.DecodePatch(p.text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if len(operations) > maxPatchOperations {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
		}
		out, err := applyOperations(operations, doc)
		if err != nil {
			return nil, unprocessable()
		}
		return out, nil
	case types.MergePatchType:
		if !json.Valid(p.text) {
			return nil, apierrors.NewBadRequest("error decoding patch: invalid JSON document")
		}
		out, err := jsonpatch.MergePatch(doc, p.text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, nil
	case types.StrategicMergePatchType:
		return nil, unsupportedMedia(patchesOfCustom)
	}
	return nil, fmt.Errorf("unknown patch type %s", p.kind)
}

// applyOperations applies a JSON patch. The library panics at some that lack
// what their operation needs; such a patch is refused like any other bad one.
func applyOperations(p jsonpatch.Patch, doc []byte) (out []byte, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the patch has an operation that lacks its path or value, or has one of the wrong type")
		}
	}()
	return p.Apply(doc)
}

// kindErrors says that a custom object has become one of another kind.
func kindErrors(got, want schema.GroupVersionKind) (errs field.ErrorList) {
	check := func(name, got, want string) {
		if got != want {
			errs = append(errs, field.Invalid(field.NewPath(name), got, "must be "+want))
		}
	}
	check("kind", got.Kind, want.Kind)
	check("apiVersion", got.GroupVersion().String(), want.GroupVersion().String())
	return errs
}

// patchResultError says that the document that a patch made is no object.
func patchResultError(out string, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), out, err.Error())})
}

// unprocessable is the answer to a patch that cannot be applied.
func unprocessable() error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "", 0, false)
}
