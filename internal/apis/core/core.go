// Package core declares the resources of the core group, v1: pods, services,
// nodes and what goes with them. What other groups need of pods (templates)
// and of claims is exported.
package core

import "skiff/internal/apis"

// Resources returns fresh declarations of all resources of the core group.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		bindings(),
		componentStatuses(),
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
