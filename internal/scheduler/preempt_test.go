package scheduler_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

// classes makes the priority classes low (1), medium (100), high (1000) and
// polite (1000, but it preempts nobody).
func classes(t *testing.T, c *testcluster.Cluster) {
	t.Helper()
	never := corev1.PreemptNever
	create(t, c, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "low"}, Value: 1})
	create(t, c, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "medium"}, Value: 100})
	create(t, c, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000})
	create(t, c, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "polite"}, Value: 1000, PreemptionPolicy: &never})
}

func priority(class string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.PriorityClassName = class }
}

// finish does what a kubelet does when a pod that is being deleted has ended.
func finish(t *testing.T, c *testcluster.Cluster, name string) {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if err := c.Client.Delete(context.Background(), p, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
}

func TestPreemptsPodsOfLowerPriority(t *testing.T) {
	c := start(t)
	classes(t, c)
	node(t, c, "a")
	create(t, c, pod("small", cpu("1"), priority("low")))
	create(t, c, pod("large", cpu("3"), priority("low")))
	bound(t, c, "small")
	bound(t, c, "large")

	urgent := create(t, c, pod("urgent", cpu("2"), priority("high")))
	victim := until(t, c, "large", "preempted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	condition := corev1.PodCondition{}
	for _, cond := range victim.Status.Conditions {
		if cond.Type == corev1.DisruptionTarget {
			condition = cond
		}
	}
	if condition.Status != corev1.ConditionTrue || condition.Reason != "PreemptionByScheduler" ||
		condition.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("condition DisruptionTarget: %+v", condition)
	}
	event(t, c, "large", "Preempted", "Preempted by pod "+string(urgent.UID)+" on node a")
	event(t, c, "urgent", "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")
	nominated := until(t, c, "urgent", "nominated", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "a" })
	if nominated.Spec.NodeName != "" {
		t.Error("bound before its victim has ended")
	}

	// The room is for the urgent pod only, though others ask for it.
	create(t, c, pod("greedy", cpu("1"), priority("low")))
	unschedulable(t, c, "greedy", "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	finish(t, c, "large")
	if got := bound(t, c, "urgent"); got != "a" {
		t.Errorf("bound to %q", got)
	}
	until(t, c, "urgent", "no longer nominated", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "" || p.Spec.NodeName != "" })
	// What the urgent pod does not need is there for others again.
	bound(t, c, "greedy")
	until(t, c, "small", "left alone", func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil })
}

func TestPreemptsWhereNoBudgetIsViolated(t *testing.T) {
	c := start(t)
	classes(t, c)
	for _, name := range []string{"a", "b"} {
		node(t, c, name)
		create(t, c, pod("on-"+name, cpu("3"), priority("low"), func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": name}
			p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
		}))
		bound(t, c, "on-"+name)
	}
	one := intstr.FromInt32(1)
	create(t, c, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keep"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}},
	})
	create(t, c, pod("urgent", cpu("2"), priority("high")))
	until(t, c, "on-b", "preempted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	finish(t, c, "on-b")
	if got := bound(t, c, "urgent"); got != "b" {
		t.Errorf("bound to %q", got)
	}
}

func TestPodsThatPreemptNobody(t *testing.T) {
	c := start(t)
	classes(t, c)
	node(t, c, "a")
	create(t, c, pod("p", cpu("3"), priority("low")))
	bound(t, c, "p")
	create(t, c, pod("polite", cpu("2"), priority("polite")))
	unschedulable(t, c, "polite", "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.")
	// No pod's going would make the node large enough.
	create(t, c, pod("huge", cpu("5"), priority("high")))
	unschedulable(t, c, "huge", "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	until(t, c, "p", "left alone", func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil })
}

func TestGatedPodsWait(t *testing.T) {
	c := start(t)
	node(t, c, "a")
	create(t, c, pod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} }))
	create(t, c, pod("other"))
	bound(t, c, "other")
	p := until(t, c, "gated", "there", func(*corev1.Pod) bool { return true })
	if p.Spec.NodeName != "" {
		t.Error("a gated pod was bound")
	}
	changed := p.DeepCopy()
	changed.Spec.SchedulingGates = nil
	if err := c.Client.Patch(context.Background(), changed, client.MergeFrom(p)); err != nil {
		t.Fatal(err)
	}
	bound(t, c, "gated")
}

func TestMessageWithoutNodes(t *testing.T) {
	c := start(t)
	create(t, c, pod("p"))
	unschedulable(t, c, "p", "no nodes available to schedule pods")
	node(t, c, "a")
	bound(t, c, "p")
}
