package networking

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func networkPolicy() *apis.Resource {
	spec := networkingv1.NetworkPolicySpec{}.SwaggerDoc()
	return apis.Of[*networkingv1.NetworkPolicy]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "networkpolicies", Singular: "networkpolicy", Kind: "NetworkPolicy",
			ShortNames: []string{"netpol"},
			Namespaced: true,
		},
		Version:    "v1",
		New:        func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
		NewList:    func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		Generation: true,
		Default:    defaultNetworkPolicy,
		Validate:   validateNetworkPolicy,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Pod-Selector", spec["podSelector"]),
			columns.AgeColumn(),
		},
		Cells: func(p *networkingv1.NetworkPolicy) []any {
			return []any{p.Name, columns.Selector(&p.Spec.PodSelector), columns.Age(p.CreationTimestamp)}
		},
	}.Resource()
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			fill.Pointer(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func validateNetworkPolicy(_ context.Context, p *networkingv1.NetworkPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	errs := metav1validation.ValidateLabelSelector(&s.PodSelector, metav1validation.LabelSelectorValidationOptions{}, path.Child("podSelector"))
	for i := range s.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(s.Ingress[i].Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(s.Ingress[i].From, at.Child("from"))...)
	}
	for i := range s.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(s.Egress[i].Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(s.Egress[i].To, at.Child("to"))...)
	}
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(path.Child("policyTypes"), &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(path.Child("policyTypes").Index(i), t,
				[]networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}))
		}
	}
	return errs
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		p, path := &ports[i], path.Index(i)
		if p.Protocol != nil {
			errs = append(errs, checks.Enum(*p.Protocol, path.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.Port == nil {
			if p.EndPort != nil {
				errs = append(errs, field.Required(path.Child("port"), "must be specified when `endPort` is specified"))
			}
			continue
		}
		if p.Port.Type == intstr.String {
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(path.Child("endPort"), *p.EndPort, "may not be specified when `port` is non-numeric"))
			}
			errs = append(errs, checks.Name(p.Port.StrVal, path.Child("port"), utilvalidation.IsValidPortName)...)
			continue
		}
		for _, msg := range utilvalidation.IsValidPortNum(int(p.Port.IntVal)) {
			errs = append(errs, field.Invalid(path.Child("port"), p.Port.IntVal, msg))
		}
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(path.Child("endPort"), *p.EndPort, "must be greater than or equal to `port`"))
			}
			for _, msg := range utilvalidation.IsValidPortNum(int(*p.EndPort)) {
				errs = append(errs, field.Invalid(path.Child("endPort"), *p.EndPort, msg))
			}
		}
	}
	return errs
}

func validatePeers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range peers {
		p, path := &peers[i], path.Index(i)
		kinds := 0
		if p.PodSelector != nil {
			kinds++
			errs = append(errs, metav1validation.ValidateLabelSelector(p.PodSelector, metav1validation.LabelSelectorValidationOptions{}, path.Child("podSelector"))...)
		}
		if p.NamespaceSelector != nil {
			kinds++
			errs = append(errs, metav1validation.ValidateLabelSelector(p.NamespaceSelector, metav1validation.LabelSelectorValidationOptions{}, path.Child("namespaceSelector"))...)
		}
		if p.IPBlock != nil {
			kinds++
			errs = append(errs, validateIPBlock(p.IPBlock, path.Child("ipBlock"))...)
		}
		switch {
		case kinds == 0:
			errs = append(errs, field.Required(path, "must specify a peer"))
		case kinds > 1 && p.IPBlock != nil:
			errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

func validateIPBlock(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	if errs := utilvalidation.IsValidCIDRForLegacyField(path.Child("cidr"), b.CIDR, false, nil); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	block, parseErr := netip.ParsePrefix(b.CIDR)
	for i, except := range b.Except {
		at := path.Child("except").Index(i)
		if bad := utilvalidation.IsValidCIDRForLegacyField(at, except, false, nil); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		hole, err := netip.ParsePrefix(except)
		if parseErr == nil && err == nil && (!block.Masked().Contains(hole.Masked().Addr()) || hole.Bits() <= block.Bits()) {
			errs = append(errs, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
