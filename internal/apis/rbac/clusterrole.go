package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func clusterRole() *apis.Resource {
	return apis.Of[*rbacv1.ClusterRole]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Singular: "clusterrole", Kind: "ClusterRole",
		},
		Version: "v1",
		New:     func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
		NewList: func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	}.Resource()
}
