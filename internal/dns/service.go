package dns

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// serviceName is the DNS Service's name in kube-system; it is the one that
// other software expects.
const serviceName = "kube-dns"

// EnsureService creates the Service through which pods reach DNS, with the
// given cluster addresses, unless there is one. It has no selector: every node
// adds its own server, and pods are sent to that of their own node.
func EnsureService(ctx context.Context, c ctrlclient.Client, ips []netip.Addr) error {
	if len(ips) == 0 {
		return fmt.Errorf("service %s: no cluster address given", serviceName)
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem,
			Name:      serviceName,
			Labels: map[string]string{
				"k8s-app":                       "kube-dns",
				"kubernetes.io/cluster-service": "true",
				"kubernetes.io/name":            "CoreDNS",
			},
		},
		Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
			ClusterIP:             ips[0].String(),
			InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyLocal),
		},
	}
	for _, ip := range ips {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	if len(ips) > 1 {
		s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	}
	err := c.Create(ctx, s)
	// What is wrong with a second one may be that the first has its addresses.
	if err != nil && c.Get(ctx, ctrlclient.ObjectKeyFromObject(s), &corev1.Service{}) != nil {
		return fmt.Errorf("create service %s: %w", serviceName, err)
	}
	return nil
}

// publish keeps this node's EndpointSlices of the Service as they should be.
func (s *Server) publish(ctx context.Context) error {
	again := make(chan struct{}, 1)
	s.index.follow(func(name types.NamespacedName) {
		for _, want := range s.slices(nil) {
			if want.Name == name.Name && want.Namespace == name.Namespace {
				select {
				case again <- struct{}{}:
				default:
				}
			}
		}
	})
	for {
		var retry <-chan time.Time
		if err := s.publishOnce(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("node's DNS server not published, trying again", "err", err)
			retry = time.After(retryDelay)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-retry:
		}
	}
}

func (s *Server) publishOnce(ctx context.Context) error {
	node := &corev1.Node{}
	if err := s.Client.Client.Get(ctx, types.NamespacedName{Name: s.NodeName}, node); err != nil {
		return err
	}
	for _, want := range s.slices(node) {
		have := &discoveryv1.EndpointSlice{}
		err := s.Client.Client.Get(ctx, ctrlclient.ObjectKeyFromObject(want), have)
		switch {
		case apierrors.IsNotFound(err):
			err = s.Client.Client.Create(ctx, want)
		case err == nil && !sameSlice(have, want):
			want.ResourceVersion = have.ResourceVersion
			err = s.Client.Client.Update(ctx, want)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences) &&
		equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) && equality.Semantic.DeepEqual(a.Ports, b.Ports)
}

// slices returns the EndpointSlices of this server, one for each IP family that
// it listens on. They belong to the Node and go with it.
func (s *Server) slices(node *corev1.Node) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, at := range s.Listen {
		family, name := discoveryv1.AddressTypeIPv4, serviceName+"-"+s.NodeName
		if at.Addr().Is6() {
			family, name = discoveryv1.AddressTypeIPv6, name+"-v6"
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: metav1.NamespaceSystem,
				Name:      name,
				Labels: map[string]string{
					discoveryv1.LabelServiceName: serviceName,
					discoveryv1.LabelManagedBy:   "skiff-dns",
				},
			},
			AddressType: family,
			Endpoints: []discoveryv1.Endpoint{{
				Addresses: []string{at.Addr().String()},
				NodeName:  ptr.To(s.NodeName),
				Conditions: discoveryv1.EndpointConditions{
					Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false),
				},
			}},
			Ports: []discoveryv1.EndpointPort{
				{Name: ptr.To("dns"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To(int32(at.Port()))},
				{Name: ptr.To("dns-tcp"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(at.Port()))},
			},
		}
		if node != nil {
			slice.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
		}
		out = append(out, slice)
	}
	return out
}
