package service_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client"
	"skiff/internal/cloud/local"
	"skiff/internal/cloud/service"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

type lab struct {
	*testing.T
	client.Set
}

// start runs the controller with the local provider against an API server.
func start(t *testing.T) *lab {
	l := &lab{T: t, Set: testcluster.Start(t).Set(identity.Loopback())}
	c := service.New(service.Config{
		Client: l.Set, Log: slog.New(slog.DiscardHandler),
		Balancer: &local.Balancer{Reader: l.Cache, Reserved: map[local.Port]string{{Protocol: corev1.ProtocolTCP, Number: 6443}: "the API server"}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) node(name, ip string, ready corev1.ConditionStatus) {
	l.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	err := l.Client.Create(context.Background(), n)
	if apierrors.IsAlreadyExists(err) {
		err = l.Client.Get(context.Background(), ctrlclient.ObjectKeyFromObject(n), n)
	}
	l.must(err)
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	l.must(l.Client.Status().Update(context.Background(), n))
}

func (l *lab) service(name string, port int32, change ...func(*corev1.Service)) *corev1.Service {
	l.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: port}}},
	}
	for _, c := range change {
		c(s)
	}
	l.must(l.Client.Create(context.Background(), s))
	return s
}

// ingress waits until the Service has the wanted addresses.
func (l *lab) ingress(s *corev1.Service, want string) {
	l.Helper()
	var got string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		l.must(l.Client.Get(context.Background(), ctrlclient.ObjectKeyFromObject(s), s))
		var ips []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			ips = append(ips, in.IP)
		}
		if got = strings.Join(ips, " "); got == want {
			return
		}
	}
	l.Fatalf("service %s has the addresses %q, want %q", s.Name, got, want)
}

// event waits for an event about the Service that contains text.
func (l *lab) event(s *corev1.Service, text string) {
	l.Helper()
	var events corev1.EventList
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		l.must(l.Client.List(context.Background(), &events, ctrlclient.InNamespace(s.Namespace)))
		for _, e := range events.Items {
			if e.InvolvedObject.Name == s.Name && strings.Contains(e.Message, text) {
				return
			}
		}
	}
	l.Errorf("no event about %s says %q: %v", s.Name, text, events.Items)
}

func TestNodesAddresses(t *testing.T) {
	l := start(t)
	l.node("a", "192.0.2.1", corev1.ConditionTrue)
	l.node("b", "192.0.2.2", corev1.ConditionFalse)
	s := l.service("web", 80)
	l.ingress(s, "192.0.2.1")
	l.event(s, "Ensured load balancer")
	l.node("b", "192.0.2.2", corev1.ConditionTrue)
	l.ingress(s, "192.0.2.1 192.0.2.2")
	l.node("a", "192.0.2.1", corev1.ConditionUnknown)
	l.ingress(s, "192.0.2.2")

	s.Spec.Type = corev1.ServiceTypeClusterIP
	for _, p := range s.Spec.Ports {
		p.NodePort = 0
	}
	l.must(l.Client.Update(context.Background(), s))
	l.ingress(s, "")
	l.gone(s, func() bool { return len(s.Finalizers) == 0 })
}

// gone waits until the Service is as done says, or not there.
func (l *lab) gone(s *corev1.Service, done func() bool) {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		err := l.Client.Get(context.Background(), ctrlclient.ObjectKeyFromObject(s), s)
		if apierrors.IsNotFound(err) || err == nil && done() {
			return
		}
	}
	l.Fatalf("service %s keeps its finalizers %v", s.Name, s.Finalizers)
}

func TestPortsAreNotShared(t *testing.T) {
	l := start(t)
	l.node("a", "192.0.2.1", corev1.ConditionTrue)
	first := l.service("first", 80)
	l.ingress(first, "192.0.2.1")
	second := l.service("second", 80)
	l.event(second, "service default/first has port 80/TCP of the nodes")
	l.ingress(second, "")
	udp := l.service("udp", 80, func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })
	l.ingress(udp, "192.0.2.1")
	reserved := l.service("reserved", 6443)
	l.event(reserved, "the nodes need port 6443/TCP for the API server")
	l.must(l.Client.Delete(context.Background(), first))
	l.ingress(second, "192.0.2.1")
	l.gone(first, func() bool { return false })
}

func TestOtherClass(t *testing.T) {
	l := start(t)
	l.node("a", "192.0.2.1", corev1.ConditionTrue)
	other := l.service("other", 80, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/other") })
	l.ingress(l.service("web", 80), "192.0.2.1")
	l.must(l.Client.Get(context.Background(), ctrlclient.ObjectKeyFromObject(other), other))
	if len(other.Finalizers)+len(other.Status.LoadBalancer.Ingress) != 0 {
		t.Errorf("a service of another class was touched: %v %v", other.Finalizers, other.Status)
	}
}

func TestLocalTraffic(t *testing.T) {
	l := start(t)
	l.node("a", "192.0.2.1", corev1.ConditionTrue)
	l.node("b", "192.0.2.2", corev1.ConditionTrue)
	s := l.service("web", 80, func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	l.event(s, "no ready node can serve it")
	l.must(l.Client.Create(context.Background(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.2.5"}, NodeName: ptr.To("b")}},
	}))
	l.ingress(s, "192.0.2.2")
}
