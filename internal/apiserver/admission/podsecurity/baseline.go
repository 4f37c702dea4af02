package podsecurity

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func hostNamespaces(p *podView) *violation {
	var used []string
	if p.spec.HostNetwork {
		used = append(used, "hostNetwork=true")
	}
	if p.spec.HostPID {
		used = append(used, "hostPID=true")
	}
	if p.spec.HostIPC {
		used = append(used, "hostIPC=true")
	}
	if len(used) == 0 {
		return nil
	}
	return &violation{"host namespaces", strings.Join(used, ", ")}
}

func hostPath(p *podView) *violation {
	var names []string
	for i := range p.spec.Volumes {
		if p.spec.Volumes[i].HostPath != nil {
			names = append(names, p.spec.Volumes[i].Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return &violation{"hostPath volumes", nouns("volume", names)}
}

func hostPorts(p *podView) *violation {
	var ports []string
	names := p.which(func(c container) (bad bool) {
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				ports, bad = append(ports, strconv.Itoa(int(port.HostPort))), true
			}
		}
		return bad
	})
	if len(names) == 0 {
		return nil
	}
	ports = set(ports)
	return &violation{"hostPort", fmt.Sprintf("%s %s %s %s", nouns("container", names),
		plural("uses", "use", len(names)), plural("hostPort", "hostPorts", len(ports)), strings.Join(ports, ", "))}
}

// hostProbes finds probes and hooks that talk to another host than the pod
// (KEP-4940).
func hostProbes(p *podView) *violation {
	var hosts []string
	names := p.which(func(c container) (bad bool) {
		look := func(http *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction) {
			if http != nil && http.Host != "" {
				hosts, bad = append(hosts, http.Host), true
			}
			if tcp != nil && tcp.Host != "" {
				hosts, bad = append(hosts, tcp.Host), true
			}
		}
		for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if probe != nil {
				look(probe.HTTPGet, probe.TCPSocket)
			}
		}
		if c.Lifecycle != nil {
			for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
				if hook != nil {
					look(hook.HTTPGet, hook.TCPSocket)
				}
			}
		}
		return bad
	})
	if len(names) == 0 {
		return nil
	}
	hosts = set(hosts)
	return &violation{"probe or lifecycle host", fmt.Sprintf("%s %s probe or lifecycle %s %s", nouns("container", names),
		plural("uses", "use", len(names)), plural("host", "hosts", len(hosts)), quote(hosts))}
}

func privilegedContainers(p *podView) *violation {
	names := p.which(func(c container) bool { return c.security.Privileged != nil && *c.security.Privileged })
	if len(names) == 0 {
		return nil
	}
	return &violation{"privileged", nouns("container", names) + " must not set securityContext.privileged=true"}
}

func procMount(p *podView) *violation {
	var values []string
	names := p.which(func(c container) bool {
		if c.security.ProcMount == nil || *c.security.ProcMount == corev1.DefaultProcMount {
			return false
		}
		values = append(values, string(*c.security.ProcMount))
		return true
	})
	if len(names) == 0 {
		return nil
	}
	return &violation{"procMount", fmt.Sprintf("%s must not set securityContext.procMount to %s", nouns("container", names), quote(set(values)))}
}

func capabilitiesBaseline(p *podView) *violation {
	harmless := []corev1.Capability{
		"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
		"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
	}
	var added []string
	names := p.which(func(c container) bool { return addsOther(c, harmless, &added) })
	if len(names) == 0 {
		return nil
	}
	return &violation{"non-default capabilities", fmt.Sprintf("%s must not include %s in securityContext.capabilities.add",
		nouns("container", names), quote(set(added)))}
}

// addsOther reports whether the container adds capabilities that are not
// harmless, and which.
func addsOther(c container, harmless []corev1.Capability, added *[]string) (bad bool) {
	if c.security.Capabilities == nil {
		return false
	}
	for _, capability := range c.security.Capabilities.Add {
		if !slices.Contains(harmless, capability) {
			*added, bad = append(*added, string(capability)), true
		}
	}
	return bad
}

