package batch

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/core"
	"skiff/internal/apis/fill"
)

// Labels of the same meaning from before labels had prefixes; both are set.
const (
	legacyJobNameLabel       = "job-name"
	legacyControllerUIDLabel = "controller-uid"
)

func job() *apis.Resource {
	spec, status := batchv1.JobSpec{}.SwaggerDoc(), batchv1.JobStatus{}.SwaggerDoc()
	return apis.Of[*batchv1.Job]{
		Names: apis.Names{
			Group: "batch", Resource: "jobs", Singular: "job", Kind: "Job",
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *batchv1.Job { return &batchv1.Job{} },
		NewList:    func() runtime.Object { return &batchv1.JobList{} },
		HasStatus:  true,
		Generation: true,
		// Clients of batch/v1 have always had to ask for the pods to go too.
		DefaultPropagation:   metav1.DeletePropagationOrphan,
		MetadataOnUpdate:     []apis.MetadataCheck{apis.AsNew},
		Default:              defaultJob,
		PrepareCreate:        func(_ context.Context, j *batchv1.Job) { generateSelector(j) },
		Validate:             validateJob,
		ValidateUpdate:       validateJobUpdate,
		ValidateStatusUpdate: validateJobStatus,
		Warnings:             jobWarnings,
		Fields: map[string]func(*batchv1.Job) string{
			"status.successful": func(j *batchv1.Job) string { return strconv.Itoa(int(j.Status.Succeeded)) },
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Status", "Status of the job."),
			columns.String("Completions", status["succeeded"]),
			columns.String("Duration", "Time required to complete the job."),
			columns.AgeColumn(),
			columns.Wide(columns.String("Containers", "Names of each container in the template.")),
			columns.Wide(columns.String("Images", "Images referenced by each container in the template.")),
			columns.Wide(columns.String("Selector", spec["selector"])),
		},
		Cells: func(j *batchv1.Job) []any {
			containers, images := columns.Containers(j.Spec.Template.Spec.Containers)
			return []any{
				j.Name, jobState(j), completions(j), jobDuration(j), columns.Age(j.CreationTimestamp),
				containers, images, columns.Selector(j.Spec.Selector),
			}
		},
	}.Resource()
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	defaultTemplate(s)
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = ptr.To[int32](1)
	}
	fill.Pointer(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		fill.Pointer(&s.BackoffLimit, math.MaxInt32)
	}
	fill.Pointer(&s.BackoffLimit, 6)
	if len(j.Labels) == 0 {
		j.Labels = s.Template.Labels
	}
	fill.Pointer(&s.CompletionMode, batchv1.NonIndexedCompletion)
	fill.Pointer(&s.Suspend, false)
	fill.Pointer(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		fill.Pointer(&s.PodReplacementPolicy, batchv1.Failed)
	}
	fill.Pointer(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
}

// defaultTemplate fills what jobs and the job templates of cron jobs share.
func defaultTemplate(s *batchv1.JobSpec) {
	core.DefaultPodTemplateSpec(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		conditions := s.PodFailurePolicy.Rules[i].OnPodConditions
		for k := range conditions {
			fill.Value(&conditions[k].Status, corev1.ConditionTrue)
		}
	}
}

// generateSelector makes a selector that finds this job's pods and no others,
// unless the user takes care of that. What the user has set stays, and is
// refused by validation where it conflicts.
func generateSelector(j *batchv1.Job) {
	if ptr.Deref(j.Spec.ManualSelector, false) {
		return
	}
	labels := make(map[string]string, len(j.Spec.Template.Labels)+4)
	labels[legacyJobNameLabel], labels[batchv1.JobNameLabel] = j.Name, j.Name
	labels[legacyControllerUIDLabel], labels[batchv1.ControllerUidLabel] = string(j.UID), string(j.UID)
	for k, v := range j.Spec.Template.Labels {
		labels[k] = v
	}
	// A new map: the job's own labels may be the template's.
	j.Spec.Template.Labels = labels
	fill.Pointer(&j.Spec.Selector, metav1.LabelSelector{})
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, found := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !found {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
	// As defaulting would have it that sees the template now.
	if len(j.Labels) == 0 {
		j.Labels = labels
	}
}

func jobWarnings(_ context.Context, j, old *batchv1.Job) []string {
	var warnings []string
	if old == nil {
		warnings = checks.PodPrefixWarnings(j.Name)
	} else if j.Generation == old.Generation {
		return nil
	}
	warnings = append(warnings, core.PodTemplateWarnings(&j.Spec.Template, field.NewPath("spec", "template"))...)
	if isIndexed(&j.Spec) && ptr.Deref(j.Spec.Completions, 0) > completionsSoftLimit && ptr.Deref(j.Spec.Parallelism, 0) > parallelismLimitForHighCompletions {
		warnings = append(warnings, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes correctly")
	}
	return warnings
}

func isIndexed(s *batchv1.JobSpec) bool {
	return ptr.Deref(s.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func hasCondition(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return s.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

func jobState(j *batchv1.Job) string {
	switch s := &j.Status; {
	case hasCondition(s, batchv1.JobComplete):
		return "Complete"
	case hasCondition(s, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case hasCondition(s, batchv1.JobSuspended):
		return "Suspended"
	case hasCondition(s, batchv1.JobFailureTarget):
		return "FailureTarget"
	case hasCondition(s, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if parallelism := ptr.Deref(j.Spec.Parallelism, 0); parallelism > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}
