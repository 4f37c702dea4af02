package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/current"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/admission/patch"
	"skiff/internal/apiserver/admission/review"
)

// Mutating implements admission.Mutator: webhooks are asked one after the
// other, in the order of their configurations' names, and each sees what those
// before it changed.
type Mutating struct {
	deps  *Deps
	hooks *current.Value[*registry]
}

// NewMutating returns the plug-in.
func NewMutating(d Deps) *Mutating {
	return &Mutating{&d, d.follow(func(obj apis.Object) registered {
		c := obj.(*admissionregistrationv1.MutatingWebhookConfiguration)
		r := registered{name: c.Name}
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			r.again = append(r.again, w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy)
			r.webhooks = append(r.webhooks, admissionregistrationv1.ValidatingWebhook{
				Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
				NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
				TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
			})
		}
		return r
	})}
}

// Mutate implements admission.Mutator.
func (p *Mutating) Mutate(ctx context.Context, a *admission.Attributes) error {
	found := p.hooks.Get().Find(a)
	if len(found) == 0 || match.Exempt(a) {
		return nil
	}
	rounds := a.Rounds(p)
	views := review.New(a, p.deps.Authorizer)
	for _, m := range found {
		h := m.Value
		v := views.In(m.Target)
		wants, err := p.deps.wants(ctx, h, "admit", a, v)
		if err != nil {
			return err
		}
		if !wants || rounds.Skips(h.id) {
			continue
		}
		about := fmt.Sprintf("webhook.admission.k8s.io/round_%d_index_%d", rounds.Number(), h.position)
		start := time.Now()
		changed, err := p.ask(ctx, h, a, v, about)
		if changed {
			views.Changed()
			rounds.Changed()
		}
		if h.again {
			rounds.Asked(h.id)
		}
		if err := p.deps.judge(ctx, h, "admit", a, start, err, func() { a.Annotate("failed-open.mutation."+about, h.spec.Name) }); err != nil {
			return err
		}
	}
	rounds.Done()
	return nil
}

// ask calls the webhook and makes its changes. The keys of audit annotations
// end in about.
func (p *Mutating) ask(ctx context.Context, h *hook, a *admission.Attributes, v *review.View, about string) (changed bool, err error) {
	defer func() {
		value, _ := json.Marshal(mutationAnnotation{h.configuration, h.spec.Name, changed})
		a.Annotate("mutation."+about, string(value))
	}()
	if err := h.dryRun(a); err != nil {
		return false, err
	}
	sent, err := h.prepare(ctx, v)
	if err != nil {
		return false, err
	}
	answer, err := p.deps.call(ctx, h, a, sent, true)
	if err != nil || len(answer.Patch) == 0 {
		return false, err
	}
	if *answer.PatchType != admissionv1.PatchTypeJSONPatch {
		return false, h.fail("%w", fmt.Errorf("unsupported patch type %q", *answer.PatchType))
	}
	ops, err := patch.Decode(answer.Patch)
	if err != nil {
		return false, h.fail("received undecodable patch in webhook response: %w", err)
	}
	if len(ops) == 0 {
		return false, nil
	}
	if a.Object == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.spec.Name))
	}
	document, err := ops.Apply(sent.Request.Object.Raw)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if changed, err = patch.Replace(ctx, a, v.Version(), document, false); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	value, _ := json.Marshal(patchAnnotation{h.configuration, h.spec.Name, answer.Patch, admissionv1.PatchTypeJSONPatch})
	a.Annotate(admission.PatchAnnotation+about, string(value))
	return changed, nil
}

// mutationAnnotation and patchAnnotation are the values of audit annotations.
type mutationAnnotation struct {
	Configuration string `json:"configuration"`
	Webhook       string `json:"webhook"`
	Mutated       bool   `json:"mutated"`
}

type patchAnnotation struct {
	Configuration string                `json:"configuration"`
	Webhook       string                `json:"webhook"`
	Patch         json.RawMessage       `json:"patch,omitempty"`
	PatchType     admissionv1.PatchType `json:"patchType,omitempty"`
}
