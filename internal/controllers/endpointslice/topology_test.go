package endpointslice_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/endpointslice"
)

// TestTopologyMode has the endpoints of a service divided by the CPUs of two
// zones, and what becomes of that when nodes come and go.
func TestTopologyMode(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("endpointslice-controller", endpointslice.New)
	status := func(o *corev1.Node) {
		if err := c.Client.Status().Update(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	node := func(name, zone, cpu string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if zone != "" {
			n.Labels = map[string]string{corev1.LabelTopologyZone: zone}
		}
		c.Create(n)
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		status(n)
		return n
	}
	node("a", "a", "1")
	node("b", "b", "1")
	labels := map[string]string{"app": "web"}
	for i := range 4 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), Labels: labels},
			Spec: corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		c.Create(p)
		p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprint("10.0.0.", i+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := c.Client.Status().Update(context.Background(), p); err != nil {
			t.Fatal(err)
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{corev1.AnnotationTopologyMode: "Auto"}},
		Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80}}, TrafficDistribution: ptr.To(corev1.ServiceTrafficDistributionPreferSameNode)}}
	c.Create(service)
	hinted := func(what string, want map[string]int) {
		t.Helper()
		c.Eventually(what, &discoveryv1.EndpointSliceList{}, func() bool {
			var list discoveryv1.EndpointSliceList
			c.List(&list)
			got, endpoints := map[string]int{}, 0
			for _, s := range list.Items {
				for _, e := range s.Endpoints {
					endpoints++
					if e.Hints == nil {
						continue
					}
					for _, z := range e.Hints.ForZones {
						got[z.Name]++
					}
					for _, n := range e.Hints.ForNodes {
						got["node "+n.Name]++
					}
				}
			}
			return endpoints == 4 && maps.Equal(got, want)
		})
	}
	said := func(reason, message string, times int32) {
		t.Helper()
		c.Eventually(message, &corev1.EventList{}, func() bool {
			var list corev1.EventList
			c.List(&list)
			var n int32
			for _, e := range list.Items {
				if e.Reason == reason && strings.HasPrefix(e.Message, message) && e.InvolvedObject.Name == "web" && e.Source.Component == "endpoint-slice-controller" {
					n += e.Count
				}
			}
			return n == times
		})
	}
	hinted("half for each zone", map[string]int{"a": 2, "b": 2})
	said("TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled, addressType: IPv4", 1)
	more := node("b2", "b", "6")
	hinted("most for the zone that has most", map[string]int{"a": 1, "b": 3})
	unknown := node("u", "", "1")
	hinted("none while the zone of a node is not known", map[string]int{})
	said("TopologyAwareHintsDisabled", "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4", 1)
	// A node that is not ready does not count.
	unknown = controllertest.Get(c, "", unknown.Name, unknown)
	unknown.Status.Conditions[0].Status = corev1.ConditionFalse
	status(unknown)
	hinted("and again", map[string]int{"a": 1, "b": 3})
	said("TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled, addressType: IPv4", 2)
	c.Delete(more)
	hinted("half for each zone again", map[string]int{"a": 2, "b": 2})
	node("c", "c", "1")
	hinted("three zones cannot share four", map[string]int{})
	said("TopologyAwareHintsDisabled", "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones), addressType: IPv4", 1)
	controllertest.Change(c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" })
	hinted("those that run the cluster do not count", map[string]int{"a": 2, "b": 2})
	controllertest.Change(c, service, func(s *corev1.Service) { s.Annotations = nil })
	hinted("what it says of its traffic counts then", map[string]int{"a": 4, "node a": 4})
	said("TopologyAwareHintsDisabled", "Topology Aware Hints has been disabled, addressType: IPv4", 1)
	controllertest.Change(c, service, func(s *corev1.Service) { s.Spec.TrafficDistribution = nil })
	hinted("nothing is said any more", map[string]int{})
}
