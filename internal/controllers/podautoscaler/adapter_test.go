package podautoscaler_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/podautoscaler"
	"skiff/internal/identity"
)

// adapter is an API server for metrics, as prometheus-adapter or KEDA.
type adapter struct {
	mu      sync.Mutex
	answers map[string]any
	asked   []string
	// resources are what discovery shows.
	resources []metav1.APIResource
}

func (a *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	parts := strings.SplitN(strings.Trim(r.URL.Path, "/"), "/", 4)
	switch answer, known := a.answers[r.URL.Path]; {
	case len(parts) == 3 && parts[0] == "apis":
		_ = json.NewEncoder(w).Encode(metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: parts[1] + "/" + parts[2], APIResources: a.resources,
		})
	case known:
		a.asked = append(a.asked, r.Header.Get("X-Remote-User")+" "+r.URL.Path+" "+r.URL.Query().Get("labelSelector")+r.URL.Query().Get("metricLabelSelector"))
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	default:
		http.NotFound(w, r)
	}
}

// serve registers the adapter for the group versions and waits until they are
// served.
func (a *adapter) serve(t *testing.T, c *testcluster.Cluster, versions ...metav1.GroupVersion) {
	t.Helper()
	server := httptest.NewTLSServer(a)
	t.Cleanup(server.Close)
	port := int32(server.Listener.Addr().(*net.TCPAddr).Port)
	create(t, c,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "adapter"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeExternalName, ExternalName: "localhost", Ports: []corev1.ServicePort{{Port: port}},
		}})
	for _, gv := range versions {
		s := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group}, Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "adapter", Port: &port},
		}}
		create(t, c, s)
		c.Wait(t, s.Name+" is available", &apiregistrationv1.APIServiceList{}, func() bool {
			for _, condition := range get(t, c, s).Status.Conditions {
				if condition.Type == apiregistrationv1.Available && condition.Status == apiregistrationv1.ConditionTrue {
					return true
				}
			}
			return false
		})
	}
}

// startOverHTTP runs an autoscaler that reaches other servers' APIs.
func startOverHTTP(t *testing.T) *testcluster.Cluster {
	t.Helper()
	c := testcluster.Start(t)
	const account = "horizontal-pod-autoscaler"
	rest, err := c.RESTConfig(&identity.User{
		Name:   identity.ServiceAccountPrefix + "kube-system:" + account,
		Groups: []string{identity.GroupServiceAccounts, identity.GroupServiceAccounts + ":kube-system", identity.GroupAuthenticated},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := podautoscaler.New(controller.Deps{
		Set: c.Account(account), Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}, podautoscaler.Options{Interval: 200 * time.Millisecond, REST: rest})
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Run(t, r.Start)
	create(t, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	return c
}

// running makes the workload with so many running pods, each requesting half a
// core.
func running(t *testing.T, c *testcluster.Cluster, replicas int32) *appsv1.StatefulSet {
	t.Helper()
	set := workload(replicas)
	create(t, c, set)
	hourAgo := metav1.NewTime(time.Now().Add(-time.Hour))
	for i := range replicas {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("web-", i), Labels: map[string]string{"app": "web"}},
			Spec: corev1.PodSpec{NodeName: "a", AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{
				Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}},
			}}},
		}
		create(t, c, p)
		p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &hourAgo
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: hourAgo}}
		if err := c.Client.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	set.Status.Replicas = replicas
	if err := c.Client.Status().Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	return set
}

func ofPods(value string, names ...string) *customv1beta2.MetricValueList {
	list := &customv1beta2.MetricValueList{TypeMeta: metav1.TypeMeta{Kind: "MetricValueList", APIVersion: "custom.metrics.k8s.io/v1beta2"}}
	for _, name := range names {
		list.Items = append(list.Items, customv1beta2.MetricValue{
			DescribedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: name, APIVersion: "/v1"},
			Metric:          customv1beta2.MetricIdentifier{Name: "m"}, Timestamp: metav1.Now(), Value: resource.MustParse(value),
		})
	}
	return list
}

