package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// PodTemplateWarnings tells what is allowed in a template but hardly meant; at
// is the template's path.
func PodTemplateWarnings(t *corev1.PodTemplateSpec, at *field.Path) []string {
	return podSpecWarnings(&t.Spec, &t.ObjectMeta, at)
}

// warnings collects texts of the form "path: what".
type warnings []string

func (w *warnings) add(at *field.Path, format string, args ...any) {
	*w = append(*w, fmt.Sprintf("%s: %s", at, fmt.Sprintf(format, args...)))
}

// podSpecWarnings looks at a template at path, or at a pod, whose path is nil.
func podSpecWarnings(spec *corev1.PodSpec, meta *metav1.ObjectMeta, at *field.Path) []string {
	var w warnings
	specPath, annotations := at.Child("spec"), at.Child("metadata", "annotations")
	w.nodeLabels(specPath, spec)
	for key, instead := range map[string]string{
		"scheduler.alpha.kubernetes.io/critical-pod":  `non-functional in v1.16+; use the "priorityClassName" field instead`,
		"security.alpha.kubernetes.io/sysctls":        `non-functional in v1.11+; use the "sysctls" field instead`,
		"security.alpha.kubernetes.io/unsafe-sysctls": `non-functional in v1.11+; use the "sysctls" field instead`,
		corev1.SeccompPodAnnotationKey:                `non-functional in v1.27+; use the "seccompProfile" field instead`,
	} {
		field := key == corev1.SeccompPodAnnotationKey && spec.SecurityContext != nil && spec.SecurityContext.SeccompProfile != nil
		if _, set := meta.Annotations[key]; set && !field {
			w.add(annotations.Key(key), "%s", instead)
		}
	}
	w.volumes(specPath.Child("volumes"), spec.Volumes)
	w.sharedPaths(spec.Volumes)
	seen := sets.New[string]()
	for i, alias := range spec.HostAliases {
		if seen.Has(alias.IP) {
			w.add(specPath.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", alias.IP)
		}
		seen.Insert(alias.IP)
	}
	seen = sets.New[string]()
	for i, secret := range spec.ImagePullSecrets {
		at := specPath.Child("imagePullSecrets").Index(i).Child("name")
		if seen.Has(secret.Name) {
			w.add(at, "duplicate name %q", secret.Name)
		}
		seen.Insert(secret.Name)
		if secret.Name == "" {
			w.add(at, "invalid empty name %q", secret.Name)
		}
	}
	w.fractions(specPath.Child("overhead"), spec.Overhead)
	podAppArmor := spec.SecurityContext != nil && spec.SecurityContext.AppArmorProfile != nil
	visitContainers(spec, specPath, func(c *corev1.Container, at *field.Path) {
		sc := ptr.Deref(c.SecurityContext, corev1.SecurityContext{})
		key := corev1.SeccompContainerAnnotationKeyPrefix + c.Name
		if _, set := meta.Annotations[key]; set && sc.SeccompProfile == nil {
			w.add(annotations.Key(key), `non-functional in v1.27+; use the "seccompProfile" field instead`)
		}
		key = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
		if _, set := meta.Annotations[key]; set && !podAppArmor && sc.AppArmorProfile == nil {
			w.add(annotations.Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
		w.fractions(at.Child("resources", "limits"), c.Resources.Limits)
		w.fractions(at.Child("resources", "requests"), c.Resources.Requests)
		w.hiddenVariables(at.Child("env"), c.Env)
	})
	w.ports(specPath, spec)
	if ptr.Deref(spec.TerminationGracePeriodSeconds, 0) < 0 {
		w.add(specPath.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.podAffinities(specPath.Child("affinity"), spec.Affinity)
	if spec.DNSConfig != nil {
		for i, ip := range spec.DNSConfig.Nameservers {
			w = append(w, validation.GetWarningsForIP(specPath.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, alias := range spec.HostAliases {
		w = append(w, validation.GetWarningsForIP(specPath.Child("hostAliases").Index(i).Child("ip"), alias.IP)...)
	}
	return w
}

// DeprecatedNodeLabel says what to use instead of a label of nodes, "" if it is
// not deprecated.
func DeprecatedNodeLabel(key string) (instead string) {
	switch key {
	case "beta.kubernetes.io/arch":
		return `deprecated since v1.14; use "kubernetes.io/arch" instead`
	case "beta.kubernetes.io/os":
		return `deprecated since v1.14; use "kubernetes.io/os" instead`
	case corev1.LabelFailureDomainBetaRegion:
		return fmt.Sprintf("deprecated since v1.17; use %q instead", corev1.LabelTopologyRegion)
	case corev1.LabelFailureDomainBetaZone:
		return fmt.Sprintf("deprecated since v1.17; use %q instead", corev1.LabelTopologyZone)
	case corev1.LabelInstanceType:
		return fmt.Sprintf("deprecated since v1.17; use %q instead", corev1.LabelInstanceTypeStable)
	case "app.kubernetes.io/created-by":
		return "deprecated since v1.9"
	case "scheduler.alpha.kubernetes.io/preferAvoidPods":
		return "deprecated since v1.22; use Taints and Tolerations instead"
	case "node-role.kubernetes.io/master":
		return `use "node-role.kubernetes.io/control-plane" instead`
	}
	return ""
}

func (w *warnings) nodeLabels(at *field.Path, spec *corev1.PodSpec) {
	for key := range spec.NodeSelector {
		if instead := DeprecatedNodeLabel(key); instead != "" {
			w.add(at.Child("nodeSelector").Key(key), "%s", instead)
		}
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		n, at := spec.Affinity.NodeAffinity, at.Child("affinity", "nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			at := at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			for i, term := range n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				w.nodeTerm(at.Index(i), term)
			}
		}
		for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"), term.Preference)
		}
	}
	for i, c := range spec.TopologySpreadConstraints {
		at := at.Child("topologySpreadConstraints").Index(i)
		if instead := DeprecatedNodeLabel(c.TopologyKey); instead != "" {
			w.add(at.Child("topologyKey"), "%s is %s", c.TopologyKey, instead)
		}
		w.selectsNothing(at, c.LabelSelector)
	}
}

func (w *warnings) selectsNothing(at *field.Path, s *metav1.LabelSelector) {
	if s == nil {
		w.add(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
	}
}

func (w *warnings) podAffinities(at *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	terms := func(at *field.Path, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			w.selectsNothing(at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i), required[i].LabelSelector)
		}
		for i := range preferred {
			w.selectsNothing(at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"), preferred[i].PodAffinityTerm.LabelSelector)
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (w *warnings) nodeTerm(at *field.Path, term corev1.NodeSelectorTerm) {
	for i, r := range term.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		if instead := DeprecatedNodeLabel(r.Key); instead != "" {
			w.add(at.Child("key"), "%s is %s", r.Key, instead)
		}
		for j, value := range r.Values {
			for _, message := range validation.IsValidLabelValue(value) {
				w.add(at.Child("values").Index(j), "%s is invalid, %s", value, message)
			}
		}
	}
}

func (w *warnings) volumes(at *field.Path, volumes []corev1.Volume) {
	for i, v := range volumes {
		at := at.Index(i)
		for _, old := range []struct {
			name, since string
			set         bool
		}{
			{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", v.PhotonPersistentDisk != nil},
			{"gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", v.GitRepo != nil},
			{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", v.ScaleIO != nil},
			{"flocker", "deprecated in v1.22, non-functional in v1.25+", v.Flocker != nil},
			{"storageOS", "deprecated in v1.22, non-functional in v1.25+", v.StorageOS != nil},
			{"quobyte", "deprecated in v1.22, non-functional in v1.25+", v.Quobyte != nil},
			{"glusterfs", "deprecated in v1.25, non-functional in v1.26+", v.Glusterfs != nil},
			{"cephfs", "deprecated in v1.28, non-functional in v1.31+", v.CephFS != nil},
			{"rbd", "deprecated in v1.28, non-functional in v1.31+", v.RBD != nil},
		} {
			if old.set {
				w.add(at.Child(old.name), "%s", old.since)
			}
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			*w = append(*w, ClaimWarnings(&v.Ephemeral.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
		}
	}
}

// fractions warns of parts of bytes.
func (w *warnings) fractions(at *field.Path, list corev1.ResourceList) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, set := list[name]; set && q.MilliValue()%1000 != 0 {
			w.add(at.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
}

// hiddenVariables warns of variables that are defined again, unless the second
// definition builds on the first.
func (w *warnings) hiddenVariables(at *field.Path, env []corev1.EnvVar) {
	seen := sets.New[string]()
	for i, v := range env {
		first := "$(" + v.Name + ")"
		if seen.Has(v.Name) && (v.ValueFrom != nil || v.Value == first || !strings.Contains(v.Value, first)) {
			w.add(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
		seen.Insert(v.Name)
	}
}

// ports warns of ports that are listed more than once.
func (w *warnings) ports(at *field.Path, spec *corev1.PodSpec) {
	type block struct {
		at   *field.Path
		port corev1.ContainerPort
	}
	all, named := map[string][]block{}, map[string]*field.Path{}
	visitContainers(spec, at, func(c *corev1.Container, at *field.Path) {
		for i, port := range c.Ports {
			at := at.Child("ports").Index(i)
			if other := named[port.Name]; other != nil {
				w.add(at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", port.Name, other, other)
			} else if port.Name != "" {
				named[port.Name] = at
			}
			if port.HostIP != "" && port.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: %+v", port)
			}
			key := fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol)
			for _, other := range all[key] {
				switch {
				case port.HostIP == other.port.HostIP && port.HostPort == other.port.HostPort:
					w.add(at, "duplicate port definition with %s", other.at)
				case port.HostPort == 0 || other.port.HostPort == 0,
					port.HostPort == other.port.HostPort && (port.HostIP == "" || other.port.HostIP == ""):
					w.add(at, "overlapping port definition with %s", other.at)
				}
			}
			all[key] = append(all[key], block{at, port})
		}
	})
}
