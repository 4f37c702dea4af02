// Package nodeaffinity holds pods to the nodes that their node selector and
// node affinity allow, and prefers those that they prefer.
package nodeaffinity

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
)

const name = "NodeAffinity"

// Plugin is the filter and the score.
type Plugin struct {
	// added and addedPreferred hold for all pods.
	added          *nodeaffinity.NodeSelector
	addedPreferred *nodeaffinity.PreferredSchedulingTerms
}

// New makes the plugin; added, unless it is nil, holds for all pods besides
// their own affinity.
func New(added *corev1.NodeAffinity) (Plugin, error) {
	var p Plugin
	if added == nil {
		return p, nil
	}
	var err error
	if required := added.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		if p.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
			return p, err
		}
	}
	if preferred := added.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) > 0 {
		p.addedPreferred, err = nodeaffinity.NewPreferredSchedulingTerms(preferred)
	}
	return p, err
}

// Name returns the plugin's name.
func (Plugin) Name() string { return name }

// PreFilter makes the rule for pod.
func (p Plugin) PreFilter(pod *framework.PodInfo) (framework.Filter, *framework.Status) {
	a := required(pod)
	if a == nil && len(pod.Spec.NodeSelector) == 0 && p.added == nil {
		return nil, nil
	}
	f := &filter{
		added:    p.added,
		required: nodeaffinity.GetRequiredNodeAffinity(pod.Pod),
		enforced: framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match scheduler-enforced node affinity"),
		mismatch: framework.NewStatus(framework.Unresolvable, name, "node(s) didn't match Pod's node affinity/selector"),
	}
	if a != nil {
		f.only, f.restricted = names(a.NodeSelectorTerms)
		if f.restricted && len(f.only) == 0 {
			return nil, framework.NewStatus(framework.Unresolvable, name, "pod affinity terms conflict")
		}
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
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if !named {
				here, named = slices.Clone(r.Values), true
				continue
			}
			// All requirements of a term must be met.
			here = slices.DeleteFunc(here, func(n string) bool { return !slices.Contains(r.Values, n) })
		}
		if !named {
			return nil, false
		}
		all = append(all, here...)
	}
	return all, len(terms) > 0
}

type filter struct {
	added              *nodeaffinity.NodeSelector
	required           nodeaffinity.RequiredNodeAffinity
	only               []string
	restricted         bool
	enforced, mismatch *framework.Status
}

func (f *filter) Filter(n *framework.NodeInfo) *framework.Status {
	if f.added != nil && !f.added.Match(n.Node) {
		return f.enforced
	}
	if ok, err := f.required.Match(n.Node); !ok || err != nil {
		return f.mismatch
	}
	return nil
}

// Only returns the nodes that the pod names.
func (f *filter) Only() ([]string, bool) { return f.only, f.restricted }

// PreScore makes the rule for pod.
func (p Plugin) PreScore(pod *framework.PodInfo) framework.Scorer {
	s := &scorer{added: p.addedPreferred}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// The API has validated the terms.
		s.own, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if s.own == nil && s.added == nil {
		return nil
	}
	return s
}

type scorer struct {
	own, added *nodeaffinity.PreferredSchedulingTerms
}

func (s *scorer) Score(n *framework.NodeInfo) int64 {
	var sum int64
	for _, terms := range []*nodeaffinity.PreferredSchedulingTerms{s.added, s.own} {
		if terms != nil {
			sum += terms.Score(n.Node)
		}
	}
	return sum
}

func (s *scorer) Normalize(score, _, max int64) int64 {
	if max == 0 {
		return 0
	}
	return framework.MaxScore * score / max
}

// Cures reports whether a node matches that did not before.
func (p Plugin) Cures(pod *framework.PodInfo, e framework.Event) bool {
	switch e.Kind {
	case framework.NodeAdded:
		return p.matches(pod, e.Node)
	case framework.NodeChanged:
		return !maps.Equal(e.OldNode.Labels, e.Node.Labels) && p.matches(pod, e.Node)
	}
	return false
}

func (p Plugin) matches(pod *framework.PodInfo, node *corev1.Node) bool {
	ok, _ := nodeaffinity.GetRequiredNodeAffinity(pod.Pod).Match(node)
	return ok && (p.added == nil || p.added.Match(node))
}
