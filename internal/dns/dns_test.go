package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// freePort returns a port of the loopback address that is free for both
// protocols.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at := l.Addr().(*net.TCPAddr).AddrPort()
		p, err := net.ListenPacket("udp", at.String())
		l.Close()
		if err == nil {
			p.Close()
			return at
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

// start runs the server without a cluster: the test feeds the index itself.
func start(t *testing.T, c Config) (*Server, netip.AddrPort) {
	t.Helper()
	at := freePort(t)
	c.Listen, c.Log = []netip.AddrPort{at}, slog.New(slog.DiscardHandler)
	s := New(c)
	upstreams, err := s.upstreams()
	if err != nil {
		t.Fatal(err)
	}
	servers, stop, err := s.servers(upstreams)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	if err := serve(ctx, group, at, servers[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		stop()
	})
	return s, at
}

func ask(t *testing.T, network string, at netip.AddrPort, name string, typ uint16) *mdns.Msg {
	t.Helper()
	c := &mdns.Client{Net: network, Timeout: 3 * time.Second}
	m := new(mdns.Msg).SetQuestion(name, typ)
	r, _, err := c.Exchange(m, at.String())
	if err != nil {
		t.Fatalf("%s %s: %v", name, mdns.TypeToString[typ], err)
	}
	return r
}

// answers returns the records without their names and times.
func answers(m *mdns.Msg) string {
	if m.Rcode != mdns.RcodeSuccess {
		return mdns.RcodeToString[m.Rcode]
	}
	var out []string
	for _, rr := range m.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func fill(x *index) {
	x.namespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, false)
	http := []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	x.service(&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd00:96::7"}, Ports: http}}, false)
	x.service(&corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: http}}, false)
	x.service(&corev1.Service{ObjectMeta: meta("alias"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}}, false)
	x.service(&corev1.Service{ObjectMeta: meta("empty"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}}, false)
	x.slice(endpoints("db", "10.244.1.5", "10.244.1.6"), false)
	x.synced.Store(true)
}

func endpoints(service string, ips ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Hostname: ptr.To(fmt.Sprintf("db-%d", i))})
	}
	return s
}

func TestClusterNames(t *testing.T) {
	s, at := start(t, Config{})
	fill(s.index)
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web.default.svc.cluster.local.", mdns.TypeA, "10.96.0.7"},
		{"WEB.default.svc.Cluster.local.", mdns.TypeA, "10.96.0.7"},
		{"web.default.svc.cluster.local.", mdns.TypeAAAA, "fd00:96::7"},
		{"web.default.svc.cluster.local.", mdns.TypeMX, ""},
		{"_http._tcp.web.default.svc.cluster.local.", mdns.TypeSRV, "0 50 80 web.default.svc.cluster.local."},
		{"db.default.svc.cluster.local.", mdns.TypeA, "10.244.1.5, 10.244.1.6"},
		{"db-1.db.default.svc.cluster.local.", mdns.TypeA, "10.244.1.6"},
		{"_http._tcp.db.default.svc.cluster.local.", mdns.TypeSRV, "0 50 8080 db-0.db.default.svc.cluster.local., 0 50 8080 db-1.db.default.svc.cluster.local."},
		{"alias.default.svc.cluster.local.", mdns.TypeCNAME, "web.default.svc.cluster.local."},
		{"alias.default.svc.cluster.local.", mdns.TypeA, "10.96.0.7, web.default.svc.cluster.local."},
		{"empty.default.svc.cluster.local.", mdns.TypeA, "NXDOMAIN"},
		{"none.default.svc.cluster.local.", mdns.TypeA, "NXDOMAIN"},
		{"web.none.svc.cluster.local.", mdns.TypeA, "NXDOMAIN"},
		{"10-244-1-5.default.pod.cluster.local.", mdns.TypeA, "10.244.1.5"},
		{"7.0.96.10.in-addr.arpa.", mdns.TypePTR, "web.default.svc.cluster.local."},
		{"6.1.244.10.in-addr.arpa.", mdns.TypePTR, "db-1.db.default.svc.cluster.local."},
		{"dns-version.cluster.local.", mdns.TypeTXT, `"1.1.0"`},
		// There is nobody to ask about the rest.
		{"example.com.", mdns.TypeA, "SERVFAIL"},
		{"9.9.9.9.in-addr.arpa.", mdns.TypePTR, "SERVFAIL"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := answers(ask(t, network, at, c.name, c.typ)); got != c.want {
				t.Errorf("%s %s over %s: got %q, want %q", c.name, mdns.TypeToString[c.typ], network, got, c.want)
			}
		}
	}
}

