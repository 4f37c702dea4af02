package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/unversioned"
)

func persistentVolumeClaims() *apis.Resource {
	return apis.Of[*corev1.PersistentVolumeClaim]{
		Names: apis.Names{Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim", Kind: "PersistentVolumeClaim",
			ShortNames: []string{"pvc"}, Namespaced: true},
		Version:          "v1",
		Warnings:         claimWarnings,
		New:              func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} },
		NewList:          func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
		ReturnDeleted:    true,
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Default: func(c *corev1.PersistentVolumeClaim) {
			DefaultPersistentVolumeClaimSpec(&c.Spec)
			if c.Status.Phase == "" {
				c.Status.Phase = corev1.ClaimPending
			}
			roundUp(c.Status.Capacity)
			roundUp(c.Status.AllocatedResources)
		},
		PrepareCreate: func(_ context.Context, c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			dropForeignSource(&c.Spec)
			dropUnknownSource(&c.Spec)
			alignDataSource(&c.Spec)
		},
		PrepareUpdate: func(_ context.Context, c, old *corev1.PersistentVolumeClaim) {
			if old.Spec.DataSourceRef == nil {
				dropForeignSource(&c.Spec)
			}
			if old.Spec.DataSource == nil && old.Spec.DataSourceRef == nil {
				dropUnknownSource(&c.Spec)
			}
			alignDataSource(&c.Spec)
		},
		Validate: func(_ context.Context, c *corev1.PersistentVolumeClaim) field.ErrorList {
			return ValidatePersistentVolumeClaimSpec(&c.Spec, field.NewPath("spec"))
		},
		ValidateUpdate:       validateClaimUpdate,
		HasStatus:            true,
		ValidateStatusUpdate: validateClaimStatus,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Status", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["phase"]),
			columns.String("Volume", corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()["volumeName"]),
			columns.String("Capacity", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["capacity"]),
			columns.String("Access Modes", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["accessModes"]),
			columns.String("StorageClass", "StorageClass of the pvc"),
			columns.String("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
			columns.AgeColumn(),
			columns.Wide(columns.String("VolumeMode", corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()["volumeMode"])),
		},
		Cells: claimCells,
	}.Resource()
}

func claimCells(c *corev1.PersistentVolumeClaim) []any {
	phase, capacity, modes := string(c.Status.Phase), "", ""
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if c.Spec.VolumeName != "" {
		modes = accessModesText(c.Status.AccessModes)
		storage := c.Status.Capacity[corev1.ResourceStorage]
		capacity = storage.String()
	}
	class, annotated := c.Annotations[corev1.BetaStorageClassAnnotation]
	if !annotated {
		class = ptr.Deref(c.Spec.StorageClassName, "")
	}
	return []any{c.Name, phase, c.Spec.VolumeName, capacity, modes, class, ptr.Deref(c.Spec.VolumeAttributesClassName, unset),
		columns.Age(c.CreationTimestamp), string(ptr.Deref(c.Spec.VolumeMode, unset))}
}

