package statefulset_test

import (
	"context"
	"fmt"
	"maps"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
)

func onDelete(s *appsv1.StatefulSetSpec) {
	s.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
}

func partition(n int32) func(*appsv1.StatefulSetSpec) {
	return func(s *appsv1.StatefulSetSpec) {
		s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
	}
}

// TestUpdates has three working pods of web:1, and what becomes of them after an
// update, and after going back to the first template.
func TestUpdates(t *testing.T) {
	c := start(t)
	pods := func(zero, one, two string) map[string]string { return map[string]string{"0": zero, "1": one, "2": two} }
	for _, test := range []struct {
		name   string
		spec   []func(*appsv1.StatefulSetSpec)
		image  string
		want   map[string]string
		back   map[string]string
		mended bool // going back mends what was broken
	}{
		{"ordered", nil, "web:2", pods("web:2", "web:2", "web:2"), pods("web:1", "web:1", "web:1"), true},
		{"at-once", []func(*appsv1.StatefulSetSpec){parallel}, "web:2", pods("web:2", "web:2", "web:2"), pods("web:1", "web:1", "web:1"), true},
		{"on-delete", []func(*appsv1.StatefulSetSpec){onDelete}, "web:2", pods("web:1", "web:1", "web:1"), pods("web:1", "web:1", "web:1"), true},
		{"canary", []func(*appsv1.StatefulSetSpec){partition(2)}, "web:2", pods("web:1", "web:1", "web:2"), pods("web:1", "web:1", "web:1"), true},
		{"partition-beyond", []func(*appsv1.StatefulSetSpec){partition(5)}, "web:2", pods("web:1", "web:1", "web:1"), pods("web:1", "web:1", "web:1"), true},
		// A broken template stops at the first pod that it breaks. An ordered set
		// waits for that pod whatever comes: it takes somebody to delete it.
		{"ordered-broken", nil, "broken", pods("web:1", "web:1", "broken"), pods("web:1", "web:1", "broken"), false},
		{"at-once-broken", []func(*appsv1.StatefulSetSpec){parallel}, "broken", pods("web:1", "web:1", "broken"), pods("web:1", "web:1", "web:1"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			have := func() map[string]string {
				out := map[string]string{}
				for _, p := range c.Pods("default", client.MatchingLabels{"app": test.name}) {
					if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
						out[p.Name[len(test.name)+1:]] = p.Spec.Containers[0].Image
					}
				}
				return out
			}
			settles := func(want map[string]string) {
				t.Helper()
				c.Eventually(fmt.Sprint(want), &corev1.PodList{}, func() bool { return maps.Equal(have(), want) })
				waitFor(t, c, test.name, "status", func(s appsv1.StatefulSetStatus) bool { return s.Replicas == 3 })
				if got := have(); !maps.Equal(got, want) {
					t.Errorf("it went on to %v", got)
				}
			}
			c.Create(newSet(test.name, "web:1", 3, test.spec...))
			waitFor(t, c, test.name, "creation", ready(3))
			change(c, test.name, func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = test.image })
			settles(test.want)
			s := get(c, test.name).Status
			if s.UpdateRevision == s.CurrentRevision && !maps.Equal(test.want, pods(test.image, test.image, test.image)) {
				t.Errorf("the update is said to be done: %+v", s)
			}
			change(c, test.name, func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = "web:1" })
			settles(test.back)
			if test.mended {
				return
			}
			c.Delete(controllertest.Get(c, "default", test.name+"-2", &corev1.Pod{}))
			settles(pods("web:1", "web:1", "web:1"))
		})
	}
}

// TestDeletedPodsComeBackUpdated: with OnDelete that is how an update happens.
func TestDeletedPodsComeBackUpdated(t *testing.T) {
	c := start(t)
	c.Create(newSet("web", "web:1", 2, onDelete))
	waitFor(t, c, "web", "creation", ready(2))
	change(c, "web", func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = "web:2" })
	waitFor(t, c, "web", "a new revision", func(s appsv1.StatefulSetStatus) bool { return s.UpdateRevision != s.CurrentRevision })
	c.Delete(controllertest.Get(c, "default", "web-0", &corev1.Pod{}))
	c.Eventually("the pod is made anew", &corev1.PodList{}, func() bool { return images(c, "web")["web-0"] == "web:2" })
	if got := images(c, "web")["web-1"]; got != "web:1" {
		t.Errorf("web-1 is of %s", got)
	}
}

