//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
)

var cronJobs = []conformant{
	{"[sig-apps] CronJob should schedule multiple jobs concurrently", (*space).testCronJobAllow},
	{"[sig-apps] CronJob should not schedule new jobs when ForbidConcurrent [Slow]", (*space).testCronJobForbid},
	{"[sig-apps] CronJob should replace jobs when ReplaceConcurrent", (*space).testCronJobReplace},
	{"[sig-apps] CronJob should not schedule jobs when suspended [Slow]", (*space).testCronJobSuspend},
}

// minutely makes a CronJob for every minute whose pods stay, with a past in
// which it was last scheduled, and follows its Jobs.
func (s *space) minutely(policy batchv1.ConcurrencyPolicy, suspend bool) *watcher {
	s.Helper()
	t := template("cron", idle)
	t.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	w := s.watch(s.of(jobsResource), nil)
	_, err := s.client.BatchV1().CronJobs(s.ns).Create(s.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "cron"},
		Spec: batchv1.CronJobSpec{
			Schedule: "*/1 * * * ?", ConcurrencyPolicy: policy, Suspend: &suspend,
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: t}},
		},
	}, metav1.CreateOptions{})
	s.ok(err)
	return w
}

// minutes waits for the nth minute from now on to begin.
func (s *space) minutes(n int) {
	s.Helper()
	select {
	case <-time.After(time.Until(time.Now().Truncate(time.Minute).Add(time.Duration(n)*time.Minute + 2*time.Second))):
	case <-s.Context().Done():
	}
}

// active are the names of the CronJob's Jobs that go on.
func (s *space) active(ctx context.Context) ([]string, error) {
	l, err := s.client.BatchV1().Jobs(s.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, j := range l.Items {
		if j.DeletionTimestamp == nil && owner(&j) == "CronJob/cron" {
			names = append(names, j.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// activeJobs waits until n Jobs go on and the CronJob's status has them.
func (s *space) activeJobs(n int) []string {
	s.Helper()
	var names []string
	s.eventually(fmt.Sprintf("%d jobs are active", n), func(ctx context.Context) (err error) {
		if names, err = s.active(ctx); err != nil {
			return err
		}
		c, err := s.client.BatchV1().CronJobs(s.ns).Get(ctx, "cron", metav1.GetOptions{})
		if err == nil && (len(names) != n || len(c.Status.Active) != n) {
			err = fmt.Errorf("there are %v, and the status is %s", names, text(c.Status))
		}
		return err
	})
	return names
}

func (s *space) testCronJobAllow() {
	s.minutely(batchv1.AllowConcurrent, false)
	s.minutes(1)
	s.activeJobs(1)
	s.minutes(1)
	s.activeJobs(2)
}

func (s *space) testCronJobForbid() {
	s.minutely(batchv1.ForbidConcurrent, false)
	s.minutes(1)
	first := s.activeJobs(1)
	s.minutes(1)
	s.eventually("an event says why there is no second", func(ctx context.Context) error {
		events, err := s.client.CoreV1().Events(s.ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=JobAlreadyActive,involvedObject.name=cron"})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("none does")
		}
		return err
	})
	if now := s.activeJobs(1); !slices.Equal(now, first) {
		s.Errorf("%v became %v", first, now)
	}
}

func (s *space) testCronJobReplace() {
	w := s.minutely(batchv1.ReplaceConcurrent, false)
	s.minutes(1)
	first := s.activeJobs(1)
	s.minutes(1)
	w.until("the first job is deleted", func(e watch.Event) bool {
		obj, _ := e.Object.(*unstructured.Unstructured)
		return e.Type == watch.Deleted && obj.GetName() == first[0]
	})
	if now := s.activeJobs(1); slices.Equal(now, first) {
		s.Errorf("%v stayed", first)
	}
}

func (s *space) testCronJobSuspend() {
	s.minutely(batchv1.AllowConcurrent, true)
	s.minutes(2)
	s.activeJobs(0)
	// It would have begun jobs had it not been suspended.
	s.patch(batchv1.SchemeGroupVersion.WithResource("cronjobs"), "cron", `{"spec":{"suspend":false}}`)
	s.eventually("there is a job", func(ctx context.Context) error {
		names, err := s.active(ctx)
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})
}

var disruptions = []conformant{
	{"[sig-apps] DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets", (*space).testBudgetCollection},
	{"[sig-apps] DisruptionController should block an eviction until the PDB is updated to allow it", (*space).testBudgetBlocks},
	{"[sig-apps] DisruptionController should create a PodDisruptionBudget", (*space).testBudgetChanges},
	{"[sig-apps] DisruptionController should observe PodDisruptionBudget status updated", (*space).testBudgetStatus},
	{"[sig-apps] DisruptionController should update/patch PodDisruptionBudget status", (*space).testBudgetStatusWrites},
}

// budget makes a PodDisruptionBudget for pods with the label app=NAME.
func (s *space) budget(name string, min intstr.IntOrString) *policyv1.PodDisruptionBudget {
	s.Helper()
	b, err := s.client.PolicyV1().PodDisruptionBudgets(s.ns).Create(s.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"budget": s.ns}},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &min, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
	}, metav1.CreateOptions{})
	s.ok(err)
	return b
}

// allows waits until a budget allows so many disruptions.
func (s *space) allows(name string, n int32) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s allows %d disruptions", name, n), func(ctx context.Context) error {
		b, err := s.client.PolicyV1().PodDisruptionBudgets(s.ns).Get(ctx, name, metav1.GetOptions{})
		if err == nil && (b.Status.DisruptionsAllowed != n || b.Status.ObservedGeneration != b.Generation) {
			err = fmt.Errorf("the status is %s", text(b.Status))
		}
		return err
	})
}

