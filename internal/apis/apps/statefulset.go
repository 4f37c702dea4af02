package apps

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
	"skiff/internal/apis/fill"
)

func statefulSet() *apis.Resource {
	return apis.Of[*appsv1.StatefulSet]{
		Names: apis.Names{
			Group: "apps", Resource: "statefulsets", Singular: "statefulset", Kind: "StatefulSet",
			ShortNames: []string{"sts"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:              "v1",
		New:                  func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
		NewList:              func() runtime.Object { return &appsv1.StatefulSetList{} },
		HasStatus:            true,
		Generation:           true,
		Default:              defaultStatefulSet,
		Validate:             validateStatefulSet,
		ValidateUpdate:       validateStatefulSetUpdate,
		ValidateStatusUpdate: validateStatefulSetStatus,
		ValidateName:         validation.NameIsDNSLabel, // it becomes a host name
		Warnings:             statefulSetWarnings,
		Scale: scale(
			func(s *appsv1.StatefulSet) **int32 { return &s.Spec.Replicas },
			func(s *appsv1.StatefulSet) int32 { return s.Status.Replicas },
			func(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector },
		),
		Columns: append([]metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Ready", "Number of the pod with ready state"),
			columns.AgeColumn(),
		}, templateColumns()...),
		Cells: func(s *appsv1.StatefulSet) []any {
			containers, images := columns.Containers(s.Spec.Template.Spec.Containers)
			return []any{
				s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, ptr.Deref(s.Spec.Replicas, 1)),
				columns.Age(s.CreationTimestamp), containers, images,
			}
		},
	}.Resource()
}

