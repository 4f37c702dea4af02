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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
	"skiff/internal/store/cache"
)

// maxPatchOperations bounds a JSON patch, as upstream does.
const maxPatchOperations = 10000

// patchTypes are the media types of a patch.
var patchTypes = map[types.PatchType]bool{
	types.JSONPatchType: true, types.MergePatchType: true,
	types.StrategicMergePatchType: true, types.ApplyYAMLPatchType: true,
}

// Patch changes the object that req names. created tells that an apply made
// it.
func (s *Server) Patch(ctx context.Context, req *Request, t types.PatchType, patch []byte, o *metav1.PatchOptions) (e *cache.Entry, created bool, err error) {
	if !patchTypes[t] {
		return nil, false, unsupportedMedia("application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml")
	}
	if err := validatePatchOptions(o, t); err != nil {
		return nil, false, err
	}
	ctx = authz.WithVerb(ctx, "patch")
	if t == types.ApplyYAMLPatchType {
		return s.apply(ctx, req, patch, o)
	}
	uo := &metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	e, err = s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		obj, err := s.patched(ctx, req, old, t, patch, o.FieldValidation)
		if err != nil {
			return nil, err
		}
		return s.admitUpdate(ctx, req, obj, old, uo, true)
	})
	return e, false, err
}

// patched returns old with the patch applied, in the hub version and
// defaulted.
func (s *Server) patched(ctx context.Context, req *Request, old apis.Object, t types.PatchType, patch []byte, fieldValidation string) (apis.Object, error) {
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
	if t == types.StrategicMergePatchType && req.Resource().Custom == nil {
		err = mergeStrategically(ctx, doc, patch, obj, fieldValidation)
	} else {
		err = patchText(ctx, req, doc, t, patch, obj, fieldValidation)
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

// patchText applies a patch of text to a document and reads the result into obj.
func patchText(ctx context.Context, req *Request, doc []byte, t types.PatchType, patch []byte, obj apis.Object, fieldValidation string) error {
	found, err := strictPatch(t, patch, fieldValidation)
	if err != nil {
		return err
	}
	out, err := applyPatch(doc, t, patch)
	if err != nil {
		return err
	}
	gvk := req.Version.GVK()
	if req.Resource().Custom == nil {
		if err := CheckKind(out, gvk); err != nil {
			return patchResultError(string(out), err)
		}
	}
	err = req.Version.DecodeJSON(ctx, out, obj, fieldValidation)
	if err := WithStrict(ctx, found, err, fieldValidation); err != nil {
		return patchResultError(string(out), err)
	}
	if got := obj.GetObjectKind().GroupVersionKind(); got != gvk && req.Resource().Custom != nil {
		return invalid(req.Resource(), req.Name, kindErrors(got, gvk))
	}
	return nil
}

// mergeStrategically applies a strategic merge patch to a document and puts the
// result into obj, whose type says how its fields are merged.
func mergeStrategically(ctx context.Context, doc, patch []byte, obj apis.Object, fieldValidation string) error {
	var original, change map[string]any
	strict := fieldValidation != metav1.FieldValidationIgnore
	var found []error
	var err error
	if strict {
		found, err = kjson.UnmarshalStrict(patch, &change)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(patch, &change)
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
	if err := WithStrict(ctx, found, err, fieldValidation); err != nil {
		return patchResultError(fmt.Sprintf("%+v", change), err)
	}
	return nil
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

type jsonPatchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// strictPatch finds duplicate and unknown fields in a patch's own text.
func strictPatch(t types.PatchType, patch []byte, fieldValidation string) ([]error, error) {
	var into any = &map[string]any{}
	if t == types.JSONPatchType {
		into = &[]jsonPatchOp{}
	}
	if fieldValidation == metav1.FieldValidationIgnore {
		return nil, nil
	}
	found, err := kjson.UnmarshalStrict(patch, into)
	if err != nil {
		text := strings.ReplaceAll(err.Error(), "verbs.jsonPatchOp", "handlers.jsonPatchOp") // as upstream calls it
		return nil, apierrors.NewBadRequest("error decoding patch: " + text)
	}
	if t == types.JSONPatchType {
		for i, e := range found {
			found[i] = fmt.Errorf("json patch %w", e)
		}
	}
	return found, nil
}

// patchResultError says that the document that a patch made is no object.
func patchResultError(out string, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), out, err.Error())})
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

// applyPatch applies a patch of text to a JSON document.
func applyPatch(doc []byte, t types.PatchType, patch []byte) ([]byte, error) {
	switch t {
	case types.JSONPatchType:
		p, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if len(p) > maxPatchOperations {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(p)))
		}
		out, err := applyOperations(p, doc)
		if err != nil {
			return nil, unprocessable()
		}
		return out, nil
	case types.MergePatchType:
		if !json.Valid(patch) {
			return nil, apierrors.NewBadRequest("error decoding patch: invalid JSON document")
		}
		out, err := jsonpatch.MergePatch(doc, patch)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, nil
	case types.StrategicMergePatchType:
		return nil, unsupportedMedia("application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")
	}
	return nil, fmt.Errorf("unknown patch type %s", t)
}

