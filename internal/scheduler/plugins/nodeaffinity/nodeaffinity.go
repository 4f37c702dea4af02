// Package nodeaffinity holds pods to the nodes that their node selector and
// node affinity allow, and prefers those that they prefer.
package nodeaffinity

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
)

const name = "NodeAffinity"

// Plugin is the filter and the score.
type Plugin struct{}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreFilter makes the rule for pod.
func (Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	a := required(pod)
	if a == nil && len(pod.Spec.NodeSelector) == 0 {
		return nil, nil
	}
	f := &filter{
		required: nodeaffinity.GetRequiredNodeAffinity(pod.Pod),
		mismatch: framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match Pod's node affinity/selector"),
	}
	if a != nil {
		f.only, f.restricted = names(a.NodeSelectorTerms)
	}
	return f, nil
}

func required(pod *framework.PodInfo) *corev1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// names returns the nodes that the terms name, if every term does: so daemon
// pods say where they belong.
func names(terms []corev1.NodeSelectorTerm) (all []string, restricted bool) {
	for _, t := range terms {
		var here []string
		named := false
		for _, r := range t.MatchFields {
			if r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn {
				here, named = r.Values, true
			}
		}
		if !named {
			return nil, false
		}
		all = append(all, here...)
	}
	return all, len(terms) > 0
}

type filter struct {
	required   nodeaffinity.RequiredNodeAffinity
	only       []string
	restricted bool
	mismatch   *framework.Status
}

func (f *filter) Filter(n *framework.NodeInfo) *framework.Status {
	if ok, err := f.required.Match(n.Node); !ok || err != nil {
		return f.mismatch
	}
	return nil
}

// Only returns the nodes that the pod names.
func (f *filter) Only() ([]string, bool) { return f.only, f.restricted }

// PreScore makes the rule for pod.
func (Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return nil
	}
	preferred := pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(preferred)
	if len(preferred) == 0 || err != nil {
		return nil
	}
	return &scorer{terms}
}

type scorer struct {
	terms *nodeaffinity.PreferredSchedulingTerms
}

func (s *scorer) Score(n *framework.NodeInfo) int64 { return s.terms.Score(n.Node) }

func (s *scorer) Normalize(score, _, max int64) int64 {
	if max == 0 {
		return 0
	}
	return framework.MaxScore * score / max
}

// Cures reports whether a node matches that did not before.
func (Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return matches(pod, e.Node)
	case framework.NodeChanged:
		return !maps.Equal(e.OldNode.Labels, e.Node.Labels) && matches(pod, e.Node)
	}
	return false
}

func matches(pod *framework.PodInfo, node *corev1.Node) bool {
	ok, _ := nodeaffinity.GetRequiredNodeAffinity(pod.Pod).Match(node)
	return ok
}
