package coordination

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func lease() *apis.Resource {
	return apis.Of[*coordinationv1.Lease]{
		Names: apis.Names{
			Group: "coordination.k8s.io", Resource: "leases", Singular: "lease", Kind: "Lease",
			Namespaced: true,
		},
		Version:                "v1",
		New:                    func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
		NewList:                func() runtime.Object { return &coordinationv1.LeaseList{} },
		AllowCreateOnUpdate:    true,
		RequireResourceVersion: true,
		PrepareCreate:          func(_ context.Context, l *coordinationv1.Lease) { dropCoordination(l, nil) },
		PrepareUpdate:          func(_ context.Context, l, old *coordinationv1.Lease) { dropCoordination(l, old) },
		Validate:               validateLease,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			columns.AgeColumn(),
		},
		Cells: func(l *coordinationv1.Lease) []any {
			return []any{l.Name, ptr.Deref(l.Spec.HolderIdentity, ""), columns.Age(l.CreationTimestamp)}
		},
	}.Resource()
}

// dropCoordination clears the fields of coordinated leader election (KEP-4355),
// which v1.36 does not serve by default, unless they are there already.
func dropCoordination(l, old *coordinationv1.Lease) {
	if old == nil || old.Spec.Strategy == nil {
		l.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		l.Spec.PreferredHolder = nil
	}
}

func validateLease(_ context.Context, l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	s, path := &l.Spec, field.NewPath("spec")
	if s.LeaseDurationSeconds != nil && *s.LeaseDurationSeconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *s.LeaseDurationSeconds, "must be greater than 0"))
	}
	if s.LeaseTransitions != nil && *s.LeaseTransitions < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *s.LeaseTransitions, "must be greater than or equal to 0"))
	}
	if s.Strategy != nil {
		errs = append(errs, checks.Enum(*s.Strategy, path.Child("strategy"), coordinationv1.OldestEmulationVersion)...)
	}
	if ptr.Deref(s.PreferredHolder, "") != "" && ptr.Deref(s.Strategy, "") == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
