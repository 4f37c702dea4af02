package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// validateService checks s; had are its cluster IPs before an update, which may
// be of a form that is not accepted any more.
func validateService(s *corev1.Service, had []string) field.ErrorList {
	var p problems
	spec, at := &s.Spec, field.NewPath("spec")
	annotations := field.NewPath("metadata", "annotations")

	hints, hasHints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, hasMode := s.Annotations[corev1.AnnotationTopologyMode]
	if hasHints && hasMode && hints != mode {
		p.invalid(annotations.Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))
	}

	p.serviceType(at, s)
	p.servicePorts(at.Child("ports"), s)
	p.add(metav1validation.ValidateLabels(spec.Selector, at.Child("selector")))
	p.sessionAffinity(at, spec)
	if spec.Type != corev1.ServiceTypeExternalName {
		p.clusterIPs(at, s, had)
	}
	for i, ip := range spec.ExternalIPs {
		at := at.Child("externalIPs").Index(i)
		if p.legacyIP(at, ip) {
			p.ordinaryIP(at, ip)
		}
	}
	p.loadBalancer(at, s)
	p.trafficPolicies(at, s)
	return p.list()
}

func (p *problems) serviceType(at *field.Path, s *corev1.Service) {
	spec := &s.Spec
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if isHeadless(s) {
			p.invalid(at.Child("clusterIPs").Index(0), spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", spec.Type))
		}
	case corev1.ServiceTypeExternalName:
		const not = "may not be set for ExternalName services"
		if len(spec.ClusterIPs) > 0 {
			p.forbidden(at.Child("clusterIPs"), not)
		}
		if len(spec.IPFamilies) > 0 {
			p.forbidden(at.Child("ipFamilies"), not)
		}
		if spec.IPFamilyPolicy != nil {
			p.forbidden(at.Child("ipFamilyPolicy"), not)
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
			p.dnsSubdomain(at.Child("externalName"), name)
		} else {
			p.required(at.Child("externalName"))
		}
	}
	oneOf(p, at.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
}

func (p *problems) servicePorts(at *field.Path, s *corev1.Service) {
	ports := s.Spec.Ports
	if len(ports) == 0 && !isHeadless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		p.required(at)
	}
	names := sets.New[string]()
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	nodePorts, numbers := sets.New[key](), sets.New[key]()
	for i := range ports {
		port, at := &ports[i], at.Index(i)
		if port.Name == "" && len(ports) > 1 {
			p.required(at.Child("name"))
		} else if port.Name != "" {
			p.dnsLabel(at.Child("name"), port.Name)
			if names.Has(port.Name) {
				p.duplicate(at.Child("name"), port.Name)
			}
			names.Insert(port.Name)
		}
		p.port(at.Child("port"), port.Port)
		oneOf(p, at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		p.portOrName(at.Child("targetPort"), port.TargetPort)
		if port.AppProtocol != nil {
			p.qualifiedName(at.Child("appProtocol"), *port.AppProtocol)
		}
		if port.NodePort != 0 {
			if s.Spec.Type == corev1.ServiceTypeClusterIP {
				p.forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
			}
			if k := (key{port.Protocol, port.NodePort}); nodePorts.Has(k) {
				p.duplicate(at.Child("nodePort"), port.NodePort)
			} else {
				nodePorts.Insert(k)
			}
		}
		if k := (key{port.Protocol, port.Port}); numbers.Has(k) {
			p.duplicate(at, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port})
		} else {
			numbers.Insert(k)
		}
	}
}

