package framework

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// PodInfo is a pod with what the rules need of it, worked out once. It is
// immutable.
type PodInfo struct {
	*corev1.Pod
	Priority          int32
	Requests, NonZero Resources
	HostPorts         []HostPort
	// Required and preferred terms of affinity and anti-affinity to pods.
	Affinity, AntiAffinity                   []Term
	PreferredAffinity, PreferredAntiAffinity []Term
	// Class is equal for pods that all rules treat alike. It is empty for pods
	// that already have a node. Shape is the same without regard to labels.
	Class, Shape string
	// Selects are the labels of pods that the pod's selectors look at.
	Selects []string
	// Lone is set for pods with rules that depend on more than nodes and the
	// pods on them: on volumes and on claims of devices. What was found out about
	// nodes for such a pod is not true for long.
	Lone bool
}

// HasTerms reports whether the pod says anything about other pods.
func (p *PodInfo) HasTerms() bool {
	return len(p.Affinity)+len(p.AntiAffinity)+len(p.PreferredAffinity)+len(p.PreferredAntiAffinity) > 0
}

// QueuedPod is a pod that waits for a node.
type QueuedPod struct {
	*PodInfo
	// Added is when the pod was put on the queue the last time.
	Added time.Time
	// First is when the pod could be tried for the first time.
	First time.Time
	// Attempts counts the attempts to schedule it.
	Attempts int
	// RejectedBy names the plugins that rejected it in the last attempt.
	RejectedBy []string
}

// HostPort is a port of the node that a pod takes.
type HostPort struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// AnyIP is the address of a host port that takes all of the node's addresses.
const AnyIP = "0.0.0.0"

// Term is a term of affinity or anti-affinity to pods.
type Term struct {
	Namespaces        map[string]bool
	NamespaceSelector labels.Selector
	Selector          labels.Selector
	TopologyKey       string
	// Weight is that of a preferred term.
	Weight int64
}

// NewPodInfo works out what the rules need of pod.
func NewPodInfo(pod *corev1.Pod) *PodInfo {
	p := &PodInfo{Pod: pod, Priority: corev1helpers.PodPriority(pod)}
	p.Requests, p.NonZero = requests(pod)
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					p.HostPorts = append(p.HostPorts, hostPort(port))
				}
			}
		}
	}
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			p.Affinity = terms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			p.PreferredAffinity = weightedTerms(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			p.AntiAffinity = terms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			p.PreferredAntiAffinity = weightedTerms(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	if pod.Spec.NodeName == "" {
		p.Lone = lone(pod)
		p.Shape = shapeOf(pod, p.Lone)
		p.Class = p.Shape + labels.Set(pod.Labels).String()
	}
	p.Selects = selects(pod)
	return p
}

// Alone returns the pod as one whose rules depend on more than nodes and pods.
func (p *PodInfo) Alone() *PodInfo {
	if p.Lone {
		return p
	}
	alone := *p
	alone.Lone, alone.Shape = true, shapeOf(p.Pod, true)
	alone.Class = alone.Shape + labels.Set(p.Labels).String()
	return &alone
}

// SameForOthers reports whether p and o, two states of a pod on a node, are the
// same for all rules about other pods.
func (p *PodInfo) SameForOthers(o *PodInfo) bool {
	return maps.Equal(p.Labels, o.Labels) && (p.DeletionTimestamp == nil) == (o.DeletionTimestamp == nil) &&
		p.Requests.Equal(&o.Requests) && p.NonZero.Equal(&o.NonZero)
}

func hostPort(port corev1.ContainerPort) HostPort {
	h := HostPort{IP: port.HostIP, Protocol: port.Protocol, Port: port.HostPort}
	if h.IP == "" {
		h.IP = AnyIP
	}
	if h.Protocol == "" {
		h.Protocol = corev1.ProtocolTCP
	}
	return h
}

func terms(pod *corev1.Pod, all []corev1.PodAffinityTerm) []Term {
	var out []Term
	for i := range all {
		out = append(out, term(pod, &all[i], 0))
	}
	return out
}

func weightedTerms(pod *corev1.Pod, all []corev1.WeightedPodAffinityTerm) []Term {
	var out []Term
	for i := range all {
		out = append(out, term(pod, &all[i].PodAffinityTerm, int64(all[i].Weight)))
	}
	return out
}

// term parses a term. Its selectors were validated by the API, which also put
// matchLabelKeys into the selector; what does not parse matches nothing.
func term(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) Term {
	out := Term{TopologyKey: t.TopologyKey, Weight: weight, Namespaces: map[string]bool{}}
	for _, ns := range t.Namespaces {
		out.Namespaces[ns] = true
	}
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		out.Namespaces[pod.Namespace] = true
	}
	out.Selector = selector(t.LabelSelector)
	out.NamespaceSelector = selector(t.NamespaceSelector)
	return out
}

