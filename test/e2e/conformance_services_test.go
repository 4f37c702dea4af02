//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

var serviceTypes = []conformant{
	{"[sig-network] Services should be able to change the type from ClusterIP to ExternalName", (*space).testClusterIPToExternalName},
	{"[sig-network] Services should be able to change the type from ExternalName to ClusterIP", (*space).testExternalNameToClusterIP},
	{"[sig-network] Services should be able to change the type from ExternalName to NodePort", (*space).testExternalNameToNodePort},
	{"[sig-network] Services should be able to change the type from NodePort to ExternalName", (*space).testNodePortToExternalName},
	{"[sig-network] Services should be able to create a functioning NodePort service", (*space).testNodePort},
	{"[sig-network] Services should be able to switch session affinity for NodePort service [LinuxOnly]", (*space).testNodePortAffinity},
	{"[sig-network] Services should be able to switch session affinity for service with type clusterIP [LinuxOnly]", (*space).testClusterIPAffinity},
	{"[sig-network] Services should complete a service status lifecycle", (*space).testServiceStatus},
	{"[sig-network] Services should delete a collection of services", (*space).testServiceCollection},
	{"[sig-network] Services should find a service from listing all namespaces", (*space).testServiceEverywhere},
}

var servicesResource = corev1.SchemeGroupVersion.WithResource("services")

// service makes a Service for pods with the label app=NAME, on port 80 for
// their port 8080.
func (s *space) service(name string, change func(*corev1.Service)) *corev1.Service {
	s.Helper()
	v := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if change != nil {
		change(v)
	}
	v, err := s.client.CoreV1().Services(s.ns).Create(s.Context(), v, metav1.CreateOptions{})
	s.ok(err)
	return v
}

// changeService updates a Service.
func (s *space) changeService(name string, change func(*corev1.Service)) *corev1.Service {
	s.Helper()
	var v *corev1.Service
	s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if v, err = s.client.CoreV1().Services(s.ns).Get(s.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		change(v)
		v, err = s.client.CoreV1().Services(s.ns).Update(s.Context(), v, metav1.UpdateOptions{})
		return err
	}))
	return v
}

// servers runs pods with the label that say their names on port 8080, and a
// client.
func (s *space) servers(app string, n int32) {
	s.Helper()
	s.replicaSet(app, n, func(rs *appsv1.ReplicaSet) { serving(&rs.Spec.Template) })
	s.startPod("client", template("client", idle))
	s.pods(app, int(n), isReady)
}

// asks waits until a command in the client says what is wanted.
func (s *space) asks(script string, wanted func(string) bool) string {
	s.Helper()
	var got string
	s.eventually(script, func(context.Context) (err error) {
		if got, err = s.exec("client", script); err == nil && !wanted(got) {
			err = fmt.Errorf("the answer is %q", got)
		}
		return err
	})
	return got
}

func get(where string) string { return "timeout 5 wget -qO- http://" + where + "/hostname" }

// addresses are where a Service answers: its name, its address, and for node
// ports each node.
func (s *space) addresses(v *corev1.Service) []string {
	s.Helper()
	port := v.Spec.Ports[0].Port
	out := []string{fmt.Sprintf("%s:%d", v.Name, port), fmt.Sprintf("%s:%d", v.Spec.ClusterIP, port)}
	if v.Spec.Type == corev1.ServiceTypeNodePort {
		list, err := s.client.CoreV1().Nodes().List(s.Context(), metav1.ListOptions{})
		s.ok(err)
		for _, n := range list.Items {
			out = append(out, fmt.Sprintf("%s:%d", n.Status.Addresses[0].Address, v.Spec.Ports[0].NodePort))
		}
	}
	return out
}

// reachable demands that a Service answers wherever it should.
func (s *space) reachable(v *corev1.Service) {
	s.Helper()
	for _, where := range s.addresses(v) {
		s.asks(get(where), func(got string) bool { return strings.HasPrefix(got, v.Name+"-") })
	}
}

func external(v *corev1.Service) {
	v.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "target." + v.Namespace + ".svc.cluster.local"}
}

