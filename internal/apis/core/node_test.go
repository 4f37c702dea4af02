package core

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What upstream answers to nodes.
func TestNodeCauses(t *testing.T) {
	const form = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
	long := "A" + strings.Repeat("a", 253)
	for name, c := range map[string]struct {
		features []string
		want     []string
	}{
		"good": {[]string{"A", "A/b", "Ab/Cd/e1"}, nil},
		"form": {[]string{"A/", "x"}, []string{
			`status.declaredFeatures[0]: Invalid value: "A/": invalid feature name "A/": ` + form,
			`status.declaredFeatures[1]: Invalid value: "x": invalid feature name "x": ` + form,
		}},
		"long":     {[]string{long}, []string{`status.declaredFeatures[0]: Invalid value: "` + long + `": invalid feature name "` + long + `": must be no more than 253 characters`}},
		"twice":    {[]string{"A", "A"}, []string{`status.declaredFeatures[1]: Duplicate value: "A"`}},
		"no order": {[]string{"B", "A"}, []string{`status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically`}},
	} {
		t.Run(name, func(t *testing.T) {
			n := &corev1.Node{Status: corev1.NodeStatus{DeclaredFeatures: c.features}}
			check(t, validateNode(n), c.want...)
			check(t, validateNodeChange(n, n), c.want...)
			check(t, validateNodeUpdate(n, n), append(slices.Clone(c.want), c.want...)...)
		})
	}

	const assigned = `spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`
	for _, c := range []struct {
		was, now []string
		want     []string
	}{
		{nil, []string{"10.0.0.0/24"}, nil},
		{[]string{"10.0.0.0/24"}, nil, []string{assigned}},
		{[]string{"10.0.0.0/24", "fd00::/64"}, []string{"10.0.1.0/24", "fd01::/64"}, []string{assigned, assigned}},
	} {
		check(t, validateNodeChange(&corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: c.now}}, &corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: c.was}}), c.want...)
	}
	check(t, validateNode(&corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.0.0.0/24", "10.0.0.0/24"}}}),
		`spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.0.0/24"]: may specify no more than one CIDR for each IP family`)
}

// A kubelet's configuration through the API only stays where it is.
func TestNodeConfigIsDiscarded(t *testing.T) {
	configured := func() *corev1.Node {
		return &corev1.Node{
			Spec:   corev1.NodeSpec{ConfigSource: &corev1.NodeConfigSource{}, DoNotUseExternalID: "x", PodCIDRs: []string{"10.0.0.1/24"}},
			Status: corev1.NodeStatus{Config: &corev1.NodeConfigStatus{}},
		}
	}
	r, plain, ctx := nodes(), &corev1.Node{}, t.Context()
	n := configured()
	if r.Discard(ctx, n, nil); n.Spec.ConfigSource != nil || n.Status.Config != nil {
		t.Errorf("created with %+v and %+v", n.Spec.ConfigSource, n.Status.Config)
	}
	n = configured()
	if r.Discard(ctx, n, plain); n.Spec.ConfigSource != nil {
		t.Error("an update brings it")
	}
	if r.PrepareStatusUpdate(ctx, n, plain); n.Status.Config != nil {
		t.Error("a status brings it")
	}
	n = configured()
	r.Discard(ctx, n, configured())
	if r.PrepareStatusUpdate(ctx, n, configured()); n.Spec.ConfigSource == nil || n.Status.Config == nil {
		t.Error("an update takes it away")
	}
	want := []string{
		"spec.configSource: the feature is removed",
		"spec.externalID: this field is deprecated, and is unused by Kubernetes",
		`spec.podCIDRs[0]: CIDR value "10.0.0.1/24" is ambiguous in this context (should be "10.0.0.0/24" or "10.0.0.1/32"?)`,
	}
	if got := nodeWarnings(ctx, configured(), nil); !slices.Equal(got, want) {
		t.Errorf("warns %q", got)
	}
}
