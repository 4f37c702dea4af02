package apps

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
)

// validateReplicated checks a selector and the template of the pods that it
// must select; old is the template before an update. Upstream shares the texts,
// so ReplicaSets are told of deployments and Deployments of ReplicaSets.
func validateReplicated(s *metav1.LabelSelector, t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := validateSelector(s, "deployment", path.Child("selector"))
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return append(errs, field.Invalid(path.Child("selector"), s, "invalid label selector"))
	}
	errs = append(errs, validateMatch(s, t, path.Child("template"))...)
	errs = append(errs, validateTemplate(t, old, path.Child("template"))...)
	return append(errs, validateEndless(t, "ReplicaSet", path.Child("template"))...)
}

// validateTemplate checks a pod template; old is the one before an update.
func validateTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	if old == nil {
		return core.ValidatePodTemplateSpec(t, path)
	}
	return core.ValidatePodTemplateSpecUpdate(t, old, path)
}

// validateSelector checks the selector of a workload of some kind, which must
// say something.
func validateSelector(s *metav1.LabelSelector, kind string, path *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, s, "empty selector is invalid for "+kind))
	}
	return errs
}

// readable refuses objects whose annotations hold what fields of older versions
// held, in a form that upstream could not read.
func readable(kind string, read func(annotations map[string]string) error) func(apis.Object) (apis.Object, error) {
	return func(obj apis.Object) (apis.Object, error) {
		if err := read(obj.GetAnnotations()); err != nil {
			return nil, fmt.Errorf("%s in version \"v1\" cannot be handled as a %s: %w", kind, kind, err)
		}
		return obj, nil
	}
}

// templateWarnings tells what is allowed in a workload's template but hardly
// meant.
func templateWarnings(t *corev1.PodTemplateSpec) []string {
	return core.PodTemplateWarnings(t, field.NewPath("spec", "template"))
}

// validateMatch refuses a template whose pods the selector would not find.
// A selector that cannot be parsed has been refused already.
func validateMatch(s *metav1.LabelSelector, t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || selector.Matches(labels.Set(t.Labels)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")}
}

// validateEndless refuses templates whose pods are meant to end.
func validateEndless(t *corev1.PodTemplateSpec, kind string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// numbers are those of a status, by the names of their fields.
type numbers []struct {
	field string
	n     int64
}

func (ns numbers) nonnegative(path *field.Path) (errs field.ErrorList) {
	for _, number := range ns {
		errs = append(errs, checks.Nonnegative(number.n, path.Child(number.field))...)
	}
	return errs
}

// validateNotDecremented checks a status's count of hash collisions, which must
// never go back: names would be used again.
func validateNotDecremented(count, old *int32, path *field.Path) field.ErrorList {
	if old == nil || count != nil && *count >= *old {
		return nil
	}
	return field.ErrorList{field.Invalid(path, ptr.Deref(count, 0), "cannot be decremented")}
}

// validateAtMost refuses a part of a status that exceeds the whole.
func validateAtMost(part, whole int32, detail string, path *field.Path) field.ErrorList {
	if part <= whole {
		return nil
	}
	return field.ErrorList{field.Invalid(path, part, detail)}
}

// templateColumns are the wide columns that tell what a workload runs.
func templateColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		columns.Wide(columns.String("Containers", "Names of each container in the template.")),
		columns.Wide(columns.String("Images", "Images referenced by each container in the template.")),
	}
}

func selectorColumn(docs map[string]string) metav1.TableColumnDefinition {
	return columns.Wide(columns.String("Selector", docs["selector"]))
}

// scale declares the scale subresource of a workload.
func scale[T apis.Object](replicas func(T) **int32, status func(T) int32, selector func(T) *metav1.LabelSelector) *apis.Scale {
	return &apis.Scale{
		Replicas: func(o apis.Object) int32 {
			if n := *replicas(o.(T)); n != nil {
				return *n
			}
			return 0
		},
		SetReplicas:    func(o apis.Object, n int32) { *replicas(o.(T)) = &n },
		StatusReplicas: func(o apis.Object) int32 { return status(o.(T)) },
		Selector: func(o apis.Object) string {
			s, err := metav1.LabelSelectorAsSelector(selector(o.(T)))
			if err != nil {
				return ""
			}
			return s.String()
		},
	}
}
