package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// Grants are the parts of a server that say what a requester may do with a
// claim beyond writing it. What needs a missing one is refused.
type Grants struct {
	// Authorizer is asked for each part of a claim's status that changes.
	Authorizer authz.Authorizer
	// Namespace returns the labels of a namespace, one of which allows access
	// to devices that are in use.
	Namespace func(ctx context.Context, name string) (labels map[string]string, err error)
}

// adminAccess refuses access to devices in use, which is asked for at path, in
// namespaces that are not meant for it. A nil path means that nobody asks.
func (g Grants) adminAccess(ctx context.Context, namespace string, path *field.Path) field.ErrorList {
	if path == nil {
		return nil
	}
	err := errors.New("this server cannot look up namespaces")
	var labels map[string]string
	if g.Namespace != nil {
		labels, err = g.Namespace(ctx, namespace)
	}
	if err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	}
	if labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
		return field.ErrorList{field.Forbidden(path,
			fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

// adminRequest returns where a claim first asks for admin access, or nil. The
// path is that of the first version of the API, as upstream's.
func adminRequest(s *resourcev1.ResourceClaimSpec) *field.Path {
	for i := range s.Devices.Requests {
		if e := s.Devices.Requests[i].Exactly; e != nil && ptr.Deref(e.AdminAccess, false) {
			return field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// adminResult returns where an allocation first gives admin access, or nil.
func adminResult(a *resourcev1.AllocationResult) *field.Path {
	if a == nil {
		return nil
	}
	for i := range a.Devices.Results {
		if ptr.Deref(a.Devices.Results[i].AdminAccess, false) {
			return field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// status refuses changes of a status by those who may write only other parts
// of it: schedulers bind claims, and drivers report on their own devices.
func (g Grants) status(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status")
	verb := authz.Verb(ctx)
	if !equality.Semantic.DeepEqual(c.Status.Allocation, old.Status.Allocation) || !equality.Semantic.DeepEqual(c.Status.ReservedFor, old.Status.ReservedFor) {
		if err := g.ask(ctx, verb, resourcev1.SubresourceBinding, "", ""); err != nil {
			errs = append(errs, field.Forbidden(path,
				fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %v`, verb, err)))
		}
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + verb}
	if onNode(identity.FromContext(ctx), allocatedNode(c.Status.Allocation)) {
		verbs = []string{resourcev1.VerbPrefixAssociatedNode + verb, verbs[0]}
	}
	for _, driver := range changedDrivers(c.Status.Devices, stillAllocated(old.Status.Devices, c.Status.Allocation)) {
		var first error
		for _, verb := range verbs {
			err := g.ask(ctx, verb, resourcev1.SubresourceDriver, c.Namespace, driver)
			if err == nil {
				first = nil
				break
			}
			if first == nil {
				first = err
			}
		}
		if first != nil {
			errs = append(errs, field.Forbidden(path,
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %v`, verbs, first)))
		}
	}
	return errs
}

// ask returns nil if the requester has verb on a part of claims.
func (g Grants) ask(ctx context.Context, verb, subresource, namespace, name string) error {
	a := &authz.Attributes{
		User: identity.FromContext(ctx), Verb: verb, Group: "resource.k8s.io", Version: "v1",
		Resource: "resourceclaims", Subresource: subresource, Namespace: namespace, Name: name,
	}
	if g.Authorizer == nil || a.User == nil {
		return errors.New("this server cannot tell")
	}
	d, reason, err := g.Authorizer.Authorize(ctx, a)
	if d == authz.Allow {
		return nil
	}
	if err != nil {
		reason = strings.TrimSuffix(fmt.Sprintf("%v: %s", err, reason), ": ")
	}
	return authz.Forbidden(a, reason)
}

// stillAllocated leaves out reports on devices that are given back: they go with
// the allocation, whoever takes it back.
func stillAllocated(devices []resourcev1.AllocatedDeviceStatus, a *resourcev1.AllocationResult) []resourcev1.AllocatedDeviceStatus {
	if a == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(devices), func(d resourcev1.AllocatedDeviceStatus) bool {
		return !slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool {
			return r.Driver == d.Driver && r.Pool == d.Pool && r.Device == d.Device
		})
	})
}

// changedDrivers returns the drivers whose devices' reports differ.
func changedDrivers(devices, old []resourcev1.AllocatedDeviceStatus) []string {
	index := func(list []resourcev1.AllocatedDeviceStatus) map[deviceKey]*resourcev1.AllocatedDeviceStatus {
		out := make(map[deviceKey]*resourcev1.AllocatedDeviceStatus, len(list))
		for i := range list {
			out[keyOf(&list[i])] = &list[i]
		}
		return out
	}
	var drivers []string
	now, was := index(devices), index(old)
	for key, d := range now {
		if before, ok := was[key]; !ok || !equality.Semantic.DeepEqual(d, before) {
			drivers = append(drivers, key.driver)
		}
	}
	for key := range was {
		if _, ok := now[key]; !ok {
			drivers = append(drivers, key.driver)
		}
	}
	slices.Sort(drivers)
	return slices.Compact(drivers)
}

// allocatedNode returns the one node that an allocation is good for, or "".
func allocatedNode(a *resourcev1.AllocationResult) string {
	if a == nil || a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != metav1.ObjectNameField || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// onNode reports whether the user is a service account whose token was made
// for a pod on the node.
func onNode(u *identity.User, node string) bool {
	if u == nil || node == "" || !strings.HasPrefix(u.Name, identity.ServiceAccountPrefix) {
		return false
	}
	names := u.Extra["authentication.kubernetes.io/node-name"]
	return len(names) == 1 && names[0] == node
}
