package podsecurity

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// container is one of a pod's containers of whatever kind.
type container struct {
	*corev1.Container
	security *corev1.SecurityContext
}

// containers returns all containers of the pod.
func (p *podView) containers() (all []container) {
	add := func(c *corev1.Container) {
		security := c.SecurityContext
		if security == nil {
			security = &corev1.SecurityContext{}
		}
		all = append(all, container{c, security})
	}
	for i := range p.spec.InitContainers {
		add(&p.spec.InitContainers[i])
	}
	for i := range p.spec.Containers {
		add(&p.spec.Containers[i])
	}
	for i := range p.spec.EphemeralContainers {
		c := corev1.Container(p.spec.EphemeralContainers[i].EphemeralContainerCommon)
		add(&c)
	}
	return all
}

// security returns the pod's own context.
func (p *podView) security() *corev1.PodSecurityContext {
	if p.spec.SecurityContext == nil {
		return &corev1.PodSecurityContext{}
	}
	return p.spec.SecurityContext
}

// which returns the names of the containers that are bad.
func (p *podView) which(bad func(c container) bool) (names []string) {
	for _, c := range p.containers() {
		if bad(c) {
			names = append(names, c.Name)
		}
	}
	return names
}

func plural(one, many string, n int) string {
	if n == 1 {
		return one
	}
	return many
}

func quote(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, ", ")
}

// nouns says `container "a"` or `containers "a", "b"`.
func nouns(one string, names []string) string {
	return plural(one, one+"s", len(names)) + " " + quote(names)
}

// setters says who set something: the pod, containers, or both.
func setters(pod bool, names []string) string {
	var who []string
	if pod {
		who = append(who, "pod")
	}
	if len(names) > 0 {
		who = append(who, nouns("container", names))
	}
	return strings.Join(who, " and ")
}

// set keeps strings once each, in order.
func set(values []string) []string {
	slices.Sort(values)
	return slices.Compact(values)
}