func (s *space) evict(pod string) error {
	return s.client.PolicyV1().Evictions(s.ns).Evict(s.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: s.ns}})
}

func (s *space) testBudgetCollection() {
	for _, name := range []string{"one", "two", "three"} {
		s.budget(name, intstr.FromInt32(1))
	}
	s.collection(budgetsResource, 3, "budget="+s.ns)
}

func (s *space) testBudgetChanges() {
	s.budget("changes", intstr.FromString("1%"))
	s.eventually("it is seen", func(ctx context.Context) error {
		b, err := s.client.PolicyV1().PodDisruptionBudgets(s.ns).Get(ctx, "changes", metav1.GetOptions{})
		if err == nil && b.Status.ObservedGeneration == 0 {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	s.update(budgetsResource, "changes", func(obj map[string]any) error {
		return unstructured.SetNestedField(obj, "2%", "spec", "minAvailable")
	})
	s.patch(budgetsResource, "changes", `{"spec":{"minAvailable":"3%"}}`)
	s.becomes(budgetsResource, "changes", "3%", "spec", "minAvailable")
	s.becomes(budgetsResource, "changes", int64(3), "status", "observedGeneration")
	s.ok(s.client.PolicyV1().PodDisruptionBudgets(s.ns).Delete(s.Context(), "changes", metav1.DeleteOptions{}))
	_, err := s.client.PolicyV1().PodDisruptionBudgets(s.ns).Get(s.Context(), "changes", metav1.GetOptions{})
	s.condition("it is gone", apierrors.IsNotFound(err), err)
}

func (s *space) testBudgetStatus() {
	s.budget("status", intstr.FromInt32(1))
	for _, name := range []string{"one", "two", "three"} {
		s.startPod(name, template("status", idle))
	}
	s.allows("status", 2)
	var b policyv1.PodDisruptionBudget
	s.get(budgetsResource, "status", &b)
	s.condition("the status counts", b.Status.CurrentHealthy == 3 && b.Status.DesiredHealthy == 1 && b.Status.ExpectedPods == 3, b.Status)
}

func (s *space) testBudgetStatusWrites() {
	s.budget("writes", intstr.FromInt32(1))
	s.startPod("one", template("writes", idle))
	s.startPod("two", template("writes", idle))
	s.allows("writes", 1)
	s.statuses(budgetsResource, "writes", map[string]string{"budget": s.ns})
}

func (s *space) testBudgetBlocks() {
	s.replicaSet("blocks", 3, nil)
	s.budget("blocks", intstr.FromInt32(3))
	pod := s.pods("blocks", 3, isReady)[0].Name
	s.allows("blocks", 0)
	err := s.evict(pod)
	s.condition("the eviction is refused for now", apierrors.IsTooManyRequests(err) && apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), err)
	s.update(budgetsResource, "blocks", func(obj map[string]any) error {
		return unstructured.SetNestedField(obj, int64(2), "spec", "minAvailable")
	})
	s.allows("blocks", 1)
	s.ok(s.evict(pod))
	s.gone(pod)

	s.pods("blocks", 3, isReady)
	s.patch(budgetsResource, "blocks", `{"spec":{"minAvailable":3,"maxUnavailable":null}}`)
	s.allows("blocks", 0)
	pod = s.pods("blocks", 3, isReady)[0].Name
	err = s.evict(pod)
	s.condition("the eviction is refused again", apierrors.IsTooManyRequests(err), err)
	s.ok(s.client.PolicyV1().PodDisruptionBudgets(s.ns).Delete(s.Context(), "blocks", metav1.DeleteOptions{}))
	s.eventually("without the budget it is evicted", func(context.Context) error { return s.evict(pod) })
	s.gone(pod)
}
