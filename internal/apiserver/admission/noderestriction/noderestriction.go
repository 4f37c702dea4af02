// Package noderestriction limits what kubelets may write to what is theirs:
// their own Node, Lease and CSINode, the status of pods that are bound to them,
// mirror pods, tokens for those pods (NodeRestriction).
package noderestriction

import (
	"context"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/node"
)

// Plugin implements admission.Validator: what others change a node cannot have
// asked for.
type Plugin struct {
	Cache client.Reader
	// Authorizer decides about tokens for audiences that no pod names.
	Authorizer authz.Authorizer
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	name, ok := node.Name(a.User)
	if !ok || a.Operation == admission.Connect {
		return nil
	}
	if name == "" {
		return a.Forbidden("could not determine node from user %q", a.User.Name)
	}
	switch a.Resource.Group + "/" + a.Resource.Resource {
	case "/pods":
		return p.pods(ctx, a, name)
	case "/nodes":
		return nodes(a, name)
	case "/persistentvolumeclaims":
		return claims(a, name)
	case "/serviceaccounts":
		if a.Subresource == "token" {
			return p.token(ctx, a, name)
		}
	case "coordination.k8s.io/leases":
		return lease(a, name)
	case "storage.k8s.io/csinodes":
		return csiNode(a, name)
	case "resource.k8s.io/resourceslices":
		return slice(a, name)
	}
	return nil
}

func (p *Plugin) pods(ctx context.Context, a *admission.Attributes, name string) error {
	switch a.Subresource {
	case "":
		switch a.Operation {
		case admission.Create:
			return p.mirror(ctx, a, name)
		case admission.Delete:
			if pod, ok := a.Old.(*corev1.Pod); ok && pod.Spec.NodeName != name {
				return a.Forbidden("node %q can only delete pods with spec.nodeName set to itself", name)
			}
			return nil
		}
		return a.Forbidden("unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, name)
	case "status":
		if a.Operation != admission.Update {
			return a.Forbidden("unexpected operation %q", a.Operation)
		}
		return status(a, name)
	case "eviction":
		return p.eviction(ctx, a, name)
	}
	return a.Forbidden("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource)
}

func status(a *admission.Attributes, name string) error {
	pod, old := a.Object.(*corev1.Pod), a.Old.(*corev1.Pod)
	switch {
	case old.Spec.NodeName != name:
		return a.Forbidden("node %q can only update pod status for pods with spec.nodeName set to itself", name)
	case !equality.Semantic.DeepEqual(old.Labels, pod.Labels):
		return a.Forbidden("node %q cannot update labels through pod status", name)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return a.Forbidden("node %q cannot update resource claim statues", name)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return a.Forbidden("node %q cannot update extended resource claim status", name)
	}
	return nil
}

func (p *Plugin) eviction(ctx context.Context, a *admission.Attributes, name string) error {
	eviction, ok := a.Object.(*policyv1.Eviction)
	if a.Operation != admission.Create || !ok {
		return a.Forbidden("unexpected operation %s", a.Operation)
	}
	podName := a.Name
	if podName == "" {
		podName = eviction.Name
	}
	if podName == "" {
		return a.Forbidden("could not determine pod from request data")
	}
	pod, err := p.pod(ctx, a, podName)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != name {
		return a.Forbidden("node %s can only evict pods with spec.nodeName set to itself", name)
	}
	return nil
}

func (p *Plugin) pod(ctx context.Context, a *admission.Attributes, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := p.Cache.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: name}, pod, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return nil, err
	}
	if err != nil {
		return nil, a.Forbidden("%w", err)
	}
	return pod, nil
}

