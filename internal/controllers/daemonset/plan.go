package daemonset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"skiff/internal/controllers/pods"
)

// plan is what a DaemonSet lacks and has too much.
type plan struct {
	ds   *appsv1.DaemonSet
	hash string
	now  time.Time
	// replace says whether a pod that ended may be replaced now.
	replace func(*corev1.Pod) bool

	create []string // nodes
	remove []*corev1.Pod

	desired, scheduled, misscheduled, ready, updated, available int32
}

// place is a node that the set is for, with the set's pods there.
type place struct {
	node string
	pods []*corev1.Pod
}

// newPlan compares the pods with the nodes that the set is for. When all is as
// it should be, it goes on with a rolling update as far as its limits let it.
func newPlan(ds *appsv1.DaemonSet, nodes []corev1.Node, all []*corev1.Pod, hash string, now time.Time, replace func(*corev1.Pod) bool) *plan {
	p := &plan{ds: ds, hash: hash, now: now, replace: replace}
	byNode := map[string][]*corev1.Pod{}
	for _, pod := range all {
		// What has ended and is about to go is in nobody's way.
		if pod.DeletionTimestamp == nil || !pods.Finished(pod) {
			name := target(pod)
			byNode[name] = append(byNode[name], pod)
		}
	}
	sample := &corev1.Pod{ObjectMeta: ds.Spec.Template.ObjectMeta, Spec: *ds.Spec.Template.Spec.DeepCopy()}
	sample.Spec.Tolerations = tolerations(sample)
	affinity := nodeaffinity.GetRequiredNodeAffinity(sample)

	var places []place
	for i := range nodes {
		n := &nodes[i]
		run, stay := wants(sample, affinity, n)
		here := byNode[n.Name]
		delete(byNode, n.Name)
		slices.SortFunc(here, oldestFirst)
		switch {
		case run && len(here) == 0:
			p.create = append(p.create, n.Name)
		case stay:
			p.tidy(here)
		default:
			p.remove = append(p.remove, alive(here)...)
		}
		switch {
		case run:
			places = append(places, place{n.Name, here})
			p.count(here)
		case len(here) > 0:
			p.misscheduled++
		}
	}
	for _, gone := range byNode {
		for _, pod := range alive(gone) {
			if pod.Spec.NodeName == "" {
				p.remove = append(p.remove, pod)
			}
		}
	}
	if len(p.create)+len(p.remove) == 0 && ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if surge := p.limit(true, len(places)); surge > 0 {
			p.surge(places, surge)
		} else {
			p.roll(places, max(p.limit(false, len(places)), 1))
		}
	}
	return p
}