// isExternal demands that a Service is only a name any more, and resolves.
func (s *space) isExternal(v *corev1.Service) {
	s.Helper()
	s.condition("it has no address", v.Spec.ClusterIP == "" && len(v.Spec.ClusterIPs) == 0 && v.Spec.Ports == nil, v.Spec)
	target, err := s.client.CoreV1().Services(s.ns).Get(s.Context(), "target", metav1.GetOptions{})
	s.ok(err)
	s.asks("nslookup "+v.Name+"."+s.ns+".svc.cluster.local", func(got string) bool { return strings.Contains(got, target.Spec.ClusterIP) })
}

func (s *space) testClusterIPToExternalName() {
	s.startPod("client", template("client", idle))
	s.service("target", nil)
	v := s.service("changed", nil)
	s.condition("it has an address", v.Spec.ClusterIP != "", v.Spec)
	s.isExternal(s.changeService("changed", external))
}

func (s *space) testNodePortToExternalName() {
	s.startPod("client", template("client", idle))
	s.service("target", nil)
	v := s.service("changed", func(v *corev1.Service) { v.Spec.Type = corev1.ServiceTypeNodePort })
	port := v.Spec.Ports[0].NodePort
	s.condition("it has a node port", port != 0, v.Spec)
	s.isExternal(s.changeService("changed", external))
	// The port is free for others.
	s.service("other", func(v *corev1.Service) {
		v.Spec.Type = corev1.ServiceTypeNodePort
		v.Spec.Ports[0].NodePort = port
	})
}

// fromExternal makes a Service that is a name only, and changes its type.
func (s *space) fromExternal(kind corev1.ServiceType) *corev1.Service {
	s.Helper()
	s.servers("changed", 2)
	s.service("changed", func(v *corev1.Service) {
		v.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "clusterip.example.com"}
	})
	v := s.changeService("changed", func(v *corev1.Service) {
		v.Spec.Type, v.Spec.ExternalName = kind, ""
		v.Spec.Selector = map[string]string{"app": "changed"}
		v.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}}
	})
	s.condition("it has an address", v.Spec.ClusterIP != "" && v.Spec.ClusterIP != corev1.ClusterIPNone, v.Spec)
	return v
}

func (s *space) testExternalNameToClusterIP() {
	s.reachable(s.fromExternal(corev1.ServiceTypeClusterIP))
}

func (s *space) testExternalNameToNodePort() {
	v := s.fromExternal(corev1.ServiceTypeNodePort)
	s.condition("it has a node port", v.Spec.Ports[0].NodePort != 0, v.Spec)
	s.reachable(v)
}

func (s *space) testNodePort() {
	s.servers("port", 2)
	s.reachable(s.service("port", func(v *corev1.Service) { v.Spec.Type = corev1.ServiceTypeNodePort }))
}

// sticks waits until a client that asks often is always, or is not always,
// answered by the same pod.
func (s *space) sticks(where string, sticks bool) {
	s.Helper()
	s.asks(strings.Repeat(get(where)+" && echo && ", 15)+"true", func(got string) bool {
		names := strings.Fields(got)
		slices.Sort(names)
		return len(names) == 15 && (len(slices.Compact(names)) == 1) == sticks
	})
}

// affinity switches a Service's session affinity on and off.
func (s *space) affinity(kind corev1.ServiceType) {
	s.Helper()
	s.servers("sticky", 3)
	v := s.service("sticky", func(v *corev1.Service) {
		v.Spec.Type, v.Spec.SessionAffinity = kind, corev1.ServiceAffinityClientIP
	})
	s.reachable(v)
	addresses := s.addresses(v)
	where := addresses[len(addresses)-1]
	s.sticks(where, true)
	for _, affinity := range []corev1.ServiceAffinity{corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP} {
		s.changeService("sticky", func(v *corev1.Service) { v.Spec.SessionAffinity = affinity })
		s.sticks(where, affinity == corev1.ServiceAffinityClientIP)
	}
}

func (s *space) testNodePortAffinity()  { s.affinity(corev1.ServiceTypeNodePort) }
func (s *space) testClusterIPAffinity() { s.affinity(corev1.ServiceTypeClusterIP) }

