package pods

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ToDelete returns the n pods whose loss costs least, by the rules of the
// ReplicaSet documentation ("Scaling a ReplicaSet", "Pod deletion cost").
// related are the pods of all sets of the same owner: among equals, a pod goes
// from the node that has most of them.
func ToDelete(pods, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(pods) {
		return pods
	}
	onNode := map[string]int{}
	for _, p := range related {
		if Active(p) {
			onNode[p.Spec.NodeName]++
		}
	}
	ranked := slices.Clone(pods)
	slices.SortStableFunc(ranked, func(a, b *corev1.Pod) int {
		return cmp.Or(
			before(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			before(!Ready(a), !Ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]),
			younger(readySince(a), readySince(b), now),
			cmp.Compare(restarts(b), restarts(a)),
			younger(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now),
			cmp.Compare(a.UID, b.UID),
		)
	})
	return ranked[:n]
}

func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	default:
		return 0
	}
}

// deletionCost reads controller.kubernetes.io/pod-deletion-cost (KEP-2255); a
// value that is no number counts as 0.
func deletionCost(p *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

// readySince is the zero time for pods that are not ready.
func readySince(p *corev1.Pod) time.Time {
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// younger puts the shorter age first, on a logarithmic scale (KEP-2185) so
// that pods of about the same age count as equal; an unknown time is young.
func younger(a, b, now time.Time) int { return cmp.Compare(ageRank(a, now), ageRank(b, now)) }

func ageRank(t, now time.Time) int {
	if t.IsZero() {
		return math.MinInt
	}
	if age := now.Sub(t); age > 0 {
		return bits.Len64(uint64(age))
	}
	return 0
}

func restarts(p *corev1.Pod) int32 {
	var most int32
	for _, s := range p.Status.ContainerStatuses {
		most = max(most, s.RestartCount)
	}
	for _, s := range p.Status.InitContainerStatuses {
		if s.State.Running != nil {
			most = max(most, s.RestartCount)
		}
	}
	return most
}
