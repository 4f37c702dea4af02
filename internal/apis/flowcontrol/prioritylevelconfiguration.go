package flowcontrol

import (
	"context"
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func priorityLevelConfiguration() *apis.Resource {
	queuing := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return apis.Of[*flowcontrolv1.PriorityLevelConfiguration]{
		Names: apis.Names{
			Group: "flowcontrol.apiserver.k8s.io", Resource: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration", Kind: "PriorityLevelConfiguration",
		},
		Version:    "v1",
		New:        func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList:    func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
		HasStatus:  true,
		Generation: true,
		Default:    defaultPriorityLevel,
		Validate:   validatePriorityLevel,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			columns.String("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
			columns.String("Queues", queuing["queues"]),
			columns.String("HandSize", queuing["handSize"]),
			columns.String("QueueLengthLimit", queuing["queueLengthLimit"]),
			columns.AgeColumn(),
		},
		Cells: func(p *flowcontrolv1.PriorityLevelConfiguration) []any {
			var shares, queues, hand, length any = columns.None, columns.None, columns.None, columns.None
			if l := p.Spec.Limited; l != nil {
				shares = int64(ptr.Deref(l.NominalConcurrencyShares, 0))
				if q := l.LimitResponse.Queuing; q != nil {
					queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
				}
			}
			return []any{p.Name, string(p.Spec.Type), shares, queues, hand, length, columns.Age(p.CreationTimestamp)}
		},
	}.Resource()
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if e := p.Spec.Exempt; e != nil {
		fill.Pointer(&e.NominalConcurrencyShares, 0)
		fill.Pointer(&e.LendablePercent, 0)
	}
	l := p.Spec.Limited
	if l == nil {
		return
	}
	fill.Pointer(&l.NominalConcurrencyShares, 30)
	fill.Pointer(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		fill.Value(&q.Queues, 64)
		fill.Value(&q.HandSize, 8)
		fill.Value(&q.QueueLengthLimit, 50)
	}
}

func validatePriorityLevel(_ context.Context, p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		return field.ErrorList{field.Invalid(path.Child("type"), s.Type, "type must be 'Exempt' if and only if name is 'exempt'")}
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			return field.ErrorList{field.Forbidden(path.Child("limited"), "must be nil if the type is not Limited")}
		}
		if s.Exempt == nil {
			return nil
		}
		errs := checks.OptionalNonnegative(s.Exempt.NominalConcurrencyShares, path.Child("exempt", "nominalConcurrencyShares"))
		return append(errs, validatePercent(s.Exempt.LendablePercent, path.Child("exempt", "lendablePercent"))...)
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			return field.ErrorList{field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited")}
		}
		if s.Limited == nil {
			return field.ErrorList{field.Required(path.Child("limited"), "must not be empty when type is Limited")}
		}
		return validateLimited(s.Limited, path.Child("limited"))
	}
	return checks.Enum(s.Type, path.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := checks.OptionalNonnegative(l.NominalConcurrencyShares, path.Child("nominalConcurrencyShares"))
	errs = append(errs, validatePercent(l.LendablePercent, path.Child("lendablePercent"))...)
	errs = append(errs, checks.OptionalNonnegative(l.BorrowingLimitPercent, path.Child("borrowingLimitPercent"))...)
	response, path := &l.LimitResponse, path.Child("limitResponse")
	errs = append(errs, checks.Enum(response.Type, path.Child("type"), flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	q, path := response.Queuing, path.Child("queuing")
	switch {
	case response.Type == flowcontrolv1.LimitResponseTypeReject && q != nil:
		return append(errs, field.Forbidden(path, "must be nil if limited.limitResponse.type is not Limited"))
	case response.Type == flowcontrolv1.LimitResponseTypeQueue && q == nil:
		return append(errs, field.Required(path, "must not be empty if limited.limitResponse.type is Limited"))
	case q == nil:
		return errs
	}
	positive := func(name string, v int32) {
		if v <= 0 {
			errs = append(errs, field.Invalid(path.Child(name), v, "must be positive"))
		}
	}
	const maxQueues = 10_000_000
	positive("queueLengthLimit", q.QueueLengthLimit)
	positive("queues", q.Queues)
	if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	positive("handSize", q.HandSize)
	if q.HandSize > q.Queues {
		errs = append(errs, field.Invalid(path.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	return errs
}

func validatePercent(v *int32, path *field.Path) field.ErrorList {
	if v == nil || (*v >= 0 && *v <= 100) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *v, "must be between 0 and 100, inclusive")}
}
