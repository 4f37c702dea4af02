// Package defaultpreemption makes room for a pod that fits nowhere by deleting
// pods of lower priority.
package defaultpreemption

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/scheduler/framework"
)

const name = "DefaultPreemption"

// Plugin chooses where to make room, and whose.
type Plugin struct {
	// Budgets returns all disruption budgets.
	Budgets func() []policyv1.PodDisruptionBudget
	// Evict deletes the victim on behalf of preemptor.
	Evict func(ctx context.Context, preemptor, victim *corev1.Pod, node string) error
	// Displace tells a pod that it is no longer nominated.
	Displace func(ctx context.Context, pod *corev1.Pod) error
	// Start returns where to begin to look, below n.
	Start func(n int) int
	// Now is the start of pods that have not been started.
	Now func() metav1.Time
	// So many nodes are tried at least, if room can be made on them: a part of
	// all in percent, and a number.
	MinCandidateNodesPercentage, MinCandidateNodesAbsolute int32
}

// Name returns the plugin's name.
func (*Plugin) Name() string { return name }

var (
	noVictims = framework.NewStatus(framework.Unresolvable, name, "No preemption victims found for incoming pod")
	noHelp    = framework.NewStatus(framework.Unresolvable, name, "Preemption is not helpful for scheduling")
)

func reject(reason string) *framework.Status {
	return framework.NewStatus(framework.Unschedulable, name, "preemption: "+reason)
}

// PostFilter chooses the node where room costs least.
func (p *Plugin) PostFilter(pod *framework.PodInfo, t framework.Trial) (*framework.Nomination, *framework.Status) {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return nil, reject("not eligible due to preemptionPolicy=Never.")
	}
	if awaitsVictims(pod, t) {
		return nil, reject("not eligible due to a terminating pod on the nominated node.")
	}
	candidates, failures := p.candidates(pod, t)
	if len(candidates) == 0 {
		return &framework.Nomination{}, reject(framework.Summary(t.Nodes(), failures))
	}
	candidates, err := p.consult(candidates, t)
	if err != nil {
		return nil, framework.NewStatus(framework.Failed, name, "preemption: "+err.Error())
	}
	if len(candidates) == 0 {
		return nil, reject("no candidate node for preemption")
	}
	best := p.cheapest(candidates)
	nomination := &framework.Nomination{Node: best.node.Node.Name, Victims: best.victims}
	for _, o := range best.node.Nominated {
		if o.Priority < pod.Priority {
			nomination.Displaced = append(nomination.Displaced, o)
		}
	}
	nomination.MakeRoom = func(ctx context.Context) error { return p.makeRoom(ctx, pod.Pod, nomination) }
	return nomination, nil
}

// consult returns what others leave of the candidates.
func (p *Plugin) consult(candidates []*candidate, t framework.Trial) ([]*candidate, error) {
	proposed := make(map[string]framework.Victims, len(candidates))
	for _, c := range candidates {
		proposed[c.node.Node.Name] = framework.Victims{Pods: c.victims, Violations: c.violations}
	}
	agreed, err := t.Consult(proposed)
	if err != nil {
		return nil, err
	}
	kept := candidates[:0]
	for _, c := range candidates {
		if c.node.Node == nil {
			continue
		}
		if v, ok := agreed[c.node.Node.Name]; ok {
			c.victims, c.violations = v.Pods, v.Violations
			slices.SortStableFunc(c.victims, p.moreImportant)
			kept = append(kept, c)
		}
	}
	return kept, nil
}

// awaitsVictims reports whether room is being made for the pod already.
func awaitsVictims(pod *framework.PodInfo, t framework.Trial) bool {
	n := t.Node(t.Nominated())
	if n == nil {
		return false
	}
	if why := t.Why(n); why != nil && why.Code == framework.Unresolvable {
		return false
	}
	for _, o := range n.Pods {
		if o.Priority < pod.Priority && terminating(o.Pod) {
			return true
		}
	}
	return false
}

// terminating reports whether the pod is going because it was preempted, or
// nobody says why.
func terminating(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget {
			return c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		}
	}
	return true
}

// candidates returns nodes where room can be made, and why it cannot on others.
// It stops when there are enough.
func (p *Plugin) candidates(pod *framework.PodInfo, t framework.Trial) ([]*candidate, map[*framework.Status]int) {
	failures := make(map[*framework.Status]int)
	hopeful := 0
	for why, n := range t.Reasons() {
		if why.Code == framework.Unschedulable {
			hopeful += n
		} else {
			failures[noHelp] += n
		}
	}
	if lowest, any := t.LowestPriority(); !any || lowest >= pod.Priority {
		if hopeful > 0 {
			failures[noVictims] = hopeful
		}
		return nil, failures
	}
	nodes := make([]*framework.NodeInfo, 0, hopeful)
	for n, why := range t.Failures {
		if why.Code == framework.Unschedulable {
			nodes = append(nodes, n)
		}
	}
	if len(nodes) == 0 {
		return nil, failures
	}
	budgets := newBudgets(p.Budgets())
	enough := min(max(len(nodes)*int(p.MinCandidateNodesPercentage)/100, int(p.MinCandidateNodesAbsolute)), len(nodes))
	start := p.Start(len(nodes))
	var found []*candidate
	harmless := false
	for i := range nodes {
		c, why := p.try(pod, nodes[(start+i)%len(nodes)], t, budgets)
		if why != nil {
			failures[why]++
			continue
		}
		found = append(found, c)
		harmless = harmless || c.violations == 0
		if harmless && len(found) >= enough {
			break
		}
	}
	return found, failures
}
