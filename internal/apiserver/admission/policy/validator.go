package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/cel"
)

// validator is a compiled ValidatingAdmissionPolicy.
type validator struct {
	scope       *cel.Scope
	conditions  match.Conditions
	validations []validation
	annotations []annotation
}

type validation struct {
	spec    admissionregistrationv1.Validation
	rule    program
	message *program
}

type annotation struct {
	key, source string
	value       program
}

// program is an expression that may not have compiled: then it fails when it is
// evaluated.
type program struct {
	*cel.Program
	err error
}

func compiled(p *cel.Program, err *apiservercel.Error) program {
	if err != nil {
		return program{err: fmt.Errorf("compilation error: %w", err)}
	}
	return program{Program: p}
}

func (p *program) eval(ctx context.Context, vars *cel.Activation, b *cel.Budget) (any, error) {
	if p.err != nil {
		return nil, p.err
	}
	v, err := p.Eval(ctx, vars, b)
	if err != nil {
		return nil, err
	}
	if v == types.NullValue {
		return nil, nil
	}
	return v.Value(), nil
}

// newScope returns a scope with the policy's variables.
func newScope(a *cel.Admission, params *admissionregistrationv1.ParamKind, variables []admissionregistrationv1.Variable) *cel.Scope {
	s := a.Scope(params != nil)
	for _, v := range variables {
		// Its uses fail if it does not compile.
		_ = s.Variable(v.Name, v.Expression, true)
	}
	return s
}

// conditionsIn compiles match conditions in a policy's scope.
func conditionsIn(s *cel.Scope, conditions []admissionregistrationv1.MatchCondition) match.Conditions {
	return match.Compile(conditions, func(source string, stored bool, returns ...*celgo.Type) (*cel.Program, *apiservercel.Error) {
		return s.Compile(source, cel.Declares{Authorizer: true}, stored, returns...)
	})
}

func compileValidator(a *cel.Admission, p *admissionregistrationv1.ValidatingAdmissionPolicySpec) *validator {
	s := newScope(a, p.ParamKind, p.Variables)
	v := &validator{scope: s, conditions: conditionsIn(s, p.MatchConditions)}
	asks := cel.Declares{Authorizer: true}
	for _, spec := range p.Validations {
		one := validation{spec: spec, rule: compiled(s.Compile(spec.Expression, asks, true, celgo.BoolType))}
		if spec.MessageExpression != "" {
			message := compiled(s.Compile(spec.MessageExpression, cel.Declares{}, true, celgo.StringType))
			one.message = &message
		}
		v.validations = append(v.validations, one)
	}
	for _, spec := range p.AuditAnnotations {
		v.annotations = append(v.annotations, annotation{spec.Key, spec.ValueExpression,
			compiled(s.Compile(strings.TrimSpace(spec.ValueExpression), asks, true, celgo.StringType, celgo.NullType))})
	}
	return v
}

// failureOf names the kind of an error for the metrics.
func failureOf(err error) string {
	switch {
	case err == nil:
		return "no_error"
	case errors.Is(err, apiservercel.ErrOutOfBudget):
		return "out_of_budget"
	case strings.HasPrefix(err.Error(), "compilation"):
		return "compile_error"
	}
	return "invalid_error"
}

// outcome receives what comes of a policy.
type outcome struct {
	// failed is told about validations that are false, and about errors unless
	// they are ignored.
	failed func(index int, d denial)
	// ignored is told about errors that are.
	ignored func(err error, took time.Duration)
	// conditions is told about the policy's match conditions.
	conditions func(start time.Time, matched bool, err error)
	// unreadable is told about annotations without a value.
	unreadable func(message string)
	annotate   func(key, value string)
}

