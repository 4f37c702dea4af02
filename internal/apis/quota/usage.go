// Package quota says what objects count for in ResourceQuotas: the one set of
// rules by which writes are admitted and by which usage is counted anew.
package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// countPrefix starts the names that count objects of any kind.
const countPrefix = "count/"

// Ignored reports whether objects of the resource never count.
func Ignored(r schema.GroupResource) bool {
	return r.Resource == "events" && (r.Group == "" || r.Group == "events.k8s.io")
}

// Usage returns all that the object counts for at a time, under the names that
// quotas may limit. What else it depends on is read from memory.
func Usage(memory client.Reader, r schema.GroupResource, obj runtime.Object, now time.Time) corev1.ResourceList {
	usage := corev1.ResourceList{}
	one := resource.MustParse("1")
	usage[countPrefix+corev1.ResourceName(r.String())] = one
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(usage, o, now)
	case *corev1.Service:
		serviceUsage(usage, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(usage, o)
	case *resourcev1.ResourceClaim:
		deviceUsage(usage, o)
		extendedUsage(memory, usage, o, now)
	}
	if r.Group == "" && countedByName[r.Resource] {
		usage[corev1.ResourceName(r.Resource)] = one
	}
	return usage
}

// countedByName are the resources that quotas may also count by their plain
// name.
var countedByName = map[string]bool{
	"configmaps": true, "secrets": true, "replicationcontrollers": true, "resourcequotas": true,
}

// EndOfLife returns when a pod in deletion stops to count because whoever
// should have confirmed its end is gone; ok is false for other pods.
func EndOfLife(pod *corev1.Pod) (end time.Time, ok bool) {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return time.Time{}, false
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second), true
}

func podUsage(usage corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return
	}
	if end, ok := EndOfLife(pod); ok && now.After(end) {
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
		usage[requestsPrefix+name] = q
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

// CountedBy returns the resources whose objects use up the named limit.
func CountedBy(name corev1.ResourceName) []schema.GroupResource {
	text := string(name)
	if counted, ok := strings.CutPrefix(text, countPrefix); ok {
		return []schema.GroupResource{schema.ParseGroupResource(counted)}
	}
	core := func(r string) schema.GroupResource { return schema.GroupResource{Resource: r} }
	resourceClaims := schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceclaims"}
	switch {
	case countedByName[text]:
		return []schema.GroupResource{core(text)}
	case name == corev1.ResourceServices, strings.HasPrefix(text, "services."):
		return []schema.GroupResource{core("services")}
	case name == corev1.ResourcePersistentVolumeClaims, name == corev1.ResourceRequestsStorage, strings.Contains(text, ".storageclass.storage.k8s.io/"):
		return []schema.GroupResource{core("persistentvolumeclaims")}
	case strings.HasSuffix(text, ofDeviceClass):
		return []schema.GroupResource{resourceClaims}
	case extended(text):
		return []schema.GroupResource{core("pods"), resourceClaims}
	}
	return []schema.GroupResource{core("pods")}
}