// TestScalingDownHalts while a pod that stays does not work, and goes on when it
// does: the highest ordinal first.
func TestScalingDownHalts(t *testing.T) {
	c := start(t)
	c.Create(newSet("web", "web:1", 3))
	waitFor(t, c, "web", "creation", ready(3))
	set := func(name string, status corev1.ConditionStatus) {
		t.Helper()
		p := controllertest.Get(c, "default", name, &corev1.Pod{})
		for i := range p.Status.Conditions {
			if p.Status.Conditions[i].Type == corev1.PodReady {
				p.Status.Conditions[i].Status = status
			}
		}
		if err := c.Client.Status().Update(context.Background(), p); err != nil {
			t.Fatal(err)
		}
	}
	set("web-0", corev1.ConditionFalse)
	waitFor(t, c, "web", "a pod that does not work", func(s appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 2 })
	c.Always("default", func(pods []*corev1.Pod) error {
		last := ""
		for _, p := range pods {
			if p.DeletionTimestamp == nil && p.Name > last {
				last = p.Name
			}
		}
		for _, p := range pods {
			if p.DeletionTimestamp != nil && p.Name < last {
				return fmt.Errorf("%s goes before %s", p.Name, last)
			}
		}
		return nil
	})
	change(c, "web", func(s *appsv1.StatefulSetSpec) { s.Replicas = ptr.To[int32](1) })
	waitFor(t, c, "web", "seen", func(appsv1.StatefulSetStatus) bool { return true })
	if got := images(c, "web"); len(got) != 3 {
		t.Errorf("it went on with %v", got)
	}
	set("web-0", corev1.ConditionTrue)
	waitFor(t, c, "web", "scaling down", ready(1))
}

// TestMinReadySeconds: a pod counts as available, and the next one is made, only
// after that time.
func TestMinReadySeconds(t *testing.T) {
	c := start(t)
	c.Create(
		newSet("slow", "web:1", 3, func(s *appsv1.StatefulSetSpec) { s.MinReadySeconds = 3600 }),
		newSet("burst", "web:1", 3, parallel, func(s *appsv1.StatefulSetSpec) { s.MinReadySeconds = 3600 }),
	)
	waitFor(t, c, "slow", "one pod", func(s appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 1 && s.AvailableReplicas == 0 })
	waitFor(t, c, "burst", "all pods", func(s appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 3 && s.AvailableReplicas == 0 })
	if got := images(c, "slow"); len(got) != 1 {
		t.Errorf("it went on with %v", got)
	}
	change(c, "slow", func(s *appsv1.StatefulSetSpec) { s.MinReadySeconds = 0 })
	waitFor(t, c, "slow", "all pods", ready(3))
}

// TestHistory is as long as its limit, beside what is in use.
func TestHistory(t *testing.T) {
	c := start(t)
	c.Create(newSet("web", "web:0", 1, func(s *appsv1.StatefulSetSpec) { s.RevisionHistoryLimit = ptr.To[int32](2) }))
	waitFor(t, c, "web", "creation", ready(1))
	for i := range 6 {
		change(c, "web", func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = fmt.Sprintf("web:%d", i+1) })
		waitFor(t, c, "web", "update", ready(1))
	}
	var list appsv1.ControllerRevisionList
	c.Eventually("three revisions", &appsv1.ControllerRevisionList{}, func() bool {
		c.List(&list, client.InNamespace("default"))
		return len(list.Items) == 3
	})
	newest := int64(0)
	for _, r := range list.Items {
		newest = max(newest, r.Revision)
		if r.Revision < 5 {
			t.Errorf("revision %d is kept", r.Revision)
		}
	}
	if newest != 7 {
		t.Errorf("the newest revision is %d, want 7", newest)
	}
}
