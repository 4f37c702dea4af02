package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/current"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/admission/review"
)

// Validating implements admission.Validator.
type Validating struct {
	deps     *Deps
	policies *current.Value[*registry[*validator]]
}

// NewValidating returns the plug-in.
func NewValidating(d Deps) *Validating {
	read := func(obj apis.Object) *definition[*validator] {
		p := obj.(*admissionregistrationv1.ValidatingAdmissionPolicy)
		out := &definition[*validator]{
			ignore: ignores(p.Spec.FailurePolicy), paramKind: p.Spec.ParamKind,
			compiled: func() *validator { return compileValidator(d.Expressions, &p.Spec) },
		}
		out.constrain(p.Spec.MatchConstraints)
		return out
	}
	bound := func(obj apis.Object) (string, binding) {
		b := obj.(*admissionregistrationv1.ValidatingAdmissionPolicyBinding)
		out := newBinding(b.Name, b.Spec.MatchResources, b.Spec.ParamRef)
		out.actions = b.Spec.ValidationActions
		return b.Spec.PolicyName, out
	}
	return &Validating{&d, follow(&d, read, bound)}
}

func ignores(p *admissionregistrationv1.FailurePolicyType) bool {
	return p != nil && *p == admissionregistrationv1.Ignore
}

// verdict is the outcome of one write, gathered over all policies.
type verdict struct {
	a       *admission.Attributes
	metrics *admission.Metrics
	denied  *denial
}

// denial says why a policy does not let a write through.
type denial struct {
	message string
	reason  metav1.StatusReason
	// took and failure are for the metrics.
	took    time.Duration
	failure string
}

// deny notes a denial; the first counts. b is nil if the policy itself is at
// fault.
func (v *verdict) deny(p *definition[*validator], b *binding, d denial) {
	if v.denied != nil {
		return
	}
	if b != nil {
		d.message = fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", p.name, b.name, d.message)
	} else {
		d.message = fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", p.name, d.message)
	}
	v.denied = &d
}

// fail notes that the policy could not be carried out.
func (v *verdict) fail(p *definition[*validator], b *binding, err error) {
	if !p.ignore {
		v.deny(p, b, denial{message: configurationError(b, err).Error()})
	}
}

// Validate implements admission.Validator.
func (p *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	found := p.policies.Get().index.Find(a)
	if len(found) == 0 || exempt(a) {
		return nil
	}
	v := &verdict{a: a, metrics: p.deps.Metrics}
	views := review.New(a, p.deps.Authorizer)
	for _, m := range found {
		matches, err := m.Value.selectors.Match(ctx, a, p.deps.Namespaces)
		if err == nil && !matches {
			continue
		}
		if err == nil {
			err = p.deps.known(m.Value.paramKind)
		}
		if err != nil {
			v.fail(m.Value, nil, err)
			continue
		}
		if err := p.carryOut(ctx, m, views, v); err != nil {
			return err
		}
	}
	if v.denied == nil {
		return nil
	}
	return v.refusal()
}

// carryOut evaluates one policy by all its bindings.
func (p *Validating) carryOut(ctx context.Context, m match.Match[*definition[*validator]], views *review.Views, v *verdict) error {
	policy, annotations := m.Value, annotations{}
	for i := range policy.bindings {
		b := &policy.bindings[i]
		matches, err := b.matches(ctx, v.a, p.deps.Namespaces)
		if err == nil && !matches {
			continue
		}
		var params []param
		if err == nil {
			params, err = p.deps.params(ctx, policy.paramKind, b.params, v.a)
		}
		if err != nil {
			v.fail(policy, b, err)
			continue
		}
		if len(params) == 0 {
			continue
		}
		vars, err := views.In(m.Target).Activation(ctx)
		if err != nil {
			v.fail(policy, b, fmt.Errorf("failed to convert object version: %w", err))
			continue
		}
		namespace, err := p.deps.namespaceObject(ctx, v.a)
		if err != nil {
			return err
		}
		for _, param := range params {
			vars.Params = param.value
			policy.compiled().evaluate(ctx, vars, namespace, policy.ignore, outcome{
				failed: func(index int, d denial) { v.apply(policy, b, index, d) },
				ignored: func(err error, took time.Duration) {
					v.metrics.Validated(policy.name, b.name, "allow", took, failureOf(err))
				},
				conditions: func(start time.Time, matched bool, err error) {
					v.metrics.Conditions(policy.name, "policy", "validate", v.a, start, matched, err)
				},
				unreadable: func(message string) {
					v.metrics.Validated(policy.name, b.name, "deny", 0, "invalid_error")
					v.deny(policy, b, denial{message: message})
				},
				annotate: annotations.add,
			})
		}
	}
	annotations.publish(policy.name, v.a)
	return nil
}

// apply does what the binding says about a failed validation.
func (v *verdict) apply(p *definition[*validator], b *binding, index int, d denial) {
	for _, action := range b.actions {
		v.metrics.Validated(p.name, b.name, strings.ToLower(string(action)), d.took, d.failure)
		switch action {
		case admissionregistrationv1.Deny:
			v.deny(p, b, d)
		case admissionregistrationv1.Warn:
			v.a.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p.name, b.name, d.message))
		case admissionregistrationv1.Audit:
			value, _ := json.Marshal([]failureAnnotation{{d.message, p.name, b.name, index, b.actions}})
			v.a.Annotate("validation.policy.admission.k8s.io/validation_failure", string(value))
		}
	}
}

// failureAnnotation is the value of the audit annotation about a failed
// validation.
type failureAnnotation struct {
	Message           string                                     `json:"message"`
	Policy            string                                     `json:"policy"`
	Binding           string                                     `json:"binding"`
	ExpressionIndex   int                                        `json:"expressionIndex"`
	ValidationActions []admissionregistrationv1.ValidationAction `json:"validationActions"`
}

func (v *verdict) refusal() error {
	reason := v.denied.reason
	if reason == "" {
		reason = metav1.StatusReasonInvalid
	}
	var err *apierrors.StatusError
	errors.As(v.a.Forbidden("%s", v.denied.message), &err)
	err.ErrStatus.Reason = reason
	switch reason {
	case metav1.StatusReasonForbidden:
		err.ErrStatus.Code = http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		err.ErrStatus.Code = http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		err.ErrStatus.Code = http.StatusRequestEntityTooLarge
	default:
		err.ErrStatus.Code = http.StatusUnprocessableEntity
	}
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: v.denied.message})
	return err
}
