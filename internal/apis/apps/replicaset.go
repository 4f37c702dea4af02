package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
	"skiff/internal/apis/fill"
)

func replicaSet() *apis.Resource {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return apis.Of[*appsv1.ReplicaSet]{
		Names: apis.Names{
			Group: "apps", Resource: "replicasets", Singular: "replicaset", Kind: "ReplicaSet",
			ShortNames: []string{"rs"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:              "v1",
		New:                  func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
		NewList:              func() runtime.Object { return &appsv1.ReplicaSetList{} },
		HasStatus:            true,
		Generation:           true,
		Default:              defaultReplicaSet,
		Validate:             validateReplicaSet,
		ValidateUpdate:       validateReplicaSetUpdate,
		ValidateStatusUpdate: validateReplicaSetStatus,
		Warnings: func(_ context.Context, r, old *appsv1.ReplicaSet) []string {
			if old == nil {
				return append(checks.PodPrefixWarnings(r.Name), templateWarnings(&r.Spec.Template)...)
			}
			if r.Generation == old.Generation {
				return nil
			}
			return templateWarnings(&r.Spec.Template)
		},
		Scale: scale(
			func(r *appsv1.ReplicaSet) **int32 { return &r.Spec.Replicas },
			func(r *appsv1.ReplicaSet) int32 { return r.Status.Replicas },
			func(r *appsv1.ReplicaSet) *metav1.LabelSelector { return r.Spec.Selector },
		),
		Columns: append(append([]metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Desired", spec["replicas"]),
			columns.Integer("Current", status["replicas"]),
			columns.Integer("Ready", status["readyReplicas"]),
			columns.AgeColumn(),
		}, templateColumns()...), selectorColumn(spec)),
		Cells: func(r *appsv1.ReplicaSet) []any {
			containers, images := columns.Containers(r.Spec.Template.Spec.Containers)
			return []any{
				r.Name, int64(ptr.Deref(r.Spec.Replicas, 1)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				columns.Age(r.CreationTimestamp), containers, images, columns.Selector(r.Spec.Selector),
			}
		},
	}.Resource()
}

func defaultReplicaSet(r *appsv1.ReplicaSet) {
	core.DefaultPodTemplateSpec(&r.Spec.Template)
	fill.Pointer(&r.Spec.Replicas, 1)
}

func validateReplicaSet(_ context.Context, r *appsv1.ReplicaSet) field.ErrorList {
	return validateReplicaSetSpec(&r.Spec, nil, field.NewPath("spec"))
}

func validateReplicaSetUpdate(_ context.Context, r, old *appsv1.ReplicaSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateReplicaSetSpec(&r.Spec, &old.Spec.Template, path)
	return append(errs, validation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
}

// validateReplicaSetSpec checks a spec; old is the template before an update.
func validateReplicaSetSpec(s *appsv1.ReplicaSetSpec, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := checks.OptionalNonnegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, checks.Nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	return append(errs, validateReplicated(s.Selector, &s.Template, old, path)...)
}

func validateReplicaSetStatus(_ context.Context, r, _ *appsv1.ReplicaSet) field.ErrorList {
	s, path := &r.Status, field.NewPath("status")
	errs := numbers{
		{"replicas", int64(s.Replicas)},
		{"fullyLabeledReplicas", int64(s.FullyLabeledReplicas)},
		{"readyReplicas", int64(s.ReadyReplicas)},
		{"availableReplicas", int64(s.AvailableReplicas)},
		{"observedGeneration", s.ObservedGeneration},
	}.nonnegative(path)
	errs = append(errs, checks.OptionalNonnegative(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	const whole = "cannot be greater than status.replicas"
	errs = append(errs, validateAtMost(s.FullyLabeledReplicas, s.Replicas, whole, path.Child("fullyLabeledReplicas"))...)
	errs = append(errs, validateAtMost(s.ReadyReplicas, s.Replicas, whole, path.Child("readyReplicas"))...)
	errs = append(errs, validateAtMost(s.AvailableReplicas, s.Replicas, whole, path.Child("availableReplicas"))...)
	return append(errs, validateAtMost(s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas", path.Child("availableReplicas"))...)
}
