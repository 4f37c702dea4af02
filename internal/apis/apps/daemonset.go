package apps

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
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

func daemonSet() *apis.Resource {
	spec, status := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc()
	r := apis.Of[*appsv1.DaemonSet]{
		Names: apis.Names{
			Group: "apps", Resource: "daemonsets", Singular: "daemonset", Kind: "DaemonSet",
			ShortNames: []string{"ds"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:              "v1",
		New:                  func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
		NewList:              func() runtime.Object { return &appsv1.DaemonSetList{} },
		HasStatus:            true,
		Generation:           true,
		Default:              defaultDaemonSet,
		PrepareCreate:        func(_ context.Context, d *appsv1.DaemonSet) { setTemplateGeneration(d, max(templateGeneration(d), 1)) },
		PrepareUpdate:        countTemplateGeneration,
		Validate:             validateDaemonSet,
		ValidateUpdate:       validateDaemonSetUpdate,
		ValidateStatusUpdate: validateDaemonSetStatus,
		Warnings: func(_ context.Context, d, old *appsv1.DaemonSet) []string {
			if old != nil && templateGeneration(d) == templateGeneration(old) {
				return nil
			}
			return templateWarnings(&d.Spec.Template)
		},
		Columns: append(append([]metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Desired", status["desiredNumberScheduled"]),
			columns.Integer("Current", status["currentNumberScheduled"]),
			columns.Integer("Ready", status["numberReady"]),
			columns.Integer("Up-to-date", status["updatedNumberScheduled"]),
			columns.Integer("Available", status["numberAvailable"]),
			columns.String("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			columns.AgeColumn(),
		}, templateColumns()...), selectorColumn(spec)),
		Cells: func(d *appsv1.DaemonSet) []any {
			containers, images := columns.Containers(d.Spec.Template.Spec.Containers)
			return []any{
				d.Name, int64(d.Status.DesiredNumberScheduled), int64(d.Status.CurrentNumberScheduled), int64(d.Status.NumberReady),
				int64(d.Status.UpdatedNumberScheduled), int64(d.Status.NumberAvailable),
				columns.Labels(d.Spec.Template.Spec.NodeSelector), columns.Age(d.CreationTimestamp),
				containers, images, columns.Selector(d.Spec.Selector),
			}
		},
	}.Resource()
	r.Hub.ToHub = readable("DaemonSet", func(annotations map[string]string) error {
		text, ok := annotations[appsv1.DeprecatedTemplateGeneration]
		if !ok {
			return nil
		}
		_, err := strconv.ParseInt(text, 10, 64)
		return err
	})
	return r
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	s := &d.Spec
	core.DefaultPodTemplateSpec(&s.Template)
	fill.Pointer(&s.RevisionHistoryLimit, 10)
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		fill.Pointer(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		fill.Pointer(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

// templateGeneration returns the number of the pod template, which v1 keeps in
// an annotation (upstream: deprecated since apps/v1beta2); 0 if there is none.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

// countTemplateGeneration makes the number follow the template and nothing
// else: users cannot set it.
func countTemplateGeneration(_ context.Context, d, old *appsv1.DaemonSet) {
	n := templateGeneration(old)
	if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func validateDaemonSet(_ context.Context, d *appsv1.DaemonSet) field.ErrorList {
	return validateDaemonSetSpec(&d.Spec, nil, field.NewPath("spec"))
}

func validateDaemonSetUpdate(_ context.Context, d, old *appsv1.DaemonSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, path.Child("selector"))
	return append(errs, validateDaemonSetSpec(&d.Spec, &old.Spec, path)...)
}

// validateDaemonSetSpec checks a spec; old is the one before an update.
func validateDaemonSetSpec(s, old *appsv1.DaemonSetSpec, path *field.Path) field.ErrorList {
	var template *corev1.PodTemplateSpec
	var tolerated metav1validation.LabelSelectorValidationOptions
	if old != nil {
		template = &old.Template
		tolerated.AllowInvalidLabelValueInSelector = metav1validation.LabelSelectorHasInvalidLabelValue(old.Selector)
	}
	errs := metav1validation.ValidateLabelSelector(s.Selector, tolerated, path.Child("selector"))
	errs = append(errs, validateMatch(s.Selector, &s.Template, path.Child("template"))...)
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, validateTemplate(&s.Template, template, path.Child("template"))...)
	errs = append(errs, validateEndless(&s.Template, "DaemonSet", path.Child("template"))...)
	errs = append(errs, checks.Nonnegative(s.MinReadySeconds, path.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&s.UpdateStrategy, path.Child("updateStrategy"))...)
	return append(errs, checks.OptionalNonnegative(s.RevisionHistoryLimit, path.Child("revisionHistoryLimit"))...)
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		path := path.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path, "")}
		}
		unavailable, surge := ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{})
		errs := checks.NumberOrPercent(unavailable, path.Child("maxUnavailable"))
		errs = append(errs, checks.NumberOrPercent(surge, path.Child("maxSurge"))...)
		errs = append(errs, checks.AtMost100Percent(unavailable, path.Child("maxUnavailable"))...)
		errs = append(errs, checks.AtMost100Percent(surge, path.Child("maxSurge"))...)
		switch {
		case !checks.IsZero(unavailable) && !checks.IsZero(surge):
			errs = append(errs, field.Invalid(path.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
		case checks.IsZero(unavailable) && checks.IsZero(surge):
			errs = append(errs, field.Required(path.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
		}
		return errs
	}
	return field.ErrorList{field.NotSupported(path, s,
		[]appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
}

func validateDaemonSetStatus(_ context.Context, d, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := numbers{
		{"currentNumberScheduled", int64(s.CurrentNumberScheduled)},
		{"numberMisscheduled", int64(s.NumberMisscheduled)},
		{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)},
		{"numberReady", int64(s.NumberReady)},
		{"observedGeneration", s.ObservedGeneration},
		{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		{"numberAvailable", int64(s.NumberAvailable)},
		{"numberUnavailable", int64(s.NumberUnavailable)},
	}.nonnegative(path)
	errs = append(errs, checks.OptionalNonnegative(s.CollisionCount, path.Child("collisionCount"))...)
	return append(errs, validateNotDecremented(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
