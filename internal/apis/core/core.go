// Package core declares the resources of the core group, v1: pods, services,
// nodes and what goes with them. What other groups need of pods (templates)
// and of claims is exported.
package core

import "skiff/internal/apis"

// Resources returns fresh declarations of all resources of the core group;
// components are shown by one of them.
func Resources(components ...Component) []*apis.Resource {
	return []*apis.Resource{
		bindings(),
		componentStatuses(components),
		configMaps(),
		endpoints(),
		events(),
		limitRanges(),
		namespaces(),
		nodes(),
		persistentVolumeClaims(),
		persistentVolumes(),
		pods(),
		podTemplates(),
		replicationControllers(),
		resourceQuotas(),
		secrets(),
		serviceAccounts(),
		services(),
	}
}
