package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/identity"
)

// ensureKubernetesService makes the Service by which pods reach the API
// server, default/kubernetes, and points it at this server.
func (p *ControlPlane) ensureKubernetesService(ctx context.Context) error {
	c := p.Clients.Set(ctx, identity.Loopback()).Client
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
	ip := p.Config.ServiceCIDR.Masked().Addr().Next().String()
	service := &corev1.Service{ObjectMeta: meta}
	service.Labels = map[string]string{"component": "apiserver", "provider": "kubernetes"}
	service.Spec = corev1.ServiceSpec{
		ClusterIP: ip, ClusterIPs: []string{ip}, Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
		Ports: []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(p.Address.Port()))}},
	}
	if err := ensure(ctx, c, service, func(have *corev1.Service) bool {
		same := equality.Semantic.DeepEqual(have.Spec.Ports, service.Spec.Ports)
		have.Spec.Ports = service.Spec.Ports
		return same
	}); err != nil {
		return fmt.Errorf("the API server's Service: %w", err)
	}
	if p.Address.Addr().IsLoopback() {
		// Nothing but this machine could reach it, and the API refuses such
		// endpoints.
		return nil
	}
	address, port := p.Address.Addr().String(), int32(p.Address.Port())
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta,
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	if p.Address.Addr().Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "kubernetes"}
	if err := ensure(ctx, c, slice, func(have *discoveryv1.EndpointSlice) bool {
		same := equality.Semantic.DeepEqual(have.Endpoints, slice.Endpoints) && equality.Semantic.DeepEqual(have.Ports, slice.Ports)
		have.Endpoints, have.Ports = slice.Endpoints, slice.Ports
		return same
	}); err != nil {
		return fmt.Errorf("the API server's endpoint slice: %w", err)
	}
	endpoints := &corev1.Endpoints{
		ObjectMeta: meta,
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: address}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}},
		}},
	}
	endpoints.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	if err := ensure(ctx, c, endpoints, func(have *corev1.Endpoints) bool {
		same := equality.Semantic.DeepEqual(have.Subsets, endpoints.Subsets)
		have.Subsets = endpoints.Subsets
		return same
	}); err != nil {
		return fmt.Errorf("the API server's endpoints: %w", err)
	}
	return nil
}

// ensure creates want, or changes what exists with merge, which reports
// whether it was right already.
func ensure[T client.Object](ctx context.Context, c client.Client, want T, merge func(have T) bool) error {
	err := c.Create(ctx, want.DeepCopyObject().(T))
	if err == nil {
		return nil
	}
	// What is wrong with a second Service may be that the first has its address.
	have := want.DeepCopyObject().(T)
	if c.Get(ctx, client.ObjectKeyFromObject(want), have) != nil {
		return err
	}
	if merge(have) {
		return nil
	}
	return c.Update(ctx, have)
}
