package job_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/job"
)

// start runs the controllers an hour ahead of the pods: nobody has to wait
// after a failure.
func start(t *testing.T) (*controllertest.Cluster, *controllertest.JumpingClock) {
	t.Helper()
	clk := &controllertest.JumpingClock{}
	clk.Jump(time.Hour)
	c := controllertest.StartAt(t, clk)
	c.Run("job-controller", job.New)
	c.Run("job-controller", job.NewOrphans)
	c.Run("ttl-after-finished-controller", job.NewTTL)
	c.Kubelet()
	return c, clk
}

func newJob(name, image string, spec batchv1.JobSpec) *batchv1.Job {
	spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}}}
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
}

func get(c *controllertest.Cluster, name string) *batchv1.Job {
	return controllertest.Get(c, "default", name, &batchv1.Job{})
}

func pods(c *controllertest.Cluster, name string) []corev1.Pod {
	return c.Pods("default", client.MatchingLabels{batchv1.JobNameLabel: name})
}

func waitFor(c *controllertest.Cluster, name, what string, ok func(batchv1.JobStatus) bool) {
	c.Eventually(name+": "+what, &batchv1.JobList{}, func() bool { return ok(get(c, name).Status) })
}

// conditions writes the true ones down as Type(Reason).
func conditions(s batchv1.JobStatus) (all string) {
	for _, c := range s.Conditions {
		if c.Status == corev1.ConditionTrue {
			all += fmt.Sprintf("%s(%s) ", c.Type, c.Reason)
		}
	}
	return all
}

func TestOutcomes(t *testing.T) {
	c, _ := start(t)
	indexed := ptr.To(batchv1.IndexedCompletion)
	on := func(action batchv1.PodFailurePolicyAction, code int32) *batchv1.PodFailurePolicy {
		return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code},
		}}}}
	}
	success := func(rule batchv1.SuccessPolicyRule) *batchv1.SuccessPolicy {
		return &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
	}
	const odd = "exit:1=1;3=1;*=0"
	// After so many Events about its pods, one about the job itself is dropped.
	const flooded = ""
	for _, test := range []struct {
		name, image       string
		spec              batchv1.JobSpec
		conditions        string
		succeeded, failed int32
		done, lost        string
		event             string
	}{
		{"one", "exit:0", batchv1.JobSpec{}, "SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached) ", 1, 0, "", "", "Completed"},
		{"many", "exit:0", batchv1.JobSpec{Completions: ptr.To[int32](700), Parallelism: ptr.To[int32](700)},
			"SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached) ", 700, 0, "", "", flooded},
		{"limit", "exit:1", batchv1.JobSpec{BackoffLimit: ptr.To[int32](2)}, "FailureTarget(BackoffLimitExceeded) Failed(BackoffLimitExceeded) ", 0, 3, "", "", "BackoffLimitExceeded"},
		{"policy", "exit:42", batchv1.JobSpec{PodFailurePolicy: on(batchv1.PodFailurePolicyActionFailJob, 42)}, "FailureTarget(PodFailurePolicy) Failed(PodFailurePolicy) ", 0, 1, "", "", "PodFailurePolicy"},
		{"per-index", odd, batchv1.JobSpec{Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](2), CompletionMode: indexed, BackoffLimitPerIndex: ptr.To[int32](1)},
			"FailureTarget(FailedIndexes) Failed(FailedIndexes) ", 2, 4, "0,2", "1,3", "FailedIndexes"},
		{"fail-index", "exit:1=42;3=42;*=0", batchv1.JobSpec{Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](2), CompletionMode: indexed, BackoffLimitPerIndex: ptr.To[int32](5), PodFailurePolicy: on(batchv1.PodFailurePolicyActionFailIndex, 42)},
			"FailureTarget(FailedIndexes) Failed(FailedIndexes) ", 2, 2, "0,2", "1,3", "FailedIndexes"},
		{"max-failed", "exit:1=1;3=1;5=1;*=0", batchv1.JobSpec{Completions: ptr.To[int32](1000), Parallelism: ptr.To[int32](1), CompletionMode: indexed, BackoffLimitPerIndex: ptr.To[int32](0), MaxFailedIndexes: ptr.To[int32](2)},
			"FailureTarget(MaxFailedIndexesExceeded) Failed(MaxFailedIndexesExceeded) ", 3, 3, "0,2,4", "1,3,5", "MaxFailedIndexesExceeded"},
		{"success-indexes", "exit:0=0;*=", batchv1.JobSpec{Completions: ptr.To[int32](5), Parallelism: ptr.To[int32](2), CompletionMode: indexed, SuccessPolicy: success(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0")})},
			"SuccessCriteriaMet(SuccessPolicy) Complete(SuccessPolicy) ", 1, 1, "0", "", "Completed"},
		{"success-count", "exit:0=0;*=", batchv1.JobSpec{Completions: ptr.To[int32](5), Parallelism: ptr.To[int32](2), CompletionMode: indexed, SuccessPolicy: success(batchv1.SuccessPolicyRule{SucceededCount: ptr.To[int32](1)})},
			"SuccessCriteriaMet(SuccessPolicy) Complete(SuccessPolicy) ", 1, 1, "0", "", "Completed"},
		{"success-all", "exit:0", batchv1.JobSpec{Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](3), CompletionMode: indexed, SuccessPolicy: success(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0-2")})},
			"SuccessCriteriaMet(SuccessPolicy) Complete(SuccessPolicy) ", 3, 0, "0-2", "", "Completed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.Create(newJob(test.name, test.image, test.spec))
			waitFor(c, test.name, "end", func(s batchv1.JobStatus) bool { return conditions(s) == test.conditions })
			s := get(c, test.name).Status
			if s.Succeeded != test.succeeded || s.Failed != test.failed || s.CompletedIndexes != test.done || ptr.Deref(s.FailedIndexes, "") != test.lost {
				t.Errorf("succeeded %d, failed %d, completed indexes %q, failed indexes %q", s.Succeeded, s.Failed, s.CompletedIndexes, ptr.Deref(s.FailedIndexes, ""))
			}
			if u := s.UncountedTerminatedPods; s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || len(u.Succeeded)+len(u.Failed) > 0 {
				t.Errorf("left at the end: %+v", s)
			}
			if (s.CompletionTime != nil) != (test.event == "Completed" || test.event == flooded) {
				t.Errorf("completion time %v", s.CompletionTime)
			}
			if test.event != flooded {
				c.WaitForEvent("default", test.name, test.event)
			}
			c.Eventually("no finalizer is left", &corev1.PodList{}, func() bool {
				for _, p := range pods(c, test.name) {
					if len(p.Finalizers) > 0 {
						return false
					}
				}
				return true
			})
		})
	}
}

