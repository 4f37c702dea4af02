package webhook

import (
	"context"
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

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

// rounds is what the plug-in remembers of a write's first round: which webhooks
// want to see what happened after them.
type rounds struct {
	// asked were asked; stale are those of them that something changed after.
	asked, stale map[string]bool
	// output is the object when the round ended.
	output runtime.Object
}

func (r *rounds) changed() {
	for id := range r.asked {
		r.stale[id] = true
	}
	clear(r.asked)
}

type memoryKey struct{}

// Mutate implements admission.Mutator.
func (p *Mutating) Mutate(ctx context.Context, a *admission.Attributes) error {
	found := p.hooks.Get().Find(a)
	if len(found) == 0 || match.Exempt(a) {
		return nil
	}
	state, again := a.Recall(memoryKey{}).(*rounds)
	if !again {
		state = &rounds{asked: map[string]bool{}, stale: map[string]bool{}}
		a.Remember(memoryKey{}, state)
	} else if !equality.Semantic.DeepEqual(state.output, a.Object) {
		state.changed()
	}
	views := review.New(a, p.deps.Authorizer)
	for _, m := range found {
		h := m.Value
		v := views.In(m.Target)
		wants, err := h.wants(ctx, a, v, p.deps.Namespaces)
		if err != nil {
			return err
		}
		// Nobody is asked for the first time in the second round.
		if !wants || again && !state.stale[h.id] {
			continue
		}
		changed, err := p.ask(ctx, h, a, v)
		if changed {
			views.Changed()
			state.changed()
			a.Reinvoke()
		}
		if h.again {
			state.asked[h.id] = true
		}
		if err := h.judge(ctx, err, func() { a.Annotate("failed-open.mutation."+h.annotation(a), h.spec.Name) }); err != nil {
			return err
		}
	}
	if len(state.asked)+len(state.stale) > 0 && a.Object != nil {
		state.output = a.Object.DeepCopyObject()
	}
	return nil
}

// annotation is the end of the keys of audit annotations about the webhook.
func (h *hook) annotation(a *admission.Attributes) string {
	round := 0
	if a.Reinvoked() {
		round = 1
	}
	return fmt.Sprintf("webhook.admission.k8s.io/round_%d_index_%d", round, h.position)
}

// ask calls the webhook and makes its changes.
func (p *Mutating) ask(ctx context.Context, h *hook, a *admission.Attributes, v *review.View) (changed bool, err error) {
	defer func() {
		value, _ := json.Marshal(mutationAnnotation{h.configuration, h.spec.Name, changed})
		a.Annotate("mutation."+h.annotation(a), string(value))
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
	if changed, err = patch.Replace(ctx, a, v.Version(), document); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	value, _ := json.Marshal(patchAnnotation{h.configuration, h.spec.Name, answer.Patch, admissionv1.PatchTypeJSONPatch})
	a.Annotate("patch."+h.annotation(a), string(value))
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