func TestChangesShowAtOnce(t *testing.T) {
	s, at := start(t, Config{})
	fill(s.index)
	check := func(want string) {
		t.Helper()
		if got := answers(ask(t, "udp", at, "db.default.svc.cluster.local.", mdns.TypeA)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check("10.244.1.5, 10.244.1.6")
	original := endpoints("db", "10.244.1.9")
	s.index.slice(original, false)
	check("10.244.1.9")
	if len(original.Endpoints) != 1 || original.Name != "db-1" {
		t.Error("an object of the shared cache was changed")
	}
	if len(s.index.byAddress) != 1 {
		t.Errorf("stale addresses remain: %v", s.index.byAddress)
	}
	s.index.slice(original, true)
	check("NXDOMAIN")
	s.index.service(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}, true)
	if got := answers(ask(t, "udp", at, "web.default.svc.cluster.local.", mdns.TypeA)); got != "NXDOMAIN" {
		t.Errorf("a deleted service: got %q", got)
	}
}

func TestAnswersAreShuffled(t *testing.T) {
	s, at := start(t, Config{})
	fill(s.index)
	first := map[string]bool{}
	for range 60 {
		first[ask(t, "udp", at, "db.default.svc.cluster.local.", mdns.TypeA).Answer[0].(*mdns.A).A.String()] = true
	}
	if len(first) != 2 {
		t.Errorf("60 answers begin with %v", first)
	}
}

func TestNotSynced(t *testing.T) {
	_, at := start(t, Config{})
	if got := answers(ask(t, "udp", at, "web.default.svc.cluster.local.", mdns.TypeA)); got != "SERVFAIL" {
		t.Errorf("before the cluster's state is known: got %q, want SERVFAIL", got)
	}
}

func TestUpstream(t *testing.T) {
	upstream := freePort(t)
	asked := make(chan string, 100)
	server := &mdns.Server{Addr: upstream.String(), Net: "udp", Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
		asked <- r.Question[0].Name
		m := new(mdns.Msg).SetReply(r)
		rr, _ := mdns.NewRR(r.Question[0].Name + " 60 IN A 203.0.113.1")
		m.Answer = append(m.Answer, rr)
		_ = w.WriteMsg(m)
	})}
	listening := make(chan struct{})
	server.NotifyStartedFunc = func() { close(listening) }
	go func() { _ = server.ListenAndServe() }()
	<-listening
	defer func() { _ = server.Shutdown() }()

	s, at := start(t, Config{Upstreams: []netip.AddrPort{upstream}})
	fill(s.index)
	for range 3 {
		if got := answers(ask(t, "udp", at, "example.com.", mdns.TypeA)); got != "203.0.113.1" {
			t.Errorf("got %q", got)
		}
	}
	if n := len(asked); n != 1 {
		t.Errorf("the upstream was asked %d times for one name", n)
	}
	if got := answers(ask(t, "udp", at, "none.default.svc.cluster.local.", mdns.TypeA)); got != "NXDOMAIN" || len(asked) != 1 {
		t.Errorf("a name of the cluster: got %q, the upstream was asked %d times", got, len(asked))
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("search example.com\nnameserver 192.0.2.1\nnameserver 10.244.1.1\nnameserver 2001:db8::1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Config{ResolvConf: path, Listen: []netip.AddrPort{netip.MustParseAddrPort("10.244.1.1:53")}})
	got, err := s.upstreams()
	if want := "[192.0.2.1:53 [2001:db8::1]:53]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	s.ResolvConf = path + ".none"
	if _, err := s.upstreams(); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestPortInUse(t *testing.T) {
	_, at := start(t, Config{})
	s := New(Config{Listen: []netip.AddrPort{at}, Log: slog.New(slog.DiscardHandler)})
	servers, stop, err := s.servers(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	group, ctx := errgroup.WithContext(context.Background())
	if err := serve(ctx, group, at, servers[0]); err == nil {
		t.Error("two servers got the same address")
	}
}