func TestDisruptionsAreIgnored(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("spot", "web:1", batchv1.JobSpec{BackoffLimit: ptr.To[int32](0), PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
	}}}}))
	waitFor(c, "spot", "a pod", func(s batchv1.JobStatus) bool { return ptr.Deref(s.Ready, 0) == 1 })
	evicted := pods(c, "spot")[0]
	c.Fail(&evicted, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"})
	c.Eventually("a new pod", &corev1.PodList{}, func() bool {
		for _, p := range pods(c, "spot") {
			if p.UID != evicted.UID && p.Status.Phase == corev1.PodRunning {
				return true
			}
		}
		return false
	})
	if s := get(c, "spot").Status; s.Failed != 0 || conditions(s) != "" {
		t.Errorf("failed %d, conditions %s", s.Failed, conditions(s))
	}
}

func TestAdoptAndRelease(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("work", "web:1", batchv1.JobSpec{Completions: ptr.To[int32](2), Parallelism: ptr.To[int32](2)}))
	waitFor(c, "work", "pods", func(s batchv1.JobStatus) bool { return s.Active == 2 })
	orphan, other := pods(c, "work")[0], pods(c, "work")[1]
	controllertest.Change(c, &orphan, func(p *corev1.Pod) { p.OwnerReferences = nil })
	c.Eventually("adoption", &corev1.PodList{}, func() bool {
		return metav1.IsControlledBy(controllertest.Get(c, "default", orphan.Name, &orphan), get(c, "work"))
	})
	controllertest.Change(c, &other, func(p *corev1.Pod) { p.Labels = nil })
	c.Eventually("release", &corev1.PodList{}, func() bool {
		p := controllertest.Get(c, "default", other.Name, &other)
		return len(p.OwnerReferences) == 0 && len(p.Finalizers) == 0
	})
	c.Eventually("a pod in its place", &corev1.PodList{}, func() bool { return len(pods(c, "work")) == 2 })
}

// TestPodsAreCountedOnce restarts the controller and writes into its way all
// the time.
func TestPodsAreCountedOnce(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("job-controller", job.NewOrphans)
	stop := c.Run("job-controller", job.New)
	c.Kubelet()
	c.Always("default", func(pods []*corev1.Pod) error {
		active := 0
		for _, p := range pods {
			if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded {
				active++
			}
		}
		if active > 8 || len(pods) > 120 {
			return fmt.Errorf("%d pods, %d of them active", len(pods), active)
		}
		return nil
	})
	c.Create(newJob("plain", "exit:0", batchv1.JobSpec{Completions: ptr.To[int32](60), Parallelism: ptr.To[int32](4)}),
		newJob("indexed", "exit:0", batchv1.JobSpec{Completions: ptr.To[int32](60), Parallelism: ptr.To[int32](4), CompletionMode: ptr.To(batchv1.IndexedCompletion)}))
	for i := range 6 {
		for _, name := range []string{"plain", "indexed"} {
			waitFor(c, name, "progress", func(s batchv1.JobStatus) bool { return s.Succeeded >= int32(10*i) })
			controllertest.Change(c, get(c, name), func(j *batchv1.Job) { j.Annotations = map[string]string{"round": fmt.Sprint(i)} })
		}
		stop()
		stop = c.Run("job-controller", job.New)
	}
	for _, name := range []string{"plain", "indexed"} {
		waitFor(c, name, "end", func(s batchv1.JobStatus) bool { return s.CompletionTime != nil })
		if s := get(c, name).Status; s.Succeeded != 60 || s.Failed != 0 {
			t.Errorf("%s: %d succeeded, %d failed", name, s.Succeeded, s.Failed)
		}
	}
}

