package resourcequota

import (
	"errors"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/storage/volume"

	"skiff/internal/apiserver/admission"
)

// counted reports whether the write can change usage.
func counted(a *admission.Attributes) bool {
	switch {
	case a.Is("", "pods", "resize"):
		return a.Operation == admission.Update
	case a.Subresource != "":
		return false
	case a.Is("", "services", ""), a.Is("", "persistentvolumeclaims", ""):
		return a.Operation == admission.Create || a.Operation == admission.Update
	}
	return a.Operation == admission.Create
}

// usageOf returns all that the object counts for, under the names that quotas
// may limit.
func usageOf(r schema.GroupResource, obj runtime.Object) corev1.ResourceList {
	usage := corev1.ResourceList{}
	one := resource.MustParse("1")
	name := "count/" + r.Resource
	if r.Group != "" {
		name += "." + r.Group
	}
	usage[corev1.ResourceName(name)] = one
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(usage, o)
	case *corev1.Service:
		serviceUsage(usage, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(usage, o)
	case *corev1.ConfigMap, *corev1.Secret, *corev1.ReplicationController, *corev1.ResourceQuota:
		usage[corev1.ResourceName(r.Resource)] = one
	}
	return usage
}

func podUsage(usage corev1.ResourceList, pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return
	}
	usage[corev1.ResourcePods] = resource.MustParse("1")
	o := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	for name, q := range resourcehelper.PodRequests(pod, o) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			usage[name] = q
		}
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			usage[name] = q
		}
		usage["requests."+name] = q
	}
	for name, q := range resourcehelper.PodLimits(pod, o) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			usage["limits."+name] = q
		}
	}
}

func serviceUsage(usage corev1.ResourceList, service *corev1.Service) {
	ports := *resource.NewQuantity(int64(len(service.Spec.Ports)), resource.DecimalSI)
	usage[corev1.ResourceServices] = resource.MustParse("1")
	usage[corev1.ResourceServicesLoadBalancers] = resource.Quantity{}
	usage[corev1.ResourceServicesNodePorts] = resource.Quantity{}
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		usage[corev1.ResourceServicesNodePorts] = ports
	case corev1.ServiceTypeLoadBalancer:
		usage[corev1.ResourceServicesLoadBalancers] = resource.MustParse("1")
		if service.Spec.AllocateLoadBalancerNodePorts == nil || *service.Spec.AllocateLoadBalancerNodePorts {
			usage[corev1.ResourceServicesNodePorts] = ports
		}
	}
}

func claimUsage(usage corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	const ofClass = ".storageclass.storage.k8s.io/"
	one := resource.MustParse("1")
	usage[corev1.ResourcePersistentVolumeClaims] = one
	class := volume.GetPersistentVolumeClaimClass(claim)
	if class != "" {
		usage[corev1.ResourceName(class+ofClass)+corev1.ResourcePersistentVolumeClaims] = one
	}
	if q, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		// While a shrink of a failed growth is under way the old size counts.
		if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(q) > 0 {
			q = allocated
		}
		usage[corev1.ResourceRequestsStorage] = q
		if class != "" {
			usage[corev1.ResourceName(class+ofClass)+corev1.ResourceRequestsStorage] = q
		}
	}
}

// specifies returns an error unless each container asks for a share of what is
// limited, since otherwise it might use any.
func specifies(pod *corev1.Pod, hard corev1.ResourceList) error {
	missing := map[string][]string{}
	for name := range hard {
		var from func(c *corev1.Container) corev1.ResourceList
		base := name
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
			base = corev1.ResourceName(strings.TrimPrefix(string(name), "requests."))
			from = func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests }
		case corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
			base = corev1.ResourceName(strings.TrimPrefix(string(name), "limits."))
			from = func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits }
		default:
			continue
		}
		if podLevel(pod, name, base) {
			continue
		}
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				if _, ok := from(&containers[i])[base]; !ok {
					missing[string(name)] = append(missing[string(name)], containers[i].Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		parts = append(parts, name+" for: "+strings.Join(missing[name], ","))
	}
	return errors.New("must specify " + strings.Join(parts, "; "))
}

// podLevel reports whether the pod as a whole asks for the resource (KEP-2837).
func podLevel(pod *corev1.Pod, name, base corev1.ResourceName) bool {
	if pod.Spec.Resources == nil {
		return false
	}
	list := pod.Spec.Resources.Requests
	if strings.HasPrefix(string(name), "limits.") {
		list = pod.Spec.Resources.Limits
	}
	_, ok := list[base]
	return ok
}
