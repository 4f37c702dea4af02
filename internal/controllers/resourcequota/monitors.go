package resourcequota

import (
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/quota"
	"skiff/internal/controllers/controller"
)

// monitors watch the objects that some quota counts: nothing is watched that
// none limits.
type monitors struct {
	queue controller.Queue

	mu      sync.Mutex
	watched map[schema.GroupResource]monitor
}

type monitor struct {
	list         func() crclient.ObjectList
	informer     cache.Informer
	registration toolscache.ResourceEventHandlerRegistration
}

// contents are the resources of which more counts than their number.
var contents = map[schema.GroupResource]struct {
	object func() crclient.Object
	list   func() crclient.ObjectList
}{
	{Resource: "pods"}: {
		func() crclient.Object { return &corev1.Pod{} }, func() crclient.ObjectList { return &corev1.PodList{} },
	},
	{Resource: "services"}: {
		func() crclient.Object { return &corev1.Service{} }, func() crclient.ObjectList { return &corev1.ServiceList{} },
	},
	{Resource: "persistentvolumeclaims"}: {
		func() crclient.Object { return &corev1.PersistentVolumeClaim{} }, func() crclient.ObjectList { return &corev1.PersistentVolumeClaimList{} },
	},
	{Group: resourcev1.GroupName, Resource: "resourceclaims"}: {
		func() crclient.Object { return &resourcev1.ResourceClaim{} }, func() crclient.ObjectList { return &resourcev1.ResourceClaimList{} },
	},
}

// list returns an empty list of the resource's objects, which are watched from
// now on. It is nil if there is no such resource.
func (m *monitors) list(ctx context.Context, r *reconciler, of schema.GroupResource) (crclient.ObjectList, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.watched[of]; ok {
		return w.list(), nil
	}
	var object crclient.Object
	var w monitor
	if c, ok := contents[of]; ok {
		object, w.list = c.object(), c.list
	} else {
		found, err := r.find(ctx, of)
		if found == nil || err != nil {
			return nil, err
		}
		object, w.list = found.Metadata(), func() crclient.ObjectList { return found.MetadataList() }
	}
	var err error
	if w.informer, err = r.Cache.GetInformer(ctx, object, cache.BlockUntilSynced(false)); err != nil {
		return nil, err
	}
	changed := func(old, o any) { m.changed(r, of, old, o) }
	w.registration, err = w.informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { changed(nil, o) },
		UpdateFunc: changed,
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			changed(o, nil)
		},
	})
	if err != nil {
		return nil, err
	}
	m.watched[of] = w
	return w.list(), nil
}

// find looks a resource up in what is served.
func (r *reconciler) find(ctx context.Context, of schema.GroupResource) (*controller.Resource, error) {
	served, err := r.discover.List(ctx, "list", "watch")
	for i := range served {
		if served[i].GroupResource() == of {
			return &served[i], nil
		}
	}
	return nil, err
}

// forget stops watching resources that are no longer served.
func (m *monitors) forget(gone func(schema.GroupResource) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for of, w := range m.watched {
		if gone(of) {
			// The informer of a resource that is gone cannot fail to let go.
			_ = w.informer.RemoveEventHandler(w.registration)
			delete(m.watched, of)
		}
	}
}

// changed has the quotas counted anew that the change of an object may concern.
// Objects that are new are counted by the API server, unless it did not know of
// the quota yet.
func (m *monitors) changed(r *reconciler, of schema.GroupResource, old, o any) {
	before, _ := old.(crclient.Object)
	now, _ := o.(crclient.Object)
	some := now
	if some == nil {
		some = before
	}
	if some == nil {
		return
	}
	if before != nil && now != nil {
		at := r.Clock.Now()
		if equality.Semantic.DeepEqual(quota.Usage(r.Cache, of, before, at), quota.Usage(r.Cache, of, now, at)) &&
			(before.GetDeletionTimestamp() == nil) == (now.GetDeletionTimestamp() == nil) && !quota.Rescoped(before, now) {
			return
		}
	}
	var list corev1.ResourceQuotaList
	if err := r.Cache.List(context.Background(), &list, crclient.InNamespace(some.GetNamespace()), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing quotas", "namespace", some.GetNamespace(), "error", err)
	}
	for i := range list.Items {
		m.later(&list.Items[i], func(limited schema.GroupResource) bool { return limited == of })
	}
}

// later has the quota counted soon if it limits a resource that is concerned.
func (m *monitors) later(q *corev1.ResourceQuota, concerned func(schema.GroupResource) bool) {
	for name := range q.Spec.Hard {
		if slices.ContainsFunc(quota.CountedBy(name), concerned) {
			m.queue.AddAfter(controller.Request{NamespacedName: controller.Key(q)}, settle)
			return
		}
	}
}
