package core

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// operatingSystem checks that a pod that says what it is for does not use what
// only the other has.
func (c *podCheck) operatingSystem(at *field.Path) {
	system := c.spec.OS
	switch {
	case system == nil:
	case system.Name == "":
		c.required(at.Child("os", "name"))
	case system.Name == corev1.Linux:
		const not = "windows options cannot be set for a linux pod"
		if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
			c.forbidden(at.Child("securityContext", "windowsOptions"), not)
		}
		visitContainers(c.spec, at, func(ctr *corev1.Container, at *field.Path) {
			if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil {
				c.forbidden(at.Child("securityContext", "windowsOptions"), not)
			}
		})
	case system.Name == corev1.Windows:
		c.windows(at)
	default:
		c.one(field.NotSupported(at.Child("os"), system.Name, []corev1.OSName{corev1.Linux, corev1.Windows}))
	}
}

// forbiddenIf forbids fields, given by name, that are set.
func (c *podCheck) forbiddenIf(at *field.Path, detail string, set map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if set[name] {
			c.forbidden(at.Child(name), detail)
		}
	}
}

func (c *podCheck) windows(at *field.Path) {
	const not = "cannot be set for a windows pod"
	spec := c.spec
	c.forbiddenIf(at, not, map[string]bool{
		"hostUsers":             spec.HostUsers != nil,
		"hostPID":               spec.HostPID,
		"hostIPC":               spec.HostIPC,
		"shareProcessNamespace": spec.ShareProcessNamespace != nil,
	})
	if sc := spec.SecurityContext; sc != nil {
		c.forbiddenIf(at.Child("securityContext"), not, map[string]bool{
			"appArmorProfile":          sc.AppArmorProfile != nil,
			"seLinuxOptions":           sc.SELinuxOptions != nil,
			"seccompProfile":           sc.SeccompProfile != nil,
			"fsGroup":                  sc.FSGroup != nil,
			"fsGroupChangePolicy":      sc.FSGroupChangePolicy != nil,
			"sysctls":                  len(sc.Sysctls) > 0,
			"runAsUser":                sc.RunAsUser != nil,
			"runAsGroup":               sc.RunAsGroup != nil,
			"supplementalGroups":       sc.SupplementalGroups != nil,
			"supplementalGroupsPolicy": sc.SupplementalGroupsPolicy != nil,
			"seLinuxChangePolicy":      sc.SELinuxChangePolicy != nil,
		})
	}
	visitContainers(spec, at, func(ctr *corev1.Container, at *field.Path) {
		sc := ctr.SecurityContext
		if sc == nil {
			return
		}
		c.forbiddenIf(at.Child("securityContext"), not, map[string]bool{
			"appArmorProfile":          sc.AppArmorProfile != nil,
			"seLinuxOptions":           sc.SELinuxOptions != nil,
			"seccompProfile":           sc.SeccompProfile != nil,
			"capabilities":             sc.Capabilities != nil,
			"readOnlyRootFilesystem":   sc.ReadOnlyRootFilesystem != nil,
			"privileged":               sc.Privileged != nil,
			"allowPrivilegeEscalation": sc.AllowPrivilegeEscalation != nil,
			"procMount":                sc.ProcMount != nil,
			"runAsUser":                sc.RunAsUser != nil,
			"runAsGroup":               sc.RunAsGroup != nil,
		})
	})
}

// hostProcess: either all containers of a pod run as processes of the Windows
// host, in its network, or none does.
func (c *podCheck) hostProcess(at *field.Path) {
	var pod *bool
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		pod = sc.WindowsOptions.HostProcess
	}
	containers, onHost := 0, 0
	visitContainers(c.spec, at, func(ctr *corev1.Container, at *field.Path) {
		containers++
		own := pod
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			own = sc.WindowsOptions.HostProcess
			if pod != nil && *pod != *own {
				c.invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod))
			}
		}
		if ptr.Deref(own, false) {
			onHost++
		}
	})
	if onHost == 0 {
		return
	}
	if onHost != containers {
		c.invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !c.spec.HostNetwork {
		c.invalid(at.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

func (c *podCheck) windowsOptions(at *field.Path, o *corev1.WindowsSecurityContextOptions) {
	if o == nil {
		return
	}
	if name := o.GMSACredentialSpecName; name != nil {
		c.dnsSubdomain(at.Child("gmsaCredentialSpecName"), *name)
	}
	if spec := o.GMSACredentialSpec; spec != nil {
		const kib = 64
		if *spec == "" {
			c.invalid(at.Child("gmsaCredentialSpec"), spec, "gmsaCredentialSpec cannot be an empty string")
		} else if len(*spec) > kib<<10 {
			c.invalid(at.Child("gmsaCredentialSpec"), spec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", kib))
		}
	}
	if o.RunAsUserName != nil {
		for _, problem := range windowsUserProblems(*o.RunAsUserName) {
			c.invalid(at.Child("runAsUserName"), *o.RunAsUserName, problem)
		}
	}
}

// windowsUserProblems checks a user name of the form DOMAIN\USER or USER, by
// Microsoft's naming conventions.
func windowsUserProblems(name string) (problems []string) {
	if name == "" {
		return []string{"runAsUserName cannot be an empty string"}
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return []string{"runAsUserName cannot contain control characters"}
	}
	domain, user, qualified := strings.Cut(name, `\`)
	if !qualified {
		domain, user = "", name
	}
	if strings.Contains(user, `\`) {
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	const longestDomain, longestUser = 256, 104
	if len(domain) >= longestDomain {
		problems = append(problems, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", longestDomain))
	}
	netBIOS := regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	if qualified && !netBIOS.MatchString(domain) && len(validation.IsDNS1123Subdomain(strings.ToLower(domain))) > 0 {
		problems = append(problems, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		problems = append(problems, "runAsUserName's User cannot be empty")
	} else if len(user) > longestUser {
		problems = append(problems, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", longestUser))
	}
	if user != "" && strings.Trim(user, ". ") == "" {
		problems = append(problems, "runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		problems = append(problems, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return problems
}
