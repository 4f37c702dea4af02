package pods

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var now = time.Unix(1e9, 0)

func pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)), Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "n-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
		}},
	}
	change(p)
	return p
}

func TestToDelete(t *testing.T) {
	same := func(*corev1.Pod) {}
	for name, worse := range map[string]func(*corev1.Pod){
		"no node":           func(p *corev1.Pod) { p.Spec.NodeName = "" },
		"pending":           func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"unknown":           func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown },
		"not ready":         func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse },
		"cheap":             func(p *corev1.Pod) { p.Annotations[corev1.PodDeletionCost] = "-5" },
		"shortly ready":     func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Second)) },
		"restarted":         func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} },
		"young":             func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Second)) },
		"on a crowded node": func(p *corev1.Pod) { p.Spec.NodeName = "n-other" },
	} {
		all := []*corev1.Pod{pod("good", same), pod("worse", worse)}
		related := append([]*corev1.Pod{pod("other", same)}, all...)
		if got := ToDelete(all, related, 1, now); len(got) != 1 || got[0].Name != "worse" {
			t.Errorf("%s: %s goes first", name, got[0].Name)
		}
	}
}

func TestAvailable(t *testing.T) {
	p := pod("a", func(p *corev1.Pod) {
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-4 * time.Second))
	})
	if left, ok := AvailableIn(p, 10, now); !ok || left != 6*time.Second || Available(p, 10, now) {
		t.Errorf("%s left, %v", left, ok)
	}
	if !Available(p, 4, now) || !Available(p, 0, now) {
		t.Error("long enough is not enough")
	}
}

func TestSlowStart(t *testing.T) {
	var calls atomic.Int32
	if n, err := SlowStart(100, func(int) error { calls.Add(1); return nil }); n != 100 || err != nil || calls.Load() != 100 {
		t.Errorf("%d made by %d calls: %v", n, calls.Load(), err)
	}
	// The batches are 0, 1-2 and 3-6.
	calls.Store(0)
	n, err := SlowStart(100, func(i int) error {
		calls.Add(1)
		if i >= 4 {
			return fmt.Errorf("%d is too many", i)
		}
		return nil
	})
	if n != 4 || err == nil || err.Error() != "4 is too many" || calls.Load() != 7 {
		t.Errorf("%d made by %d calls: %v", n, calls.Load(), err)
	}
}

func TestTemplateHashIsStable(t *testing.T) {
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}}
	one, again := TemplateHash(&template, nil), TemplateHash(template.DeepCopy(), nil)
	if one != again {
		t.Errorf("%s and %s for the same template", one, again)
	}
	if other := TemplateHash(&template, ptr.To[int32](1)); other == one {
		t.Error("a collision count does not change the hash")
	}
}
