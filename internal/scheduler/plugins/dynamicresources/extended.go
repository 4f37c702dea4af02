package dynamicresources

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/utils/ptr"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// Pods may ask for devices as for extended resources (KEP-5004): a device class
// says which resource it stands for. Where a device plugin has the resource, it
// gives the pod its devices; elsewhere the scheduler makes a claim for the pod.

// extended is what a pod wants in this way.
type extended struct {
	pod *corev1.Pod
	// classes are the device classes of the resources.
	classes map[corev1.ResourceName]string
	// stale is the claim of an attempt that failed.
	stale *resourcev1.ResourceClaim
}

var staleClaim = unresolvable("cannot schedule extended resource claim")

// Backs reports whether a device class stands for the extended resource.
func (p *Plugin) Backs(resource corev1.ResourceName) bool {
	classes, err := p.classesOf()
	return err == nil && classes[resource] != ""
}

// ClassesChanged is called when device classes change.
func (p *Plugin) ClassesChanged() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.classes = nil
}

func (p *Plugin) classesOf() (map[corev1.ResourceName]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.classes != nil {
		return p.mu.classes, nil
	}
	var list resourcev1.DeviceClassList
	if err := p.client.Cache.List(context.Background(), &list, crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	// Of several classes for one resource the newest counts.
	slices.SortFunc(list.Items, func(a, b resourcev1.DeviceClass) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), -cmp.Compare(a.Name, b.Name))
	})
	p.mu.classes = map[corev1.ResourceName]string{}
	for i := range list.Items {
		class := &list.Items[i]
		p.mu.classes[corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+class.Name)] = class.Name
		if class.Spec.ExtendedResourceName != nil {
			p.mu.classes[corev1.ResourceName(*class.Spec.ExtendedResourceName)] = class.Name
		}
	}
	return p.mu.classes, nil
}

// extendedOf returns what the pod wants without a claim; nil if nothing.
func (p *Plugin) extendedOf(ctx context.Context, pod *corev1.Pod) (*extended, error) {
	known, err := p.classesOf()
	if len(known) == 0 || err != nil {
		return nil, err
	}
	var e *extended
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for resource, q := range containers[i].Resources.Requests {
				class := known[resource]
				if class == "" || q.IsZero() {
					continue
				}
				if e == nil {
					e = &extended{pod: pod, classes: map[corev1.ResourceName]string{}}
				}
				e.classes[resource] = class
			}
		}
	}
	if e == nil {
		return nil, nil
	}
	var claims resourcev1.ResourceClaimList
	if err := p.client.Cache.List(ctx, &claims, crclient.InNamespace(pod.Namespace), crclient.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	for i := range claims.Items {
		if c := &claims.Items[i]; c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(c, pod) {
			e.stale = c
		}
	}
	return e, nil
}

// on returns the claim that the pod needs on the node, and which container gets
// what of it; nil if the node has all resources itself.
func (e *extended) on(node *corev1.Node) (*resourcev1.ResourceClaim, []corev1.ContainerExtendedResourceRequest) {
	classes := map[corev1.ResourceName]string{}
	for resource, class := range e.classes {
		if q := node.Status.Allocatable[resource]; q.IsZero() {
			classes[resource] = class
		}
	}
	if len(classes) == 0 {
		return nil, nil
	}
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		// It has no name until it is made.
		UID: uuid.NewUUID(), Namespace: e.pod.Namespace, GenerateName: e.pod.Name + "-extended-resources-",
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "v1", Kind: "Pod", Name: e.pod.Name, UID: e.pod.UID, Controller: ptr.To(true),
		}},
		Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
	}}
	var mappings []corev1.ContainerExtendedResourceRequest
	claim.Spec.Devices.Requests, mappings = requests(e.pod, classes)
	return claim, mappings
}