func (s *space) testServiceStatus() {
	w := s.watch(s.of(servicesResource), map[string]string{"test-service-static": "true"})
	labels := map[string]string{"test-service-static": "true"}
	s.service("status", func(v *corev1.Service) {
		v.Labels = labels
		v.Spec.Type = corev1.ServiceTypeLoadBalancer
		v.Spec.LoadBalancerClass = new("example.com/nobody")
	})
	is := func(what string, kind watch.EventType, wanted func(*unstructured.Unstructured) bool) {
		s.Helper()
		w.until(what, func(e watch.Event) bool {
			obj, ok := e.Object.(*unstructured.Unstructured)
			return ok && e.Type == kind && wanted(obj)
		})
	}
	is("it is made", watch.Added, func(*unstructured.Unstructured) bool { return true })
	var v corev1.Service
	s.get(servicesResource, "status", &v, "status")
	s.condition("nobody gives it an address", len(v.Status.LoadBalancer.Ingress) == 0, v.Status)
	s.patch(servicesResource, "status", `{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}`, "status")
	is("the status is patched", watch.Modified, func(obj *unstructured.Unstructured) bool {
		ingress, _, _ := unstructured.NestedSlice(obj.Object, "status", "loadBalancer", "ingress")
		return obj.GetAnnotations()["patchedstatus"] == "true" && len(ingress) == 1
	})
	s.update(servicesResource, "status", func(obj map[string]any) error {
		return unstructured.SetNestedSlice(obj, []any{map[string]any{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}}, "status", "conditions")
	}, "status")
	is("the status is updated", watch.Modified, func(obj *unstructured.Unstructured) bool {
		conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
		return len(conditions) == 1
	})
	s.patch(servicesResource, "status", `{"metadata":{"labels":{"test-service":"patched"}}}`)
	is("it is patched", watch.Modified, func(obj *unstructured.Unstructured) bool { return obj.GetLabels()["test-service"] == "patched" })
	s.ok(s.client.CoreV1().Services(s.ns).Delete(s.Context(), "status", metav1.DeleteOptions{}))
	is("it is deleted", watch.Deleted, func(*unstructured.Unstructured) bool { return true })
}

func (s *space) testServiceCollection() {
	for i, set := range []string{"true", "true", "false"} {
		s.service(fmt.Sprintf("collected-%d", i), func(v *corev1.Service) { v.Labels = map[string]string{"collect-" + s.ns: set} })
	}
	list, err := s.client.CoreV1().Services(s.ns).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	s.condition("three are listed", len(list.Items) == 3, list)
	s.collection(servicesResource, 2, "collect-"+s.ns+"=true")
	list, err = s.client.CoreV1().Services(s.ns).List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	s.condition("one is left", len(list.Items) == 1, list)
}

func (s *space) testServiceEverywhere() {
	list, err := s.client.CoreV1().Services("").List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	s.condition("the API's service is there", slices.ContainsFunc(list.Items, func(v corev1.Service) bool {
		return v.Name == "kubernetes" && v.Namespace == "default"
	}), list)
}

var serviceEndpoints = []conformant{
	{"[sig-network] API Server should have Endpoints and EndpointSlices pointing to API Server", (*space).testAPIEndpoints},
	{"[sig-network] API Server should provide secure master service", (*space).testAPIService},
	{"[sig-network] EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service", (*space).testSlicesOfPods},
	{"[sig-network] EndpointSlice should create and delete EndpointSlices for a Service with a selector that matches no pods", (*space).testEmptySlices},
	{"[sig-network] EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices", (*space).testSlicesByHandAddresses},
	{"[sig-network] EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices", (*space).testSlicesByHandPorts},
	{"[sig-network] EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete", (*space).testMirroring},
	{"[sig-network] Endpoints should test the lifecycle of an Endpoint", (*space).testEndpointsLifecycle},
	{"[sig-network] EndpointsController should create Endpoints for Pods matching a Service", (*space).testEndpointsOfPods},
	{"[sig-network] EndpointsController should create and delete Endpoints for a Service with a selector that matches no pods", (*space).testEmptyEndpoints},
	{"[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service Proxy", (*space).testProxyRoot},
	{"[sig-network] Proxy version v1 A set of valid responses are returned for both pod and service ProxyWithPath", (*space).testProxyPath},
	{"[sig-network] Proxy version v1 should proxy through a service and a pod", (*space).testProxyPorts},
	{"[sig-network] Service endpoints latency should not be very high", (*space).testEndpointsLatency},
	{"[sig-network] Services should serve a basic endpoint from pods", (*space).testBasicEndpoint},
	{"[sig-network] Services should serve endpoints on same port and different protocols", (*space).testProtocols},
	{"[sig-network] Services should serve multiport endpoints from pods", (*space).testMultiport},
}

