package batch

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/core"
)

// Limits of indexed jobs, upstream's: they keep status.completedIndexes and
// status.failedIndexes small.
const (
	maxParallelismForIndexedJob             = 100_000
	maxFailedIndexesForIndexedJob           = 100_000
	completionsSoftLimit                    = 100_000
	parallelismLimitForHighCompletions      = 10_000
	maxFailedIndexesLimitForHighCompletions = 10_000
	maxManagedByLength                      = 63
)

func validateJob(_ context.Context, j *batchv1.Job) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateGeneratedSelector(j, true)
	errs = append(errs, validateJobSpec(&j.Spec, nil, path)...)
	errs = append(errs, validateSelector(&j.Spec, path)...)
	return append(errs, validateHostNames(j)...)
}

func validateHostNames(j *batchv1.Job) field.ErrorList {
	if n := ptr.Deref(j.Spec.Completions, 0); isIndexed(&j.Spec) && n > 0 {
		// The highest index ends up in a host name.
		if host := fmt.Sprintf("%s-%d", j.Name, n-1); len(utilvalidation.IsDNS1123Label(host)) > 0 {
			return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+host)}
		}
	}
	return nil
}

// validateGeneratedSelector finds what generateSelector could not make because
// of what the user had set. Jobs of older servers lack the prefixed labels.
func validateGeneratedSelector(j *batchv1.Job, prefixed bool) field.ErrorList {
	if ptr.Deref(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	want := labels.Set{legacyControllerUIDLabel: string(j.UID), legacyJobNameLabel: j.Name}
	keys := []string{legacyControllerUIDLabel, legacyJobNameLabel}
	if prefixed {
		want[batchv1.ControllerUidLabel], want[batchv1.JobNameLabel] = string(j.UID), j.Name
		keys = append(keys, batchv1.ControllerUidLabel, batchv1.JobNameLabel)
	}
	path := field.NewPath("spec", "template", "metadata", "labels")
	for _, key := range keys {
		switch got, found := j.Spec.Template.Labels[key]; {
		case !found:
			errs = append(errs, field.Required(path.Key(key), fmt.Sprintf("must be '%s'", want[key])))
		case got != want[key]:
			errs = append(errs, field.Invalid(path.Key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", want[key])))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(want) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

func validateSelector(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// validateJobSpec checks all but the selector; old is what was there before an
// update.
func validateJobSpec(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	errs := checks.OptionalNonnegative(s.Parallelism, path.Child("parallelism"))
	errs = append(errs, checks.OptionalNonnegative(s.Completions, path.Child("completions"))...)
	errs = append(errs, checks.OptionalNonnegative(s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, checks.OptionalNonnegative(s.BackoffLimit, path.Child("backoffLimit"))...)
	errs = append(errs, checks.OptionalNonnegative(s.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, checks.OptionalNonnegative(s.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, checks.OptionalNonnegative(s.MaxFailedIndexes, path.Child("maxFailedIndexes"))...)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		errs = append(errs, utilvalidation.IsDomainPrefixedPath(path.Child("managedBy"), *s.ManagedBy)...)
		if len(*s.ManagedBy) > maxManagedByLength {
			errs = append(errs, field.TooLong(path.Child("managedBy"), *s.ManagedBy, maxManagedByLength))
		}
	}
	errs = append(errs, validateCompletionMode(s, path)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, validatePodFailurePolicy(s, path.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		if isIndexed(s) {
			errs = append(errs, validateSuccessPolicy(s, path.Child("successPolicy"))...)
		} else {
			errs = append(errs, field.Invalid(path.Child("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode"))
		}
	}
	if policy := s.PodReplacementPolicy; policy != nil {
		supported := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
		if s.PodFailurePolicy != nil {
			// Pods that are still terminating have no known outcome yet.
			supported = supported[:1]
		}
		errs = append(errs, checks.Supported(*policy, path.Child("podReplacementPolicy"), supported...)...)
	}
	if template := path.Child("template"); old == nil {
		errs = append(errs, core.ValidatePodTemplateSpec(&s.Template, template)...)
	} else {
		errs = append(errs, core.ValidatePodTemplateSpecUpdate(&s.Template, &old.Template, template)...)
	}
	return append(errs, validateRestartPolicy(s, path.Child("template", "spec", "restartPolicy"))...)
}

func validateRestartPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	switch policy := s.Template.Spec.RestartPolicy; policy {
	case corev1.RestartPolicyAlways, "":
		// Always is what defaulting makes of a missing policy.
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))}
	case corev1.RestartPolicyOnFailure:
		if s.PodFailurePolicy != nil {
			return field.ErrorList{field.Invalid(path, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
		}
	case corev1.RestartPolicyNever:
	default:
		return field.ErrorList{field.NotSupported(path, policy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	}
	return nil
}

func validateCompletionMode(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.CompletionMode != nil {
		errs = append(errs, checks.Supported(*s.CompletionMode, path.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	}
	const needsIndexed = "requires indexed completion mode"
	if s.CompletionMode != nil && *s.CompletionMode != batchv1.NonIndexedCompletion && *s.CompletionMode != batchv1.IndexedCompletion {
		return errs
	}
	if !isIndexed(s) {
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, needsIndexed))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *s.MaxFailedIndexes, needsIndexed))
		}
		return errs
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	completions, parallelism, failed := ptr.Deref(s.Completions, 0), ptr.Deref(s.Parallelism, 0), ptr.Deref(s.MaxFailedIndexes, 0)
	if parallelism > maxParallelismForIndexedJob {
		errs = append(errs, field.Invalid(path.Child("parallelism"), parallelism,
			fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxParallelismForIndexedJob)))
	}
	if s.Completions != nil && failed > completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), failed, "must be less than or equal to completions"))
	}
	if failed > maxFailedIndexesForIndexedJob {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), failed, fmt.Sprintf("must be less than or equal to %d", maxFailedIndexesForIndexedJob)))
	}
	if completions > completionsSoftLimit && s.BackoffLimitPerIndex != nil {
		limit := func(name string, value, max int32) {
			if value > max {
				errs = append(errs, field.Invalid(path.Child(name), value,
					fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", max, completionsSoftLimit)))
			}
		}
		if s.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", completionsSoftLimit)))
		}
		limit("parallelism", parallelism, parallelismLimitForHighCompletions)
		limit("maxFailedIndexes", failed, maxFailedIndexesLimitForHighCompletions)
	}
	return errs
}

func validateJobUpdate(_ context.Context, j, old *batchv1.Job) field.ErrorList {
	s, was, path := &j.Spec, &old.Spec, field.NewPath("spec")
	_, hadName := was.Template.Labels[batchv1.JobNameLabel]
	_, hadUID := was.Template.Labels[batchv1.ControllerUidLabel]
	errs := validateGeneratedSelector(j, hadName && hadUID)
	// Like upstream, as a job and then as a change of one.
	spec := append(validateJobSpec(s, was, path), validateSelector(s, path)...)
	errs = append(errs, spec...)
	errs = append(errs, validateHostNames(j)...)
	errs = append(errs, checks.MetadataUpdate(j, old)...)
	errs = append(errs, spec...)
	errs = append(errs, validateCompletionsUpdate(s, was, path)...)
	errs = append(errs, validation.ValidateImmutableField(s.Selector, was.Selector, path.Child("selector"))...)
	errs = append(errs, validateTemplateUpdate(j, old, path.Child("template"))...)
	errs = append(errs, validation.ValidateImmutableField(s.CompletionMode, was.CompletionMode, path.Child("completionMode"))...)
	errs = append(errs, validation.ValidateImmutableField(s.PodFailurePolicy, was.PodFailurePolicy, path.Child("podFailurePolicy"))...)
	errs = append(errs, validation.ValidateImmutableField(s.BackoffLimitPerIndex, was.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, validation.ValidateImmutableField(s.ManagedBy, was.ManagedBy, path.Child("managedBy"))...)
	return append(errs, validation.ValidateImmutableField(s.SuccessPolicy, was.SuccessPolicy, path.Child("successPolicy"))...)
}

// validateCompletionsUpdate allows indexed jobs to change their size if
// parallelism goes with it (KEP-3715).
func validateCompletionsUpdate(s, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if !isIndexed(s) {
		return validation.ValidateImmutableField(s.Completions, old.Completions, path.Child("completions"))
	}
	if s.Completions == nil || ptr.Equal(s.Completions, old.Completions) || ptr.Equal(s.Completions, s.Parallelism) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("completions"), *s.Completions, "can only be modified in tandem with spec.parallelism")}
}

// validateTemplateUpdate refuses changes of the template, but for scheduling
// directives (KEP-2926) and resources (KEP-5440) of jobs at rest.
func validateTemplateUpdate(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	template := j.Spec.Template.DeepCopy()
	was := &old.Spec.Template
	if mayChangeTemplate(old) {
		template.Annotations, template.Labels = was.Annotations, was.Labels
		template.Spec.NodeSelector, template.Spec.Tolerations = was.Spec.NodeSelector, was.Spec.Tolerations
		template.Spec.SchedulingGates = was.Spec.SchedulingGates
		template.Spec.Affinity = keepNodeAffinity(template.Spec.Affinity, was.Spec.Affinity)
		keepResources(template.Spec.Containers, was.Spec.Containers)
		keepResources(template.Spec.InitContainers, was.Spec.InitContainers)
	}
	return validation.ValidateImmutableField(*template, *was, path)
}

// mayChangeTemplate tells whether a job is suspended and no pod has been made
// from its template, or none is left.
func mayChangeTemplate(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.Suspend, false) && j.Status.Active == 0 &&
		(j.Status.StartTime == nil || hasCondition(&j.Status, batchv1.JobSuspended))
}

// keepNodeAffinity returns affinity with its node affinity, which may change,
// set back to what it was.
func keepNodeAffinity(affinity, was *corev1.Affinity) *corev1.Affinity {
	switch {
	case affinity == nil && was != nil && was.PodAffinity == nil && was.PodAntiAffinity == nil:
		return was
	case affinity == nil:
		return nil
	case was == nil:
		affinity.NodeAffinity = nil
		if affinity.PodAffinity == nil && affinity.PodAntiAffinity == nil {
			return nil
		}
	default:
		affinity.NodeAffinity = was.NodeAffinity
	}
	return affinity
}

func keepResources(containers, was []corev1.Container) {
	for i := range containers {
		if i < len(was) {
			containers[i].Resources = was[i].Resources
		}
	}
}
