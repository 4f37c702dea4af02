//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

var statefulSets = []conformant{
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Burst scaling should run to completion even with unhealthy pods [Slow]", (*space).testStatefulSetBurst},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Scaling should happen in predictable order and halt if any stateful pod is unhealthy [Slow]", (*space).testStatefulSetOrder},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset", (*space).testStatefulSetEvicted},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource", (*space).testStatefulSetScale},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets", (*space).testStatefulSetCollection},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling updates of template modifications", (*space).testStatefulSetCanary},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform rolling updates and roll backs of template modifications", (*space).testStatefulSetRolling},
	{"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints", (*space).testStatefulSetStatus},
}

// statefulSet makes a StatefulSet with the label app=NAME and its Service. Its
// pods are ready as long as the file /ready is there.
func (s *space) statefulSet(name string, replicas int32, change func(*appsv1.StatefulSet)) {
	s.Helper()
	t := template(name, "touch /ready; "+idle)
	t.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/ready"}}},
		PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 10,
	}
	_, err := s.client.CoreV1().Services(s.ns).Create(s.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: t.Labels, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	s.ok(err)
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: t.Labels},
		Spec:       appsv1.StatefulSetSpec{ServiceName: name, Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}, Template: t},
	}
	if change != nil {
		change(set)
	}
	_, err = s.client.AppsV1().StatefulSets(s.ns).Create(s.Context(), set, metav1.CreateOptions{})
	s.ok(err)
}

// settled waits until a StatefulSet has seen its spec and says so much in its status.
func (s *space) settled(name, what string, wanted func(*appsv1.StatefulSet) bool) *appsv1.StatefulSet {
	s.Helper()
	var set *appsv1.StatefulSet
	s.eventually(name+" "+what, func(ctx context.Context) (err error) {
		set, err = s.client.AppsV1().StatefulSets(s.ns).Get(ctx, name, metav1.GetOptions{})
		if err == nil && (set.Status.ObservedGeneration < set.Generation || !wanted(set)) {
			err = fmt.Errorf("its status is %s", text(set.Status))
		}
		return err
	})
	return set
}

// complete tells StatefulSets all of whose pods are ready and of the newest revision.
func complete(set *appsv1.StatefulSet) bool {
	n, st := *set.Spec.Replicas, set.Status
	return st.Replicas == n && st.ReadyReplicas == n && st.UpdatedReplicas == n && st.CurrentRevision == st.UpdateRevision
}

func (s *space) scaleStatefulSet(name string, replicas int) {
	s.Helper()
	s.patch(statefulSetsResource, name, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
}

// breaks makes a ready pod unready, mends the reverse.
func (s *space) breaks(pod string) {
	s.Helper()
	_, err := s.exec(pod, "rm /ready")
	s.ok(err)
	s.podThat(pod, "is not ready", func(p *corev1.Pod) bool { return !isReady(p) })
}

func (s *space) mends(pod string) {
	s.Helper()
	_, err := s.exec(pod, "touch /ready")
	s.ok(err)
}

func running(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
}

// changes notes the pods that come and go, as "+NAME" and "-NAME", until there
// are n, and fails if anything is done while a pod is not ready.
func (w *watcher) changes(n int, orderly bool) []string {
	w.Helper()
	var seen []string
	unready := map[string]bool{}
	w.until(fmt.Sprintf("%d pods came or went", n), func(e watch.Event) bool {
		obj, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			w.Fatalf("the watch says %v", e.Object)
		}
		conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
		ready := slices.ContainsFunc(conditions, func(c any) bool {
			m, _ := c.(map[string]any)
			return m["type"] == "Ready" && m["status"] == "True"
		})
		switch e.Type {
		case watch.Added:
			for other := range unready {
				if orderly {
					w.Errorf("%s is made while %s is not ready", obj.GetName(), other)
				}
			}
			seen = append(seen, "+"+obj.GetName())
			unready[obj.GetName()] = true
		case watch.Deleted:
			seen = append(seen, "-"+obj.GetName())
			delete(unready, obj.GetName())
		}
		if ready {
			delete(unready, obj.GetName())
		}
		return len(seen) == n
	})
	return seen
}

