package batch

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

func is(all ...batchv1.JobConditionType) (conditions []batchv1.JobCondition) {
	for _, t := range all {
		conditions = append(conditions, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue})
	}
	return conditions
}

func at(minute int) *metav1.Time {
	return &metav1.Time{Time: time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)}
}

func TestJobStatus(t *testing.T) {
	change := checkstest.Change[*batchv1.Job]
	r := checkstest.Find(t, Resources(), "jobs")
	running := newJob(t)
	running.Status = batchv1.JobStatus{StartTime: at(1), Active: 2, Ready: ptr.To[int32](1), Succeeded: 1, Failed: 1}
	complete := func(j *batchv1.Job) {
		j.Status.Active, j.Status.Ready = 0, nil
		j.Status.CompletionTime = at(2)
		j.Status.Conditions = is(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)
	}
	checkstest.UpdateStatus(t, r, running,
		change("nothing", func(*batchv1.Job) {}),
		change("complete", complete),
		change("failed", func(j *batchv1.Job) {
			j.Status.Active, j.Status.Ready = 0, nil
			j.Status.Conditions = is(batchv1.JobFailureTarget, batchv1.JobFailed)
		}),
		change("more ready", func(j *batchv1.Job) { j.Status.Ready = ptr.To[int32](3) }, "status.ready: Invalid value: cannot set more ready pods than active"),
		change("fewer than none", func(j *batchv1.Job) { j.Status.Active, j.Status.Ready = -1, nil },
			"status.active: Invalid value: must be greater than or equal to 0", "status.ready: Invalid value: cannot set more ready pods than active"),
		change("fewer", func(j *batchv1.Job) { j.Status.Succeeded, j.Status.Failed = 0, 0 },
			"status.failed: Invalid value: cannot decrease the failed counter", "status.succeeded: Invalid value: cannot decrease the succeeded counter"),
		change("at once", func(j *batchv1.Job) { j.Status.Conditions = is(batchv1.JobComplete, batchv1.JobFailed) },
			"status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
			"status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
			"status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
			"status.completionTime: Required value: completionTime is required for Complete jobs",
			"status.active: Invalid value: active>0 is invalid for finished job"),
		change("both ways", func(j *batchv1.Job) {
			complete(j)
			j.Status.Conditions = append(j.Status.Conditions, is(batchv1.JobFailureTarget)...)
		},
			"status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions",
			"status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
		change("early", func(j *batchv1.Job) { complete(j); j.Status.CompletionTime = at(0) },
			"status.completionTime: Invalid value: completionTime cannot be set before startTime"),
		change("never started", func(j *batchv1.Job) { complete(j); j.Status.StartTime = nil },
			"status.startTime: Required value: startTime cannot be removed for unsuspended job", "status.startTime: Required value: startTime is required for finished job"),
		change("completed without condition", func(j *batchv1.Job) { j.Status.CompletionTime = at(2) },
			"status.completionTime: Invalid value: cannot set completionTime when there is no Complete=True condition"),
		change("not ended", func(j *batchv1.Job) {
			complete(j)
			j.Status.Terminating = ptr.To[int32](1)
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"a", ""}, Failed: []types.UID{"a"}}
		},
			"status.terminating: Invalid value: terminating>0 is invalid for finished job",
			"status.uncountedTerminatedPods: Invalid value: uncountedTerminatedPods needs to be empty for finished job",
			"status.uncountedTerminatedPods.succeeded[1]: Invalid value: must not be empty",
			"status.uncountedTerminatedPods.failed[0]: Duplicate value: "),
		change("indexes", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0", ptr.To("") },
			"status.completedIndexes: Invalid value: cannot set non-empty completedIndexes when non-indexed completion mode",
			"status.failedIndexes: Invalid value: cannot set non-null failedIndexes when backoffLimitPerIndex is null"),
	)

	ended := running.DeepCopy()
	complete(ended)
	checkstest.UpdateStatus(t, r, ended,
		change("reopened", func(j *batchv1.Job) { j.Status.Conditions = nil },
			"status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
			"status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
			"status.completionTime: Invalid value: cannot set completionTime when there is no Complete=True condition"),
		change("another time", func(j *batchv1.Job) { j.Status.CompletionTime = at(3) }, "status.completionTime: Invalid value: completionTime cannot be mutated"),
	)

	indexed := newJob(t)
	indexed.Spec.CompletionMode, indexed.Spec.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](1)
	indexed.Spec.Completions, indexed.Spec.Parallelism = ptr.To[int32](9), ptr.To[int32](9)
	indexed.Status.Succeeded = 3
	checkstest.UpdateStatus(t, r, indexed,
		change("shrunk", func(j *batchv1.Job) { j.Status.Succeeded = 1 }),
		change("indexes", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0,2-4", ptr.To("1,6-8") }),
		change("overlap", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "0,2-4,8", ptr.To("1,3-6") },
			"status.failedIndexes: Invalid value: failedIndexes and completedIndexes overlap at index: 3"),
		change("unreadable", func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.FailedIndexes = "2-1", ptr.To("9") },
			"status.completedIndexes: Invalid value: error parsing completedIndexes: non-increasing order, previous: 2, current: 1",
			`status.failedIndexes: Invalid value: error parsing failedIndexes: too large index: "9"`),
	)

	// What contradicts itself already may stay, as long as nobody touches it.
	odd := newJob(t)
	odd.Status = batchv1.JobStatus{Ready: ptr.To[int32](2), CompletionTime: at(2), Conditions: is(batchv1.JobFailed)}
	checkstest.UpdateStatus(t, r, odd, change("else", func(j *batchv1.Job) { j.Status.Terminating = ptr.To[int32](0) }))
}

