package apiextensions

import (
	"fmt"
	"net/url"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

func validateVersions(versions []apiextensionsv1.CustomResourceDefinitionVersion, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must have at least one version")}
	}
	stored, duplicate := 0, false
	seen := sets.New[string]()
	for i := range versions {
		v, at := &versions[i], path.Index(i)
		if v.Storage {
			stored++
		}
		duplicate = duplicate || seen.Has(v.Name)
		seen.Insert(v.Name)
		errs = append(errs, checks.Name(v.Name, at.Child("name"), utilvalidation.IsDNS1035Label)...)
		if v.DeprecationWarning != nil && !v.Deprecated {
			errs = append(errs, field.Invalid(at.Child("deprecationWarning"), *v.DeprecationWarning, "can only be set for deprecated versions"))
		}
		errs = append(errs, validateSchema(v.Schema, at.Child("schema", "openAPIV3Schema"))...)
		errs = append(errs, validateScale(v.Subresources, at.Child("subresources", "scale"))...)
		for k := range v.AdditionalPrinterColumns {
			errs = append(errs, validateColumn(&v.AdditionalPrinterColumns[k], at.Child("additionalPrinterColumns").Index(k))...)
		}
		for k, f := range v.SelectableFields {
			if f.JSONPath == "" {
				errs = append(errs, field.Required(at.Child("selectableFields").Index(k).Child("jsonPath"), ""))
			}
		}
	}
	if duplicate {
		errs = append(errs, field.Invalid(path, versions, "must contain unique version names"))
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(path, versions, "must have exactly one version marked as storage version"))
	}
	return errs
}

// validateSchema checks that there is a schema of an object. What stands in it
// is checked where schemas are compiled.
func validateSchema(v *apiextensionsv1.CustomResourceValidation, path *field.Path) field.ErrorList {
	if v == nil || v.OpenAPIV3Schema == nil {
		return field.ErrorList{field.Required(path, "schemas are required")}
	}
	switch s := v.OpenAPIV3Schema; {
	case s.Type == "":
		return field.ErrorList{field.Required(path.Child("type"), "must not be empty at the root")}
	case s.Type != "object":
		return field.ErrorList{field.Invalid(path.Child("type"), s.Type, "must be object at the root")}
	case s.Nullable:
		return field.ErrorList{field.Forbidden(path.Child("nullable"), "nullable cannot be true at the root")}
	}
	return nil
}

func validateScale(s *apiextensionsv1.CustomResourceSubresources, path *field.Path) field.ErrorList {
	if s == nil || s.Scale == nil {
		return nil
	}
	var errs field.ErrorList
	check := func(value, name, prefix string) {
		switch {
		case value == "":
			errs = append(errs, field.Required(path.Child(name), ""))
		case !strings.HasPrefix(value, prefix):
			errs = append(errs, field.Invalid(path.Child(name), value, "should be a json path under "+prefix))
		}
	}
	check(s.Scale.SpecReplicasPath, "specReplicasPath", ".spec.")
	check(s.Scale.StatusReplicasPath, "statusReplicasPath", ".status.")
	return errs
}

func validateColumn(c *apiextensionsv1.CustomResourceColumnDefinition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, checks.Enum(c.Type, path.Child("type"), "boolean", "date", "integer", "number", "string")...)
	if c.JSONPath == "" {
		errs = append(errs, field.Required(path.Child("jsonPath"), ""))
	}
	return errs
}

func validateNames(n *apiextensionsv1.CustomResourceDefinitionNames, path *field.Path) field.ErrorList {
	errs := checks.RequiredName(n.Plural, path.Child("plural"), utilvalidation.IsDNS1035Label)
	errs = append(errs, checks.RequiredName(n.Singular, path.Child("singular"), utilvalidation.IsDNS1035Label)...)
	kind := func(value, name string) {
		if value == "" {
			errs = append(errs, field.Required(path.Child(name), ""))
			return
		}
		for _, msg := range utilvalidation.IsDNS1035Label(strings.ToLower(value)) {
			errs = append(errs, field.Invalid(path.Child(name), value, fmt.Sprintf("may have mixed case, but should otherwise match: %v", msg)))
		}
	}
	kind(n.Kind, "kind")
	kind(n.ListKind, "listKind")
	for i, short := range n.ShortNames {
		errs = append(errs, checks.Name(short, path.Child("shortNames").Index(i), utilvalidation.IsDNS1035Label)...)
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		errs = append(errs, field.Invalid(path.Child("listKind"), n.ListKind, "kind and listKind may not be the same"))
	}
	for i, category := range n.Categories {
		errs = append(errs, checks.Name(category, path.Child("categories").Index(i), utilvalidation.IsDNS1035Label)...)
	}
	return errs
}

func validateConversion(c *apiextensionsv1.CustomResourceConversion, path *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := checks.Enum(c.Strategy, path.Child("strategy"), apiextensionsv1.NoneConverter, apiextensionsv1.WebhookConverter)
	webhook := path.Child("webhook")
	if c.Strategy != apiextensionsv1.WebhookConverter {
		if c.Webhook != nil {
			errs = append(errs, field.Forbidden(webhook, "should not be set when strategy is not set to Webhook"))
		}
		return errs
	}
	if c.Webhook == nil || c.Webhook.ClientConfig == nil {
		return append(errs, field.Required(webhook.Child("clientConfig"), "required when strategy is set to Webhook"))
	}
	client := webhook.Child("clientConfig")
	switch config := c.Webhook.ClientConfig; {
	case (config.URL == nil) == (config.Service == nil):
		errs = append(errs, field.Required(client, "exactly one of url or service is required"))
	case config.URL != nil:
		if u, err := url.Parse(*config.URL); err != nil || u.Scheme != "https" || u.Host == "" {
			errs = append(errs, field.Invalid(client.Child("url"), *config.URL, "'https' is the only allowed URL scheme; desired format: https://host[/path]"))
		}
	default:
		if config.Service.Name == "" {
			errs = append(errs, field.Required(client.Child("service", "name"), "service name is required"))
		}
		if config.Service.Namespace == "" {
			errs = append(errs, field.Required(client.Child("service", "namespace"), "service namespace is required"))
		}
	}
	supported := false
	for _, v := range c.Webhook.ConversionReviewVersions {
		supported = supported || v == "v1" || v == "v1beta1"
	}
	if len(c.Webhook.ConversionReviewVersions) == 0 {
		errs = append(errs, field.Required(webhook.Child("conversionReviewVersions"), ""))
	} else if !supported {
		errs = append(errs, field.Invalid(webhook.Child("conversionReviewVersions"), c.Webhook.ConversionReviewVersions, "must include at least one of v1, v1beta1"))
	}
	return errs
}
