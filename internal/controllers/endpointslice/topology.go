package endpointslice

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/controllers/controller"
)

// topology knows the CPUs of each zone, and which services divide their
// endpoints by them.
type topology struct {
	mu    sync.Mutex
	nodes map[string]capacity
	// zones are the CPUs of all, in thousandths; incomplete is the number of nodes
	// of which the zone or the CPUs are not known.
	zones      map[string]int64
	incomplete int
	services   map[types.NamespacedName]map[discoveryv1.AddressType]*division
}

type capacity struct {
	zone string
	cpu  int64
}

func (c capacity) complete() bool { return c.zone != "" && c.cpu > 0 }

// division is how a service's endpoints are divided: the hints for each zone, or
// none for a reason that has been told.
type division struct {
	hints   map[string]int
	problem string
}

func newTopology() *topology {
	return &topology{nodes: map[string]capacity{}, zones: map[string]int64{}, services: map[types.NamespacedName]map[discoveryv1.AddressType]*division{}}
}

// capacityOf is what a node adds to its zone; ok is false for nodes that no
// endpoints are expected on.
func capacityOf(n *corev1.Node) (c capacity, ok bool) {
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		if _, excluded := n.Labels[label]; excluded {
			return c, false
		}
	}
	ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return capacity{n.Labels[corev1.LabelTopologyZone], n.Status.Allocatable.Cpu().MilliValue()}, ready
}

// set takes in a node, nil if it is gone. It returns the services that are to be
// divided anew: those that do not fit their zones any more, and those that were
// not divided.
func (t *topology) set(name string, n *corev1.Node) (concerned []types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next capacity
	counts := false
	if n != nil {
		next, counts = capacityOf(n)
	}
	old, counted := t.nodes[name]
	if counted == counts && (!counts || old == next) {
		return nil
	}
	if counted {
		t.add(old, -1)
		delete(t.nodes, name)
	}
	if counts {
		t.add(next, 1)
		t.nodes[name] = next
	}
	shares := t.shares()
	for key, families := range t.services {
		for _, d := range families {
			if d.problem != "" || overloaded(d.hints, shares) {
				concerned = append(concerned, key)
				break
			}
		}
	}
	return concerned
}

func (t *topology) add(c capacity, by int) {
	if !c.complete() {
		t.incomplete += by
		return
	}
	t.zones[c.zone] += int64(by) * c.cpu
	if t.zones[c.zone] == 0 {
		delete(t.zones, c.zone)
	}
}

// shares are the zones' parts of all CPUs; none if they are not known, or there
// is but one zone. t.mu is held.
func (t *topology) shares() map[string]float64 {
	if t.incomplete > 0 || len(t.zones) < 2 {
		return nil
	}
	var total int64
	for _, cpu := range t.zones {
		total += cpu
	}
	shares := map[string]float64{}
	for zone, cpu := range t.zones {
		shares[zone] = float64(cpu) / float64(total)
	}
	return shares
}

// forget drops a service, and reports whether it had hints.
func (t *topology) forget(service types.NamespacedName) (hinted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	hinted = t.hinted(service)
	delete(t.services, service)
	return hinted
}

func (t *topology) hinted(service types.NamespacedName) bool {
	for _, d := range t.services[service] {
		if d.problem == "" {
			return true
		}
	}
	return false
}

// news is an Event about a service.
type news struct{ kind, reason, message string }

func disabled(family discoveryv1.AddressType, why string) news {
	return news{corev1.EventTypeWarning, "TopologyAwareHintsDisabled", fmt.Sprintf("%s, addressType: %s", why, family)}
}

// hint adds the hints of a service that is divided to the changes of its slices.
// It returns what is to be said of that, once.
func (t *topology) hint(service *corev1.Service, existing []*discoveryv1.EndpointSlice, c *changes) (said []news) {
	key, all := controller.Key(service), families(service)
	if !byTopology(service) {
		if t.forget(key) {
			said = append(said, disabled(all[0], "Topology Aware Hints has been disabled"))
		}
		return said
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	shares, before := t.shares(), t.services[key]
	hinted := t.hinted(key)
	t.services[key] = map[discoveryv1.AddressType]*division{}
	for _, family := range all {
		d := divideFamily(c, shares, family, existing)
		t.services[key][family] = d
		switch was := before[family]; {
		case d.problem != "" && (was == nil || was.problem != d.problem):
			said = append(said, disabled(family, d.problem))
		case d.problem == "" && !hinted:
			hinted = true
			said = append(said, news{corev1.EventTypeNormal, "TopologyAwareHintsEnabled", fmt.Sprintf("Topology Aware Hints has been enabled, addressType: %s", family)})
		}
	}
	return said
}

// divideFamily gives hints to the endpoints of one family.
func divideFamily(c *changes, shares map[string]float64, family discoveryv1.AddressType, existing []*discoveryv1.EndpointSlice) *division {
	of := func(all []*discoveryv1.EndpointSlice) (own []*discoveryv1.EndpointSlice) {
		for _, s := range all {
			if s.AddressType == family {
				own = append(own, s)
			}
		}
		return own
	}
	named := func(all []*discoveryv1.EndpointSlice, name string) bool {
		return slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool { return s.Name == name })
	}
	kept := slices.DeleteFunc(of(existing), func(s *discoveryv1.EndpointSlice) bool { return named(c.Update, s.Name) || named(c.Remove, s.Name) })
	more, hints, problem := divide(shares, slices.Concat(of(c.Create), of(c.Update)), kept)
	for _, s := range more {
		at := slices.IndexFunc(kept, func(k *discoveryv1.EndpointSlice) bool { return k.Name == s.Name })
		if !apiequality.Semantic.DeepEqual(s, kept[at]) {
			c.Update = append(c.Update, s)
		}
	}
	return &division{hints, problem}
}