func lease(a *admission.Attributes, name string) error {
	target := a.Name
	if a.Operation == admission.Create {
		target = a.Object.(*coordinationv1.Lease).Name
	}
	if a.Namespace != corev1.NamespaceNodeLease {
		return a.Forbidden("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if target != name {
		return a.Forbidden("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func csiNode(a *admission.Attributes, name string) error {
	target := a.Name
	if a.Operation == admission.Create {
		target = a.Object.(*storagev1.CSINode).Name
	}
	if target != name {
		return a.Forbidden("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

func slice(a *admission.Attributes, name string) error {
	owned := func(obj any) bool {
		s, ok := obj.(*resourcev1.ResourceSlice)
		return ok && s.Spec.NodeName != nil && *s.Spec.NodeName == name
	}
	switch a.Operation {
	case admission.Create:
		if !owned(a.Object) {
			return a.Forbidden("can only create ResourceSlice with the same NodeName as the requesting node")
		}
	case admission.Update:
		if !owned(a.Object) || !owned(a.Old) {
			return a.Forbidden("can only update ResourceSlice with the same NodeName as the requesting node")
		}
	case admission.Delete:
		if a.Old != nil && !owned(a.Old) {
			return a.Forbidden("can only delete ResourceSlice with the same NodeName as the requesting node")
		}
	}
	return nil
}

// claims lets a node say how far the growth of a volume's file system is.
func claims(a *admission.Attributes, name string) error {
	if a.Subresource != "status" {
		return a.Forbidden("may only update PVC status")
	}
	if a.Operation != admission.Update {
		return a.Forbidden("unexpected operation %q", a.Operation)
	}
	claim, old := a.Object.(*corev1.PersistentVolumeClaim).DeepCopy(), a.Old.(*corev1.PersistentVolumeClaim).DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{claim, old} {
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		c.ManagedFields, c.ResourceVersion = nil, ""
	}
	if !equality.Semantic.DeepEqual(claim, old) {
		return a.Forbidden("node %q is not allowed to update fields other than status.capacity and status.conditions", name)
	}
	return nil
}

// token lets a node have tokens for the service accounts of its pods, bound to
// the pod, for audiences that the pod names.
func (p *Plugin) token(ctx context.Context, a *admission.Attributes, name string) error {
	request, ok := a.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return a.Forbidden("unexpected type %T", a.Object)
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return a.Forbidden("node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return a.Forbidden("node requested token with a pod binding without a uid")
	}
	pod, err := p.pod(ctx, a, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return a.Forbidden("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	}
	if pod.Spec.NodeName != name {
		return a.Forbidden("node requested token bound to a pod scheduled on a different node")
	}
	audiences := request.Spec.Audiences
	if len(audiences) > 1 {
		return a.Forbidden("node may only request 0 or 1 audiences")
	}
	audience := ""
	if len(audiences) == 1 {
		audience = audiences[0]
	}
	if !slices.Contains(podAudiences(pod), audience) && !p.driverAsks(ctx, pod, audience) && !p.audienceAllowed(ctx, a, audience) {
		return a.Forbidden("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, a.User.Name)
	}
	return nil
}

// audienceAllowed asks whether a role lets the node have tokens of the service
// account for the audience (KEP-4412).
func (p *Plugin) audienceAllowed(ctx context.Context, a *admission.Attributes, audience string) bool {
	decision, _, _ := p.Authorizer.Authorize(ctx, &authz.Attributes{
		User: a.User, Verb: "request-serviceaccounts-token-audience", Resource: audience, Namespace: a.Namespace, Name: a.Name,
	})
	return decision == authz.Allow
}

// podAudiences returns the audiences of the pod's projected tokens; "" is the
// API server.
func podAudiences(pod *corev1.Pod) (audiences []string) {
	for i := range pod.Spec.Volumes {
		if projected := pod.Spec.Volumes[i].Projected; projected != nil {
			for j := range projected.Sources {
				if token := projected.Sources[j].ServiceAccountToken; token != nil {
					audiences = append(audiences, token.Audience)
				}
			}
		}
	}
	return audiences
}

// driverAsks reports whether the driver of one of the pod's CSI volumes asks for
// tokens for the audience.
func (p *Plugin) driverAsks(ctx context.Context, pod *corev1.Pod, audience string) bool {
	asks := func(name string) bool {
		driver := &storagev1.CSIDriver{}
		if p.Cache.Get(ctx, client.ObjectKey{Name: name}, driver, client.UnsafeDisableDeepCopy) != nil {
			return false
		}
		return slices.ContainsFunc(driver.Spec.TokenRequests, func(t storagev1.TokenRequest) bool { return t.Audience == audience })
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		claimName := ""
		switch {
		case v.CSI != nil:
			if asks(v.CSI.Driver) {
				return true
			}
		case v.PersistentVolumeClaim != nil:
			claimName = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			claimName = pod.Name + "-" + v.Name
		}
		if claimName == "" {
			continue
		}
		claim, volume := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
		if p.Cache.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: claimName}, claim, client.UnsafeDisableDeepCopy) != nil ||
			p.Cache.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, volume, client.UnsafeDisableDeepCopy) != nil {
			continue
		}
		if volume.Spec.CSI != nil && asks(volume.Spec.CSI.Driver) {
			return true
		}
	}
	return false
}
