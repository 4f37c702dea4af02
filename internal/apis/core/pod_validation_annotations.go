package core

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// tolerationsAnnotation is where tolerations were before they had a field.
const tolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerations"

const (
	seccompRuntimeDefault = "runtime/default"
	seccompDockerDefault  = "docker/default"
	seccompUnconfined     = "unconfined"
	localhostPrefix       = "localhost/"
)

// annotations checks those that mean something to the cluster.
func (c *podCheck) annotations(at *field.Path) {
	all := c.meta.Annotations
	if value, mirror := all[corev1.MirrorPodAnnotationKey]; mirror && c.spec.NodeName == "" {
		c.invalid(at.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	if text := all[tolerationsAnnotation]; text != "" {
		var tolerations []corev1.Toleration
		if err := json.Unmarshal([]byte(text), &tolerations); err != nil {
			c.invalid(at, tolerationsAnnotation, err.Error())
		}
		c.tolerations(at.Child(tolerationsAnnotation), tolerations)
	}
	if cost, set := all[corev1.PodDeletionCost]; set && !isDeletionCost(cost) {
		c.invalid(at.Key(corev1.PodDeletionCost), cost, "must be a 32bit integer")
	}
	for key, value := range all {
		if key == corev1.SeccompPodAnnotationKey || strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix) {
			c.seccompAnnotation(at.Child(key), value)
		}
		if name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix); ok {
			c.appArmorAnnotation(at.Key(key), name, value)
		}
	}
}

// isDeletionCost: a number in its usual form, that is, without a plus sign or
// leading zeros.
func isDeletionCost(s string) bool {
	n, err := strconv.ParseInt(s, 10, 32)
	return err == nil && strconv.FormatInt(n, 10) == s
}

func (c *podCheck) seccompAnnotation(at *field.Path, profile string) {
	if file, local := strings.CutPrefix(profile, localhostPrefix); local {
		c.localPath(at, file)
	} else if profile != seccompRuntimeDefault && profile != seccompDockerDefault && profile != seccompUnconfined {
		c.invalid(at, profile, "must be a valid seccomp profile")
	}
}

func (c *podCheck) appArmorAnnotation(at *field.Path, container, profile string) {
	found := false
	visitContainers(c.spec, nil, func(ctr *corev1.Container, _ *field.Path) { found = found || ctr.Name == container })
	if !found {
		c.invalid(at, container, "container not found")
	}
	if profile != "" && profile != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault &&
		profile != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
		!strings.HasPrefix(profile, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
		c.invalid(at, profile, fmt.Sprintf("invalid AppArmor profile name: %q", profile))
	}
}

// matchingAnnotations checks that profiles which are given both as annotation,
// as it was done before, and as field are the same. at is the spec's path.
func (c *podCheck) matchingAnnotations(at *field.Path) {
	annotations := c.meta.Annotations
	seccomp := func(key string, p *corev1.SeccompProfile, at *field.Path) {
		if text, set := annotations[key]; set && p != nil {
			defaults := []string{seccompRuntimeDefault, seccompDockerDefault}
			c.sameProfile(at, "seccomp", text, string(p.Type), p.LocalhostProfile, defaults)
		}
	}
	var podAppArmor *corev1.AppArmorProfile
	if sc := c.spec.SecurityContext; sc != nil {
		seccomp(corev1.SeccompPodAnnotationKey, sc.SeccompProfile, at.Child("securityContext", "seccompProfile"))
		podAppArmor = sc.AppArmorProfile
	}
	windows := c.spec.OS != nil && c.spec.OS.Name == corev1.Windows
	visitContainers(c.spec, at, func(ctr *corev1.Container, at *field.Path) {
		appArmor := podAppArmor
		if sc := ctr.SecurityContext; sc != nil {
			seccomp(corev1.SeccompContainerAnnotationKeyPrefix+ctr.Name, sc.SeccompProfile, at.Child("securityContext", "seccompProfile"))
			if sc.AppArmorProfile != nil {
				appArmor = sc.AppArmorProfile
			}
		}
		text, set := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+ctr.Name]
		if set && appArmor != nil && !windows {
			c.sameProfile(at.Child("securityContext", "appArmorProfile"), "apparmor", text, string(appArmor.Type), appArmor.LocalhostProfile, []string{seccompRuntimeDefault})
		}
	})
}

// sameProfile compares a profile's annotation with its field. The types have
// the same names for seccomp and AppArmor.
func (c *podCheck) sameProfile(at *field.Path, what, text, kind string, local *string, defaults []string) {
	file, isLocal := strings.CutPrefix(text, localhostPrefix)
	same := true
	switch kind {
	case string(corev1.SeccompProfileTypeUnconfined):
		same = text == seccompUnconfined
	case string(corev1.SeccompProfileTypeRuntimeDefault):
		same = contains(defaults, text)
	case string(corev1.SeccompProfileTypeLocalhost):
		same = isLocal
		if isLocal && (local == nil || *local != file) {
			c.forbidden(at.Child("localhostProfile"), what+" profile in annotation and field must match")
		}
	}
	if !same {
		c.forbidden(at.Child("type"), what+" type in annotation and field must match")
	}
}
