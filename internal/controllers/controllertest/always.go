package controllertest

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Always calls rule with the namespace's pods after every single change of one
// of them, until the test ends; what rule returns is an error of the test.
func (c *Cluster) Always(namespace string, rule func([]*corev1.Pod) error) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var first corev1.PodList
	c.List(&first, client.InNamespace(namespace))
	now := map[types.UID]*corev1.Pod{}
	for i := range first.Items {
		now[first.Items[i].UID] = &first.Items[i]
	}
	w, err := c.Client.Watch(ctx, &corev1.PodList{}, client.InNamespace(namespace),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: first.ResourceVersion}})
	if err != nil {
		cancel()
		c.t.Fatal(err)
	}
	stopped := make(chan struct{})
	c.t.Cleanup(func() { cancel(); <-stopped })
	go func() {
		defer close(stopped)
		defer w.Stop()
		broken := false
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			switch {
			case !ok:
				continue
			case e.Type == watch.Deleted:
				delete(now, p.UID)
			default:
				now[p.UID] = p
			}
			if err := rule(slices.Collect(maps.Values(now))); err != nil && !broken {
				broken = true
				c.t.Errorf("after %s %s: %v", e.Type, p.Name, err)
			}
		}
	}()
}
