package core

import (
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// defaultPod fills in what a pod's author left out: what every pod spec has,
// and what only shows in the pods themselves.
func defaultPod(pod *corev1.Pod) {
	spec := &pod.Spec
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			r := &containers[i].Resources
			if r.Limits != nil && r.Requests == nil {
				r.Requests = corev1.ResourceList{}
			}
			addMissing(r.Requests, r.Limits)
		}
	}
	defaultPodResources(pod)
	defaultPodIPs(&pod.Status)
	// Templates keep what was taken from them once.
	if ptr.Deref(spec.TerminationGracePeriodSeconds, 0) < 0 {
		spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
	}
	if spec.EnableServiceLinks == nil {
		spec.EnableServiceLinks = ptr.To(corev1.DefaultEnableServiceLinks)
	}
	if spec.HostNetwork {
		for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range containers {
				for j := range containers[i].Ports {
					if port := &containers[i].Ports[j]; port.HostPort == 0 {
						port.HostPort = port.ContainerPort
					}
				}
			}
		}
	}
	defaultPodSpec(spec)
	roundUpStatus(&pod.Status)
}

func roundUpStatus(s *corev1.PodStatus) {
	roundUp(s.AllocatedResources)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
	for _, c := range containerStatuses(s) {
		roundUp(c.AllocatedResources)
		if c.Resources != nil {
			roundUp(c.Resources.Limits)
			roundUp(c.Resources.Requests)
		}
	}
}

// defaultPodResources completes resources that are given for the pod as a
// whole, and only in part, from those of its containers (KEP-2837).
func defaultPodResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	missing := func(list corev1.ResourceList, name corev1.ResourceName) bool {
		_, set := list[name]
		return !set && resourcehelper.IsSupportedPodLevelResource(name)
	}
	for name, q := range resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}) {
		if isHugePages(name) && missing(r.Limits, name) {
			if r.Limits == nil {
				r.Limits = corev1.ResourceList{}
			}
			r.Limits[name] = q.DeepCopy()
		}
	}
	if len(r.Limits) == 0 {
		return
	}
	requests := r.Requests
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	for name, q := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if mayOvercommit(name) && missing(requests, name) {
			requests[name] = q.DeepCopy()
		}
	}
	for name, q := range r.Limits {
		if missing(requests, name) {
			requests[name] = q.DeepCopy()
		}
	}
	if len(requests) > 0 {
		r.Requests = requests
	}
}

// defaultPodIPs lets clients know only one of podIP, which wins, and podIPs.
func defaultPodIPs(s *corev1.PodStatus) {
	switch {
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	}
}

// DefaultPodTemplateSpec fills in what a template's author left out. It is
// idempotent.
func DefaultPodTemplateSpec(t *corev1.PodTemplateSpec) {
	defaultPodSpec(&t.Spec)
	dropGated(&t.Spec)
}

