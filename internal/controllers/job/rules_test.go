package job_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
)

// running are the completion indexes of the pods that run.
func running(c *controllertest.Cluster, name string) string {
	var all []string
	for _, p := range pods(c, name) {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			all = append(all, p.Labels[batchv1.JobCompletionIndexAnnotation])
		}
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// end reports a pod's container as ended, as the kubelet does.
func end(t *testing.T, c *controllertest.Cluster, job, index string, code int32) {
	t.Helper()
	for _, p := range pods(c, job) {
		if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning || p.Labels[batchv1.JobCompletionIndexAnnotation] != index {
			continue
		}
		p.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			p.Status.Phase = corev1.PodFailed
		}
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}}
		if err := c.Client.Status().Update(context.Background(), &p); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no pod %s of %s runs", index, job)
}

func change(c *controllertest.Cluster, name string, f func(*batchv1.JobSpec)) {
	controllertest.Change(c, get(c, name), func(j *batchv1.Job) { f(&j.Spec) })
}

// TestRestartsCount: with OnFailure the kubelet restarts containers, and the
// limit counts restarts.
func TestRestartsCount(t *testing.T) {
	c, _ := start(t)
	for _, test := range []struct {
		limit, restarts int32
		fails           bool
	}{{2, 1, false}, {2, 2, true}, {0, 1, true}} {
		name := fmt.Sprintf("limit-%d-%d", test.limit, test.restarts)
		j := newJob(name, "web:1", batchv1.JobSpec{BackoffLimit: &test.limit})
		j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		c.Create(j)
		waitFor(c, name, "a pod", func(s batchv1.JobStatus) bool { return ptr.Deref(s.Ready, 0) == 1 })
		p := pods(c, name)[0]
		p.Status.ContainerStatuses[0].RestartCount = test.restarts
		if err := c.Client.Status().Update(t.Context(), &p); err != nil {
			t.Fatal(err)
		}
		if test.fails {
			waitFor(c, name, "the limit", func(s batchv1.JobStatus) bool {
				return conditions(s) == "FailureTarget(BackoffLimitExceeded) Failed(BackoffLimitExceeded) " && s.Failed == 1
			})
			continue
		}
		end(t, c, name, "", 0)
		waitFor(c, name, "the end", func(s batchv1.JobStatus) bool { return s.CompletionTime != nil })
	}
}

// TestElasticIndexedJob changes completions together with parallelism.
func TestElasticIndexedJob(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("elastic", "web:1", batchv1.JobSpec{CompletionMode: ptr.To(batchv1.IndexedCompletion), Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](3)}))
	is := func(want string) {
		t.Helper()
		c.Eventually("pods "+want, &corev1.PodList{}, func() bool { return running(c, "elastic") == want })
	}
	size := func(n int32) {
		change(c, "elastic", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = &n, &n })
	}
	is("0,1,2")
	size(5)
	is("0,1,2,3,4")
	end(t, c, "elastic", "1", 0)
	end(t, c, "elastic", "4", 0)
	waitFor(c, "elastic", "two completions", func(s batchv1.JobStatus) bool { return s.CompletedIndexes == "1,4" && s.Succeeded == 2 })
	// What is out of range does not count any more, and its pods go.
	size(3)
	is("0,2")
	waitFor(c, "elastic", "one completion in range", func(s batchv1.JobStatus) bool { return s.CompletedIndexes == "1" && s.Succeeded == 1 })
	end(t, c, "elastic", "0", 0)
	end(t, c, "elastic", "2", 0)
	waitFor(c, "elastic", "the end", func(s batchv1.JobStatus) bool {
		return s.CompletedIndexes == "0-2" && s.Succeeded == 3 && s.CompletionTime != nil && s.Failed == 0
	})
}

// TestParallelism of a running job: it may be changed, and 0 pauses the job.
func TestParallelism(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("work", "web:1", batchv1.JobSpec{Completions: ptr.To[int32](9), Parallelism: ptr.To[int32](2)}))
	for _, n := range []int32{2, 5, 1, 0, 3} {
		change(c, "work", func(s *batchv1.JobSpec) { s.Parallelism = &n })
		waitFor(c, "work", fmt.Sprint(n, " pods"), func(s batchv1.JobStatus) bool { return s.Active == n && ptr.Deref(s.Ready, -1) == n && s.Failed == 0 })
	}
}

// TestFailurePolicies: the first rule that matches decides.
func TestFailurePolicies(t *testing.T) {
	c, _ := start(t)
	codes := func(action batchv1.PodFailurePolicyAction, operator batchv1.PodFailurePolicyOnExitCodesOperator, values ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: operator, Values: values}}
	}
	const in, notIn = batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	for _, test := range []struct {
		name       string
		rules      []batchv1.PodFailurePolicyRule
		code       int32
		conditions string
		failed     int32
		message    string
	}{
		{"other-container", []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			ContainerName: ptr.To("sidecar"), Operator: in, Values: []int32{7}}}}, 7, "", 1, ""},
		{"not-in", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionFailJob, notIn, 1, 2)}, 7, "FailureTarget(PodFailurePolicy) Failed(PodFailurePolicy) ", 1,
			"Container c for pod default/POD failed with exit code 7 matching FailJob rule at index 0"},
		{"listed", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionFailJob, notIn, 7)}, 7, "", 1, ""},
		{"ignored", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionIgnore, in, 7), codes(batchv1.PodFailurePolicyActionFailJob, in, 7)}, 7, "", 0, ""},
		{"counted", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionCount, in, 7), codes(batchv1.PodFailurePolicyActionFailJob, in, 7)}, 7, "", 1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newJob(test.name, "web:1", batchv1.JobSpec{BackoffLimit: ptr.To[int32](3), PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: test.rules}})
			j.Spec.Template.Spec.Containers = append(j.Spec.Template.Spec.Containers, corev1.Container{Name: "sidecar", Image: "i"})
			c.Create(j)
			waitFor(c, test.name, "a pod", func(s batchv1.JobStatus) bool { return ptr.Deref(s.Ready, 0) == 1 })
			first := pods(c, test.name)[0]
			end(t, c, test.name, "", test.code)
			if test.conditions == "" {
				c.Eventually("another pod", &corev1.PodList{}, func() bool {
					return slices.ContainsFunc(pods(c, test.name), func(p corev1.Pod) bool { return p.UID != first.UID && p.Status.Phase == corev1.PodRunning })
				})
			}
			waitFor(c, test.name, "the verdict", func(s batchv1.JobStatus) bool { return conditions(s) == test.conditions && s.Failed == test.failed })
			for _, condition := range get(c, test.name).Status.Conditions {
				if want := strings.ReplaceAll(test.message, "POD", first.Name); condition.Message != want {
					t.Errorf("%s: %s, want %s", condition.Type, condition.Message, want)
				}
			}
		})
	}
}

