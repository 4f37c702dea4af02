package resource

import (
	"context"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	resourcev1beta1 "k8s.io/api/resource/v1beta1"
	resourcev1beta2 "k8s.io/api/resource/v1beta2"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func deviceClass() *apis.Resource {
	return apis.Of[*resourcev1.DeviceClass]{
		Names: apis.Names{
			Group: "resource.k8s.io", Resource: "deviceclasses", Singular: "deviceclass", Kind: "DeviceClass",
		},
		Version:       "v1",
		New:           func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
		NewList:       func() runtime.Object { return &resourcev1.DeviceClassList{} },
		ReturnDeleted: true,
		Other: []apis.Version{
			apis.Twin[resourcev1.DeviceClass, resourcev1beta2.DeviceClass](resourcev1beta2.SchemeGroupVersion.WithKind("DeviceClass"), func() runtime.Object { return &resourcev1beta2.DeviceClassList{} }),
			apis.Twin[resourcev1.DeviceClass, resourcev1beta1.DeviceClass](resourcev1beta1.SchemeGroupVersion.WithKind("DeviceClass"), func() runtime.Object { return &resourcev1beta1.DeviceClassList{} }),
		},
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Generation:       true,
		ValidateName: func(name string, prefix bool) []string {
			if prefix {
				return validation.NameIsDNSSubdomain(name, prefix)
			}
			return content.IsDNS1123Subdomain(name)
		},
		Validate: func(_ context.Context, c *resourcev1.DeviceClass) field.ErrorList {
			return validateDeviceClass(&c.Spec, nil)
		},
		ValidateUpdate: func(_ context.Context, c, old *resourcev1.DeviceClass) field.ErrorList {
			return validateDeviceClass(&c.Spec, &old.Spec)
		},
		Columns: []metav1.TableColumnDefinition{columns.Name(), columns.AgeColumn()},
		Cells:   func(c *resourcev1.DeviceClass) []any { return []any{c.Name, columns.Age(c.CreationTimestamp)} },
	}.Resource()
}

// validateDeviceClass checks a class; old is nil on create. Selectors that
// stayed as they are were compiled once and may be more than would be accepted
// today.
func validateDeviceClass(s, old *resourcev1.DeviceClassSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if old == nil || !equality.Semantic.DeepEqual(s.Selectors, old.Selectors) {
		errs = validateSelectors(s.Selectors, path.Child("selectors"))
	}
	isNew := old == nil || !equality.Semantic.DeepEqual(s.Config, old.Config)
	errs = append(errs, checks.Items(s.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"),
		func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
			return validateConfiguration(&c.DeviceConfiguration, isNew, at)
		})...)
	if name := s.ExtendedResourceName; name != nil && !isExtendedResource(*name) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}

// isExtendedResource reports whether a resource of that name can be asked for
// by containers and be limited by quotas.
func isExtendedResource(name string) bool {
	const quotaPrefix = "requests."
	return strings.Contains(name, "/") && !strings.Contains(name, "kubernetes.io/") && !strings.HasPrefix(name, quotaPrefix) &&
		len(utilvalidation.IsQualifiedName(quotaPrefix+name)) == 0
}
