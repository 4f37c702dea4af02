package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Unix(1e9, 0)

// at makes a pod of a description: its node, then what it is: old or new, and
// ready, unready, failed or going.
func at(description string) *corev1.Pod {
	words := strings.Fields(description)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: strings.Join(words, "-"), Labels: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: words[0]},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, w := range words[1:] {
		switch w {
		case "new":
			p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = "hash"
			p.CreationTimestamp = metav1.NewTime(now)
		case "ready":
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}}
		case "failed":
			p.Status.Phase = corev1.PodFailed
		case "going":
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
	}
	return p
}

func TestPlan(t *testing.T) {
	unavailable := func(n string) appsv1.DaemonSetUpdateStrategy {
		v, none := intstr.Parse(n), intstr.FromInt32(0)
		return appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &v, MaxSurge: &none}}
	}
	surge := func(n string) appsv1.DaemonSetUpdateStrategy {
		v, none := intstr.Parse(n), intstr.FromInt32(0)
		return appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &none, MaxSurge: &v}}
	}
	onDelete := appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	for _, test := range []struct {
		name     string
		strategy appsv1.DaemonSetUpdateStrategy
		pods     []string
		create   string
		remove   string
	}{
		{"nothing there", unavailable("1"), nil, "a b c", ""},
		{"one missing", unavailable("1"), []string{"a new ready", "b new ready"}, "c", ""},
		{"two on a node", unavailable("1"), []string{"a new ready", "a old ready", "b new ready", "c new ready"}, "", "a-new-ready"},
		{"failed", unavailable("1"), []string{"a new failed", "b new ready", "c new ready"}, "", "a-new-failed"},
		{"failed and going is as good as gone", unavailable("1"), []string{"a new failed going", "b new ready", "c new ready"}, "a", ""},
		{"on a node that is not wanted", unavailable("1"), []string{"a new ready", "b new ready", "c new ready", "tainted new ready"}, "", "tainted-new-ready"},
		{"going is waited for", unavailable("1"), []string{"a new ready going", "b new ready", "c new ready"}, "", ""},
		{"update begins", unavailable("1"), []string{"a old ready", "b old ready", "c old ready"}, "", "a-old-ready"},
		{"update of two at a time", unavailable("50%"), []string{"a old ready", "b old ready", "c old ready"}, "", "a-old-ready b-old-ready"},
		{"update waits", unavailable("1"), []string{"a new", "b old ready", "c old ready"}, "", ""},
		{"update goes on", unavailable("1"), []string{"a new ready", "b old ready", "c old ready"}, "", "b-old-ready"},
		{"what does not work goes first", unavailable("1"), []string{"a old ready", "b old", "c old ready"}, "", "b-old"},
		{"on delete", onDelete, []string{"a old ready", "b old ready", "c old ready"}, "", ""},
		{"surge begins", surge("1"), []string{"a old ready", "b old ready", "c old ready"}, "a", ""},
		{"surge waits", surge("1"), []string{"a old ready", "a new", "b old ready", "c old ready"}, "", ""},
		{"surge takes over", surge("1"), []string{"a old ready", "a new ready", "b old ready", "c old ready"}, "", "a-old-ready"},
		{"surge replaces what does not work", surge("1"), []string{"a old", "b old ready", "c old ready"}, "a b", ""},
		{"surge drops an old pod that stops working", surge("1"), []string{"a old", "a new", "b old ready", "c old ready"}, "", "a-old"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ds := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{UpdateStrategy: test.strategy}}
			nodes := []corev1.Node{
				{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}, {ObjectMeta: metav1.ObjectMeta{Name: "c"}},
				{ObjectMeta: metav1.ObjectMeta{Name: "tainted"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}}}},
			}
			var pods []*corev1.Pod
			for _, d := range test.pods {
				pods = append(pods, at(d))
			}
			p := newPlan(ds, nodes, pods, "hash", now, func(*corev1.Pod) bool { return true })
			var removed []string
			for _, pod := range p.remove {
				removed = append(removed, pod.Name)
			}
			slices.Sort(removed)
			slices.Sort(p.create)
			if got := fmt.Sprint(strings.Join(p.create, " "), " / ", strings.Join(removed, " ")); got != test.create+" / "+test.remove {
				t.Errorf("got %q, want %q", got, test.create+" / "+test.remove)
			}
		})
	}
}

func TestFailuresWait(t *testing.T) {
	var f failures
	pod := at("a new failed")
	set := struct{ Namespace, Name string }{"ns", "set"}
	clock := now
	if left := f.left(set, pod, clock); left != 0 {
		t.Errorf("the first failure waits %s", left)
	}
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		f.note(set, pod, clock)
		if left := f.left(set, pod, clock); left != want {
			t.Errorf("%s to wait, want %s", left, want)
		}
		clock = clock.Add(want)
	}
	for range 20 {
		f.note(set, pod, clock)
	}
	if left := f.left(set, pod, clock); left != lastBackoff {
		t.Errorf("%s to wait at last, want %s", left, lastBackoff)
	}
	f.note(set, at("b new failed"), clock.Add(3*lastBackoff))
	if len(f.all[set]) != 1 {
		t.Error("an old failure is not forgotten")
	}
}
