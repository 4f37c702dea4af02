package verbs

import (
	"context"
	"fmt"
	"math"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// scaleGVK is what scale subresources speak.
var scaleGVK = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// ReadScale returns the scale view of an object as it is read by itself.
func (r *Resource) ReadScale(obj apis.Object) (*autoscalingv1.Scale, error) {
	if path, unset := r.unset(obj); unset {
		return nil, apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", path))
	}
	return r.scaleOf(obj), nil
}

func (r *Resource) unset(obj apis.Object) (path string, unset bool) {
	if r.Scale.Unset == nil {
		return "", false
	}
	return r.Scale.Unset(obj)
}

// unsetReplicas stands in a scale for replicas that the object does not have.
const unsetReplicas = math.MinInt32

// scaleOf returns the scale view of an object.
func (r *Resource) scaleOf(obj apis.Object) *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: r.Scale.Replicas(obj)},
		Status: autoscalingv1.ScaleStatus{Replicas: r.Scale.StatusReplicas(obj), Selector: r.Scale.Selector(obj)},
	}
}

// newScaleManager makes the field manager of scales: their managers are those
// of the parent's replicas, seen through the scale.
func newScaleManager() (*managedfields.FieldManager, error) {
	r := &Resource{Resource: &apis.Resource{
		Names: apis.Names{Group: scaleGVK.Group, Resource: "scales", Kind: scaleGVK.Kind},
		Hub: apis.Version{Group: scaleGVK.Group, Version: scaleGVK.Version, Kind: scaleGVK.Kind, New: func() apis.Object {
			return &autoscalingv1.Scale{}
		}},
	}}
	r.hub = &Version{Version: &r.Hub, IsHub: true, resource: r}
	r.Versions = []*Version{r.hub}
	conv := converter{r}
	// client-go has no schema of scales, and they need none.
	return managedfields.NewDefaultFieldManager(managedfields.NewDeducedTypeConverter(), conv, conv, conv, scaleGVK, scaleGVK.GroupVersion(), "scale", nil)
}

// scaleOwners translates between the managers of an object of the version and
// those of its scale.
func (v *Version) scaleOwners(obj apis.Object) *managedfields.ScaleHandler {
	paths := managedfields.ResourcePathMappings{}
	for _, each := range v.resource.Versions {
		paths[each.GroupVersion().String()] = fieldpath.MakePathOrDie("spec", "replicas")
	}
	for version, names := range v.resource.Scale.ReplicasPaths {
		var path fieldpath.Path
		for _, name := range names {
			path = append(path, fieldpath.PathElement{FieldName: &name})
		}
		paths[schema.GroupVersion{Group: v.resource.Group, Version: version}.String()] = path
	}
	return managedfields.NewScaleHandler(obj.GetManagedFields(), v.GroupVersion(), paths)
}

// scaleChange makes a new scale of the present one, which carries its managers;
// fm keeps account of them.
type scaleChange func(fm *managedfields.FieldManager, have *autoscalingv1.Scale) (*autoscalingv1.Scale, error)

// UpdateScale sets an object's replicas to what scale says.
func (s *Server) UpdateScale(ctx context.Context, req *Request, o *metav1.UpdateOptions, scale *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
	if err := CheckUpdateOptions(o); err != nil {
		return nil, err
	}
	if err := checkName(req, scale); err != nil {
		return nil, err
	}
	return s.changeScale(ctx, req, o, func(fm *managedfields.FieldManager, have *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		if err := checkIdentity(req, scale, have, isDryRun(o.DryRun)); err != nil {
			return nil, err
		}
		return tracked(fm, have, scale.DeepCopy(), manager(ctx, o.FieldManager)), nil
	})
}

func tracked(fm *managedfields.FieldManager, have, scale *autoscalingv1.Scale, manager string) *autoscalingv1.Scale {
	have.SetGroupVersionKind(scaleGVK)
	scale.SetGroupVersionKind(scaleGVK)
	return fm.UpdateNoErrors(have, scale, manager).(*autoscalingv1.Scale)
}

