package dns_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/dns"
	"skiff/internal/identity"
	"skiff/internal/network/nettest"
)

// TestWithAPIServer runs the server as a node does.
func TestWithAPIServer(t *testing.T) {
	set := testcluster.Start(t).Set(identity.Loopback())
	ctx, cancel := context.WithCancel(context.Background())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	must(set.Client.Create(ctx, node))
	for range 2 {
		must(dns.EnsureService(ctx, set.Client, []netip.Addr{netip.MustParseAddr("10.96.0.10")}))
	}
	ns, peer := nettest.New(t), nettest.New(t)
	nettest.Cable(
		nettest.Link{NS: ns, Name: "bridge", Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}},
		nettest.Link{NS: peer, Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.244.1.2/24")}})
	at := netip.MustParseAddrPort("10.244.1.1:53")
	server := dns.New(dns.Config{NodeName: "n1", Listen: []netip.AddrPort{at}, Client: set, Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go ns.Do(func() { done <- server.Run(ctx) })
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-server.Ready():
	case err := <-done:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	conn, err := peer.Dial("udp", at.String())
	must(err)
	defer conn.Close()
	c := &mdns.Client{Timeout: 3 * time.Second}
	r, _, err := c.ExchangeWithConn(new(mdns.Msg).SetQuestion("kube-dns.kube-system.svc.cluster.local.", mdns.TypeA), &mdns.Conn{Conn: conn})
	must(err)
	if len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != "10.96.0.10" {
		t.Errorf("got %v", r)
	}

	// The node's server is an endpoint of the Service, and again after someone
	// has removed it.
	slice := &discoveryv1.EndpointSlice{}
	for range 2 {
		key := ctrlclient.ObjectKey{Namespace: "kube-system", Name: "kube-dns-n1"}
		for deadline := time.Now().Add(10 * time.Second); set.Client.Get(ctx, key, slice) != nil; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no EndpointSlice")
			}
		}
		if slice.Endpoints[0].Addresses[0] != "10.244.1.1" || *slice.Endpoints[0].NodeName != "n1" || slice.OwnerReferences[0].UID != node.UID {
			t.Errorf("got %+v", slice)
		}
		must(set.Client.Delete(ctx, slice))
	}
}