func (s *space) testStatefulSetOrder() {
	w := s.watch(s.of(podsResource), map[string]string{"app": "order"})
	s.statefulSet("order", 1, nil)
	s.settled("order", "is complete", complete)
	s.breaks("order-0")
	// Nothing is made while a pod is not ready, as far as the status goes.
	s.scaleStatefulSet("order", 3)
	s.settled("order", "stays at one pod, which is not ready", func(set *appsv1.StatefulSet) bool {
		return set.Status.Replicas == 1 && set.Status.ReadyReplicas == 0
	})
	s.mends("order-0")
	s.settled("order", "is complete", complete)
	if got := w.changes(3, true); !slices.Equal(got, []string{"+order-0", "+order-1", "+order-2"}) {
		s.Errorf("scaling up: %v", got)
	}
	down := s.watch(s.of(podsResource), map[string]string{"app": "order"})
	s.breaks("order-0")
	s.scaleStatefulSet("order", 0)
	s.settled("order", "keeps its pods as long as one is not ready", func(set *appsv1.StatefulSet) bool {
		return set.Status.Replicas == 3 && set.Status.ReadyReplicas == 2
	})
	s.mends("order-0")
	s.pods("order", 0, running)
	if got := down.changes(3, true); !slices.Equal(got, []string{"-order-2", "-order-1", "-order-0"}) {
		s.Errorf("scaling down: %v", got)
	}
}

func (s *space) testStatefulSetBurst() {
	s.statefulSet("burst", 1, func(set *appsv1.StatefulSet) { set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement })
	s.settled("burst", "is complete", complete)
	s.breaks("burst-0")
	s.scaleStatefulSet("burst", 3)
	s.settled("burst", "has three pods, one of them not ready", func(set *appsv1.StatefulSet) bool {
		return set.Status.Replicas == 3 && set.Status.ReadyReplicas == 2
	})
	s.mends("burst-0")
	s.settled("burst", "is complete", complete)
	s.breaks("burst-0")
	s.scaleStatefulSet("burst", 0)
	s.pods("burst", 0, running)
	s.settled("burst", "is empty", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 0 })
}

func (s *space) testStatefulSetEvicted() {
	const port = 21017
	node := s.node(1)
	taken := template("taken", idle)
	taken.Spec.NodeName = node
	taken.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port}}
	s.startPod("taken", taken)

	w := s.watch(s.of(podsResource), map[string]string{"app": "evicted"})
	s.statefulSet("evicted", 1, func(set *appsv1.StatefulSet) {
		set.Spec.Template.Spec.NodeName = node
		set.Spec.Template.Spec.Containers[0].Ports = taken.Spec.Containers[0].Ports
	})
	failed := false
	first := ""
	w.until("the pod failed and was made again", func(e watch.Event) bool {
		obj, _ := e.Object.(*unstructured.Unstructured)
		phase, _, _ := unstructured.NestedString(obj.Object, "status", "phase")
		if first == "" {
			first = string(obj.GetUID())
		}
		failed = failed || phase == "Failed"
		return e.Type == watch.Added && string(obj.GetUID()) != first
	})
	if !failed {
		s.Error("the pod was made again although it had not failed")
	}
	s.ok(s.client.CoreV1().Pods(s.ns).Delete(s.Context(), "taken", metav1.DeleteOptions{}))
	s.settled("evicted", "is complete", complete)
}

func (s *space) testStatefulSetScale() {
	s.statefulSet("scaled", 1, nil)
	s.settled("scaled", "is complete", complete)
	s.scales(statefulSetsResource, "scaled")
}

func (s *space) testStatefulSetCollection() {
	s.statefulSet("collected", 2, nil)
	s.settled("collected", "is complete", complete)
	s.patch(statefulSetsResource, "collected", `{"metadata":{"labels":{"test-ss":"patched"}},"spec":{"replicas":1,"template":{"spec":{"terminationGracePeriodSeconds":0}}}}`)
	set := s.settled("collected", "is complete", complete)
	s.condition("it is patched", set.Labels["test-ss"] == "patched" && *set.Spec.Replicas == 1 && *set.Spec.Template.Spec.TerminationGracePeriodSeconds == 0, set)
	s.collection(statefulSetsResource, 1, "test-ss=patched,app=collected")
}

func (s *space) testStatefulSetStatus() {
	s.statefulSet("status", 1, nil)
	s.settled("status", "is complete", complete)
	s.statuses(statefulSetsResource, "status", map[string]string{"app": "status"})
}