// TestBackoffPerIndex: a failed index waits, the others go on.
func TestBackoffPerIndex(t *testing.T) {
	c, clk := start(t)
	clk.Jump(-time.Hour)
	c.Create(newJob("work", "web:1", batchv1.JobSpec{CompletionMode: ptr.To(batchv1.IndexedCompletion), Completions: ptr.To[int32](2), Parallelism: ptr.To[int32](2), BackoffLimitPerIndex: ptr.To[int32](2)}))
	is := func(want string) {
		t.Helper()
		c.Eventually("pods "+want, &corev1.PodList{}, func() bool { return running(c, "work") == want })
	}
	look := func() {
		controllertest.Change(c, get(c, "work"), func(j *batchv1.Job) { j.Annotations = map[string]string{"look": clk.Now().String()} })
	}
	for failures, wait := range []time.Duration{11 * time.Second, 21 * time.Second} {
		is("0,1")
		end(t, c, "work", "0", 1)
		waitFor(c, "work", "one pod", func(s batchv1.JobStatus) bool { return s.Active == 1 })
		if got := running(c, "work"); got != "1" {
			t.Errorf("pods %s run", got)
		}
		clk.Jump(wait)
		look()
		c.Eventually("the failures are noted", &corev1.PodList{}, func() bool {
			return slices.ContainsFunc(pods(c, "work"), func(p corev1.Pod) bool {
				return p.Labels[batchv1.JobCompletionIndexAnnotation] == "0" && p.Annotations[batchv1.JobIndexFailureCountAnnotation] == fmt.Sprint(failures+1)
			})
		})
	}
	is("0,1")
	end(t, c, "work", "0", 1)
	waitFor(c, "work", "a lost index", func(s batchv1.JobStatus) bool {
		return ptr.Deref(s.FailedIndexes, "") == "0" && s.Failed == 3 && s.Active == 1
	})
	end(t, c, "work", "1", 0)
	waitFor(c, "work", "the end", func(s batchv1.JobStatus) bool {
		return conditions(s) == "FailureTarget(FailedIndexes) Failed(FailedIndexes) " && s.CompletedIndexes == "1" && s.CompletionTime == nil
	})
}

// TestReplacementAtOnce is the default for pods that are deleted.
func TestReplacementAtOnce(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("work", "hold", batchv1.JobSpec{PodReplacementPolicy: ptr.To(batchv1.TerminatingOrFailed)}))
	waitFor(c, "work", "a pod", func(s batchv1.JobStatus) bool { return s.Active == 1 })
	pod := pods(c, "work")[0]
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-0"}}
	if err := c.Client.SubResource("binding").Create(t.Context(), &pod, bind); err != nil {
		t.Fatal(err)
	}
	c.Delete(&pod)
	waitFor(c, "work", "a replacement", func(s batchv1.JobStatus) bool {
		return ptr.Deref(s.Terminating, 0) == 1 && s.Active == 1 && s.Failed == 1
	})
}

// TestWhoseJobs: its own name in managedBy is as good as none.
func TestWhoseJobs(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("own", "exit:0", batchv1.JobSpec{ManagedBy: ptr.To("kubernetes.io/job-controller"), TTLSecondsAfterFinished: ptr.To[int32](0)}))
	c.Eventually("it ends, and is deleted at once", &batchv1.JobList{}, func() bool {
		var j batchv1.Job
		err := c.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "own"}, &j)
		return apierrors.IsNotFound(err) || err == nil && j.DeletionTimestamp != nil
	})
}

// TestWorkQueue: without completions, one success tells that the queue is empty.
// No pod is made any more, and the others may end.
func TestWorkQueue(t *testing.T) {
	c, _ := start(t)
	c.Create(newJob("queue", "web:1", batchv1.JobSpec{Parallelism: ptr.To[int32](3)}))
	waitFor(c, "queue", "three pods", func(s batchv1.JobStatus) bool { return ptr.Deref(s.Ready, 0) == 3 })
	end(t, c, "queue", "", 0)
	waitFor(c, "queue", "one success", func(s batchv1.JobStatus) bool { return s.Succeeded == 1 && s.Active == 2 && conditions(s) == "" })
	end(t, c, "queue", "", 0)
	end(t, c, "queue", "", 0)
	waitFor(c, "queue", "the end", func(s batchv1.JobStatus) bool { return s.Succeeded == 3 && s.CompletionTime != nil })
	if n := len(pods(c, "queue")); n != 3 {
		t.Errorf("%d pods were made", n)
	}
}
