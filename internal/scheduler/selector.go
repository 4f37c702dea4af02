package scheduler

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// defaultSelector selects the pods that belong to all services of pod and to
// its controller. It is empty if pod has neither.
func (s *Scheduler) defaultSelector(pod *corev1.Pod) labels.Selector {
	ctx := context.Background() // reads memory only
	set := labels.Set{}
	services := &corev1.ServiceList{}
	if err := s.client.Cache.List(ctx, services, crclient.InNamespace(pod.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		s.log.Warn("services could not be read", "error", err)
	}
	for i := range services.Items {
		selector := services.Items[i].Spec.Selector
		if len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(pod.Labels)) {
			set = labels.Merge(set, selector)
		}
	}
	out := labels.SelectorFromSet(set)
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		key := crclient.ObjectKey{Namespace: pod.Namespace, Name: ref.Name}
		var of labels.Selector
		var err error
		switch ref.Kind {
		case "ReplicationController":
			rc := &corev1.ReplicationController{}
			if err = s.client.Cache.Get(ctx, key, rc); err == nil {
				of = labels.SelectorFromSet(rc.Spec.Selector)
			}
		case "ReplicaSet":
			rs := &appsv1.ReplicaSet{}
			if err = s.client.Cache.Get(ctx, key, rs); err == nil {
				of, err = metav1.LabelSelectorAsSelector(rs.Spec.Selector)
			}
		case "StatefulSet":
			ss := &appsv1.StatefulSet{}
			if err = s.client.Cache.Get(ctx, key, ss); err == nil {
				of, err = metav1.LabelSelectorAsSelector(ss.Spec.Selector)
			}
		}
		if err == nil && of != nil {
			requirements, _ := of.Requirements()
			out = out.Add(requirements...)
		}
	}
	return out
}
