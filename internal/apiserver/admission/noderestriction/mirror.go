package noderestriction

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/podrefs"
	"skiff/internal/apiserver/admission"
)

// mirror lets a node make pods that show its static pods, and no others: such
// a pod may refer to nothing that the node could get at by it.
func (p *Plugin) mirror(ctx context.Context, a *admission.Attributes, name string) error {
	pod := a.Object.(*corev1.Pod)
	if _, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; !ok {
		return a.Forbidden("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name)
	}
	if pod.Spec.NodeName != name {
		return a.Forbidden("node %q can only create pods with spec.nodeName set to itself", name)
	}
	if err := p.owner(ctx, a, pod, name); err != nil {
		return err
	}
	if pod.Spec.ServiceAccountName != "" {
		return a.Forbidden("node %q can not create pods that reference a service account", name)
	}
	what := ""
	switch {
	case podrefs.Has(pod, podrefs.Secret):
		what = "secrets"
	case podrefs.Has(pod, podrefs.ConfigMap):
		what = "configmaps"
	case projectsTrust(pod):
		what = "clustertrustbundles"
	case podrefs.Has(pod, podrefs.Claim):
		what = "persistentvolumeclaims"
	case len(pod.Spec.ResourceClaims) > 0:
		what = "resourceclaims"
	default:
		return nil
	}
	return a.Forbidden("node %q can not create pods that reference %s", name, what)
}

// owner demands that the node itself, in this life, owns the pod.
func (p *Plugin) owner(ctx context.Context, a *admission.Attributes, pod *corev1.Pod, name string) error {
	switch len(pod.OwnerReferences) {
	case 0:
		return a.Forbidden("node %q can only create pods with an owner reference set to itself", name)
	case 1:
	default:
		return a.Forbidden("node %q can only create pods with a single owner reference set to itself", name)
	}
	owner := &pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != corev1.SchemeGroupVersion.String() || owner.Kind != "Node" || owner.Name != name:
		return a.Forbidden("node %q can only create pods with an owner reference set to itself", name)
	case owner.Controller == nil || !*owner.Controller:
		return a.Forbidden("node %q can only create pods with a controller owner reference set to itself", name)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return a.Forbidden("node %q must not set blockOwnerDeletion on an owner reference", name)
	}
	node := &corev1.Node{}
	err := p.Cache.Get(ctx, client.ObjectKey{Name: name}, node, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return a.Forbidden("error looking up node %s to verify uid: %w", name, err)
	}
	if owner.UID != node.UID {
		return a.Forbidden("node %s UID mismatch: expected %s got %s", name, owner.UID, node.UID)
	}
	return nil
}

func projectsTrust(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
}
