// Package rbac declares the resources of the API group rbac.authorization.k8s.io.
package rbac

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		clusterRoleBinding(),
		clusterRole(),
		roleBinding(),
		role(),
	}
}
