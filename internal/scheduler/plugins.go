package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff/internal/scheduler/config"
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
	"skiff/internal/scheduler/plugins/nodevolumelimits"
	"skiff/internal/scheduler/plugins/podtopologyspread"
	"skiff/internal/scheduler/plugins/queuesort"
	"skiff/internal/scheduler/plugins/schedulinggates"
	"skiff/internal/scheduler/plugins/tainttoleration"
	"skiff/internal/scheduler/plugins/volumerestrictions"
	"skiff/internal/scheduler/plugins/volumezone"
)

// plugin is a plugin that a profile can have.
type plugin struct {
	name string
	// weight is that of its score, if it has one.
	weight int64
	new    func(p *configv1.KubeSchedulerProfile) (framework.Plugin, error)
}

// plugins are all that there are, in the order in which upstream's default
// profile asks them, and with its weights. Profiles have all of them unless
// they say otherwise.
func (s *Scheduler) plugins() []plugin {
	return []plugin{
		{"SchedulingGates", 0, plain(schedulinggates.Plugin{})},
		{"PrioritySort", 0, plain(queuesort.Plugin{})},
		{"NodeUnschedulable", 0, plain(nodeunschedulable.Plugin{})},
		{"NodeName", 0, plain(nodename.Plugin{})},
		{"TaintToleration", 3, plain(tainttoleration.Plugin{})},
		{"NodeAffinity", 2, newNodeAffinity},
		{"NodePorts", 0, plain(nodeports.Plugin{})},
		{"NodeResourcesFit", 1, s.newFit},
		{"VolumeRestrictions", 0, plain(volumerestrictions.Plugin{Cache: s.client.Cache})},
		{"NodeVolumeLimits", 0, plain(nodevolumelimits.Plugin{Cache: s.client.Cache})},
		{"VolumeBinding", 0, s.newVolumeBinding},
		{"VolumeZone", 0, plain(volumezone.Plugin{Cache: s.client.Cache})},
		{"PodTopologySpread", 2, s.newPodTopologySpread},
		{"InterPodAffinity", 2, s.newInterPodAffinity},
		{"DynamicResources", 0, s.newDynamicResources},
		{"DefaultPreemption", 0, s.newPreemption},
		{"NodeResourcesBalancedAllocation", 1, s.newBalancedAllocation},
		{"ImageLocality", 1, plain(imagelocality.Plugin{})},
		{"DefaultBinder", 0, plain(defaultbinder.Plugin{Client: s.client.Client})},
	}
}

// plain is a plugin without arguments.
func plain(p framework.Plugin) func(*configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	return func(*configv1.KubeSchedulerProfile) (framework.Plugin, error) { return p, nil }
}

func newNodeAffinity(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	return nodeaffinity.New(config.Args[configv1.NodeAffinityArgs](p, "NodeAffinity").AddedAffinity)
}

func (s *Scheduler) newFit(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.NodeResourcesFitArgs](p, "NodeResourcesFit")
	f := noderesources.Fit{Ignored: args.IgnoredResources, IgnoredGroups: args.IgnoredResourceGroups, Devices: s.devices}
	for i := range s.config.Extenders {
		for _, r := range s.config.Extenders[i].ManagedResources {
			if r.IgnoredByScheduler {
				f.Ignored = append(f.Ignored, r.Name)
			}
		}
	}
	f.Strategy = noderesources.Strategy{Type: noderesources.StrategyType(args.ScoringStrategy.Type), Resources: resources(args.ScoringStrategy.Resources)}
	if ratio := args.ScoringStrategy.RequestedToCapacityRatio; ratio != nil {
		for _, point := range ratio.Shape {
			f.Strategy.Shape = append(f.Strategy.Shape, noderesources.Point{
				Utilization: int64(point.Utilization), Score: int64(point.Score) * framework.MaxScore / config.MaxShapeScore,
			})
		}
	}
	return f, nil
}

func (s *Scheduler) newBalancedAllocation(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.NodeResourcesBalancedAllocationArgs](p, "NodeResourcesBalancedAllocation")
	return noderesources.BalancedAllocation{Resources: resources(args.Resources), Devices: s.devices}, nil
}

func resources(specs []configv1.ResourceSpec) []noderesources.Resource {
	out := make([]noderesources.Resource, len(specs))
	for i, r := range specs {
		out[i] = noderesources.Resource{Name: corev1.ResourceName(r.Name), Weight: r.Weight}
	}
	return out
}

func (s *Scheduler) newVolumeBinding(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.VolumeBindingArgs](p, "VolumeBinding")
	return s.volumes.With(time.Duration(*args.BindTimeoutSeconds) * time.Second), nil
}

func (s *Scheduler) newDynamicResources(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.DynamicResourcesArgs](p, "DynamicResources")
	return s.devices.With(args.FilterTimeout.Duration, args.BindingTimeout.Duration), nil
}

func (s *Scheduler) newPodTopologySpread(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.PodTopologySpreadArgs](p, "PodTopologySpread")
	return &podtopologyspread.Plugin{
		DefaultSelector: s.defaultSelector, Defaults: args.DefaultConstraints,
		NoDefaults: args.DefaultingType == configv1.ListDefaulting && len(args.DefaultConstraints) == 0,
	}, nil
}

func (s *Scheduler) newInterPodAffinity(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.InterPodAffinityArgs](p, "InterPodAffinity")
	return &interpodaffinity.Plugin{
		Namespace: s.namespaceLocked, HardWeight: int64(*args.HardPodAffinityWeight),
		IgnorePreferredTermsOfExistingPods: args.IgnorePreferredTermsOfExistingPods,
	}, nil
}

func (s *Scheduler) newPreemption(p *configv1.KubeSchedulerProfile) (framework.Plugin, error) {
	args := config.Args[configv1.DefaultPreemptionArgs](p, "DefaultPreemption")
	return &defaultpreemption.Plugin{
		Budgets: s.budgets, Evict: s.evict, Displace: s.displace, Start: anywhere,
		Now:                         func() metav1.Time { return metav1.NewTime(s.clock.Now()) },
		MinCandidateNodesPercentage: *args.MinCandidateNodesPercentage, MinCandidateNodesAbsolute: *args.MinCandidateNodesAbsolute,
	}, nil
}