func unsupportedMedia(accepted string) error {
	e := apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", schemaGroup, "", "", 0, false)
	e.ErrStatus.Message = "the body of the request was in an unknown format - accepted media types include: " + accepted
	e.ErrStatus.Details = nil
	return e
}

var schemaGroup = metav1.SchemeGroupVersion.WithResource("").GroupResource()

// unprocessable is the answer to a patch that cannot be applied.
func unprocessable() error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "", 0, false)
}

// apply is server-side apply (KEP-555).
func (s *Server) apply(ctx context.Context, req *Request, body []byte, o *metav1.PatchOptions) (*cache.Entry, bool, error) {
	fm, err := req.Version.fieldManager(req.Subresource)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	if fm == nil {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("apply is not supported for %s/%s", req.qualified(), req.Subresource))
	}
	applied := &unstructured.Unstructured{}
	if err := decodeApply(body, applied); err != nil {
		return nil, false, err
	}
	force := o.Force != nil && *o.Force
	working := req.Version.working()
	merged := func(live apis.Object) (apis.Object, error) {
		live = live.DeepCopyObject().(apis.Object)
		live.GetObjectKind().SetGroupVersionKind(working.GVK())
		out, err := fm.Apply(live, applied.DeepCopy(), o.FieldManager, force)
		if err != nil {
			return nil, err
		}
		obj, err := converter{req.Resource()}.ConvertToVersion(out, working.GroupVersion())
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if err := strictApply(ctx, body, o.FieldValidation); err != nil {
			return nil, err
		}
		hub := obj.(apis.Object)
		clearKind(hub)
		if prune := working.Prune; prune != nil {
			// What was merged is read like what is sent.
			if _, err := prune(hub); err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
		}
		if err := checkName(req, hub); err != nil {
			return nil, err
		}
		if d := req.Resource().Default; d != nil {
			d(hub)
		}
		return hub, nil
	}
	uo := &metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	for range nameAttempts {
		e, err := s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
			obj, err := merged(old)
			if err != nil {
				return nil, err
			}
			if sub := req.Resource().subresource(req.Subresource); sub != nil {
				owners := obj.GetManagedFields()
				if obj, err = edited(ctx, sub, obj, old); err != nil {
					return nil, err
				}
				obj.SetManagedFields(owners)
			}
			return s.admitUpdate(ctx, req, obj, old, uo, false)
		})
		if !apierrors.IsNotFound(err) || req.Subresource != "" {
			return e, false, err
		}
		if uid := applied.GetUID(); uid != "" {
			return nil, false, conflictError(req, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
		}
		obj, err := merged(working.Version.New())
		if err != nil {
			return nil, false, err
		}
		forgetVersion(obj, o.DryRun)
		e, err = s.create(ctx, req, obj, &metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager}, false)
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		return e, err == nil, err
	}
	return nil, false, conflictError(req, errors.New(modifiedText))
}

// decodeApply reads an applied configuration, without making other numbers of
// large ones.
func decodeApply(body []byte, into *unstructured.Unstructured) error {
	js, err := yaml.YAMLToJSON(body)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: error converting YAML to JSON: %v", err))
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(js, &into.Object); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: error unmarshaling JSON: while decoding JSON: %v", err))
	}
	return nil
}

// strictApply finds keys that an applied configuration has twice. What it does not
// know has been found when it was typed.
func strictApply(ctx context.Context, body []byte, fieldValidation string) error {
	if fieldValidation == metav1.FieldValidationIgnore {
		return nil
	}
	err := yaml.UnmarshalStrict(body, &map[string]any{})
	switch {
	case err == nil:
	case fieldValidation == metav1.FieldValidationStrict:
		return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
	default:
		WarnDoubled(ctx, err)
	}
	return nil
}

// WarnDoubled warns of the keys that a YAML document has twice.
func WarnDoubled(ctx context.Context, err error) {
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "line ") {
			Warn(ctx, line)
		}
	}
}