func seLinux(p *podView) *violation {
	types := []string{"", "container_t", "container_init_t", "container_kvm_t"}
	if p.version >= 31 {
		types = append(types, "container_engine_t")
	}
	var badTypes []string
	user, role := false, false
	bad := func(o *corev1.SELinuxOptions) bool {
		if o == nil {
			return false
		}
		badType := !slices.Contains(types, o.Type)
		if badType {
			badTypes = append(badTypes, o.Type)
		}
		user, role = user || o.User != "", role || o.Role != ""
		return badType || o.User != "" || o.Role != ""
	}
	pod := bad(p.security().SELinuxOptions)
	names := p.which(func(c container) bool { return bad(c.security.SELinuxOptions) })
	if !pod && len(names) == 0 {
		return nil
	}
	var what []string
	if len(badTypes) > 0 {
		badTypes = set(badTypes)
		what = append(what, plural("type", "types", len(badTypes))+" "+quote(badTypes))
	}
	if user {
		what = append(what, "user may not be set")
	}
	if role {
		what = append(what, "role may not be set")
	}
	return &violation{"seLinuxOptions", fmt.Sprintf("%s set forbidden securityContext.seLinuxOptions: %s", setters(pod, names), strings.Join(what, "; "))}
}

func appArmor(p *podView) *violation {
	var types, annotations []string
	bad := func(profile *corev1.AppArmorProfile) bool {
		if profile == nil || profile.Type == corev1.AppArmorProfileTypeRuntimeDefault || profile.Type == corev1.AppArmorProfileTypeLocalhost {
			return false
		}
		types = append(types, string(profile.Type))
		return true
	}
	pod := bad(p.security().AppArmorProfile)
	names := p.which(func(c container) bool { return bad(c.security.AppArmorProfile) })
	for key, value := range p.meta.Annotations {
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && value != "" &&
			value != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault &&
			!strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			annotations = append(annotations, fmt.Sprintf("%s=%q", key, value))
		}
	}
	var details []string
	if pod || len(names) > 0 {
		details = append(details, fmt.Sprintf("%s must not set AppArmor profile type to %s", setters(pod, names), quote(set(types))))
	}
	if len(annotations) > 0 {
		slices.Sort(annotations)
		details = append(details, plural("annotation", "annotations", len(annotations))+" "+strings.Join(annotations, ", "))
	}
	if len(details) == 0 {
		return nil
	}
	n := len(types) + len(annotations)
	return &violation{plural("forbidden AppArmor profile", "forbidden AppArmor profiles", n), strings.Join(details, "; ")}
}

func badSeccomp(profile *corev1.SeccompProfile, types *[]string) bool {
	if profile == nil || profile.Type == corev1.SeccompProfileTypeRuntimeDefault || profile.Type == corev1.SeccompProfileTypeLocalhost {
		return false
	}
	*types = append(*types, string(profile.Type))
	return true
}

func seccompBaseline(p *podView) *violation {
	var types []string
	pod := badSeccomp(p.security().SeccompProfile, &types)
	names := p.which(func(c container) bool { return badSeccomp(c.security.SeccompProfile, &types) })
	if !pod && len(names) == 0 {
		return nil
	}
	return &violation{"seccompProfile", fmt.Sprintf("%s must not set securityContext.seccompProfile.type to %s", setters(pod, names), quote(set(types)))}
}

func sysctls(p *podView) *violation {
	safe := []string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
		"net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	}
	if p.version >= 27 {
		safe = append(safe, "net.ipv4.ip_local_reserved_ports")
	}
	if p.version >= 29 {
		safe = append(safe, "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes")
	}
	if p.version >= 32 {
		safe = append(safe, "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")
	}
	var bad []string
	for _, s := range p.security().Sysctls {
		if !slices.Contains(safe, s.Name) {
			bad = append(bad, s.Name)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return &violation{"forbidden sysctls", strings.Join(bad, ", ")}
}

func windowsHostProcess(p *podView) *violation {
	set := func(o *corev1.WindowsSecurityContextOptions) bool {
		return o != nil && o.HostProcess != nil && *o.HostProcess
	}
	pod := set(p.security().WindowsOptions)
	names := p.which(func(c container) bool { return set(c.security.WindowsOptions) })
	if !pod && len(names) == 0 {
		return nil
	}
	return &violation{"hostProcess", setters(pod, names) + " must not set securityContext.windowsOptions.hostProcess=true"}
}
