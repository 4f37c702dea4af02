package admissionregistration

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks"
	"skiff/internal/apis/fill"
)

func defaultRule(r *admissionregistrationv1.Rule) {
	fill.Pointer(&r.Scope, admissionregistrationv1.AllScopes)
}

func defaultMatch(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	fill.Pointer(&m.MatchPolicy, admissionregistrationv1.Equivalent)
	fill.Pointer(&m.NamespaceSelector, metav1.LabelSelector{})
	fill.Pointer(&m.ObjectSelector, metav1.LabelSelector{})
	for i := range m.ResourceRules {
		defaultRule(&m.ResourceRules[i].Rule)
	}
	for i := range m.ExcludeResourceRules {
		defaultRule(&m.ExcludeResourceRules[i].Rule)
	}
}

func validateMatch(m *admissionregistrationv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(path.Child("matchPolicy"), ""))
	} else {
		errs = append(errs, checks.Supported(*m.MatchPolicy, path.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	}
	if m.NamespaceSelector == nil {
		errs = append(errs, field.Required(path.Child("namespaceSelector"), ""))
	}
	if m.ObjectSelector == nil {
		errs = append(errs, field.Required(path.Child("objectSelector"), ""))
	}
	errs = append(errs, validateSelectors(m.NamespaceSelector, m.ObjectSelector, metav1validation.LabelSelectorValidationOptions{}, path)...)
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], path.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateSelectors(namespace, object *metav1.LabelSelector, o metav1validation.LabelSelectorValidationOptions, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(namespace, o, path.Child("namespaceSelector"))
	return append(errs, metav1validation.ValidateLabelSelector(object, o, path.Child("objectSelector"))...)
}

func validateNamedRule(r *admissionregistrationv1.NamedRuleWithOperations, path *field.Path) field.ErrorList {
	errs := validateRule(&r.RuleWithOperations, path)
	for i, name := range r.ResourceNames {
		at := path.Child("resourceNames").Index(i)
		errs = append(errs, checks.Name(name, at, pathSegment)...)
		if slices.Index(r.ResourceNames, name) < i {
			errs = append(errs, field.Duplicate(at, name))
		}
	}
	return errs
}

func pathSegment(name string) []string { return pathvalidation.ValidatePathSegmentName(name, false) }

func validateRule(r *admissionregistrationv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(path.Child("operations"), ""))
	}
	all := slices.Contains(r.Operations, admissionregistrationv1.OperationAll)
	if all && len(r.Operations) > 1 {
		errs = append(errs, field.Invalid(path.Child("operations"), r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, operation := range r.Operations {
		errs = append(errs, checks.Supported(operation, path.Child("operations").Index(i), admissionregistrationv1.OperationAll,
			admissionregistrationv1.Connect, admissionregistrationv1.Create, admissionregistrationv1.Delete, admissionregistrationv1.Update)...)
	}
	errs = append(errs, validateNames(r.APIGroups, path.Child("apiGroups"), "groups", false)...)
	errs = append(errs, validateNames(r.APIVersions, path.Child("apiVersions"), "versions", true)...)
	errs = append(errs, validateResources(r.Resources, path.Child("resources"))...)
	if r.Scope != nil {
		errs = append(errs, checks.Supported(*r.Scope, path.Child("scope"),
			admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)...)
	}
	return errs
}

// validateResources refuses names that others in the list contain already.
func validateResources(names []string, path *field.Path) field.ErrorList {
	if len(names) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	allSubresources, everywhere := map[string]bool{}, map[string]bool{}
	plain := false
	for i, name := range names {
		resource, sub, isSub := strings.Cut(name, "/")
		switch {
		case name == "":
			errs = append(errs, field.Required(path.Index(i), ""))
		case !isSub:
			// Only the last one counts, as upstream.
			plain = name != "*"
		default:
			if allSubresources[resource] {
				errs = append(errs, field.Invalid(path.Index(i), name, "if '"+resource+"/*' is present, must not specify "+name))
			}
			if everywhere[sub] {
				errs = append(errs, field.Invalid(path.Index(i), name, "if '*/"+sub+"' is present, must not specify "+name))
			}
			allSubresources[resource] = allSubresources[resource] || sub == "*"
			everywhere[sub] = everywhere[sub] || resource == "*"
		}
	}
	if len(names) > 1 && slices.Contains(names, "*/*") {
		errs = append(errs, field.Invalid(path, names, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(names, "*") {
		errs = append(errs, field.Invalid(path, names, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// validateNames checks a list in which "*" stands for all and stands alone;
// nonempty refuses empty entries (the core group's name is empty).
func validateNames(names []string, path *field.Path, what string, nonempty bool) field.ErrorList {
	var errs field.ErrorList
	if len(names) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(names) > 1 && slices.Contains(names, "*") {
		errs = append(errs, field.Invalid(path, names, "if '*' is present, must not specify other API "+what))
	}
	for i, name := range names {
		if nonempty && name == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
		}
	}
	return errs
}

func validateParamKind(p *admissionregistrationv1.ParamKind, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	at := path.Child("apiVersion")
	if p.APIVersion == "" {
		errs = append(errs, field.Required(at, ""))
	} else if gv, err := schema.ParseGroupVersion(p.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at, p.APIVersion, err.Error()))
	} else {
		if msgs := utilvalidation.IsDNS1123Subdomain(gv.Group); gv.Group != "" && len(msgs) > 0 {
			errs = append(errs, field.Invalid(at, gv.Group, strings.Join(msgs, ",")))
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(at, p.APIVersion, "version must be specified"))
		} else if msgs := utilvalidation.IsDNS1035Label(gv.Version); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at, gv.Version, strings.Join(msgs, ",")))
		}
	}
	if p.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if msgs := utilvalidation.IsDNS1035Label(strings.ToLower(p.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), p.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

func validateParamRef(p *admissionregistrationv1.ParamRef, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	both := func(name string) {
		if p.Name != "" && p.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child(name), "name and selector are mutually exclusive"))
		}
	}
	if p.Name != "" {
		errs = append(errs, checks.Name(p.Name, path.Child("name"), pathSegment)...)
	}
	both("name")
	errs = append(errs, metav1validation.ValidateLabelSelector(p.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
	both("selector")
	if p.Name == "" && p.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	return append(errs, checks.Enum(ptr.Deref(p.ParameterNotFoundAction, ""), path.Child("parameterNotFoundAction"),
		admissionregistrationv1.DenyAction, admissionregistrationv1.AllowAction)...)
}

// paramRefCell returns the parameters that a binding names, as namespace/name.
func paramRefCell(p *admissionregistrationv1.ParamRef) string {
	switch {
	case p == nil:
		return "<unset>"
	case p.Name != "" && p.Namespace != "":
		return p.Namespace + "/" + p.Name
	case p.Name != "":
		return "*/" + p.Name
	}
	return metav1.FormatLabelSelector(p.Selector)
}

func paramKindCell(p *admissionregistrationv1.ParamKind) string {
	if p == nil {
		return "<unset>"
	}
	return p.APIVersion + "/" + p.Kind
}

func validateClientConfig(c *admissionregistrationv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	if (c.URL == nil) == (c.Service == nil) {
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	}
	if c.URL != nil {
		return validateURL(*c.URL, path.Child("url"))
	}
	return validateService(c.Service, path.Child("service"))
}

func validateService(s *admissionregistrationv1.ServiceReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	// Upstream takes one for the other where they are missing.
	if s.Namespace == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("namespace"), ""))
	}
	port := ptr.Deref(s.Port, 443)
	if wrong := utilvalidation.IsValidPortNum(int(port)); len(wrong) > 0 {
		errs = append(errs, field.Invalid(path.Child("port"), port, "port is not valid: "+strings.Join(wrong, ", ")))
	}
	return append(errs, validateServicePath(ptr.Deref(s.Path, ""), path.Child("path"))...)
}

