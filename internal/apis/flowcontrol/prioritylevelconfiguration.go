package flowcontrol

import (
	"context"
	"fmt"
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
		Version:          "v1",
		New:              func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
		NewList:          func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew},
		HasStatus:        true,
		Generation:       true,
		Default:          defaultPriorityLevel,
		Validate:         validatePriorityLevel,
		Reset:            map[string][]string{"status": {"metadata"}},
		PrepareStatusUpdate: func(_ context.Context, o, old *flowcontrolv1.PriorityLevelConfiguration) {
			keepMetadata(&o.ObjectMeta, &old.ObjectMeta)
		},
		ValidateStatusUpdate: func(_ context.Context, p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			return validateConditions(p.Status.Conditions, func(c *flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
		},
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
	var errs field.ErrorList
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			errs = append(errs, field.Forbidden(path.Child("limited"), "must be nil if the type is not Limited"))
		}
		if s.Exempt != nil {
			errs = append(errs, validateShares(s.Exempt.NominalConcurrencyShares, path.Child("exempt"))...)
			errs = append(errs, validateLendable(s.Exempt.LendablePercent, path.Child("exempt"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			errs = append(errs, field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited"))
		}
		if s.Limited == nil {
			errs = append(errs, field.Required(path.Child("limited"), "must not be empty when type is Limited"))
		} else {
			errs = append(errs, validateLimited(s.Limited, path.Child("limited"))...)
		}
	default:
		errs = append(errs, checks.Enum(s.Type, path.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)...)
	}
	return append(errs, validateFixedLevel(p, path)...)
}

// validateFixedLevel keeps the levels of requests that nothing else covers as
// they are. How much of the server exempt requests take may be said.
func validateFixedLevel(p *flowcontrolv1.PriorityLevelConfiguration, path *field.Path) field.ErrorList {
	s := p.Spec
	switch p.Name {
	case flowcontrolv1.PriorityLevelConfigurationNameExempt:
		s.Exempt = nil
		if !equality.Semantic.DeepEqual(s, flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementExempt}) {
			return field.ErrorList{field.Invalid(path, p.Spec, fmt.Sprintf("spec of '%s' except the 'spec.exempt' field must equal the fixed value", p.Name))}
		}
	case flowcontrolv1.PriorityLevelConfigurationNameCatchAll:
		fixed := flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](5), LendablePercent: ptr.To[int32](0),
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		}}
		if !equality.Semantic.DeepEqual(s, fixed) {
			return field.ErrorList{field.Invalid(path, p.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", p.Name))}
		}
	}
	return nil
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, path)
	errs = append(errs, validateLimitResponse(&l.LimitResponse, path.Child("limitResponse"))...)
	errs = append(errs, validateLendable(l.LendablePercent, path)...)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	return errs
}

func validateLimitResponse(response *flowcontrolv1.LimitResponse, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	q, queuing := response.Queuing, path.Child("queuing")
	switch response.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(queuing, "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if q == nil {
			errs = append(errs, field.Required(queuing, "must not be empty if limited.limitResponse.type is Limited"))
		} else {
			errs = append(errs, validateQueuing(q, queuing)...)
		}
	default:
		errs = append(errs, checks.Enum(response.Type, path.Child("type"), flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	}
	return errs
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(name string, v int32, detail string) {
		errs = append(errs, field.Invalid(path.Child(name), v, detail))
	}
	const maxQueues, maxBits = 10_000_000, 60
	if q.QueueLengthLimit <= 0 {
		refuse("queueLengthLimit", q.QueueLengthLimit, "must be positive")
	}
	switch {
	case q.Queues <= 0:
		refuse("queues", q.Queues, "must be positive")
	case q.Queues > maxQueues:
		refuse("queues", q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues))
	}
	switch {
	case q.HandSize <= 0:
		refuse("handSize", q.HandSize, "must be positive")
	case q.HandSize > q.Queues:
		refuse("handSize", q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	// A hand is dealt from one hash.
	case math.Ceil(math.Log2(float64(q.Queues))*float64(q.HandSize)) > maxBits:
		refuse("handSize", q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxBits))
	}
	return errs
}

func validateShares(nominal *int32, path *field.Path) field.ErrorList {
	if n := ptr.Deref(nominal, 0); n < 0 {
		return field.ErrorList{field.Invalid(path.Child("nominalConcurrencyShares"), n, "must be a non-negative integer")}
	}
	return nil
}

func validateLendable(lendable *int32, path *field.Path) field.ErrorList {
	if l := ptr.Deref(lendable, 0); l < 0 || l > 100 {
		return field.ErrorList{field.Invalid(path.Child("lendablePercent"), l, "must be between 0 and 100, inclusive")}
	}
	return nil
}
