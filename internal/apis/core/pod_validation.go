package core

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// podCheck collects what is wrong with one pod or pod template.
type podCheck struct {
	problems
	meta *metav1.ObjectMeta
	spec *corev1.PodSpec
	// old is the spec before an update, nil for a new one.
	old *corev1.PodSpec
	// isPod is false for templates, of which less is asked.
	isPod bool
	// volumes are the good volumes by name, claims the names of the pod's
	// resource claims: containers may refer to these.
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

// ValidatePodTemplateSpec checks a template that stands at path.
func ValidatePodTemplateSpec(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	return validatePodTemplateSpec(t, nil, at)
}

func validatePodTemplateSpec(t *corev1.PodTemplateSpec, old *corev1.PodSpec, at *field.Path) field.ErrorList {
	c := podCheck{meta: &t.ObjectMeta, spec: &t.Spec, old: old}
	c.add(metav1validation.ValidateLabels(t.Labels, at.Child("labels")))
	c.add(apivalidation.ValidateAnnotations(t.Annotations, at.Child("annotations")))
	c.annotations(at.Child("annotations"))
	c.podSpec(at.Child("spec"))
	c.matchingAnnotations(at.Child("spec"))
	if len(t.Spec.EphemeralContainers) > 0 {
		c.forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
	return c.list()
}

// ValidatePodTemplateSpecUpdate checks a changed template. What was wrong with
// the old one too is no reason to refuse the new one.
func ValidatePodTemplateSpecUpdate(t, old *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	return tolerate(validatePodTemplateSpec(t, &old.Spec, at), func() field.ErrorList { return validatePodTemplateSpec(old, &old.Spec, at) })
}

// validatePodContent checks all of a pod that is also checked on update of
// one with the spec old, which is nil on create.
func validatePodContent(pod *corev1.Pod, old *corev1.PodSpec) field.ErrorList {
	c := podCheck{meta: &pod.ObjectMeta, spec: &pod.Spec, old: old, isPod: true}
	at := field.NewPath("spec")
	c.annotations(field.NewPath("metadata", "annotations"))
	c.podSpec(at)
	if pod.Spec.ServiceAccountName == "" {
		for i, v := range pod.Spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, source := range v.Projected.Sources {
				if source.ServiceAccountToken != nil {
					c.forbidden(at.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set")
				}
			}
		}
	}
	return c.list()
}

func validatePodCreate(pod *corev1.Pod) field.ErrorList {
	c := podCheck{meta: &pod.ObjectMeta, spec: &pod.Spec, isPod: true}
	at := field.NewPath("spec")
	c.add(validatePodContent(pod, nil))
	if len(pod.Spec.EphemeralContainers) > 0 {
		c.forbidden(at.Child("ephemeralContainers"), "cannot be set on create")
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) != 0 {
		c.forbidden(at.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	c.matchingAnnotations(at)
	return c.list()
}

// podSpec checks c.spec, which stands at path.
func (c *podCheck) podSpec(at *field.Path) {
	spec := c.spec
	if spec.TerminationGracePeriodSeconds == nil {
		c.required(at.Child("terminationGracePeriodSeconds"))
	}
	c.podVolumes(at.Child("volumes"))
	c.podClaims(at.Child("resourceClaims"))
	c.containers(at.Child("containers"))
	c.initContainers(at.Child("initContainers"))
	c.ephemeralContainers(at.Child("ephemeralContainers"))
	c.podResources(at.Child("resources"))
	c.hostNetworkPorts(at.Child("containers"))
	oneOf(&c.problems, at.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(&c.problems, at.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c.add(metav1validation.ValidateLabels(spec.NodeSelector, at.Child("nodeSelector")))
	c.podSecurityContext(at)
	c.affinity(at.Child("affinity"), spec.Affinity)
	c.dnsConfig(at.Child("dnsConfig"))
	for i, gate := range spec.ReadinessGates {
		c.qualifiedName(at.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType))
	}
	c.schedulingGates(at.Child("schedulingGates"), spec.SchedulingGates)
	c.spreadConstraints(at.Child("topologySpreadConstraints"), spec.TopologySpreadConstraints)
	c.hostProcess(at)
	c.userNamespace(at)
	c.names(at)
	if s := spec.ActiveDeadlineSeconds; s != nil && (*s < 1 || *s > math.MaxInt32) {
		c.invalid(at.Child("activeDeadlineSeconds"), *s, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	c.tolerations(at.Child("tolerations"), spec.Tolerations)
	c.hostAliases(at.Child("hostAliases"))
	if spec.PreemptionPolicy != nil {
		oneOf(&c.problems, at.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if spec.Overhead != nil {
		c.resources(at.Child("overhead"), &corev1.ResourceRequirements{Limits: spec.Overhead}, nil, c.containerResourceName)
	}
	c.operatingSystem(at)
	c.fileKeyVolumes(at)
}

// names checks what refers to other objects, or names the pod to others.
func (c *podCheck) names(at *field.Path) {
	spec := c.spec
	subdomain := func(name, value string) {
		if value != "" {
			c.invalids(at.Child(name), value, apivalidation.NameIsDNSSubdomain(value, false))
		}
	}
	subdomain("serviceAccountName", spec.ServiceAccountName)
	subdomain("nodeName", spec.NodeName)
	subdomain("priorityClassName", spec.PriorityClassName)
	if spec.RuntimeClassName != nil {
		c.invalids(at.Child("runtimeClassName"), *spec.RuntimeClassName, apivalidation.NameIsDNSSubdomain(*spec.RuntimeClassName, false))
	}
	if spec.Hostname != "" {
		c.dnsLabel(at.Child("hostname"), spec.Hostname)
	}
	if spec.Subdomain != "" {
		c.dnsLabel(at.Child("subdomain"), spec.Subdomain)
	}
	if override := spec.HostnameOverride; override != nil {
		at := at.Child("hostnameOverride")
		if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
			c.forbidden(at, "may not be specified when setHostnameAsFQDN is true")
		}
		if spec.HostNetwork {
			c.forbidden(at, "may not be specified when hostNetwork is true")
		}
		const longest = 64
		if len(*override) > longest {
			c.one(field.TooLong(at, *override, longest))
		}
		c.dnsSubdomain(at, *override)
	}
}

func (c *podCheck) hostAliases(at *field.Path) {
	for i, alias := range c.spec.HostAliases {
		c.legacyIP(at.Index(i).Child("ip"), alias.IP)
		for j, name := range alias.Hostnames {
			c.dnsSubdomain(at.Index(i).Child("hostnames").Index(j), name)
		}
	}
}

// dnsConfig keeps within what libc's resolver can do.
func (c *podCheck) dnsConfig(at *field.Path) {
	config := c.spec.DNSConfig
	if c.spec.DNSPolicy == corev1.DNSNone {
		if config == nil {
			c.missing(at, "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(config.Nameservers) == 0 {
			c.missing(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if config == nil {
		return
	}
	const nameservers, searches, characters = 3, 32, 2048
	if len(config.Nameservers) > nameservers {
		c.invalid(at.Child("nameservers"), config.Nameservers, fmt.Sprintf("must not have more than %v nameservers", nameservers))
	}
	for i, ip := range config.Nameservers {
		c.legacyIP(at.Child("nameservers").Index(i), ip)
	}
	if len(config.Searches) > searches {
		c.invalid(at.Child("searches"), config.Searches, fmt.Sprintf("must not have more than %v search paths", searches))
	}
	if len(strings.Join(config.Searches, " ")) > characters {
		c.invalid(at.Child("searches"), config.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", characters))
	}
	for i, search := range config.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			c.invalids(at.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))
		}
	}
	for i, option := range config.Options {
		if option.Name == "" {
			c.missing(at.Child("options").Index(i), "must not be empty")
		}
	}
}

func (c *podCheck) podClaims(at *field.Path) {
	c.claims = sets.New[string]()
	for i, claim := range c.spec.ResourceClaims {
		at := at.Index(i)
		switch {
		case claim.Name == "":
			c.required(at.Child("name"))
		case c.claims.Has(claim.Name):
			c.duplicate(at.Child("name"), claim.Name)
		default:
			c.dnsLabel(at.Child("name"), claim.Name)
			c.claims.Insert(claim.Name)
		}
		name, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
		if name != nil && template != nil {
			c.invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		}
		if name == nil && template == nil {
			c.invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if name != nil {
			c.className(at.Child("resourceClaimName"), *name)
		}
		if template != nil {
			c.className(at.Child("resourceClaimTemplateName"), *template)
		}
	}
}

// podResources checks the resources of the pod as a whole: there must be room
// for those of its containers (KEP-2837).
func (c *podCheck) podResources(at *field.Path) {
	r := c.spec.Resources
	if r == nil {
		return
	}
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		c.forbidden(at, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		c.forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	c.resources(at, r, c.claims, c.podResourceName)
	room := func(at *field.Path, whole, parts corev1.ResourceList, counts func(corev1.ResourceName) bool, of string) {
		for _, name := range sortedNames(parts) {
			is, set := whole[name]
			if needed := parts[name]; set && counts(name) && needed.Cmp(is) > 0 {
				c.invalid(at.Key(string(name)), is.String(),
					fmt.Sprintf("must be greater than or equal to aggregate container %s of %s", of, needed.String()))
			}
		}
	}
	pod := &corev1.Pod{Spec: *c.spec}
	all := func(corev1.ResourceName) bool { return true }
	room(at.Child("requests"), r.Requests, resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}), all, "requests")
	// Huge pages cannot be overcommitted: their limits are requests too.
	room(at.Child("limits"), r.Limits, resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}), isHugePages, "limits")
	for i := range c.spec.Containers {
		limits := c.spec.Containers[i].Resources.Limits
		for _, name := range sortedNames(limits) {
			limit := limits[name]
			if whole, set := r.Limits[name]; set && limit.Cmp(whole) > 0 {
				c.invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String()))
			}
		}
	}
}

// hostNetworkPorts: in the node's network every port is a port of the node.
// A template may leave that to be filled in when the pod is made.
func (c *podCheck) hostNetworkPorts(at *field.Path) {
	if !c.spec.HostNetwork {
		return
	}
	for i := range c.spec.Containers {
		for j, port := range c.spec.Containers[i].Ports {
			if port.HostPort != port.ContainerPort && (c.isPod || port.HostPort != 0) {
				c.invalid(at.Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

// visitContainers calls f for every container of the spec, with its path.
func visitContainers(spec *corev1.PodSpec, at *field.Path, f func(c *corev1.Container, at *field.Path)) {
	for i := range spec.InitContainers {
		f(&spec.InitContainers[i], at.Child("initContainers").Index(i))
	}
	for i := range spec.Containers {
		f(&spec.Containers[i], at.Child("containers").Index(i))
	}
	for i := range spec.EphemeralContainers {
		f((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon), at.Child("ephemeralContainers").Index(i))
	}
}
