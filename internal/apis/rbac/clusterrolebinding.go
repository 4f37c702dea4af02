package rbac

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func clusterRoleBinding() *apis.Resource {
	return apis.Of[*rbacv1.ClusterRoleBinding]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings", Singular: "clusterrolebinding", Kind: "ClusterRoleBinding",
		},
		Version:             "v1",
		New:                 func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
		NewList:             func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
		AllowCreateOnUpdate: true,
		ValidateName:        validateName,
		MetadataOnUpdate:    []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Default:             func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate:            validateClusterRoleBinding,
		ValidateUpdate: func(ctx context.Context, b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validateClusterRoleBinding(ctx, b), validateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
		},
		Columns: bindingColumns(rbacv1.ClusterRoleBinding{}.SwaggerDoc()),
		Cells:   func(b *rbacv1.ClusterRoleBinding) []any { return bindingCells(&b.ObjectMeta, b.RoleRef, b.Subjects) },
	}.Resource()
}

func validateClusterRoleBinding(_ context.Context, b *rbacv1.ClusterRoleBinding) field.ErrorList {
	return validateBinding(b.RoleRef, b.Subjects, false, "ClusterRole")
}
