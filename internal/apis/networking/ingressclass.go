package networking

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

// maxControllerLength bounds spec.controller.
const maxControllerLength = 250

func ingressClass() *apis.Resource {
	spec := networkingv1.IngressClassSpec{}.SwaggerDoc()
	return apis.Of[*networkingv1.IngressClass]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "ingressclasses", Singular: "ingressclass", Kind: "IngressClass",
		},
		Version:          "v1",
		New:              func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
		NewList:          func() runtime.Object { return &networkingv1.IngressClassList{} },
		Generation:       true,
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Default: func(c *networkingv1.IngressClass) {
			if c.Spec.Parameters != nil {
				fill.Pointer(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		Validate: validateIngressClass,
		ValidateUpdate: func(ctx context.Context, c, old *networkingv1.IngressClass) field.ErrorList {
			errs := validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
			return append(errs, validateIngressClass(ctx, c)...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Controller", spec["controller"]),
			columns.String("Parameters", spec["parameters"]),
			columns.AgeColumn(),
		},
		Cells: func(c *networkingv1.IngressClass) []any {
			parameters := columns.None
			if p := c.Spec.Parameters; p != nil {
				parameters = p.Kind
				if ptr.Deref(p.APIGroup, "") != "" {
					parameters += "." + *p.APIGroup
				}
				parameters += "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, parameters, columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func pathSegment(name string) []string { return pathvalidation.IsValidPathSegmentName(name) }

func validateIngressClass(_ context.Context, c *networkingv1.IngressClass) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if len(c.Spec.Controller) > maxControllerLength {
		errs = append(errs, field.TooLong(path.Child("controller"), "", maxControllerLength))
	}
	errs = append(errs, utilvalidation.IsDomainPrefixedPath(path.Child("controller"), c.Spec.Controller)...)
	p, path := c.Spec.Parameters, path.Child("parameters")
	if p == nil {
		return errs
	}
	errs = append(errs, validateReference(p.APIGroup, p.Kind, p.Name, path)...)
	if p.Scope == nil {
		return append(errs, field.Required(path.Child("scope"), ""))
	}
	switch *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			errs = append(errs, field.Required(path.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, checks.Name(*p.Namespace, path.Child("namespace"), utilvalidation.IsDNS1123Label)...)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(path.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("scope"), *p.Scope,
			[]string{networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
	}
	return errs
}

// validateReference checks a reference to an object of any kind.
func validateReference(group *string, kind, name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if group != nil {
		errs = append(errs, checks.Name(*group, path.Child("apiGroup"), utilvalidation.IsDNS1123Subdomain)...)
	}
	errs = append(errs, checks.RequiredName(kind, path.Child("kind"), pathSegment)...)
	return append(errs, checks.RequiredName(name, path.Child("name"), pathSegment)...)
}
