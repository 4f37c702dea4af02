package networking

import (
	"context"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func ipAddress() *apis.Resource {
	return apis.Of[*networkingv1.IPAddress]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "ipaddresses", Singular: "ipaddress", Kind: "IPAddress",
			ShortNames: []string{"ip"},
		},
		Version: "v1",
		New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
		Other: []apis.Version{
			apis.Twin[networkingv1.IPAddress, networkingv1beta1.IPAddress](networkingv1beta1.SchemeGroupVersion.WithKind("IPAddress"), func() runtime.Object { return &networkingv1beta1.IPAddressList{} }),
		},
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		ValidateName:     validateIPAddressName,
		Validate:         validateIPAddress,
		ValidateUpdate: func(ctx context.Context, a, old *networkingv1.IPAddress) field.ErrorList {
			return append(validateIPAddress(ctx, a), validation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
		},
		Cells: func(a *networkingv1.IPAddress) []any {
			return []any{a.Name, parentCell(a.Spec.ParentRef)}
		},
	}.Resource()
}

// parentCell returns e.g. services/default/kubernetes.
func parentCell(p *networkingv1.ParentReference) string {
	if p == nil {
		return columns.None
	}
	parts := []string{p.Resource}
	if p.Group != "" {
		parts[0] = p.Resource + "." + p.Group
	}
	if p.Namespace != "" {
		parts = append(parts, p.Namespace)
	}
	return strings.Join(append(parts, p.Name), "/")
}

// validateIPAddressName demands the canonical form, so that no address has two
// names.
func validateIPAddressName(name string, _ bool) []string {
	var msgs []string
	for _, e := range utilvalidation.IsValidIP(nil, name) {
		msgs = append(msgs, e.Detail)
	}
	return msgs
}

func validateIPAddress(_ context.Context, a *networkingv1.IPAddress) field.ErrorList {
	p, path := a.Spec.ParentRef, field.NewPath("spec", "parentRef")
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if p.Group != "" {
		errs = append(errs, checks.Name(p.Group, path.Child("group"), utilvalidation.IsDNS1123Subdomain)...)
	}
	errs = append(errs, checks.RequiredName(p.Resource, path.Child("resource"), pathSegment)...)
	errs = append(errs, checks.RequiredName(p.Name, path.Child("name"), pathSegment)...)
	if p.Namespace != "" {
		errs = append(errs, checks.Name(p.Namespace, path.Child("namespace"), pathSegment)...)
	}
	return errs
}
