package verbs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/utils/ptr"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
	"skiff/internal/apiserver/authz"
	"skiff/internal/store/cache"
)

// patchTypes are the media types of a patch.
var patchTypes = map[types.PatchType]bool{
	types.JSONPatchType: true, types.MergePatchType: true,
	types.StrategicMergePatchType: true, types.ApplyYAMLPatchType: true,
}

// Patch changes the object that req names. created tells that an apply made
// it.
func (s *Server) Patch(ctx context.Context, req *Request, t types.PatchType, patch []byte, o *metav1.PatchOptions) (e *cache.Entry, created bool, err error) {
	if !patchTypes[t] && req.Resource().Custom != nil {
		return nil, false, unsupportedMedia(patchesOfCustom)
	}
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
	p := &textPatch{t, patch, o.FieldValidation}
	e, err = s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		obj, err := p.over(ctx, req, old)
		if err != nil {
			return nil, err
		}
		return s.admitUpdate(ctx, req, obj, old, updateOptions(o), true)
	})
	return e, false, err
}

// updateOptions are the options of the update that a patch is.
func updateOptions(o *metav1.PatchOptions) *metav1.UpdateOptions {
	return &metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
}

func unsupportedMedia(accepted string) error {
	e := apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", schemaGroup, "", "", 0, false)
	e.ErrStatus.Message = "the body of the request was in an unknown format - accepted media types include: " + accepted
	e.ErrStatus.Details = nil
	return e
}

var schemaGroup = metav1.SchemeGroupVersion.WithResource("").GroupResource()

// configuration is what somebody applies, in server-side apply (KEP-555).
type configuration struct {
	fields *managedfields.FieldManager
	object *unstructured.Unstructured
	// text is what object was read from.
	text    []byte
	options *metav1.PatchOptions
}

// over returns live with the configuration merged into it, in the working version
// and defaulted.
func (c *configuration) over(ctx context.Context, req *Request, live apis.Object) (apis.Object, error) {
	working := req.Version.working()
	live = live.DeepCopyObject().(apis.Object)
	live.GetObjectKind().SetGroupVersionKind(working.GVK())
	out, err := c.fields.Apply(live, c.object.DeepCopy(), c.options.FieldManager, ptr.Deref(c.options.Force, false))
	if err != nil {
		return nil, err
	}
	converted, err := converter{req.Resource()}.ConvertToVersion(out, working.GroupVersion())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := strictApply(ctx, c.text, c.options.FieldValidation); err != nil {
		return nil, err
	}
	obj := converted.(apis.Object)
	clearKind(obj)
	if prune := working.Prune; prune != nil {
		// What was merged is read like what is sent.
		if _, err := prune(obj); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if err := checkName(req, obj); err != nil {
		return nil, err
	}
	if d := req.Resource().Default; d != nil {
		d(obj)
	}
	return obj, nil
}

// apply is server-side apply.
func (s *Server) apply(ctx context.Context, req *Request, text []byte, o *metav1.PatchOptions) (*cache.Entry, bool, error) {
	fm, err := req.Version.fieldManager(req.Subresource)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	if fm == nil {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("apply is not supported for %s/%s", req.qualified(), req.Subresource))
	}
	c := &configuration{fields: fm, object: &unstructured.Unstructured{}, text: text, options: o}
	if err := decodeApply(text, c.object); err != nil {
		return nil, false, err
	}
	for range nameAttempts {
		e, err := s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
			obj, err := c.over(ctx, req, old)
			if err != nil {
				return nil, err
			}
			return s.admitUpdate(ctx, req, obj, old, updateOptions(o), false)
		})
		if !apierrors.IsNotFound(err) || req.Subresource != "" {
			return e, false, err
		}
		if uid := c.object.GetUID(); uid != "" {
			return nil, false, conflictError(req, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
		}
		obj, err := c.over(ctx, req, req.Version.working().Version.New())
		if err != nil {
			return nil, false, err
		}
		if err := forgetVersion(obj, o.DryRun); err != nil {
			return nil, false, err
		}
		e, err = s.create(ctx, req, obj, &metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager}, false)
		if !apierrors.IsAlreadyExists(err) {
			return e, err == nil, err
		}
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
