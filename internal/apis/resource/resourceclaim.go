package resource

import (
	"context"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func resourceClaim() *apis.Resource {
	return apis.Of[*resourcev1.ResourceClaim]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "resourceclaims", Singular: "resourceclaim", Kind: "ResourceClaim",
			Namespaced: true,
		},
		Version:   "v1",
		New:       func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
		NewList:   func() runtime.Object { return &resourcev1.ResourceClaimList{} },
		HasStatus: true,
		Default:   func(c *resourcev1.ResourceClaim) { defaultClaimSpec(&c.Spec) },
		Validate: func(_ context.Context, c *resourcev1.ResourceClaim) field.ErrorList {
			return validateClaimSpec(&c.Spec, field.NewPath("spec"))
		},
		ValidateUpdate: func(_ context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
			return validation.ValidateImmutableField(c.Spec, old.Spec, field.NewPath("spec"))
		},
		ValidateStatusUpdate: validateClaimStatus,
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

// maxReservations is how many pods can share a claim.
const maxReservations = 256

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

func validateClaimStatus(_ context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
	var errs field.ErrorList
	s, path := &c.Status, field.NewPath("status")
	if n := len(s.ReservedFor); n > maxReservations {
		errs = append(errs, field.TooMany(path.Child("reservedFor"), n, maxReservations))
	}
	if len(s.ReservedFor) > 0 && s.Allocation == nil {
		errs = append(errs, field.Forbidden(path.Child("reservedFor"), "may not be specified when `allocated` is not set"))
	}
	if c.DeletionTimestamp != nil && len(s.ReservedFor) > len(old.Status.ReservedFor) {
		errs = append(errs, field.Forbidden(path.Child("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	seen := map[types.UID]bool{}
	for i, r := range s.ReservedFor {
		at := path.Child("reservedFor").Index(i)
		for _, part := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
			if part.value == "" {
				errs = append(errs, field.Required(at.Child(part.name), ""))
			}
		}
		if seen[r.UID] {
			errs = append(errs, field.Duplicate(at.Child("uid"), r.UID))
		}
		seen[r.UID] = true
	}
	if old.Status.Allocation != nil && s.Allocation != nil {
		// An allocation in use cannot become another one.
		errs = append(errs, validation.ValidateImmutableField(s.Allocation, old.Status.Allocation, path.Child("allocation"))...)
	}
	return errs
}
