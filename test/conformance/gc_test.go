package conformance

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	background = client.PropagationPolicy(metav1.DeletePropagationBackground)
	foreground = client.PropagationPolicy(metav1.DeletePropagationForeground)
	orphan     = client.PropagationPolicy(metav1.DeletePropagationOrphan)
)

// controller makes a ReplicationController and waits for its pods.
func (s *server) controller(name string, replicas int32, finalizers ...string) *corev1.ReplicationController {
	s.Helper()
	template := pod("", map[string]string{"name": name})
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &replicas, Selector: template.Labels,
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels, Finalizers: finalizers}, Spec: template.Spec},
	}}
	s.create(rc)
	s.until("the pods of "+name, func() bool { return len(s.pods(name)) == int(replicas) })
	return rc
}

func (s *server) pods(name string) []corev1.Pod {
	s.Helper()
	var list corev1.PodList
	s.list(&list, client.InNamespace(s.ns), client.MatchingLabels{"name": name})
	return list.Items
}

func (s *server) deployment(name string, replicas int32) *appsv1.Deployment {
	s.Helper()
	d := deployment(name, replicas)
	s.create(d)
	s.until("the pods of "+name, func() bool { return len(s.pods(name)) == int(replicas) })
	return d
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	template := pod("", map[string]string{"name": name})
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}, Spec: template.Spec},
	}}
}

// collected waits until the collector has come to what happens now.
func (s *server) collected() {
	s.Helper()
	s.delete(s.controller("sentinel", 1), background)
	s.until("the sentinel's pods are gone", func() bool { return len(s.pods("sentinel")) == 0 })
}

var collector = entries{
	"should delete pods created by rc when not orphaning": func(s *server) {
		rc := s.controller("rc", 5)
		s.delete(rc, background, client.Preconditions{UID: &rc.UID})
		s.until("the pods are gone", func() bool { return len(s.pods("rc")) == 0 })
		s.gone(rc)
	},
	"should orphan pods created by rc if delete options say so": func(s *server) {
		rc := s.controller("rc", 20)
		s.delete(rc, orphan, client.Preconditions{UID: &rc.UID})
		s.gone(rc)
		s.collected()
		pods := s.pods("rc")
		if len(pods) != 20 {
			s.Errorf("%d of 20 pods are left", len(pods))
		}
		for _, p := range pods {
			if p.DeletionTimestamp != nil || len(p.OwnerReferences) != 0 {
				s.Errorf("an orphan: %+v", p.ObjectMeta)
			}
		}
	},
	"should delete RS created by deployment when not orphaning": func(s *server) {
		d := s.deployment("d", 2)
		s.delete(d, background)
		s.until("its ReplicaSets and pods are gone", func() bool {
			var sets appsv1.ReplicaSetList
			s.list(&sets, client.InNamespace(s.ns))
			return len(sets.Items) == 0 && len(s.pods("d")) == 0
		})
	},
	"should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan": func(s *server) {
		d := s.deployment("d", 2)
		s.delete(d, orphan)
		s.gone(d)
		s.collected()
		var sets appsv1.ReplicaSetList
		s.list(&sets, client.InNamespace(s.ns))
		if len(sets.Items) != 1 || len(sets.Items[0].OwnerReferences) != 0 || sets.Items[0].DeletionTimestamp != nil {
			s.Errorf("the ReplicaSet: %+v", sets.Items)
		}
		if n := len(s.pods("d")); n != 2 {
			s.Errorf("%d of 2 pods are left", n)
		}
	},
	"should keep the rc around until all its pods are deleted if the deleteOptions says so": func(s *server) {
		rc := s.controller("rc", 5, "example.com/hold")
		s.delete(rc, foreground, client.Preconditions{UID: &rc.UID})
		s.until("all pods are being deleted", func() bool {
			return !slices.ContainsFunc(s.pods("rc"), func(p corev1.Pod) bool { return p.DeletionTimestamp == nil })
		})
		s.ok(s.get(rc, "rc"))
		if rc.DeletionTimestamp == nil || !slices.Equal(rc.Finalizers, []string{metav1.FinalizerDeleteDependents}) {
			s.Errorf("while pods are left: %+v", rc.ObjectMeta)
		}
		if n := len(s.pods("rc")); n != 5 {
			s.Errorf("%d of 5 pods are left", n)
		}
		for _, p := range s.pods("rc") {
			s.change(&p, p.Name, func() { p.Finalizers = nil })
		}
		s.gone(rc)
		if n := len(s.pods("rc")); n != 0 {
			s.Errorf("%d pods outlive it", n)
		}
	},
	"should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted": func(s *server) {
		rc, other := s.controller("rc", 10), s.controller("other", 0)
		for _, p := range s.pods("rc")[:5] {
			s.change(&p, p.Name, func() {
				p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ReplicationController", Name: "other", UID: other.UID})
			})
		}
		s.delete(rc, foreground)
		s.gone(rc)
		s.collected()
		pods := s.pods("rc")
		if len(pods) != 5 {
			s.Errorf("%d of 5 pods are left", len(pods))
		}
		for _, p := range pods {
			if p.DeletionTimestamp != nil || len(p.OwnerReferences) != 1 || p.OwnerReferences[0].UID != other.UID {
				s.Errorf("one that has another owner: %+v", p.ObjectMeta)
			}
		}
	},
	"should not be blocked by dependency circle": func(s *server) {
		pods := make([]*corev1.Pod, 3)
		for i := range pods {
			pods[i] = pod(fmt.Sprint("pod", i), map[string]string{"name": "circle"})
			s.create(pods[i])
		}
		for i, p := range pods {
			owner := pods[(i+2)%3]
			s.change(p, p.Name, func() {
				p.OwnerReferences = []metav1.OwnerReference{{
					APIVersion: "v1", Kind: "Pod", Name: owner.Name, UID: owner.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
				}}
			})
		}
		s.delete(pods[0], foreground)
		s.until("all are gone", func() bool { return len(s.pods("circle")) == 0 })
	},
}
