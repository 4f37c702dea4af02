package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// prepareServiceUpdate spares clients what only the server knows: values that
// were allocated are kept when a client leaves them out, and dropped when the
// service's new type has no use for them and the client did not touch them.
func prepareServiceUpdate(_ context.Context, s, old *corev1.Service) {
	keepAllocated(s, old)
	alignClusterIPs(s, old)
	dropUnused(s, old)
	dropInternalPolicy(s)
}

func keepAllocated(s, old *corev1.Service) {
	if needsClusterIP(old) && needsClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if needsNodePort(old) && needsNodePort(s) {
		keepNodePorts(s.Spec.Ports, old.Spec.Ports)
	}
	if NeedsHealthCheckPort(old) && NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts gives each port without a node port that of the old port of
// the same name, unless another port asks for it.
func keepNodePorts(ports, old []corev1.ServicePort) {
	known, taken := map[string]int32{}, map[int32]bool{}
	for _, p := range old {
		known[p.Name] = p.NodePort
	}
	for _, p := range ports {
		taken[p.NodePort] = true
	}
	for i := range ports {
		if p := &ports[i]; p.NodePort == 0 && !taken[known[p.Name]] {
			p.NodePort = known[p.Name]
		}
	}
}

// alignClusterIPs lets clients that know only one of clusterIP and clusterIPs
// change just that one.
func alignClusterIPs(s, old *corev1.Service) {
	sameList := slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case s.Spec.ClusterIP != old.Spec.ClusterIP && sameList:
		s.Spec.ClusterIPs = nil
		if s.Spec.ClusterIP != "" {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
	case s.Spec.ClusterIP == old.Spec.ClusterIP && !sameList && len(s.Spec.ClusterIPs) == 0:
		s.Spec.ClusterIP = ""
	}
}

// dropUnused clears what belongs to the old type only, where it is unchanged;
// a change is the client's wish and is left for validation to refuse.
func dropUnused(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if needsClusterIP(old) && !needsClusterIP(s) {
		if slices.Equal(spec.ClusterIPs, was.ClusterIPs) && spec.ClusterIP == was.ClusterIP {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if ptr.Equal(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if hasNodePorts(old) && !hasNodePorts(s) && sameNodePorts(spec.Ports, was.Ports) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckPort(old) && !NeedsHealthCheckPort(s) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if isLoadBalancer(old) && !isLoadBalancer(s) {
		if ptr.Equal(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(s) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

// hasNodePorts tells whether ports of the service may have node ports.
func hasNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || isLoadBalancer(s)
}

// sameNodePorts tells whether ports uses no node port that old did not use.
func sameNodePorts(ports, old []corev1.ServicePort) bool {
	for _, p := range ports {
		if p.NodePort != 0 && !slices.ContainsFunc(old, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort }) {
			return false
		}
	}
	return true
}

func validateServiceUpdate(_ context.Context, s, old *corev1.Service) field.ErrorList {
	var p problems
	spec := field.NewPath("spec")
	hasIPs := s.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName
	if hasIPs && !(isHeadless(s) && isHeadless(old)) {
		p.clusterIPsChange(spec, s, old)
	}
	if hasIPs && !isHeadless(s) && !isHeadless(old) {
		p.ipFamiliesChange(spec, s, old)
	}
	if isLoadBalancer(s) && isLoadBalancer(old) && !ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		p.invalid(spec.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, onceSet)
	}
	p.loadBalancerClass(spec.Child("loadBalancerClass"), s)
	if NeedsHealthCheckPort(s) && NeedsHealthCheckPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		p.forbidden(spec.Child("healthCheckNodePort"), "field is immutable")
	}
	p.add(tolerate(validateService(s, old.Spec.ClusterIPs), func() field.ErrorList { return validateService(old, old.Spec.ClusterIPs) }))
	return p.list()
}

const onceSet = "may not change once set"

// clusterIPsChange lets a secondary cluster IP come and go, and nothing else.
func (p *problems) clusterIPsChange(spec *field.Path, s, old *corev1.Service) {
	now, was, at := s.Spec.ClusterIPs, old.Spec.ClusterIPs, spec.Child("clusterIPs")
	if len(now) == 0 && len(was) > 0 {
		p.invalid(at.Index(0), now, "primary clusterIP can not be unset")
	}
	compare := min(len(now), len(was))
	if len(now) != len(was) {
		compare = min(compare, 1)
	}
	for i := range compare {
		if now[i] != was[i] {
			p.invalid(at.Index(i), now, onceSet)
		}
	}
	if len(was) > len(now) && len(now) == 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		p.invalid(spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP")
	}
}

func (p *problems) ipFamiliesChange(spec *field.Path, s, old *corev1.Service) {
	now, was, at := s.Spec.IPFamilies, old.Spec.IPFamilies, spec.Child("ipFamilies")
	if len(was) > len(now) && len(s.Spec.ClusterIPs) == 0 {
		p.invalid(at.Index(0), now, "primary ipFamily can not be unset")
	}
	if len(now) == len(was) {
		for i := range now {
			if now[i] != was[i] {
				p.invalid(at.Index(0), now, onceSet)
			}
		}
	} else if len(now) > 0 && len(was) > 0 && now[0] != was[0] {
		// Upstream shows the addresses here.
		p.invalid(at.Index(0), s.Spec.ClusterIPs, onceSet)
	}
	if len(was) > len(now) && len(now) == 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		p.invalid(spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily")
	}
}

// DefaultServiceFamilies fills a service's ipFamilyPolicy and ipFamilies in
// from what its author did say (the policy, families, cluster IPs) and from
// the cluster's address families, the primary one first. old is nil on create.
// It must run after PrepareCreate or PrepareUpdate and before cluster IPs are
// allocated: one is due for each family. The errors tell what is wrong with
// these fields, so that nothing is allocated for them, or what the cluster
// cannot do.
func DefaultServiceFamilies(s, old *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	if !needsClusterIP(s) || len(cluster) == 0 || old != nil && staysPreferred(s, old) {
		return nil
	}
	spec := &s.Spec
	headlessWithoutSelector := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			policy = *old.Spec.IPFamilyPolicy
		case headlessWithoutSelector:
			// Its endpoints, which somebody makes by hand, can be of any family.
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	var p problems
	at := field.NewPath("spec")
	var had []string
	if old != nil {
		had = old.Spec.ClusterIPs
	}
	if p.clusterIPs(at, s, had); p.count() > 0 {
		return p.list()
	}
	single := *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if old != nil {
		p.releaseFamily(at, s, old)
	}
	if single && len(spec.ClusterIPs) == 2 {
		p.invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified")
	}
	if single && len(spec.IPFamilies) == 2 {
		p.invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified")
	}
	p.inferFamilies(at.Child("clusterIPs"), s, cluster)
	if p.count() > 0 {
		return p.list()
	}
	if !headlessWithoutSelector {
		if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(cluster) < 2 {
			p.invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services")
		}
		for i, family := range spec.IPFamilies {
			if !contains(cluster, family) {
				p.invalid(at.Child("ipFamilies").Index(i), family, "not configured on this cluster")
			}
		}
		if p.count() > 0 {
			return p.list()
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{cluster[0]}
	}
	if !single && len(spec.IPFamilies) == 1 && (headlessWithoutSelector || len(cluster) == 2) {
		other := corev1.IPv6Protocol
		if spec.IPFamilies[0] == corev1.IPv6Protocol {
			other = corev1.IPv4Protocol
		}
		spec.IPFamilies = append(spec.IPFamilies, other)
	}
	return nil
}

// staysPreferred tells whether an update leaves alone how many families a
// service that takes what the cluster has uses: it gets no other ones because
// the cluster's changed.
func staysPreferred(s, old *corev1.Service) bool {
	prefers := func(policy *corev1.IPFamilyPolicy) bool {
		return policy == nil || *policy == corev1.IPFamilyPolicyPreferDualStack
	}
	return s.Spec.IPFamilyPolicy != nil && s.Spec.Type == old.Spec.Type && routedInside(s) &&
		prefers(s.Spec.IPFamilyPolicy) && prefers(old.Spec.IPFamilyPolicy) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// releaseFamily takes the second address and family from a service whose
// policy is now SingleStack; with another policy they may not be left out.
func (p *problems) releaseFamily(at *field.Path, s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(spec.ClusterIPs) > 1 && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIPs = spec.ClusterIPs[:1]
		}
		if len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = spec.IPFamilies[:1]
		}
		return
	}
	if n := len(spec.ClusterIPs); n > 0 && n < len(was.ClusterIPs) {
		p.invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP")
	}
	if n := len(spec.IPFamilies); n > 0 && n < len(was.IPFamilies) {
		p.invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family")
	}
}

// inferFamilies adds the families of cluster IPs whose family is not given.
func (p *problems) inferFamilies(at *field.Path, s *corev1.Service, cluster []corev1.IPFamily) {
	for i, ip := range s.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			return
		}
		if i < len(s.Spec.IPFamilies) {
			continue
		}
		if family := familyOf(ip); contains(cluster, family) {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, family)
		} else {
			p.invalid(at.Index(i), s.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family))
		}
	}
}

func familyOf(ip string) corev1.IPFamily {
	if netutils.IsIPv6String(ip) {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
