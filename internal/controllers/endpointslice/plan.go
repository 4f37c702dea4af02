package endpointslice

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/endpoint"
	"skiff/internal/controllers/expect"
	"skiff/internal/controllers/pods"
)

// perSlice is the greatest number of endpoints in one slice.
const perSlice = 100

// changes are the writes that make the slices what they should be.
type changes = expect.Changes[*discoveryv1.EndpointSlice]

// group is all endpoints of one address family that have the same ports, and
// so may share slices.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints map[string]discoveryv1.Endpoint // by name
	slices    []*discoveryv1.EndpointSlice    // that exist
}

// plan compares the slices that exist with what the service's pods demand.
// zones knows the nodes that exist: pods on others are left out.
func plan(service *corev1.Service, all []corev1.Pod, zones map[string]string, existing []*discoveryv1.EndpointSlice) changes {
	groups := map[string]*group{}
	find := func(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *group {
		key := string(family) + portsKey(ports)
		if groups[key] == nil {
			groups[key] = &group{family: family, ports: ports, endpoints: map[string]discoveryv1.Endpoint{}}
		}
		return groups[key]
	}
	families := families(service)
	for i := range all {
		p := &all[i]
		zone, known := zones[p.Spec.NodeName]
		if !endpoint.Serves(p) || (p.Spec.NodeName != "" && !known) {
			continue
		}
		for _, family := range families {
			addresses := endpoint.Addresses(p, family == discoveryv1.AddressTypeIPv6)
			if len(addresses) > 0 {
				g := find(family, ports(service, p))
				g.endpoints[p.Name] = newEndpoint(service, p, addresses, zone)
			}
		}
	}
	var c changes
	for _, s := range existing {
		if slices.Contains(families, s.AddressType) {
			g := find(s.AddressType, s.Ports)
			g.slices = append(g.slices, s)
		} else {
			c.Remove = append(c.Remove, s)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		groups[key].plan(service, &c)
	}
	keepPlaceholders(service, families, existing, &c)
	reuse(&c)
	return c
}

// plan fills the group's slices: endpoints stay where they are, and new ones go
// first to slices that change anyway, then to new slices that they fill, then to
// one with room for all the rest.
func (g *group) plan(service *corev1.Service, c *changes) {
	slices.SortFunc(g.slices, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	placed := map[string]bool{}
	next := make([]*discoveryv1.EndpointSlice, len(g.slices))
	changed := make([]bool, len(g.slices))
	for i, s := range g.slices {
		n := newSlice(service, g.family, g.ports)
		n.ObjectMeta, changed[i] = mergeMeta(&s.ObjectMeta, &n.ObjectMeta)
		for _, e := range s.Endpoints {
			name := podName(&e)
			want, ok := g.endpoints[name]
			if !ok || placed[name] {
				changed[i] = true
				continue
			}
			placed[name] = true
			if byTopology(service) && *want.Conditions.Ready {
				want.Hints = e.Hints // Which are looked at when all places are known.
			}
			changed[i] = changed[i] || !apiequality.Semantic.DeepEqual(e, want)
			n.Endpoints = append(n.Endpoints, want)
		}
		next[i] = n
	}
	var rest []discoveryv1.Endpoint
	for _, name := range slices.Sorted(maps.Keys(g.endpoints)) {
		if !placed[name] {
			rest = append(rest, g.endpoints[name])
		}
	}
	fill := func(s *discoveryv1.EndpointSlice) {
		n := min(perSlice-len(s.Endpoints), len(rest))
		s.Endpoints = append(s.Endpoints, rest[:n]...)
		rest = rest[n:]
	}
	for i, s := range next {
		if changed[i] && len(rest) > 0 {
			fill(s)
		}
	}
	for len(rest) >= perSlice {
		s := newSlice(service, g.family, g.ports)
		fill(s)
		c.Create = append(c.Create, s)
	}
	for i, s := range next {
		if len(rest) > 0 && !changed[i] && perSlice-len(s.Endpoints) >= len(rest) {
			fill(s)
			changed[i] = true
		}
	}
	if len(rest) > 0 {
		s := newSlice(service, g.family, g.ports)
		fill(s)
		c.Create = append(c.Create, s)
	}
	for i, s := range next {
		switch {
		case len(s.Endpoints) == 0:
			c.Remove = append(c.Remove, g.slices[i])
		case changed[i]:
			c.Update = append(c.Update, s)
		}
	}
}

// keepPlaceholders leaves or makes one empty slice for a family that has none,
// so that readers can tell "no endpoints" from "not seen yet".
func keepPlaceholders(service *corev1.Service, families []discoveryv1.AddressType, existing []*discoveryv1.EndpointSlice, c *changes) {
	for _, family := range families {
		left := 0
		for _, s := range existing {
			if s.AddressType == family && !slices.Contains(c.Remove, s) {
				left++
			}
		}
		for _, s := range c.Create {
			if s.AddressType == family {
				left++
			}
		}
		if left > 0 {
			continue
		}
		empty := newSlice(service, family, nil)
		for i, s := range c.Remove {
			if s.AddressType == family && len(s.Endpoints) == 0 && len(s.Ports) == 0 {
				c.Remove = slices.Delete(c.Remove, i, i+1)
				meta, changed := mergeMeta(&s.ObjectMeta, &empty.ObjectMeta)
				if empty.ObjectMeta = meta; changed {
					c.Update = append(c.Update, empty)
				}
				empty = nil
				break
			}
		}
		if empty != nil {
			c.Create = append(c.Create, empty)
		}
	}
}

// reuse turns pairs of a removal and a creation into an update.
func reuse(c *changes) {
	var create []*discoveryv1.EndpointSlice
	for _, s := range c.Create {
		i := slices.IndexFunc(c.Remove, func(old *discoveryv1.EndpointSlice) bool { return old.AddressType == s.AddressType })
		if i < 0 {
			create = append(create, s)
			continue
		}
		s.ObjectMeta, _ = mergeMeta(&c.Remove[i].ObjectMeta, &s.ObjectMeta)
		c.Update = append(c.Update, s)
		c.Remove = slices.Delete(c.Remove, i, i+1)
	}
	c.Create = create
}

// mergeMeta returns old with the labels and owners that are wanted.
func mergeMeta(old, want *metav1.ObjectMeta) (metav1.ObjectMeta, bool) {
	merged := *old.DeepCopy()
	changed := !maps.Equal(old.Labels, want.Labels) || !apiequality.Semantic.DeepEqual(old.OwnerReferences, want.OwnerReferences)
	merged.Labels, merged.OwnerReferences = want.Labels, want.OwnerReferences
	return merged, changed
}

func newSlice(service *corev1.Service, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	labels := maps.Clone(service.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = managedBy
	if ports == nil {
		ports = []discoveryv1.EndpointPort{}
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       service.Namespace,
			GenerateName:    service.Name + "-",
			Labels:          labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(service, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: family,
		Ports:       ports,
		Endpoints:   []discoveryv1.Endpoint{},
	}
}

func newEndpoint(service *corev1.Service, p *corev1.Pod, addresses []string, zone string) discoveryv1.Endpoint {
	serving, terminating := pods.Ready(p), p.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: addresses,
		Conditions: discoveryv1.EndpointConditions{
			Ready:       ptr.To(service.Spec.PublishNotReadyAddresses || (serving && !terminating)),
			Serving:     &serving,
			Terminating: &terminating,
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		e.NodeName = ptr.To(p.Spec.NodeName)
	}
	if zone != "" {
		e.Zone = &zone
	}
	if hostname := endpoint.Hostname(p, service); hostname != "" {
		e.Hostname = &hostname
	}
	e.Hints = near(service, &e)
	return e
}

// ports resolves the service's ports at the pod; those that the pod has not are
// left out.
func ports(service *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	all := []discoveryv1.EndpointPort{}
	for i := range service.Spec.Ports {
		sp := &service.Spec.Ports[i]
		if number, ok := endpoint.TargetPort(p, sp); ok {
			all = append(all, discoveryv1.EndpointPort{Name: ptr.To(sp.Name), Port: &number, Protocol: ptr.To(sp.Protocol), AppProtocol: sp.AppProtocol})
		}
	}
	return all
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	keys := make([]string, len(ports))
	for i, p := range ports {
		keys[i] = fmt.Sprintf("|%s/%d/%s/%s", ptr.Deref(p.Name, ""), ptr.Deref(p.Port, 0), ptr.Deref(p.Protocol, ""), ptr.Deref(p.AppProtocol, ""))
	}
	slices.Sort(keys)
	return strings.Join(keys, "")
}

// families are the address families the service is for.
func families(service *corev1.Service) []discoveryv1.AddressType {
	var all []discoveryv1.AddressType
	for _, f := range service.Spec.IPFamilies {
		all = append(all, discoveryv1.AddressType(f))
	}
	if len(all) == 0 {
		all = append(all, discoveryv1.AddressTypeIPv4)
	}
	return all
}

// podName is empty for endpoints that are no pods: nothing wants those.
func podName(e *discoveryv1.Endpoint) string {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return ""
	}
	return e.TargetRef.Name
}
