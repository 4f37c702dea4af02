package class_test

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// byApp stands for services: pods of one application are equal.
func byApp(pod *corev1.Pod) labels.Selector {
	if pod.Labels["service"] == "" {
		return labels.SelectorFromSet(nil)
	}
	return labels.SelectorFromSet(labels.Set{"app": pod.Labels["app"]})
}

// wish is a constraint of spreading, as the naive implementation sees it.
type wish struct {
	corev1.TopologySpreadConstraint
	equal func(*corev1.Pod) bool
}

// wishes returns the pod's constraints with that action; keys are the labels
// that a node must have to count.
func wishes(pod *corev1.Pod, action corev1.UnsatisfiableConstraintAction) (all []wish, keys []string) {
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != action {
			continue
		}
		all = append(all, wish{c, func(p *corev1.Pod) bool {
			same := !slices.ContainsFunc(c.MatchLabelKeys, func(key string) bool {
				own, ok := pod.Labels[key]
				return ok && own != p.Labels[key]
			})
			return same && matches(c.LabelSelector, p)
		}})
		keys = append(keys, c.TopologyKey)
	}
	if len(pod.Spec.TopologySpreadConstraints) == 0 && action == corev1.ScheduleAnyway && pod.Labels["service"] != "" {
		equal := func(p *corev1.Pod) bool { return p.Labels["app"] == pod.Labels["app"] }
		all = []wish{
			{corev1.TopologySpreadConstraint{TopologyKey: corev1.LabelHostname, MaxSkew: 3}, equal},
			{corev1.TopologySpreadConstraint{TopologyKey: corev1.LabelTopologyZone, MaxSkew: 5}, equal},
		}
	}
	return all, keys
}

// domains sums up the equal pods by domain, over the nodes that count.
func (v *naive) domains(pod *corev1.Pod, w wish, keys []string) map[string]int64 {
	sums := map[string]int64{}
	for _, n := range v.nodes {
		d, has := n.Labels[w.TopologyKey]
		if !has || !hasAll(n, keys) {
			continue
		}
		if (w.NodeAffinityPolicy == nil || *w.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !selected(pod, n) {
			continue
		}
		if w.NodeTaintsPolicy != nil && *w.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor && untolerated(pod, n, corev1.TaintEffectNoSchedule) > 0 {
			continue
		}
		sums[d] += v.equals(pod, w, n)
	}
	return sums
}

func hasAll(n *corev1.Node, keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { _, has := n.Labels[key]; return !has })
}

func (v *naive) equals(pod *corev1.Pod, w wish, n *corev1.Node) (count int64) {
	for _, p := range v.on(n) {
		if p.Namespace == pod.Namespace && p.DeletionTimestamp == nil && w.equal(p) {
			count++
		}
	}
	return count
}

func (v *naive) spreads(pod *corev1.Pod, n *corev1.Node) bool {
	hard, keys := wishes(pod, corev1.DoNotSchedule)
	for _, w := range hard {
		sums := v.domains(pod, w, keys)
		least, first := int64(0), true
		for _, s := range sums {
			if first || s < least {
				least, first = s, false
			}
		}
		if w.MinDomains != nil && len(sums) < int(*w.MinDomains) {
			least = 0
		}
		var self int64
		if w.equal(pod) {
			self = 1
		}
		d, has := n.Labels[w.TopologyKey]
		if !has || sums[d]+self-least > int64(w.MaxSkew) {
			return false
		}
	}
	return true
}

func (v *naive) spreadScore(pod *corev1.Pod, feasible map[string]bool) func(*corev1.Node) (int64, bool) {
	soft, keys := wishes(pod, corev1.ScheduleAnyway)
	if len(soft) == 0 {
		return func(*corev1.Node) (int64, bool) { return 0, false }
	}
	sizes := make([]map[string]bool, len(soft))
	sums := make([]map[string]int64, len(soft))
	for i, w := range soft {
		sizes[i] = map[string]bool{}
		for name := range feasible {
			n := v.nodes[name]
			if !hasAll(n, keys) {
				continue
			}
			if w.TopologyKey == corev1.LabelHostname {
				sizes[i][name] = true
			} else {
				sizes[i][n.Labels[w.TopologyKey]] = true
			}
		}
		sums[i] = v.domains(pod, w, keys)
	}
	return func(n *corev1.Node) (int64, bool) {
		if !hasAll(n, keys) {
			return 0, false
		}
		var score float64
		for i, w := range soft {
			d, has := n.Labels[w.TopologyKey]
			if !has {
				continue
			}
			count := sums[i][d]
			if w.TopologyKey == corev1.LabelHostname {
				count = v.equals(pod, w, n)
			}
			score += float64(count)*math.Log(float64(len(sizes[i])+2)) + float64(w.MaxSkew-1)
		}
		return int64(math.Round(score)), true
	}
}
