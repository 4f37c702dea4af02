package admissionregistration

import (
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
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

// webhookChecks are the checks of webhooks, loosened by what is wrong with the
// stored ones.
type webhookChecks struct {
	expressions
	// sameConditions says that no match condition changed: none is checked.
	sameConditions                          bool
	sideEffects, unknownVersions, sameNames bool
	selectors                               metav1validation.LabelSelectorValidationOptions
}

var (
	noSideEffects = []admissionregistrationv1.SideEffectClass{admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun}
	spoken        = []string{"v1", "v1beta1"}
)

// tolerantOf returns the checks of an update of old to webhooks.
func tolerantOf(webhooks, old []admissionregistrationv1.ValidatingWebhook, e expressions) webhookChecks {
	c := webhookChecks{expressions: e, sameConditions: len(webhooks) == len(old)}
	seen := map[string]bool{}
	for i := range old {
		w := &old[i]
		c.sameConditions = c.sameConditions && equality.Semantic.DeepEqual(webhooks[i].MatchConditions, w.MatchConditions)
		c.sideEffects = c.sideEffects || w.SideEffects == nil || !slices.Contains(noSideEffects, *w.SideEffects)
		c.unknownVersions = c.unknownVersions || len(w.AdmissionReviewVersions) > 0 && !speaks(w.AdmissionReviewVersions)
		c.sameNames = c.sameNames || seen[w.Name]
		seen[w.Name] = true
		if len(validateSelectors(w.NamespaceSelector, w.ObjectSelector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0 {
			c.selectors.AllowInvalidLabelValueInSelector = true
		}
	}
	return c
}

func (c webhookChecks) all(webhooks []admissionregistrationv1.ValidatingWebhook) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range webhooks {
		w, path := &webhooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, c.one(w, path)...)
		errs = append(errs, validateReviewVersions(w.AdmissionReviewVersions, !c.unknownVersions, path.Child("admissionReviewVersions"))...)
		if seen[w.Name] && w.Name != "" && !c.sameNames {
			errs = append(errs, field.Duplicate(path.Child("name"), w.Name))
		}
		seen[w.Name] = true
	}
	return errs
}

func (c webhookChecks) one(w *admissionregistrationv1.ValidatingWebhook, path *field.Path) field.ErrorList {
	errs := utilvalidation.IsFullyQualifiedName(path.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, validateRule(&w.Rules[i], path.Child("rules").Index(i))...)
	}
	if w.FailurePolicy != nil {
		errs = append(errs, checks.Supported(*w.FailurePolicy, path.Child("failurePolicy"), admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	}
	if w.MatchPolicy != nil {
		errs = append(errs, checks.Supported(*w.MatchPolicy, path.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	}
	known, names := noSideEffects, "None, NoneOnDryRun"
	if c.sideEffects {
		known = append(slices.Clone(known), admissionregistrationv1.SideEffectClassSome, admissionregistrationv1.SideEffectClassUnknown)
		names += ", Some, Unknown"
	}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of "+names))
	} else {
		errs = append(errs, checks.Supported(*w.SideEffects, path.Child("sideEffects"), known...)...)
	}
	if t := ptr.Deref(w.TimeoutSeconds, 1); t < 1 || t > 30 {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateSelectors(w.NamespaceSelector, w.ObjectSelector, c.selectors, path)...)
	errs = append(errs, validateClientConfig(&w.ClientConfig, path.Child("clientConfig"))...)
	if c.sameConditions {
		return errs
	}
	return append(errs, c.conditions(w.MatchConditions, false, path.Child("matchConditions"))...)
}

// webhookConditions lists the expressions of webhooks.
func webhookConditions(webhooks []admissionregistrationv1.ValidatingWebhook) []string {
	var all []string
	for i := range webhooks {
		all = append(all, conditionsOf(webhooks[i].MatchConditions)...)
	}
	return all
}

// speaks reports whether the server can speak one of the versions.
func speaks(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(spoken, v) })
}

func validateReviewVersions(versions []string, known bool, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+strings.Join(spoken, ", "))}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		errs = append(errs, checks.Name(v, path.Index(i), utilvalidation.IsDNS1035Label)...)
	}
	if known && !speaks(versions) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+strings.Join(spoken, ", ")))
	}
	return errs
}
