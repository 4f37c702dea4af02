package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// preparePodStatus keeps what a kubelet that does not know a field would lose,
// and takes away what is of features that upstream has not turned on.
func preparePodStatus(pod, old *corev1.Pod) {
	pod.OwnerReferences = old.OwnerReferences
	pod.DeletionTimestamp = old.DeletionTimestamp
	pod.Status.NodeAllocatableResourceClaimStatuses = nil
	for _, s := range containerStatuses(&pod.Status) {
		for i := range s.VolumeMounts {
			s.VolumeMounts[i].VolumeStatus = nil
		}
	}
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		for _, was := range old.Status.Conditions {
			if c.Type == was.Type && c.ObservedGeneration == 0 {
				c.ObservedGeneration = was.ObservedGeneration
			}
		}
	}
}

// containerStatuses are those of containers of all kinds.
func containerStatuses(s *corev1.PodStatus) []*corev1.ContainerStatus {
	var all []*corev1.ContainerStatus
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	return all
}

func validatePodStatus(pod, old *corev1.Pod) field.ErrorList {
	var p problems
	at := field.NewPath("status")
	p.fixedAnnotations(pod.Annotations, old.Annotations)
	for i, c := range pod.Status.Conditions {
		at := at.Child("conditions").Index(i)
		p.statusGeneration(at, c.ObservedGeneration)
		p.qualifiedName(at.Child("Type"), string(c.Type))
	}
	if pod.Spec.NodeName != old.Spec.NodeName {
		p.forbidden(at.Child("nodeName"), "may not be changed directly")
	}
	if name := pod.Status.NominatedNodeName; name != old.Status.NominatedNodeName && name != "" {
		if old.Spec.NodeName != "" {
			p.forbidden(at.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node")
		}
		p.invalids(at.Child("nominatedNodeName"), name, apivalidation.NameIsDNSSubdomain(name, false))
	}
	p.statusGeneration(at, pod.Status.ObservedGeneration)
	p.immutable(at.Child("qosClass"), pod.Status.QOSClass, old.Status.QOSClass)
	p.ended(at.Child("containerStatuses"), pod.Status.ContainerStatuses, old.Status.ContainerStatuses, func(name string, code int32) bool {
		return mayRestart(&old.Spec, old.Spec.Containers, name, code)
	})
	p.ended(at.Child("initContainerStatuses"), pod.Status.InitContainerStatuses, old.Status.InitContainerStatuses, func(name string, code int32) bool {
		return mayRestart(&old.Spec, old.Spec.InitContainers, name, code)
	})
	p.ended(at.Child("ephemeralContainerStatuses"), pod.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, func(string, int32) bool { return false })
	p.claimStatuses(at.Child("resourceClaimStatuses"), pod)
	p.extendedClaim(at.Child("extendedResourceClaimStatus"), pod)
	podIPs, hostIPs := make([]string, len(pod.Status.PodIPs)), make([]string, len(pod.Status.HostIPs))
	for i, ip := range pod.Status.PodIPs {
		podIPs[i] = ip.IP
	}
	for i, ip := range pod.Status.HostIPs {
		hostIPs[i] = ip.IP
	}
	p.statusIPs(at.Child("podIPs"), podIPs, pod.Status.PodIPs)
	if len(hostIPs) > 0 && hostIPs[0] != pod.Status.HostIP {
		p.invalid(at.Child("hostIPs").Index(0).Child("ip"), hostIPs[0], "must be equal to `hostIP`")
	}
	p.statusIPs(at.Child("hostIPs"), hostIPs, pod.Status.HostIPs)
	p.containerStatuses(at.Child("containerStatuses"), pod, pod.Status.ContainerStatuses, pod.Spec.Containers)
	p.containerStatuses(at.Child("initContainerStatuses"), pod, pod.Status.InitContainerStatuses, pod.Spec.InitContainers)
	p.containerStatuses(at.Child("ephemeralContainerStatuses"), pod, pod.Status.EphemeralContainerStatuses, nil)
	for i, s := range pod.Status.EphemeralContainerStatuses {
		if len(s.AllocatedResourcesStatus) > 0 {
			p.forbidden(at.Child("ephemeralContainerStatuses").Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status")
		}
	}
	return p.list()
}

func (p *problems) statusGeneration(at *field.Path, n int64) {
	if n < 0 {
		p.invalid(at.Child("observedGeneration"), n, "must be a non-negative integer")
	}
}

// ended checks that a container which has ended, and does not start again by
// the rules, stays so.
func (p *problems) ended(at *field.Path, now, old []corev1.ContainerStatus, restarts func(name string, code int32) bool) {
	for i, was := range old {
		if was.State.Terminated == nil || restarts(was.Name, was.State.Terminated.ExitCode) {
			continue
		}
		for _, is := range now {
			if is.Name == was.Name && is.State.Terminated == nil {
				p.forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state")
			}
		}
	}
}

// mayRestart tells whether one of these containers that has ended with the
// code starts again: its own rules and policy come before the pod's.
func mayRestart(spec *corev1.PodSpec, containers []corev1.Container, name string, code int32) bool {
	// Any container's end may be what restarts them all.
	if restartsAll(spec.InitContainers) || restartsAll(spec.Containers) {
		return true
	}
	policy := spec.RestartPolicy
	for i := range containers {
		c := &containers[i]
		if c.Name != name {
			continue
		}
		if slices.ContainsFunc(c.RestartPolicyRules, func(rule corev1.ContainerRestartRule) bool { return ruleMatches(&rule, code) }) {
			return true
		}
		if c.RestartPolicy != nil {
			policy = corev1.RestartPolicy(*c.RestartPolicy)
		}
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && code != 0
}

// restartsAll tells whether the end of one of the containers may restart all.
func restartsAll(containers []corev1.Container) bool {
	return slices.ContainsFunc(containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(rule corev1.ContainerRestartRule) bool {
			return rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

func ruleMatches(rule *corev1.ContainerRestartRule, code int32) bool {
	if rule.ExitCodes == nil {
		return false
	}
	in := contains(rule.ExitCodes.Values, code)
	return in == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

// containerStatuses checks what the kubelet says of users and devices.
func (p *problems) containerStatuses(at *field.Path, pod *corev1.Pod, statuses []corev1.ContainerStatus, containers []corev1.Container) {
	for i := range statuses {
		s, at := &statuses[i], at.Index(i)
		if s.User != nil && s.User.Linux != nil {
			p.statusUser(at.Child("user", "linux"), s.User.Linux, pod.Spec.OS)
		}
		if containers == nil {
			continue
		}
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
		for j := range s.AllocatedResourcesStatus {
			r, at := &s.AllocatedResourcesStatus[j], at.Child("allocatedResourcesStatus").Index(j)
			if c >= 0 {
				p.allocatedName(at.Child("name"), r.Name, &containers[c].Resources)
			}
			p.resourceHealth(at.Child("resources"), r.Resources)
		}
	}
}

func (p *problems) statusUser(at *field.Path, user *corev1.LinuxContainerUser, system *corev1.PodOS) {
	if system != nil && system.Name == corev1.Windows {
		p.forbidden(at, "cannot be set for a windows pod")
		return
	}
	p.invalids(at.Child("uid"), user.UID, validation.IsValidUserID(user.UID))
	p.invalids(at.Child("gid"), user.GID, validation.IsValidGroupID(user.GID))
	for i, group := range user.SupplementalGroups {
		p.invalids(at.Child("supplementalGroups").Index(i), group, validation.IsValidGroupID(group))
	}
}

// allocatedName checks that a container asks for what it is said to have.
func (p *problems) allocatedName(at *field.Path, name corev1.ResourceName, r *corev1.ResourceRequirements) {
	claimed, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		if _, requested := r.Requests[name]; !requested {
			p.invalid(at, name, "must match one of the container's resource requests")
		}
		return
	}
	claim, request, _ := strings.Cut(claimed, "/")
	if !contains(r.Claims, corev1.ResourceClaim{Name: claim, Request: request}) {
		p.invalid(at, name, "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty")
	}
}

func (p *problems) resourceHealth(at *field.Path, all []corev1.ResourceHealth) {
	seen := sets.New[corev1.ResourceID]()
	for i, r := range all {
		anyOf(p, at.Index(i).Child("health"), &r.Health, corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)
		if seen.Has(r.ResourceID) {
			p.duplicate(at.Index(i).Child("resourceID"), r.ResourceID)
		}
		seen.Insert(r.ResourceID)
	}
}

func (p *problems) claimStatuses(at *field.Path, pod *corev1.Pod) {
	known, seen := sets.New[string](), sets.New[string]()
	for _, claim := range pod.Spec.ResourceClaims {
		known.Insert(claim.Name)
	}
	for i, s := range pod.Status.ResourceClaimStatuses {
		at := at.Index(i).Child("name")
		if !known.Has(s.Name) {
			p.invalid(at, s.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if seen.Has(s.Name) {
			p.duplicate(at, s.Name)
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			p.className(at, *s.ResourceClaimName)
		}
	}
}

// extendedClaim checks the claim that stands for extended resources which
// drivers provide (KEP-5004).
func (p *problems) extendedClaim(at *field.Path, pod *corev1.Pod) {
	s := pod.Status.ExtendedResourceClaimStatus
	if s == nil {
		return
	}
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	mappings := at.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		p.missing(mappings, "at least one request mapping is required")
	}
	for i, m := range s.RequestMappings {
		item := mappings.Index(i)
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == m.ContainerName })
		if c < 0 {
			p.invalid(item.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		} else if _, requested := containers[c].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !requested {
			p.invalid(item.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")
		}
		p.dnsLabel(at.Child("requestName"), m.RequestName)
		if slices.ContainsFunc(s.RequestMappings[:i], func(o corev1.ContainerExtendedResourceRequest) bool {
			return o.ContainerName == m.ContainerName && o.ResourceName == m.ResourceName
		}) {
			p.duplicate(item.Child("containerName"), m.ContainerName)
			p.duplicate(item.Child("resourceName"), m.ResourceName)
		}
	}
	if s.ResourceClaimName == "" {
		p.required(at.Child("resourceClaimName"))
	} else {
		p.className(at.Child("resourceClaimName"), s.ResourceClaimName)
	}
}

// statusIPs checks the addresses of list: at most one of each family.
func (p *problems) statusIPs(at *field.Path, ips []string, list any) {
	for i, ip := range ips {
		p.legacyIP(at.Index(i), ip)
	}
	if len(ips) < 2 {
		return
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		p.one(field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%v", err)))
	}
	if !dual || len(ips) > 2 {
		p.invalid(at, list, "may specify no more than one IP for each IP family")
	}
}