// requests returns the requests of the claim, each for one container. Init
// containers that end use the devices of those that come after them, and share
// what they need beyond.
func requests(pod *corev1.Pod, classes map[corev1.ResourceName]string) ([]resourcev1.DeviceRequest, []corev1.ContainerExtendedResourceRequest) {
	var all []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	ends := func(i int) bool {
		return i < len(pod.Spec.InitContainers) && ptr.Deref(containers[i].RestartPolicy, "") != corev1.ContainerRestartPolicyAlways
	}
	for _, resource := range slices.Sorted(maps.Keys(classes)) {
		request := func(i int, count int64) *resourcev1.DeviceRequest {
			at := slices.Index(slices.Sorted(maps.Keys(containers[i].Resources.Requests)), resource)
			return &resourcev1.DeviceRequest{Name: fmt.Sprintf("container-%d-request-%d", i, at), Exactly: &resourcev1.ExactDeviceRequest{
				DeviceClassName: classes[resource], AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count,
			}}
		}
		mapping := func(i int, request string) corev1.ContainerExtendedResourceRequest {
			return corev1.ContainerExtendedResourceRequest{ContainerName: containers[i].Name, ResourceName: string(resource), RequestName: request}
		}
		lasting := make([]*resourcev1.DeviceRequest, len(containers))
		for i := range containers {
			if n := amount(&containers[i], resource); n > 0 && !ends(i) {
				lasting[i] = request(i, n)
				all = append(all, *lasting[i])
				mappings = append(mappings, mapping(i, lasting[i].Name))
			}
		}
		var shared *resourcev1.DeviceRequest
		var sharing []int
		for i := range containers {
			if !ends(i) {
				continue
			}
			n := amount(&containers[i], resource)
			for _, later := range lasting[i:] {
				if later != nil && n > 0 {
					mappings = append(mappings, mapping(i, later.Name))
					n -= later.Exactly.Count
				}
			}
			if n > 0 {
				if shared == nil || shared.Exactly.Count < n {
					shared = request(i, n)
				}
				sharing = append(sharing, len(mappings))
				mappings = append(mappings, mapping(i, ""))
			}
		}
		for _, i := range sharing {
			mappings[i].RequestName = shared.Name
		}
		if shared != nil {
			all = append(all, *shared)
		}
	}
	slices.SortFunc(all, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return all, mappings
}

func amount(c *corev1.Container, resource corev1.ResourceName) int64 {
	q := c.Resources.Requests[resource]
	n, _ := q.AsInt64()
	return n
}

// makeExtended makes the claim that was decided on, and tells the pod of it. If
// something goes wrong there is no claim.
func (p *Plugin) makeExtended(ctx context.Context, pod *corev1.Pod, d *decision) (*resourcev1.ResourceClaim, error) {
	claim := d.extended.DeepCopy()
	claim.UID, claim.Status = "", resourcev1.ResourceClaimStatus{}
	if err := p.client.Client.Create(ctx, claim); err != nil {
		return nil, fmt.Errorf("create claim for extended resources %s/%s: %w", claim.Namespace, claim.GenerateName, err)
	}
	decided := claim.DeepCopy()
	decided.Status = d.extended.Status
	err := p.bind(ctx, decided, pod)
	if err == nil {
		err = p.tell(ctx, pod, claim.Name, d.mappings)
	}
	if err != nil {
		return nil, errors.Join(err, p.remove(ctx, claim))
	}
	return decided, nil
}

// tell writes the claim's name into the pod's status.
func (p *Plugin) tell(ctx context.Context, pod *corev1.Pod, claim string, mappings []corev1.ContainerExtendedResourceRequest) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"extendedResourceClaimStatus": corev1.PodExtendedResourceClaimStatus{RequestMappings: mappings, ResourceClaimName: claim}},
	})
	if err != nil {
		return err
	}
	answer := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	if err := p.client.Client.Status().Patch(ctx, answer, crclient.RawPatch(types.StrategicMergePatchType, patch)); err != nil {
		return fmt.Errorf("update pod %s/%s ExtendedResourceClaimStatus: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