func oldestFirst(a, b *corev1.Pod) int {
	bound := func(p *corev1.Pod) int { return min(len(p.Spec.NodeName), 1) }
	return cmp.Or(cmp.Compare(bound(b), bound(a)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// alive leaves out pods that are being deleted.
func alive(all []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(all), func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
}

func (p *plan) isUpdated(pod *corev1.Pod) bool {
	generation := p.ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash || generation != "" && pod.Labels[generationLabel] == generation
}

func (p *plan) isAvailable(pod *corev1.Pod) bool {
	return pods.Available(pod, p.ds.Spec.MinReadySeconds, p.now)
}

// tidy removes the pods of a node that ended, and all others but the oldest.
// While a new pod takes over from an old one (maxSurge), both stay.
func (p *plan) tidy(here []*corev1.Pod) {
	var running []*corev1.Pod
	for _, pod := range alive(here) {
		switch {
		case !pods.Finished(pod):
			running = append(running, pod)
		case p.replace(pod):
			p.remove = append(p.remove, pod)
		}
	}
	if p.limit(true, 1) == 0 {
		if len(running) > 1 {
			p.remove = append(p.remove, running[1:]...)
		}
		return
	}
	var fresh, old *corev1.Pod
	for _, pod := range running {
		switch {
		case p.isUpdated(pod) && fresh == nil:
			fresh = pod
		case !p.isUpdated(pod) && old == nil:
			old = pod
		default:
			p.remove = append(p.remove, pod)
		}
	}
	if fresh != nil && old != nil && (!pods.Ready(old) || p.isAvailable(fresh)) {
		p.remove = append(p.remove, old)
	}
}

// count is about the oldest pod of a node.
func (p *plan) count(here []*corev1.Pod) {
	p.desired++
	if len(here) == 0 {
		return
	}
	p.scheduled++
	if pods.Ready(here[0]) {
		p.ready++
		if p.isAvailable(here[0]) {
			p.available++
		}
	}
	if p.isUpdated(here[0]) {
		p.updated++
	}
}

// pair finds the new and the old pod among those of a node.
func (p *plan) pair(here []*corev1.Pod) (fresh, old *corev1.Pod) {
	for _, pod := range alive(here) {
		if p.isUpdated(pod) {
			fresh = pod
		} else {
			old = pod
		}
	}
	return fresh, old
}

// roll removes old pods: those that do not work at once, others as long as no
// more than limit nodes are without an available pod.
func (p *plan) roll(places []place, limit int) {
	var candidates []*corev1.Pod
	for _, at := range places {
		fresh, old := p.pair(at.pods)
		switch {
		case old == nil && (fresh == nil || !p.isAvailable(fresh)):
			limit--
		case old == nil:
		case !p.isAvailable(old):
			p.remove = append(p.remove, old)
			limit--
		default:
			candidates = append(candidates, old)
		}
	}
	p.remove = append(p.remove, candidates[:max(0, min(limit, len(candidates)))]...)
}

// surge adds a new pod beside old ones: beside those that do not work at once,
// beside others as long as no more than limit nodes have two.
func (p *plan) surge(places []place, limit int) {
	var candidates []string
	for _, at := range places {
		fresh, old := p.pair(at.pods)
		switch {
		case old == nil:
		case fresh != nil && p.isAvailable(fresh):
			p.remove = append(p.remove, old)
		case fresh != nil:
			limit--
		case !p.isAvailable(old):
			p.create = append(p.create, at.node)
		default:
			candidates = append(candidates, at.node)
		}
	}
	p.create = append(p.create, candidates[:max(0, min(limit, len(candidates)))]...)
}

// limit is maxSurge, or maxUnavailable, for a number of nodes.
func (p *plan) limit(surge bool, nodes int) int {
	u := p.ds.Spec.UpdateStrategy.RollingUpdate
	if u == nil || p.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return 0
	}
	value := u.MaxUnavailable
	if surge {
		value = u.MaxSurge
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(value, intstr.FromInt32(0)), nodes, true)
	if err != nil {
		return 0
	}
	return n
}

func (p *plan) status() appsv1.DaemonSetStatus {
	return appsv1.DaemonSetStatus{
		ObservedGeneration: p.ds.Generation, CollisionCount: p.ds.Status.CollisionCount, Conditions: p.ds.Status.Conditions,
		DesiredNumberScheduled: p.desired, CurrentNumberScheduled: p.scheduled, NumberMisscheduled: p.misscheduled,
		NumberReady: p.ready, UpdatedNumberScheduled: p.updated, NumberAvailable: p.available, NumberUnavailable: p.desired - p.available,
	}
}

// wants says whether a new pod may come to the node, and one that is there may
// stay.
func wants(sample *corev1.Pod, affinity nodeaffinity.RequiredNodeAffinity, n *corev1.Node) (run, stay bool) {
	if sample.Spec.NodeName != "" && sample.Spec.NodeName != n.Name {
		return false, false
	}
	if ok, err := affinity.Match(n); err != nil || !ok {
		return false, false
	}
	run, stay = true, true
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || slices.ContainsFunc(sample.Spec.Tolerations, func(o corev1.Toleration) bool { return pods.Tolerates(&o, t) }) {
			continue
		}
		run = false
		stay = stay && t.Effect != corev1.TaintEffectNoExecute
	}
	return run, stay
}

// tolerations are the pod's own and those that every daemon has (DaemonSet
// documentation, "Taints and tolerations").
func tolerations(pod *corev1.Pod) []corev1.Toleration {
	all := slices.Clone(pod.Spec.Tolerations)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if pod.Spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return all
}

// nodeField is the field by which a daemon's pod is bound to its node.
const nodeField = "metadata.name"

// bindTo leaves the scheduler only that node to choose.
func bindTo(pod *corev1.Pod, node string) {
	only := []corev1.NodeSelectorRequirement{{Key: nodeField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: only}},
	}
}

// target is the node that a pod is on or for.
func target(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return pod.Spec.NodeName
	}
	required := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == nodeField && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}
