package nodelifecycle

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, zone string, status corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}},
	}
}

func keys(taints []corev1.Taint) (out string) {
	for _, t := range taints {
		out += t.Key + ":" + string(t.Effect) + " "
	}
	return out
}

func TestTaints(t *testing.T) {
	now := time.Unix(1e9, 0)
	down := node("a", "z", corev1.ConditionUnknown)
	down.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}, {Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
	if got, want := keys(taints(down, unreachableEviction, now)), "mine:NoExecute node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute "; got != want {
		t.Errorf("unreachable: %s", got)
	}
	down.Spec.Taints = taints(down, unreachableEviction, now)
	if got := keys(taints(down, keepEviction, now)); got != keys(down.Spec.Taints) {
		t.Errorf("kept: %s", got)
	}
	up := node("a", "z", corev1.ConditionTrue)
	up.Spec.Taints, up.Spec.Unschedulable = down.Spec.Taints, true
	if got, want := keys(taints(up, noEviction, now)), "mine:NoExecute node.kubernetes.io/unschedulable:NoSchedule "; got != want {
		t.Errorf("ready again: %s", got)
	}
}

func TestSilentNodeIsUnknown(t *testing.T) {
	n := node("a", "z", corev1.ConditionTrue)
	if !setUnknown(n, time.Unix(1, 0)) || setUnknown(n, time.Unix(2, 0)) {
		t.Error("the change is to be seen once")
	}
	if c := ready(n); c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" {
		t.Errorf("%+v", c)
	}
	if c := condition(n, corev1.NodeMemoryPressure); c == nil || c.Reason != "NodeStatusNeverUpdated" {
		t.Errorf("%+v", c)
	}
}

func TestZones(t *testing.T) {
	now := time.Unix(1e9, 0)
	z := newZones(10*time.Second, 100*time.Second)
	for i := range 5 {
		z.set(node(fmt.Sprint("a", i), "a", corev1.ConditionTrue), true)
	}
	down := func(i int) *corev1.Node { return node(fmt.Sprint("a", i), "a", corev1.ConditionUnknown) }
	z.set(down(0), false)
	z.set(down(1), false)
	if e, _ := z.judge(down(0), now); e != unreachableEviction {
		t.Errorf("the first node down: %v", e)
	}
	if e, wait := z.judge(down(1), now); e != keepEviction || wait != 10*time.Second {
		t.Errorf("the second node has to wait: %v, %s", e, wait)
	}
	if e, _ := z.judge(down(1), now.Add(10*time.Second)); e != unreachableEviction {
		t.Error("the second node's turn did not come")
	}
	if woken := z.set(down(2), false); len(woken) != 5 {
		t.Errorf("%d nodes see that their zone is disrupted", len(woken))
	}
	if e, wait := z.judge(down(2), now.Add(time.Hour)); e != keepEviction || wait != 0 {
		t.Errorf("in a small disrupted zone: %v, %s", e, wait)
	}
	z.set(down(3), false)
	z.set(down(4), false)
	if e, _ := z.judge(down(0), now); e != noEviction || !z.allDown() {
		t.Errorf("with nobody to be heard: %v", e)
	}
	z.set(node("b0", "b", corev1.ConditionTrue), true)
	if e, _ := z.judge(down(3), now.Add(time.Hour)); e != unreachableEviction || z.allDown() {
		t.Errorf("one zone down of two: %v", e)
	}
	z.remove("b0")
	if !z.allDown() {
		t.Error("a removed node still counts")
	}
}