func statefulSetWarnings(_ context.Context, s, old *appsv1.StatefulSet) []string {
	var warnings []string
	if old == nil || s.Generation != old.Generation {
		warnings = templateWarnings(&s.Spec.Template)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		warnings = append(warnings, core.ClaimWarnings(&s.Spec.VolumeClaimTemplates[i].Spec, at)...)
	}
	if ptr.Deref(s.Spec.RevisionHistoryLimit, 0) < 0 {
		warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return warnings
}

func defaultStatefulSet(obj *appsv1.StatefulSet) {
	s := &obj.Spec
	core.DefaultPodTemplateSpec(&s.Template)
	fill.Pointer(&s.Replicas, 1)
	fill.Pointer(&s.RevisionHistoryLimit, 10)
	if s.PodManagementPolicy == "" {
		s.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		fill.Pointer(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if rolling := s.UpdateStrategy.RollingUpdate; s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && rolling != nil {
		fill.Pointer(&rolling.Partition, 0)
	}
	// The feature is not on upstream.
	if rolling := s.UpdateStrategy.RollingUpdate; rolling != nil {
		rolling.MaxUnavailable = nil
	}
	fill.Pointer(&s.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	retention := s.PersistentVolumeClaimRetentionPolicy
	if retention.WhenDeleted == "" {
		retention.WhenDeleted = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	if retention.WhenScaled == "" {
		retention.WhenScaled = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	for i := range s.VolumeClaimTemplates {
		claim := &s.VolumeClaimTemplates[i]
		claim.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
		if claim.Status.Phase == "" {
			claim.Status.Phase = corev1.ClaimPending
		}
		core.DefaultPersistentVolumeClaimSpec(&claim.Spec)
	}
}

func validateStatefulSet(_ context.Context, s *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	return validateStatefulSetSpec(&s.Spec, true, validateTemplate(completed(&s.Spec), nil, path.Child("template")), path)
}

func validateStatefulSetUpdate(_ context.Context, s, old *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	template := path.Child("template")
	// A set whose template is no longer valid can be updated all the same.
	var ofTemplate field.ErrorList
	if len(validateStatefulSetSpec(&old.Spec, false, validateTemplate(completed(&old.Spec), nil, template), path)) == 0 {
		ofTemplate = validateTemplate(completed(&s.Spec), completed(&old.Spec), template)
	}
	errs := validateStatefulSetSpec(&s.Spec, false, ofTemplate, path)

	changed := s.Spec.DeepCopy()
	changed.Replicas = old.Spec.Replicas
	changed.Ordinals = old.Spec.Ordinals
	changed.Template = old.Spec.Template
	changed.UpdateStrategy = old.Spec.UpdateStrategy
	changed.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	changed.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	changed.MinReadySeconds = old.Spec.MinReadySeconds
	if !equality.Semantic.DeepEqual(*changed, old.Spec) {
		errs = append(errs, field.Forbidden(path, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "+
			"'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

// completed returns the template as the controller completes it: with the
// volumes of the claim templates, which containers may mount, and with host
// names of its own.
func completed(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	template := s.Template
	template.Spec.Hostname, template.Spec.Subdomain = "", ""
	if len(s.VolumeClaimTemplates) == 0 {
		return &template
	}
	claimed := make(map[string]bool, len(s.VolumeClaimTemplates))
	var volumes []corev1.Volume
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if claimed[name] {
			continue
		}
		claimed[name] = true
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	for _, v := range s.Template.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	template.Spec.Volumes = volumes
	return &template
}

// validateStatefulSetSpec checks a spec; what is wrong with the template that
// pods are made from is given. The claims and the service's name are checked in
// new sets alone: they cannot change, and older servers took any.
func validateStatefulSetSpec(s *appsv1.StatefulSetSpec, isNew bool, ofTemplate field.ErrorList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch s.PodManagementPolicy {
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), s.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateStatefulSetStrategy(&s.UpdateStrategy, path.Child("updateStrategy"))...)
	errs = append(errs, validateRetention(s.PersistentVolumeClaimRetentionPolicy, path.Child("persistentVolumeClaimRetentionPolicy"))...)
	if isNew {
		errs = append(errs, validateClaims(s.VolumeClaimTemplates, path.Child("volumeClaimTemplates"))...)
	}
	errs = append(errs, checks.OptionalNonnegative(s.Replicas, path.Child("replicas"))...)
	errs = append(errs, checks.Nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	if s.Ordinals != nil {
		errs = append(errs, checks.Nonnegative(s.Ordinals.Start, path.Child("ordinals.start"))...)
	}
	if isNew && s.ServiceName != "" {
		errs = append(errs, checks.Name(s.ServiceName, path.Child("serviceName"), utilvalidation.IsDNS1123Label)...)
	}
	errs = append(errs, validateSelector(s.Selector, "statefulset", path.Child("selector"))...)
	if _, err := metav1.LabelSelectorAsSelector(s.Selector); err != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, ""))
	} else {
		errs = append(errs, validateMatch(s.Selector, &s.Template, path.Child("template"))...)
		errs = append(errs, ofTemplate...)
		errs = append(errs, metav1validation.ValidateLabels(s.Template.Labels, path.Child("template", "labels"))...)
		errs = append(errs, validation.ValidateAnnotations(s.Template.Annotations, path.Child("template", "annotations"))...)
	}
	return append(errs, validateEndless(&s.Template, "StatefulSet", path.Child("template"))...)
}

func validateClaims(claims []corev1.PersistentVolumeClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range claims {
		errs = append(errs, core.ValidatePersistentVolumeClaimSpec(&claims[i].Spec, path.Index(i).Child("spec"))...)
	}
	return errs
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	rolling, rollingPath := s.RollingUpdate, path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if rolling == nil {
			return nil
		}
		return field.ErrorList{field.Invalid(rollingPath, rolling, "only allowed for updateStrategy 'RollingUpdate'")}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if rolling == nil {
			return nil
		}
		return checks.OptionalNonnegative(rolling.Partition, rollingPath.Child("partition"))
	}
	return field.ErrorList{field.Invalid(path, *s, "must be 'RollingUpdate' or 'OnDelete'")}
}

func validateRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	check := func(v appsv1.PersistentVolumeClaimRetentionPolicyType, path *field.Path) {
		switch v {
		case appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		default:
			errs = append(errs, field.NotSupported(path, v, []appsv1.PersistentVolumeClaimRetentionPolicyType{
				appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
			}))
		}
	}
	check(p.WhenDeleted, path.Child("whenDeleted"))
	check(p.WhenScaled, path.Child("whenScaled"))
	return errs
}

func validateStatefulSetStatus(_ context.Context, obj, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &obj.Status, field.NewPath("status")
	errs := numbers{
		{"replicas", int64(s.Replicas)},
		{"readyReplicas", int64(s.ReadyReplicas)},
		{"currentReplicas", int64(s.CurrentReplicas)},
		{"updatedReplicas", int64(s.UpdatedReplicas)},
		{"availableReplicas", int64(s.AvailableReplicas)},
		{"observedGeneration", s.ObservedGeneration},
	}.nonnegative(path)
	errs = append(errs, checks.OptionalNonnegative(s.CollisionCount, path.Child("collisionCount"))...)
	const whole = "cannot be greater than status.replicas"
	errs = append(errs, validateAtMost(s.ReadyReplicas, s.Replicas, whole, path.Child("readyReplicas"))...)
	errs = append(errs, validateAtMost(s.CurrentReplicas, s.Replicas, whole, path.Child("currentReplicas"))...)
	errs = append(errs, validateAtMost(s.UpdatedReplicas, s.Replicas, whole, path.Child("updatedReplicas"))...)
	errs = append(errs, validateAtMost(s.AvailableReplicas, s.Replicas, whole, path.Child("availableReplicas"))...)
	errs = append(errs, validateAtMost(s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than status.readyReplicas", path.Child("availableReplicas"))...)
	return append(errs, validateNotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