func selector(s *metav1.LabelSelector) labels.Selector {
	if s != nil && len(s.MatchExpressions) == 0 {
		return labels.SelectorFromValidatedSet(s.MatchLabels)
	}
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

// Matches reports whether the term is about pod; namespaces gives the labels
// of namespaces.
func (t *Term) Matches(pod *corev1.Pod, namespaces func(name string) labels.Set) bool {
	if !t.Selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	return t.Namespaces[pod.Namespace] || !isNothing(t.NamespaceSelector) && t.NamespaceSelector.Matches(namespaces(pod.Namespace))
}

func isNothing(s labels.Selector) bool {
	_, selectable := s.Requirements()
	return !selectable
}

// shapeOf returns a key that is equal for pods that differ, but for their labels,
// in nothing that any rule looks at.
func shapeOf(pod *corev1.Pod, lone bool) string {
	reduced := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace},
		Spec: corev1.PodSpec{
			SchedulerName: pod.Spec.SchedulerName,
			NodeSelector:  pod.Spec.NodeSelector, Affinity: pod.Spec.Affinity, Tolerations: pod.Spec.Tolerations,
			TopologySpreadConstraints: pod.Spec.TopologySpreadConstraints, Overhead: pod.Spec.Overhead,
			Resources: pod.Spec.Resources, Priority: pod.Spec.Priority, PreemptionPolicy: pod.Spec.PreemptionPolicy, HostNetwork: pod.Spec.HostNetwork,
			InitContainers: containersOf(pod.Spec.InitContainers), Containers: containersOf(pod.Spec.Containers),
		},
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		reduced.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	if lone {
		reduced.UID = pod.UID
	}
	key, err := reduced.Marshal()
	if err != nil {
		return string(pod.UID)
	}
	return string(key)
}

// selects returns the labels that the selectors of the pod look at.
func selects(pod *corev1.Pod) []string {
	var keys []string
	add := func(s *metav1.LabelSelector) {
		if s == nil {
			return
		}
		for key := range s.MatchLabels {
			keys = append(keys, key)
		}
		for i := range s.MatchExpressions {
			keys = append(keys, s.MatchExpressions[i].Key)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		add(pod.Spec.TopologySpreadConstraints[i].LabelSelector)
		keys = append(keys, pod.Spec.TopologySpreadConstraints[i].MatchLabelKeys...)
	}
	if pod.Spec.Affinity == nil {
		return keys
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			add(required[i].LabelSelector)
		}
		for i := range preferred {
			add(preferred[i].PodAffinityTerm.LabelSelector)
		}
	}
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return keys
}

// lone reports whether the pod has claims, or volumes that a node can have only
// some of, or that not all nodes can have.
func lone(pod *corev1.Pod) bool {
	if len(pod.Spec.ResourceClaims) > 0 {
		return true
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i].VolumeSource
		free := v.EmptyDir != nil || v.HostPath != nil || v.ConfigMap != nil || v.Secret != nil || v.Projected != nil ||
			v.DownwardAPI != nil || v.NFS != nil || v.Image != nil || v.GitRepo != nil
		if !free {
			return true
		}
	}
	return false
}

func containersOf(all []corev1.Container) []corev1.Container {
	if len(all) == 0 {
		return nil
	}
	out := make([]corev1.Container, len(all))
	for i := range all {
		c := &all[i]
		out[i] = corev1.Container{Image: c.Image, Resources: c.Resources, Ports: c.Ports, RestartPolicy: c.RestartPolicy}
	}
	return out
}
