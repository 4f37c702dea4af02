package disruption_test

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/deployment"
	"skiff/internal/controllers/disruption"
	"skiff/internal/controllers/job"
	"skiff/internal/controllers/replicaset"
)

func template(app, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func budget(name, app string, minAvailable, maxUnavailable string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector(app)}}
	if minAvailable != "" {
		b.Spec.MinAvailable = ptr.To(intstr.Parse(minAvailable))
	}
	if maxUnavailable != "" {
		b.Spec.MaxUnavailable = ptr.To(intstr.Parse(maxUnavailable))
	}
	return b
}

func get(c *controllertest.Cluster, name string) *policyv1.PodDisruptionBudget {
	return controllertest.Get(c, "default", name, &policyv1.PodDisruptionBudget{})
}

func waitFor(c *controllertest.Cluster, name, what string, ok func(policyv1.PodDisruptionBudgetStatus) bool) {
	c.Eventually(name+": "+what, &policyv1.PodDisruptionBudgetList{}, func() bool { return ok(get(c, name).Status) })
}

func TestBudgets(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("deployment-controller", deployment.New)
	c.Run("replicaset-controller", replicaset.New)
	c.Run("job-controller", job.New)
	c.Run("disruption-controller", disruption.New)
	c.Kubelet()
	work := batchv1.JobSpec{Template: template("job", "web:1")}
	work.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	lone := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lone", Labels: map[string]string{"app": "lone"}}, Spec: template("", "web:1").Spec}
	c.Create(
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](5), Selector: selector("web"), Template: template("web", "web:1")}},
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bad"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: selector("bad"), Template: template("bad", "broken")}},
		&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "job"}, Spec: work}, lone,
		budget("min", "web", "3", ""), budget("min-percent", "web", "50%", ""), budget("max", "web", "", "1"), budget("max-percent", "web", "", "30%"),
		budget("unhealthy", "bad", "", "1"), budget("job", "job", "", "1"), budget("lone", "lone", "", "1"), budget("nobody", "nobody", "", "1"),
	)
	for name, want := range map[string]policyv1.PodDisruptionBudgetStatus{
		"min":         {ExpectedPods: 5, CurrentHealthy: 5, DesiredHealthy: 3, DisruptionsAllowed: 2},
		"min-percent": {ExpectedPods: 5, CurrentHealthy: 5, DesiredHealthy: 3, DisruptionsAllowed: 2},
		"max":         {ExpectedPods: 5, CurrentHealthy: 5, DesiredHealthy: 4, DisruptionsAllowed: 1},
		"max-percent": {ExpectedPods: 5, CurrentHealthy: 5, DesiredHealthy: 3, DisruptionsAllowed: 2},
		"unhealthy":   {ExpectedPods: 2, CurrentHealthy: 0, DesiredHealthy: 1, DisruptionsAllowed: 0},
		"lone":        {ExpectedPods: 0, CurrentHealthy: 1, DesiredHealthy: 0, DisruptionsAllowed: 0},
		"nobody":      {ExpectedPods: 0, CurrentHealthy: 0, DesiredHealthy: 0, DisruptionsAllowed: 0},
	} {
		waitFor(c, name, "counting", func(s policyv1.PodDisruptionBudgetStatus) bool {
			reason := policyv1.SufficientPodsReason
			if want.DisruptionsAllowed == 0 {
				reason = policyv1.InsufficientPodsReason
			}
			condition := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
			return s.ObservedGeneration == 1 && s.ExpectedPods == want.ExpectedPods && s.CurrentHealthy == want.CurrentHealthy &&
				s.DesiredHealthy == want.DesiredHealthy && s.DisruptionsAllowed == want.DisruptionsAllowed && condition != nil && condition.Reason == reason
		})
	}
	waitFor(c, "job", "no scale", func(s policyv1.PodDisruptionBudgetStatus) bool {
		condition := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
		return condition != nil && condition.Reason == policyv1.SyncFailedReason && condition.Message == "jobs.batch does not implement the scale subresource"
	})
	c.WaitForEvent("default", "lone", "UnmanagedPods")
	c.WaitForEvent("default", "nobody", "NoPods")

	// The deployment grows: a percentage is one of another number.
	d := controllertest.Get(c, "default", "web", &appsv1.Deployment{})
	controllertest.Change(c, d, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](10) })
	waitFor(c, "min-percent", "growth", func(s policyv1.PodDisruptionBudgetStatus) bool {
		return s.ExpectedPods == 10 && s.DesiredHealthy == 5 && s.DisruptionsAllowed == 5
	})
}