func TestSuspendedJobAtRest(t *testing.T) {
	r := checkstest.Find(t, Resources(), "jobs")
	for name, c := range map[string]struct {
		status batchv1.JobStatus
		free   bool
	}{
		"new":       {batchv1.JobStatus{}, true},
		"running":   {batchv1.JobStatus{StartTime: at(1)}, false},
		"suspended": {batchv1.JobStatus{StartTime: at(1), Conditions: is(batchv1.JobSuspended)}, true},
		"stopping":  {batchv1.JobStatus{StartTime: at(1), Active: 1, Conditions: is(batchv1.JobSuspended)}, false},
	} {
		old := newJob(t)
		old.Spec.Suspend, old.Status = ptr.To(true), c.status
		j := old.DeepCopy()
		j.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		if errs := r.ValidateUpdate(context.Background(), j, old); (len(errs) == 0) != c.free {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

func TestJobUpdateKeepsGeneratedLabels(t *testing.T) {
	change := checkstest.Change[*batchv1.Job]
	r := checkstest.Find(t, Resources(), "jobs")
	old := newJob(t)
	old.Spec.Suspend = ptr.To(true)
	checkstest.Update(t, r, old, change("label", func(j *batchv1.Job) { delete(j.Spec.Template.Labels, "job-name") },
		"spec.template.metadata.labels[job-name]: Required value: must be 'sum'"))
	// Older servers made no prefixed labels.
	delete(old.Spec.Template.Labels, batchv1.JobNameLabel)
	delete(old.Spec.Template.Labels, batchv1.ControllerUidLabel)
	old.Spec.Selector.MatchLabels = map[string]string{legacyControllerUIDLabel: "1234"}
	checkstest.Update(t, r, old, change("nothing", func(*batchv1.Job) {}))

	indexed := newJob(t)
	indexed.Spec.CompletionMode, indexed.Spec.Parallelism = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](7)
	checkstest.Update(t, r, indexed, change("made elastic", func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = ptr.To[int32](3), ptr.To[int32](3) }))
}

func TestCronJobUpdate(t *testing.T) {
	change := checkstest.Change[*batchv1.CronJob]
	r := checkstest.Find(t, Resources(), "cronjobs")
	old := checkstest.Parse[*batchv1.CronJob](t, r, `
metadata: {name: nightly, namespace: default}
spec:
  schedule: "TZ=UTC 0 3 * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: OnFailure, containers: [{name: main, image: bc}]}}}}
`)
	checkstest.Update(t, r, old,
		change("another zone in the schedule", func(c *batchv1.CronJob) { c.Spec.Schedule = "TZ=Etc/UTC 0 3 * * *" }),
		change("two zones", func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("UTC") },
			"spec.schedule: Invalid value: cannot use both timeZone field and TZ or CRON_TZ in schedule"),
		change("no zone", func(c *batchv1.CronJob) { c.Spec.Schedule, c.Spec.TimeZone = "0 3 * * *", ptr.To("../UTC") },
			"spec.timeZone: Invalid value: unknown time zone ../UTC"),
	)
}

// TestWarnings: they come with what is new only.
func TestWarnings(t *testing.T) {
	r := checkstest.Find(t, Resources(), "jobs")
	j := newJob(t)
	j.Name = "a.b"
	j.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
	if got := r.Warnings(context.Background(), j, nil); len(got) != 2 {
		t.Errorf("create: %q", got)
	}
	old := j.DeepCopy()
	if got := r.Warnings(context.Background(), j, old); len(got) != 0 {
		t.Errorf("update of nothing: %q", got)
	}
	j.Generation++
	if got := r.Warnings(context.Background(), j, old); len(got) != 1 {
		t.Errorf("update: %q", got)
	}
}
