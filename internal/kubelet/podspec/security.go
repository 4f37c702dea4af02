package podspec

import (
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths that a container does not see, or sees read-only, unless its procMount
// is Unmasked (see "ProcMountType" in the Pod API).
func maskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// effective returns the container's security context with what it leaves open
// taken from the pod's.
func effective(pod *v1.Pod, c *v1.Container) v1.SecurityContext {
	var out v1.SecurityContext
	if c.SecurityContext != nil {
		out = *c.SecurityContext
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	if out.RunAsUser == nil {
		out.RunAsUser = p.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = p.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = p.RunAsNonRoot
	}
	if out.SELinuxOptions == nil {
		out.SELinuxOptions = p.SELinuxOptions
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = p.SeccompProfile
	}
	if out.AppArmorProfile == nil {
		out.AppArmorProfile = p.AppArmorProfile
	}
	return out
}

// ImageUser is the user an image asks for: a number, a name, or neither.
type ImageUser struct {
	UID  *int64
	Name string
}

// verifyNonRoot refuses a container that must not run as root but would, or
// may.
func verifyNonRoot(pod *v1.Pod, c *v1.Container, user ImageUser) error {
	sc := effective(pod, c)
	if !isTrue(sc.RunAsNonRoot) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
	switch {
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case sc.RunAsUser != nil:
		return nil
	case user.Name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user.Name, where)
	case user.UID == nil || *user.UID == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	return nil
}

// securityContext returns the container's security settings for the runtime.
func securityContext(pod *v1.Pod, c *v1.Container, user ImageUser, groups []int64, seccompDir string) *cri.LinuxContainerSecurityContext {
	sc := effective(pod, c)
	out := &cri.LinuxContainerSecurityContext{
		NamespaceOptions:   namespaces(pod),
		SupplementalGroups: groups,
		Privileged:         isTrue(sc.Privileged),
		ReadonlyRootfs:     isTrue(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:         sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		Seccomp:            seccomp(sc.SeccompProfile, isTrue(sc.Privileged), seccompDir),
		Apparmor:           appArmor(sc.AppArmorProfile),
		SelinuxOptions:     selinux(sc.SELinuxOptions),
	}
	switch {
	case sc.RunAsUser != nil:
		out.RunAsUser = &cri.Int64Value{Value: *sc.RunAsUser}
	case user.UID != nil:
		out.RunAsUser = &cri.Int64Value{Value: *user.UID}
	default:
		out.RunAsUsername = user.Name
	}
	if sc.RunAsGroup != nil {
		out.RunAsGroup = &cri.Int64Value{Value: *sc.RunAsGroup}
	}
	if p := pod.Spec.SecurityContext; p != nil && p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		out.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
	}
	if sc.Capabilities != nil {
		out.Capabilities = &cri.Capability{}
		for _, a := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(a))
		}
		for _, d := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(d))
		}
	}
	if sc.ProcMount == nil || *sc.ProcMount == v1.DefaultProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	return out
}

// groups returns the supplementary groups of every container of the pod:
// its own, fsGroup, and those its volumes ask for.
func groups(pod *v1.Pod, volumes []int64) []int64 {
	var out []int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		out = append(out, sc.SupplementalGroups...)
		if sc.FSGroup != nil {
			out = append(out, *sc.FSGroup)
		}
	}
	return append(out, volumes...)
}

func namespaces(pod *v1.Pod) *cri.NamespaceOption {
	o := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		o.Network = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = cri.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = cri.NamespaceMode_NODE
	case isTrue(pod.Spec.ShareProcessNamespace):
		o.Pid = cri.NamespaceMode_POD
	}
	return o
}

func seccomp(p *v1.SeccompProfile, privileged bool, dir string) *cri.SecurityProfile {
	unconfined := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	if p == nil || privileged {
		return unconfined
	}
	switch p.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	case v1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			return &cri.SecurityProfile{
				ProfileType:  cri.SecurityProfile_Localhost,
				LocalhostRef: filepath.Join(dir, filepath.Clean("/"+*p.LocalhostProfile)),
			}
		}
	}
	return unconfined
}

func appArmor(p *v1.AppArmorProfile) *cri.SecurityProfile {
	if p == nil {
		return nil
	}
	switch p.Type {
	case v1.AppArmorProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	case v1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
		}
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
}

func selinux(o *v1.SELinuxOptions) *cri.SELinuxOption {
	if o == nil {
		return nil
	}
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}
