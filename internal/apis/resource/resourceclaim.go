package resource

import (
	"context"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1beta1 "k8s.io/api/resource/v1beta1"
	resourcev1beta2 "k8s.io/api/resource/v1beta2"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func resourceClaim(g Grants) *apis.Resource {
	return apis.Of[*resourcev1.ResourceClaim]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceclaims", Singular: "resourceclaim", Kind: "ResourceClaim",
			Namespaced: true,
		},
		Version:       "v1",
		New:           func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
		NewList:       func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		ReturnDeleted: true,
		Other: []apis.Version{
			apis.Twin[resourcev1.ResourceClaim, resourcev1beta2.ResourceClaim](resourcev1beta2.SchemeGroupVersion.WithKind("ResourceClaim"), func() runtime.Object { return &resourcev1beta2.ResourceClaimList{} }),
			apis.Cousin[resourcev1.ResourceClaim, resourcev1beta1.ResourceClaim](resourcev1beta1.SchemeGroupVersion.WithKind("ResourceClaim"), func() runtime.Object { return &resourcev1beta1.ResourceClaimList{} }, claimFromV1beta1, claimToV1beta1),
		},
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		HasStatus:        true,
		Default:          defaultClaim,
		Reset:            map[string][]string{"status": {"metadata"}},
		PrepareStatusUpdate: func(_ context.Context, c, old *resourcev1.ResourceClaim) {
			metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
			dropDeallocated(c, old)
		},
		Validate: func(ctx context.Context, c *resourcev1.ResourceClaim) field.ErrorList {
			return append(g.adminAccess(ctx, c.Namespace, adminRequest(&c.Spec)), validateClaimSpec(&c.Spec, field.NewPath("spec"))...)
		},
		ValidateUpdate: func(_ context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
			return validation.ValidateImmutableField(c.Spec, old.Spec, field.NewPath("spec"))
		},
		ValidateStatusUpdate: func(ctx context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
			var errs field.ErrorList
			if adminResult(old.Status.Allocation) == nil {
				errs = g.adminAccess(ctx, c.Namespace, adminResult(c.Status.Allocation))
			}
			errs = append(errs, g.status(ctx, c, old)...)
			return append(errs, validateClaimStatus(c, old)...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
			columns.AgeColumn(),
		},
		Cells: func(c *resourcev1.ResourceClaim) []any {
			return []any{c.Name, stateCell(c), columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func defaultClaim(c *resourcev1.ResourceClaim) {
	defaultClaimSpec(&c.Spec)
	if c.Status.Allocation != nil {
		for i := range c.Status.Allocation.Devices.Results {
			defaultTolerations(c.Status.Allocation.Devices.Results[i].Tolerations)
		}
	}
}

func stateCell(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	if len(c.Status.ReservedFor) > 0 {
		states = append(states, "reserved")
	}
	return strings.Join(states, ",")
}
