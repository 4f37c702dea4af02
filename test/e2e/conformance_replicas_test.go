//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

var replicaSets = []conformant{
	{"[sig-apps] ReplicaSet Replace and Patch tests", (*space).testReplicaSetReplace},
	{"[sig-apps] ReplicaSet Replicaset should have a working scale subresource", (*space).testReplicaSetScale},
	{"[sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods", (*space).testReplicaSetAdopts},
	{"[sig-apps] ReplicaSet should list and delete a collection of ReplicaSets", (*space).testReplicaSetCollection},
	{"[sig-apps] ReplicaSet should serve a basic image on each replica with a public image", (*space).testReplicaSetServes},
	{"[sig-apps] ReplicaSet should validate Replicaset Status endpoints", (*space).testReplicaSetStatus},
}

var replicationControllers = []conformant{
	{"[sig-apps] ReplicationController should adopt matching pods on creation", (*space).testControllerAdopts},
	{"[sig-apps] ReplicationController should get and update a ReplicationController scale", (*space).testControllerScale},
	{"[sig-apps] ReplicationController should release no longer matching pods", (*space).testControllerReleases},
	{"[sig-apps] ReplicationController should serve a basic image on each replica with a public image", (*space).testControllerServes},
	{"[sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota", (*space).testControllerQuota},
	{"[sig-apps] ReplicationController should test the lifecycle of a ReplicationController", (*space).testControllerLifecycle},
}

// replicaSet makes a ReplicaSet of idle pods with the label app=NAME.
func (s *space) replicaSet(name string, replicas int32, change func(*appsv1.ReplicaSet)) {
	s.Helper()
	t := template(name, idle)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t},
	}
	if change != nil {
		change(rs)
	}
	_, err := s.client.AppsV1().ReplicaSets(s.ns).Create(s.Context(), rs, metav1.CreateOptions{})
	s.ok(err)
}

// controller makes a ReplicationController of idle pods with the label app=NAME.
func (s *space) controller(name string, replicas int32, change func(*corev1.ReplicationController)) {
	s.Helper()
	t := template(name, idle)
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels},
		Spec:       corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: t.Labels, Template: &t},
	}
	if change != nil {
		change(rc)
	}
	_, err := s.client.CoreV1().ReplicationControllers(s.ns).Create(s.Context(), rc, metav1.CreateOptions{})
	s.ok(err)
}

// answerByName demands that every pod, asked through the API, says its name.
func (s *space) answerByName(pods []corev1.Pod) {
	s.Helper()
	for _, p := range pods {
		s.eventually(p.Name+" answers", func(ctx context.Context) error {
			got, err := s.client.CoreV1().Pods(s.ns).ProxyGet("http", p.Name, "8080", "hostname", nil).DoRaw(ctx)
			if err == nil && string(got) != p.Name {
				err = fmt.Errorf("with %q", got)
			}
			return err
		})
	}
}

// serving makes a pod template answer over HTTP on port 8080.
func serving(t *corev1.PodTemplateSpec) {
	c := &t.Spec.Containers[0]
	c.Image, c.Command = serverImage, []string{"testserver", "http:8080"}
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
}

func (s *space) testReplicaSetServes() {
	s.replicaSet("serve", 2, func(rs *appsv1.ReplicaSet) { serving(&rs.Spec.Template) })
	s.answerByName(s.pods("serve", 2, isReady))
}

func (s *space) testControllerServes() {
	s.controller("serve", 2, func(rc *corev1.ReplicationController) { serving(rc.Spec.Template) })
	s.answerByName(s.pods("serve", 2, isReady))
}

func (s *space) testReplicaSetScale() {
	s.replicaSet("scaled", 1, nil)
	s.pods("scaled", 1, isReady)
	s.scales(replicaSetsResource, "scaled")
}

func (s *space) testControllerScale() {
	s.controller("scaled", 1, nil)
	s.pods("scaled", 1, isReady)
	s.scales(controllersResource, "scaled")
}

// adopted waits until a pod, and no other one, is the owner's.
func (s *space) adopted(pod, by string) {
	s.Helper()
	s.podThat(pod, "is adopted by "+by, func(p *corev1.Pod) bool { return owner(p) == by })
	s.pods(pod, 1, isReady)
}

// released changes a pod's label and waits until it is nobody's and replaced.
func (s *space) released(pod, app string, n int) {
	s.Helper()
	s.updatePod(pod, func(p *corev1.Pod) { p.Labels["app"] = "released" })
	s.podThat(pod, "is nobody's", func(p *corev1.Pod) bool { return owner(p) == "" && len(p.OwnerReferences) == 0 })
	s.pods(app, n, isReady)
}

func (s *space) testReplicaSetAdopts() {
	s.startPod("adopt", template("adopt", idle))
	s.replicaSet("adopt", 1, nil)
	s.adopted("adopt", "ReplicaSet/adopt")
	s.released("adopt", "adopt", 1)
}

func (s *space) testControllerAdopts() {
	s.startPod("adopt", template("adopt", idle))
	s.controller("adopt", 1, nil)
	s.adopted("adopt", "ReplicationController/adopt")
}

func (s *space) testControllerReleases() {
	s.controller("release", 1, nil)
	pod := s.pods("release", 1, isReady)[0]
	s.condition("the pod is the controller's", owner(&pod) == "ReplicationController/release", pod.ObjectMeta)
	s.released(pod.Name, "release", 1)
}

