package metrics_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/metrics"
)

func pod(namespace, name, node string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: node, AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "d", Image: "i"}},
		},
	}
}

func start(t *testing.T) (*testcluster.Cluster, *testcluster.Meter) {
	c := testcluster.Start(t)
	if err := c.Client.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*corev1.Pod{
		pod("default", "busy", "a", map[string]string{"app": "busy"}), pod("default", "half", "a", nil), pod("default", "pending", "", nil),
	} {
		if err := c.Client.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	m := c.Node(t, "a", map[string]string{"zone": "z"})
	m.Use("", 1.5, 1<<30)
	m.Use("default/busy/c", 0.25, 100<<20)
	m.Use("default/busy/d", 0.5, 50<<20)
	return c, m
}

func near(q, want float64) bool { return math.Abs(q-want) < 0.01*want }

func TestUsageOfNodesAndPods(t *testing.T) {
	c, _ := start(t)
	client, err := metricsclient.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := client.MetricsV1beta1().NodeMetricses().List(t.Context(), metav1.ListOptions{LabelSelector: "zone=z"})
	if err != nil || len(nodes.Items) != 1 {
		t.Fatalf("nodes: %v, %v", nodes, err)
	}
	n := nodes.Items[0]
	if cpu := n.Usage.Cpu().AsApproximateFloat64(); !near(cpu, 1.5) || n.Usage.Memory().Value() != 1<<30 || n.Name != "a" || n.Window.Duration <= 0 {
		t.Errorf("the node's usage: %+v", n)
	}
	if nodes, err := client.MetricsV1beta1().NodeMetricses().List(t.Context(), metav1.ListOptions{LabelSelector: "zone=y"}); err != nil || len(nodes.Items) != 0 {
		t.Errorf("nodes of another zone: %v, %v", nodes, err)
	}
	pods, err := client.MetricsV1beta1().PodMetricses("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("pods: %v, %v", pods, err)
	}
	p := pods.Items[0]
	if p.Name != "busy" || p.Labels["app"] != "busy" || len(p.Containers) != 2 || !near(p.Containers[1].Usage.Cpu().AsApproximateFloat64(), 0.5) ||
		p.Containers[0].Usage.Memory().Value() != 100<<20 {
		t.Errorf("the pod's usage: %+v", p)
	}
	if _, err := client.MetricsV1beta1().PodMetricses("default").Get(t.Context(), "busy", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	_, err = client.MetricsV1beta1().PodMetricses("default").Get(t.Context(), "pending", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) || err.Error() != `podmetrics.metrics.k8s.io "default/pending" not found` {
		t.Errorf("a pod that uses nothing: %v", err)
	}
	if _, err := client.MetricsV1beta1().NodeMetricses().Get(t.Context(), "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a node that is not there: %v", err)
	}
	// Virtual objects have rows as stored ones have.
	h, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Config.Host+"/apis/metrics.k8s.io/v1beta1/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	answer, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var table metav1.Table
	if err := json.NewDecoder(answer.Body).Decode(&table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 || table.Rows[0].Cells[0] != "busy" || table.Rows[0].Cells[2] != "153600Ki" {
		t.Errorf("the table: %+v", table)
	}
}

// noticing is a clock that tells when somebody asks how much time has passed.
type noticing struct {
	*clocktesting.FakeClock
	looked chan struct{}
}

func (c noticing) Since(t time.Time) time.Duration {
	c.looked <- struct{}{}
	return c.FakeClock.Since(t)
}

func TestMeasuresOnlyWhileAsked(t *testing.T) {
	c, meter := start(t)
	clock := noticing{clocktesting.NewFakeClock(time.Now()), make(chan struct{}, 1)}
	collector := metrics.New(metrics.Config{
		Cache: c.Clients.Cache().Cache, Kubelets: c.Kubelets(), Clock: clock, Log: slog.New(slog.DiscardHandler),
	})
	testcluster.Run(t, func(ctx context.Context) error { collector.Run(ctx); return nil })
	// pass waits until the collector waits for the clock, lets time go by, and
	// waits until it has looked at the clock again.
	pass := func(d time.Duration) {
		for !clock.HasWaiters() {
			time.Sleep(time.Millisecond)
		}
		clock.Step(d)
		<-clock.looked
	}
	if n := meter.Asked(); n != 0 {
		t.Errorf("read %d times before anybody asked", n)
	}
	first := make(chan error, 1)
	go func() {
		_, err := collector.Nodes(t.Context())
		first <- err
	}()
	pass(time.Second)
	if err := <-first; err != nil || meter.Asked() != 2 {
		t.Errorf("the first question took %d readings, %v", meter.Asked(), err)
	}
	for range 3 {
		pass(15 * time.Second)
	}
	pass(15 * time.Second) // a minute after the question
	go func() {
		_, err := collector.Nodes(t.Context())
		first <- err
	}()
	pass(time.Second)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := meter.Asked(); n != 2+3+2 {
		t.Errorf("read %d times: twice, three times more in the first minute, then twice for a new question", n)
	}
}
