// Package podtopologyspread spreads equal pods over topology domains (KEP-895,
// KEP-3022, KEP-3094, KEP-3243).
package podtopologyspread

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/tainttoleration"
	"skiff/internal/scheduler/topology"
)

const name = "PodTopologySpread"

// Plugin is the filter and the score.
type Plugin struct {
	// DefaultSelector selects the pods that are equal to one by the services
	// and controllers that it belongs to; an empty one selects none. It is asked
	// for pods without constraints of their own.
	DefaultSelector func(pod *corev1.Pod) labels.Selector
}

// Name returns the plugin's name.
func (*Plugin) Name() string { return name }

// constraint is one constraint with its counts.
type constraint struct {
	*topology.Counter
	maxSkew    int64
	minDomains int
	selector   labels.Selector
	// Whether nodes count that the pod may not run on.
	honorAffinity, honorTaints bool
}

func constraints(pod *corev1.Pod, action corev1.UnsatisfiableConstraintAction) []*constraint {
	var out []*constraint
	for i := range pod.Spec.TopologySpreadConstraints {
		t := &pod.Spec.TopologySpreadConstraints[i]
		if t.WhenUnsatisfiable != action {
			continue
		}
		c := &constraint{
			Counter: topology.NewCounter(t.TopologyKey), maxSkew: int64(t.MaxSkew), minDomains: 1,
			selector: selectorOf(t, pod.Labels), honorAffinity: true,
		}
		if t.MinDomains != nil {
			c.minDomains = int(*t.MinDomains)
		}
		if t.NodeAffinityPolicy != nil {
			c.honorAffinity = *t.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		}
		if t.NodeTaintsPolicy != nil {
			c.honorTaints = *t.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		}
		out = append(out, c)
	}
	return out
}

func selectorOf(t *corev1.TopologySpreadConstraint, own map[string]string) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return labels.Nothing()
	}
	for _, key := range t.MatchLabelKeys {
		if value, ok := own[key]; ok {
			requirements, _ := labels.SelectorFromSet(labels.Set{key: value}).Requirements()
			selector = selector.Add(requirements...)
		}
	}
	return selector
}

// observer counts the pods of a set of constraints.
type observer struct {
	pod         *corev1.Pod
	affinity    nodeaffinity.RequiredNodeAffinity
	constraints []*constraint
	// requireAll leaves nodes out that lack the label of any constraint.
	requireAll bool
}

func (o *observer) hasAll(n *framework.NodeInfo) bool {
	for _, c := range o.constraints {
		if _, ok := n.Node.Labels[c.Key()]; !ok {
			return false
		}
	}
	return true
}

func (o *observer) Observe(n *framework.NodeInfo) (others bool) {
	counts := n.Node != nil && (!o.requireAll || o.hasAll(n))
	for _, c := range o.constraints {
		here := counts
		if here && c.honorAffinity {
			ok, _ := o.affinity.Match(n.Node)
			here = ok
		}
		if here && c.honorTaints {
			here = tainttoleration.Tolerates(o.pod.Spec.Tolerations, n.Node)
		}
		var count int64
		if here {
			count = matching(n, o.pod.Namespace, c.selector)
		}
		others = c.Set(n, here, count) || others
	}
	return others
}

// matching counts the pods on n; those that are going do not count.
func matching(n *framework.NodeInfo, namespace string, selector labels.Selector) int64 {
	var count int64
	for _, p := range n.Pods {
		if p.DeletionTimestamp == nil && p.Namespace == namespace && selector.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}
