package statefulset_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/statefulset"
)

func start(t *testing.T) *controllertest.Cluster {
	t.Helper()
	c := controllertest.Start(t)
	c.Run("statefulset-controller", statefulset.New)
	c.Kubelet()
	return c
}

func newSet(name, image string, replicas int32, change ...func(*appsv1.StatefulSetSpec)) *appsv1.StatefulSet {
	labels := map[string]string{"app": name}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "svc", Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			},
		},
	}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

func parallel(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = appsv1.ParallelPodManagement }

func get(c *controllertest.Cluster, name string) *appsv1.StatefulSet {
	return controllertest.Get(c, "default", name, &appsv1.StatefulSet{})
}

func change(c *controllertest.Cluster, name string, f func(*appsv1.StatefulSetSpec)) {
	controllertest.Change(c, get(c, name), func(s *appsv1.StatefulSet) { f(&s.Spec) })
}

// images are the images of a set's pods by their names.
func images(c *controllertest.Cluster, name string) map[string]string {
	out := map[string]string{}
	for _, p := range c.Pods("default", client.MatchingLabels{"app": name}) {
		out[p.Name] = p.Spec.Containers[0].Image
	}
	return out
}

func waitFor(t *testing.T, c *controllertest.Cluster, name, what string, ok func(s appsv1.StatefulSetStatus) bool) {
	t.Helper()
	c.Eventually(what, &appsv1.StatefulSetList{}, func() bool {
		s := get(c, name)
		return s.Status.ObservedGeneration == s.Generation && ok(s.Status)
	})
}

func ready(n int32) func(appsv1.StatefulSetStatus) bool {
	return func(s appsv1.StatefulSetStatus) bool {
		return s.Replicas == n && s.ReadyReplicas == n && s.AvailableReplicas == n && s.CurrentReplicas == n && s.UpdatedReplicas == n && s.CurrentRevision == s.UpdateRevision
	}
}

func TestOrderedFromCreationToRollback(t *testing.T) {
	c := start(t)
	c.Always("default", func(pods []*corev1.Pod) error {
		working := 0
		for _, p := range pods {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				working++
			}
		}
		if len(pods)-working > 1 {
			return fmt.Errorf("%d pods do not work", len(pods)-working)
		}
		return nil
	})
	c.Create(newSet("web", "web:1", 3))
	waitFor(t, c, "web", "creation", ready(3))
	pod := controllertest.Get(c, "default", "web-2", &corev1.Pod{})
	if pod.Labels[appsv1.PodIndexLabel] != "2" || pod.Labels[appsv1.StatefulSetPodNameLabel] != "web-2" || pod.Spec.Hostname != "web-2" || pod.Spec.Subdomain != "svc" {
		t.Errorf("identity: labels %v, host name %s.%s", pod.Labels, pod.Spec.Hostname, pod.Spec.Subdomain)
	}
	first := get(c, "web").Status.CurrentRevision
	if got := pod.Labels[appsv1.ControllerRevisionHashLabelKey]; got != first {
		t.Errorf("revision label %s, want %s", got, first)
	}
	if m := c.WaitForEvent("default", "web", "SuccessfulCreate"); m != "create Pod web-0 in StatefulSet web successful" {
		t.Errorf("event %q", m)
	}

	// A canary: only what is at or above the partition changes.
	change(c, "web", func(s *appsv1.StatefulSetSpec) {
		s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](2)}
		s.Template.Spec.Containers[0].Image = "web:2"
	})
	waitFor(t, c, "web", "canary", func(s appsv1.StatefulSetStatus) bool {
		return s.UpdatedReplicas == 1 && s.CurrentReplicas == 2 && s.ReadyReplicas == 3 && s.CurrentRevision == first && s.UpdateRevision != first
	})
	for _, name := range []string{"web-0", "web-2"} {
		old := controllertest.Get(c, "default", name, &corev1.Pod{})
		c.Delete(old.DeepCopy())
		c.Eventually("restoring "+name, &corev1.PodList{}, func() bool {
			for _, p := range c.Pods("default", client.MatchingLabels{"app": "web"}) {
				if p.Name == name && p.UID != old.UID && p.Status.Phase == corev1.PodRunning {
					return true
				}
			}
			return false
		})
	}
	if got, want := images(c, "web"), map[string]string{"web-0": "web:1", "web-1": "web:1", "web-2": "web:2"}; !maps.Equal(got, want) {
		t.Errorf("images %v, want %v", got, want)
	}
	change(c, "web", func(s *appsv1.StatefulSetSpec) { s.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
	waitFor(t, c, "web", "update", ready(3))

	// The first template again is the first revision again.
	change(c, "web", func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = "web:1" })
	waitFor(t, c, "web", "rollback", func(s appsv1.StatefulSetStatus) bool { return ready(3)(s) && s.CurrentRevision == first })
	var revisions appsv1.ControllerRevisionList
	c.List(&revisions, client.InNamespace("default"))
	if len(revisions.Items) != 2 {
		t.Errorf("%d revisions, want 2", len(revisions.Items))
	}
	for _, r := range revisions.Items {
		if r.Name == first && r.Revision != 3 {
			t.Errorf("the revision that was gone back to has number %d, want 3", r.Revision)
		}
	}
	change(c, "web", func(s *appsv1.StatefulSetSpec) { s.Replicas = ptr.To[int32](1) })
	waitFor(t, c, "web", "scaling down", ready(1))
	if got := slices.Collect(maps.Keys(images(c, "web"))); len(got) != 1 || got[0] != "web-0" {
		t.Errorf("%v are left, want web-0", got)
	}
}