// DefaultPersistentVolumeClaimSpec fills in what a claim's author left out.
func DefaultPersistentVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec) {
	if spec.VolumeMode == nil {
		spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	roundUp(spec.Resources.Limits)
	roundUp(spec.Resources.Requests)
}

// dropForeignSource drops a source in another namespace, which upstream has not
// turned on.
func dropForeignSource(spec *corev1.PersistentVolumeClaimSpec) {
	if ref := spec.DataSourceRef; ref != nil && ptr.Deref(ref.Namespace, "") != "" {
		spec.DataSourceRef = nil
	}
}

// dropUnknownSource drops a dataSource of a kind that it cannot be. Clients that
// want such a source name it in dataSourceRef.
func dropUnknownSource(spec *corev1.PersistentVolumeClaimSpec) {
	from := spec.DataSource
	if from == nil || spec.DataSourceRef != nil {
		return
	}
	switch group := ptr.Deref(from.APIGroup, ""); {
	case group == "" && from.Kind == "PersistentVolumeClaim":
	case group == "snapshot.storage.k8s.io" && from.Kind == "VolumeSnapshot":
	default:
		spec.DataSource = nil
	}
}

// alignDataSource copies between dataSource and the newer dataSourceRef, which
// can also name an object in another namespace; then the former stays empty.
func alignDataSource(spec *corev1.PersistentVolumeClaimSpec) {
	switch from, ref := spec.DataSource, spec.DataSourceRef; {
	case from != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: from.APIGroup, Kind: from.Kind, Name: from.Name}
	case from == nil && ref != nil && ptr.Deref(ref.Namespace, "") == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

// ValidatePersistentVolumeClaimSpec checks the spec of a claim or of a claim
// template that stands at path.
func ValidatePersistentVolumeClaimSpec(spec *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	return validateClaimSpec(spec, at, false)
}

// validateClaimSpec takes any name of a source's group if anyGroup is true.
func validateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, at *field.Path, anyGroup bool) field.ErrorList {
	var p problems
	if len(spec.AccessModes) == 0 {
		p.missing(at.Child("accessModes"), "at least 1 access mode is required")
	}
	if spec.Selector != nil {
		p.add(metav1validation.ValidateLabelSelector(spec.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector")))
	}
	p.accessModes(at.Child("accessModes"), spec.AccessModes)
	storage := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := spec.Resources.Requests[corev1.ResourceStorage]; ok {
		p.positive(storage, q)
	} else {
		p.required(storage)
	}
	if class := ptr.Deref(spec.StorageClassName, ""); class != "" {
		p.className(at.Child("storageClassName"), class)
	}
	anyOf(&p, at.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	from, ref := spec.DataSource, spec.DataSourceRef
	if from != nil {
		p.dataSource(at.Child("dataSource"), from.APIGroup, from.Kind, from.Name, anyGroup)
	}
	if ref != nil {
		at := at.Child("dataSourceRef")
		p.dataSource(at, ref.APIGroup, ref.Kind, ref.Name, anyGroup)
		if ns := ptr.Deref(ref.Namespace, ""); ns != "" {
			p.invalids(at.Child("namespace"), ns, apivalidation.ValidateNamespaceName(ns, false))
		}
	}
	if from != nil && ref != nil {
		if ptr.Deref(ref.Namespace, "") != "" {
			p.invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
		} else if !ptr.Equal(from.APIGroup, ref.APIGroup) || from.Kind != ref.Kind || from.Name != ref.Name {
			p.invalid(at, at.Child("dataSource"), "must match dataSourceRef")
		}
	}
	if class := ptr.Deref(spec.VolumeAttributesClassName, ""); class != "" {
		p.className(at.Child("volumeAttributesClassName"), class)
	}
	return p.list()
}

func (p *problems) positive(at *field.Path, q resource.Quantity) {
	if q.Sign() <= 0 {
		p.invalid(at, q.String(), "must be greater than zero")
	}
}

func (p *problems) dataSource(at *field.Path, group *string, kind, name string, anyGroup bool) {
	p.requiredText(at, "name", name, "kind", kind)
	if g := ptr.Deref(group, ""); g != "" {
		if !anyGroup {
			p.dnsSubdomain(at.Child("apiGroup"), g)
		}
	} else if kind != "PersistentVolumeClaim" {
		p.invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
}

// validateClaimUpdate: what a claim asks for is fixed, because it was counted
// against quota, but for the volume once, the class once, and, when bound, the
// size and the attributes.
func validateClaimUpdate(_ context.Context, c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	spec := field.NewPath("spec")
	from, ref := old.Spec.DataSource, old.Spec.DataSourceRef
	grouped := from != nil && from.APIGroup != nil || ref != nil && ref.APIGroup != nil
	p := problems(tolerate(validateClaimSpec(&c.Spec, spec, grouped), func() field.ErrorList {
		return validateClaimSpec(&old.Spec, spec, grouped)
	}))
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName
	}
	oldClass, hadClass := old.Annotations[corev1.BetaStorageClassAnnotation]
	if class, has := c.Annotations[corev1.BetaStorageClassAnnotation]; class != oldClass && (has || ptr.Deref(now.StorageClassName, "") != oldClass) {
		p.invalid(field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation), class, apivalidation.FieldImmutableErrorMsg)
	}
	if was.StorageClassName == nil && now.StorageClassName != nil && (!hadClass || *now.StorageClassName == oldClass) {
		now.StorageClassName = nil
	}
	size, oldSize := now.Resources.Requests[corev1.ResourceStorage], was.Resources.Requests[corev1.ResourceStorage]
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = oldSize
		}
		now.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !apiequality.Semantic.DeepEqual(now, was) {
		p.forbidden(spec, fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", unversioned.Diff(*was, *now)))
	}
	// A claim whose expansion failed can be asked to be smaller again, but not
	// smaller than it is.
	if size.Cmp(oldSize) < 0 && size.Cmp(old.Status.Capacity[corev1.ResourceStorage]) <= 0 {
		p.forbidden(spec.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	p.immutable(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Status.CurrentVolumeAttributesClassName != nil && !ptr.Equal(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
		class := spec.Child("volumeAttributesClassName")
		if to := c.Spec.VolumeAttributesClassName; to == nil {
			p.forbidden(class, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")
		} else if *to == "" {
			p.forbidden(class, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")
		}
	}
	return p.list()
}

func validateClaimStatus(_ context.Context, c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var p problems
	status := field.NewPath("status")
	if len(c.Spec.AccessModes) == 0 {
		p.required(field.NewPath("Spec", "accessModes"))
	}
	nonNegative := func(at *field.Path, list corev1.ResourceList, name corev1.ResourceName) {
		if q := list[name]; q.Sign() < 0 {
			p.invalid(at.Key(string(name)), q.Value(), "must be a valid resource quantity")
		}
	}
	for _, name := range sortedNames(c.Status.Capacity) {
		nonNegative(status.Child("capacity"), c.Status.Capacity, name)
	}
	states := []corev1.ClaimResourceStatus{corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending}
	for name, state := range c.Status.AllocatedResourceStatuses {
		at := status.Child("allocatedResourceStatuses")
		p.claimResource(at, name)
		if !contains(states, state) {
			p.one(field.NotSupported(at, name, states))
		}
	}
	for _, name := range sortedNames(c.Status.AllocatedResources) {
		if at := status.Child("allocatedResources"); p.claimResource(at, name) {
			nonNegative(at, c.Status.AllocatedResources, name)
		}
	}
	return p.list()
}

// claimResource checks what a claim may be about, and tells whether it is good.
func (p *problems) claimResource(at *field.Path, name corev1.ResourceName) bool {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		p.invalids(at, string(name), messages)
		return false
	}
	if isNative(name) && name != corev1.ResourceStorage {
		p.one(field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage}))
		return false
	}
	return true
}
