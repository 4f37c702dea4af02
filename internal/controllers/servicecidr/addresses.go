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
	s, err := r.owner(ctx, &a)
	if err != nil {
		return reconcile.Result{}, err
	}
	if s == nil || !slices.Contains(s.Spec.ClusterIPs, a.Name) {
		// Another Service may have taken it over since.
		err := r.Client.Delete(ctx, &a, crclient.Preconditions{UID: &a.UID, ResourceVersion: &a.ResourceVersion})
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	var known corev1.Service
	err = r.Cache.Get(ctx, controller.Key(s), &known, crclient.UnsafeDisableDeepCopy)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	if err != nil || known.UID != s.UID {
		// No event tells of the end of a Service that the cache never showed.
		return reconcile.Result{RequeueAfter: lookAgain}, nil
	}
	return reconcile.Result{}, nil
}

// service makes the IPAddresses that a Service lacks, and those anew that are
// not what they should be.
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
		if err := r.repair(ctx, &s, ip); err != nil {
			return err
		}
	}
	return nil
}

// repair sees to one address of a Service.
func (r *addresses) repair(ctx context.Context, s *corev1.Service, ip netip.Addr) error {
	want := newAddress(s, ip)
	var have networkingv1.IPAddress
	err := r.Cache.Get(ctx, types.NamespacedName{Name: want.Name}, &have, crclient.UnsafeDisableDeepCopy)
	warn := func(reason, format string, args ...any) {
		r.events.Eventf(s, corev1.EventTypeWarning, reason, format, args...)
	}
	switch {
	case apierrors.IsNotFound(err):
		err := r.Client.Create(ctx, want)
		if err == nil {
			warn("ClusterIPNotAllocated", "Cluster IP [%v]: %s is not allocated; repairing", familyOf(ip), ip)
		} else if apierrors.IsAlreadyExists(err) {
			return nil // The cache will show it.
		}
		return err
	case err != nil:
		return err
	case have.Spec.ParentRef == nil || *have.Spec.ParentRef != *want.Spec.ParentRef:
		other, err := r.owner(ctx, &have)
		if err != nil {
			return err
		}
		if other != nil && slices.Contains(other.Spec.ClusterIPs, have.Name) {
			warn("ClusterIPAlreadyAllocated", "Cluster IP [%v]:%s was assigned to multiple services; please recreate service", familyOf(ip), ip)
			return nil
		}
		if err := r.replace(ctx, &have, want); err != nil {
			return err
		}
		warn("ClusterIPNotAllocated", "the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", familyOf(ip), ip, s.Namespace, s.Name)
	case have.Labels[networkingv1.LabelManagedBy] != managedBy || have.Labels[networkingv1.LabelIPAddressFamily] != string(familyOf(ip)):
		return r.replace(ctx, &have, want)
	}
	return nil
}

func newAddress(s *corev1.Service, ip netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
}

// owner is the Service that an IPAddress is of, if there is one.
func (r *addresses) owner(ctx context.Context, a *networkingv1.IPAddress) (*corev1.Service, error) {
	ref := a.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" {
		return nil, nil
	}
	var s corev1.Service
	if err := r.Client.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, &s); err != nil {
		return nil, crclient.IgnoreNotFound(err)
	}
	return &s, nil
}

func (r *addresses) replace(ctx context.Context, have, want *networkingv1.IPAddress) error {
	err := r.Client.Delete(ctx, have, crclient.Preconditions{UID: &have.UID, ResourceVersion: &have.ResourceVersion})
	if crclient.IgnoreNotFound(err) != nil {
		return err
	}
	return r.Client.Create(ctx, want)
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
