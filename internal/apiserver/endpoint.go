package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/verbs"
)

// endpointOf picks a ready endpoint of the service's port, given by name or
// number; a service with one port needs none.
func (s *Server) endpointOf(ctx context.Context, service *corev1.Service, port string) (string, error) {
	var want *corev1.ServicePort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if (port == "" && len(service.Spec.Ports) == 1) || p.Name == port || strconv.Itoa(int(p.Port)) == port {
			want = p
			break
		}
	}
	if want == nil {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, service.Name))
	}
	slices := s.Verbs.Lookup(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"})
	list, err := s.Verbs.List(ctx, &verbs.Request{Version: slices.Versions[0], Namespace: service.Namespace}, &verbs.ListOptions{
		Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}), ResourceVersion: "0",
	})
	if err != nil {
		return "", err
	}
	var hosts []string
	for _, e := range list.Entries {
		obj, err := e.Object()
		if err != nil {
			return "", apierrors.NewInternalError(err)
		}
		slice := obj.(*discoveryv1.EndpointSlice)
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name != nil && *p.Name != want.Name) {
				continue
			}
			for _, ep := range slice.Endpoints {
				if ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
					continue
				}
				hosts = append(hosts, joinPort(ep.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	if len(hosts) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service.Name))
	}
	return hosts[rand.IntN(len(hosts))], nil
}
