package garbagecollector_test

import (
	"context"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/garbagecollector"
)

// late is a cache whose events of ConfigMaps can be held up.
type late struct {
	cache.Cache
	held sync.RWMutex
}

func (l *late) GetInformer(ctx context.Context, o client.Object, options ...cache.InformerGetOption) (cache.Informer, error) {
	i, err := l.Cache.GetInformer(ctx, o, options...)
	if o.GetObjectKind().GroupVersionKind().Kind != "ConfigMap" {
		return i, err
	}
	return lateInformer{i, l}, err
}

type lateInformer struct {
	cache.Informer
	late *late
}

func (i lateInformer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	wait := func() {
		i.late.held.RLock()
		defer i.late.held.RUnlock()
	}
	return i.Informer.AddEventHandler(toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    func(o any, first bool) { wait(); h.OnAdd(o, first) },
		UpdateFunc: func(old, o any) { wait(); h.OnUpdate(old, o) },
		DeleteFunc: func(o any) { wait(); h.OnDelete(o) },
	})
}

func secret(name string, owners ...metav1.OwnerReference) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: owners}}
}

// TestLateEvents is about dependents that are there before their owner is
// deleted, and whose events come after that of the deletion.
func TestLateEvents(t *testing.T) {
	c := controllertest.Start(t)
	set := c.Account("generic-garbage-collector")
	l := &late{Cache: set.Cache}
	set.Cache = l
	c.RunOver(set, "generic-garbage-collector", func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, c.Discover) })
	// through waits until the collector has come to what happens now, by a
	// secret that it removes.
	through := func(name string) {
		t.Helper()
		owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		c.Create(owner)
		s := secret(name, metav1.OwnerReference{APIVersion: "v1", Kind: "ServiceAccount", Name: name, UID: owner.UID})
		c.Create(s)
		c.Delete(owner)
		c.Eventually("the end of "+name, &corev1.SecretList{}, func() bool { return gone(c, s) })
	}
	through("begun")

	l.held.Lock()
	released := secret("released")
	c.Create(released)
	orphan := configMap("orphan", owner(released, "v1", "Secret"))
	c.Create(orphan)
	c.Delete(released, client.PropagationPolicy(metav1.DeletePropagationOrphan))
	c.Eventually("the owner goes", &corev1.SecretList{}, func() bool { return gone(c, released) })
	waiting := secret("waiting")
	c.Create(waiting)
	blocking := configMap("blocking", owner(waiting, "v1", "Secret"))
	c.Create(blocking)
	c.Delete(waiting, client.PropagationPolicy(metav1.DeletePropagationForeground))
	through("while-held")
	if gone(c, waiting) {
		t.Error("an owner goes before what blocks it")
	}
	l.held.Unlock()

	waitUntilGone(c, blocking)
	c.Eventually("the end of waiting", &corev1.SecretList{}, func() bool { return gone(c, waiting) })
	through("in-the-end")
	if gone(c, orphan) || len(orphan.OwnerReferences) > 0 {
		t.Errorf("what was released: %+v", orphan.ObjectMeta)
	}
}
