package core

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func nodes() *apis.Resource {
	return apis.Of[*corev1.Node]{
		Names:            apis.Names{Resource: "nodes", Singular: "node", Kind: "Node", ShortNames: []string{"no"}},
		Version:          "v1",
		Prefix:           "/registry/minions",
		New:              func() *corev1.Node { return &corev1.Node{} },
		NewList:          func() runtime.Object { return &corev1.NodeList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Default:          defaultNode,
		Validate:         func(_ context.Context, n *corev1.Node) field.ErrorList { return validateNode(n) },
		ValidateUpdate:   func(_ context.Context, n, old *corev1.Node) field.ErrorList { return validateNodeUpdate(n, old) },
		HasStatus:        true,
		// A kubelet registers its node with a status.
		KeepStatusOnCreate: true,
		PrepareStatusUpdate: func(_ context.Context, n, old *corev1.Node) {
			if old.Status.Config == nil {
				n.Status.Config = nil
			}
		},
		ValidateStatusUpdate: func(_ context.Context, n, old *corev1.Node) field.ErrorList { return validateNodeChange(n, old) },
		Discard:              discardNodeConfig,
		Warnings:             nodeWarnings,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Status", "The status of the node"),
			columns.String("Roles", "The roles of the node"),
			columns.AgeColumn(),
			columns.String("Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"]),
			columns.Wide(columns.String("Internal-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"])),
			columns.Wide(columns.String("External-IP", corev1.NodeStatus{}.SwaggerDoc()["addresses"])),
			columns.Wide(columns.String("OS-Image", corev1.NodeSystemInfo{}.SwaggerDoc()["osImage"])),
			columns.Wide(columns.String("Kernel-Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kernelVersion"])),
			columns.Wide(columns.String("Container-Runtime", corev1.NodeSystemInfo{}.SwaggerDoc()["containerRuntimeVersion"])),
		},
		Cells: nodeCells,
		Fields: map[string]func(*corev1.Node) string{
			"spec.unschedulable": func(n *corev1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) },
		},
		Subresources: []apis.Subresource{proxySubresource("NodeProxyOptions", func() runtime.Object { return &corev1.NodeProxyOptions{} })},
	}.Resource()
}

// proxySubresource is the proxy to a node, pod or service, which speaks
// whatever is behind it.
func proxySubresource(kind string, options func() runtime.Object) apis.Subresource {
	return apis.Subresource{
		Name:  "proxy",
		Kind:  corev1.SchemeGroupVersion.WithKind(kind),
		New:   options,
		Verbs: []string{"create", "delete", "get", "patch", "update"},
	}
}

func defaultNode(n *corev1.Node) {
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
	if len(n.Status.Allocatable) == 0 && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	defaultPodCIDRs(&n.Spec)
}

// discardNodeConfig takes away the configuration of kubelets through the API,
// which no longer exists, where it is not there already.
func discardNodeConfig(_ context.Context, n, old *corev1.Node) {
	if old == nil {
		n.Status.Config = nil
	}
	if old == nil || old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
}

func nodeWarnings(_ context.Context, n, _ *corev1.Node) []string {
	var w warnings
	at := field.NewPath("spec")
	if n.Spec.ConfigSource != nil {
		w.add(at.Child("configSource"), "the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		w.add(at.Child("externalID"), "this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		w = append(w, validation.GetWarningsForCIDR(at.Child("podCIDRs").Index(i), cidr)...)
	}
	return w
}

// defaultPodCIDRs lets clients know only one of podCIDR, which wins, and
// podCIDRs.
func defaultPodCIDRs(s *corev1.NodeSpec) {
	switch {
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	}
}

func nodeCells(n *corev1.Node) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	info := &n.Status.NodeInfo
	return []any{
		n.Name, status, nodeRoles(n), columns.Age(n.CreationTimestamp), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		firstOf(info.OSImage, columns.Unknown), firstOf(info.KernelVersion, columns.Unknown),
		firstOf(info.ContainerRuntimeVersion, columns.Unknown),
	}
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return columns.None
}

// nodeRoles reads both ways in which labels say a role.
func nodeRoles(n *corev1.Node) string {
	roles := sets.New[string]()
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok {
			if role != "" {
				roles.Insert(role)
			}
		} else if key == "kubernetes.io/role" && value != "" {
			roles.Insert(value)
		}
	}
	if len(roles) == 0 {
		return columns.None
	}
	return strings.Join(sets.List(roles), ",")
}