// validateServicePath wants every segment of a path, which may end with a
// slash, to be a DNS name.
func validateServicePath(s string, path *field.Path) field.ErrorList {
	if s == "" || s == "/" {
		return nil
	}
	var errs field.ErrorList
	if s[0] != '/' {
		errs = append(errs, field.Invalid(path, s, "must start with a '/'"))
	}
	// Where the slash is missing, upstream drops the first letter instead.
	for i, segment := range strings.Split(strings.TrimSuffix(s[1:], "/"), "/") {
		if segment == "" {
			errs = append(errs, field.Invalid(path, s, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, wrong := range utilvalidation.IsDNS1123Subdomain(segment) {
			errs = append(errs, field.Invalid(path, s, fmt.Sprintf("segment[%d]: %s", i, wrong)))
		}
	}
	return errs
}

func validateURL(s string, path *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(s)
	if err != nil {
		return field.ErrorList{field.Required(path, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	refuse := func(v any, detail string) { errs = append(errs, field.Invalid(path, v, detail)) }
	if u.Scheme != "https" {
		refuse(u.Scheme, "'https' is the only allowed URL scheme"+form)
	}
	if u.Host == "" {
		refuse(u.Host, "host must be specified"+form)
	}
	if u.User != nil {
		refuse(u.User.String(), "user information is not permitted in the URL")
	}
	if u.Fragment != "" {
		refuse(u.Fragment, "fragments are not permitted in the URL")
	}
	if u.RawQuery != "" {
		refuse(u.RawQuery, "query parameters are not permitted in the URL")
	}
	return errs
}
