// Package endpoints lists the pods behind every Service with a selector in an
// Endpoints object, the older form of EndpointSlices.
package endpoints

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/endpoint"
	"skiff/internal/controllers/pods"
)

const (
	workers = 5
	// capacity is the greatest number of addresses in one object.
	capacity = 1000

	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

type reconciler struct {
	controller.Deps
	events record.EventRecorder
}

// New makes the Endpoints controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d, d.Recorder("endpoint-controller")}
	return controller.New(d, "endpoints", workers, r.reconcile,
		controller.WatchSelf(d, &corev1.Service{}),
		controller.WatchSelf(d, &corev1.Endpoints{}), //nolint:staticcheck // SA1019: the API is served
		controller.Watch(d, &corev1.Pod{}, r.podChanged))
}

func (r *reconciler) podChanged(q controller.Queue, old, pod *corev1.Pod) {
	if old != nil && pod != nil && maps.Equal(old.Labels, pod.Labels) && !endpoint.Changed(old, pod) {
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

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var service corev1.Service
	err := r.Cache.Get(ctx, key, &service, crclient.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, r.removeOurs(ctx, key)
	}
	if err != nil || len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return reconcile.Result{}, err
	}
	var list corev1.PodList
	err = r.Cache.List(ctx, &list, crclient.InNamespace(key.Namespace), crclient.UnsafeDisableDeepCopy,
		crclient.MatchingLabelsSelector{Selector: labels.SelectorFromValidatedSet(service.Spec.Selector)})
	if err != nil {
		return reconcile.Result{}, err
	}
	want := wanted(&service, list.Items)
	var have corev1.Endpoints //nolint:staticcheck // SA1019: the API is served
	err = r.Cache.Get(ctx, key, &have, crclient.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		err = r.Client.Create(ctx, want)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return reconcile.Result{}, nil
		}
	case err == nil && (!maps.Equal(have.Labels, want.Labels) || have.Annotations[corev1.EndpointsOverCapacity] != want.Annotations[corev1.EndpointsOverCapacity] ||
		!apiequality.Semantic.DeepEqual(have.Subsets, want.Subsets)):
		next := have.DeepCopy()
		next.Labels, next.Subsets = want.Labels, want.Subsets
		delete(next.Annotations, corev1.EndpointsOverCapacity)
		if v, over := want.Annotations[corev1.EndpointsOverCapacity]; over {
			metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsOverCapacity, v)
		}
		err = r.Client.Update(ctx, next)
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		r.events.Eventf(&service, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", key.Namespace, key.Name, err)
	}
	return reconcile.Result{}, err
}

// removeOurs deletes what this controller made for a service that is gone.
func (r *reconciler) removeOurs(ctx context.Context, key types.NamespacedName) error {
	var have corev1.Endpoints //nolint:staticcheck // SA1019: the API is served
	if err := r.Cache.Get(ctx, key, &have, crclient.UnsafeDisableDeepCopy); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	if have.Labels[managedByLabel] != managedBy {
		return nil
	}
	return crclient.IgnoreNotFound(r.Client.Delete(ctx, &have, crclient.Preconditions{UID: &have.UID}))
}

// wanted makes the object that the service's pods demand.
func wanted(service *corev1.Service, all []corev1.Pod) *corev1.Endpoints { //nolint:staticcheck // SA1019: the API is served
	byPorts := map[string]*corev1.EndpointSubset{} //nolint:staticcheck // SA1019: the API is served
	ipv6 := len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	listed, over := 0, false
	for i := range all {
		p := &all[i]
		if !endpoint.Serves(p) || p.DeletionTimestamp != nil && !service.Spec.PublishNotReadyAddresses {
			continue
		}
		addresses := endpoint.Addresses(p, ipv6)
		ports := portsOf(service, p)
		if len(addresses) == 0 || len(ports) == 0 && len(service.Spec.Ports) > 0 {
			continue
		}
		if listed == capacity {
			over = true
			break
		}
		listed++
		address := corev1.EndpointAddress{
			IP: addresses[0], Hostname: endpoint.Hostname(p, service),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		}
		if p.Spec.NodeName != "" {
			address.NodeName = ptr.To(p.Spec.NodeName)
		}
		key := portsKey(ports)
		subset := byPorts[key]
		if subset == nil {
			subset = &corev1.EndpointSubset{Ports: ports} //nolint:staticcheck // SA1019: the API is served
			byPorts[key] = subset
		}
		if service.Spec.PublishNotReadyAddresses || pods.Ready(p) {
			subset.Addresses = append(subset.Addresses, address)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, address)
		}
	}
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name, Labels: maps.Clone(service.Labels)}} //nolint:staticcheck // SA1019: the API is served
	metav1.SetMetaDataLabel(&e.ObjectMeta, managedByLabel, managedBy)
	delete(e.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	if over {
		metav1.SetMetaDataAnnotation(&e.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	}
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		subset := byPorts[key]
		slices.SortFunc(subset.Addresses, byIP)
		slices.SortFunc(subset.NotReadyAddresses, byIP)
		e.Subsets = append(e.Subsets, *subset)
	}
	return e
}

func byIP(a, b corev1.EndpointAddress) int {
	x, errX := netip.ParseAddr(a.IP)
	y, errY := netip.ParseAddr(b.IP)
	if errX != nil || errY != nil {
		return cmp.Compare(a.IP, b.IP)
	}
	return cmp.Or(bytes.Compare(x.AsSlice(), y.AsSlice()), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

func portsOf(service *corev1.Service, p *corev1.Pod) []corev1.EndpointPort {
	var all []corev1.EndpointPort
	for i := range service.Spec.Ports {
		sp := &service.Spec.Ports[i]
		if number, ok := endpoint.TargetPort(p, sp); ok {
			all = append(all, corev1.EndpointPort{Name: sp.Name, Port: number, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return all
}

func portsKey(ports []corev1.EndpointPort) string {
	var b bytes.Buffer
	for _, p := range ports {
		fmt.Fprintf(&b, "|%s/%d/%s/%s", p.Name, p.Port, p.Protocol, ptr.Deref(p.AppProtocol, ""))
	}
	return b.String()
}
