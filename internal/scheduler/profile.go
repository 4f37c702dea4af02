package scheduler

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/defaultbinder"
	"skiff/internal/scheduler/plugins/defaultpreemption"
	"skiff/internal/scheduler/plugins/imagelocality"
	"skiff/internal/scheduler/plugins/interpodaffinity"
	"skiff/internal/scheduler/plugins/nodeaffinity"
	"skiff/internal/scheduler/plugins/nodename"
	"skiff/internal/scheduler/plugins/nodeports"
	"skiff/internal/scheduler/plugins/noderesources"
	"skiff/internal/scheduler/plugins/nodeunschedulable"
	"skiff/internal/scheduler/plugins/podtopologyspread"
	"skiff/internal/scheduler/plugins/queuesort"
	"skiff/internal/scheduler/plugins/schedulinggates"
	"skiff/internal/scheduler/plugins/tainttoleration"
)

// defaultProfile is upstream's default profile: the plugins, their order and
// their weights.
func (s *Scheduler) defaultProfile() *framework.Profile {
	spread := &podtopologyspread.Plugin{DefaultSelector: s.defaultSelector}
	affinity := &interpodaffinity.Plugin{Namespace: s.namespaceLocked, HardWeight: 1}
	return &framework.Profile{
		QueueSort:  queuesort.Plugin{},
		PreEnqueue: []framework.PreEnqueuePlugin{schedulinggates.Plugin{}},
		Filter: []framework.FilterPlugin{
			nodeunschedulable.Plugin{}, nodename.Plugin{}, tainttoleration.Plugin{}, nodeaffinity.Plugin{},
			nodeports.Plugin{}, noderesources.Fit{}, spread, affinity,
		},
		PostFilter: []framework.PostFilterPlugin{&defaultpreemption.Plugin{
			Budgets: s.budgets, Evict: s.evict, Displace: s.displace, Start: anywhere,
			Now:                         func() metav1.Time { return metav1.NewTime(s.clock.Now()) },
			MinCandidateNodesPercentage: 10, MinCandidateNodesAbsolute: 100,
		}},
		Score: []framework.Weighted{
			{ScorePlugin: tainttoleration.Plugin{}, Weight: 3},
			{ScorePlugin: nodeaffinity.Plugin{}, Weight: 2},
			{ScorePlugin: noderesources.Fit{}, Weight: 1},
			{ScorePlugin: spread, Weight: 2},
			{ScorePlugin: affinity, Weight: 2},
			{ScorePlugin: noderesources.BalancedAllocation{}, Weight: 1},
			{ScorePlugin: imagelocality.Plugin{}, Weight: 1},
		},
		Bind: []framework.BindPlugin{defaultbinder.Plugin{Client: s.client.Client}},
	}
}
