package cel

import (
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
)

// The names of admission's variables.
const (
	varObject          = "object"
	varOldObject       = "oldObject"
	varParams          = "params"
	varRequest         = "request"
	varNamespace       = "namespaceObject"
	varAuthorizer      = "authorizer"
	varRequestResource = "authorizer.requestResource"
	varVariables       = "variables"
)

// Activation holds the values of admission's variables. Objects are in their
// unstructured form, nil where there is none. It belongs to one goroutine.
type Activation struct {
	Object, OldObject, Params, Request, Namespace map[string]any
	// Authorizer and RequestResource are nil where expressions may not ask.
	Authorizer, RequestResource ref.Val

	variables *variables
}

var _ interpreter.Activation = (*Activation)(nil)

// ResolveName implements interpreter.Activation.
func (a *Activation) ResolveName(name string) (any, bool) {
	switch name {
	case varObject:
		return orNull(a.Object), true
	case varOldObject:
		return orNull(a.OldObject), true
	case varParams:
		return orNull(a.Params), true
	case varRequest:
		return orNull(a.Request), true
	case varNamespace:
		return orNull(a.Namespace), true
	case varAuthorizer:
		return a.Authorizer, a.Authorizer != nil
	case varRequestResource:
		return a.RequestResource, a.RequestResource != nil
	case varVariables:
		if a.variables == nil {
			return nil, false
		}
		return a.variables.value, true
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (a *Activation) Parent() interpreter.Activation { return nil }

// orNull makes an absent object CEL's null rather than an empty map.
func orNull(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}
