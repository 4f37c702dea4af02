package podgc_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/podgc"
)

func pod(name, node string, finalizers ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Finalizers: finalizers},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "hold"}}},
	}
}

func TestPodsThatNoKubeletRemoves(t *testing.T) {
	clk := testclock.NewFakeClock(time.Now())
	c := controllertest.StartAt(t, clk)
	down := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "down"}}
	c.Create(down)
	c.Run("pod-garbage-collector", func(d controller.Deps) (controller.Runnable, error) {
		return podgc.New(d, podgc.Options{Terminated: 2})
	})
	const finalizer = "example.com/look"
	lost, ending, running := pod("lost", "gone", finalizer), pod("ending", "down"), pod("running", "down")
	c.Create(lost, ending, running)
	gone := func(p *corev1.Pod) bool {
		return apierrors.IsNotFound(c.Client.Get(context.Background(), client.ObjectKeyFromObject(p), p))
	}
	c.Delete(ending.DeepCopy())
	if gone(ending) {
		t.Fatal("a pod is gone before its node says so")
	}
	controllertest.Change(c, down, func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	})
	c.Eventually("the pod of the node that is out of service", &corev1.PodList{}, func() bool { return gone(ending) })
	if gone(running) || gone(lost) {
		t.Error("a pod is gone that nobody deleted")
	}

	// The node that never was is given time to register.
	clk.Step(41 * time.Second)
	c.Eventually("the pod of the node that is gone", &corev1.PodList{}, func() bool {
		clk.Step(time.Second)
		p := controllertest.Get(c, "default", "lost", lost)
		return p.DeletionTimestamp != nil && p.Status.Phase == corev1.PodFailed
	})
	reason := ""
	for _, condition := range lost.Status.Conditions {
		if condition.Type == corev1.DisruptionTarget {
			reason = condition.Reason
		}
	}
	if reason != "DeletionByPodGC" {
		t.Errorf("the reason of the disruption is %q", reason)
	}
	controllertest.Change(c, lost, func(p *corev1.Pod) { p.Finalizers = nil })

	for i := range 5 {
		p := pod(fmt.Sprintf("ended-%d", i), "down")
		c.Create(p)
		p.Status.Phase = corev1.PodSucceeded
		if err := c.Client.Status().Update(context.Background(), p); err != nil {
			t.Fatal(err)
		}
	}
	clk.Step(6 * time.Minute)
	c.Eventually("too many ended pods", &corev1.PodList{}, func() bool { return len(c.Pods("default", nil)) == 3 })
}
