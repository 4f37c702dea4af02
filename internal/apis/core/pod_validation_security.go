package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/utils/ptr"
)

// podSecurityContext checks the pod's security context; at is the spec's path.
func (c *podCheck) podSecurityContext(at *field.Path) {
	sc := c.spec.SecurityContext
	if sc == nil {
		return
	}
	at = at.Child("securityContext")
	c.userID(at.Child("runAsUser"), sc.RunAsUser)
	c.groupID(at.Child("fsGroup"), sc.FSGroup)
	c.groupID(at.Child("runAsGroup"), sc.RunAsGroup)
	for i := range sc.SupplementalGroups {
		c.groupID(at.Child("supplementalGroups").Index(i), &sc.SupplementalGroups[i])
	}
	if share := c.spec.ShareProcessNamespace; share != nil && *share && c.spec.HostPID {
		c.invalid(at.Child("shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	c.sysctls(at.Child("sysctls"), sc.Sysctls)
	anyOf(&c.problems, at.Child("fsGroupChangePolicy"), sc.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	c.seccomp(at.Child("seccompProfile"), sc.SeccompProfile)
	c.windowsOptions(at.Child("windowsOptions"), sc.WindowsOptions)
	c.appArmor(at.Child("appArmorProfile"), sc.AppArmorProfile)
	anyOf(&c.problems, at.Child("supplementalGroupsPolicy"), sc.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	policies := []corev1.PodSELinuxChangePolicy{corev1.SELinuxChangePolicyRecursive}
	// The mounting of volumes with a label (MountOption) is not on upstream,
	// but what has a policy may change it.
	if c.old != nil && c.old.SecurityContext != nil && c.old.SecurityContext.SELinuxChangePolicy != nil {
		policies = []corev1.PodSELinuxChangePolicy{corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive}
	}
	anyOf(&c.problems, at.Child("seLinuxChangePolicy"), sc.SELinuxChangePolicy, policies...)
}

func (c *podCheck) userID(at *field.Path, id *int64) {
	if id != nil {
		c.invalids(at, *id, validation.IsValidUserID(*id))
	}
}

func (c *podCheck) groupID(at *field.Path, id *int64) {
	if id != nil {
		c.invalids(at, *id, validation.IsValidGroupID(*id))
	}
}

func (c *podCheck) sysctls(at *field.Path, all []corev1.Sysctl) {
	const form, longest = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`, 253
	if len(all) == 0 {
		return
	}
	valid, names := regexp.MustCompile(form), sets.New[string]()
	for i, s := range all {
		at := at.Index(i).Child("name")
		if s.Name == "" {
			c.required(at)
		} else if !valid.MatchString(s.Name) || len(s.Name) > longest {
			c.invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", longest, form))
		} else if names.Has(s.Name) {
			c.duplicate(at, s.Name)
		}
		names.Insert(s.Name)
		namespace, _, _ := sysctl.GetNamespace(s.Name)
		if c.spec.HostNetwork && namespace == sysctl.NetNamespace {
			c.invalid(at, s.Name, "may not be specified when 'hostNetwork' is true")
		}
		if c.spec.HostIPC && namespace == sysctl.IPCNamespace {
			c.invalid(at, s.Name, "may not be specified when 'hostIPC' is true")
		}
	}
}

func (c *podCheck) securityContext(at *field.Path, sc *corev1.SecurityContext) {
	if sc == nil {
		return
	}
	c.userID(at.Child("runAsUser"), sc.RunAsUser)
	c.groupID(at.Child("runAsGroup"), sc.RunAsGroup)
	if mount := sc.ProcMount; mount != nil {
		anyOf(&c.problems, at.Child("procMount"), mount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *mount == corev1.UnmaskedProcMount && ptr.Deref(c.spec.HostUsers, true) {
			c.invalid(at.Child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	c.seccomp(at.Child("seccompProfile"), sc.SeccompProfile)
	if !ptr.Deref(sc.AllowPrivilegeEscalation, true) {
		if ptr.Deref(sc.Privileged, false) {
			c.invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if sc.Capabilities != nil && contains(sc.Capabilities.Add, "CAP_SYS_ADMIN") {
			c.invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
		}
	}
	c.windowsOptions(at.Child("windowsOptions"), sc.WindowsOptions)
	c.appArmor(at.Child("appArmorProfile"), sc.AppArmorProfile)
}

func (c *podCheck) seccomp(at *field.Path, s *corev1.SeccompProfile) {
	if s == nil {
		return
	}
	if s.Type == "" {
		c.missing(at.Child("type"), "type is required when seccompProfile is set")
	} else {
		anyOf(&c.problems, at.Child("type"), &s.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	at = at.Child("localhostProfile")
	switch local := s.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && s.LocalhostProfile == nil:
		c.missing(at, "must be set when seccomp type is Localhost")
	case local:
		c.localPath(at, *s.LocalhostProfile)
	case s.LocalhostProfile != nil:
		c.invalid(at, s, "can only be set when seccomp type is Localhost")
	}
}

func (c *podCheck) appArmor(at *field.Path, s *corev1.AppArmorProfile) {
	if s == nil {
		return
	}
	profile := at.Child("localhostProfile")
	switch s.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		const needed, longest = "must be set when AppArmor type is Localhost", 4095
		name := ptr.Deref(s.LocalhostProfile, "")
		if strings.TrimSpace(name) != name {
			c.invalid(profile, name, "must not be padded with whitespace")
		} else if name == "" {
			c.missing(profile, needed)
		}
		if len(name) > longest {
			c.one(field.TooLong(profile, "", longest))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if s.LocalhostProfile != nil {
			c.invalid(profile, s.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		c.missing(at.Child("type"), "type is required when appArmorProfile is set")
	default:
		anyOf(&c.problems, at.Child("type"), &s.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// userNamespace: a pod with users of its own must have the other namespaces of
// its own too.
func (c *podCheck) userNamespace(at *field.Path) {
	if ptr.Deref(c.spec.HostUsers, true) {
		return
	}
	const when = "when `hostUsers` is false"
	if c.spec.HostNetwork {
		c.forbidden(at.Child("hostNetwork"), when)
	}
	if c.spec.HostPID {
		c.forbidden(at.Child("HostPID"), when)
	}
	if c.spec.HostIPC {
		c.forbidden(at.Child("HostIPC"), when)
	}
	// Block devices have no mounts whose owners could be mapped.
	visitContainers(c.spec, at, func(ctr *corev1.Container, at *field.Path) {
		if len(ctr.VolumeDevices) > 0 {
			c.forbidden(at.Child("volumeDevices"), when)
		}
	})
}
