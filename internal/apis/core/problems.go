package core

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// problems collects what is wrong with an object.
type problems field.ErrorList

func (p *problems) list() field.ErrorList    { return field.ErrorList(*p) }
func (p *problems) add(errs field.ErrorList) { *p = append(*p, errs...) }
func (p *problems) one(err *field.Error)     { *p = append(*p, err) }
func (p *problems) required(at *field.Path)  { p.one(field.Required(at, "")) }
func (p *problems) count() int               { return len(*p) }
func (p *problems) missing(at *field.Path, detail string) {
	p.one(field.Required(at, detail))
}
func (p *problems) invalid(at *field.Path, value any, detail string) {
	p.one(field.Invalid(at, value, detail))
}
func (p *problems) forbidden(at *field.Path, detail string) { p.one(field.Forbidden(at, detail)) }
func (p *problems) duplicate(at *field.Path, value any)     { p.one(field.Duplicate(at, value)) }

// invalids adds one problem for each message that a checker of
// util/validation returned.
func (p *problems) invalids(at *field.Path, value any, messages []string) {
	for _, m := range messages {
		p.invalid(at, value, m)
	}
}

func (p *problems) dnsLabel(at *field.Path, value string) {
	p.invalids(at, value, validation.IsDNS1123Label(value))
}

func (p *problems) dnsSubdomain(at *field.Path, value string) {
	p.invalids(at, value, validation.IsDNS1123Subdomain(value))
}

func (p *problems) qualifiedName(at *field.Path, value string) {
	p.invalids(at, value, validation.IsQualifiedName(value))
}

func (p *problems) port(at *field.Path, value int32) {
	p.invalids(at, value, validation.IsValidPortNum(int(value)))
}

func (p *problems) nonNegative(at *field.Path, value int64) {
	p.add(apivalidation.ValidateNonnegativeField(value, at))
}

func (p *problems) nonNegativeQuantity(at *field.Path, q resource.Quantity) {
	if q.Sign() < 0 {
		p.invalid(at, q.String(), apivalidation.IsNegativeErrorMsg)
	}
}

func (p *problems) immutable(at *field.Path, now, old any) {
	if !apiequality.Semantic.DeepEqual(now, old) {
		p.invalid(at, now, apivalidation.FieldImmutableErrorMsg)
	}
}

// oneOf checks that value is one of the allowed ones, and that there is one.
func oneOf[T ~string](p *problems, at *field.Path, value T, allowed ...T) {
	if value == "" {
		p.required(at)
		return
	}
	anyOf(p, at, &value, allowed...)
}

// anyOf checks that value, if there is one, is one of the allowed ones.
func anyOf[T ~string](p *problems, at *field.Path, value *T, allowed ...T) {
	if value != nil && !contains(allowed, *value) {
		p.one(field.NotSupported(at, *value, allowed))
	}
}

func contains[T comparable](list []T, value T) bool {
	for _, v := range list {
		if v == value {
			return true
		}
	}
	return false
}

// tolerate drops from errs what old, the problems of the object before the
// update, had too: an object that was accepted by older rules can still be
// updated. old is only asked for if there is anything to drop.
func tolerate(errs field.ErrorList, old func() field.ErrorList) field.ErrorList {
	if len(errs) == 0 {
		return errs
	}
	known := make(map[string]bool)
	for _, e := range old() {
		known[e.Error()] = true
	}
	var left field.ErrorList
	for _, e := range errs {
		if !known[e.Error()] {
			left = append(left, e)
		}
	}
	return left
}
