package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// managedBy marks the IPAddresses that belong to Services.
const managedBy = "ipallocator.k8s.io"

type addresses struct {
	controller.Deps
	events record.EventRecorder
}

// NewAddresses makes the controller that removes the IPAddresses of Services
// that are gone, or have another address now, and makes those that are missing,
// as in a cluster that is older than they are. Its keys are addresses, without a
// namespace, and Services.
func NewAddresses(d controller.Deps) (controller.Runnable, error) {
	r := &addresses{d, d.Recorder("ipallocator-repair-controller")}
	return controller.New(d, "ipaddresses", 2, r.reconcile,
		controller.Watch(d, &corev1.Service{}, func(q controller.Queue, old, s *corev1.Service) {
			if old != nil {
				for _, ip := range old.Spec.ClusterIPs {
					if s == nil || !slices.Contains(s.Spec.ClusterIPs, ip) {
						controller.Add(q, "", ip)
					}
				}
			}
			if s != nil && (old == nil || !slices.Equal(old.Spec.ClusterIPs, s.Spec.ClusterIPs)) {
				controller.Add(q, s.Namespace, s.Name)
			}
		}),
		controller.Watch(d, &networkingv1.IPAddress{}, func(q controller.Queue, old, a *networkingv1.IPAddress) {
			switch {
			case a != nil:
				controller.Add(q, "", a.Name)
			case old.Spec.ParentRef != nil:
				controller.Add(q, old.Spec.ParentRef.Namespace, old.Spec.ParentRef.Name)
			}
		}))
}

// lookAgain is the time for the cache to show a Service that is there.
const lookAgain = time.Second

func (r *addresses) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	if key.Namespace == "" {
		return r.address(ctx, key)
	}
	return reconcile.Result{}, r.service(ctx, key)
}

// address removes an IPAddress that its Service does not have.
func (r *addresses) address(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var a networkingv1.IPAddress
	if err := r.Cache.Get(ctx, key, &a, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	ref := a.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" || a.Labels[networkingv1.LabelManagedBy] != managedBy {
		return reconcile.Result{}, nil
	}
	owner := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	var s, known corev1.Service
	err := r.Client.Get(ctx, owner, &s)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	if err != nil || !slices.Contains(s.Spec.ClusterIPs, a.Name) {
		// Another Service may have taken it over since.
		err := r.Client.Delete(ctx, &a, crclient.Preconditions{UID: &a.UID, ResourceVersion: &a.ResourceVersion})
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	err = r.Cache.Get(ctx, owner, &known, crclient.UnsafeDisableDeepCopy)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	if err != nil || known.UID != s.UID {
		// No event tells of the end of a Service that the cache never showed.
		return reconcile.Result{RequeueAfter: lookAgain}, nil
	}
	return reconcile.Result{}, nil
}

// service makes the IPAddresses that a Service lacks.
func (r *addresses) service(ctx context.Context, key types.NamespacedName) error {
	var s corev1.Service
	if err := r.Cache.Get(ctx, key, &s, crclient.UnsafeDisableDeepCopy); err != nil {
		return crclient.IgnoreNotFound(err)
	}
	for _, text := range s.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		var have networkingv1.IPAddress
		err = r.Cache.Get(ctx, types.NamespacedName{Name: ip.String()}, &have, crclient.UnsafeDisableDeepCopy)
		if err == nil {
			if ref := have.Spec.ParentRef; ref == nil || ref.Namespace != s.Namespace || ref.Name != s.Name {
				r.events.Eventf(&s, corev1.EventTypeWarning, "ClusterIPAlreadyAllocated", "Cluster IP [%v]:%s was assigned to multiple services; please recreate service", familyOf(ip), ip)
			}
			continue
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		if err := r.Client.Create(ctx, &networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: managedBy,
			}},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
		}); err != nil {
			if apierrors.IsAlreadyExists(err) {
				continue // The cache will show it.
			}
			return err
		}
		r.events.Eventf(&s, corev1.EventTypeWarning, "ClusterIPNotAllocated", "Cluster IP [%v]:%s is not allocated; repairing", familyOf(ip), ip)
	}
	return nil
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