func TestSuspendAndResume(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("work", "web:1", batchv1.JobSpec{Suspend: ptr.To(true), Parallelism: ptr.To[int32](3), Completions: ptr.To[int32](3)}))
	suspended := func(s batchv1.JobStatus) bool { return conditions(s) == "Suspended(JobSuspended) " && s.Active == 0 }
	waitFor(c, "work", "suspension", suspended)
	if s := get(c, "work").Status; s.StartTime != nil {
		t.Error("a job that never ran has a start time")
	}
	suspend := func(yes bool) {
		controllertest.Change(c, get(c, "work"), func(j *batchv1.Job) { j.Spec.Suspend = &yes })
	}
	suspend(false)
	waitFor(c, "work", "resumption", func(s batchv1.JobStatus) bool {
		return s.Active == 3 && s.StartTime != nil && len(s.Conditions) == 1 && s.Conditions[0].Reason == "JobResumed"
	})
	suspend(true)
	waitFor(c, "work", "suspension again", func(s batchv1.JobStatus) bool { return suspended(s) && ptr.Deref(s.Terminating, 1) == 0 })
	if s := get(c, "work").Status; s.Failed != 0 {
		t.Errorf("%d pods failed by a suspension", s.Failed)
	}
	c.WaitForEvent("default", "work", "Suspended")
	c.WaitForEvent("default", "work", "Resumed")
}

func TestReplacementWaitsForTheEnd(t *testing.T) {
	c, clk := start(t)
	c.Create(newJob("work", "hold", batchv1.JobSpec{PodReplacementPolicy: ptr.To(batchv1.Failed), CompletionMode: ptr.To(batchv1.IndexedCompletion), Completions: ptr.To[int32](1)}))
	waitFor(c, "work", "a pod", func(s batchv1.JobStatus) bool { return s.Active == 1 })
	pod := pods(c, "work")[0]
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-0"}}
	if err := c.Client.SubResource("binding").Create(context.Background(), &pod, bind); err != nil {
		t.Fatal(err)
	}
	c.Delete(&pod)
	waitFor(c, "work", "termination", func(s batchv1.JobStatus) bool { return ptr.Deref(s.Terminating, 0) == 1 && s.Active == 0 })
	if n := len(pods(c, "work")); n != 1 {
		t.Fatalf("%d pods while the first is terminating", n)
	}
	c.Fail(controllertest.Get(c, "default", pod.Name, &pod))
	waitFor(c, "work", "counting", func(s batchv1.JobStatus) bool { return s.Failed == 1 && s.Active == 0 })
	clk.Jump(11 * time.Second)
	controllertest.Change(c, get(c, "work"), func(j *batchv1.Job) { j.Annotations = map[string]string{"look": "again"} })
	waitFor(c, "work", "replacement", func(s batchv1.JobStatus) bool { return s.Failed == 1 && s.Active == 1 })
}

func TestTimes(t *testing.T) {
	c, clk := start(t)
	c.Create(
		newJob("slow", "web:1", batchv1.JobSpec{ActiveDeadlineSeconds: ptr.To[int64](60)}),
		newJob("brief", "exit:0", batchv1.JobSpec{TTLSecondsAfterFinished: ptr.To[int32](60)}),
		newJob("foreign", "exit:0", batchv1.JobSpec{ManagedBy: ptr.To("example.com/other")}),
	)
	waitFor(c, "slow", "a pod", func(s batchv1.JobStatus) bool { return s.Active == 1 })
	waitFor(c, "brief", "the end", func(s batchv1.JobStatus) bool { return s.CompletionTime != nil })
	look := func(name string) {
		controllertest.Change(c, get(c, name), func(j *batchv1.Job) { j.Annotations = map[string]string{"look": clk.Now().String()} })
	}
	clk.Jump(30 * time.Second)
	look("slow")
	look("brief")
	if s := get(c, "slow").Status; conditions(s) != "" {
		t.Errorf("before the deadline: %s", conditions(s))
	}
	clk.Jump(31 * time.Second)
	look("slow")
	look("brief")
	waitFor(c, "slow", "the deadline", func(s batchv1.JobStatus) bool {
		return conditions(s) == "FailureTarget(DeadlineExceeded) Failed(DeadlineExceeded) "
	})
	c.Eventually("deletion of the job that ended", &batchv1.JobList{}, func() bool {
		var j batchv1.Job
		err := c.Client.Get(context.Background(), types.NamespacedName{Namespace: "default", Name: "brief"}, &j)
		return apierrors.IsNotFound(err) || err == nil && j.DeletionTimestamp != nil
	})
	if n := len(pods(c, "foreign")); n != 0 || get(c, "foreign").Status.StartTime != nil {
		t.Errorf("a job of another controller has %d pods", n)
	}
}
