package config

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	configv1 "k8s.io/kube-scheduler/config/v1"
)

const defaultExtenderTimeout = 5 * time.Second

// Args returns the arguments that the profile has for the plugin, with
// defaults.
func Args[T any, P interface {
	*T
	runtime.Object
}](profile *configv1.KubeSchedulerProfile, plugin string) P {
	for i := range profile.PluginConfig {
		if c := &profile.PluginConfig[i]; c.Name == plugin {
			if args, ok := c.Args.Object.(P); ok {
				return args
			}
		}
	}
	args := P(new(T))
	setArgsDefaults(args)
	return args
}

func setArgsDefaults(o runtime.Object) {
	switch args := o.(type) {
	case *configv1.DefaultPreemptionArgs:
		fill(&args.MinCandidateNodesPercentage, 10)
		fill(&args.MinCandidateNodesAbsolute, 100)
	case *configv1.InterPodAffinityArgs:
		fill(&args.HardPodAffinityWeight, 1)
	case *configv1.VolumeBindingArgs:
		fill(&args.BindTimeoutSeconds, 600)
	case *configv1.DynamicResourcesArgs:
		fill(&args.FilterTimeout, metav1.Duration{Duration: 10 * time.Second})
		fill(&args.BindingTimeout, metav1.Duration{Duration: 10 * time.Minute})
	case *configv1.NodeResourcesBalancedAllocationArgs:
		setResourceDefaults(&args.Resources)
	case *configv1.NodeResourcesFitArgs:
		if args.ScoringStrategy == nil {
			args.ScoringStrategy = &configv1.ScoringStrategy{Type: configv1.LeastAllocated}
		}
		setResourceDefaults(&args.ScoringStrategy.Resources)
	case *configv1.PodTopologySpreadArgs:
		if args.DefaultingType == "" {
			args.DefaultingType = configv1.SystemDefaulting
		}
	}
}

func setResourceDefaults(resources *[]configv1.ResourceSpec) {
	if len(*resources) == 0 {
		*resources = []configv1.ResourceSpec{{Name: string(corev1.ResourceCPU)}, {Name: string(corev1.ResourceMemory)}}
	}
	for i := range *resources {
		if r := &(*resources)[i]; r.Weight == 0 {
			r.Weight = 1
		}
	}
}
