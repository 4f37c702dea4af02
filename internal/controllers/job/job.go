// Package job runs Jobs to completion. Every pod is counted exactly once: it
// carries a finalizer until the Job's status has it (KEP-2307).
package job

import (
	"cmp"
	"context"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/pods"
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

const (
	workers = 5
	// burst is the greatest number of pods made in one step.
	burst = 500
	// After a failure new pods wait firstBackoff, doubling up to lastBackoff.
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
	// uncountedLimit bounds the list of pods in a status.
	uncountedLimit = 500
	// maxGeneratedName is how much of generateName the API server keeps.
	maxGeneratedName = 58
	// controllerName is the value of spec.managedBy that means this controller.
	controllerName = "kubernetes.io/job-controller"
)

type reconciler struct {
	controller.Deps
	control pods.Control
	tracker *expect.Tracker
	events  record.EventRecorder
	metrics *metrics

	mu       sync.Mutex
	backoffs map[types.NamespacedName]backoff
}

// backoff remembers the failures of a job since its last success.
type backoff struct {
	uid      types.UID
	failures int
	last     time.Time
}

// New makes the Job controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, tracker: expect.New(d.Clock), events: d.Recorder("job-controller"), backoffs: map[types.NamespacedName]backoff{}}
	r.metrics = newMetrics(d.Metrics.Registerer())
	r.control = pods.Control{Client: d.Client, Recorder: r.events, Tracker: r.tracker}
	return controller.New(d, "job", workers, r.reconcile,
		controller.WatchSelf(d, &batchv1.Job{}),
		pods.Watch(d, r.tracker, kind, func() crclient.ObjectList { return &batchv1.JobList{} }, selects))
}

