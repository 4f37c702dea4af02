// Package resourcequota counts anew what the objects of a namespace use up of
// its quotas.
//
// Writes that use more are counted by the API server as they are stored, in the
// same transaction. So a count of objects that were listed after the quota was
// read is exact if the quota is still the same when it is stored: the count is
// written by compare-and-swap, and needs to be made only when usage may have
// become less, or the quota is new or different, or somebody else has written
// its status. Whatever escapes that is found by a count from time to time.
package resourcequota

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/apis/quota"
	"skiff/internal/controllers/controller"
)

const (
	workers = 4
	// settle gathers changes of usage, so that many at once make one count.
	settle = 50 * time.Millisecond
	// unknownRetry is how often resources are looked for that a quota limits
	// and that are not served.
	unknownRetry = 30 * time.Second
	// resync is the time after which a quota is counted anew though nothing
	// happened (upstream's --resource-quota-sync-period).
	resync = 5 * time.Minute
	// manager is who this controller is to the API server.
	manager = "kube-controller-manager"
)

type reconciler struct {
	controller.Deps
	discover controller.Discover
	monitors monitors
}

// New makes the resource quota controller. Its keys are quotas.
func New(d controller.Deps, discover controller.Discover) (controller.Runnable, error) {
	r := &reconciler{Deps: d, discover: discover}
	r.monitors.watched = map[schema.GroupResource]monitor{}
	return controller.New(d, "resourcequota", workers, r.reconcile,
		controller.Capture(func(q controller.Queue) { r.monitors.queue = q }),
		controller.Watch(d, &corev1.ResourceQuota{}, func(q controller.Queue, old, changed *corev1.ResourceQuota) {
			if changed != nil && (old == nil || !equality.Semantic.DeepEqual(old.Spec, changed.Spec) || !counted(changed) || meddled(old, changed)) {
				controller.Add(q, changed.Namespace, changed.Name)
			}
		}),
		controller.Watch(d, &resourcev1.DeviceClass{}, r.deviceClassChanged),
		controller.Watch(d, &apiextensionsv1.CustomResourceDefinition{}, r.definitionChanged),
		controller.Watch(d, &apiregistrationv1.APIService{}, r.serviceChanged))
}

// counted reports whether the status says something of each limit.
func counted(q *corev1.ResourceQuota) bool {
	if !equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard) || len(q.Status.Used) != len(q.Spec.Hard) {
		return false
	}
	for name := range q.Spec.Hard {
		if _, ok := q.Status.Used[name]; !ok {
			return false
		}
	}
	return true
}

// meddled reports whether somebody has written the status who has no business
// with it. The API server, which counts what is stored, is nobody's manager.
func meddled(old, changed *corev1.ResourceQuota) bool {
	if equality.Semantic.DeepEqual(old.Status, changed.Status) {
		return false
	}
	others := func(q *corev1.ResourceQuota) []metav1.ManagedFieldsEntry {
		return slices.DeleteFunc(slices.Clone(q.ManagedFields), func(e metav1.ManagedFieldsEntry) bool {
			return e.Subresource != "status" || e.Manager == manager
		})
	}
	return !equality.Semantic.DeepEqual(others(old), others(changed))
}

// deviceClassChanged has claims counted anew if devices stand for another
// extended resource than before.
func (r *reconciler) deviceClassChanged(_ controller.Queue, old, class *resourcev1.DeviceClass) {
	if old != nil && class != nil && ptr.Equal(old.Spec.ExtendedResourceName, class.Spec.ExtendedResourceName) {
		return
	}
	r.recount(func(of schema.GroupResource) bool {
		return of == schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceclaims"}
	})
}

func (r *reconciler) definitionChanged(_ controller.Queue, old, crd *apiextensionsv1.CustomResourceDefinition) {
	gone := crd == nil
	if gone {
		crd = old
	}
	r.servedAnew(gone, func(of schema.GroupResource) bool {
		return of == schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}
	})
}

// serviceChanged looks at what another server answers, or did.
func (r *reconciler) serviceChanged(_ controller.Queue, old, s *apiregistrationv1.APIService) {
	gone := s == nil || s.Spec.Service == nil
	if s == nil || gone && old != nil {
		s = old
	}
	if s.Spec.Service != nil {
		r.servedAnew(gone, func(of schema.GroupResource) bool { return of.Group == s.Spec.Group })
	}
}

// servedAnew has the quotas counted that limit resources whose way of being
// served has changed. Those that are gone are not watched any more.
func (r *reconciler) servedAnew(gone bool, concerned func(schema.GroupResource) bool) {
	if gone {
		r.monitors.forget(concerned)
	}
	r.recount(concerned)
}

// recount has the quotas counted that limit a resource that is concerned.
func (r *reconciler) recount(concerned func(schema.GroupResource) bool) {
	var list corev1.ResourceQuotaList
	if err := r.Cache.List(context.Background(), &list, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing quotas", "error", err)
	}
	for i := range list.Items {
		r.monitors.later(&list.Items[i], concerned)
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached corev1.ResourceQuota
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if cached.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	next := cached.DeepCopy()
	next.Status.Hard = next.Spec.DeepCopy().Hard
	next.Status.Used = corev1.ResourceList{}
	again, err := r.count(ctx, &cached, next.Status.Used)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !equality.Semantic.DeepEqual(cached.Status, next.Status) {
		if err := r.Client.Status().Update(ctx, next); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	if again == 0 {
		again = resync
	}
	return reconcile.Result{RequeueAfter: min(again, resync)}, nil
}

// count fills used with what is used of each of the quota's limits, and says
// when to count again though nothing changes.
func (r *reconciler) count(ctx context.Context, q *corev1.ResourceQuota, used corev1.ResourceList) (again time.Duration, err error) {
	limits := map[schema.GroupResource][]corev1.ResourceName{}
	for name := range q.Spec.Hard {
		for _, of := range quota.CountedBy(name) {
			limits[of] = append(limits[of], name)
		}
	}
	sooner := func(d time.Duration) {
		if again == 0 || d < again {
			again = d
		}
	}
	now := r.Clock.Now()
	for of, names := range limits {
		list, err := r.monitors.list(ctx, r, of)
		if err != nil {
			return 0, err
		}
		if list == nil {
			sooner(unknownRetry)
			continue
		}
		for _, name := range names {
			if _, begun := used[name]; !begun {
				used[name] = *resource.NewQuantity(0, q.Spec.Hard[name].Format)
			}
		}
		if quota.Ignored(of) {
			continue
		}
		if err := r.Client.List(ctx, list, crclient.InNamespace(q.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
			return 0, err
		}
		err = meta.EachListItem(list, func(o runtime.Object) error {
			if !quota.InScope(q, o) {
				return nil
			}
			if pod, ok := o.(*corev1.Pod); ok {
				if end, ok := quota.EndOfLife(pod); ok && end.After(now) {
					sooner(end.Sub(now) + time.Second)
				}
			}
			usage := quota.Usage(r.Cache, of, o, now)
			for _, name := range names {
				if n, ok := usage[name]; ok {
					sum := used[name]
					sum.Add(n)
					used[name] = sum
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return again, nil
}
