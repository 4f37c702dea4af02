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
	// Defaults are the constraints of such pods. If there are none they are
	// SystemDefaults.
	Defaults []corev1.TopologySpreadConstraint
	// NoDefaults leaves such pods alone.
	NoDefaults bool
}

// SystemDefaults returns what pods without constraints are spread by unless
// the configuration says otherwise.
func SystemDefaults() []corev1.TopologySpreadConstraint {
	return []corev1.TopologySpreadConstraint{
		{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
		{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
	}
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

// constraints returns the constraints of pod with that action, and whether
// they are the system's own: those also regard nodes that lack a label.
func (p *Plugin) constraints(pod *corev1.Pod, action corev1.UnsatisfiableConstraintAction) (out []*constraint, system bool) {
	all := pod.Spec.TopologySpreadConstraints
	var selector labels.Selector
	if len(all) == 0 {
		all, system = p.defaults()
		// The selector costs something to find: only where it is needed.
		for i := range all {
			if all[i].WhenUnsatisfiable == action && selector == nil {
				selector = p.DefaultSelector(pod)
			}
		}
		if selector == nil || selector.Empty() {
			return nil, false
		}
	}
	for i := range all {
		if all[i].WhenUnsatisfiable != action {
			continue
		}
		c := newConstraint(&all[i], pod.Labels)
		if selector != nil {
			c.selector = selector
		}
		out = append(out, c)
	}
	return out, system
}

func (p *Plugin) defaults() (all []corev1.TopologySpreadConstraint, system bool) {
	switch {
	case p.NoDefaults:
		return nil, false
	case len(p.Defaults) > 0:
		return p.Defaults, false
	}
	return SystemDefaults(), true
}

func newConstraint(t *corev1.TopologySpreadConstraint, own labels.Set) *constraint {
	c := &constraint{
		Counter: topology.NewCounter(t.TopologyKey), maxSkew: int64(t.MaxSkew), minDomains: 1,
		selector: selectorOf(t, own), honorAffinity: true,
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
	return c
}

func selectorOf(t *corev1.TopologySpreadConstraint, own labels.Set) labels.Selector {
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

func (o *observer) Observe(n *framework.NodeInfo) (regroup bool) {
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
		regroup = c.Set(n, here, count) || regroup
	}
	return regroup
}

// matching counts the pods on n; those that are going do not count, and an
// empty selector selects none.
func matching(n *framework.NodeInfo, namespace string, selector labels.Selector) int64 {
	if selector.Empty() {
		return 0
	}
	var count int64
	for _, p := range n.Pods {
		if p.DeletionTimestamp == nil && p.Namespace == namespace && selector.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}