func selects(j *batchv1.Job, pod labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	return err == nil && s.Matches(pod)
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var stored batchv1.Job
	if err := r.Cache.Get(ctx, key, &stored, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			r.forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	if finished(&stored) {
		r.forget(key)
		return reconcile.Result{}, nil
	}
	if m := stored.Spec.ManagedBy; m != nil && *m != controllerName {
		return reconcile.Result{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(stored.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.TerminalError(err)
	}
	owned, err := pods.Owned(ctx, r.Cache, &stored, selector)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := expect.Wait(r.tracker, key, owned, controller.Exists(ctx, r.Cache, &corev1.Pod{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	owned, err = controller.Claim(ctx, r.Client, &stored, kind, selector, owned, func(ctx context.Context) (crclient.Object, error) {
		var live batchv1.Job
		return &live, r.Client.Get(ctx, key, &live)
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	job := stored.DeepCopy()
	now := r.Clock.Now()
	r.noteSuspension(job, now)
	t := newTally(job, owned, now)
	b := r.backoff(key, t)
	wait, manageErr := r.act(ctx, t, b)
	err = r.track(ctx, &stored, t)
	r.metrics.synced(job, r.Clock.Since(now), cmp.Or(err, manageErr))
	if err != nil {
		return reconcile.Result{}, err
	}
	r.metrics.tracked(&stored, job)
	r.remember(key, b)
	return reconcile.Result{RequeueAfter: wait}, manageErr
}

// noteSuspension keeps the condition Suspended and the start time, which is
// that of the last resumption.
func (r *reconciler) noteSuspension(job *batchv1.Job, now time.Time) {
	suspended := ptr.Deref(job.Spec.Suspend, false)
	c := condition(&job.Status, batchv1.JobSuspended)
	switch {
	case suspended && (c == nil || c.Status != corev1.ConditionTrue):
		r.setSuspended(job, corev1.ConditionTrue, "JobSuspended", "Job suspended", now)
		r.events.Event(job, corev1.EventTypeNormal, "Suspended", "Job suspended")
	case !suspended && c != nil && c.Status == corev1.ConditionTrue:
		r.setSuspended(job, corev1.ConditionFalse, "JobResumed", "Job resumed", now)
		r.events.Event(job, corev1.EventTypeNormal, "Resumed", "Job resumed")
		job.Status.StartTime = ptr.To(metav1.NewTime(now))
	}
	if suspended {
		job.Status.StartTime = nil
	} else if job.Status.StartTime == nil {
		job.Status.StartTime = ptr.To(metav1.NewTime(now))
	}
}

func (r *reconciler) setSuspended(job *batchv1.Job, status corev1.ConditionStatus, reason, message string, now time.Time) {
	next := newCondition(batchv1.JobSuspended, reason, message, now)
	next.Status = status
	if c := condition(&job.Status, batchv1.JobSuspended); c != nil {
		*c = *next
	} else {
		job.Status.Conditions = append(job.Status.Conditions, *next)
	}
}

// backoff adds the failures and successes that are not in the status yet to
// what is remembered.
func (r *reconciler) backoff(key types.NamespacedName, t *tally) backoff {
	r.mu.Lock()
	b := r.backoffs[key]
	r.mu.Unlock()
	if b.uid != t.job.UID {
		b = backoff{uid: t.job.UID}
	}
	if len(t.succeeded) > 0 {
		b.failures = 0
	}
	b.failures += len(t.failed)
	for _, p := range t.failed {
		if at := endOf(p, t.now); at.After(b.last) {
			b.last = at
		}
	}
	return b
}

// remember keeps b once what it counts is in the status.
func (r *reconciler) remember(key types.NamespacedName, b backoff) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.failures > 0 {
		r.backoffs[key] = b
	} else {
		delete(r.backoffs, key)
	}
}

func (r *reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.backoffs, key)
}

// endOf is when the last container of the pod ended.
func endOf(p *corev1.Pod, now time.Time) time.Time {
	var end time.Time
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated != nil && c.State.Terminated.FinishedAt.After(end) {
			end = c.State.Terminated.FinishedAt.Time
		}
	}
	if end.IsZero() {
		return now
	}
	return end
}

// left returns how long new pods have to wait after at with that many failures.
func left(failures int, at, now time.Time) time.Duration {
	if failures == 0 {
		return 0
	}
	wait := lastBackoff
	if failures < 7 {
		wait = firstBackoff << (failures - 1)
	}
	return max(0, at.Add(min(wait, lastBackoff)).Sub(now))
}

// act makes and removes pods, and puts the outcome into the status once it is
// decided. It returns when to look again at the latest, or 0.
func (r *reconciler) act(ctx context.Context, t *tally, b backoff) (time.Duration, error) {
	job := t.job
	if job.DeletionTimestamp != nil {
		return 0, nil
	}
	if outcome := t.judge(); outcome != nil {
		if condition(&job.Status, outcome.Type) == nil {
			job.Status.Conditions = append(job.Status.Conditions, *outcome)
		}
		return 0, r.drop(ctx, t, t.active, false)
	}
	wait := time.Duration(0)
	if d := t.deadlineIn(); d != noDeadline {
		wait = d
	}
	if extra := t.surplus(); len(extra) > 0 {
		return wait, r.drop(ctx, t, extra[:min(len(extra), burst)], true)
	}
	missing := t.wanted() - len(t.active)
	if onlyFailed(job) {
		missing -= int(t.terminating)
	}
	if missing <= 0 {
		return wait, nil
	}
	if job.Spec.BackoffLimitPerIndex == nil {
		if d := left(b.failures, b.last, t.now); d > 0 {
			return earlier(wait, d), nil
		}
	}
	next, d := r.newPods(t, min(missing, burst))
	_, err := pods.SlowStart(len(next), func(i int) error { return r.control.Create(ctx, job, next[i]) })
	for _, p := range next {
		if p.UID != "" {
			t.active = append(t.active, p)
		}
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil
	}
	return earlier(wait, d), err
}

// drop deletes active pods. Those that are released first do not count as
// failed.
func (r *reconciler) drop(ctx context.Context, t *tally, all []*corev1.Pod, release bool) error {
	gone := make([]bool, len(all))
	_, err := pods.SlowStart(len(all), func(i int) error {
		if release {
			if err := r.release(ctx, t.job, all[i]); err != nil {
				return err
			}
		}
		err := r.control.Delete(ctx, t.job, all[i])
		gone[i] = err == nil
		return err
	})
	dropped := map[*corev1.Pod]bool{}
	for i, p := range all {
		dropped[p] = gone[i]
	}
	t.dropped(dropped)
	return err
}

func earlier(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// newPods returns up to n pods to make now, and how long others have to wait.
func (r *reconciler) newPods(t *tally, n int) (next []*corev1.Pod, wait time.Duration) {
	job := t.job
	ref := metav1.NewControllerRef(job, kind)
	make1 := func() *corev1.Pod {
		p := pods.FromTemplate(&job.Spec.Template, job, ref)
		controllerutil.AddFinalizer(p, batchv1.JobTrackingFinalizer)
		return p
	}
	if !indexed(job) {
		for range n {
			next = append(next, make1())
		}
		return next, 0
	}
	for _, i := range t.nextIndexes(n) {
		p := make1()
		setIndex(p, job.Name, i)
		if job.Spec.BackoffLimitPerIndex != nil {
			var failures int32
			if last := t.lastFailures[i]; last != nil {
				failures = failuresAtIndex(last)
				if action, _ := failureAction(job.Spec.PodFailurePolicy, last); action != batchv1.PodFailurePolicyActionIgnore {
					failures++
				}
				if d := left(int(failures), endOf(last, t.now), t.now); d > 0 {
					wait = earlier(wait, d)
					continue
				}
			}
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
		}
		next = append(next, p)
	}
	return next, wait
}

// setIndex gives the pod its completion index, in all the ways that containers
// and services can see it.
func setIndex(p *corev1.Pod, job string, i int) {
	index := strconv.Itoa(i)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	p.Labels[batchv1.JobCompletionIndexAnnotation] = index
	p.Spec.Hostname = job + "-" + index
	suffix := "-" + index + "-"
	p.GenerateName = job[:min(len(job), maxGeneratedName-len(suffix))] + suffix
	const name = "JOB_COMPLETION_INDEX"
	add := func(containers []corev1.Container) {
	next:
		for k := range containers {
			for _, e := range containers[k].Env {
				if e.Name == name {
					continue next
				}
			}
			containers[k].Env = append(containers[k].Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
			}})
		}
	}
	add(p.Spec.InitContainers)
	add(p.Spec.Containers)
}

// release takes the finalizer off the pod.
func (r *reconciler) release(ctx context.Context, job *batchv1.Job, shared *corev1.Pod) error {
	if !tracked(shared) {
		return nil
	}
	p := shared.DeepCopy()
	controllerutil.RemoveFinalizer(p, batchv1.JobTrackingFinalizer)
	if err := r.Client.Patch(ctx, p, crclient.StrategicMergeFrom(shared)); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	r.tracker.Wrote(controller.Key(job), p)
	return nil
}

// track moves ended pods into the status: first their UIDs, which is written
// before any finalizer goes, then, without the finalizers, the numbers. A
// crash in between leaves either the finalizer or the UID to tell what is to
// be counted.
func (r *reconciler) track(ctx context.Context, stored *batchv1.Job, t *tally) error {
	job, status := t.job, &t.job.Status
	status.Active, status.Ready, status.Terminating = int32(len(t.active)), &t.ready, &t.terminating
	if indexed(job) {
		status.CompletedIndexes = t.done.String()
		if job.Spec.BackoffLimitPerIndex != nil {
			status.FailedIndexes = ptr.To(t.lost.String())
		}
	}
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	uncounted := status.UncountedTerminatedPods
	if !indexed(job) {
		uncounted.Succeeded = append(uncounted.Succeeded, uids(t.succeeded)...)
	}
	uncounted.Failed = append(uncounted.Failed, uids(t.failed)...)
	ended := append(append(append([]*corev1.Pod(nil), t.succeeded...), t.failed...), t.settled...)
	if len(t.succeeded)+len(t.failed) > 0 {
		if err := r.Client.Status().Update(ctx, job); err != nil {
			return crclient.IgnoreNotFound(err)
		}
		stored, status = job.DeepCopy(), &job.Status
		uncounted = status.UncountedTerminatedPods
	}
	if _, err := pods.SlowStart(len(ended), func(i int) error { return r.release(ctx, job, ended[i]) }); err != nil {
		return err
	}
	if uncounted != nil {
		status.Succeeded += int32(len(uncounted.Succeeded))
		status.Failed += int32(len(uncounted.Failed))
		uncounted.Succeeded, uncounted.Failed = nil, nil
	}
	if indexed(job) {
		status.Succeeded = int32(len(t.done))
	}
	// Pods beyond the limit are counted next: their events come, or are there.
	if !t.rest {
		r.finish(t)
	}
	if apiequality.Semantic.DeepEqual(stored.Status, *status) {
		return nil
	}
	if err := r.Client.Status().Update(ctx, job); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	return nil
}

// finish makes the decided outcome final once no pod is left.
func (r *reconciler) finish(t *tally) {
	job, status := t.job, &t.job.Status
	if len(t.active) > 0 || t.terminating > 0 {
		return
	}
	at := metav1.NewTime(t.now)
	if c := condition(status, batchv1.JobFailureTarget); c != nil {
		status.Conditions = append(status.Conditions, *newCondition(batchv1.JobFailed, c.Reason, c.Message, t.now))
		r.events.Event(job, corev1.EventTypeWarning, c.Reason, c.Message)
	} else if c := condition(status, batchv1.JobSuccessCriteriaMet); c != nil {
		status.Conditions = append(status.Conditions, *newCondition(batchv1.JobComplete, c.Reason, c.Message, t.now))
		status.CompletionTime = &at
		if n := job.Spec.Completions; n != nil && status.Succeeded > *n {
			r.events.Event(job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
		}
		r.events.Event(job, corev1.EventTypeNormal, "Completed", "Job completed")
	}
}
