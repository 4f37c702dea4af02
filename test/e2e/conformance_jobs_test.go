//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

var jobs = []conformant{
	{"[sig-apps] Job should adopt matching orphans and release non-matching pods", (*space).testJobAdopts},
	{"[sig-apps] Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition", (*space).testJobIgnoresEviction},
	{"[sig-apps] Job should allow to use the pod failure policy on exit code to fail the job early", (*space).testJobFailsEarly},
	{"[sig-apps] Job should apply changes to a job status", (*space).testJobStatus},
	{"[sig-apps] Job should create pods for an Indexed job with completion indexes and specified hostname", (*space).testJobIndexed},
	{"[sig-apps] Job should delete a job", (*space).testJobDelete},
	{"[sig-apps] Job should execute all indexes despite some failing when using backoffLimitPerIndex", (*space).testJobLimitPerIndex},
	{"[sig-apps] Job should manage the lifecycle of a job", (*space).testJobLifecycle},
	{"[sig-apps] Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy", (*space).testJobFailIndex},
	{"[sig-apps] Job should run a job to completion when tasks sometimes fail and are locally restarted", (*space).testJobRestarts},
	{"[sig-apps] Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes", (*space).testJobMaxFailedIndexes},
	{"[sig-apps] Job with successPolicy should succeeded when all indexes succeeded", (*space).testJobSuccessAll},
	{"[sig-apps] Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending", (*space).testJobSuccessCount},
	{"[sig-apps] Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending", (*space).testJobSuccessIndexes},
}

// job makes a Job whose pods run a shell command and have the label app=NAME.
func (s *space) job(name, script string, change func(*batchv1.JobSpec)) *batchv1.Job {
	s.Helper()
	t := template(name, script)
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	limit := int32(6)
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels},
		Spec:       batchv1.JobSpec{Parallelism: new(int32(2)), Completions: new(int32(4)), BackoffLimit: &limit, Template: t},
	}
	if change != nil {
		change(&j.Spec)
	}
	j, err := s.client.BatchV1().Jobs(s.ns).Create(s.Context(), j, metav1.CreateOptions{})
	s.ok(err)
	return j
}

func indexed(spec *batchv1.JobSpec, completions, parallelism int32) {
	mode := batchv1.IndexedCompletion
	spec.CompletionMode, spec.Completions, spec.Parallelism = &mode, &completions, &parallelism
}

// ends waits until a Job has the conditions, in this order, with these reasons.
func (s *space) ends(name string, want ...string) *batchv1.Job {
	s.Helper()
	var j *batchv1.Job
	s.eventually(fmt.Sprintf("%s ends with %v", name, want), func(ctx context.Context) (err error) {
		if j, err = s.client.BatchV1().Jobs(s.ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		var got []string
		for _, c := range j.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				got = append(got, string(c.Type)+" "+c.Reason)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("the status is %s", text(j.Status))
		}
		return nil
	})
	return j
}

func (s *space) testJobAdopts() {
	s.job("adopt", idle, nil)
	p := s.pods("adopt", 2, isReady)[0]
	s.updatePod(p.Name, func(p *corev1.Pod) { p.OwnerReferences = nil })
	s.podThat(p.Name, "is adopted", func(p *corev1.Pod) bool { return owner(p) == "Job/adopt" })
	s.updatePod(p.Name, func(p *corev1.Pod) { p.Labels = nil })
	s.podThat(p.Name, "is released", func(p *corev1.Pod) bool { return owner(p) == "" })
}

// Each index fails once, by an eviction, which does not count.
func (s *space) testJobIgnoresEviction() {
	s.job("ignore", "trap 'exit 1' TERM; [ -e /marks/$JOB_COMPLETION_INDEX ] && exit 0; touch /marks/$JOB_COMPLETION_INDEX; sleep 3600 & wait", func(spec *batchv1.JobSpec) {
		indexed(spec, 2, 2)
		spec.BackoffLimit = new(int32(0))
		spec.Template.Spec.NodeName = s.node(1)
		grace := int64(30)
		spec.Template.Spec.TerminationGracePeriodSeconds = &grace
		kind := corev1.HostPathDirectory
		spec.Template.Spec.Volumes = []corev1.Volume{{Name: "marks", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: s.TempDir(), Type: &kind}}}}
		spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "marks", MountPath: "/marks"}}
		spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}}}
	})
	for _, p := range s.pods("ignore", 2, running) {
		s.eventually("the pod has left its mark", func(context.Context) error {
			_, err := s.exec(p.Name, "[ -e /marks/$JOB_COMPLETION_INDEX ]")
			return err
		})
		s.ok(s.evict(p.Name))
	}
	j := s.ends("ignore", "SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached")
	s.condition("no failure counts", j.Status.Failed == 0 && j.Status.Succeeded == 2, j.Status)
}

