package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/scheduler"
	"skiff/internal/scheduler/config"
)

// start runs an API server and a scheduler, and nothing else.
func start(t *testing.T) *testcluster.Cluster {
	t.Helper()
	c := testcluster.Start(t)
	configure(t, c, "")
	return c
}

// configure runs a scheduler with that configuration.
func configure(t *testing.T, c *testcluster.Cluster, text string) {
	t.Helper()
	var parsed *configv1.KubeSchedulerConfiguration
	if text != "" {
		var err error
		if parsed, err = config.Load([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := scheduler.New(scheduler.Config{
		Client: c.Set(identity.Component("system:kube-scheduler")), Clock: clock.RealClock{}, Log: logger(t), Configuration: parsed,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if err := c.Client.Create(context.Background(), account); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type writer struct{ t *testing.T }

func (w writer) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func create[T client.Object](t *testing.T, c *testcluster.Cluster, o T) T {
	t.Helper()
	if err := c.Client.Create(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// node adds a node with 4 CPUs and 8 GiB.
func node(t *testing.T, c *testcluster.Cluster, name string, change ...func(*corev1.Node)) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	n.Status.Capacity = n.Status.Allocatable
	for _, f := range change {
		f(n)
	}
	status, taints := n.Status, n.Spec.Taints
	create(t, c, n)
	// New nodes are tainted as not ready, which a controller takes back.
	n.Spec.Taints = taints
	if err := c.Client.Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	n.Status = status
	if err := c.Client.Status().Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func cpu(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	}
}

// until waits for ok to be true of the pod.
func until(t *testing.T, c *testcluster.Cluster, name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w, err := c.Client.Watch(ctx, &corev1.PodList{}, client.InNamespace("default"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	p := &corev1.Pod{}
	for {
		if err := c.Client.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, p); err == nil && ok(p) {
			return p
		}
		select {
		case <-w.ResultChan():
		case <-ctx.Done():
			t.Fatalf("pod %s: %s: not within a minute; it is on node %q, conditions %v", name, what, p.Spec.NodeName, p.Status.Conditions)
		}
	}
}

func bound(t *testing.T, c *testcluster.Cluster, name string) string {
	t.Helper()
	return until(t, c, name, "bound", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }).Spec.NodeName
}

// unschedulable waits until the pod says why it fits nowhere.
func unschedulable(t *testing.T, c *testcluster.Cluster, name, message string) {
	t.Helper()
	until(t, c, name, message, func(p *corev1.Pod) bool {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable {
				return cond.Message == message
			}
		}
		return false
	})
}

// event waits for an event of that reason about the pod.
func event(t *testing.T, c *testcluster.Cluster, name, reason, message string, by ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w, err := c.Client.Watch(ctx, &corev1.EventList{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	source := scheduler.DefaultName
	if len(by) > 0 {
		source = by[0]
	}
	for {
		list := &corev1.EventList{}
		if err := c.Client.List(ctx, list); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == name && e.Reason == reason && e.Message == message && e.Source.Component == source {
				return
			}
		}
		select {
		case <-w.ResultChan():
		case <-ctx.Done():
			t.Fatalf("no event %s %q about %s", reason, message, name)
		}
	}
}

func TestBindsAndSaysSo(t *testing.T) {
	c := start(t)
	node(t, c, "a")
	create(t, c, pod("p"))
	if got := bound(t, c, "p"); got != "a" {
		t.Errorf("bound to %q", got)
	}
	event(t, c, "p", "Scheduled", "Successfully assigned default/p to a")
}

func TestSpreadsLoad(t *testing.T) {
	c := start(t)
	node(t, c, "a")
	node(t, c, "b")
	on := map[string]int{}
	for i := range 6 {
		name := fmt.Sprintf("p%d", i)
		create(t, c, pod(name, cpu("500m")))
		on[bound(t, c, name)]++
	}
	if on["a"] != 3 || on["b"] != 3 {
		t.Errorf("got %v, want three pods on each node", on)
	}
}

func TestUnschedulablePodsSayWhy(t *testing.T) {
	c := start(t)
	node(t, c, "tainted", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	})
	node(t, c, "small1")
	node(t, c, "small2")
	create(t, c, pod("p", cpu("5")))
	event(t, c, "p", "FailedScheduling", message)
	unschedulable(t, c, "p", message)
	// A node that is large enough cures it, with nobody polling.
	node(t, c, "large", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("8") })
	if got := bound(t, c, "p"); got != "large" {
		t.Errorf("bound to %q", got)
	}
}

const message = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. " +
	"no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
