package namespace

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
)

// waits are the namespaces that wait for content to go.
type waits struct {
	queue controller.Queue

	mu   sync.Mutex
	open map[string]bool
}

// until puts the namespace on the queue when one of the listed objects is gone.
// A namespace has at most one wait.
func (w *waits) until(ctx context.Context, c crclient.WithWatch, ns string, left *metav1.PartialObjectMetadataList) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[ns] {
		return nil
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(left.GroupVersionKind())
	events, err := c.Watch(ctx, list, crclient.InNamespace(ns), &crclient.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: left.ResourceVersion}})
	if err != nil {
		return err
	}
	if w.open == nil {
		w.open = map[string]bool{}
	}
	w.open[ns] = true
	go func() {
		for e := range events.ResultChan() {
			if e.Type == watch.Deleted || e.Type == watch.Error {
				break
			}
		}
		events.Stop()
		w.mu.Lock()
		delete(w.open, ns)
		w.mu.Unlock()
		controller.Add(w.queue, "", ns)
	}()
	return nil
}
