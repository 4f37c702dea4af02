package node

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"skiff/internal/apis/podrefs"
	"skiff/internal/apiserver/authz/follow"
)

// kind is what a node may be related to.
type kind uint8

const (
	pods kind = iota
	secrets
	configMaps
	claims
	serviceAccounts
	resourceClaims
	volumes
	attachments
)

// thing names one object.
type thing struct {
	kind            kind
	namespace, name string
}

// graph knows which objects the pods of a node need. It holds two indexes, kept
// by events: from objects to the nodes whose pods name them, and from what a
// volume names (its secrets) to the claim that is bound to it.
type graph struct {
	mu struct {
		sync.RWMutex
		// nodes counts, for each object, the pods on each node that need it.
		nodes map[thing]map[string]int
		// claims are the claims by way of which an object is needed.
		claims map[thing]map[thing]int
	}
}

func newGraph() *graph {
	g := &graph{}
	g.mu.nodes = map[thing]map[string]int{}
	g.mu.claims = map[thing]map[thing]int{}
	return g
}

// follow keeps the graph up to date, and returns when it is so.
func (g *graph) follow(ctx context.Context, c follow.Informers) error {
	podsSynced, err := follow.Objects(ctx, c, &corev1.Pod{},
		func(old, pod *corev1.Pod) {
			if old == nil || relationsChanged(old, pod) {
				g.setPod(old, pod)
			}
		},
		func(pod *corev1.Pod) { g.setPod(pod, nil) })
	if err != nil {
		return err
	}
	volumesSynced, err := follow.Objects(ctx, c, &corev1.PersistentVolume{},
		func(old, pv *corev1.PersistentVolume) { g.setVolume(old, pv) },
		func(pv *corev1.PersistentVolume) { g.setVolume(pv, nil) })
	if err != nil {
		return err
	}
	attachmentsSynced, err := follow.Objects(ctx, c, &storagev1.VolumeAttachment{},
		func(old, a *storagev1.VolumeAttachment) { g.setAttachment(old, a) },
		func(a *storagev1.VolumeAttachment) { g.setAttachment(a, nil) })
	if err != nil {
		return err
	}
	return follow.Wait(ctx, podsSynced, volumesSynced, attachmentsSynced)
}

// relationsChanged reports whether an update of a pod may change what it needs.
// Most do not: what a pod refers to is fixed when it is made, but for its node,
// ephemeral containers, and resource claims that are made for it.
func relationsChanged(old, pod *corev1.Pod) bool {
	return old.Spec.NodeName != pod.Spec.NodeName || old.UID != pod.UID ||
		len(old.Spec.EphemeralContainers) != len(pod.Spec.EphemeralContainers) ||
		len(old.Status.ResourceClaimStatuses) != len(pod.Status.ResourceClaimStatuses) ||
		(old.Status.ExtendedResourceClaimStatus == nil) != (pod.Status.ExtendedResourceClaimStatus == nil)
}

func (g *graph) setPod(old, pod *corev1.Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change := func(p *corev1.Pod, by int) {
		if p == nil || p.Spec.NodeName == "" {
			return
		}
		needs(p, func(t thing) { count(g.mu.nodes, t, p.Spec.NodeName, by) })
	}
	change(old, -1)
	change(pod, 1)
}

func (g *graph) setVolume(old, pv *corev1.PersistentVolume) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change := func(v *corev1.PersistentVolume, by int) {
		if v == nil || v.Spec.ClaimRef == nil {
			return
		}
		claim := thing{claims, v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name}
		count(g.mu.claims, thing{kind: volumes, name: v.Name}, claim, by)
		volumeSecrets(v, func(namespace, name string) {
			count(g.mu.claims, thing{secrets, namespace, name}, claim, by)
		})
	}
	change(old, -1)
	change(pv, 1)
}

func (g *graph) setAttachment(old, a *storagev1.VolumeAttachment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old != nil {
		count(g.mu.nodes, thing{kind: attachments, name: old.Name}, old.Spec.NodeName, -1)
	}
	if a != nil {
		count(g.mu.nodes, thing{kind: attachments, name: a.Name}, a.Spec.NodeName, 1)
	}
}

func count[V comparable](index map[thing]map[V]int, t thing, value V, by int) {
	values := index[t]
	if values == nil {
		values = map[V]int{}
		index[t] = values
	}
	if values[value] += by; values[value] <= 0 {
		delete(values, value)
	}
	if len(values) == 0 {
		delete(index, t)
	}
}

// related reports whether a pod on the node needs the object.
func (g *graph) related(node string, t thing) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.mu.nodes[t][node] > 0 {
		return true
	}
	for claim := range g.mu.claims[t] {
		if g.mu.nodes[claim][node] > 0 {
			return true
		}
	}
	return false
}

// needs calls yield with all that the pod's node must be able to read.
func needs(pod *corev1.Pod, yield func(thing)) {
	in := func(k kind, name string) {
		if name != "" {
			yield(thing{k, pod.Namespace, name})
		}
	}
	in(pods, pod.Name)
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		// A node makes these itself: it must not get at anything by them.
		return
	}
	in(serviceAccounts, pod.Spec.ServiceAccountName)
	for kind, name := range podrefs.Of(pod) {
		in(named[kind], name)
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Ephemeral != nil {
			in(claims, pod.Name+"-"+v.Name)
		}
	}
	for i := range pod.Spec.ResourceClaims {
		if name := pod.Spec.ResourceClaims[i].ResourceClaimName; name != nil {
			in(resourceClaims, *name)
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		in(resourceClaims, s.ResourceClaimName)
	}
	for i := range pod.Status.ResourceClaimStatuses {
		if name := pod.Status.ResourceClaimStatuses[i].ResourceClaimName; name != nil {
			in(resourceClaims, *name)
		}
	}
}

// named are the kinds of what pods name.
var named = map[podrefs.Kind]kind{podrefs.Secret: secrets, podrefs.ConfigMap: configMaps, podrefs.Claim: claims}

// volumeSecrets calls yield with the secrets that a node needs to mount the
// volume.
func volumeSecrets(pv *corev1.PersistentVolume, yield func(namespace, name string)) {
	ref := func(r *corev1.SecretReference) {
		if r == nil || r.Name == "" {
			return
		}
		namespace := r.Namespace
		if namespace == "" {
			namespace = pv.Spec.ClaimRef.Namespace
		}
		yield(namespace, r.Name)
	}
	s := &pv.Spec.PersistentVolumeSource
	switch {
	case s.CSI != nil:
		ref(s.CSI.NodePublishSecretRef)
		ref(s.CSI.NodeStageSecretRef)
		ref(s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		r := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			r.Namespace = *s.AzureFile.SecretNamespace
		}
		ref(r)
	case s.CephFS != nil:
		ref(s.CephFS.SecretRef)
	case s.Cinder != nil:
		ref(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		ref(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		ref(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		ref(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		ref(s.ISCSI.SecretRef)
	case s.StorageOS != nil && s.StorageOS.SecretRef != nil:
		ref(&corev1.SecretReference{Namespace: s.StorageOS.SecretRef.Namespace, Name: s.StorageOS.SecretRef.Name})
	}
}
