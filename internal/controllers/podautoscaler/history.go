package podautoscaler

import (
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// history is what is remembered of an autoscaler: how large its target should
// have been, and how its size was changed.
type history struct {
	uid types.UID
	// selector is that of the target's pods; it is guarded by reconciler.mu.
	selector        labels.Selector
	clock           clock.PassiveClock
	recommendations []moment
	up, down        []moment
}

// moment is a number of replicas at a time.
type moment struct {
	at       time.Time
	replicas int32
}

// longest is the longest time that rules may look back (an hour for windows,
// half of it for policies).
const longest = time.Hour

func (h *history) begin(replicas int32) {
	if h.recommendations == nil {
		h.recommendations = []moment{{h.clock.Now(), replicas}}
	}
}

// recommend notes a recommendation.
func (h *history) recommend(replicas int32) { h.recommendations = h.add(h.recommendations, replicas) }

// changed notes a change of size.
func (h *history) changed(from, to int32) {
	if to > from {
		h.up = h.add(h.up, to-from)
	} else {
		h.down = h.add(h.down, from-to)
	}
}

// add appends to a list and drops what is too old to matter.
func (h *history) add(list []moment, replicas int32) []moment {
	now := h.clock.Now()
	old := 0
	for old < len(list) && now.Sub(list[old].at) > longest {
		old++
	}
	return append(list[old:], moment{now, replicas})
}

// stabilized returns the best of the recommendation and those of the window
// before.
func (h *history) stabilized(recommendation int32, window time.Duration, best func(a, b int32) int32) int32 {
	now := h.clock.Now()
	for _, m := range h.recommendations {
		if now.Sub(m.at) < window {
			recommendation = best(recommendation, m.replicas)
		}
	}
	return recommendation
}

// within sums the changes of the last period.
func (h *history) within(changes []moment, period time.Duration) (sum int32) {
	now := h.clock.Now()
	for _, m := range changes {
		if now.Sub(m.at) < period {
			sum += m.replicas
		}
	}
	return sum
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// upLimit is the greatest size that the rules allow.
func (h *history) upLimit(current int32, rules *autoscalingv2.HPAScalingRules) int32 {
	if disabled(rules) {
		return current
	}
	limit, chosen := int32(0), choose(rules, maxOf, minOf)
	for i := range rules.Policies {
		p := &rules.Policies[i]
		start := current - h.within(h.up, seconds(p.PeriodSeconds))
		proposed := start + p.Value
		if p.Type == autoscalingv2.PercentScalingPolicy {
			proposed = ceil(float64(start) * (1 + float64(p.Value)/100))
		}
		if i == 0 {
			limit = proposed
		}
		limit = chosen(limit, proposed)
	}
	return max(limit, current)
}

// downLimit is the smallest size that the rules allow.
func (h *history) downLimit(current int32, rules *autoscalingv2.HPAScalingRules) int32 {
	if disabled(rules) {
		return current
	}
	limit, chosen := int32(0), choose(rules, minOf, maxOf)
	for i := range rules.Policies {
		p := &rules.Policies[i]
		start := current + h.within(h.down, seconds(p.PeriodSeconds))
		proposed := start - p.Value
		if p.Type == autoscalingv2.PercentScalingPolicy {
			proposed = int32(float64(start) * (1 - float64(p.Value)/100))
		}
		if i == 0 {
			limit = proposed
		}
		limit = chosen(limit, proposed)
	}
	return min(limit, current)
}

func maxOf(a, b int32) int32 { return max(a, b) }
func minOf(a, b int32) int32 { return min(a, b) }

func disabled(rules *autoscalingv2.HPAScalingRules) bool {
	return rules.SelectPolicy != nil && *rules.SelectPolicy == autoscalingv2.DisabledPolicySelect
}

// choose returns which of several policies counts: most unless the rules want
// the one that changes least.
func choose(rules *autoscalingv2.HPAScalingRules, most, least func(a, b int32) int32) func(a, b int32) int32 {
	if rules.SelectPolicy != nil && *rules.SelectPolicy == autoscalingv2.MinChangePolicySelect {
		return least
	}
	return most
}
