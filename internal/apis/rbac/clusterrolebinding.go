package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
)

func clusterRoleBinding() *apis.Resource {
	return apis.Of[*rbacv1.ClusterRoleBinding]{
		Names: apis.Names{
			Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings", Singular: "clusterrolebinding", Kind: "ClusterRoleBinding",
		},
		Version: "v1",
		New:     func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
		NewList: func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	}.Resource()
}
