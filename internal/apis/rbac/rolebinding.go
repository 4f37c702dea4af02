package rbac

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func roleBinding() *apis.Resource {
	return apis.Of[*rbacv1.RoleBinding]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "rolebindings", Singular: "rolebinding", Kind: "RoleBinding",
			Namespaced: true,
		},
		Version:             "v1",
		New:                 func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
		NewList:             func() runtime.Object { return &rbacv1.RoleBindingList{} },
		AllowCreateOnUpdate: true,
		ValidateName:        validateName,
		MetadataOnUpdate:    []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Default:             func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate:            validateRoleBinding,
		ValidateUpdate: func(ctx context.Context, b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validateRoleBinding(ctx, b), validateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
		},
		Columns: bindingColumns(rbacv1.RoleBinding{}.SwaggerDoc()),
		Cells:   func(b *rbacv1.RoleBinding) []any { return bindingCells(&b.ObjectMeta, b.RoleRef, b.Subjects) },
	}.Resource()
}

func validateRoleBinding(_ context.Context, b *rbacv1.RoleBinding) field.ErrorList {
	return validateBinding(b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
}
