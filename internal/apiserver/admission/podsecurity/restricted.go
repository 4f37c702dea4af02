package podsecurity

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func allowPrivilegeEscalation(p *podView) *violation {
	if p.windows() {
		return nil
	}
	names := p.which(func(c container) bool {
		return c.security.AllowPrivilegeEscalation == nil || *c.security.AllowPrivilegeEscalation
	})
	if len(names) == 0 {
		return nil
	}
	return &violation{"allowPrivilegeEscalation != false", nouns("container", names) + " must set securityContext.allowPrivilegeEscalation=false"}
}

func capabilitiesRestricted(p *podView) *violation {
	if p.windows() {
		return nil
	}
	keep := p.which(func(c container) bool {
		return c.security.Capabilities == nil || !slices.Contains(c.security.Capabilities.Drop, "ALL")
	})
	var added []string
	add := p.which(func(c container) bool { return addsOther(c, []corev1.Capability{"NET_BIND_SERVICE"}, &added) })
	var details []string
	if len(keep) > 0 {
		details = append(details, nouns("container", keep)+` must set securityContext.capabilities.drop=["ALL"]`)
	}
	if len(add) > 0 {
		details = append(details, fmt.Sprintf("%s must not include %s in securityContext.capabilities.add", nouns("container", add), quote(set(added))))
	}
	if len(details) == 0 {
		return nil
	}
	return &violation{"unrestricted capabilities", strings.Join(details, "; ")}
}

func restrictedVolumes(p *podView) *violation {
	var names, types []string
	for i := range p.spec.Volumes {
		if kind := volumeType(&p.spec.Volumes[i].VolumeSource); kind != "" {
			names, types = append(names, p.spec.Volumes[i].Name), append(types, kind)
		}
	}
	if len(names) == 0 {
		return nil
	}
	types = set(types)
	return &violation{"restricted volume types", fmt.Sprintf("%s %s restricted volume %s %s", nouns("volume", names),
		plural("uses", "use", len(names)), plural("type", "types", len(types)), quote(types))}
}

// volumeType returns the name of the volume's type if it is one that the level
// forbids: all but a few.
func volumeType(s *corev1.VolumeSource) string {
	switch {
	case s.ConfigMap != nil, s.CSI != nil, s.DownwardAPI != nil, s.EmptyDir != nil, s.Ephemeral != nil, s.Image != nil,
		s.PersistentVolumeClaim != nil, s.Projected != nil, s.Secret != nil:
		return ""
	}
	// The JSON form has just the field that is set.
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(s)
	if err != nil {
		return "unknown"
	}
	for name := range fields {
		return name
	}
	return "unknown"
}

func runAsNonRoot(p *podView) *violation {
	pod := p.security().RunAsNonRoot
	refused := p.which(func(c container) bool { return c.security.RunAsNonRoot != nil && !*c.security.RunAsNonRoot })
	podRefuses := pod != nil && !*pod
	if podRefuses || len(refused) > 0 {
		return &violation{"runAsNonRoot != true", setters(podRefuses, refused) + " must not set securityContext.runAsNonRoot=false"}
	}
	if open := p.which(func(c container) bool { return c.security.RunAsNonRoot == nil && pod == nil }); len(open) > 0 {
		return &violation{"runAsNonRoot != true", "pod or " + nouns("container", open) + " must set securityContext.runAsNonRoot=true"}
	}
	return nil
}

func runAsUser(p *podView) *violation {
	zero := func(uid *int64) bool { return uid != nil && *uid == 0 }
	pod := zero(p.security().RunAsUser)
	names := p.which(func(c container) bool { return zero(c.security.RunAsUser) })
	if !pod && len(names) == 0 {
		return nil
	}
	return &violation{"runAsUser=0", setters(pod, names) + " must not set runAsUser=0"}
}

func seccompRestricted(p *podView) *violation {
	if p.windows() {
		return nil
	}
	var types []string
	profile := p.security().SeccompProfile
	pod := badSeccomp(profile, &types)
	explicit := p.which(func(c container) bool { return badSeccomp(c.security.SeccompProfile, &types) })
	if pod || len(explicit) > 0 {
		return &violation{"seccompProfile", fmt.Sprintf("%s must not set securityContext.seccompProfile.type to %s",
			setters(pod, explicit), quote(set(types)))}
	}
	open := p.which(func(c container) bool { return c.security.SeccompProfile == nil && profile == nil })
	if len(open) > 0 {
		return &violation{"seccompProfile", "pod or " + nouns("container", open) +
			` must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"`}
	}
	return nil
}
