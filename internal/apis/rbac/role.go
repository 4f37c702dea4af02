package rbac

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
)

func role() *apis.Resource {
	return apis.Of[*rbacv1.Role]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "roles", Singular: "role", Kind: "Role",
			Namespaced: true,
		},
		Version:             "v1",
		New:                 func() *rbacv1.Role { return &rbacv1.Role{} },
		NewList:             func() runtime.Object { return &rbacv1.RoleList{} },
		AllowCreateOnUpdate: true,
		ValidateName:        validateName,
		MetadataOnUpdate:    []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		Validate:            func(_ context.Context, r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	}.Resource()
}
