package core

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// services get cluster IPs and node ports from an allocator that runs between
// PrepareCreate or PrepareUpdate and validation; here their values are only
// checked.
func services() *apis.Resource {
	return apis.Of[*corev1.Service]{
		Names: apis.Names{Resource: "services", Singular: "service", Kind: "Service",
			ShortNames: []string{"svc"}, Categories: []string{"all"}, Namespaced: true},
		Version:             "v1",
		Prefix:              "/registry/services/specs",
		New:                 func() *corev1.Service { return &corev1.Service{} },
		NewList:             func() runtime.Object { return &corev1.ServiceList{} },
		ReturnDeleted:       true,
		AllowCreateOnUpdate: true,
		Default:             defaultService,
		PrepareCreate: func(_ context.Context, s *corev1.Service) {
			if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
				s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
			}
			dropInternalPolicy(s)
		},
		PrepareUpdate:  prepareServiceUpdate,
		ValidateName:   apivalidation.NameIsDNSLabel, // since v1.36 (KEP-5311)
		Validate:       func(_ context.Context, s *corev1.Service) field.ErrorList { return validateService(s, nil) },
		ValidateUpdate: validateServiceUpdate,
		Warnings:       serviceWarnings,
		HasStatus:      true,
		ValidateStatusUpdate: func(_ context.Context, s, _ *corev1.Service) field.ErrorList {
			var p problems
			p.loadBalancerStatus(field.NewPath("status", "loadBalancer"), s)
			return p.list()
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Type", corev1.ServiceSpec{}.SwaggerDoc()["type"]),
			columns.String("Cluster-IP", corev1.ServiceSpec{}.SwaggerDoc()["clusterIP"]),
			columns.String("External-IP", corev1.ServiceSpec{}.SwaggerDoc()["externalIPs"]),
			columns.String("Port(s)", corev1.ServiceSpec{}.SwaggerDoc()["ports"]),
			columns.AgeColumn(),
			columns.Wide(columns.String("Selector", corev1.ServiceSpec{}.SwaggerDoc()["selector"])),
		},
		Cells: func(s *corev1.Service) []any {
			clusterIP := columns.None
			if len(s.Spec.ClusterIPs) > 0 {
				clusterIP = s.Spec.ClusterIPs[0]
			}
			return []any{s.Name, string(s.Spec.Type), clusterIP, serviceExternalIP(s), servicePorts(s),
				columns.Age(s.CreationTimestamp), columns.Labels(s.Spec.Selector)}
		},
		Fields: map[string]func(*corev1.Service) string{
			"spec.clusterIP": func(s *corev1.Service) string { return s.Spec.ClusterIP },
			"spec.type":      func(s *corev1.Service) string { return string(s.Spec.Type) },
		},
		Subresources: []apis.Subresource{proxySubresource("ServiceProxyOptions", func() runtime.Object { return &corev1.ServiceProxyOptions{} })},
	}.Resource()
}

func serviceExternalIP(s *corev1.Service) string {
	own := s.Spec.ExternalIPs
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		if len(own) > 0 {
			return strings.Join(own, ",")
		}
		return columns.None
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if at := firstOf(ingress.IP, ingress.Hostname); at != "" && !contains(all, at) {
				all = append(all, at)
			}
		}
		slices.Sort(all)
		if all = append(all, own...); len(all) > 0 {
			return strings.Join(all, ",")
		}
		return "<pending>"
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return columns.Unknown
}

func servicePorts(s *corev1.Service) string {
	if len(s.Spec.Ports) == 0 {
		return columns.None
	}
	ports := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return strings.Join(ports, ",")
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch c := spec.SessionAffinityConfig; spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{
				ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(corev1.DefaultClientIPServiceAffinitySeconds)},
			}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	if externallyAccessible(s) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && routedInside(s) {
		spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if isLoadBalancer(s) {
		if spec.AllocateLoadBalancerNodePorts == nil {
			spec.AllocateLoadBalancerNodePorts = ptr.To(true)
		}
		for i := range s.Status.LoadBalancer.Ingress {
			if ingress := &s.Status.LoadBalancer.Ingress[i]; ingress.IP != "" && ingress.IPMode == nil {
				ingress.IPMode = ptr.To(corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func isLoadBalancer(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeLoadBalancer }

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// externallyAccessible tells whether traffic from outside of the cluster can
// reach the service.
func externallyAccessible(s *corev1.Service) bool {
	return isLoadBalancer(s) || s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

// needsClusterIP is true of types that nobody knows, too: what such a service
// keeps is for validation to see.
func needsClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

// routedInside tells whether nodes route traffic for the service by its
// internalTrafficPolicy.
func routedInside(s *corev1.Service) bool {
	return isLoadBalancer(s) || s.Spec.Type == corev1.ServiceTypeClusterIP || s.Spec.Type == corev1.ServiceTypeNodePort
}

// dropInternalPolicy clears a policy that has no meaning for a name; one that
// does not exist is left for validation to refuse.
func dropInternalPolicy(s *corev1.Service) {
	policy := ptr.Deref(s.Spec.InternalTrafficPolicy, "")
	if s.Spec.Type == corev1.ServiceTypeExternalName &&
		(policy == corev1.ServiceInternalTrafficPolicyCluster || policy == corev1.ServiceInternalTrafficPolicyLocal) {
		s.Spec.InternalTrafficPolicy = nil
	}
}

func needsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		isLoadBalancer(s) && ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
}

// NeedsHealthCheckPort tells whether a load balancer must ask each node if it
// has endpoints of the service.
func NeedsHealthCheckPort(s *corev1.Service) bool {
	return isLoadBalancer(s) && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func serviceWarnings(_ context.Context, s, _ *corev1.Service) []string {
	var w []string
	spec, at := &s.Spec, field.NewPath("spec")
	if _, set := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; set {
		w = append(w, fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
		for i, ip := range spec.ClusterIPs {
			w = append(w, validation.GetWarningsForIP(at.Child("clusterIPs").Index(i), ip)...)
		}
	}
	headless := spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone
	if headless {
		if spec.LoadBalancerIP != "" {
			w = append(w, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(spec.ExternalIPs) > 0 {
			w = append(w, "spec.externalIPs is ignored for headless services")
		}
		if spec.SessionAffinity != corev1.ServiceAffinityNone {
			w = append(w, "spec.SessionAffinity is ignored for headless services")
		}
	}
	for i, ip := range spec.ExternalIPs {
		w = append(w, validation.GetWarningsForIP(at.Child("externalIPs").Index(i), ip)...)
	}
	named := spec.Type == corev1.ServiceTypeExternalName
	if len(spec.ExternalIPs) > 0 && !headless && !named {
		w = append(w, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if spec.LoadBalancerIP != "" {
		w = append(w, validation.GetWarningsForIP(at.Child("loadBalancerIP"), spec.LoadBalancerIP)...)
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		w = append(w, validation.GetWarningsForCIDR(at.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if named && len(spec.ExternalIPs) > 0 {
		w = append(w, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
	}
	if !named && spec.ExternalName != "" {
		w = append(w, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	if ptr.Deref(spec.TrafficDistribution, "") == corev1.ServiceTrafficDistributionPreferClose {
		w = append(w, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q", corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return w
}
