package class_test

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/scheduler/class"
)

// naive decides by asking every rule about every node, from the objects alone.
// It shares no code with the rules.
type naive struct {
	nodes      map[string]*corev1.Node
	pods       map[types.UID]*corev1.Pod
	namespaces map[string]map[string]string
}

// best returns the node for the pod, or "".
func (v *naive) best(pod *corev1.Pod) string {
	feasible := map[string]bool{}
	for name, n := range v.nodes {
		if v.fits(pod, n) {
			feasible[name] = true
		}
	}
	total := map[string]int64{}
	for name := range feasible {
		total[name] += v.load(pod, v.nodes[name]) + v.images(pod, v.nodes[name])
	}
	v.compare(total, feasible, 3, func(n *corev1.Node) (int64, bool) {
		return untolerated(pod, n, corev1.TaintEffectPreferNoSchedule), true
	}, func(s, _, hi int64) int64 {
		if hi == 0 {
			return 100
		}
		return 100 - 100*s/hi
	})
	v.compare(total, feasible, 2, func(n *corev1.Node) (score int64, _ bool) {
		if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
			for _, t := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				if selects(t.Preference, n) {
					score += int64(t.Weight)
				}
			}
		}
		return score, true
	}, func(s, _, hi int64) int64 {
		if hi == 0 {
			return 0
		}
		return 100 * s / hi
	})
	v.compare(total, feasible, 2, v.spreadScore(pod, feasible), func(s, lo, hi int64) int64 {
		if hi == 0 {
			return 100
		}
		return 100 * (hi + lo - s) / hi
	})
	v.compare(total, feasible, 2, v.affinityScore(pod), func(s, lo, hi int64) int64 {
		if hi == lo {
			return 0
		}
		return int64(100 * (float64(s-lo) / float64(hi-lo)))
	})
	best := ""
	for name := range feasible {
		if best == "" || total[name] > total[best] || total[name] == total[best] && class.Tie(seed, name) > class.Tie(seed, best) {
			best = name
		}
	}
	return best
}

func (v *naive) compare(total map[string]int64, feasible map[string]bool, weight int64,
	score func(*corev1.Node) (int64, bool), normalize func(s, lo, hi int64) int64) {
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	scores := map[string]int64{}
	for name := range feasible {
		if s, ok := score(v.nodes[name]); ok {
			scores[name] = s
			lo, hi = min(lo, s), max(hi, s)
		}
	}
	for name, s := range scores {
		total[name] += weight * normalize(s, lo, hi)
	}
}

func (v *naive) on(n *corev1.Node) (out []*corev1.Pod) {
	for _, p := range v.pods {
		if p.Spec.NodeName == n.Name {
			out = append(out, p)
		}
	}
	return out
}

// amount is what the pod requests of a resource, in thousandths; missing is for
// a container that does not say.
func amount(p *corev1.Pod, name corev1.ResourceName, missing int64) int64 {
	amount := missing
	if q, ok := p.Spec.Containers[0].Resources.Requests[name]; ok {
		amount = q.MilliValue()
	}
	// A sidecar runs beside the container; another init container before it.
	for _, c := range p.Spec.InitContainers {
		q := missing
		if r, ok := c.Resources.Requests[name]; ok {
			q = r.MilliValue()
		}
		if c.RestartPolicy != nil {
			amount += q
		} else {
			amount = max(amount, q)
		}
	}
	if q, ok := p.Spec.Overhead[name]; ok {
		amount += q.MilliValue()
	}
	return amount
}

// untolerated counts the taints of that effect.
func untolerated(pod *corev1.Pod, n *corev1.Node, effect corev1.TaintEffect) (count int64) {
	for _, taint := range n.Spec.Taints {
		tolerated := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return t.Key == taint.Key && (t.Effect == "" || t.Effect == effect)
		})
		if taint.Effect == effect && !tolerated {
			count++
		}
	}
	return count
}

// selects knows the operator In, which is all that the tests use.
func selects(t corev1.NodeSelectorTerm, n *corev1.Node) bool {
	for _, e := range t.MatchExpressions {
		if !slices.Contains(e.Values, n.Labels[e.Key]) {
			return false
		}
	}
	return true
}

func selected(pod *corev1.Pod, n *corev1.Node) bool {
	for key, value := range pod.Spec.NodeSelector {
		if n.Labels[key] != value {
			return false
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		return slices.ContainsFunc(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
			return selects(t, n)
		})
	}
	return true
}

func (v *naive) fits(pod *corev1.Pod, n *corev1.Node) bool {
	if n.Spec.Unschedulable || untolerated(pod, n, corev1.TaintEffectNoSchedule) > 0 || !selected(pod, n) {
		return false
	}
	here := v.on(n)
	for _, p := range here {
		for _, a := range p.Spec.Containers[0].Ports {
			for _, b := range pod.Spec.Containers[0].Ports {
				if a.HostPort == b.HostPort && (a.HostIP == b.HostIP || a.HostIP == "" || b.HostIP == "") {
					return false
				}
			}
		}
	}
	if int64(len(here)) >= n.Status.Allocatable.Pods().Value() {
		return false
	}
	for _, name := range []corev1.ResourceName{"cpu", "memory", "example.com/thing"} {
		used := amount(pod, name, 0)
		if used == 0 {
			continue
		}
		for _, p := range here {
			used += amount(p, name, 0)
		}
		if have := n.Status.Allocatable[name]; used > have.MilliValue() {
			return false
		}
	}
	return v.spreads(pod, n) && v.near(pod, n)
}

