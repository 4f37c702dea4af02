package admissionregistration

import (
	"context"
	"reflect"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
	"skiff/internal/apiserver/cel"
)

func mutatingWebhookConfiguration(admission *cel.Admission) *apis.Resource {
	return apis.Of[*admissionregistrationv1.MutatingWebhookConfiguration]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Kind: "MutatingWebhookConfiguration",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.MutatingWebhookConfiguration {
			return &admissionregistrationv1.MutatingWebhookConfiguration{}
		},
		NewList: func() runtime.Object { return &admissionregistrationv1.MutatingWebhookConfigurationList{} },
		// Even what means the same counts.
		NewGeneration: func(c, old *admissionregistrationv1.MutatingWebhookConfiguration) bool {
			return !reflect.DeepEqual(c.Webhooks, old.Webhooks)
		},
		Generation:             true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		Default: func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				shared := common(w)
				defaultWebhook(&shared)
				w.FailurePolicy, w.MatchPolicy, w.TimeoutSeconds = shared.FailurePolicy, shared.MatchPolicy, shared.TimeoutSeconds
				w.NamespaceSelector, w.ObjectSelector = shared.NamespaceSelector, shared.ObjectSelector
				fill.Pointer(&w.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
			}
		},
		Validate: func(_ context.Context, c *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
			return validateMutatingWebhooks(c, webhookChecks{expressions: expressions{admission: admission}})
		},
		ValidateUpdate: func(_ context.Context, c, old *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
			was := commonAll(old.Webhooks)
			return validateMutatingWebhooks(c, tolerantOf(commonAll(c.Webhooks), was, expressions{admission, webhookConditions(was)}))
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
			columns.AgeColumn(),
		},
		Cells: func(c *admissionregistrationv1.MutatingWebhookConfiguration) []any {
			return []any{c.Name, int64(len(c.Webhooks)), columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func validateMutatingWebhooks(c *admissionregistrationv1.MutatingWebhookConfiguration, w webhookChecks) field.ErrorList {
	errs := w.all(commonAll(c.Webhooks))
	for i := range c.Webhooks {
		if p := c.Webhooks[i].ReinvocationPolicy; p != nil {
			errs = append(errs, checks.Supported(*p, field.NewPath("webhooks").Index(i).Child("reinvocationPolicy"),
				admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
		}
	}
	return errs
}
