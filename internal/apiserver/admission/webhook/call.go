package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/review"
)

// failure is the error of a webhook that could not be asked. Its failure policy
// decides what becomes of the write; a refusal, in contrast, is an API error.
type failure struct {
	webhook string
	reason  error
}

func (f *failure) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", f.webhook, f.reason)
}

func (f *failure) Unwrap() error { return f.reason }

// prepare makes the review that a webhook is sent.
func (h *hook) prepare(ctx context.Context, v *review.View) (*admissionv1.AdmissionReview, error) {
	version, ok := h.reviewVersion()
	if !ok {
		return nil, h.fail("could not create admission objects: %w", fmt.Errorf("webhook does not accept known AdmissionReview versions (v1, v1beta1), only %q", h.spec.AdmissionReviewVersions))
	}
	request, err := v.Request()
	if err == nil {
		request.Object.Raw, err = v.Object(ctx)
	}
	if err == nil {
		request.OldObject.Raw, err = v.Old(ctx)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	request.UID = uuid.NewUUID()
	out := &admissionv1.AdmissionReview{Request: request}
	out.Kind, out.APIVersion = "AdmissionReview", admissionv1.GroupName+"/"+version
	return out, nil
}

func (h *hook) fail(format string, err error) error {
	return &failure{h.spec.Name, fmt.Errorf(format, err)}
}

// call asks the webhook. A response says that the write is allowed.
func (d *Deps) call(ctx context.Context, h *hook, a *admission.Attributes, sent *admissionv1.AdmissionReview, mutating bool) (*admissionv1.AdmissionResponse, error) {
	var answer admissionv1.AdmissionReview
	if err := d.Client.Call(ctx, h.target, h.timeout(), sent, &answer); err != nil {
		return nil, h.fail("failed to call webhook: %w", err)
	}
	if err := verify(sent.APIVersion, sent.Request.UID, mutating, &answer); err != nil {
		return nil, h.fail("received invalid webhook response: %w", err)
	}
	r := answer.Response
	for key, value := range r.AuditAnnotations {
		a.Annotate(h.spec.Name+"/"+key, value)
	}
	for _, text := range r.Warnings {
		a.Warn(text)
	}
	if !r.Allowed {
		return nil, refusal(h.spec.Name, r.Result)
	}
	return r, nil
}

// dryRun refuses dry runs that would have side effects.
func (h *hook) dryRun(a *admission.Attributes) error {
	if !a.DryRun {
		return nil
	}
	if e := h.spec.SideEffects; e != nil && (*e == admissionregistrationv1.SideEffectClassNone || *e == admissionregistrationv1.SideEffectClassNoneOnDryRun) {
		return nil
	}
	return apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.spec.Name))
}

// verify checks an answer against the contract, which for v1beta1 demands
// little.
func verify(apiVersion string, uid types.UID, mutating bool, answer *admissionv1.AdmissionReview) error {
	r := answer.Response
	if r == nil {
		return errors.New("webhook response was absent")
	}
	if apiVersion != admissionv1.SchemeGroupVersion.String() {
		if t := admissionv1.PatchTypeJSONPatch; mutating && len(r.Patch) > 0 {
			r.PatchType = &t
		}
		return nil
	}
	if r.UID != uid {
		return fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	}
	if want := admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"); answer.GroupVersionKind() != want {
		return fmt.Errorf("expected webhook response of %v, got %v", want, answer.GroupVersionKind())
	}
	switch {
	case !mutating && len(r.Patch) > 0:
		return errors.New("validating webhook may not return response.patch")
	case !mutating && r.PatchType != nil:
		return errors.New("validating webhook may not return response.patchType")
	case len(r.Patch) > 0 && r.PatchType == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case len(r.Patch) == 0 && r.PatchType != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case r.PatchType != nil && *r.PatchType == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *r.PatchType)
	}
	return nil
}

// refusal is the error with which a webhook refuses a write.
func refusal(name string, result *metav1.Status) error {
	if result == nil {
		result = &metav1.Status{}
	}
	if result.Code < http.StatusBadRequest {
		result.Code = http.StatusBadRequest
	}
	if result.Status == "" || result.Status == metav1.StatusSuccess {
		result.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case result.Message != "":
		result.Message = by + ": " + result.Message
	case result.Reason != "":
		result.Message = by + ": " + string(result.Reason)
	default:
		result.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: *result}
}

// judge decides what an error of a webhook, which was asked at start, means for
// the write. failedOpen is called when it goes on regardless.
func (d *Deps) judge(ctx context.Context, h *hook, kind string, a *admission.Attributes, start time.Time, err error, failedOpen func()) error {
	var f *failure
	failed := errors.As(err, &f)
	d.Metrics.Webhook(h.spec.Name, kind, a, start, err, failed, failed && h.ignoresFailure())
	switch {
	case !failed:
		return err
	case !h.ignoresFailure():
		return apierrors.NewInternalError(err)
	case ctx.Err() != nil:
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	failedOpen()
	return nil
}
