package podautoscaler_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/podautoscaler"
)

func start(t *testing.T) *testcluster.Cluster {
	c := testcluster.Start(t)
	r, err := podautoscaler.New(controller.Deps{
		Set: c.Account("horizontal-pod-autoscaler"), Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}, podautoscaler.Options{Interval: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Run(t, r.Start)
	create(t, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	return c
}

func create(t *testing.T, c *testcluster.Cluster, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := c.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func get[T client.Object](t *testing.T, c *testcluster.Cluster, o T) T {
	t.Helper()
	if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func workload(replicas int32) *appsv1.StatefulSet {
	labels := map[string]string{"app": "web"}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	}
}

func autoscaler(min, max int32, kind string, percent int32) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: kind, Name: "web"},
			MinReplicas:    &min, MaxReplicas: max,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
			}}},
		},
	}
}

func condition(a *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range a.Status.Conditions {
		if c.Type == kind {
			return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

// TestByCPU goes the whole way: kubelet, metrics API, autoscaler, scale.
func TestByCPU(t *testing.T) {
	c := start(t)
	meter := c.Node(t, "a", nil)
	set := workload(2)
	create(t, c, set)
	for i := range 2 {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("web-", i), Labels: map[string]string{"app": "web"}},
			Spec: corev1.PodSpec{NodeName: "a", AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{
				Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}},
			}}},
		}
		create(t, c, p)
		p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: time.Now().Add(-time.Hour)}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour))}}
		if err := c.Client.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		meter.Use(fmt.Sprintf("default/web-%d/c", i), 0.4, 1<<20)
	}
	set.Status.Replicas = 2
	if err := c.Client.Status().Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	hpa := autoscaler(1, 3, "StatefulSet", 50)
	create(t, c, hpa)
	// 80 % of the requests is used: 2 * 80/50 = 3.2 are needed, 3 allowed.
	c.Wait(t, "three replicas", &appsv1.StatefulSetList{}, func() bool { return *get(t, c, set).Spec.Replicas == 3 })
	c.Wait(t, "the status of that", &autoscalingv2.HorizontalPodAutoscalerList{}, func() bool { return get(t, c, hpa).Status.DesiredReplicas == 3 })
	if len(hpa.Status.CurrentMetrics) != 1 || *hpa.Status.CurrentMetrics[0].Resource.Current.AverageUtilization < 79 || hpa.Status.LastScaleTime == nil {
		t.Errorf("status: %+v", hpa.Status)
	}
	for kind, want := range map[autoscalingv2.HorizontalPodAutoscalerConditionType]string{
		autoscalingv2.ScalingActive:  "True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)",
		autoscalingv2.ScalingLimited: "True TooManyReplicas: the desired replica count is more than the maximum replica count",
	} {
		if got := condition(hpa, kind); got != want {
			t.Errorf("%s: %s", kind, got)
		}
	}
	c.Wait(t, "the event", &corev1.EventList{}, func() bool {
		var events corev1.EventList
		if err := c.Client.List(t.Context(), &events, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == "SuccessfulRescale" && e.Message == "New size: 3; reason: cpu resource utilization (percentage of request) above target" {
				return true
			}
		}
		return false
	})
}

func TestConditions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		set    *appsv1.StatefulSet
		hpa    *autoscalingv2.HorizontalPodAutoscaler
		kind   autoscalingv2.HorizontalPodAutoscalerConditionType
		want   string
		become int32
	}{
		{"no target", nil, autoscaler(1, 3, "StatefulSet", 50), autoscalingv2.AbleToScale,
			`False FailedGetScale: the HPA controller was unable to get the target's current scale: statefulsets.apps "web" not found`, 0},
		{"no such kind", nil, autoscaler(1, 3, "Nothing", 50), autoscalingv2.AbleToScale,
			`False FailedGetScale: the HPA controller was unable to get the target's current scale: no matches for kind "Nothing" in group "apps"`, 0},
		{"switched off", workload(0), autoscaler(1, 3, "StatefulSet", 50), autoscalingv2.ScalingActive,
			`False ScalingDisabled: scaling is disabled since the replica count of the target is zero`, 0},
		{"too many", workload(9), autoscaler(1, 3, "StatefulSet", 50), autoscalingv2.ScalingActive,
			`False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API`, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			if tt.set != nil {
				create(t, c, tt.set)
			}
			create(t, c, tt.hpa)
			defer func() {
				if t.Failed() {
					t.Logf("status: %+v", tt.hpa.Status)
				}
			}()
			c.Wait(t, tt.want, &autoscalingv2.HorizontalPodAutoscalerList{}, func() bool { return condition(get(t, c, tt.hpa), tt.kind) == tt.want })
			if tt.set != nil && *get(t, c, tt.set).Spec.Replicas != tt.become {
				t.Errorf("%d replicas, want %d", *tt.set.Spec.Replicas, tt.become)
			}
		})
	}
}

// TestCustomResource scales an object of a kind that is defined at run time.
func TestCustomResource(t *testing.T) {
	c := start(t)
	preserve := true
	create(t, c, &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "fleets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "fleets", Singular: "fleet", Kind: "Fleet", ListKind: "FleetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{
					SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas",
				}},
			}},
		},
	})
	hpa := autoscaler(1, 3, "Fleet", 50)
	hpa.Spec.ScaleTargetRef.APIVersion = "example.com/v1"
	create(t, c, hpa)
	fleet := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": map[string]any{"namespace": "default", "name": "web"}, "spec": map[string]any{"replicas": int64(7)},
	}}
	c.Wait(t, "the kind is served", &autoscalingv2.HorizontalPodAutoscalerList{}, func() bool {
		return strings.Contains(condition(get(t, c, hpa), autoscalingv2.AbleToScale), `"web" not found`)
	})
	create(t, c, fleet)
	c.Wait(t, "three replicas", &autoscalingv2.HorizontalPodAutoscalerList{}, func() bool { return get(t, c, hpa).Status.DesiredReplicas == 3 })
	if n, _, _ := unstructured.NestedInt64(get(t, c, fleet).Object, "spec", "replicas"); n != 3 {
		t.Errorf("%d replicas", n)
	}
}
