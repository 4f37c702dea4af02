package batch

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
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

// maxCronJobName leaves room for the eleven characters that names of its jobs
// add, within the 63 of a label.
const maxCronJobName = 52

// zoneName is what names in the time zone database look like.
var zonePart = regexp.MustCompile(`^[A-Za-z.\-_0-9+]{1,14}$`)

func cronJob() *apis.Resource {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return apis.Of[*batchv1.CronJob]{
		Names: apis.Names{
			Group: "batch", Resource: "cronjobs", Singular: "cronjob", Kind: "CronJob",
			ShortNames: []string{"cj"},
			Categories: []string{"all"},
			Namespaced: true,
		},
		Version:                "v1",
		New:                    func() *batchv1.CronJob { return &batchv1.CronJob{} },
		NewList:                func() runtime.Object { return &batchv1.CronJobList{} },
		HasStatus:              true,
		Generation:             true,
		MetadataOnStatusUpdate: []apis.MetadataCheck{},
		Default:                defaultCronJob,
		Validate:               validateCronJob,
		ValidateUpdate:         validateCronJobUpdate,
		Warnings: func(_ context.Context, c, old *batchv1.CronJob) []string {
			var warnings []string
			if old == nil {
				warnings = checks.PodPrefixWarnings(c.Name)
			}
			if old == nil || c.Generation != old.Generation {
				warnings = append(warnings, core.PodTemplateWarnings(&c.Spec.JobTemplate.Spec.Template, field.NewPath("spec", "jobTemplate", "spec", "template"))...)
			}
			if !strings.Contains(c.Spec.Schedule, "TZ") {
				return warnings
			}
			return append(warnings, "CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Schedule", spec["schedule"]),
			columns.String("Timezone", spec["timeZone"]),
			columns.Boolean("Suspend", spec["suspend"]),
			columns.Integer("Active", status["active"]),
			columns.String("Last Schedule", status["lastScheduleTime"]),
			columns.AgeColumn(),
			columns.Wide(columns.String("Containers", "Names of each container in the template.")),
			columns.Wide(columns.String("Images", "Images referenced by each container in the template.")),
			columns.Wide(columns.String("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
		},
		Cells: cronJobCells,
	}.Resource()
}

func cronJobCells(c *batchv1.CronJob) []any {
	last := columns.None
	if c.Status.LastScheduleTime != nil {
		last = columns.Age(*c.Status.LastScheduleTime)
	}
	containers, images := columns.Containers(c.Spec.JobTemplate.Spec.Template.Spec.Containers)
	return []any{
		c.Name, c.Spec.Schedule, ptr.Deref(c.Spec.TimeZone, columns.None), suspended(c),
		int64(len(c.Status.Active)), last, columns.Age(c.CreationTimestamp),
		containers, images, columns.Selector(c.Spec.JobTemplate.Spec.Selector),
	}
}

func suspended(c *batchv1.CronJob) string {
	switch {
	case c.Spec.Suspend == nil:
		return "<unset>"
	case *c.Spec.Suspend:
		return "True"
	}
	return "False"
}

func defaultCronJob(c *batchv1.CronJob) {
	s := &c.Spec
	defaultTemplate(&s.JobTemplate.Spec)
	fill.Value(&s.ConcurrencyPolicy, batchv1.AllowConcurrent)
	fill.Pointer(&s.Suspend, false)
	fill.Pointer(&s.SuccessfulJobsHistoryLimit, 3)
	fill.Pointer(&s.FailedJobsHistoryLimit, 1)
}

func validateCronJob(_ context.Context, c *batchv1.CronJob) field.ErrorList {
	errs := validateCronJobSpec(&c.Spec, nil)
	if len(c.Name) > maxCronJobName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName)))
	}
	return errs
}

func validateCronJobUpdate(_ context.Context, c, old *batchv1.CronJob) field.ErrorList {
	return validateCronJobSpec(&c.Spec, &old.Spec)
}

func validateCronJobSpec(s, old *batchv1.CronJobSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSchedule(s, old, path)
	errs = append(errs, checks.OptionalNonnegative(s.StartingDeadlineSeconds, path.Child("startingDeadlineSeconds"))...)
	if old == nil || !ptr.Equal(old.TimeZone, s.TimeZone) {
		errs = append(errs, validateTimeZone(s.TimeZone, path.Child("timeZone"))...)
	}
	errs = append(errs, checks.Enum(s.ConcurrencyPolicy, path.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)

	job, jobPath := &s.JobTemplate.Spec, path.Child("jobTemplate", "spec")
	var was *batchv1.JobSpec
	if old != nil {
		was = &old.JobTemplate.Spec
	}
	errs = append(errs, validateJobSpec(job, was, jobPath)...)
	if job.Selector != nil {
		errs = append(errs, field.Invalid(jobPath.Child("selector"), job.Selector, "`selector` will be auto-generated"))
	}
	if ptr.Deref(job.ManualSelector, false) {
		errs = append(errs, field.NotSupported(jobPath.Child("manualSelector"), *job.ManualSelector, []string{"nil", "false"}))
	}
	errs = append(errs, checks.OptionalNonnegative(s.SuccessfulJobsHistoryLimit, path.Child("successfulJobsHistoryLimit"))...)
	return append(errs, checks.OptionalNonnegative(s.FailedJobsHistoryLimit, path.Child("failedJobsHistoryLimit"))...)
}

func validateSchedule(s, old *batchv1.CronJobSpec, path *field.Path) field.ErrorList {
	path = path.Child("schedule")
	if s.Schedule == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if _, err := ParseSchedule(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, s.Schedule, err.Error()))
	}
	if !strings.Contains(s.Schedule, "TZ") {
		return errs
	}
	// Older servers took time zones here: jobs that have one may go on so.
	switch had := old != nil && strings.Contains(old.Schedule, "TZ"); {
	case !had:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case s.TimeZone != nil:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

func validateTimeZone(zone *string, path *field.Path) field.ErrorList {
	if zone == nil {
		return nil
	}
	if *zone == "" {
		return field.ErrorList{field.Invalid(path, *zone, "timeZone must be nil or non-empty string")}
	}
	for _, part := range strings.Split(*zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, *zone, "unknown time zone "+*zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(*zone, "Local") {
		errs = append(errs, field.Invalid(path, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		errs = append(errs, field.Invalid(path, *zone, err.Error()))
	}
	return errs
}
