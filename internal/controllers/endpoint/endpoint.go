// Package endpoint holds the rules by which pods become endpoints of Services,
// which EndpointSlices and Endpoints share.
package endpoint

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/net"

	"skiff/internal/controllers/pods"
)

// Serves reports whether Services list the pod at all: it has an address and
// has not ended.
func Serves(p *corev1.Pod) bool { return p.Status.PodIP != "" && !pods.Finished(p) }

// Selects reports whether the service has a selector that takes the pod.
func Selects(s *corev1.Service, p *corev1.Pod) bool {
	return len(s.Spec.Selector) > 0 && s.Spec.Type != corev1.ServiceTypeExternalName &&
		labels.SelectorFromValidatedSet(s.Spec.Selector).Matches(labels.Set(p.Labels))
}

// Changed reports whether a pod's change concerns the Services that take it.
func Changed(old, pod *corev1.Pod) bool {
	return Serves(old) != Serves(pod) || pods.Ready(old) != pods.Ready(pod) ||
		(old.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil) ||
		!same(old.Status.PodIPs, pod.Status.PodIPs) ||
		old.Spec.NodeName != pod.Spec.NodeName || old.Spec.Hostname != pod.Spec.Hostname || old.Spec.Subdomain != pod.Spec.Subdomain
}

func same(a, b []corev1.PodIP) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Addresses are the pod's addresses of one family.
func Addresses(p *corev1.Pod, ipv6 bool) []string {
	var all []string
	for _, ip := range p.Status.PodIPs {
		if net.IsIPv6String(ip.IP) == ipv6 {
			all = append(all, ip.IP)
		}
	}
	return all
}

// TargetPort resolves the service's target port at the pod; ok is false if the
// pod has no container port of that name and protocol.
func TargetPort(p *corev1.Pod, port *corev1.ServicePort) (number int32, ok bool) {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port, true
		}
		return port.TargetPort.IntVal, true
	}
	find := func(containers []corev1.Container) (int32, bool) {
		for _, c := range containers {
			for _, cp := range c.Ports {
				if cp.Name == port.TargetPort.StrVal && cp.Protocol == port.Protocol {
					return cp.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if n, ok := find(p.Spec.Containers); ok {
		return n, true
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if n, ok := find([]corev1.Container{c}); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// Hostname is the pod's name within the service's DNS domain, if it has one.
func Hostname(p *corev1.Pod, s *corev1.Service) string {
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name && p.Namespace == s.Namespace {
		return p.Spec.Hostname
	}
	return ""
}
