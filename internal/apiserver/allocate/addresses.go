package allocate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// What is wrong with an address that a Service asks for.
var (
	errAllocated = errors.New("provided IP is already allocated")
	errNoRange   = errors.New("the provided network does not match the current range")
)

// managedBy marks the IPAddresses that belong to Services.
const managedBy = "ipallocator.k8s.io"

func addressesOf(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// needsAddresses tells whether the write gives the Service addresses. If an
// update asks for others than the Service has, validation refuses that.
func (t *transaction) needsAddresses() bool {
	if t.service.Spec.Type == corev1.ServiceTypeExternalName || headless(t.service) {
		return false
	}
	return t.old == nil || t.old.Spec.Type == corev1.ServiceTypeExternalName ||
		!headless(t.old) && len(t.service.Spec.IPFamilies) > len(t.old.Spec.IPFamilies)
}

// assignAddresses gives the Service an address of each of its families.
func (t *transaction) assignAddresses() error {
	if !t.needsAddresses() {
		return nil
	}
	s := t.service
	for i, family := range s.Spec.IPFamilies {
		if i == len(s.Spec.ClusterIPs) {
			ip, err := t.pickAddress(family)
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", s.Name, err))
			}
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
			continue
		}
		text := s.Spec.ClusterIPs[i]
		if t.old != nil && slices.Contains(t.old.Spec.ClusterIPs, text) {
			continue
		}
		if err := t.claimAddress(text); err != nil {
			return invalid(s, field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", text, err)))
		}
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return nil
}

// claimAddress takes an address that the Service asks for and does not hold. As
// with upstream a dry run does not look whether somebody else does.
func (t *transaction) claimAddress(text string) error {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(t.mu.ranges, func(r netip.Prefix) bool { return holds(r, ip) })
	switch {
	case at < 0 && t.dry:
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", text, t.mu.ranges[0])
	case at < 0:
		return errNoRange
	case t.dry:
		return nil
	}
	r := t.mu.ranges[at].String()
	if !t.mu.addresses.free(ip, t.service.UID) {
		t.metrics.failures.WithLabelValues(r, scopeStatic).Inc()
		return errAllocated
	}
	t.metrics.allocations.WithLabelValues(r, scopeStatic).Inc()
	reserve(t, &t.mu.addresses, ip)
	return nil
}

// pickAddress takes a free address of the family.
func (t *transaction) pickAddress(family corev1.IPFamily) (netip.Addr, error) {
	began := t.clock.Now()
	var last netip.Prefix
	for _, r := range t.mu.ranges {
		if familyOf(r.Addr()) != family {
			continue
		}
		last = r
		for ip := range candidates(r) {
			if t.mu.addresses.on(ip) == nil {
				t.metrics.allocations.WithLabelValues(r.String(), scopeDynamic).Inc()
				t.metrics.duration.WithLabelValues(r.String()).Observe(t.clock.Since(began).Seconds())
				reserve(t, &t.mu.addresses, ip)
				return ip, nil
			}
		}
	}
	t.metrics.failures.WithLabelValues(last.String(), scopeDynamic).Inc()
	return netip.Addr{}, fmt.Errorf("no %s address is left in the Service ranges", family)
}

// replaceAddress notes an IPAddress that is not a Service's: it is taken.
func (a *Allocator) replaceAddress(old, addr *networkingv1.IPAddress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ip, ok := foreign(old); ok {
		a.mu.addresses.drop(old.UID, ip)
	}
	if ip, ok := foreign(addr); ok {
		a.mu.addresses.store(addr.UID, ip)
	}
}

// foreign returns the address of an IPAddress that belongs to something else than
// a Service.
func foreign(addr *networkingv1.IPAddress) (ip netip.Addr, ok bool) {
	if addr == nil || addr.Spec.ParentRef == nil || ofService(addr.Spec.ParentRef) {
		return ip, false
	}
	ip, err := netip.ParseAddr(addr.Name)
	return ip, err == nil
}

func ofService(ref *networkingv1.ParentReference) bool {
	return ref.Group == "" && ref.Resource == "services"
}

// Account implements admission.Accountant: the IPAddresses of a Service are
// stored with it.
func (a *Allocator) Account(ctx context.Context, at *admission.Attributes) (entries []admission.Entry, done func(), err error) {
	done = func() {}
	if !concerns(at) || at.DryRun {
		return nil, done, nil
	}
	s := at.Object.(*corev1.Service)
	var before []netip.Addr
	if old, ok := at.Old.(*corev1.Service); ok {
		before = addressesOf(old)
	}
	for _, ip := range addressesOf(s) {
		if slices.Contains(before, ip) {
			continue
		}
		obj, err := a.address(ctx, ip, s)
		if err != nil {
			return nil, nil, err
		}
		if obj != nil {
			entries = append(entries, admission.Entry{Resource: networkingv1.Resource("ipaddresses"), Object: obj})
		}
	}
	return entries, done, nil
}

// address returns the IPAddress to store for the Service, nil if it is there.
// One that names another Service is left over from one that is gone, unless
// another server has just given that Service the address.
func (a *Allocator) address(ctx context.Context, ip netip.Addr, s *corev1.Service) (apis.Object, error) {
	want := addressOf(ip, s)
	have := &networkingv1.IPAddress{}
	err := a.reader.Get(ctx, client.ObjectKey{Name: ip.String()}, have)
	if apierrors.IsNotFound(err) {
		return want, nil
	}
	if err != nil {
		return nil, err
	}
	if ref := have.Spec.ParentRef; ref != nil {
		if *ref == *want.Spec.ParentRef {
			return nil, nil
		}
		var other corev1.Service
		err := a.reader.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &other)
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		if !ofService(ref) || slices.Contains(addressesOf(&other), ip) {
			return nil, invalid(s, field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", ip, errAllocated)))
		}
	}
	have.Labels, have.Spec = want.Labels, want.Spec
	return have, nil
}

// addressOf makes the IPAddress of a Service's address.
func addressOf(ip netip.Addr, s *corev1.Service) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: s.Namespace, Name: s.Name,
		}},
	}
}
