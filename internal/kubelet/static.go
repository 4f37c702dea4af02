package kubelet

import (
	"context"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis"
	"skiff/internal/apis/core"
	"skiff/internal/kubelet/manifests"
)

// staticPods are the pods that come from the node's own manifests, and the
// mirrors that stand for them in the API.
type staticPods struct {
	// ready is closed once all manifests have been read.
	ready chan struct{}
	mu    *sync.Mutex
	// uids are the pods of each name, the one that runs first: another begins
	// when it has ended.
	uids    map[types.NamespacedName][]string
	mirrors map[types.NamespacedName]*v1.Pod
}

func newStaticPods() staticPods {
	return staticPods{
		ready: make(chan struct{}), mu: &sync.Mutex{},
		uids: map[types.NamespacedName][]string{}, mirrors: map[types.NamespacedName]*v1.Pod{},
	}
}

// followManifests runs the pods of StaticPodDir until ctx ends.
func (k *Kubelet) followManifests(ctx context.Context) error {
	if k.StaticPodDir == "" {
		close(k.static.ready)
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-k.registered:
	}
	all := core.Resources()
	pods := all[slices.IndexFunc(all, func(r *apis.Resource) bool { return r.Names.Resource == "pods" })]
	source := manifests.Source{
		Dir: k.StaticPodDir, NodeName: k.NodeName, Pods: pods, Log: k.log,
		Added: func(pod *v1.Pod) {
			k.static.add(pod)
			k.worker(string(pod.UID)).update(pod)
		},
		Removed: func(pod *v1.Pod) { k.worker(string(pod.UID)).remove(pod) },
	}
	return source.Run(ctx, func() { close(k.static.ready) })
}

func (s *staticPods) add(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := ctrl.ObjectKeyFromObject(pod)
	if !slices.Contains(s.uids[key], string(pod.UID)) {
		s.uids[key] = append(s.uids[key], string(pod.UID))
	}
}

// forget drops a pod that has ended and returns the one that begins now, if
// any.
func (s *staticPods) forget(uid string) (next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, uids := range s.uids {
		i := slices.Index(uids, uid)
		if i < 0 {
			continue
		}
		if uids = slices.Delete(uids, i, i+1); len(uids) == 0 {
			delete(s.uids, key)
			return ""
		}
		s.uids[key] = uids
		return uids[0]
	}
	return ""
}

// first reports whether the pod may run: it is none of the node's own, or the
// first of its name.
func (s *staticPods) first(pod *v1.Pod) bool {
	if !manifests.IsStatic(pod) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	uids := s.uids[ctrl.ObjectKeyFromObject(pod)]
	return len(uids) == 0 || uids[0] == string(pod.UID)
}

// mirror returns what stands for the static pod in the API, or nil.
func (s *staticPods) mirror(pod *v1.Pod) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mirrors[ctrl.ObjectKeyFromObject(pod)]
	if m == nil || m.Annotations[manifests.MirrorAnnotation] != pod.Annotations[manifests.HashAnnotation] {
		return nil
	}
	return m
}

// mirrorChanged takes a mirror's newest state, nil when it is gone.
func (k *Kubelet) mirrorChanged(pod, now *v1.Pod) {
	key := ctrl.ObjectKeyFromObject(pod)
	k.static.mu.Lock()
	if now == nil {
		delete(k.static.mirrors, key)
	} else {
		k.static.mirrors[key] = now
	}
	uids := slices.Clone(k.static.uids[key])
	k.static.mu.Unlock()
	if now == nil {
		k.writer.Forget(pod.UID)
	}
	for _, uid := range uids {
		k.kick(uid)
	}
	if len(uids) == 0 && now != nil {
		// Nothing stands behind it: its manifest went while nobody looked.
		go k.dropStrayMirror(key)
	}
}

// dropStrayMirror removes a mirror of which the node has no manifest.
func (k *Kubelet) dropStrayMirror(key types.NamespacedName) {
	select {
	case <-k.ctx.Done():
		return
	case <-k.static.ready:
	}
	k.static.mu.Lock()
	m, known := k.static.mirrors[key], len(k.static.uids[key]) > 0
	k.static.mu.Unlock()
	if m == nil || known {
		return
	}
	if err := k.deleteMirror(k.ctx, m); err != nil {
		k.log.Warn("removing the mirror of a static pod that is gone", "namespace", key.Namespace, "pod", key.Name, "err", err)
	}
}

// newest returns the pod with the newest status that is known of it.
func (k *Kubelet) newest(pod *v1.Pod) *v1.Pod {
	if !manifests.IsStatic(pod) {
		return k.writer.Base(pod)
	}
	m := k.static.mirror(pod)
	if m == nil {
		return pod
	}
	out := *pod
	out.Status = k.writer.Base(m).Status
	return &out
}

// ensureMirror makes the static pod's mirror; one that somebody deletes, or
// that is of an older manifest, is removed first.
func (k *Kubelet) ensureMirror(ctx context.Context, pod *v1.Pod) error {
	if !manifests.IsStatic(pod) {
		return nil
	}
	k.static.mu.Lock()
	have := k.static.mirrors[ctrl.ObjectKeyFromObject(pod)]
	k.static.mu.Unlock()
	if have != nil {
		if have.DeletionTimestamp != nil || have.Annotations[manifests.MirrorAnnotation] != pod.Annotations[manifests.HashAnnotation] {
			return k.deleteMirror(ctx, have)
		}
		return nil
	}
	err := k.Client.Client.Create(ctx, manifests.Mirror(pod, k.node.Node()))
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making the mirror of static pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// removeMirror removes the mirror of a static pod that has ended.
func (k *Kubelet) removeMirror(ctx context.Context, pod *v1.Pod) error {
	if !manifests.IsStatic(pod) {
		return nil
	}
	if m := k.static.mirror(pod); m != nil {
		return k.deleteMirror(ctx, m)
	}
	return nil
}

func (k *Kubelet) deleteMirror(ctx context.Context, mirror *v1.Pod) error {
	now := int64(0)
	return ctrl.IgnoreNotFound(k.Client.Client.Delete(ctx, mirror.DeepCopy(), &ctrl.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &mirror.UID},
	}))
}
