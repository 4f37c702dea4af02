package server

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery"

	"skiff/internal/cluster"
)

// schemas returns what reads the schemas that the API server publishes.
func schemas(p *cluster.ControlPlane) func() (resolver.SchemaResolver, error) {
	return func() (resolver.SchemaResolver, error) {
		config, err := p.RESTConfig(serviceAccount(metav1.NamespaceSystem, "validatingadmissionpolicy-status-controller"))
		if err != nil {
			return nil, err
		}
		client, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, err
		}
		return &resolver.ClientDiscoveryResolver{Discovery: client}, nil
	}
}