// images waits until a StatefulSet's pods are ready and run these images, by ordinal.
func (s *space) images(app string, want ...string) []corev1.Pod {
	s.Helper()
	var pods []corev1.Pod
	s.eventually(fmt.Sprintf("the images of %s are %v", app, want), func(ctx context.Context) (err error) {
		if pods, err = s.list(ctx, app); err != nil {
			return err
		}
		slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		var got []string
		for i := range pods {
			if !isReady(&pods[i]) {
				return fmt.Errorf("%s is not ready", pods[i].Name)
			}
			got = append(got, pods[i].Spec.Containers[0].Image)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		return nil
	})
	return pods
}

func (s *space) setStatefulImage(name, image string) {
	s.Helper()
	_, err := s.of(statefulSetsResource).Patch(s.Context(), name, "application/json-patch+json",
		fmt.Appendf(nil, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":%q}]`, image), metav1.PatchOptions{})
	s.ok(err)
}

func (s *space) testStatefulSetRolling() {
	s.statefulSet("rolling", 3, nil)
	set := s.settled("rolling", "is complete", complete)
	first := set.Status.CurrentRevision
	old := set.Spec.Template.Spec.Containers[0].Image
	w := s.watch(s.of(podsResource), map[string]string{"app": "rolling"})
	s.setStatefulImage("rolling", serverImage)
	set = s.settled("rolling", "knows a new revision", func(set *appsv1.StatefulSet) bool { return set.Status.UpdateRevision != first })
	second := set.Status.UpdateRevision
	s.condition("the revision changes with the last pod", set.Status.CurrentRevision == first, set.Status)
	for _, p := range s.images("rolling", serverImage, serverImage, serverImage) {
		s.condition("the pod names its revision", p.Labels[appsv1.StatefulSetRevisionLabel] == second, p.Labels)
	}
	s.settled("rolling", "is complete", complete)
	if got := w.changes(6, true); !slices.Equal(got, []string{"-rolling-2", "+rolling-2", "-rolling-1", "+rolling-1", "-rolling-0", "+rolling-0"}) {
		s.Errorf("the update went %v", got)
	}
	// Going back makes no third revision.
	s.breaks("rolling-1")
	s.setStatefulImage("rolling", old)
	set = s.settled("rolling", "goes back", func(set *appsv1.StatefulSet) bool { return set.Status.UpdateRevision == first })
	s.condition("the current revision is still the second", set.Status.CurrentRevision == second, set.Status)
	s.mends("rolling-1")
	s.images("rolling", old, old, old)
	set = s.settled("rolling", "is complete", complete)
	s.condition("the revision is the first again", set.Status.CurrentRevision == first, set.Status)
	revisions, err := s.client.AppsV1().ControllerRevisions(s.ns).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	s.condition("there are two revisions", len(revisions.Items) == 2, revisions.Items)
}

func (s *space) partition(name string, ordinal int) {
	s.Helper()
	s.patch(statefulSetsResource, name, fmt.Sprintf(`{"spec":{"updateStrategy":{"type":"RollingUpdate","rollingUpdate":{"partition":%d}}}}`, ordinal))
}

func (s *space) testStatefulSetCanary() {
	s.statefulSet("canary", 3, nil)
	set := s.settled("canary", "is complete", complete)
	first, old := set.Status.CurrentRevision, set.Spec.Template.Spec.Containers[0].Image
	s.partition("canary", 3)
	s.setStatefulImage("canary", serverImage)
	set = s.settled("canary", "knows a new revision", func(set *appsv1.StatefulSet) bool { return set.Status.UpdateRevision != first })
	second := set.Status.UpdateRevision
	s.images("canary", old, old, old)
	s.condition("no pod is updated", set.Status.UpdatedReplicas == 0 && set.Status.CurrentRevision == first, set.Status)

	s.partition("canary", 2)
	s.images("canary", old, old, serverImage)
	// Pods that go away come back as the partition has it.
	for _, name := range []string{"canary-0", "canary-2"} {
		p, err := s.client.CoreV1().Pods(s.ns).Get(s.Context(), name, metav1.GetOptions{})
		s.ok(err)
		s.deletePod(name)
		s.podThat(name, "is a new one", func(n *corev1.Pod) bool { return n.UID != p.UID && isReady(n) })
	}
	for i, p := range s.images("canary", old, old, serverImage) {
		s.condition("the pod names its revision", p.Labels[appsv1.StatefulSetRevisionLabel] == []string{first, first, second}[i], p.Labels)
	}
	s.partition("canary", 1)
	s.images("canary", old, serverImage, serverImage)
	s.partition("canary", 0)
	s.images("canary", serverImage, serverImage, serverImage)
	set = s.settled("canary", "is complete", complete)
	s.condition("the revision is the second", set.Status.CurrentRevision == second, set.Status)
}
