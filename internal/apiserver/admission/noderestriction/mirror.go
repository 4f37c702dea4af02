package noderestriction

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	if len(pod.Spec.ImagePullSecrets) > 0 {
		return a.Forbidden("node %q can not create pods that reference secrets", name)
	}
	for i := range pod.Spec.Volumes {
		if what := volumeRefers(&pod.Spec.Volumes[i]); what != "" {
			return a.Forbidden("node %q can not create pods that reference %s", name, what)
		}
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if what := environmentRefers(&containers[i]); what != "" {
				return a.Forbidden("node %q can not create pods that reference %s", name, what)
			}
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return a.Forbidden("node %q can not create pods that reference resourceclaims", name)
	}
	return nil
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

func volumeRefers(v *corev1.Volume) string {
	switch {
	case v.Secret != nil:
		return "secrets"
	case v.ConfigMap != nil:
		return "configmaps"
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		return "persistentvolumeclaims"
	case v.CSI != nil && v.CSI.NodePublishSecretRef != nil:
		return "secrets"
	case v.Projected == nil:
		return ""
	}
	for i := range v.Projected.Sources {
		switch s := &v.Projected.Sources[i]; {
		case s.Secret != nil:
			return "secrets"
		case s.ConfigMap != nil:
			return "configmaps"
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles"
		case s.ServiceAccountToken != nil:
			return "a service account"
		}
	}
	return ""
}

func environmentRefers(c *corev1.Container) string {
	for i := range c.EnvFrom {
		if c.EnvFrom[i].SecretRef != nil {
			return "secrets"
		}
		if c.EnvFrom[i].ConfigMapRef != nil {
			return "configmaps"
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.SecretKeyRef != nil {
			return "secrets"
		} else if from != nil && from.ConfigMapKeyRef != nil {
			return "configmaps"
		}
	}
	return ""
}
