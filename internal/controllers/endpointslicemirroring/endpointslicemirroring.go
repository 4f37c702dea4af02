// Package endpointslicemirroring copies Endpoints that somebody made by hand for
// a Service without a selector into EndpointSlices (KEP-752).
package endpointslicemirroring

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/index"
)

const workers = 5

// managedBy marks the slices that this controller made.
const managedBy = "endpointslicemirroring-controller.k8s.io"

type reconciler struct {
	controller.Deps
	events  record.EventRecorder
	tracker *expect.Tracker
}

// New makes the mirroring controller. Its keys are Services, and Endpoints of
// the same name.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("endpoint-slice-mirroring-controller"), tracker: expect.New(d.Clock)}
	return controller.New(d, "endpointslicemirroring", workers, r.reconcile,
		controller.Watch(d, &corev1.Endpoints{}, func(q controller.Queue, old, e *corev1.Endpoints) { //nolint:staticcheck // SA1019: the API is served
			if (old != nil && mirrored(old)) || (e != nil && mirrored(e)) {
				some := e
				if some == nil {
					some = old
				}
				controller.Add(q, some.Namespace, some.Name)
			}
		}),
		controller.Watch(d, &corev1.Service{}, func(q controller.Queue, old, s *corev1.Service) {
			if s != nil && (old == nil || (len(old.Spec.Selector) == 0) != (len(s.Spec.Selector) == 0)) {
				controller.Add(q, s.Namespace, s.Name)
			} else if s == nil {
				controller.Add(q, old.Namespace, old.Name)
			}
		}),
		controller.Watch(d, &discoveryv1.EndpointSlice{}, func(q controller.Queue, old, s *discoveryv1.EndpointSlice) {
			for _, s := range []*discoveryv1.EndpointSlice{old, s} {
				if s != nil && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
					r.tracker.Saw(s)
					controller.Add(q, s.Namespace, s.Labels[discoveryv1.LabelServiceName])
				}
			}
		}))
}

// mirrored reports whether the object is meant for traffic and not copied by
// its maker.
func mirrored(e *corev1.Endpoints) bool { //nolint:staticcheck // SA1019: the API is served
	_, lock := e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return e.Labels[discoveryv1.LabelSkipMirror] != "true" && !lock
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	existing, err := r.slices(ctx, key)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := expect.Wait(r.tracker, key, existing, controller.Exists(ctx, r.Cache, &discoveryv1.EndpointSlice{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	var endpoints corev1.Endpoints //nolint:staticcheck // SA1019: the API is served
	var service corev1.Service
	err = r.Cache.Get(ctx, key, &endpoints, crclient.UnsafeDisableDeepCopy)
	if err == nil {
		err = r.Cache.Get(ctx, key, &service, crclient.UnsafeDisableDeepCopy)
	}
	var c changes
	switch {
	case apierrors.IsNotFound(err), err == nil && (!mirrored(&endpoints) || len(service.Spec.Selector) > 0 || endpoints.DeletionTimestamp != nil):
		c.Remove = existing
	case err != nil:
		return reconcile.Result{}, err
	default:
		c = plan(&endpoints, existing)
	}
	err = expect.Apply(ctx, r.tracker, r.Client, key, c)
	if err != nil && endpoints.Name != "" && !apierrors.IsConflict(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && ctx.Err() == nil {
		r.events.Eventf(&endpoints, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Failed to mirror %s: %v", key, err)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil
	}
	return reconcile.Result{}, err
}

func (r *reconciler) slices(ctx context.Context, service types.NamespacedName) ([]*discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := r.Cache.List(ctx, &list, crclient.InNamespace(service.Namespace), crclient.MatchingFields{index.Service: service.Name}, crclient.UnsafeDisableDeepCopy)
	var own []*discoveryv1.EndpointSlice
	for i := range list.Items {
		if s := &list.Items[i]; s.Labels[discoveryv1.LabelManagedBy] == managedBy && s.DeletionTimestamp == nil {
			own = append(own, s)
		}
	}
	return own, err
}

// labels are those of a slice for the Endpoints.
func labels(e *corev1.Endpoints) map[string]string { //nolint:staticcheck // SA1019: the API is served
	all := maps.Clone(e.Labels)
	if all == nil {
		all = map[string]string{}
	}
	all[discoveryv1.LabelServiceName], all[discoveryv1.LabelManagedBy] = e.Name, managedBy
	return all
}

// annotations are the Endpoints', apart from those that speak of that object
// itself.
func annotations(e *corev1.Endpoints) map[string]string { //nolint:staticcheck // SA1019: the API is served
	all := maps.Clone(e.Annotations)
	delete(all, corev1.LastAppliedConfigAnnotation)
	delete(all, corev1.EndpointsLastChangeTriggerTime)
	return all
}
