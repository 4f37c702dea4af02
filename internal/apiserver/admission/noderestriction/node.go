package noderestriction

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff/internal/apiserver/admission"
)

// nodes lets a node make and change itself, but not take on labels and taints
// by which administrators keep workloads apart.
func nodes(a *admission.Attributes, name string) error {
	target := a.Name
	if obj, ok := a.Object.(*corev1.Node); ok && a.Operation == admission.Create {
		target = obj.Name
	}
	if target != name {
		return a.Forbidden("node %q is not allowed to modify node %q", name, target)
	}
	switch a.Operation {
	case admission.Create:
		obj := a.Object.(*corev1.Node)
		if obj.Spec.ConfigSource != nil {
			return a.Forbidden("node %q is not allowed to create pods with a non-nil configSource", name)
		}
		if bad := forbidden(labelNames(obj.Labels)); len(bad) > 0 {
			return a.Forbidden("node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
		if len(obj.OwnerReferences) > 0 {
			return a.Forbidden("node %q is not allowed to modify ownerReferences", name)
		}
	case admission.Update:
		obj, old := a.Object.(*corev1.Node), a.Old.(*corev1.Node)
		switch {
		case obj.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource):
			return a.Forbidden("node %q is not allowed to update configSource to a new non-nil configSource", name)
		case !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints):
			return a.Forbidden("node %q is not allowed to modify taints", name)
		case !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences):
			return a.Forbidden("node %q is not allowed to modify ownerReferences", name)
		}
		if bad := forbidden(changed(obj.Labels, old.Labels)); len(bad) > 0 {
			return a.Forbidden("is not allowed to modify labels: %s", strings.Join(bad, ", "))
		}
	}
	return nil
}

func labelNames(labels map[string]string) (names []string) {
	for name := range labels {
		names = append(names, name)
	}
	return names
}

func changed(labels, old map[string]string) (names []string) {
	for name, value := range labels {
		if before, ok := old[name]; !ok || before != value {
			names = append(names, name)
		}
	}
	for name := range old {
		if _, ok := labels[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// forbidden returns, in order, the names that are Kubernetes' own and not
// among those that kubelets are for.
func forbidden(names []string) (bad []string) {
	for _, name := range names {
		domain, _, ok := strings.Cut(name, "/")
		if !ok || !within(domain, "kubernetes.io") && !within(domain, "k8s.io") {
			continue
		}
		if within(domain, "node-restriction.kubernetes.io") || !kubeletLabel(name, domain) {
			bad = append(bad, name)
		}
	}
	slices.Sort(bad)
	return bad
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

func kubeletLabel(name, domain string) bool {
	return within(domain, "kubelet.kubernetes.io") || within(domain, "node.kubernetes.io") ||
		slices.Contains([]string{
			corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
			corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
			corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
			corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		}, name)
}