func (s *space) testReplicaSetCollection() {
	for i := range 3 {
		s.replicaSet(fmt.Sprintf("collected-%d", i), 1, func(rs *appsv1.ReplicaSet) { rs.Labels = map[string]string{"collection": s.ns} })
		s.pods(fmt.Sprintf("collected-%d", i), 1, isReady)
	}
	s.collection(replicaSetsResource, 3, "collection="+s.ns)
}

func (s *space) testReplicaSetStatus() {
	s.replicaSet("status", 1, nil)
	s.pods("status", 1, isReady)
	s.statuses(replicaSetsResource, "status", map[string]string{"app": "status"})
}

func (s *space) testReplicaSetReplace() {
	w := s.watch(s.of(replicaSetsResource), map[string]string{"app": "replaced"})
	s.replicaSet("replaced", 1, nil)
	s.pods("replaced", 1, isReady)
	s.update(replicaSetsResource, "replaced", func(obj map[string]any) error {
		return unstructured.SetNestedField(obj, int64(2), "spec", "replicas")
	})
	s.pods("replaced", 2, isReady)
	s.patch(replicaSetsResource, "replaced", `{"metadata":{"labels":{"test-rs":"patched"}},"spec":{"replicas":3,"template":{"spec":{"terminationGracePeriodSeconds":0}}}}`)
	w.until("it is patched", func(e watch.Event) bool {
		obj, ok := e.Object.(*unstructured.Unstructured)
		ready, _, _ := unstructured.NestedInt64(obj.Object, "status", "readyReplicas")
		return ok && e.Type == watch.Modified && obj.GetLabels()["test-rs"] == "patched" && ready == 3
	})
}

func (s *space) testControllerQuota() {
	_, err := s.client.CoreV1().ResourceQuotas(s.ns).Create(s.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}},
	}, metav1.CreateOptions{})
	s.ok(err)
	s.eventually("the quota is known", func(ctx context.Context) error {
		q, err := s.client.CoreV1().ResourceQuotas(s.ns).Get(ctx, "quota", metav1.GetOptions{})
		if err == nil && q.Status.Hard.Pods().Value() != 2 {
			err = errors.New("it has no status")
		}
		return err
	})
	s.controller("quota", 3, nil)
	failing := func(wanted bool) {
		s.Helper()
		s.eventually(fmt.Sprintf("the condition ReplicaFailure is there: %v", wanted), func(ctx context.Context) error {
			rc, err := s.client.CoreV1().ReplicationControllers(s.ns).Get(ctx, "quota", metav1.GetOptions{})
			failure := slices.ContainsFunc(rc.Status.Conditions, func(c corev1.ReplicationControllerCondition) bool {
				return c.Type == corev1.ReplicationControllerReplicaFailure && c.Reason == "FailedCreate"
			})
			if err == nil && (failure != wanted || rc.Status.ObservedGeneration < rc.Generation) {
				err = fmt.Errorf("the status is %s", text(rc.Status))
			}
			return err
		})
	}
	failing(true)
	s.patch(controllersResource, "quota", `{"spec":{"replicas":2}}`)
	failing(false)
}

func (s *space) testControllerLifecycle() {
	w := s.watch(s.of(controllersResource), map[string]string{"app": "life"})
	is := func(what string, kind watch.EventType, wanted func(*unstructured.Unstructured) bool) {
		s.Helper()
		w.until(what, func(e watch.Event) bool {
			obj, ok := e.Object.(*unstructured.Unstructured)
			return ok && e.Type == kind && wanted(obj)
		})
	}
	ready := func(obj *unstructured.Unstructured) int64 {
		n, _, _ := unstructured.NestedInt64(obj.Object, "status", "readyReplicas")
		return n
	}
	s.controller("life", 1, nil)
	is("it is made", watch.Added, func(*unstructured.Unstructured) bool { return true })
	is("one is ready", watch.Modified, func(obj *unstructured.Unstructured) bool { return ready(obj) == 1 })
	s.patch(controllersResource, "life", `{"metadata":{"labels":{"test-rc":"patched"}}}`)
	is("it is patched", watch.Modified, func(obj *unstructured.Unstructured) bool { return obj.GetLabels()["test-rc"] == "patched" })
	s.patch(controllersResource, "life", `{"status":{"readyReplicas":0,"availableReplicas":0}}`, "status")
	is("the status is patched", watch.Modified, func(obj *unstructured.Unstructured) bool { return ready(obj) == 0 })
	is("the controller puts the status right", watch.Modified, func(obj *unstructured.Unstructured) bool { return ready(obj) == 1 })
	var status corev1.ReplicationController
	s.get(controllersResource, "life", &status, "status")
	s.condition("the subresource is the object", status.Name == "life" && status.Status.Replicas == 1, status)
	s.patch(controllersResource, "life", `{"spec":{"replicas":2}}`, "scale")
	is("two are ready", watch.Modified, func(obj *unstructured.Unstructured) bool { return ready(obj) == 2 })
	s.update(controllersResource, "life", func(obj map[string]any) error {
		return unstructured.SetNestedField(obj, "updated", "metadata", "labels", "test-rc")
	})
	is("it is updated", watch.Modified, func(obj *unstructured.Unstructured) bool { return obj.GetLabels()["test-rc"] == "updated" })
	s.collection(controllersResource, 1, "test-rc=updated,app=life")
	is("it is deleted", watch.Deleted, func(*unstructured.Unstructured) bool { return true })
}
