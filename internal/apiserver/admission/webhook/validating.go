package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/current"
	"skiff/internal/apiserver/admission/match"
	"skiff/internal/apiserver/admission/review"
)

// Validating implements admission.Validator: all webhooks are asked at the
// same time, and each can refuse.
type Validating struct {
	deps  *Deps
	hooks *current.Value[*registry]
}

// NewValidating returns the plug-in.
func NewValidating(d Deps) *Validating {
	return &Validating{&d, d.follow(func(obj apis.Object) registered {
		c := obj.(*admissionregistrationv1.ValidatingWebhookConfiguration)
		return registered{name: c.Name, webhooks: c.Webhooks, again: make([]bool, len(c.Webhooks))}
	})}
}

// Validate implements admission.Validator.
func (p *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	found := p.hooks.Get().Find(a)
	if len(found) == 0 || match.Exempt(a) {
		return nil
	}
	type question struct {
		hook *hook
		sent *admissionv1.AdmissionReview
		err  error
	}
	var questions []question
	views := review.New(a, p.deps.Authorizer)
	for _, m := range found {
		v := views.In(m.Target)
		wants, err := p.deps.wants(ctx, m.Value, "validating", a, v)
		if err != nil {
			return err
		}
		if !wants {
			continue
		}
		q := question{hook: m.Value, err: m.Value.dryRun(a)}
		if q.err == nil {
			q.sent, q.err = m.Value.prepare(ctx, v)
		}
		questions = append(questions, q)
	}
	if len(questions) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	// Answers come in any order, but speak to the requester one at a time.
	var speaking sync.Mutex
	quiet := *a
	quiet.Warn = func(text string) { speaking.Lock(); defer speaking.Unlock(); a.Warn(text) }
	quiet.Annotate = func(key, value string) { speaking.Lock(); defer speaking.Unlock(); a.Annotate(key, value) }
	var wg sync.WaitGroup
	for i := range questions {
		q := &questions[i]
		ask := func() {
			start := time.Now()
			if q.err == nil {
				_, q.err = p.deps.call(ctx, q.hook, &quiet, q.sent, false)
			}
			q.err = p.deps.judge(ctx, q.hook, "validating", a, start, q.err, func() {
				quiet.Annotate(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", i), q.hook.spec.Name)
			})
		}
		if i == len(questions)-1 {
			ask()
		} else {
			wg.Go(ask)
		}
	}
	wg.Wait()
	for i := range questions {
		if questions[i].err != nil {
			return questions[i].err
		}
	}
	return nil
}