// portOrName checks a port that is a number or the name of a container's port.
func (p *problems) portOrName(at *field.Path, port intstr.IntOrString) {
	if port.Type == intstr.Int {
		p.port(at, port.IntVal)
	} else {
		p.invalids(at, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
}

func (p *problems) sessionAffinity(at *field.Path, spec *corev1.ServiceSpec) {
	oneOf(p, at.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config, at := spec.SessionAffinityConfig, at.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if config != nil {
			p.forbidden(at, "must not be set when session affinity is None")
		}
	case corev1.ServiceAffinityClientIP:
		const when = "when session affinity type is ClientIP"
		switch {
		case config == nil:
			p.missing(at, when)
		case config.ClientIP == nil:
			p.missing(at.Child("clientIP"), when)
		case config.ClientIP.TimeoutSeconds == nil:
			p.missing(at.Child("clientIP", "timeoutSeconds"), when)
		default:
			const day = 86400
			if seconds := *config.ClientIP.TimeoutSeconds; seconds <= 0 || seconds > day {
				p.invalid(at.Child("clientIP", "timeoutSeconds"), seconds, fmt.Sprintf("must be greater than 0 and less than %d", day))
			}
		}
	}
}

// clusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, and
// that they agree.
func (p *problems) clusterIPs(spec *field.Path, s *corev1.Service, had []string) {
	ips, families, at := s.Spec.ClusterIPs, s.Spec.IPFamilies, spec.Child("clusterIPs")
	switch {
	case s.Spec.ClusterIP == "" && len(ips) != 0:
		p.invalid(at, ips, "must be empty when `clusterIP` is not specified")
	case s.Spec.ClusterIP != "" && len(ips) == 0:
		p.required(at)
	case s.Spec.ClusterIP != "" && ips[0] != s.Spec.ClusterIP:
		p.invalid(at, ips, "first value must match `clusterIP`")
	}
	for i, family := range families {
		at := spec.Child("ipFamilies").Index(i)
		anyOf(p, at, &family, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if contains(families[:i], family) {
			p.duplicate(at, family)
		}
	}
	anyOf(p, spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, corev1.IPFamilyPolicyPreferDualStack,
		corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)

	wrong := false
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				wrong = true
				p.invalid(at, ips, "'None' must be the first and only value")
			}
			continue
		}
		wrong = !contains(had, ip) && !p.legacyIP(at.Index(i), ip) || wrong
	}
	if len(ips) > 2 {
		p.invalid(at, ips, "may only hold up to 2 values")
	}
	if wrong {
		return
	}
	if len(ips) > 1 {
		dual, err := netutils.IsDualStackIPStrings(ips)
		if err != nil {
			p.one(field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%v", err)))
		}
		if !dual {
			p.invalid(at, ips, "may specify no more than one IP for each IP family")
		}
	}
	if isHeadless(s) {
		return
	}
	for i := range min(len(ips), len(families)) {
		if is := familyOf(ips[i]); contains([]corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, families[i]) && is != families[i] {
			p.invalid(at.Index(i), ips[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", families[i], i))
		}
	}
}

const onlyLoadBalancer = "may only be used when `type` is 'LoadBalancer'"

// loadBalancer checks what only services of type LoadBalancer may have.
func (p *problems) loadBalancer(at *field.Path, s *corev1.Service) {
	is, spec := isLoadBalancer(s), &s.Spec
	if len(spec.LoadBalancerSourceRanges) > 0 {
		at := at.Child("LoadBalancerSourceRanges")
		if !is {
			p.forbidden(at, onlyLoadBalancer)
		}
		for i, cidr := range spec.LoadBalancerSourceRanges {
			p.legacyCIDR(at.Index(i), strings.TrimSpace(cidr))
		}
	} else if list, set := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; set {
		at := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
		if !is {
			p.forbidden(at, onlyLoadBalancer)
		}
		if list = strings.TrimSpace(list); list != "" {
			for _, cidr := range strings.Split(list, ",") {
				p.legacyCIDR(at, strings.TrimSpace(cidr))
			}
		}
	}
	if spec.AllocateLoadBalancerNodePorts != nil && !is {
		p.forbidden(at.Child("allocateLoadBalancerNodePorts"), onlyLoadBalancer)
	}
	if spec.AllocateLoadBalancerNodePorts == nil && is {
		p.required(field.NewPath("allocateLoadBalancerNodePorts"))
	}
	p.loadBalancerClass(at.Child("loadBalancerClass"), s)
}

func (p *problems) loadBalancerClass(at *field.Path, s *corev1.Service) {
	switch class := s.Spec.LoadBalancerClass; {
	case class == nil:
	case isLoadBalancer(s):
		p.qualifiedName(at, *class)
	default:
		p.forbidden(at, onlyLoadBalancer)
	}
}

func (p *problems) trafficPolicies(at *field.Path, s *corev1.Service) {
	spec := &s.Spec
	external := at.Child("externalTrafficPolicy")
	if externallyAccessible(s) {
		oneOf(p, external, spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if spec.ExternalTrafficPolicy != "" {
		p.invalid(external, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	health := at.Child("healthCheckNodePort")
	switch {
	case !NeedsHealthCheckPort(s):
		if spec.HealthCheckNodePort != 0 {
			p.invalid(health, spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
		}
	case spec.HealthCheckNodePort == 0:
		p.required(health)
	default:
		p.port(health, spec.HealthCheckNodePort)
	}
	internal := at.Child("internalTrafficPolicy")
	if spec.InternalTrafficPolicy == nil && routedInside(s) {
		p.required(internal)
	}
	anyOf(p, internal, spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	anyOf(p, at.Child("trafficDistribution"), spec.TrafficDistribution, corev1.ServiceTrafficDistributionPreferClose,
		corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
}

func (p *problems) loadBalancerStatus(at *field.Path, s *corev1.Service) {
	at = at.Child("ingress")
	if !isLoadBalancer(s) && len(s.Status.LoadBalancer.Ingress) != 0 {
		p.forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")
		return
	}
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		at := at.Index(i)
		if ingress.IP != "" {
			p.legacyIP(at.Child("ip"), ingress.IP)
		}
		switch {
		case ingress.IPMode == nil && ingress.IP != "":
			p.missing(at.Child("ipMode"), "must be specified when `ip` is set")
		case ingress.IPMode != nil && ingress.IP == "":
			p.forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set")
		default:
			anyOf(p, at.Child("ipMode"), ingress.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		if ingress.Hostname != "" {
			p.dnsSubdomain(at.Child("hostname"), ingress.Hostname)
			if netutils.ParseIPSloppy(ingress.Hostname) != nil {
				p.invalid(at.Child("hostname"), ingress.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
}
