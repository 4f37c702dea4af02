// Package servicecidr puts ServiceCIDRs into force and lets them go when no
// Service's address needs them, and keeps the IPAddresses of Services
// (KEP-1880).
package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

const (
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// leave is the time for all servers to stop giving addresses of a range
	// that is going.
	leave = 10 * time.Second
)

type reconciler struct {
	controller.Deps
}

// New makes the ServiceCIDR controller.
func New(d controller.Deps) (controller.Runnable, error) {
	r := &reconciler{d}
	return controller.New(d, "servicecidr", 1, r.reconcile,
		controller.Watch(d, &networkingv1.ServiceCIDR{}, func(q controller.Queue, _, c *networkingv1.ServiceCIDR) {
			if c != nil {
				controller.Add(q, "", c.Name)
			}
			// It may make another dispensable.
			r.wakeTerminating(q)
		}),
		controller.Watch(d, &networkingv1.IPAddress{}, func(q controller.Queue, _, a *networkingv1.IPAddress) {
			if a == nil {
				r.wakeTerminating(q)
			}
		}))
}

func (r *reconciler) wakeTerminating(q controller.Queue) {
	all, err := r.all(context.Background())
	if err != nil {
		r.Log.Error("listing service ranges", "error", err)
	}
	for i := range all {
		if all[i].DeletionTimestamp != nil {
			controller.Add(q, "", all[i].Name)
		}
	}
}

func (r *reconciler) all(ctx context.Context) ([]networkingv1.ServiceCIDR, error) {
	var list networkingv1.ServiceCIDRList
	err := r.Cache.List(ctx, &list, crclient.UnsafeDisableDeepCopy)
	return list.Items, err
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached networkingv1.ServiceCIDR
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	next := cached.DeepCopy()
	if cached.DeletionTimestamp != nil {
		return r.letGo(ctx, next)
	}
	if controllerutil.AddFinalizer(next, finalizer) {
		if err := r.Client.Update(ctx, next); err != nil {
			return reconcile.Result{}, crclient.IgnoreNotFound(err)
		}
	}
	return reconcile.Result{}, r.setReady(ctx, next, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
}

func (r *reconciler) setReady(ctx context.Context, c *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	ready := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(r.Clock.Now())}
	if !meta.SetStatusCondition(&c.Status.Conditions, ready) {
		return nil
	}
	return crclient.IgnoreNotFound(r.Client.Status().Update(ctx, c))
}

// letGo ends the deletion of a range, unless addresses in use are in no other.
func (r *reconciler) letGo(ctx context.Context, c *networkingv1.ServiceCIDR) (reconcile.Result, error) {
	if !slices.Contains(c.Finalizers, finalizer) {
		return reconcile.Result{}, nil
	}
	needed, err := r.needed(ctx, c)
	if err != nil {
		return reconcile.Result{}, err
	}
	if needed {
		const message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
		return reconcile.Result{}, r.setReady(ctx, c, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, message)
	}
	if left := c.DeletionTimestamp.Add(leave).Sub(r.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	controllerutil.RemoveFinalizer(c, finalizer)
	return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Update(ctx, c))
}

// needed reports whether some address is in this range and in no other that
// stays.
func (r *reconciler) needed(ctx context.Context, c *networkingv1.ServiceCIDR) (bool, error) {
	ranges, err := r.all(ctx)
	if err != nil {
		return false, err
	}
	var others []netip.Prefix
	for i := range ranges {
		if ranges[i].Name != c.Name && ranges[i].DeletionTimestamp == nil {
			others = append(others, prefixes(&ranges[i])...)
		}
	}
	var list networkingv1.IPAddressList
	if err := r.Cache.List(ctx, &list, crclient.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	own := prefixes(c)
	for i := range list.Items {
		ip, err := netip.ParseAddr(list.Items[i].Name)
		if err == nil && holds(own, ip) && !holds(others, ip) {
			return true, nil
		}
	}
	return false, nil
}

func prefixes(c *networkingv1.ServiceCIDR) (all []netip.Prefix) {
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func holds(ranges []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(ip) })
}
