package apiserver_test

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

// What a part of this process writes has at once the times that everybody
// reads: those it set itself, and those that the server set.
func TestInProcessTimes(t *testing.T) {
	tc := testcluster.Start(t)
	remote := kubernetes.NewForConfigOrDie(tc.Config)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	same := func(what string, here, there time.Time) {
		t.Helper()
		if here != there || here.IsZero() {
			t.Errorf("%s: %v in this process, %v for others", what, here, there)
		}
	}
	// fine is a time between two that can be written down.
	fine := time.Now().Truncate(time.Second).Add(123_456_789)
	meta := metav1.ObjectMeta{Namespace: "default", Name: "x"}

	lease := &coordinationv1.Lease{ObjectMeta: meta, Spec: coordinationv1.LeaseSpec{RenewTime: ptr.To(metav1.NewMicroTime(fine))}}
	must(tc.Client.Create(ctx, lease))
	leaseRead, err := remote.CoordinationV1().Leases("default").Get(ctx, "x", metav1.GetOptions{})
	must(err)
	same("renewal", lease.Spec.RenewTime.Time, leaseRead.Spec.RenewTime.Time)
	same("creation", lease.CreationTimestamp.Time, leaseRead.CreationTimestamp.Time)
	same("management", lease.ManagedFields[0].Time.Time, leaseRead.ManagedFields[0].Time.Time)

	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}}, AutomountServiceAccountToken: ptr.To(false), NodeName: "n",
	}}
	pod.Labels, pod.Finalizers = map[string]string{"a": "b"}, []string{"test/hold"}
	must(tc.Client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}))
	must(tc.Client.Create(ctx, pod))
	report := func(nanoseconds int) string {
		pod.Status.StartTime = ptr.To(metav1.NewTime(fine.Truncate(time.Second).Add(time.Duration(nanoseconds))))
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(fine)}}
		must(tc.Client.Status().Update(ctx, pod))
		return pod.ResourceVersion
	}
	if first, second := report(123), report(456); first != second {
		t.Errorf("the status of a pod in revision %s is another in %s for a time that nobody sees", first, second)
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: meta, Spec: policyv1.PodDisruptionBudgetSpec{Selector: metav1.SetAsLabelSelector(pod.Labels)}}
	must(tc.Client.Create(ctx, budget))
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 1, ExpectedPods: 1}
	must(tc.Client.Status().Update(ctx, budget))
	must(tc.Client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{ObjectMeta: meta}))
	must(tc.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod))
	must(tc.Client.Get(ctx, client.ObjectKeyFromObject(budget), budget))
	podRead, err := remote.CoreV1().Pods("default").Get(ctx, "x", metav1.GetOptions{})
	must(err)
	budgetRead, err := remote.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "x", metav1.GetOptions{})
	must(err)
	same("start", pod.Status.StartTime.Time, podRead.Status.StartTime.Time)
	for i, c := range pod.Status.Conditions {
		same(string(c.Type), c.LastTransitionTime.Time, podRead.Status.Conditions[i].LastTransitionTime.Time)
	}
	same("deletion", pod.DeletionTimestamp.Time, podRead.DeletionTimestamp.Time)
	same("disruption", budget.Status.DisruptedPods["x"].Time, budgetRead.Status.DisruptedPods["x"].Time)

	// It ends in the second in which it began, as a container says that ended
	// there.
	job := &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		Containers: pod.Spec.Containers, RestartPolicy: corev1.RestartPolicyNever,
	}}}}
	must(tc.Client.Create(ctx, job))
	job.Status.StartTime, job.Status.CompletionTime = ptr.To(metav1.NewTime(fine)), ptr.To(metav1.NewTime(fine.Truncate(time.Second)))
	job.Status.Succeeded, job.Status.UncountedTerminatedPods = 1, &batchv1.UncountedTerminatedPods{}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue})
	}
	must(tc.Client.Status().Update(ctx, job))
}
