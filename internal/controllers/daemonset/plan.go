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
	ds     *appsv1.DaemonSet
	hash   string
	now    time.Time
	create []string // nodes
	remove []*corev1.Pod

	desired, scheduled, misscheduled, ready, updated, available int32
}

// newPlan compares the pods with the nodes that the set is for, and goes on
// with a rolling update as far as its limits let it.
func newPlan(ds *appsv1.DaemonSet, nodes []corev1.Node, all []*corev1.Pod, hash string, now time.Time) *plan {
	p := &plan{ds: ds, hash: hash, now: now}
	byNode := map[string][]*corev1.Pod{}
	for _, pod := range all {
		name := target(pod)
		byNode[name] = append(byNode[name], pod)
	}
	sample := &corev1.Pod{ObjectMeta: ds.Spec.Template.ObjectMeta, Spec: *ds.Spec.Template.Spec.DeepCopy()}
	sample.Spec.Tolerations = tolerations(sample)
	affinity := nodeaffinity.GetRequiredNodeAffinity(sample)

	var current []*corev1.Pod // the pod of each node
	for i := range nodes {
		n := &nodes[i]
		run, stay := wants(sample, affinity, n)
		here := byNode[n.Name]
		delete(byNode, n.Name)
		slices.SortFunc(here, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		kept := p.keep(here, stay)
		if run {
			p.desired++
			if len(here) > 0 {
				p.scheduled++
			}
			if len(here) == 0 {
				p.create = append(p.create, n.Name)
			}
		} else if len(here) > 0 {
			p.misscheduled++
		}
		if run {
			current = append(current, kept)
		}
	}
	for _, gone := range byNode {
		for _, pod := range gone {
			if pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod)
			}
		}
	}
	p.count(current)
	if ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType {
		p.roll(current)
	}
	return p
}

// keep chooses the oldest pod that works, and removes the others.
func (p *plan) keep(here []*corev1.Pod, stay bool) *corev1.Pod {
	var kept *corev1.Pod
	for _, pod := range here {
		switch {
		case pod.DeletionTimestamp != nil:
		case !stay, pods.Finished(pod), kept != nil:
			p.remove = append(p.remove, pod)
		default:
			kept = pod
		}
	}
	return kept
}

func (p *plan) count(current []*corev1.Pod) {
	for _, pod := range current {
		if pod == nil {
			continue
		}
		if pods.Ready(pod) {
			p.ready++
		}
		if pods.Available(pod, p.ds.Spec.MinReadySeconds, p.now) {
			p.available++
		}
		if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash {
			p.updated++
		}
	}
}

// roll removes old pods: those that do not work at once, others as long as no
// more than maxUnavailable nodes are without an available pod.
func (p *plan) roll(current []*corev1.Pod) {
	room := p.maxUnavailable() - (len(current) - int(p.available))
	for _, pod := range current {
		if pod == nil || pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash {
			continue
		}
		if !pods.Available(pod, p.ds.Spec.MinReadySeconds, p.now) {
			p.remove = append(p.remove, pod)
		} else if room > 0 {
			room--
			p.remove = append(p.remove, pod)
		}
	}
}

func (p *plan) maxUnavailable() int {
	u := p.ds.Spec.UpdateStrategy.RollingUpdate
	if u == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(u.MaxUnavailable, intstr.FromInt32(1)), int(p.desired), true)
	if err != nil {
		return 1
	}
	return max(n, 1)
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
