package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func roleBinding() *apis.Resource {
	return apis.Of[*rbacv1.RoleBinding]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "rolebindings", Singular: "rolebinding", Kind: "RoleBinding",
			Namespaced: true,
		},
		Version: "v1",
		New:     func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
		NewList: func() runtime.Object { return &rbacv1.RoleBindingList{} },
	}.Resource()
}
