package endpointslice

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc"},
		Spec: corev1.ServiceSpec{
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"a": "b"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}},
		},
	}
}

func pod(i int, port int32) corev1.Pod {
	name, ip := fmt.Sprintf("p%03d", i), fmt.Sprintf("10.0.%d.%d", i/256, i%256)
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}, {IP: "fd00::1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

func podsWith(n int, port int32) (all []corev1.Pod) {
	for i := range n {
		all = append(all, pod(i, port))
	}
	return all
}

// world applies plans as an API server would.
type world struct {
	slices map[string]*discoveryv1.EndpointSlice
	next   int
}

func (w *world) list() (all []*discoveryv1.EndpointSlice) {
	for _, s := range w.slices {
		all = append(all, s)
	}
	return all
}

func (w *world) apply(c changes) (writes int) {
	for _, s := range c.Remove {
		delete(w.slices, s.Name)
	}
	for _, s := range c.Update {
		w.slices[s.Name] = s
	}
	for _, s := range c.Create {
		w.next++
		s.Name = fmt.Sprintf("web-%d", w.next)
		w.slices[s.Name] = s
	}
	return len(c.Create) + len(c.Update) + len(c.Remove)
}

func (w *world) endpoints() (n int) {
	for _, s := range w.slices {
		n += len(s.Endpoints)
	}
	return n
}

var zones = map[string]string{"n": "zone"}

func TestPlan(t *testing.T) {
	w := &world{slices: map[string]*discoveryv1.EndpointSlice{}}
	s := service()
	step := func(what string, pods []corev1.Pod, writes, slices, endpoints int) {
		t.Helper()
		if got := w.apply(plan(s, pods, zones, w.list())); got != writes {
			t.Errorf("%s: %d writes, want %d", what, got, writes)
		}
		if len(w.slices) != slices || w.endpoints() != endpoints {
			t.Errorf("%s: %d endpoints in %d slices, want %d in %d", what, w.endpoints(), len(w.slices), endpoints, slices)
		}
		if got := w.apply(plan(s, pods, zones, w.list())); got != 0 {
			t.Errorf("%s: %d more writes for nothing", what, got)
		}
		for _, slice := range w.slices {
			if len(slice.Endpoints) > perSlice {
				t.Errorf("%s: %d endpoints in one slice", what, len(slice.Endpoints))
			}
		}
	}
	step("no pods: a placeholder", nil, 1, 1, 0)
	step("the first pods take its place", podsWith(50, 8080), 1, 1, 50)
	step("more than fit into one", podsWith(250, 8080), 2, 3, 250)
	step("one more goes where there is room", podsWith(251, 8080), 1, 3, 251)
	step("some go", podsWith(240, 8080), 2, 3, 240)
	mixed := append(podsWith(240, 8080)[1:], pod(0, 9090))
	step("another port needs a slice of its own", mixed, 2, 4, 240)
	unready := append([]corev1.Pod(nil), mixed...)
	unready[5].Status.Conditions = nil
	step("readiness changes one slice", unready, 1, 4, 240)
	s.Labels = map[string]string{"new": "label"}
	step("labels go to all", unready, 4, 4, 240)
	step("all pods go: one placeholder stays", nil, 4, 1, 0)
	s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol)
	step("a second family", podsWith(3, 8080), 2, 2, 6)
}

func TestEndpoint(t *testing.T) {
	s, p := service(), pod(1, 8080)
	e := newEndpoint(s, &p, []string{"10.0.0.1"}, "zone")
	if !*e.Conditions.Ready || !*e.Conditions.Serving || *e.Conditions.Terminating || *e.Zone != "zone" || *e.NodeName != "n" {
		t.Errorf("a ready pod: %+v", e)
	}
	p.DeletionTimestamp = &metav1.Time{}
	e = newEndpoint(s, &p, nil, "")
	if *e.Conditions.Ready || !*e.Conditions.Serving || !*e.Conditions.Terminating {
		t.Errorf("a terminating pod: %+v", e.Conditions)
	}
	s.Spec.PublishNotReadyAddresses = true
	p.Status.Conditions = nil
	e = newEndpoint(s, &p, nil, "")
	if !*e.Conditions.Ready || *e.Conditions.Serving {
		t.Errorf("published though not ready: %+v", e.Conditions)
	}
	s.Spec.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameZone)
	e = newEndpoint(s, &p, nil, "zone")
	if e.Hints == nil || e.Hints.ForZones[0].Name != "zone" {
		t.Errorf("no hints: %+v", e.Hints)
	}
}

func TestPodsOnMissingNodesAreLeftOut(t *testing.T) {
	c := plan(service(), podsWith(1, 8080), nil, nil)
	if len(c.Create) != 1 || len(c.Create[0].Endpoints) != 0 {
		t.Errorf("%+v", c.Create)
	}
}
