package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"skiff/internal/controllers/pods"
)

// tally is what a job's pods say, together with what its status remembers of
// pods that are no more.
type tally struct {
	job *batchv1.Job
	now time.Time

	active      []*corev1.Pod
	ready       int32
	terminating int32
	// leaving are the terminating pods.
	leaving []*corev1.Pod
	// succeeded and failed are pods that ended and are not in the status yet.
	succeeded, failed []*corev1.Pod
	// rest: there are more of them, for the next time.
	rest bool
	// settled pods are in the status, and still have the finalizer.
	settled []*corev1.Pod
	// nSucceeded and nFailed count all, from the beginning.
	nSucceeded, nFailed int32
	// done and lost are the indexes that completed and that failed for good.
	done, lost indexes
	// lastFailures are failed pods kept until their index has a new pod, by
	// index: they remember how often it failed.
	lastFailures map[int]*corev1.Pod
	// verdict is what the pod failure policy decided, if it ended the job.
	verdict *batchv1.JobCondition
}

func tracked(p *corev1.Pod) bool {
	return controllerutil.ContainsFinalizer(p, batchv1.JobTrackingFinalizer)
}

func indexed(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// onlyFailed: a terminating pod counts as failed only when it has ended
// (KEP-3939).
func onlyFailed(j *batchv1.Job) bool {
	return j.Spec.PodFailurePolicy != nil || ptr.Deref(j.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed
}

func failed(j *batchv1.Job, p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || !onlyFailed(j) && p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
}

func newTally(j *batchv1.Job, all []*corev1.Pod, now time.Time) *tally {
	t := &tally{job: j, now: now, lastFailures: map[int]*corev1.Pod{}}
	completions := int(ptr.Deref(j.Spec.Completions, 0))
	t.done = parseIndexes(j.Status.CompletedIndexes, completions)
	t.lost = parseIndexes(ptr.Deref(j.Status.FailedIndexes, ""), completions)
	uncounted := j.Status.UncountedTerminatedPods
	if uncounted == nil {
		uncounted = &batchv1.UncountedTerminatedPods{}
	}
	t.nSucceeded = j.Status.Succeeded + int32(len(uncounted.Succeeded))
	t.nFailed = j.Status.Failed + int32(len(uncounted.Failed))
	activeAt := map[int]bool{}
	var perIndex []*corev1.Pod
	for _, p := range all {
		switch {
		case pods.Active(p):
			t.active = append(t.active, p)
			activeAt[indexOf(p)] = true
			if pods.Ready(p) {
				t.ready++
			}
		case p.DeletionTimestamp != nil && !pods.Finished(p):
			t.terminating++
			t.leaving = append(t.leaving, p)
		}
		if !tracked(p) {
			continue
		}
		switch {
		case slices.Contains(uncounted.Succeeded, p.UID), slices.Contains(uncounted.Failed, p.UID):
			t.settled = append(t.settled, p)
		case p.Status.Phase == corev1.PodSucceeded:
			if !indexed(j) {
				t.nSucceeded++
				t.succeeded = append(t.succeeded, p)
			} else if i := indexOf(p); i >= 0 && i < completions && !t.done.has(i) {
				t.done = t.done.with(i)
				t.succeeded = append(t.succeeded, p)
			} else {
				t.settled = append(t.settled, p)
			}
		case failed(j, p):
			if j.Spec.BackoffLimitPerIndex != nil && indexed(j) {
				perIndex = append(perIndex, p)
			} else {
				t.fail(p)
			}
		}
	}
	if indexed(j) {
		t.nSucceeded = int32(len(t.done))
	}
	t.failPerIndex(perIndex, activeAt)
	t.limit(uncountedLimit)
	return t
}

// fail counts a failed pod as the failure policy says.
func (t *tally) fail(p *corev1.Pod) {
	action, message := failureAction(t.job.Spec.PodFailurePolicy, p)
	switch action {
	case batchv1.PodFailurePolicyActionIgnore:
		t.settled = append(t.settled, p)
		return
	case batchv1.PodFailurePolicyActionFailJob:
		if t.verdict == nil {
			t.verdict = newCondition(batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, message, t.now)
		}
	}
	t.nFailed++
	t.failed = append(t.failed, p)
}

// failPerIndex counts failures of jobs with a backoff limit for each index
// (KEP-3850). The newest failed pod of an index that goes on is kept until it
// has a successor.
func (t *tally) failPerIndex(all []*corev1.Pod, activeAt map[int]bool) {
	limit := ptr.Deref(t.job.Spec.BackoffLimitPerIndex, 0)
	for _, p := range all {
		i := indexOf(p)
		action, _ := failureAction(t.job.Spec.PodFailurePolicy, p)
		if i >= 0 && !t.done.has(i) && (action == batchv1.PodFailurePolicyActionFailIndex || action != batchv1.PodFailurePolicyActionIgnore && failuresAtIndex(p) >= limit) {
			t.lost = t.lost.with(i)
		}
	}
	for _, p := range all {
		i := indexOf(p)
		if i < 0 || t.lost.has(i) || t.done.has(i) || activeAt[i] {
			t.fail(p)
			continue
		}
		last := t.lastFailures[i]
		if last != nil && failuresAtIndex(last) > failuresAtIndex(p) {
			t.fail(p)
			continue
		}
		if last != nil {
			t.fail(last)
		}
		t.lastFailures[i] = p
	}
	if t.verdict == nil {
		for _, p := range t.lastFailures {
			if action, message := failureAction(t.job.Spec.PodFailurePolicy, p); action == batchv1.PodFailurePolicyActionFailJob {
				t.verdict = newCondition(batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, message, t.now)
			}
		}
	}
	if t.verdict != nil {
		for _, p := range t.lastFailures {
			t.nFailed++
			t.failed = append(t.failed, p)
		}
		t.lastFailures = nil
	}
}

// dropped notes which active pods were deleted.
func (t *tally) dropped(pod map[*corev1.Pod]bool) {
	var active []*corev1.Pod
	for _, p := range t.active {
		if !pod[p] {
			active = append(active, p)
			continue
		}
		if pods.Ready(p) {
			t.ready--
		}
		t.terminating++
		t.leaving = append(t.leaving, p)
	}
	t.active = active
}

// limit puts off counting more than n pods.
func (t *tally) limit(n int) {
	t.rest = len(t.succeeded)+len(t.failed) > n
	t.succeeded = t.succeeded[:min(len(t.succeeded), n)]
	t.failed = t.failed[:min(len(t.failed), n-len(t.succeeded))]
}

// judge returns the condition FailureTarget or SuccessCriteriaMet if the job's
// outcome is decided, and nil while it is open.
func (t *tally) judge() *batchv1.JobCondition {
	j := t.job
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if c := condition(&j.Status, kind); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	fail := func(reason, message string) *batchv1.JobCondition {
		return newCondition(batchv1.JobFailureTarget, reason, message, t.now)
	}
	switch {
	case t.verdict != nil:
		return t.verdict
	case t.nFailed > ptr.Deref(j.Spec.BackoffLimit, 6) || t.restartsExceeded():
		return fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case t.deadlineIn() < 0:
		return fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	}
	completions := int(ptr.Deref(j.Spec.Completions, 0))
	if indexed(j) {
		if j.Spec.MaxFailedIndexes != nil && len(t.lost) > int(*j.Spec.MaxFailedIndexes) {
			return fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		}
		if message, ok := succeeds(j.Spec.SuccessPolicy, t.done, completions); ok {
			return newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message, t.now)
		}
		if len(t.lost) > 0 && len(t.lost)+len(t.done) >= completions {
			return fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	reached := false
	if j.Spec.Completions == nil {
		// A work queue is done when one pod succeeded and none is left.
		reached = t.nSucceeded > 0 && len(t.active) == 0
	} else {
		reached = int(t.nSucceeded) >= completions && (completions > 0 || len(t.active) == 0)
	}
	if reached {
		return newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", t.now)
	}
	return nil
}

// restartsExceeded: with restartPolicy OnFailure, restarts of containers count
// as failures.
func (t *tally) restartsExceeded() bool {
	if t.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var n int32
	for _, p := range t.active {
		for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
			n += c.RestartCount
		}
	}
	limit := ptr.Deref(t.job.Spec.BackoffLimit, 6)
	return n > 0 && n >= limit
}

// noDeadline is more than any deadline.
const noDeadline = time.Duration(1<<63 - 1)

// deadlineIn returns how long the job may still run; it is negative when the
// time is up.
func (t *tally) deadlineIn() time.Duration {
	s := t.job.Spec
	if s.ActiveDeadlineSeconds == nil || t.job.Status.StartTime == nil || ptr.Deref(s.Suspend, false) {
		return noDeadline
	}
	left := t.job.Status.StartTime.Add(time.Duration(*s.ActiveDeadlineSeconds) * time.Second).Sub(t.now)
	if left == 0 {
		return -1
	}
	return left
}

// wanted is how many pods should run at once now.
func (t *tally) wanted() int {
	j := t.job
	parallelism := int(ptr.Deref(j.Spec.Parallelism, 1))
	switch {
	case ptr.Deref(j.Spec.Suspend, false):
		return 0
	case j.Spec.Completions == nil:
		if t.nSucceeded > 0 {
			return min(len(t.active), parallelism)
		}
		return parallelism
	}
	left := int(*j.Spec.Completions) - int(t.nSucceeded) - len(t.lost)
	return max(0, min(left, parallelism))
}

// surplus are pods to remove: those of indexes that need none, and the least
// useful beyond wanted.
func (t *tally) surplus() []*corev1.Pod {
	var extra, useful []*corev1.Pod
	taken := map[int]bool{}
	for _, p := range t.active {
		i := indexOf(p)
		if indexed(t.job) && (i < 0 || i >= int(*t.job.Spec.Completions) || taken[i] || t.done.has(i) || t.lost.has(i)) {
			extra = append(extra, p)
			continue
		}
		taken[i] = true
		useful = append(useful, p)
	}
	if n := len(useful) - t.wanted(); n > 0 {
		extra = append(extra, pods.ToDelete(useful, useful, n, t.now)...)
	}
	return extra
}

// nextIndexes are the first n indexes that need a pod.
func (t *tally) nextIndexes(n int) []int {
	busy := map[int]bool{}
	for _, p := range t.active {
		busy[indexOf(p)] = true
	}
	if onlyFailed(t.job) {
		for _, p := range t.leaving {
			busy[indexOf(p)] = true
		}
	}
	var next []int
	for i := 0; i < int(*t.job.Spec.Completions) && len(next) < n; i++ {
		if !busy[i] && !t.done.has(i) && !t.lost.has(i) {
			next = append(next, i)
		}
	}
	return next
}

func condition(s *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

func newCondition(kind batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	at := metav1.NewTime(now)
	return &batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastProbeTime: at, LastTransitionTime: at}
}

func finished(j *batchv1.Job) bool {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := condition(&j.Status, kind); c != nil && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func uids(all []*corev1.Pod) []types.UID {
	out := make([]types.UID, len(all))
	for i, p := range all {
		out[i] = p.UID
	}
	return out
}
