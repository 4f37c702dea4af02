// Package endpoint finds where connections to a Service go. The API server
// reaches Services (webhooks, extension API servers, the proxy subresource)
// by their ready endpoints, so that it needs no service proxy beside it.
package endpoint

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
)

// Resolver reads Services and their endpoints from the server's own state.
type Resolver struct{ verbs *verbs.Server }

// New returns a resolver over what server serves.
func New(server *verbs.Server) *Resolver { return &Resolver{server} }

// Resolve returns the host and port of one ready endpoint of a port, given by
// name or number, of the named Service. Errors are API errors.
func (r *Resolver) Resolve(ctx context.Context, namespace, name, port string) (string, error) {
	services := r.verbs.Lookup(schema.GroupResource{Resource: "services"})
	e, err := r.verbs.Get(ctx, &verbs.Request{Version: services.Versions[0], Namespace: namespace, Name: name}, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "service"}, name)
		err.(*apierrors.StatusError).ErrStatus.Message = fmt.Sprintf("service %q not found", name)
	}
	if err != nil {
		return "", err
	}
	obj, err := e.Object()
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	return r.Of(ctx, obj.(*corev1.Service), port)
}

// Of returns the host and port of one ready endpoint of the service's port,
// given by name or number; a service with one port needs none.
func (r *Resolver) Of(ctx context.Context, service *corev1.Service, port string) (string, error) {
	want := portOf(service, port)
	if want == nil {
		if _, err := strconv.ParseInt(port, 10, 32); err != nil {
			port = strconv.Quote(port)
		}
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %s found for service %q", port, service.Name))
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(want.Port))), nil
	}
	hosts, err := r.ready(ctx, service, want)
	if err != nil {
		return "", err
	}
	if len(hosts) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service.Name))
	}
	return hosts[rand.IntN(len(hosts))], nil
}

func portOf(service *corev1.Service, port string) *corev1.ServicePort {
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if (port == "" && len(service.Spec.Ports) == 1) || p.Name == port || strconv.Itoa(int(p.Port)) == port {
			return p
		}
	}
	return nil
}

func (r *Resolver) ready(ctx context.Context, service *corev1.Service, port *corev1.ServicePort) ([]string, error) {
	slices := r.verbs.Lookup(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"})
	list, err := r.verbs.List(ctx, &verbs.Request{Version: slices.Versions[0], Namespace: service.Namespace}, &verbs.ListOptions{
		Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}), ResourceVersion: "0",
	})
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, e := range list.Entries {
		obj, err := e.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		hosts = appendReady(hosts, obj, port.Name)
	}
	return hosts, nil
}

// appendReady appends the addresses in a slice that serve the named port.
func appendReady(hosts []string, obj apis.Object, port string) []string {
	slice := obj.(*discoveryv1.EndpointSlice)
	for _, p := range slice.Ports {
		if p.Port == nil || (p.Name != nil && *p.Name != port) {
			continue
		}
		for _, ep := range slice.Endpoints {
			if len(ep.Addresses) > 0 && (ep.Conditions.Ready == nil || *ep.Conditions.Ready) {
				hosts = append(hosts, net.JoinHostPort(ep.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return hosts
}