func TestAdapters(t *testing.T) {
	average := func(q string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(q))}
	}
	value := func(q string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(resource.MustParse(q))}
	}
	ingress := autoscalingv2.CrossVersionObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Name: "front"}
	green := &metav1.LabelSelector{MatchLabels: map[string]string{"colour": "green"}}
	external := &externalv1beta1.ExternalMetricValueList{
		TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: "external.metrics.k8s.io/v1beta1"},
		Items:    []externalv1beta1.ExternalMetricValue{{MetricName: "m", Timestamp: metav1.Now(), Value: resource.MustParse("60")}, {MetricName: "m", Timestamp: metav1.Now(), Value: resource.MustParse("30")}},
	}
	const custom, outside = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/", "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/"
	for _, tt := range []struct {
		name   string
		path   string
		answer any
		metric autoscalingv2.MetricSpec
		want   int32
		active string
		asked  string
	}{
		{"pods", custom + "pods/*/m", ofPods("30", "web-0", "web-1"), autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "m", Selector: green}, Target: average("10")}},
			6, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from pods metric m", "app=webcolour=green"},
		{"an object's value", custom + "ingresses.networking.k8s.io/front/m", ofPods("40", "front"), autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: ingress, Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: value("10")}},
			8, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from Ingress metric m", ""},
		{"an object's average", custom + "ingresses.networking.k8s.io/front/m", ofPods("40", "front"), autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: ingress, Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: average("8")}},
			5, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from external metric m(nil)", ""},
		{"external", outside + "m", external, autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "m", Selector: green}, Target: average("30")}},
			3, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from external metric m(&LabelSelector{MatchLabels:map[string]string{colour: green,},MatchExpressions:[]LabelSelectorRequirement{},})", "colour=green"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := startOverHTTP(t)
			a := &adapter{answers: map[string]any{tt.path: tt.answer}}
			a.serve(t, c, metav1.GroupVersion{Group: "custom.metrics.k8s.io", Version: "v1beta2"}, metav1.GroupVersion{Group: "external.metrics.k8s.io", Version: "v1beta1"})
			set := running(t, c, 2)
			hpa := autoscaler(1, 20, "StatefulSet", 0)
			hpa.Spec.Metrics = []autoscalingv2.MetricSpec{tt.metric}
			create(t, c, hpa)
			defer func() {
				if t.Failed() {
					t.Logf("status: %+v; asked: %q", hpa.Status, a.asked)
				}
			}()
			c.Wait(t, "scaled", &appsv1.StatefulSetList{}, func() bool { return *get(t, c, set).Spec.Replicas == tt.want })
			c.Wait(t, "the status of that", &autoscalingv2.HorizontalPodAutoscalerList{}, func() bool { return get(t, c, hpa).Status.DesiredReplicas == tt.want })
			if got := condition(hpa, autoscalingv2.ScalingActive); got != tt.active {
				t.Errorf("condition: %s", got)
			}
			if want := "system:serviceaccount:kube-system:horizontal-pod-autoscaler " + tt.path + " " + tt.asked; a.asked[0] != want {
				t.Errorf("asked %q, want %q", a.asked[0], want)
			}
		})
	}
}

// TestAdapterComesLate has the condition say what is missing until it is there.
func TestAdapterComesLate(t *testing.T) {
	c := startOverHTTP(t)
	set := running(t, c, 2)
	hpa := autoscaler(1, 20, "StatefulSet", 0)
	hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("10"))}}}}
	create(t, c, hpa)
	const missing = "False FailedGetPodsMetric: the HPA was unable to compute the replica count: unable to get metric m: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
	c.Wait(t, missing, &autoscalingv2.HorizontalPodAutoscalerList{}, func() bool { return condition(get(t, c, hpa), autoscalingv2.ScalingActive) == missing })
	const event = "invalid metrics (1 invalid out of 1), first error is: failed to get pods metric value: unable to get metric m: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
	c.Wait(t, event, &corev1.EventList{}, func() bool {
		var events corev1.EventList
		if err := c.Client.List(t.Context(), &events); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "FailedComputeMetricsReplicas" && e.Message == event })
	})
	a := &adapter{answers: map[string]any{"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/m": ofPods("20", "web-0", "web-1")}}
	a.serve(t, c, metav1.GroupVersion{Group: "custom.metrics.k8s.io", Version: "v1beta2"})
	c.Wait(t, "scaled", &appsv1.StatefulSetList{}, func() bool { return *get(t, c, set).Spec.Replicas == 4 })
}

// TestOwnMetricsServer: a metrics server that the user installed answers in
// place of the one in the API server, for autoscalers too.
func TestOwnMetricsServer(t *testing.T) {
	c := startOverHTTP(t)
	meter := c.Node(t, "a", nil)
	meter.Use("default/web-0/c", 0.5, 1<<20)
	set := running(t, c, 1)
	list := &metricsv1beta1.PodMetricsList{TypeMeta: metav1.TypeMeta{Kind: "PodMetricsList", APIVersion: "metrics.k8s.io/v1beta1"}, Items: []metricsv1beta1.PodMetrics{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0"}, Timestamp: metav1.Now(), Window: metav1.Duration{Duration: time.Second},
		Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}},
	}}}
	a := &adapter{
		answers:   map[string]any{"/apis/metrics.k8s.io/v1beta1/namespaces/default/pods": list},
		resources: []metav1.APIResource{{Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: metav1.Verbs{"get", "list"}}},
	}
	a.serve(t, c, metav1.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"})
	create(t, c, autoscaler(1, 20, "StatefulSet", 100))
	c.Wait(t, "scaled by four times what is requested", &appsv1.StatefulSetList{}, func() bool { return *get(t, c, set).Spec.Replicas == 4 })
}
