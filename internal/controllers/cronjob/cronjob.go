// Package cronjob makes Jobs at the times that CronJobs ask for.
package cronjob

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
)

var (
	kind    = batchv1.SchemeGroupVersion.WithKind("CronJob")
	jobKind = batchv1.SchemeGroupVersion.WithKind("Job")
)

const workers = 5

type reconciler struct {
	controller.Deps
	events record.EventRecorder
	// skew is how late Jobs are made.
	skew prometheus.Histogram
}

// New makes the CronJob controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("cronjob-controller")}
	r.skew = promauto.With(d.Metrics.Registerer()).NewHistogram(prometheus.HistogramOpts{
		Name: "cronjob_controller_job_creation_skew_duration_seconds", Help: "Time between when a Job should be made and when it is.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 10),
	})
	return controller.New(d, "cronjob", workers, r.reconcile,
		controller.Watch(d, &batchv1.CronJob{}, r.changed),
		controller.Watch(d, &batchv1.Job{}, func(q controller.Queue, old, job *batchv1.Job) {
			for _, j := range []*batchv1.Job{old, job} {
				if j == nil {
					continue
				}
				if name := controller.OwnerName(j, kind); name != "" {
					controller.Add(q, j.Namespace, name)
				}
			}
		}))
}

// changed wakes a CronJob. One with a new schedule waits for its next time: a
// time that the new schedule would have had before was not missed.
func (r *reconciler) changed(q controller.Queue, old, cj *batchv1.CronJob) {
	if cj == nil {
		return
	}
	if old != nil && (old.Spec.Schedule != cj.Spec.Schedule || !ptr.Equal(old.Spec.TimeZone, cj.Spec.TimeZone)) {
		schedule, err := parse(cj)
		if err != nil {
			r.events.Eventf(cj, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", cj.Spec.Schedule)
			return
		}
		if wait := next(cj, schedule, r.Clock.Now()); wait > 0 {
			q.AddAfter(controller.Request{NamespacedName: controller.Key(cj)}, wait)
		}
		return
	}
	controller.Add(q, cj.Namespace, cj.Name)
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var shared batchv1.CronJob
	if err := r.Cache.Get(ctx, key, &shared, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	var list batchv1.JobList
	err := r.Cache.List(ctx, &list, crclient.InNamespace(key.Namespace), crclient.MatchingFields{index.Controller: string(shared.UID)}, crclient.UnsafeDisableDeepCopy)
	if err != nil {
		return reconcile.Result{}, err
	}
	cj := shared.DeepCopy()
	wait, stepErr := r.step(ctx, cj, list.Items)
	if cj.DeletionTimestamp == nil {
		r.dropHistory(ctx, cj, list.Items)
	}
	if !apiequality.Semantic.DeepEqual(shared.Status, cj.Status) {
		if err := r.Client.Status().Update(ctx, cj); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	return reconcile.Result{RequeueAfter: wait}, stepErr
}

// step brings the status up to date and starts a Job if it is time. It returns
// how long it is until the next time.
func (r *reconciler) step(ctx context.Context, cj *batchv1.CronJob, jobs []batchv1.Job) (time.Duration, error) {
	if err := r.noteJobs(ctx, cj, jobs); err != nil || cj.DeletionTimestamp != nil {
		return 0, err
	}
	now := r.Clock.Now()
	if cj.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*cj.Spec.TimeZone); err != nil {
			r.events.Eventf(cj, corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *cj.Spec.TimeZone, err)
			return 0, nil
		}
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return 0, nil
	}
	if strings.Contains(cj.Spec.Schedule, "TZ") {
		r.events.Eventf(cj, corev1.EventTypeWarning, "UnsupportedSchedule",
			"CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule)
	}
	schedule, err := parse(cj)
	if err != nil {
		r.events.Eventf(cj, corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	at, many, err := unmet(cj, schedule, now)
	if err != nil {
		r.events.Eventf(cj, corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	if many {
		r.events.Event(cj, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	wait := next(cj, schedule, now)
	if at == nil {
		return wait, nil
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && at.Add(time.Duration(*d)*time.Second).Before(now) {
		r.events.Eventf(cj, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return wait, nil
	}
	if cj.Status.LastScheduleTime.Equal(&metav1.Time{Time: *at}) || isActive(cj, func(ref corev1.ObjectReference) bool { return ref.Name == jobName(cj, *at) }) {
		return wait, nil
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0 {
		r.events.Event(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return wait, nil
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		for _, ref := range slices.Clone(cj.Status.Active) {
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: cj.Namespace, Name: ref.Name, UID: ref.UID}}
			if err := r.remove(ctx, cj, job); err != nil {
				return 0, fmt.Errorf("could not replace job %s/%s: %w", job.Namespace, job.Name, err)
			}
		}
	}
	return wait, r.startJob(ctx, cj, *at)
}

func isActive(cj *batchv1.CronJob, is func(corev1.ObjectReference) bool) bool {
	return slices.ContainsFunc(cj.Status.Active, is)
}

func forget(cj *batchv1.CronJob, uid types.UID) {
	cj.Status.Active = slices.DeleteFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// noteJobs takes ended and lost Jobs out of the list of active ones.
func (r *reconciler) noteJobs(ctx context.Context, cj *batchv1.CronJob, jobs []batchv1.Job) error {
	known := map[types.UID]bool{}
	for i := range jobs {
		j := &jobs[i]
		known[j.UID] = true
		active := isActive(cj, func(ref corev1.ObjectReference) bool { return ref.UID == j.UID })
		end := endOf(j)
		switch {
		case end == "" && !active && forgotten(cj, j):
			note(cj, j, scheduled(j))
		case end == "" && !active:
			r.events.Eventf(cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case end != "" && active:
			forget(cj, j.UID)
			r.events.Eventf(cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, end)
		}
		if done := j.Status.CompletionTime; end == batchv1.JobComplete && done != nil && (cj.Status.LastSuccessfulTime == nil || done.After(cj.Status.LastSuccessfulTime.Time)) {
			cj.Status.LastSuccessfulTime = done.DeepCopy()
		}
	}
	for _, ref := range slices.Clone(cj.Status.Active) {
		if known[ref.UID] {
			continue
		}
		// The index may be behind.
		var job batchv1.Job
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: cj.Namespace, Name: ref.Name}, &job)
		switch {
		case apierrors.IsNotFound(err), err == nil && job.UID != ref.UID:
			r.events.Eventf(cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			forget(cj, ref.UID)
		case err != nil:
			return err
		}
	}
	return nil
}

// endOf is the condition with which a Job ended, or empty.
func endOf(j *batchv1.Job) batchv1.JobConditionType {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

// startJob makes the Job of a time. Its name is that of the time, so that no
// time can have two.
func (r *reconciler) startJob(ctx context.Context, cj *batchv1.CronJob, at time.Time) error {
	job, err := newJob(cj, at)
	if err != nil {
		return err
	}
	err = r.Client.Create(ctx, job)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		// Made before a restart, perhaps, and not noted.
		if err := r.Client.Get(ctx, controller.Key(job), job); err != nil {
			return crclient.IgnoreNotFound(err)
		}
		if !metav1.IsControlledBy(job, cj) {
			return nil
		}
	case err != nil:
		r.events.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	default:
		r.skew.Observe(r.Clock.Since(at).Seconds())
		r.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	}
	note(cj, job, at)
	return nil
}

// note writes down that the Job of a time was made.
func note(cj *batchv1.CronJob, job *batchv1.Job, at time.Time) {
	cj.Status.LastScheduleTime = &metav1.Time{Time: at}
	if endOf(job) == "" {
		cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{
			APIVersion: jobKind.GroupVersion().String(), Kind: jobKind.Kind, Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
		})
	}
}

// scheduled is the time that a Job was made for, if it was made by schedule.
func scheduled(job *batchv1.Job) time.Time {
	at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

// forgotten reports whether this controller made the Job and did not come to
// note it.
func forgotten(cj *batchv1.CronJob, job *batchv1.Job) bool {
	at, last := scheduled(job), cj.Status.LastScheduleTime
	return job.Name == jobName(cj, at) && job.DeletionTimestamp == nil && (last == nil || at.After(last.Time))
}

func newJob(cj *batchv1.CronJob, at time.Time) (*batchv1.Job, error) {
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
	if err != nil {
		return nil, err
	}
	annotations := maps.Clone(cj.Spec.JobTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cj.Namespace, Name: jobName(cj, at), Labels: maps.Clone(cj.Spec.JobTemplate.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}, nil
}

// dropHistory removes the oldest ended Jobs beyond the history limits.
func (r *reconciler) dropHistory(ctx context.Context, cj *batchv1.CronJob, jobs []batchv1.Job) {
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for i := range jobs {
			if endOf(&jobs[i]) == end && jobs[i].DeletionTimestamp == nil {
				ended = append(ended, &jobs[i])
			}
		}
		slices.SortFunc(ended, func(a, b *batchv1.Job) int {
			return cmp.Or(started(a).Compare(started(b)), cmp.Compare(a.Name, b.Name))
		})
		for i := range len(ended) - int(*limit) {
			if err := r.remove(ctx, cj, ended[i]); err != nil {
				r.Log.Warn("a job beyond the history limit cannot be deleted", "job", controller.Key(ended[i]), "error", err)
			}
		}
	}
}

// started is when a Job started; those that never did are the youngest.
func started(j *batchv1.Job) time.Time {
	if j.Status.StartTime == nil {
		return time.Unix(1<<40, 0)
	}
	return j.Status.StartTime.Time
}

func (r *reconciler) remove(ctx context.Context, cj *batchv1.CronJob, job *batchv1.Job) error {
	err := r.Client.Delete(ctx, job, crclient.PropagationPolicy(metav1.DeletePropagationBackground), crclient.Preconditions{UID: &job.UID})
	if crclient.IgnoreNotFound(err) != nil {
		r.events.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	forget(cj, job.UID)
	r.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}
