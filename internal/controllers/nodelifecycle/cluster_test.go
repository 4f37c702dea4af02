package nodelifecycle_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/nodelifecycle"
	"skiff/internal/controllers/tainteviction"
)

// TestSilentNode has a node fall silent: it becomes unknown, its pods are no
// longer ready, and those that do not tolerate it are driven out; those that do
// stay, and the taints go when the node is heard again.
func TestSilentNode(t *testing.T) {
	c := controllertest.Start(t)
	ready := func(n *corev1.Node, at time.Time) {
		n.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(at), LastTransitionTime: metav1.Now(),
		}}
		if err := c.Client.Status().Update(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	silent := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "silent"}}
	c.Create(silent)
	ready(silent, time.Now())
	pod := func(name string, tolerations ...corev1.Toleration) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.PodSpec{
				NodeName: "silent", Tolerations: tolerations, AutomountServiceAccountToken: ptr.To(false),
				TerminationGracePeriodSeconds: ptr.To[int64](30), Containers: []corev1.Container{{Name: "c", Image: "i"}},
			},
		}
		c.Create(p)
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if err := c.Client.Status().Update(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	unreachable := corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	brief := unreachable
	brief.TolerationSeconds = ptr.To[int64](0)
	leaves, stays := pod("leaves", brief), pod("stays", unreachable)

	// Another node, in a zone that is well, shows that it is not this side
	// that is cut off.
	well := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "well", Labels: map[string]string{corev1.LabelTopologyZone: "z"}}}
	c.Create(well)
	ready(well, time.Now())
	beating, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for n := time.Duration(1); ; n++ {
			select {
			case <-beating.Done():
				return
			case <-ticker.C:
			}
			now := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "well"}}
			before := now.DeepCopy()
			now.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Now().Add(n * time.Second))}}
			if err := c.Client.Status().Patch(beating, now, client.StrategicMergeFrom(before)); err != nil && beating.Err() == nil {
				t.Errorf("heartbeat: %v", err)
			}
		}
	}()
	t.Cleanup(func() { stop(); <-stopped })

	c.Run("node-controller", func(d controller.Deps) (controller.Runnable, error) {
		return nodelifecycle.New(d, nodelifecycle.Options{Grace: 2 * time.Second})
	})
	c.Run("node-controller", tainteviction.New)

	c.Eventually("the pod is driven out", &corev1.PodList{}, func() bool {
		p := &corev1.Pod{}
		err := c.Client.Get(context.Background(), client.ObjectKeyFromObject(leaves), p)
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err != nil || p.DeletionTimestamp != nil
	})
	n := controllertest.Get(c, "", "silent", &corev1.Node{})
	if r := n.Status.Conditions[0]; r.Status != corev1.ConditionUnknown || r.Reason != "NodeStatusUnknown" {
		t.Errorf("the node: %+v", r)
	}
	p := controllertest.Get(c, "default", "stays", stays)
	if p.DeletionTimestamp != nil || p.Status.Conditions[0].Status != corev1.ConditionFalse {
		t.Errorf("the pod that stays: deleted %v, %+v", p.DeletionTimestamp, p.Status.Conditions)
	}
	if n := controllertest.Get(c, "", "well", &corev1.Node{}); len(n.Spec.Taints) > 0 {
		t.Errorf("the node that is well is tainted: %v", n.Spec.Taints)
	}
	ready(n, time.Now().Add(time.Minute))
	c.Eventually("the taints go", &corev1.NodeList{}, func() bool {
		return len(controllertest.Get(c, "", "silent", &corev1.Node{}).Spec.Taints) == 0
	})
}
