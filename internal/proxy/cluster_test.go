package proxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/network/nettest"
	"skiff/internal/proxy"
)

// TestWithAPIServer runs the proxy as a node does and measures how long the
// kernel lags behind the API.
func TestWithAPIServer(t *testing.T) {
	set := testcluster.Start(t).Set(identity.Loopback())
	node, pod := nettest.New(t), nettest.New(t)
	nettest.Cable(
		nettest.Link{NS: node, Name: "pods", Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}},
		nettest.Link{NS: pod, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/24"), netip.MustParsePrefix("10.244.1.3/24")}})
	node.Route(netip.MustParsePrefix("10.96.0.0/16"), netip.Addr{}, "pods")
	pod.ServeTCP("10.244.1.2:8080", "two")
	pod.ServeTCP("10.244.1.3:8080", "three")
	p := proxy.New(proxy.Config{
		NodeName: "here", NodeIPs: []netip.Addr{netip.MustParseAddr("10.244.1.1")}, Client: set,
		Log: slog.New(slog.DiscardHandler), NetNS: node.FD(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-p.Synced()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.77", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	must(set.Client.Create(ctx, svc))
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	must(set.Client.Create(ctx, slice))
	// Until the proxy knows of the Service, packets to it wait for an answer to
	// ARP; from then on connections are refused.
	for began := time.Now(); ; {
		_, _, err := node.Ask("tcp", "10.96.0.77:80")
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("got %v, want connection refused", err)
		}
	}
	var lags []time.Duration
	for i := range 20 {
		ip, want := "10.244.1.2", "two"
		if i%2 == 1 {
			ip, want = "10.244.1.3", "three"
		}
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{ip}}}
		began := time.Now()
		must(set.Client.Update(ctx, slice))
		for {
			who, _, err := node.Ask("tcp", "10.96.0.77:80")
			if who == want {
				break
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("got %q, %v; want %s", who, err, want)
			}
		}
		lags = append(lags, time.Since(began))
	}
	slices.Sort(lags)
	t.Logf("from write to packet: median %v, longest %v", lags[10], lags[19])
	must(set.Client.Delete(ctx, svc))
	for began := time.Now(); ; {
		if _, _, err := node.Ask("tcp", "10.96.0.77:80"); err != nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("a deleted service still answers")
		}
	}
}
