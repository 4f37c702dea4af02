package admissionregistration

import (
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/fill"
)

// defaultWebhook fills what both kinds of webhook have; mutating ones are
// passed in the form of validating ones, which they contain.
func defaultWebhook(w *admissionregistrationv1.ValidatingWebhook) {
	fill.Pointer(&w.FailurePolicy, admissionregistrationv1.Fail)
	fill.Pointer(&w.MatchPolicy, admissionregistrationv1.Equivalent)
	fill.Pointer(&w.NamespaceSelector, metav1.LabelSelector{})
	fill.Pointer(&w.ObjectSelector, metav1.LabelSelector{})
	fill.Pointer(&w.TimeoutSeconds, 10)
	if w.ClientConfig.Service != nil {
		fill.Pointer(&w.ClientConfig.Service.Port, 443)
	}
	for i := range w.Rules {
		defaultRule(&w.Rules[i].Rule)
	}
}

// common returns the fields that w shares with a validating webhook.
func common(w *admissionregistrationv1.MutatingWebhook) admissionregistrationv1.ValidatingWebhook {
	return admissionregistrationv1.ValidatingWebhook{
		Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
		NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
		TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
	}
}

func commonAll(webhooks []admissionregistrationv1.MutatingWebhook) []admissionregistrationv1.ValidatingWebhook {
	out := make([]admissionregistrationv1.ValidatingWebhook, len(webhooks))
	for i := range webhooks {
		out[i] = common(&webhooks[i])
	}
	return out
}

func validateWebhooks(webhooks []admissionregistrationv1.ValidatingWebhook, e expressions) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range webhooks {
		path := field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(&webhooks[i], e, path)...)
		if seen[webhooks[i].Name] {
			errs = append(errs, field.Duplicate(path.Child("name"), webhooks[i].Name))
		}
		seen[webhooks[i].Name] = true
	}
	return errs
}

func validateWebhook(w *admissionregistrationv1.ValidatingWebhook, e expressions, path *field.Path) field.ErrorList {
	errs := utilvalidation.IsFullyQualifiedName(path.Child("name"), w.Name)
	errs = append(errs, validateReviewVersions(w.AdmissionReviewVersions, path.Child("admissionReviewVersions"))...)
	for i := range w.Rules {
		errs = append(errs, validateRule(&w.Rules[i], path.Child("rules").Index(i))...)
	}
	if w.FailurePolicy != nil {
		errs = append(errs, checks.Enum(*w.FailurePolicy, path.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	}
	if w.MatchPolicy != nil {
		errs = append(errs, checks.Enum(*w.MatchPolicy, path.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	}
	known := []admissionregistrationv1.SideEffectClass{admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, checks.Enum(*w.SideEffects, path.Child("sideEffects"), known...)...)
	}
	if t := ptr.Deref(w.TimeoutSeconds, 1); t < 1 || t > 30 {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateSelectors(w.NamespaceSelector, w.ObjectSelector, path)...)
	errs = append(errs, validateClientConfig(&w.ClientConfig, path.Child("clientConfig"))...)
	return append(errs, e.conditions(w.MatchConditions, false, path.Child("matchConditions"))...)
}

// webhookConditions lists the expressions of webhooks.
func webhookConditions(webhooks []admissionregistrationv1.ValidatingWebhook) []string {
	var all []string
	for i := range webhooks {
		all = append(all, conditionsOf(webhooks[i].MatchConditions)...)
	}
	return all
}

// validateReviewVersions demands one that the server can speak.
func validateReviewVersions(versions []string, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	seen, spoken := map[string]bool{}, false
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		if msgs := utilvalidation.IsDNS1035Label(v); len(msgs) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), v, strings.Join(msgs, ",")))
		}
		spoken = spoken || v == "v1" || v == "v1beta1"
	}
	if !spoken && len(errs) == 0 {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}
