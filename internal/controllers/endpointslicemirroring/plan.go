package endpointslicemirroring

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/expect"
)

// capacity is the greatest number of endpoints in one slice; of a subset no
// more are copied.
const capacity = 1000

type changes = expect.Changes[*discoveryv1.EndpointSlice]

// group is what goes into one slice: endpoints of one family with equal ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// plan returns what to do so that the slices say what the Endpoints say.
func plan(e *corev1.Endpoints, existing []*discoveryv1.EndpointSlice) (c changes) { //nolint:staticcheck // SA1019: the API is served
	wanted := groups(e)
	for _, s := range existing {
		k := key(s.AddressType, s.Ports)
		g, ok := wanted[k]
		if !ok {
			c.Remove = append(c.Remove, s)
			continue
		}
		delete(wanted, k)
		next := s.DeepCopy()
		next.Labels, next.Annotations, next.Endpoints = labels(e), annotations(e), g.endpoints
		if !maps.Equal(s.Labels, next.Labels) || !maps.Equal(s.Annotations, next.Annotations) || !apiequality.Semantic.DeepEqual(s.Endpoints, next.Endpoints) {
			c.Update = append(c.Update, next)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(wanted)) {
		g := wanted[k]
		c.Create = append(c.Create, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: e.Namespace, GenerateName: e.Name + "-", Labels: labels(e), Annotations: annotations(e),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
			},
			AddressType: g.family, Ports: g.ports, Endpoints: g.endpoints,
		})
	}
	return c
}

func key(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	text := string(family)
	for _, p := range ports {
		text += fmt.Sprintf(" %s %s/%d %s", ptr.Deref(p.Name, ""), ptr.Deref(p.Protocol, corev1.ProtocolTCP), ptr.Deref(p.Port, 0), ptr.Deref(p.AppProtocol, ""))
	}
	return text
}

func groups(e *corev1.Endpoints) map[string]*group { //nolint:staticcheck // SA1019: the API is served
	all := map[string]*group{}
	for i := range e.Subsets {
		subset := &e.Subsets[i]
		var ports []discoveryv1.EndpointPort
		for _, p := range subset.Ports {
			ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
		}
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			for j := range addresses {
				a := &addresses[j]
				ip, err := netip.ParseAddr(a.IP)
				if err != nil {
					continue
				}
				family := discoveryv1.AddressTypeIPv4
				if ip.Is6() {
					family = discoveryv1.AddressTypeIPv6
				}
				k := key(family, ports)
				if all[k] == nil {
					all[k] = &group{family: family, ports: ports}
				}
				if g := all[k]; len(g.endpoints) < capacity {
					g.endpoints = append(g.endpoints, endpoint(a, ready))
				}
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
	}
	return all
}

func endpoint(a *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: a.NodeName, TargetRef: a.TargetRef,
	}
	if a.Hostname != "" {
		e.Hostname = &a.Hostname
	}
	return e
}
