package batch

import (
	"context"
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
)

// statusCheck collects what is wrong with a job's new status. Jobs may be run
// by other controllers than ours (KEP-4368), so what clients rely on is checked
// here. A contradiction is only held against those who changed a side of it.
type statusCheck struct {
	errs      field.ErrorList
	at        *field.Path
	job       *batchv1.Job
	now, was  *batchv1.JobStatus
	finished  bool
	isIndexed bool
}

func validateJobStatus(_ context.Context, j, old *batchv1.Job) field.ErrorList {
	c := &statusCheck{
		at: field.NewPath("status"), job: j, now: &j.Status, was: &old.Status,
		finished: isFinished(&j.Status), isIndexed: isIndexed(&j.Spec),
	}
	c.counters()
	c.uncounted()
	c.conditions()
	c.times()
	c.end()
	c.indexes()
	return c.errs
}

func isFinished(s *batchv1.JobStatus) bool {
	return hasCondition(s, batchv1.JobComplete) || hasCondition(s, batchv1.JobFailed)
}

// changed tells whether a condition is set or not as it was not before.
func (c *statusCheck) changed(condition batchv1.JobConditionType) bool {
	return hasCondition(c.now, condition) != hasCondition(c.was, condition)
}

func (c *statusCheck) invalid(name string, value any, detail string) {
	c.errs = append(c.errs, field.Invalid(c.at.Child(name), value, detail))
}

func (c *statusCheck) required(name, detail string) {
	c.errs = append(c.errs, field.Required(c.at.Child(name), detail))
}

func (c *statusCheck) contradiction(is bool, detail string) {
	if is {
		c.invalid("conditions", field.OmitValueType{}, detail)
	}
}

func (c *statusCheck) counters() {
	s, was := c.now, c.was
	c.errs = append(c.errs, checks.Nonnegative(s.Active, c.at.Child("active"))...)
	c.errs = append(c.errs, checks.Nonnegative(s.Succeeded, c.at.Child("succeeded"))...)
	c.errs = append(c.errs, checks.Nonnegative(s.Failed, c.at.Child("failed"))...)
	c.errs = append(c.errs, checks.OptionalNonnegative(s.Ready, c.at.Child("ready"))...)
	c.errs = append(c.errs, checks.OptionalNonnegative(s.Terminating, c.at.Child("terminating"))...)
	if ptr.Deref(s.Ready, 0) > s.Active && (s.Active != was.Active || !ptr.Equal(s.Ready, was.Ready)) {
		c.invalid("ready", ptr.Deref(s.Ready, 0), "cannot set more ready pods than active")
	}
	if s.Failed < was.Failed {
		c.invalid("failed", s.Failed, "cannot decrease the failed counter")
	}
	// Indexed jobs of one pod for each index may shrink.
	elastic := c.isIndexed && ptr.Equal(c.job.Spec.Completions, c.job.Spec.Parallelism)
	if s.Succeeded < was.Succeeded && !elastic {
		c.invalid("succeeded", s.Succeeded, "cannot decrease the succeeded counter")
	}
}

func (c *statusCheck) uncounted() {
	if c.now.UncountedTerminatedPods == nil {
		return
	}
	seen := sets.New[types.UID]()
	check := func(path *field.Path, uids []types.UID) {
		for i, uid := range uids {
			switch at := path.Index(i); {
			case uid == "":
				c.errs = append(c.errs, field.Invalid(at, uid, "must not be empty"))
			case seen.Has(uid):
				c.errs = append(c.errs, field.Duplicate(at, uid))
			}
			seen.Insert(uid)
		}
	}
	at := c.at.Child("uncountedTerminatedPods")
	check(at.Child("succeeded"), c.now.UncountedTerminatedPods.Succeeded)
	check(at.Child("failed"), c.now.UncountedTerminatedPods.Failed)
}

