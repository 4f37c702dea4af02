// Package endpointslice lists the pods behind every Service with a selector in
// EndpointSlices (KEP-752).
package endpointslice

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/endpoint"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/index"
)

const workers = 5

// managedBy marks the slices that this controller made.
const managedBy = "endpointslice-controller.k8s.io"

type reconciler struct {
	controller.Deps
	events   record.EventRecorder
	tracker  *expect.Tracker
	topology *topology
	metrics  *metrics
}

// New makes the EndpointSlice controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{Deps: d, events: d.Recorder("endpoint-slice-controller"), tracker: expect.New(d.Clock), topology: newTopology(), metrics: newMetrics(d.Metrics.Registerer())}
	return controller.New(d, "endpointslice", workers, r.reconcile,
		controller.WatchSelf(d, &corev1.Service{}),
		controller.Watch(d, &discoveryv1.EndpointSlice{}, r.sliceChanged),
		controller.Watch(d, &corev1.Pod{}, r.podChanged),
		controller.Watch(d, &corev1.Node{}, r.nodeChanged))
}

func (r *reconciler) sliceChanged(q controller.Queue, old, slice *discoveryv1.EndpointSlice) {
	for _, s := range []*discoveryv1.EndpointSlice{old, slice} {
		if s == nil {
			continue
		}
		r.tracker.Saw(s)
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			controller.Add(q, s.Namespace, name)
		}
	}
}

func (r *reconciler) podChanged(q controller.Queue, old, pod *corev1.Pod) {
	moved := old == nil || pod == nil || !maps.Equal(old.Labels, pod.Labels)
	if !moved && !endpoint.Changed(old, pod) {
		return
	}
	some := pod
	if some == nil {
		some = old
	}
	var services corev1.ServiceList
	if err := r.Cache.List(context.Background(), &services, crclient.InNamespace(some.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing services for a pod", "pod", controller.Key(some), "error", err)
		return
	}
	for i := range services.Items {
		s := &services.Items[i]
		if (old != nil && endpoint.Selects(s, old)) || (pod != nil && endpoint.Selects(s, pod)) {
			controller.Add(q, s.Namespace, s.Name)
		}
	}
}

// nodeChanged looks at the pods of a node that came, or whose zone changed, and
// at services whose endpoints are divided among the zones.
func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	some := node
	if some == nil {
		some = old
	}
	for _, s := range r.topology.set(some.Name, node) {
		controller.Add(q, s.Namespace, s.Name)
	}
	if node == nil || (old != nil && old.Labels[corev1.LabelTopologyZone] == node.Labels[corev1.LabelTopologyZone]) {
		return
	}
	var list corev1.PodList
	if err := r.Cache.List(context.Background(), &list, crclient.MatchingFields{index.Node: node.Name}, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing the pods of a node", "node", node.Name, "error", err)
		return
	}
	for i := range list.Items {
		r.podChanged(q, nil, &list.Items[i])
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var service corev1.Service
	if err := r.Cache.Get(ctx, key, &service, crclient.UnsafeDisableDeepCopy); err != nil {
		if apierrors.IsNotFound(err) {
			r.tracker.Forget(key)
			r.topology.forget(key)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	if service.DeletionTimestamp != nil || len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return reconcile.Result{}, nil
	}
	existing, err := r.slices(ctx, key)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait := expect.Wait(r.tracker, key, existing, controller.Exists(ctx, r.Cache, &discoveryv1.EndpointSlice{})); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	var list corev1.PodList
	err = r.Cache.List(ctx, &list, crclient.InNamespace(key.Namespace), crclient.UnsafeDisableDeepCopy,
		crclient.MatchingLabelsSelector{Selector: labels.SelectorFromValidatedSet(service.Spec.Selector)})
	if err != nil {
		return reconcile.Result{}, err
	}
	zones, err := r.zones(ctx, list.Items)
	if err != nil {
		return reconcile.Result{}, err
	}
	todo := plan(&service, list.Items, zones, existing)
	said := r.topology.hint(&service, existing, &todo)
	err = expect.Apply(ctx, r.tracker, r.Client, key, todo)
	r.metrics.synced(&todo, err)
	for _, n := range said {
		r.events.Event(&service, n.kind, n.reason, n.message)
	}
	if err != nil {
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return reconcile.Result{}, nil
		}
		if !apierrors.IsConflict(err) && ctx.Err() == nil {
			r.events.Eventf(&service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", service.Namespace, service.Name, err)
		}
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

func (r *reconciler) slices(ctx context.Context, service types.NamespacedName) ([]*discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := r.Cache.List(ctx, &list, crclient.InNamespace(service.Namespace), crclient.MatchingFields{index.Service: service.Name}, crclient.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, err
	}
	var own []*discoveryv1.EndpointSlice
	for i := range list.Items {
		if s := &list.Items[i]; s.Labels[discoveryv1.LabelManagedBy] == managedBy && s.DeletionTimestamp == nil {
			own = append(own, s)
		}
	}
	return own, nil
}

// zones maps the names of the pods' nodes, as far as they exist, to their zones.
func (r *reconciler) zones(ctx context.Context, all []corev1.Pod) (map[string]string, error) {
	zones := map[string]string{}
	for i := range all {
		name := all[i].Spec.NodeName
		if _, ok := zones[name]; ok || name == "" {
			continue
		}
		var node corev1.Node
		if err := r.Cache.Get(ctx, types.NamespacedName{Name: name}, &node, crclient.UnsafeDisableDeepCopy); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return nil, err
		}
		zones[name] = node.Labels[corev1.LabelTopologyZone]
	}
	return zones, nil
}