// PatchScale patches the scale view.
func (s *Server) PatchScale(ctx context.Context, req *Request, t types.PatchType, patch []byte, o *metav1.PatchOptions) (*autoscalingv1.Scale, error) {
	if err := validatePatchOptions(o, t); err != nil {
		return nil, err
	}
	if t == types.ApplyYAMLPatchType {
		applied := &unstructured.Unstructured{}
		if err := decodeApply(patch, applied); err != nil {
			return nil, err
		}
		return s.changeScale(ctx, req, updateOptions(o), func(fm *managedfields.FieldManager, have *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			have.SetGroupVersionKind(scaleGVK)
			out, err := fm.Apply(have, applied.DeepCopy(), o.FieldManager, o.Force != nil && *o.Force)
			if err != nil {
				return nil, err
			}
			if err := strictApply(ctx, patch, o.FieldValidation); err != nil {
				return nil, err
			}
			return out.(*autoscalingv1.Scale), nil
		})
	}
	if t == types.StrategicMergePatchType && req.Resource().Custom != nil {
		return nil, unsupportedMedia(patchesOfCustom)
	}
	p := &textPatch{t, patch, o.FieldValidation}
	return s.changeScale(ctx, req, updateOptions(o), func(fm *managedfields.FieldManager, have *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		doc, err := EncodeJSON(scaleGVK, have)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		scale := &autoscalingv1.Scale{}
		if err := p.into(ctx, doc, scale, scaleGVK); err != nil {
			return nil, err
		}
		return tracked(fm, have, scale, manager(ctx, o.FieldManager)), nil
	})
}

func (s *Server) changeScale(ctx context.Context, req *Request, o *metav1.UpdateOptions, change scaleChange) (*autoscalingv1.Scale, error) {
	fm, err := s.scaleManager()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	r := req.Resource()
	// The object itself is changed as by its own writers, but for its managers.
	plain := *req
	plain.Subresource = ""
	e, err := s.modify(ctx, req, isDryRun(o.DryRun), func(old apis.Object) (apis.Object, error) {
		have := r.scaleOf(old)
		path, unset := r.unset(old)
		if unset {
			have.Spec.Replicas = unsetReplicas
		}
		owners := req.Version.scaleOwners(old)
		if have.ManagedFields, err = owners.ToSubresource(); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		scale, err := change(fm, have.DeepCopy())
		if err != nil {
			return nil, err
		}
		if unset && scale.Spec.Replicas == unsetReplicas {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", path))
		}
		if err := checkScale(req, scale, old); err != nil {
			return nil, err
		}
		a := s.attributes(ctx, admission.Update, req, scale, have, o, isDryRun(o.DryRun))
		if err := s.admission.Mutate(ctx, a); err != nil {
			return nil, err
		}
		if err := s.admission.Validate(ctx, a); err != nil {
			return nil, err
		}
		obj := old.DeepCopyObject().(apis.Object)
		r.Scale.SetReplicas(obj, scale.Spec.Replicas)
		s.countGeneration(req.Version, obj, old)
		managers, err := owners.ToParent(scale.ManagedFields)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		obj.SetManagedFields(managers)
		obj.SetResourceVersion(old.GetResourceVersion())
		if err := s.validateUpdate(ctx, &plain, obj, old); err != nil {
			return nil, err
		}
		return obj, nil
	})
	if err != nil {
		return nil, err
	}
	obj, err := req.Version.workingObject(ctx, e)
	if err != nil {
		return nil, err
	}
	return r.scaleOf(obj), nil
}

func checkScale(req *Request, scale *autoscalingv1.Scale, old apis.Object) error {
	if scale.Name != "" && scale.Name != req.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", scale.Name, req.Name))
	}
	if err := checkNamespace(req, scale); err != nil {
		return err
	}
	custom := req.Resource().Custom != nil
	var errs field.ErrorList
	if !custom {
		errs = validation.ValidateObjectMetaAccessor(scale, true, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	}
	if n := scale.Spec.Replicas; n < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), n, "must be greater than or equal to 0"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(scaleGVK.GroupKind(), req.Name, errs)
	}
	if uid := scale.UID; !custom && uid != "" && uid != old.GetUID() {
		r := req.qualified()
		r.Resource += "/scale"
		return apierrors.NewConflict(r, req.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID()))
	}
	return checkVersion(req, scale, old)
}