func (c *statusCheck) conditions() {
	is := func(t batchv1.JobConditionType) bool { return hasCondition(c.now, t) }
	had := func(t batchv1.JobConditionType) bool { return hasCondition(c.was, t) }
	complete, failed := is(batchv1.JobComplete), is(batchv1.JobFailed)
	target, met := is(batchv1.JobFailureTarget), is(batchv1.JobSuccessCriteriaMet)
	completeChanged, failedChanged := c.changed(batchv1.JobComplete), c.changed(batchv1.JobFailed)
	targetChanged, metChanged := c.changed(batchv1.JobFailureTarget), c.changed(batchv1.JobSuccessCriteriaMet)

	c.contradiction(complete && failed && (completeChanged || failedChanged), "cannot set Complete=True and Failed=true conditions")
	c.contradiction(complete && target && (completeChanged || targetChanged), "cannot set Complete=True and FailureTarget=true conditions")
	c.contradiction(failed && !target && (failedChanged || targetChanged), "cannot set Failed=True condition without the FailureTarget=true condition")
	c.contradiction(complete && !met && (completeChanged || metChanged), "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	c.contradiction(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	c.contradiction(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	c.contradiction(c.job.Spec.SuccessPolicy != nil && !met && complete, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	for _, final := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		c.contradiction(had(final) && !is(final), fmt.Sprintf("cannot disable the terminal %s=True condition", final))
	}
	c.contradiction(had(batchv1.JobSuccessCriteriaMet) && !met, "cannot disable the SuccessCriteriaMet=True condition")
	c.contradiction(had(batchv1.JobComplete) && !had(batchv1.JobSuccessCriteriaMet) && met,
		"cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
}

func (c *statusCheck) times() {
	s, was := c.now, c.was
	started, completed := !s.StartTime.Equal(was.StartTime), !s.CompletionTime.Equal(was.CompletionTime)
	complete := hasCondition(s, batchv1.JobComplete)
	if completed || c.changed(batchv1.JobComplete) {
		if s.CompletionTime != nil && !complete {
			c.invalid("completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		}
		if s.CompletionTime == nil && complete {
			c.required("completionTime", "completionTime is required for Complete jobs")
		}
	}
	if (started || completed) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		c.invalid("completionTime", s.CompletionTime, "completionTime cannot be set before startTime")
	}
	if completed && s.CompletionTime != nil && was.CompletionTime != nil {
		c.invalid("completionTime", s.CompletionTime, "completionTime cannot be mutated")
	}
	if started && was.StartTime != nil && !ptr.Deref(c.job.Spec.Suspend, false) {
		c.required("startTime", "startTime cannot be removed for unsuspended job")
	}
	if s.StartTime == nil && c.finished && (started || isFinished(was) != c.finished) {
		c.required("startTime", "startTime is required for finished job")
	}
}

// end checks that a job which is over has no pods left.
func (c *statusCheck) end() {
	s, was := c.now, c.was
	if !c.finished {
		return
	}
	now := !isFinished(was)
	if s.Active > 0 && (now || s.Active != was.Active) {
		c.invalid("active", s.Active, "active>0 is invalid for finished job")
	}
	if n := ptr.Deref(s.Terminating, 0); n > 0 && (now || !ptr.Equal(s.Terminating, was.Terminating)) {
		c.invalid("terminating", n, "terminating>0 is invalid for finished job")
	}
	left := s.UncountedTerminatedPods
	if left != nil && len(left.Failed)+len(left.Succeeded) > 0 && (now || !equality.Semantic.DeepEqual(left, was.UncountedTerminatedPods)) {
		c.invalid("uncountedTerminatedPods", left, "uncountedTerminatedPods needs to be empty for finished job")
	}
}

func (c *statusCheck) indexes() {
	s, spec := c.now, &c.job.Spec
	completed, failed := s.CompletedIndexes != c.was.CompletedIndexes, !ptr.Equal(s.FailedIndexes, c.was.FailedIndexes)
	if completed && spec.Completions != nil {
		if _, err := countIndexes(s.CompletedIndexes, *spec.Completions); err != nil {
			c.invalid("completedIndexes", s.CompletedIndexes, fmt.Sprintf("error parsing completedIndexes: %s", err))
		}
	}
	if completed && s.CompletedIndexes != "" && !c.isIndexed {
		c.invalid("completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if s.FailedIndexes == nil {
		return
	}
	if failed && spec.BackoffLimitPerIndex == nil {
		c.invalid("failedIndexes", *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	} else if failed && spec.Completions != nil {
		if _, err := countIndexes(*s.FailedIndexes, *spec.Completions); err != nil {
			c.invalid("failedIndexes", *s.FailedIndexes, fmt.Sprintf("error parsing failedIndexes: %s", err))
		}
	}
	if (completed || failed) && spec.Completions != nil {
		if at, both := overlap(s.CompletedIndexes, *s.FailedIndexes, *spec.Completions); both {
			c.invalid("failedIndexes", *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", at))
		}
	}
}

// overlap returns the first index that two lists have in common. What cannot
// be read has been refused.
func overlap(a, b string, completions int32) (int32, bool) {
	intervals := func(list string) (out []interval) {
		for _, text := range strings.Split(list, ",") {
			if i, err := parseInterval(text, completions); err == nil {
				out = append(out, i)
			}
		}
		return out
	}
	others := intervals(b)
	for _, x := range intervals(a) {
		i := slices.IndexFunc(others, func(y interval) bool { return x.first <= y.last && y.first <= x.last })
		if i >= 0 {
			return max(x.first, others[i].first), true
		}
	}
	return 0, false
}