func (s *space) testJobFailsEarly() {
	s.job("early", "[ $JOB_COMPLETION_INDEX = 0 ] && exit 42; "+idle, func(spec *batchv1.JobSpec) {
		indexed(spec, 3, 3)
		spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:      batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	})
	j := s.ends("early", "FailureTarget PodFailurePolicy", "Failed PodFailurePolicy")
	s.condition("nothing is active", j.Status.Active == 0 && j.Status.Failed == 3, j.Status)
}

func (s *space) testJobStatus() {
	s.job("status", idle, nil)
	s.pods("status", 2, isReady)
	condition := func(j *batchv1.Job, reason string) bool {
		return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == "Custom" && c.Reason == reason })
	}
	var j batchv1.Job
	s.patch(jobsResource, "status", `{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"conditions":[{"type":"Custom","status":"True","reason":"Patched"}]}}`, "status")
	s.get(jobsResource, "status", &j, "status")
	s.condition("the annotation comes with the status", j.Annotations["patchedstatus"] == "true", j)
	s.condition("the status is patched", condition(&j, "Patched"), j)
	s.update(jobsResource, "status", func(obj map[string]any) error {
		return unstructured.SetNestedSlice(obj, []any{map[string]any{"type": "Custom", "status": "True", "reason": "Updated"}}, "status", "conditions")
	}, "status")
	s.get(jobsResource, "status", &j, "status")
	s.condition("the status is updated", condition(&j, "Updated") && j.UID != "", j)
}

func (s *space) testJobIndexed() {
	s.job("indexed", `[ "$(hostname)" = "indexed-$JOB_COMPLETION_INDEX" ]`, func(spec *batchv1.JobSpec) { indexed(spec, 4, 2) })
	j := s.ends("indexed", "SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached")
	s.condition("all indexes are complete", j.Status.CompletedIndexes == "0-3" && j.Status.Succeeded == 4, j.Status)
	seen := map[string]bool{}
	for _, p := range s.pods("indexed", 4, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }) {
		index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		seen[index] = true
		s.condition("the host's name has the index", p.Spec.Hostname == "indexed-"+index && p.Labels[batchv1.JobCompletionIndexAnnotation] == index, p)
	}
	s.condition("each has an index of its own", len(seen) == 4 && seen["0"] && seen["3"], seen)
}

