package apps

import (
	"context"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
	"skiff/internal/apis/fill"
)

func deployment() *apis.Resource {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	r := apis.Of[*appsv1.Deployment]{
		Names: apis.Names{
			Group: "apps", Resource: "deployments", Singular: "deployment", Kind: "Deployment",
			ShortNames: []string{"deploy"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:        "v1",
		New:            func() *appsv1.Deployment { return &appsv1.Deployment{} },
		NewList:        func() runtime.Object { return &appsv1.DeploymentList{} },
		HasStatus:      true,
		Generation:     true,
		NewGeneration:  annotationsChanged,
		Default:        defaultDeployment,
		Validate:       validateDeployment,
		ValidateUpdate: validateDeploymentUpdate,
		// Labels belong to whoever writes the spec.
		Reset:                map[string][]string{"status": {"metadata.labels"}},
		PrepareStatusUpdate:  func(_ context.Context, d, old *appsv1.Deployment) { d.Labels = old.Labels },
		ValidateStatusUpdate: validateDeploymentStatus,
		Warnings: func(_ context.Context, d, old *appsv1.Deployment) []string {
			if old == nil {
				return append(checks.PodPrefixWarnings(d.Name), templateWarnings(&d.Spec.Template)...)
			}
			if d.Generation == old.Generation {
				return nil
			}
			return templateWarnings(&d.Spec.Template)
		},
		Scale: scale(
			func(d *appsv1.Deployment) **int32 { return &d.Spec.Replicas },
			func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
			func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector },
		),
		Columns: append(append([]metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Ready", "Number of the pod with ready state"),
			columns.String("Up-to-date", status["updatedReplicas"]),
			columns.String("Available", status["availableReplicas"]),
			columns.AgeColumn(),
		}, templateColumns()...), selectorColumn(spec)),
		Cells: func(d *appsv1.Deployment) []any {
			containers, images := columns.Containers(d.Spec.Template.Spec.Containers)
			return []any{
				d.Name,
				fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 1)),
				int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
				columns.Age(d.CreationTimestamp), containers, images, columns.Selector(d.Spec.Selector),
			}
		},
	}.Resource()
	r.Hub.ToHub = readable("Deployment", func(annotations map[string]string) error {
		text := annotations[appsv1.DeprecatedRollbackTo]
		if text == "" {
			return nil
		}
		_, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("failed to parse annotation[%s]=%s as int64: %w", appsv1.DeprecatedRollbackTo, text, err)
		}
		return nil
	})
	return r
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	core.DefaultPodTemplateSpec(&s.Template)
	fill.Pointer(&s.Replicas, 1)
	fill.Pointer(&s.RevisionHistoryLimit, 10)
	fill.Pointer(&s.ProgressDeadlineSeconds, 600)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		fill.Pointer(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fill.Pointer(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

// annotationsChanged makes annotations count as a generation, since ReplicaSets
// get copies of them: the controller has work to do.
func annotationsChanged(d, old *appsv1.Deployment) bool {
	return !equality.Semantic.DeepEqual(d.Annotations, old.Annotations)
}

func validateDeployment(_ context.Context, d *appsv1.Deployment) field.ErrorList {
	return validateDeploymentSpec(d, nil, field.NewPath("spec"))
}

func validateDeploymentUpdate(_ context.Context, d, old *appsv1.Deployment) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateDeploymentSpec(d, &old.Spec.Template, path)
	return append(errs, validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
}

// validateDeploymentSpec checks a spec; old is the template before an update.
func validateDeploymentSpec(d *appsv1.Deployment, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	s := &d.Spec
	errs := checks.OptionalNonnegative(s.Replicas, path.Child("replicas"))
	errs = append(errs, validateReplicated(s.Selector, &s.Template, old, path)...)
	errs = append(errs, validateStrategy(&s.Strategy, path.Child("strategy"))...)
	errs = append(errs, checks.Nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, checks.OptionalNonnegative(s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
	// A field of older versions; what is no number has been refused already.
	if revision, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64); err == nil {
		errs = append(errs, checks.Nonnegative(revision, path.Child("rollback", "version"))...)
	}
	if deadline := s.ProgressDeadlineSeconds; deadline != nil {
		errs = append(errs, checks.Nonnegative(*deadline, path.Child("progressDeadlineSeconds"))...)
		if *deadline <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), *deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return nil
		}
		return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
	case appsv1.RollingUpdateDeploymentStrategyType:
		path := path.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path, "this should be defaulted and never be nil")}
		}
		unavailable, surge := ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{})
		errs := checks.NumberOrPercent(unavailable, path.Child("maxUnavailable"))
		errs = append(errs, checks.NumberOrPercent(surge, path.Child("maxSurge"))...)
		if checks.IsZero(unavailable) && checks.IsZero(surge) {
			errs = append(errs, field.Invalid(path.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
		}
		return append(errs, checks.AtMost100Percent(unavailable, path.Child("maxUnavailable"))...)
	}
	return field.ErrorList{field.NotSupported(path, s,
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func validateDeploymentStatus(_ context.Context, d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := numbers{
		{"observedGeneration", s.ObservedGeneration},
		{"replicas", int64(s.Replicas)},
		{"updatedReplicas", int64(s.UpdatedReplicas)},
		{"readyReplicas", int64(s.ReadyReplicas)},
		{"availableReplicas", int64(s.AvailableReplicas)},
		{"unavailableReplicas", int64(s.UnavailableReplicas)},
	}.nonnegative(path)
	errs = append(errs, checks.OptionalNonnegative(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	errs = append(errs, checks.OptionalNonnegative(s.CollisionCount, path.Child("collisionCount"))...)
	const whole = "cannot be greater than status.replicas"
	errs = append(errs, validateAtMost(s.UpdatedReplicas, s.Replicas, whole, path.Child("updatedReplicas"))...)
	errs = append(errs, validateAtMost(s.ReadyReplicas, s.Replicas, whole, path.Child("readyReplicas"))...)
	errs = append(errs, validateAtMost(s.AvailableReplicas, s.Replicas, whole, path.Child("availableReplicas"))...)
	errs = append(errs, validateAtMost(s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas", path.Child("availableReplicas"))...)
	return append(errs, validateNotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
