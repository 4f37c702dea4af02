package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

// bindings is the older way to bind a pod: a Binding is posted to the
// namespace rather than to the pod.
func bindings() *apis.Resource {
	return apis.Of[*corev1.Binding]{
		Names:   apis.Names{Resource: "bindings", Singular: "binding", Kind: "Binding", Namespaced: true},
		Version: "v1",
		New:     func() *corev1.Binding { return &corev1.Binding{} },
		Virtual: &apis.Virtual{
			Create: func(ctx context.Context, s apis.Storage, namespace string, obj apis.Object, dryRun bool) (runtime.Object, error) {
				return bind(ctx, s, namespace, obj.GetName(), obj.(*corev1.Binding), dryRun)
			},
		},
	}.Resource()
}

func podBinding() apis.Subresource {
	return apis.Subresource{
		Name:  "binding",
		Kind:  corev1.SchemeGroupVersion.WithKind("Binding"),
		New:   func() runtime.Object { return &corev1.Binding{} },
		Verbs: []string{"create"},
		Create: func(ctx context.Context, s apis.Storage, namespace, name string, body runtime.Object, dryRun bool) (runtime.Object, error) {
			return bind(ctx, s, namespace, name, body.(*corev1.Binding), dryRun)
		},
	}
}

// bind assigns a pod to a node, once and for all.
func bind(ctx context.Context, s apis.Storage, namespace, name string, b *corev1.Binding, dryRun bool) (runtime.Object, error) {
	if b.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	var p problems
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		p.one(field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		p.required(field.NewPath("target", "name"))
	}
	if p.count() > 0 {
		return nil, p.list().ToAggregate() // as upstream, an error of the server
	}
	if name == "" {
		return nil, apierrors.NewBadRequest("Name parameter required.")
	}
	_, err := s.Update(ctx, podResource(), namespace, name, dryRun, func(obj apis.Object) error {
		pod := obj.(*corev1.Pod)
		if unmet := unmet(pod, b); unmet != "" {
			key := "/registry/pods/" + namespace + "/" + name
			if dryRun {
				key = strings.TrimPrefix(key, "/registry")
			}
			return apierrors.NewConflict(podResource(), name, fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: %s", key, unmet))
		}
		if err := mayBind(pod); err != nil {
			return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, err)
		}
		pod.Spec.NodeName = b.Target.Name
		for key, value := range b.Annotations {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, key, value)
		}
		// Labels come from the node (its topology): they are true of the pod
		// now, whatever it said before.
		for key, value := range b.Labels {
			metav1.SetMetaDataLabel(&pod.ObjectMeta, key, value)
		}
		setPodCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		pod.Status.NominatedNodeName = ""
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
}

// unmet tells which pod, or which version of it, the binding is about instead.
func unmet(pod *corev1.Pod, b *corev1.Binding) string {
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return fmt.Sprintf("UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return fmt.Sprintf("ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	}
	return ""
}

func mayBind(pod *corev1.Pod) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	return nil
}

// setPodCondition sets the condition of c's type; the time of the last
// transition only changes with the status.
func setPodCondition(status *corev1.PodStatus, c corev1.PodCondition) {
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}