func (s *space) testJobDelete() {
	s.job("deleted", idle, nil)
	s.pods("deleted", 2, isReady)
	foreground := metav1.DeletePropagationForeground
	s.ok(s.client.BatchV1().Jobs(s.ns).Delete(s.Context(), "deleted", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	s.eventually("the job is gone", func(ctx context.Context) error {
		j, err := s.client.BatchV1().Jobs(s.ns).Get(ctx, "deleted", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v: %s", err, text(j))
	})
	s.pods("deleted", 0, isReady)
}

// oddFail is a task that fails at odd indexes.
const oddFail = "exit $((JOB_COMPLETION_INDEX % 2))"

func (s *space) testJobLimitPerIndex() {
	s.job("perindex", oddFail, func(spec *batchv1.JobSpec) {
		indexed(spec, 4, 4)
		spec.BackoffLimit, spec.BackoffLimitPerIndex = nil, new(int32(1))
	})
	j := s.ends("perindex", "FailureTarget FailedIndexes", "Failed FailedIndexes")
	s.condition("the odd indexes failed twice", *j.Status.FailedIndexes == "1,3" && j.Status.CompletedIndexes == "0,2" && j.Status.Failed == 4 && j.Status.Succeeded == 2, j.Status)
}

func (s *space) testJobMaxFailedIndexes() {
	s.job("maxfailed", oddFail, func(spec *batchv1.JobSpec) {
		indexed(spec, 4, 4)
		spec.BackoffLimit, spec.BackoffLimitPerIndex, spec.MaxFailedIndexes = nil, new(int32(0)), new(int32(0))
		// The others go on until the Job is stopped.
		spec.Template.Spec.Containers[0].Command[2] = "[ $JOB_COMPLETION_INDEX = 1 ] && exit 1; " + idle
	})
	j := s.ends("maxfailed", "FailureTarget MaxFailedIndexesExceeded", "Failed MaxFailedIndexesExceeded")
	s.condition("all were stopped", j.Status.Active == 0 && j.Status.Succeeded == 0, j.Status)
}

func (s *space) testJobFailIndex() {
	s.job("failindex", "exit $((JOB_COMPLETION_INDEX % 2 * 42))", func(spec *batchv1.JobSpec) {
		indexed(spec, 2, 2)
		spec.BackoffLimit, spec.BackoffLimitPerIndex = nil, new(int32(1))
		spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:      batchv1.PodFailurePolicyActionFailIndex,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	})
	j := s.ends("failindex", "FailureTarget FailedIndexes", "Failed FailedIndexes")
	s.condition("the index failed once", *j.Status.FailedIndexes == "1" && j.Status.CompletedIndexes == "0" && j.Status.Failed == 1 && j.Status.Succeeded == 1, j.Status)
}

func (s *space) testJobRestarts() {
	s.job("restarts", "[ -e /data/once ] && exit 0; touch /data/once; exit 1", func(spec *batchv1.JobSpec) {
		spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	})
	j := s.ends("restarts", "SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached")
	s.condition("all completed in the pods they began in", j.Status.Succeeded == 4 && j.Status.Failed == 0, j.Status)
}

// firstSucceeds is a task that ends at index 0 only.
const firstSucceeds = "[ $JOB_COMPLETION_INDEX = 0 ] && exit 0; " + idle

// early is a Job that is to succeed by a rule before all indexes have.
func (s *space) early(script string, rule batchv1.SuccessPolicyRule, parallelism int32) *batchv1.Job {
	s.Helper()
	s.job("success", script, func(spec *batchv1.JobSpec) {
		indexed(spec, 5, parallelism)
		spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
	})
	j := s.ends("success", "SuccessCriteriaMet SuccessPolicy", "Complete SuccessPolicy")
	s.condition("nothing is active", j.Status.Active == 0 && *j.Status.Terminating == 0, j.Status)
	return j
}

func (s *space) testJobSuccessAll() {
	indexes := "0-4"
	j := s.early("exit 0", batchv1.SuccessPolicyRule{SucceededIndexes: &indexes}, 2)
	s.condition("all succeeded", j.Status.CompletedIndexes == indexes && j.Status.Succeeded == 5, j.Status)
}

func (s *space) testJobSuccessIndexes() {
	indexes := "0"
	j := s.early(firstSucceeds, batchv1.SuccessPolicyRule{SucceededIndexes: &indexes}, 2)
	s.condition("one succeeded", j.Status.CompletedIndexes == "0" && j.Status.Succeeded == 1, j.Status)
}

func (s *space) testJobSuccessCount() {
	j := s.early(firstSucceeds, batchv1.SuccessPolicyRule{SucceededCount: new(int32(1))}, 5)
	s.condition("one succeeded", j.Status.CompletedIndexes == "0" && j.Status.Succeeded == 1, j.Status)
}

func (s *space) testJobLifecycle() {
	suspended := true
	w := s.watch(s.of(jobsResource), map[string]string{"app": "life"})
	s.job("life", "exit 0", func(spec *batchv1.JobSpec) { spec.Suspend = &suspended })
	is := func(what string, kind watch.EventType, wanted func(*unstructured.Unstructured) bool) {
		s.Helper()
		w.until(what, func(e watch.Event) bool {
			obj, ok := e.Object.(*unstructured.Unstructured)
			return ok && e.Type == kind && wanted(obj)
		})
	}
	s.patch(jobsResource, "life", `{"metadata":{"labels":{"life":"patched"},"annotations":{"first":"true"}}}`)
	is("it is patched", watch.Modified, func(obj *unstructured.Unstructured) bool { return obj.GetLabels()["life"] == "patched" })
	s.pods("life", 0, isReady)
	s.update(jobsResource, "life", func(obj map[string]any) error {
		if err := unstructured.SetNestedField(obj, "true", "metadata", "annotations", "updated"); err != nil {
			return err
		}
		return unstructured.SetNestedField(obj, false, "spec", "suspend")
	})
	is("it is updated", watch.Modified, func(obj *unstructured.Unstructured) bool { return obj.GetAnnotations()["updated"] == "true" })
	s.ends("life", "SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached")
	s.collection(jobsResource, 1, "life=patched,app=life")
	is("it is deleted", watch.Deleted, func(*unstructured.Unstructured) bool { return true })
}