func matches(s *metav1.LabelSelector, p *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(p.Labels))
}

// about reports whether the term of owner is about the pod.
func (v *naive) about(t corev1.PodAffinityTerm, owner, pod *corev1.Pod) bool {
	there := slices.Contains(t.Namespaces, pod.Namespace)
	if t.NamespaceSelector == nil {
		there = there || len(t.Namespaces) == 0 && owner.Namespace == pod.Namespace
	} else {
		there = there || matches(t.NamespaceSelector, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: v.namespaces[pod.Namespace]}})
	}
	return there && matches(t.LabelSelector, pod)
}

func (v *naive) near(pod *corev1.Pod, n *corev1.Node) bool {
	near, far := requiredTerms(pod)
	all := func(p *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !v.about(t, pod, p) })
	}
	missing, anywhere := false, false
	for _, t := range near {
		d, has := n.Labels[t.TopologyKey]
		if !has {
			return false
		}
		here := false
		for _, p := range v.pods {
			on := v.nodes[p.Spec.NodeName]
			if on == nil || !all(p) {
				continue
			}
			if other, ok := on.Labels[t.TopologyKey]; ok {
				anywhere = true
				here = here || other == d
			}
		}
		missing = missing || !here
	}
	if missing && (anywhere || !all(pod)) {
		return false
	}
	for _, p := range v.pods {
		on := v.nodes[p.Spec.NodeName]
		if on == nil {
			continue
		}
		for _, t := range far {
			if v.about(t, pod, p) && together(n, on, t.TopologyKey) {
				return false
			}
		}
		_, theirs := requiredTerms(p)
		for _, t := range theirs {
			if v.about(t, p, pod) && together(n, on, t.TopologyKey) {
				return false
			}
		}
	}
	return true
}

func together(a, b *corev1.Node, key string) bool {
	x, ok := a.Labels[key]
	y, okOther := b.Labels[key]
	return ok && okOther && x == y
}

func requiredTerms(p *corev1.Pod) (near, far []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			far = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, far
}

func preferredTerms(p *corev1.Pod) (near, far []corev1.WeightedPodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			far = a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, far
}

func (v *naive) affinityScore(pod *corev1.Pod) func(*corev1.Node) (int64, bool) {
	return func(n *corev1.Node) (score int64, _ bool) {
		for _, p := range v.pods {
			on := v.nodes[p.Spec.NodeName]
			if on == nil {
				continue
			}
			add := func(terms []corev1.WeightedPodAffinityTerm, owner, about *corev1.Pod, sign int64) {
				for _, t := range terms {
					if together(n, on, t.PodAffinityTerm.TopologyKey) && v.about(t.PodAffinityTerm, owner, about) {
						score += sign * int64(t.Weight)
					}
				}
			}
			near, far := preferredTerms(pod)
			add(near, pod, p, 1)
			add(far, pod, p, -1)
			near, far = preferredTerms(p)
			add(near, p, pod, 1)
			add(far, p, pod, -1)
			required, _ := requiredTerms(p)
			for _, t := range required {
				add([]corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: t}}, p, pod, 1)
			}
		}
		return score, true
	}
}

// load is the score by free and evenly used resources.
func (v *naive) load(pod *corev1.Pod, n *corev1.Node) int64 {
	used := func(name corev1.ResourceName, missing int64) int64 {
		sum := amount(pod, name, missing)
		for _, p := range v.on(n) {
			sum += amount(p, name, missing)
		}
		return sum
	}
	const defaultMemory = 200 << 20 * 1000
	haveCPU, haveMemory := n.Status.Allocatable.Cpu().MilliValue(), n.Status.Allocatable.Memory().MilliValue()
	least := func(used, have int64) int64 {
		if used > have {
			return 0
		}
		return (have - used) * 100 / have
	}
	score := (least(used("cpu", 100), haveCPU) + least(used("memory", defaultMemory)/1000, haveMemory/1000)) / 2
	if amount(pod, "cpu", 0) > 0 || amount(pod, "memory", 0) > 0 {
		a := min(1, float64(used("cpu", 0))/float64(haveCPU))
		b := min(1, float64(used("memory", 0))/float64(haveMemory))
		score += int64((1 - math.Abs(a-b)/2) * 100)
	}
	return score
}

// images is the score by images that the node has.
func (v *naive) images(pod *corev1.Pod, n *corev1.Node) int64 {
	has := func(n *corev1.Node, image string) (int64, bool) {
		for _, i := range n.Status.Images {
			if slices.Contains(i.Names, image) {
				return i.SizeBytes, true
			}
		}
		return 0, false
	}
	var sum int64
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		size, ok := has(n, c.Image)
		if !ok {
			continue
		}
		nodes := 0
		for _, o := range v.nodes {
			if _, ok := has(o, c.Image); ok {
				nodes++
			}
		}
		sum += int64(float64(size) * (float64(nodes) / float64(len(v.nodes))))
	}
	const mb = 1 << 20
	most := int64(1000*mb) * int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	return 100 * (min(max(sum, 23*mb), most) - 23*mb) / (most - 23*mb)
}
