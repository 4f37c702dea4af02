package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func role() *apis.Resource {
	return apis.Of[*rbacv1.Role]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "roles", Singular: "role", Kind: "Role",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *rbacv1.Role { return &rbacv1.Role{} },
		NewList: func() runtime.Object { return &rbacv1.RoleList{} },
	}.Resource()
}