// TestCustomScale counts pods of a custom resource by its scale.
func TestCustomScale(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("disruption-controller", disruption.New)
	c.Kubelet()
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "fleets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "fleets", Singular: "fleet", Kind: "Fleet", ListKind: "FleetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.ships", StatusReplicasPath: ".status.ships"},
				},
			}},
		},
	}
	c.Create(crd)
	c.Eventually("the definition is in force", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool {
		for _, condition := range controllertest.Get(c, "", crd.Name, crd).Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	})
	fleet := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Fleet", "spec": map[string]any{"ships": int64(4)}}}
	fleet.SetNamespace("default")
	fleet.SetName("fleet")
	c.Create(fleet)
	for _, name := range []string{"a", "b", "c"} {
		c.Create(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "ship"}, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "example.com/v1", Kind: "Fleet", Name: "fleet", UID: fleet.GetUID(), Controller: ptr.To(true)},
			}},
			Spec: template("ship", "web:1").Spec,
		})
	}
	c.Create(budget("fleet", "ship", "", "2"))
	waitFor(c, "fleet", "counting", func(s policyv1.PodDisruptionBudgetStatus) bool {
		return s.ExpectedPods == 4 && s.DesiredHealthy == 2 && s.CurrentHealthy == 3 && s.DisruptionsAllowed == 1
	})
}

func TestEvictionAndExpiry(t *testing.T) {
	clk := testclock.NewFakeClock(time.Now())
	c := controllertest.StartAt(t, clk)
	c.Run("replicaset-controller", replicaset.New)
	c.Run("disruption-controller", disruption.New)
	c.Run("disruption-controller", disruption.NewStale)
	c.Kubelet()
	c.Create(
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3), Selector: selector("web"), Template: template("web", "web:1")}},
		budget("web", "web", "2", ""))
	one := func(s policyv1.PodDisruptionBudgetStatus) bool {
		return s.DisruptionsAllowed == 1 && len(s.DisruptedPods) == 0
	}
	waitFor(c, "web", "a spare pod", one)
	pod := c.Pods("default", client.MatchingLabels{"app": "web"})[0]
	if err := c.Client.SubResource("eviction").Create(context.Background(), &pod, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod.Name}}); err != nil {
		t.Fatal(err)
	}
	waitFor(c, "web", "a spare pod again", func(s policyv1.PodDisruptionBudgetStatus) bool { return one(s) && s.CurrentHealthy == 3 })

	// An eviction that was allowed, and whose pod stays: it counts for two
	// minutes.
	pod = c.Pods("default", client.MatchingLabels{"app": "web"})[0]
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(clk.Now())})
	if err := c.Client.Status().Update(context.Background(), &pod); err != nil {
		t.Fatal(err)
	}
	b := get(c, "web")
	b.Status.DisruptedPods = map[string]metav1.Time{pod.Name: metav1.NewTime(clk.Now()), "gone": metav1.NewTime(clk.Now())}
	if err := c.Client.Status().Update(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	waitFor(c, "web", "counting the disrupted pod out", func(s policyv1.PodDisruptionBudgetStatus) bool {
		return s.DisruptionsAllowed == 0 && s.CurrentHealthy == 2 && len(s.DisruptedPods) == 1
	})
	clk.Step(2*time.Minute + 2*time.Second)
	controllertest.Change(c, get(c, "web"), func(b *policyv1.PodDisruptionBudget) { b.Annotations = map[string]string{"look": "again"} })
	waitFor(c, "web", "giving up on the eviction", one)
	controllertest.Change(c, &pod, func(p *corev1.Pod) { p.Annotations = map[string]string{"look": "again"} })
	c.Eventually("the mark is taken back", &corev1.PodList{}, func() bool {
		for _, condition := range controllertest.Get(c, "default", pod.Name, &pod).Status.Conditions {
			if condition.Type == corev1.DisruptionTarget {
				return condition.Status == corev1.ConditionFalse && condition.Reason == ""
			}
		}
		return false
	})
}