func TestUnhealthyPods(t *testing.T) {
	c := start(t)
	c.Create(
		newSet("ordered", "broken", 3),
		newSet("parallel", "broken", 3, parallel),
		newSet("later", "web:1", 2, func(s *appsv1.StatefulSetSpec) { s.Ordinals = &appsv1.StatefulSetOrdinals{Start: 7} }),
	)
	waitFor(t, c, "parallel", "burst", func(s appsv1.StatefulSetStatus) bool { return s.Replicas == 3 })
	waitFor(t, c, "later", "start ordinal", ready(2))
	if got := images(c, "later"); got["later-7"] == "" || got["later-8"] == "" {
		t.Errorf("pods %v, want later-7 and later-8", got)
	}
	waitFor(t, c, "ordered", "first pod", func(s appsv1.StatefulSetStatus) bool { return s.Replicas == 1 && s.ReadyReplicas == 0 })
	if got := images(c, "ordered"); len(got) != 1 {
		t.Errorf("an ordered set went on after a broken pod: %v", got)
	}
	// Parallel sets are mended by an update although nothing works.
	change(c, "parallel", func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = "web:1" })
	waitFor(t, c, "parallel", "mending", ready(3))

	failed := controllertest.Get(c, "default", "later-7", &corev1.Pod{})
	c.Fail(failed)
	c.Eventually("a new pod for a failed one", &corev1.PodList{}, func() bool {
		for _, p := range c.Pods("default", client.MatchingLabels{"app": "later"}) {
			if p.Name == "later-7" && p.UID != failed.UID {
				return true
			}
		}
		return false
	})
}

func TestClaims(t *testing.T) {
	c := start(t)
	claimed := func(scaled, deleted appsv1.PersistentVolumeClaimRetentionPolicyType) func(s *appsv1.StatefulSetSpec) {
		return func(s *appsv1.StatefulSetSpec) {
			s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: scaled, WhenDeleted: deleted}
			s.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"tier": "db"}},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
				},
			}}
			s.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		}
	}
	const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	owners := func(claim string) string {
		var all []string
		for _, r := range controllertest.Get(c, "default", claim, &corev1.PersistentVolumeClaim{}).OwnerReferences {
			all = append(all, r.Kind+"/"+r.Name)
		}
		return strings.Join(all, " ")
	}
	c.Create(newSet("kept", "web:1", 2, claimed(retain, retain)), newSet("gone", "web:1", 2, claimed(remove, remove)))
	waitFor(t, c, "kept", "creation", ready(2))
	waitFor(t, c, "gone", "creation", ready(2))
	claim := controllertest.Get(c, "default", "data-kept-1", &corev1.PersistentVolumeClaim{})
	if claim.Labels["app"] != "kept" || claim.Labels["tier"] != "db" || len(claim.OwnerReferences) != 0 {
		t.Errorf("labels %v, owners %v", claim.Labels, claim.OwnerReferences)
	}
	if p := controllertest.Get(c, "default", "kept-1", &corev1.Pod{}); p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-kept-1" {
		t.Errorf("the pod's volumes are %+v", p.Spec.Volumes)
	}
	if got := owners("data-gone-1"); got != "StatefulSet/gone" {
		t.Errorf("owners %s", got)
	}
	change(c, "gone", func(s *appsv1.StatefulSetSpec) { s.Replicas = ptr.To[int32](1) })
	waitFor(t, c, "gone", "scaling down", ready(1))
	if got := owners("data-gone-1"); got != "Pod/gone-1" {
		t.Errorf("owners after scaling down: %s", got)
	}
	// The garbage collector does not run here: the claim of the pod that is gone
	// must not be given to its successor.
	change(c, "gone", func(s *appsv1.StatefulSetSpec) { s.Replicas = ptr.To[int32](2) })
	waitFor(t, c, "gone", "waiting for the claim", func(s appsv1.StatefulSetStatus) bool { return s.Replicas == 1 })
	stale := controllertest.Get(c, "default", "data-gone-1", &corev1.PersistentVolumeClaim{})
	c.Delete(stale)
	// Nor does the controller that protects claims in use.
	controllertest.Change(c, stale, func(p *corev1.PersistentVolumeClaim) { p.Finalizers = nil })
	waitFor(t, c, "gone", "scaling up again", ready(2))

	change(c, "gone", func(s *appsv1.StatefulSetSpec) { s.PersistentVolumeClaimRetentionPolicy.WhenDeleted = retain })
	c.Eventually("claims that are retained", &corev1.PersistentVolumeClaimList{}, func() bool { return owners("data-gone-0") == "" })
}

func TestAdoption(t *testing.T) {
	c := start(t)
	c.Create(newSet("web", "web:1", 2))
	waitFor(t, c, "web", "creation", ready(2))
	before := images(c, "web")
	c.Delete(get(c, "web"), client.PropagationPolicy(metav1.DeletePropagationOrphan))
	// What the garbage collector does for orphans.
	for _, p := range c.Pods("default", client.MatchingLabels{"app": "web"}) {
		controllertest.Change(c, &p, func(p *corev1.Pod) { p.OwnerReferences = nil })
	}
	var revisions appsv1.ControllerRevisionList
	c.List(&revisions, client.InNamespace("default"))
	for _, r := range revisions.Items {
		controllertest.Change(c, &r, func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil })
	}
	controllertest.Change(c, get(c, "web"), func(s *appsv1.StatefulSet) { s.Finalizers = nil })
	c.Create(newSet("web", "web:1", 2))
	waitFor(t, c, "web", "adoption", func(s appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 2 })
	if got := images(c, "web"); !maps.Equal(got, before) {
		t.Errorf("pods %v, want %v", got, before)
	}
	set := get(c, "web")
	for _, p := range c.Pods("default", client.MatchingLabels{"app": "web"}) {
		if !metav1.IsControlledBy(&p, set) {
			t.Errorf("%s is not adopted", p.Name)
		}
	}
}