// defaultPodSpec fills in what a pod's or template's author left out. It is
// idempotent.
func defaultPodSpec(spec *corev1.PodSpec) {
	defaultTo(&spec.DNSPolicy, corev1.DNSClusterFirst)
	defaultTo(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	defaultTo(&spec.SchedulerName, corev1.DefaultSchedulerName)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	if spec.TerminationGracePeriodSeconds == nil {
		spec.TerminationGracePeriodSeconds = ptr.To(int64(corev1.DefaultTerminationGracePeriodSeconds))
	}
	// The older name of serviceAccountName, which clients still read.
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		defaultContainer((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	roundUp(spec.Overhead)
	if spec.Resources != nil {
		roundUp(spec.Resources.Limits)
		roundUp(spec.Resources.Requests)
	}
}

// defaultTo sets an empty value.
func defaultTo[T comparable](field *T, value T) {
	var empty T
	if *field == empty {
		*field = value
	}
}

// defaultPointer sets a missing value.
func defaultPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func defaultContainer(c *corev1.Container) {
	defaultTo(&c.ImagePullPolicy, pullPolicy(c.Image))
	defaultTo(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	defaultTo(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		defaultTo(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from == nil {
			continue
		}
		if from.FieldRef != nil {
			defaultTo(&from.FieldRef.APIVersion, "v1")
		}
		if from.FileKeyRef != nil {
			defaultPointer(&from.FileKeyRef.Optional, false)
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe == nil {
			continue
		}
		defaultTo(&probe.TimeoutSeconds, 1)
		defaultTo(&probe.PeriodSeconds, 10)
		defaultTo(&probe.SuccessThreshold, 1)
		defaultTo(&probe.FailureThreshold, 3)
		defaultHTTPGet(probe.HTTPGet)
		if probe.GRPC != nil {
			defaultPointer(&probe.GRPC.Service, "")
		}
	}
	if c.Lifecycle != nil {
		for _, handler := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if handler != nil {
				defaultHTTPGet(handler.HTTPGet)
			}
		}
	}
}

func defaultHTTPGet(get *corev1.HTTPGetAction) {
	if get != nil {
		defaultTo(&get.Path, "/")
		defaultTo(&get.Scheme, corev1.URISchemeHTTP)
	}
}

// pullPolicy is Always for images whose content may change under their name:
// those with the tag latest, or with neither tag nor digest.
func pullPolicy(image string) corev1.PullPolicy {
	name, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := name.(reference.Tagged); ok && tagged.Tag() == "latest" || reference.IsNameOnly(name) {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func defaultVolume(s *corev1.VolumeSource) {
	if ptr.AllPtrFieldsNil(s) {
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if s.HostPath != nil {
		defaultPointer(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.Secret != nil {
		defaultPointer(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if s.ConfigMap != nil {
		defaultPointer(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if s.DownwardAPI != nil {
		defaultPointer(&s.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownwardFiles(s.DownwardAPI.Items)
	}
	if s.Projected != nil {
		defaultPointer(&s.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range s.Projected.Sources {
			source := &s.Projected.Sources[i]
			if source.DownwardAPI != nil {
				defaultDownwardFiles(source.DownwardAPI.Items)
			}
			if source.ServiceAccountToken != nil {
				defaultPointer(&source.ServiceAccountToken.ExpirationSeconds, 3600)
			}
			if source.PodCertificate != nil {
				defaultPointer(&source.PodCertificate.MaxExpirationSeconds, 86400)
			}
		}
	}
	if s.ISCSI != nil {
		defaultTo(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		defaultTo(&s.RBD.RBDPool, "rbd")
		defaultTo(&s.RBD.RadosUser, "admin")
		defaultTo(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.AzureDisk != nil {
		defaultAzureDisk(s.AzureDisk)
	}
	if s.ScaleIO != nil {
		defaultTo(&s.ScaleIO.StorageMode, "ThinProvisioned")
		defaultTo(&s.ScaleIO.FSType, "xfs")
	}
	if s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil {
		DefaultPersistentVolumeClaimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec)
	}
	if s.Image != nil {
		defaultTo(&s.Image.PullPolicy, pullPolicy(s.Image.Reference))
	}
}

func defaultAzureDisk(s *corev1.AzureDiskVolumeSource) {
	defaultPointer(&s.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	defaultPointer(&s.Kind, corev1.AzureSharedBlobDisk)
	defaultPointer(&s.FSType, "ext4")
	defaultPointer(&s.ReadOnly, false)
}

func defaultDownwardFiles(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		if ref := files[i].FieldRef; ref != nil {
			defaultTo(&ref.APIVersion, "v1")
		}
	}
}

// podQOS is the class that decides who goes first when a node runs out of
// memory: Guaranteed if every container has a limit of cpu and memory that its
// request equals, BestEffort if none says anything, Burstable otherwise.
// Resources of the pod as a whole decide alone where they are given.
func podQOS(pod *corev1.Pod) corev1.PodQOSClass {
	all := make([]corev1.ResourceRequirements, 0, len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	if pod.Spec.Resources != nil {
		all = append(all, *pod.Spec.Resources)
	} else {
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				all = append(all, containers[i].Resources)
			}
		}
	}
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	add := func(total corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
		if q.Sign() > 0 {
			q.Add(total[name])
			total[name] = q
		}
	}
	limited := true
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit := r.Limits[name]
			add(requests, name, r.Requests[name].DeepCopy())
			add(limits, name, limit.DeepCopy())
			limited = limited && limit.Sign() > 0
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	same := len(requests) == len(limits)
	for name, request := range requests {
		same = same && request.Cmp(limits[name]) == 0
	}
	if limited && same {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// mergeLabelKeys turns the label keys that affinity terms and spread
// constraints name into requirements for the pod's own values, so that they
// mean the same to the end of the pod's life.
func mergeLabelKeys(pod *corev1.Pod) {
	if a := pod.Spec.Affinity; a != nil {
		if t := a.PodAffinity; t != nil {
			mergeAffinityKeys(t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
		if t := a.PodAntiAffinity; t != nil {
			mergeAffinityKeys(t.RequiredDuringSchedulingIgnoredDuringExecution, t.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		requireValues(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
	}
}

func mergeAffinityKeys(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, labels map[string]string) {
	merge := func(t *corev1.PodAffinityTerm) {
		requireValues(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
		requireValues(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
	}
	for i := range preferred {
		merge(&preferred[i].PodAffinityTerm)
	}
	for i := range required {
		merge(&required[i])
	}
}

func requireValues(s *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator, labels map[string]string) {
	// No selector selects nothing, whatever is added to it.
	if s == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
		}
	}
}

// dropGated empties the fields whose features upstream has not turned on.
func dropGated(spec *corev1.PodSpec) {
	spec.SchedulingGroup = nil
	drop := func(c *corev1.Container) {
		if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
			return
		}
		if c.Lifecycle.StopSignal = nil; *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	}
	for i := range spec.InitContainers {
		drop(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		drop(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		drop((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}