// evaluate evaluates the policy once, with the parameter in vars. ignore says
// that errors are no failures.
func (v *validator) evaluate(ctx context.Context, vars cel.Activation, namespace map[string]any, ignore bool, o outcome) {
	wrong := func(index int, err error, took time.Duration) {
		if ignore {
			o.ignored(err, took)
		} else {
			o.failed(index, denial{message: err.Error(), took: took, failure: failureOf(err)})
		}
	}
	if len(v.conditions) > 0 {
		// Conditions do not see the namespace.
		start := time.Now()
		matches, err := v.conditions.Match(ctx, v.scope.Activate(ctx, vars))
		o.conditions(start, matches, err)
		if err != nil {
			wrong(0, err, time.Since(start))
		}
		if !matches || err != nil {
			return
		}
	}
	vars.Namespace = namespace
	plain := vars
	plain.Authorizer, plain.RequestResource = nil, nil
	full, budget := v.scope.Activate(ctx, vars), cel.NewBudget(celconfig.RuntimeCELCostBudget)
	results, errs, took := make([]any, len(v.validations)), make([]error, len(v.validations)), make([]time.Duration, len(v.validations))
	for i := range v.validations {
		start := time.Now()
		results[i], errs[i] = v.validations[i].rule.eval(ctx, full, budget)
		took[i] = time.Since(start)
		if errors.Is(errs[i], apiservercel.ErrOutOfBudget) {
			wrong(0, errs[i], took[i])
			return
		}
	}
	forMessages := v.scope.Activate(ctx, plain)
	for i := range v.validations {
		switch {
		case errs[i] != nil:
			wrong(i, errs[i], took[i])
		case results[i] != true:
			one := &v.validations[i]
			message, err := one.text(ctx, forMessages, budget)
			if err != nil {
				wrong(i, fmt.Errorf("failed messageExpression: %w", err), took[i])
				continue
			}
			d := denial{message: message, reason: metav1.StatusReasonInvalid, took: took[i], failure: "invalid_error"}
			if one.spec.Reason != nil {
				d.reason = *one.spec.Reason
			}
			o.failed(i, d)
		}
	}
	v.annotate(ctx, plain, ignore, o)
}

// text says why the validation failed. The error is that the budget is spent.
func (v *validation) text(ctx context.Context, vars *cel.Activation, b *cel.Budget) (string, error) {
	if v.message != nil {
		value, err := v.message.eval(ctx, vars, b)
		if errors.Is(err, apiservercel.ErrOutOfBudget) {
			return "", err
		}
		text, _ := value.(string)
		text = strings.TrimSpace(text)
		if err == nil && text != "" && len(text) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(text, "\n") {
			return text, nil
		}
	}
	if text := strings.TrimSpace(v.spec.Message); text != "" {
		return text, nil
	}
	return "failed expression: " + strings.TrimSpace(v.spec.Expression), nil
}

func (v *validator) annotate(ctx context.Context, vars cel.Activation, ignore bool, o outcome) {
	if len(v.annotations) == 0 {
		return
	}
	active, budget := v.scope.Activate(ctx, vars), cel.NewBudget(celconfig.RuntimeCELCostBudget)
	for i := range v.annotations {
		an := &v.annotations[i]
		value, err := an.value.eval(ctx, active, budget)
		if err != nil {
			if !ignore {
				o.unreadable(err.Error())
			}
			if errors.Is(err, apiservercel.ErrOutOfBudget) {
				return
			}
			continue
		}
		if text, _ := value.(string); strings.TrimSpace(text) != "" {
			o.annotate(an.key, strings.TrimSpace(text))
		}
	}
}

// annotations collects the values of a policy's audit annotations over its
// bindings.
type annotations map[string][]string

// maxAnnotation is the longest value.
const maxAnnotation = 10 * 1024

func (s annotations) add(key, value string) {
	if len(value) > maxAnnotation {
		value = value[:maxAnnotation]
	}
	if !slices.Contains(s[key], value) {
		s[key] = append(s[key], value)
	}
}

func (s annotations) publish(policy string, a *admission.Attributes) {
	for key, values := range s {
		a.Annotate(policy+"/"+key, strings.Join(values, ", "))
	}
}
