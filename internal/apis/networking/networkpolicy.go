package networking

import (
	"context"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

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
		Version: "v1",
		New:     func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
		NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		// Even what means the same counts.
		NewGeneration: func(p, old *networkingv1.NetworkPolicy) bool { return !reflect.DeepEqual(p.Spec, old.Spec) },
		Generation:    true,
		Default:       defaultNetworkPolicy,
		Validate: func(_ context.Context, p *networkingv1.NetworkPolicy) field.ErrorList {
			return validateNetworkPolicy(&p.Spec, policyChecks{})
		},
		ValidateUpdate: func(_ context.Context, p, old *networkingv1.NetworkPolicy) field.ErrorList {
			return validateNetworkPolicy(&p.Spec, tolerated(&old.Spec))
		},
		Warnings: func(_ context.Context, p, _ *networkingv1.NetworkPolicy) []string { return blockWarnings(&p.Spec) },
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

// policyChecks are the checks of a policy, loosened by what is wrong with its
// stored form.
type policyChecks struct {
	selectors metav1validation.LabelSelectorValidationOptions
	cidrs     []string
}

func tolerated(old *networkingv1.NetworkPolicySpec) policyChecks {
	var c policyChecks
	c.selectors.AllowInvalidLabelValueInSelector = len(metav1validation.ValidateLabelSelector(&old.PodSelector, c.selectors, nil)) > 0
	peers := func(peers []networkingv1.NetworkPolicyPeer) {
		for i := range peers {
			if b := peers[i].IPBlock; b != nil {
				c.cidrs = append(append(c.cidrs, b.CIDR), b.Except...)
			}
		}
	}
	for i := range old.Ingress {
		peers(old.Ingress[i].From)
	}
	for i := range old.Egress {
		peers(old.Egress[i].To)
	}
	return c
}

func validateNetworkPolicy(s *networkingv1.NetworkPolicySpec, c policyChecks) field.ErrorList {
	path := field.NewPath("spec")
	errs := metav1validation.ValidateLabelSelector(&s.PodSelector, c.selectors, path.Child("podSelector"))
	for i := range s.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(s.Ingress[i].Ports, at.Child("ports"))...)
		errs = append(errs, c.peers(s.Ingress[i].From, at.Child("from"))...)
	}
	for i := range s.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(s.Egress[i].Ports, at.Child("ports"))...)
		errs = append(errs, c.peers(s.Egress[i].To, at.Child("to"))...)
	}
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(path.Child("policyTypes"), &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(path.Child("policyTypes").Index(i), t,
				[]networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}))
		}
	}
	return errs
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		p, path := &ports[i], path.Index(i)
		if p.Protocol != nil {
			errs = append(errs, checks.Supported(*p.Protocol, path.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		if p.Port == nil {
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(path.Child("endPort"), *p.EndPort, "may not be specified when `port` is not specified"))
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
				errs = append(errs, field.Invalid(path.Child("endPort"), p.Port.IntVal, "must be greater than or equal to `port`"))
			}
			for _, msg := range utilvalidation.IsValidPortNum(int(*p.EndPort)) {
				errs = append(errs, field.Invalid(path.Child("endPort"), *p.EndPort, msg))
			}
		}
	}
	return errs
}

func (c policyChecks) peers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range peers {
		p, path := &peers[i], path.Index(i)
		kinds := 0
		if p.PodSelector != nil {
			kinds++
			errs = append(errs, metav1validation.ValidateLabelSelector(p.PodSelector, c.selectors, path.Child("podSelector"))...)
		}
		if p.NamespaceSelector != nil {
			kinds++
			errs = append(errs, metav1validation.ValidateLabelSelector(p.NamespaceSelector, c.selectors, path.Child("namespaceSelector"))...)
		}
		if p.IPBlock != nil {
			kinds++
			errs = append(errs, c.ipBlock(p.IPBlock, path.Child("ipBlock"))...)
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

func (c policyChecks) ipBlock(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := utilvalidation.IsValidCIDRForLegacyField(path.Child("cidr"), b.CIDR, true, c.cidrs)
	_, block, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	for i, except := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(at, except, true, c.cidrs)...)
		_, hole, err := netutils.ParseCIDRSloppy(except)
		if err != nil {
			continue
		}
		outer, _ := block.Mask.Size()
		inner, _ := hole.Mask.Size()
		if !block.Contains(hole.IP) || inner <= outer {
			errs = append(errs, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// blockWarnings warns of blocks that are not in canonical form.
func blockWarnings(s *networkingv1.NetworkPolicySpec) []string {
	var warnings []string
	peers := func(peers []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i := range peers {
			b, at := peers[i].IPBlock, path.Index(i).Child("ipBlock")
			if b == nil {
				continue
			}
			warnings = append(warnings, utilvalidation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
			for k := range b.Except {
				warnings = append(warnings, utilvalidation.GetWarningsForCIDR(at.Child("except").Index(k), b.Except[k])...)
			}
		}
	}
	path := field.NewPath("spec")
	for i := range s.Ingress {
		peers(s.Ingress[i].From, path.Child("ingress").Index(i).Child("from"))
	}
	for i := range s.Egress {
		peers(s.Egress[i].To, path.Child("egress").Index(i).Child("to"))
	}
	return warnings
}
