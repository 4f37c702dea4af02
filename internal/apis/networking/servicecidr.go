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
	netutils "k8s.io/utils/net"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// maxServiceCIDRs is one for each address family.
const maxServiceCIDRs = 2

func serviceCIDR() *apis.Resource {
	return apis.Of[*networkingv1.ServiceCIDR]{
		Names: apis.Names{
			Group: "networking.k8s.io", Resource: "servicecidrs", Singular: "servicecidr", Kind: "ServiceCIDR",
		},
		Version: "v1",
		New:     func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		Other: []apis.Version{
			apis.Twin[networkingv1.ServiceCIDR, networkingv1beta1.ServiceCIDR](networkingv1beta1.SchemeGroupVersion.WithKind("ServiceCIDR"), func() runtime.Object { return &networkingv1beta1.ServiceCIDRList{} }),
		},
		HasStatus: true,
		PrepareStatusUpdate: func(_ context.Context, c, old *networkingv1.ServiceCIDR) {
			metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
		},
		Reset:          map[string][]string{"status": {"metadata"}},
		Validate:       validateServiceCIDR,
		ValidateUpdate: validateServiceCIDRUpdate,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			columns.AgeColumn(),
		},
		Cells: func(c *networkingv1.ServiceCIDR) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func validateServiceCIDR(_ context.Context, c *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	cidrs := c.Spec.CIDRs
	switch {
	case len(cidrs) == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case len(cidrs) > maxServiceCIDRs:
		return field.ErrorList{field.Invalid(path, c.Spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	families := map[netutils.IPFamily]bool{}
	for i, cidr := range cidrs {
		errs = append(errs, utilvalidation.IsValidCIDR(path.Index(i), cidr)...)
		family := netutils.IPFamilyOfCIDRString(cidr)
		if family != netutils.IPFamilyUnknown && families[family] {
			errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
		families[family] = true
	}
	return errs
}

// validateServiceCIDRUpdate lets a range of the other family be added, and
// nothing else: addresses in use must stay in their range.
func validateServiceCIDRUpdate(ctx context.Context, c, old *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	was, is := old.Spec.CIDRs, c.Spec.CIDRs
	added := len(was) == 1 && len(is) == maxServiceCIDRs
	if len(is) != len(was) && !added {
		return field.ErrorList{field.Invalid(path, is, validation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range was {
		errs = append(errs, validation.ValidateImmutableField(is[i], was[i], path.Index(i))...)
	}
	if added {
		errs = append(errs, validateServiceCIDR(ctx, c)...)
	}
	return errs
}
