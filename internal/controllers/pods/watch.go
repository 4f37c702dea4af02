package pods

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
)

// Watch puts on the queue, when a pod changes, the object of the kind that
// controls it, and, when it has lost or never had a controller, the objects of
// its namespace that select it, which may adopt it. The tracker sees every
// change. list makes an empty list of the kind; selects must not change what it
// is given.
func Watch[T client.Object](d controller.Deps, tracker *expect.Tracker, kind schema.GroupVersionKind,
	list func() client.ObjectList, selects func(T, labels.Set) bool) source.Source {
	return controller.Watch(d, &corev1.Pod{}, func(q controller.Queue, old, pod *corev1.Pod) {
		for _, p := range []*corev1.Pod{old, pod} {
			if p == nil {
				continue
			}
			tracker.Saw(p)
			if name := controller.OwnerName(p, kind); name != "" {
				controller.Add(q, p.Namespace, name)
			}
		}
		if !controller.Adoptable(old, pod) {
			return
		}
		all := list()
		err := d.Cache.List(context.Background(), all, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy)
		if err == nil {
			err = meta.EachListItem(all, func(o runtime.Object) error {
				if owner := o.(T); selects(owner, labels.Set(pod.Labels)) {
					controller.Add(q, pod.Namespace, owner.GetName())
				}
				return nil
			})
		}
		if err != nil {
			d.Log.Error("looking for who may adopt an orphaned pod", "pod", controller.Key(pod), "error", err)
		}
	})
}
