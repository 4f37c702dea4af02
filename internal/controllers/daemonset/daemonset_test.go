package daemonset_test

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/daemonset"
)

var labels = map[string]string{"app": "daemon"}

func start(t *testing.T, nodes int, strategy appsv1.DaemonSetUpdateStrategy) *controllertest.Cluster {
	t.Helper()
	c := controllertest.Start(t)
	c.Run("daemon-set-controller", daemonset.New)
	c.Kubelet()
	for i := range nodes {
		c.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)}})
	}
	c.Create(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "daemon"}, Spec: appsv1.DaemonSetSpec{
		UpdateStrategy: strategy, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "daemon:1"}}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		}},
	}})
	waitFor(c, "creation", nodes)
	return c
}

func get(c *controllertest.Cluster) *appsv1.DaemonSet {
	return controllertest.Get(c, "default", "daemon", &appsv1.DaemonSet{})
}

func pods(c *controllertest.Cluster) []corev1.Pod { return c.Pods("default", labels) }

func waitFor(c *controllertest.Cluster, what string, n int) {
	c.Eventually(what, &appsv1.DaemonSetList{}, func() bool {
		d, want := get(c), int32(n)
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.DesiredNumberScheduled == want && s.CurrentNumberScheduled == want && s.UpdatedNumberScheduled == want && s.NumberAvailable == want
	})
}

func image(c *controllertest.Cluster, image string) {
	controllertest.Change(c, get(c), func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = image })
}

func working(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
}

func TestRollbackWithoutRestarts(t *testing.T) {
	c := start(t, 4, appsv1.DaemonSetUpdateStrategy{})
	first := map[types.UID]bool{}
	for _, p := range pods(c) {
		first[p.UID] = true
	}
	image(c, "broken")
	c.Eventually("the broken pod", &corev1.PodList{}, func() bool {
		for _, p := range pods(c) {
			if p.Spec.Containers[0].Image == "broken" && p.Status.Phase == corev1.PodRunning {
				return true
			}
		}
		return false
	})
	image(c, "daemon:1")
	waitFor(c, "rollback", 4)
	kept := 0
	for _, p := range pods(c) {
		if first[p.UID] {
			kept++
		}
	}
	if kept != 3 {
		t.Errorf("%d of the first pods are left, want 3", kept)
	}
	var revisions appsv1.ControllerRevisionList
	c.List(&revisions, client.InNamespace("default"))
	if len(revisions.Items) != 2 {
		t.Errorf("%d revisions, want 2", len(revisions.Items))
	}
}

// TestRevisionsMadeByHand replaces the revision that pods are made from by one
// with the same content: no pod is restarted.
func TestRevisionsMadeByHand(t *testing.T) {
	c := start(t, 3, appsv1.DaemonSetUpdateStrategy{})
	before := map[types.UID]bool{}
	for _, p := range pods(c) {
		before[p.UID] = true
	}
	revisions := func() []appsv1.ControllerRevision {
		var list appsv1.ControllerRevisionList
		c.List(&list, client.InNamespace("default"))
		return list.Items
	}
	first := revisions()[0]
	c.Create(&appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "by-hand", Labels: labels, OwnerReferences: first.OwnerReferences},
		Data:       first.Data, Revision: first.Revision + 1,
	})
	c.Delete(&first)
	controllertest.Change(c, get(c), func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds = 1 })
	waitFor(c, "nothing new", 3)
	for _, p := range pods(c) {
		if !before[p.UID] {
			t.Errorf("%s is new", p.Name)
		}
	}
	image(c, "daemon:2")
	waitFor(c, "update", 3)
	found := map[int64]bool{}
	for _, r := range revisions() {
		found[r.Revision] = true
	}
	if len(found) != 2 || !found[2] || !found[3] {
		t.Errorf("revisions %v, want 2 and 3", found)
	}
}

func TestSurge(t *testing.T) {
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	c := start(t, 4, appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &one, MaxUnavailable: &none}})
	c.Always("default", func(pods []*corev1.Pod) error {
		here := map[string]int{}
		extra := 0
		for _, p := range pods {
			if working(p) {
				here[p.Spec.NodeName]++
			}
		}
		for _, n := range here {
			extra += n - 1
		}
		if len(here) < 4 || extra > 1 {
			return fmt.Errorf("%d nodes with pods that work, %d with two", len(here), extra)
		}
		return nil
	})
	image(c, "daemon:2")
	waitFor(c, "update", 4)
	c.Eventually("the end of the old pods", &corev1.PodList{}, func() bool { return len(pods(c)) == 4 })
}

func TestPodsThatEnd(t *testing.T) {
	c := start(t, 2, appsv1.DaemonSetUpdateStrategy{})
	victim := pods(c)[0]
	c.Fail(&victim)
	c.WaitForEvent("default", "daemon", "FailedDaemonPod")
	c.Eventually("a new pod for the failed one", &corev1.PodList{}, func() bool {
		now := pods(c)
		return len(now) == 2 && !slices.ContainsFunc(now, func(p corev1.Pod) bool { return p.UID == victim.UID })
	})

	// A pod that loses its owner is taken back.
	orphan := pods(c)[0]
	controllertest.Change(c, &orphan, func(p *corev1.Pod) { p.OwnerReferences = nil })
	c.Eventually("adoption", &corev1.PodList{}, func() bool {
		return metav1.IsControlledBy(controllertest.Get(c, "default", orphan.Name, &orphan), get(c))
	})
	waitFor(c, "no more pods than before", 2)
	if n := len(pods(c)); n != 2 {
		t.Errorf("%d pods, want 2", n)
	}

	// A node that is no longer for the set.
	controllertest.Change(c, get(c), func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} })
	c.Eventually("no pods", &corev1.PodList{}, func() bool { return len(pods(c)) == 0 })
	node := controllertest.Get(c, "", "node-1", &corev1.Node{})
	controllertest.Change(c, node, func(n *corev1.Node) { n.Labels = map[string]string{"disk": "ssd"} })
	waitFor(c, "a pod on the node with the label", 1)
}