// endpoints waits until a Service's Endpoints and EndpointSlices have the ports
// of each of these pods, and nothing else.
func (s *space) endpoints(name string, want map[string][]int32) {
	s.Helper()
	byIP := map[string][]int32{}
	for pod, ports := range want {
		p, err := s.client.CoreV1().Pods(s.ns).Get(s.Context(), pod, metav1.GetOptions{})
		s.ok(err)
		byIP[p.Status.PodIP] = ports
	}
	same := func(got map[string][]int32) error {
		for _, ports := range got {
			slices.Sort(ports)
		}
		if fmt.Sprint(got) != fmt.Sprint(byIP) {
			return fmt.Errorf("they are %v, not %v", got, byIP)
		}
		return nil
	}
	s.eventually("the Endpoints of "+name, func(ctx context.Context) error {
		e, err := s.client.CoreV1().Endpoints(s.ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got := map[string][]int32{}
		for _, subset := range e.Subsets {
			for _, a := range subset.Addresses {
				for _, p := range subset.Ports {
					got[a.IP] = append(got[a.IP], p.Port)
				}
			}
		}
		return same(got)
	})
	s.eventually("the EndpointSlices of "+name, func(ctx context.Context) error {
		l, err := s.client.DiscoveryV1().EndpointSlices(s.ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
		if err != nil {
			return err
		}
		got := map[string][]int32{}
		for _, slice := range l.Items {
			for _, e := range slice.Endpoints {
				for _, p := range slice.Ports {
					if e.Conditions.Ready == nil || *e.Conditions.Ready {
						got[e.Addresses[0]] = append(got[e.Addresses[0]], *p.Port)
					}
				}
			}
		}
		return same(got)
	})
}

// server starts a pod that answers on the ports, with names for them.
func (s *space) server(name, app string, ports map[string]int32) {
	s.Helper()
	t := template(app, "")
	serving(&t)
	c := &t.Spec.Containers[0]
	c.Command, c.Ports = []string{"testserver"}, nil
	for name, port := range ports {
		c.Command = append(c.Command, fmt.Sprintf("http:%d", port))
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: name, ContainerPort: port})
	}
	s.startPod(name, t)
}

func (s *space) testAPIService() {
	v, err := s.client.CoreV1().Services("default").Get(s.Context(), "kubernetes", metav1.GetOptions{})
	s.ok(err)
	s.condition("it is for HTTPS", len(v.Spec.Ports) == 1 && v.Spec.Ports[0].Port == 443 && v.Spec.Ports[0].Name == "https", v.Spec)
}

