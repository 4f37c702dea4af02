package admissionregistration

import (
	"context"
	"reflect"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
	"skiff/internal/apiserver/cel"
)

func validatingWebhookConfiguration(admission *cel.Admission) *apis.Resource {
	return apis.Of[*admissionregistrationv1.ValidatingWebhookConfiguration]{
		Names: apis.Names{
			Group: "admissionregistration.k8s.io", Resource: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration", Kind: "ValidatingWebhookConfiguration",
			Categories: []string{"api-extensions"},
		},
		Version: "v1",
		New: func() *admissionregistrationv1.ValidatingWebhookConfiguration {
			return &admissionregistrationv1.ValidatingWebhookConfiguration{}
		},
		NewList: func() runtime.Object { return &admissionregistrationv1.ValidatingWebhookConfigurationList{} },
		// Even what means the same counts.
		NewGeneration: func(c, old *admissionregistrationv1.ValidatingWebhookConfiguration) bool {
			return !reflect.DeepEqual(c.Webhooks, old.Webhooks)
		},
		Generation:             true,
		RequireResourceVersion: true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew},
		Default: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
			for i := range c.Webhooks {
				defaultWebhook(&c.Webhooks[i])
			}
		},
		Validate: func(_ context.Context, c *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
			return webhookChecks{expressions: expressions{admission: admission}}.all(c.Webhooks)
		},
		ValidateUpdate: func(_ context.Context, c, old *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
			return tolerantOf(c.Webhooks, old.Webhooks, expressions{admission, webhookConditions(old.Webhooks)}).all(c.Webhooks)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
			columns.AgeColumn(),
		},
		Cells: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) []any {
			return []any{c.Name, int64(len(c.Webhooks)), columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}
