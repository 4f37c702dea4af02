package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"skiff/internal/kubelet/manifests"
	"skiff/internal/kubelet/status"
	"skiff/internal/kubelet/volumes"
)

// followPods follows the pods bound to this node until ctx ends.
func (k *Kubelet) followPods(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-k.registered:
	}
	informer, err := k.Client.Cache.GetInformer(ctx, &v1.Pod{})
	if err != nil {
		return fmt.Errorf("following pods: %w", err)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.podSeen(o) },
		UpdateFunc: func(_, o any) { k.podSeen(o) },
		DeleteFunc: func(o any) { k.podGone(o) },
	})
	if err != nil {
		return fmt.Errorf("following pods: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(registration) }()
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-k.static.ready:
	}
	k.mu.Lock()
	k.synced = true
	k.mu.Unlock()
	k.adoptOrphans(ctx)
	<-ctx.Done()
	return nil
}

func (k *Kubelet) podSeen(o any) {
	pod, ok := o.(*v1.Pod)
	if !ok || pod.Spec.NodeName != k.NodeName {
		return
	}
	if manifests.IsMirror(pod) {
		k.mirrorChanged(pod, pod)
		return
	}
	k.worker(string(pod.UID)).update(pod)
}

func (k *Kubelet) podGone(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	pod, ok := o.(*v1.Pod)
	if !ok || pod.Spec.NodeName != k.NodeName {
		return
	}
	if manifests.IsMirror(pod) {
		k.mirrorChanged(pod, nil)
		return
	}
	k.mu.Lock()
	w := k.pods[string(pod.UID)]
	k.mu.Unlock()
	if w != nil {
		w.remove(pod)
	}
}

// worker returns the worker of a pod, made if there is none.
func (k *Kubelet) worker(uid string) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.pods[uid]
	if w == nil {
		w = newWorker(k, uid)
		k.pods[uid] = w
	}
	return w
}

// kick marks a pod dirty; one not known is ignored.
func (k *Kubelet) kick(uid string) {
	k.mu.Lock()
	w := k.pods[uid]
	k.mu.Unlock()
	if w != nil {
		w.kick()
	}
}

func (k *Kubelet) kickAll() {
	for _, w := range k.all() {
		w.kick()
	}
}

func (k *Kubelet) all() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.pods))
}

// contentChanged tells a pod that something its volumes show has changed.
func (k *Kubelet) contentChanged(uid string) {
	k.mu.Lock()
	w := k.pods[uid]
	k.mu.Unlock()
	if w != nil {
		w.contentChanged()
	}
}

// bundlesChanged tells all pods that mount bundles of trust anchors.
func (k *Kubelet) bundlesChanged() {
	for _, w := range k.all() {
		w.mu.Lock()
		pod := w.mu.pod
		w.mu.Unlock()
		if pod != nil && volumes.ShowTrustBundles(pod) {
			w.contentChanged()
		}
	}
}

// forget drops a pod of which nothing is left.
func (k *Kubelet) forget(uid string) {
	k.mu.Lock()
	delete(k.pods, uid)
	k.mu.Unlock()
	k.wakes.Cancel(uid)
	k.probes.SetPod(uid, nil)
	k.references.SetPod(uid, nil)
	k.writer.Forget(types.UID(uid))
	k.kick(k.static.forget(uid))
}

// adoptOrphans finds what is left on the node of pods that left the API while
// no kubelet looked, and ends it.
func (k *Kubelet) adoptOrphans(ctx context.Context) {
	k.mu.Lock()
	synced := k.synced
	k.mu.Unlock()
	if !synced {
		return
	}
	running, err := k.inspector.Pods(ctx)
	if err != nil {
		k.log.Warn("looking for orphaned pods", "err", err)
		return
	}
	for uid, p := range running {
		k.mu.Lock()
		known := k.pods[uid] != nil
		k.mu.Unlock()
		if known {
			continue
		}
		k.log.Info("ending orphaned pod", "namespace", p.Namespace, "pod", p.Name, "uid", uid)
		k.worker(uid).remove(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: types.UID(uid)}})
	}
	dirs, err := k.volumes.Pods()
	if err != nil {
		k.log.Warn("looking for orphaned volumes", "err", err)
	}
	left := append(dirs, k.cgroups.Pods()...)
	slices.Sort(left)
	for _, uid := range slices.Compact(left) {
		k.mu.Lock()
		known := k.pods[uid] != nil
		k.mu.Unlock()
		if known {
			continue
		}
		if err := errors.Join(k.volumes.Unmount(ctx, uid), k.dra.Unprepare(ctx, types.UID(uid)), k.cgroups.RemovePod(uid)); err != nil {
			k.log.Warn("removing what is left of a pod", "uid", uid, "err", err)
		}
	}
}

// active returns the pods that hold the node's resources, but for one. A pod
// holds nothing from when its status says that it is over: the scheduler may give
// what it held to another at once, while the last of it is still cleaned up.
func (k *Kubelet) active(except string) []*v1.Pod {
	var out []*v1.Pod
	for _, w := range k.all() {
		if w.uid == except {
			continue
		}
		if pod := w.holding(); pod != nil && !status.Terminal(k.newest(pod).Status.Phase) {
			out = append(out, pod)
		}
	}
	return out
}

// Pods returns the pods of this node that are in the API, with their newest
// status.
func (k *Kubelet) Pods() []*v1.Pod {
	var out []*v1.Pod
	for _, w := range k.all() {
		if pod, _ := w.current(); pod != nil {
			out = append(out, k.newest(pod))
		}
	}
	return out
}

// Pod returns the pod with this name, or nil.
func (k *Kubelet) Pod(namespace, name string) *v1.Pod {
	for _, pod := range k.Pods() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod
		}
	}
	return nil
}