func validateNode(n *corev1.Node) field.ErrorList {
	var p problems
	p.taints(field.NewPath("metadata", "taints"), n.Spec.Taints)
	p.nodeResources(n)
	p.declaredFeatures(field.NewPath("status", "declaredFeatures"), n.Status.DeclaredFeatures)
	p.podCIDRs(field.NewPath("spec", "podCIDRs"), n.Spec.PodCIDRs)
	return p.list()
}

func (p *problems) nodeResources(n *corev1.Node) {
	status := field.NewPath("status")
	for _, name := range sortedNames(n.Status.Capacity) {
		p.quantity(status.Child("capacity", string(name)), name, n.Status.Capacity[name])
	}
	for _, name := range sortedNames(n.Status.Allocatable) {
		p.quantity(status.Child("allocatable", string(name)), name, n.Status.Allocatable[name])
	}
}

func (p *problems) podCIDRs(at *field.Path, cidrs []string) {
	for i, cidr := range cidrs {
		p.legacyCIDR(at.Index(i), cidr)
	}
	if len(cidrs) < 2 {
		return
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		p.one(field.InternalError(at, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%v", err)))
	}
	if !dual || len(cidrs) > 2 {
		p.invalid(at, cidrs, "may specify no more than one CIDR for each IP family")
	}
}

var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

// declaredFeatures checks names in order, so that they can be searched.
func (p *problems) declaredFeatures(at *field.Path, names []string) {
	for i, name := range names {
		if len(name) > validation.DNS1123SubdomainMaxLength {
			p.invalid(at.Index(i), name, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", name, validation.DNS1123SubdomainMaxLength))
		} else if !featureName.MatchString(name) {
			p.invalid(at.Index(i), name, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", name))
		}
		if i+1 == len(names) {
			return
		}
		switch next := names[i+1]; {
		case next == name:
			p.duplicate(at.Index(i+1), next)
		case next < name:
			p.invalid(at.Index(i+1), next, "list must be sorted alphabetically")
		}
	}
}

func (p *problems) taints(at *field.Path, taints []corev1.Taint) {
	type key struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[key]()
	for i := range taints {
		t, at := &taints[i], at.Index(i)
		p.add(metav1validation.ValidateLabelName(t.Key, at.Child("key")))
		if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
			p.invalid(at.Child("value"), t.Value, strings.Join(messages, ";"))
		}
		oneOf(p, at.Child("effect"), t.Effect, taintEffects()...)
		if seen.Has(key{t.Key, t.Effect}) {
			err := field.Duplicate(at, *t)
			err.Detail = "taints must be unique by key and effect pair"
			p.one(err)
		}
		seen.Insert(key{t.Key, t.Effect})
	}
}

func taintEffects() []corev1.TaintEffect {
	return []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	// Like upstream, as a node and then as a change of one.
	return append(validateNode(n), validateNodeChange(n, old)...)
}

func validateNodeChange(n, old *corev1.Node) field.ErrorList {
	var p problems
	spec, status := field.NewPath("spec"), field.NewPath("status")
	p.nodeResources(n)
	p.declaredFeatures(status.Child("declaredFeatures"), n.Status.DeclaredFeatures)
	for i, a := range n.Status.Addresses {
		if contains(n.Status.Addresses[:i], a) {
			p.duplicate(status.Child("addresses").Index(i), a)
		}
	}
	const assigned = `node updates may not change podCIDR except from "" to valid`
	if was, now := old.Spec.PodCIDRs, n.Spec.PodCIDRs; len(was) > 0 && len(was) != len(now) {
		p.forbidden(spec.Child("podCIDRs"), assigned)
	} else {
		for i := range was {
			if was[i] != now[i] {
				p.forbidden(spec.Child("podCIDRs"), assigned)
			}
		}
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		p.forbidden(spec.Child("providerID"), `node updates may not change providerID except from "" to valid`)
	}
	p.taints(field.NewPath("metadata", "taints"), n.Spec.Taints)
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		p.forbidden(spec.Child("externalID"), "may not be updated")
	}
	return p.list()
}
