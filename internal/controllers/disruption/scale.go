package disruption

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
)

// scale returns how many pods the controller asks for, and who says so: a
// ReplicaSet's Deployment counts in its place. It returns no UID if the
// controller is not there.
func (r *reconciler) scale(ctx context.Context, namespace string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch gvk.GroupKind() {
	case schema.GroupKind{Kind: "ReplicationController"}:
		var rc corev1.ReplicationController
		return answer(r.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, &rc, crclient.UnsafeDisableDeepCopy), ref.UID, &rc, &rc.Spec.Replicas)
	case schema.GroupKind{Group: appsv1.GroupName, Kind: "StatefulSet"}:
		var set appsv1.StatefulSet
		return answer(r.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, &set, crclient.UnsafeDisableDeepCopy), ref.UID, &set, &set.Spec.Replicas)
	case schema.GroupKind{Group: appsv1.GroupName, Kind: "ReplicaSet"}:
		var set appsv1.ReplicaSet
		uid, n, err := answer(r.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, &set, crclient.UnsafeDisableDeepCopy), ref.UID, &set, &set.Spec.Replicas)
		name := controller.OwnerName(&set, appsv1.SchemeGroupVersion.WithKind("Deployment"))
		if uid == "" || err != nil || name == "" {
			return uid, n, err
		}
		var d appsv1.Deployment
		return answer(r.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &d, crclient.UnsafeDisableDeepCopy), metav1.GetControllerOfNoCopy(&set).UID, &d, &d.Spec.Replicas)
	}
	return r.scaleOfOther(ctx, namespace, gvk, ref)
}

func answer(err error, uid types.UID, o crclient.Object, replicas **int32) (types.UID, int32, error) {
	switch {
	case apierrors.IsNotFound(err), err == nil && o.GetUID() != uid:
		return "", 0, nil
	case err != nil:
		return "", 0, err
	}
	return uid, ptr.Deref(*replicas, 1), nil
}

// scaleOfOther asks the scale subresource, which custom resources may have.
func (r *reconciler) scaleOfOther(ctx context.Context, namespace string, gvk schema.GroupVersionKind, ref *metav1.OwnerReference) (types.UID, int32, error) {
	mapping, err := r.Client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return "", 0, err
	}
	owner := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: ref.Name}}
	owner.SetGroupVersionKind(gvk)
	var scale autoscalingv1.Scale
	err = r.Client.SubResource("scale").Get(ctx, owner, &scale)
	switch {
	case apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		// It is the path that is not found, and not the object.
		return "", 0, fmt.Errorf("%s does not implement the scale subresource", mapping.Resource.GroupResource())
	case apierrors.IsNotFound(err), err == nil && scale.UID != ref.UID:
		return "", 0, nil
	case err != nil:
		return "", 0, err
	}
	return ref.UID, scale.Spec.Replicas, nil
}
