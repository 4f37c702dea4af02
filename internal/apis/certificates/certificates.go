// Package certificates declares the resources of the API group certificates.k8s.io.
package certificates

import "skiff/internal/apis"

// Resources returns fresh declarations of the group's resources.
func Resources() []*apis.Resource {
	return []*apis.Resource{
		certificateSigningRequest(),
		clusterTrustBundle(),
	}
}