func (s *space) testAPIEndpoints() {
	e, err := s.client.CoreV1().Endpoints("default").Get(s.Context(), "kubernetes", metav1.GetOptions{})
	s.ok(err)
	l, err := s.client.DiscoveryV1().EndpointSlices("default").List(s.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
	s.ok(err)
	if len(e.Subsets) != 1 || len(l.Items) != 1 || len(l.Items[0].Endpoints) != len(e.Subsets[0].Addresses) {
		s.Fatalf("%s and %s", text(e.Subsets), text(l.Items))
	}
	s.condition("both name the same place", e.Subsets[0].Addresses[0].IP == l.Items[0].Endpoints[0].Addresses[0] && e.Subsets[0].Ports[0].Port == *l.Items[0].Ports[0].Port && e.Subsets[0].Ports[0].Name == "https", l.Items)
	got, err := fetchAPI(s, fmt.Sprintf("https://%s:%d/readyz", e.Subsets[0].Addresses[0].IP, e.Subsets[0].Ports[0].Port))
	s.ok(err)
	s.condition("it answers there", got == "ok", got)
}

// Two Services, for a named port and for a number, of pods that differ in it.
func (s *space) testSlicesOfPods() {
	s.server("one", "pods", map[string]int32{"http": 3000})
	s.server("two", "pods", map[string]int32{"http": 3001})
	s.service("named", func(v *corev1.Service) {
		v.Spec.Selector = map[string]string{"app": "pods"}
		v.Spec.Ports[0].TargetPort = intstr.FromString("http")
	})
	s.service("numbered", func(v *corev1.Service) {
		v.Spec.Selector = map[string]string{"app": "pods"}
		v.Spec.Ports[0].TargetPort = intstr.FromInt32(3000)
		v.Spec.PublishNotReadyAddresses = true
	})
	s.endpoints("named", map[string][]int32{"one": {3000}, "two": {3001}})
	s.endpoints("numbered", map[string][]int32{"one": {3000}, "two": {3000}})
	l, err := s.client.DiscoveryV1().EndpointSlices(s.ns).List(s.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=named"})
	s.ok(err)
	for _, slice := range l.Items {
		s.condition("the slice is the Service's and says who keeps it", slice.Labels["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io" && owner(&slice) == "Service/named", slice)
		for _, e := range slice.Endpoints {
			s.condition("the endpoint says where it is", e.NodeName != nil && e.TargetRef != nil && e.TargetRef.Kind == "Pod" && *e.Conditions.Serving && !*e.Conditions.Terminating, e)
		}
	}
	e, err := s.client.CoreV1().Endpoints(s.ns).Get(s.Context(), "named", metav1.GetOptions{})
	s.ok(err)
	s.condition("the Endpoints have the Service's labels", e.Labels["app"] == "named", e)
}

func (s *space) testEndpointsOfPods() {
	s.service("pods", nil)
	s.server("one", "pods", map[string]int32{"http": 8080})
	s.endpoints("pods", map[string][]int32{"one": {8080}})
	s.deletePod("one")
	s.endpoints("pods", nil)
}

// emptyOf demands that a Service without pods has endpoints, if empty ones, and
// that they go with it.
func (s *space) emptyOf(list func(context.Context) (int, error)) {
	s.Helper()
	has := func(want int) {
		s.Helper()
		s.eventually(fmt.Sprintf("there are %d", want), func(ctx context.Context) error {
			got, err := list(ctx)
			if err == nil && got != want {
				err = fmt.Errorf("there are %d", got)
			}
			return err
		})
	}
	s.service("empty", nil)
	has(1)
	s.ok(s.client.CoreV1().Services(s.ns).Delete(s.Context(), "empty", metav1.DeleteOptions{}))
	has(0)
}

func (s *space) testEmptySlices() {
	s.emptyOf(func(ctx context.Context) (int, error) {
		l, err := s.client.DiscoveryV1().EndpointSlices(s.ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=empty"})
		return len(l.Items), err
	})
}

func (s *space) testEmptyEndpoints() {
	s.emptyOf(func(ctx context.Context) (int, error) {
		l, err := s.client.CoreV1().Endpoints(s.ns).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=empty"})
		return len(l.Items), err
	})
}

// sliceByHand makes an EndpointSlice that no controller keeps.
func (s *space) sliceByHand(name, pod, port string, number int32) {
	s.Helper()
	p, err := s.client.CoreV1().Pods(s.ns).Get(s.Context(), pod, metav1.GetOptions{})
	s.ok(err)
	s.create(fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
endpoints: [{addresses: [%s]}]
ports: [{name: %s, port: %d, protocol: TCP}]
`, name, p.Status.PodIP, port, number))
}

func manual(v *corev1.Service) {
	v.Spec.Selector = nil
	v.Spec.Ports = []corev1.ServicePort{{Name: "first", Port: 80}, {Name: "second", Port: 81}}
}

// says waits until the Service, asked through a port, gives a pod's name.
func (s *space) says(where, pod string) {
	s.Helper()
	s.asks(get(where), func(got string) bool { return got == pod })
}

func (s *space) testSlicesByHandAddresses() {
	s.startPod("client", template("client", idle))
	s.server("one", "servers", map[string]int32{"http": 8080})
	s.server("two", "servers", map[string]int32{"http": 9090})
	s.service("manual", manual)
	s.sliceByHand("manual-one", "one", "first", 8080)
	s.sliceByHand("manual-two", "two", "second", 9090)
	s.says("manual:80", "one")
	s.says("manual:81", "two")
}

func (s *space) testSlicesByHandPorts() {
	s.startPod("client", template("client", idle))
	s.server("one", "servers", map[string]int32{"first": 8080, "second": 9090})
	s.service("manual", manual)
	s.sliceByHand("manual-first", "one", "first", 8080)
	s.sliceByHand("manual-second", "one", "second", 9090)
	s.says("manual:80", "one")
	s.says("manual:81", "one")
	s.asks("timeout 5 wget -qO- http://manual:81/", func(got string) bool { return got == "http 9090 GET /" })
}

func (s *space) testMirroring() {
	s.service("mirrored", func(v *corev1.Service) { v.Spec.Selector = nil })
	ip := func(address string) *corev1.Endpoints {
		return &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Name: "mirrored"},
			Subsets:    []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: address}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}},
		}
	}
	mirrors := func(want string) {
		s.Helper()
		s.eventually("the mirror is of "+want, func(ctx context.Context) error {
			l, err := s.client.DiscoveryV1().EndpointSlices(s.ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=mirrored"})
			got := ""
			for _, slice := range l.Items {
				if len(slice.Endpoints) == 1 && len(slice.Ports) == 1 && *slice.Ports[0].Port == 80 && slice.Labels["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io" {
					got = slice.Endpoints[0].Addresses[0]
				}
			}
			if err == nil && (got != want || want == "" && len(l.Items) > 0) {
				err = fmt.Errorf("the slices are %s", text(l.Items))
			}
			return err
		})
	}
	endpoints := s.client.CoreV1().Endpoints(s.ns)
	_, err := endpoints.Create(s.Context(), ip("10.1.2.3"), metav1.CreateOptions{})
	s.ok(err)
	mirrors("10.1.2.3")
	_, err = endpoints.Update(s.Context(), ip("10.2.3.4"), metav1.UpdateOptions{})
	s.ok(err)
	mirrors("10.2.3.4")
	s.ok(endpoints.Delete(s.Context(), "mirrored", metav1.DeleteOptions{}))
	mirrors("")
}

func (s *space) testEndpointsLifecycle() {
	r := corev1.SchemeGroupVersion.WithResource("endpoints")
	w := s.watch(s.of(r), map[string]string{"test-endpoint-static": "true"})
	is := func(kind watch.EventType, wanted func(*corev1.Endpoints) bool) {
		s.Helper()
		w.until(string(kind), func(e watch.Event) bool {
			obj, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type != kind {
				return false
			}
			var got corev1.Endpoints
			s.get(r, obj.GetName(), &got)
			return wanted(&got)
		})
	}
	all := func(*corev1.Endpoints) bool { return true }
	s.create(`
apiVersion: v1
kind: Endpoints
metadata: {name: life, labels: {test-endpoint-static: "true"}}
subsets: [{addresses: [{ip: 10.0.0.24}], ports: [{name: http, port: 80, protocol: TCP}]}]
`)
	is(watch.Added, all)
	s.update(r, "life", func(obj map[string]any) error {
		return unstructured.SetNestedField(obj, "updated", "metadata", "labels", "test-service")
	})
	is(watch.Modified, func(e *corev1.Endpoints) bool { return e.Labels["test-service"] == "updated" })
	_, err := s.client.CoreV1().Endpoints(s.ns).Patch(s.Context(), "life", types.StrategicMergePatchType,
		[]byte(`{"metadata":{"labels":{"test-service":"patched"}},"subsets":[{"addresses":[{"ip":"10.0.0.25"}],"ports":[{"name":"http-test","port":8080}]}]}`), metav1.PatchOptions{})
	s.ok(err)
	is(watch.Modified, func(e *corev1.Endpoints) bool {
		return e.Labels["test-service"] == "patched" && len(e.Subsets) == 1 && e.Subsets[0].Addresses[0].IP == "10.0.0.25" && e.Subsets[0].Ports[0].Port == 8080
	})
	list, err := s.client.CoreV1().Endpoints("").List(s.Context(), metav1.ListOptions{LabelSelector: "test-endpoint-static=true"})
	s.ok(err)
	s.condition("it is listed", len(list.Items) == 1, list)
	s.ok(s.client.CoreV1().Endpoints(s.ns).DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "test-endpoint-static=true"}))
	w.until("it is deleted", func(e watch.Event) bool { return e.Type == watch.Deleted })
	_, err = s.client.CoreV1().Endpoints(s.ns).Get(s.Context(), "life", metav1.GetOptions{})
	s.condition("it is gone", apierrors.IsNotFound(err), err)
}

func (s *space) testBasicEndpoint() {
	s.startPod("client", template("client", idle))
	v := s.service("basic", nil)
	s.endpoints("basic", nil)
	s.server("basic-1", "basic", map[string]int32{"http": 8080})
	s.endpoints("basic", map[string][]int32{"basic-1": {8080}})
	s.reachable(v)
	s.server("basic-2", "basic", map[string]int32{"http": 8080})
	s.endpoints("basic", map[string][]int32{"basic-1": {8080}, "basic-2": {8080}})
	s.reachable(v)
	s.deletePod("basic-1")
	s.endpoints("basic", map[string][]int32{"basic-2": {8080}})
	s.reachable(v)
	s.deletePod("basic-2")
	s.endpoints("basic", nil)
}

func (s *space) testMultiport() {
	s.startPod("client", template("client", idle))
	v := s.service("multi", func(v *corev1.Service) {
		v.Spec.Ports = []corev1.ServicePort{{Name: "one", Port: 80, TargetPort: intstr.FromString("one")}, {Name: "two", Port: 81, TargetPort: intstr.FromString("two")}}
	})
	s.endpoints("multi", nil)
	s.server("multi-1", "multi", map[string]int32{"one": 100})
	s.endpoints("multi", map[string][]int32{"multi-1": {100}})
	s.server("multi-2", "multi", map[string]int32{"two": 101})
	s.endpoints("multi", map[string][]int32{"multi-1": {100}, "multi-2": {101}})
	s.says(v.Spec.ClusterIP+":80", "multi-1")
	s.says(v.Spec.ClusterIP+":81", "multi-2")
	s.deletePod("multi-1")
	s.endpoints("multi", map[string][]int32{"multi-2": {101}})
	s.deletePod("multi-2")
	s.endpoints("multi", nil)
}

func (s *space) testProtocols() {
	client := template("client", idle)
	client.Spec.Containers[0].Image = serverImage
	s.startPod("client", client)
	t := template("both", "")
	serving(&t)
	t.Spec.Containers[0].Command = []string{"testserver", "http:8080", "udp:8080"}
	s.startPod("both", t)
	ports := []corev1.ServicePort{
		{Name: "tcp", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)},
		{Name: "udp", Port: 80, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(8080)},
	}
	v := s.service("both", func(v *corev1.Service) { v.Spec.Ports = ports })
	tcp := "timeout 5 wget -qO- http://" + v.Spec.ClusterIP + "/hostname || echo refused"
	udp := "testserver ask:" + v.Spec.ClusterIP + ":80 2>/dev/null || echo refused"
	is := func(script, want string) {
		s.Helper()
		s.asks(script, func(got string) bool { return got == want })
	}
	is(tcp, "both")
	is(udp, "both")
	s.changeService("both", func(v *corev1.Service) { v.Spec.Ports = ports[:1] })
	is(udp, "refused")
	is(tcp, "both")
	s.changeService("both", func(v *corev1.Service) { v.Spec.Ports = ports[1:] })
	is(tcp, "refused")
	is(udp, "both")
}

// Half of the endpoints of a Service's pod are there soon after it.
func (s *space) testEndpointsLatency() {
	s.server("latency", "latency", map[string]int32{"http": 8080})
	w := s.watch(s.of(corev1.SchemeGroupVersion.WithResource("endpoints")), nil)
	const services = 100
	made := map[string]time.Time{}
	for i := range services {
		name := fmt.Sprintf("latency-%d", i)
		made[name] = time.Now()
		s.service(name, func(v *corev1.Service) { v.Spec.Selector = map[string]string{"app": "latency"} })
	}
	var took []time.Duration
	w.until("all have endpoints", func(e watch.Event) bool {
		obj, _ := e.Object.(*unstructured.Unstructured)
		subsets, _, _ := unstructured.NestedSlice(obj.Object, "subsets")
		if began, ok := made[obj.GetName()]; ok && len(subsets) > 0 {
			took = append(took, time.Since(began))
			delete(made, obj.GetName())
		}
		return len(made) == 0
	})
	slices.Sort(took)
	if took[services/2] > 20*time.Second || took[services*9/10] > 50*time.Second {
		s.Errorf("the median is %v, of nine in ten %v", took[services/2], took[services*9/10])
	}
}
