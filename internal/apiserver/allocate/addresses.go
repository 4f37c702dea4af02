package allocate

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
)

// managedBy marks the IPAddresses that belong to Services.
const managedBy = "ipallocator.k8s.io"

// families are those of the ranges, each once.
func families(ranges []netip.Prefix) (all []corev1.IPFamily) {
	for _, r := range ranges {
		if f := familyOf(r.Addr()); !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// replaceRange notes a ServiceCIDR. Addresses are given from it while it is
// ready and not being deleted.
func (a *Allocator) replaceRange(old, c *networkingv1.ServiceCIDR) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		delete(a.mu.cidrs, old.Name)
	}
	if c != nil && c.DeletionTimestamp == nil && meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				a.mu.cidrs[c.Name] = append(a.mu.cidrs[c.Name], p.Masked())
			}
		}
	}
	var more []netip.Prefix
	for _, list := range a.mu.cidrs {
		for _, p := range list {
			if !slices.Contains(a.base, p) && !slices.Contains(more, p) {
				more = append(more, p)
			}
		}
	}
	slices.SortFunc(more, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	a.mu.ranges = append(slices.Clone(a.base), more...)
}

// replaceAddress notes an IPAddress that is not a Service's: it is taken.
func (a *Allocator) replaceAddress(old, addr *networkingv1.IPAddress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old != nil {
		if ip, owner := other(old); owner != "" && a.mu.addresses[ip].owner == owner {
			delete(a.mu.addresses, ip)
		}
	}
	if addr != nil {
		if ip, owner := other(addr); owner != "" {
			a.mu.addresses[ip] = claim{owner: owner, stored: true}
		}
	}
}

// other returns the address, and a name of its owner if that is no Service.
func other(addr *networkingv1.IPAddress) (ip netip.Addr, owner string) {
	ip, err := netip.ParseAddr(addr.Name)
	ref := addr.Spec.ParentRef
	if err != nil || ref == nil || ref.Group == "" && ref.Resource == "services" {
		return ip, ""
	}
	return ip, "ipaddress " + addr.Name
}

// Account implements admission.Accountant: the IPAddresses of a Service are
// stored with it.
func (a *Allocator) Account(ctx context.Context, at *admission.Attributes) (entries []admission.Entry, done func(), err error) {
	done = func() {}
	if !at.Is("", "services", "") || at.Operation != admission.Create && at.Operation != admission.Update {
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
// One that names another Service is left over from one that is gone, since
// otherwise its address were reserved.
func (a *Allocator) address(ctx context.Context, ip netip.Addr, s *corev1.Service) (apis.Object, error) {
	want := addressOf(ip, s)
	have := &networkingv1.IPAddress{}
	err := a.reader.Get(ctx, client.ObjectKey{Name: ip.String()}, have)
	switch {
	case apierrors.IsNotFound(err):
		return want, nil
	case err != nil:
		return nil, err
	case have.Spec.ParentRef != nil && *have.Spec.ParentRef == *want.Spec.ParentRef:
		return nil, nil
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
