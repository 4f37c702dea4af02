package x509_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"

	"skiff/internal/apiserver/authn/requestheader"
	authnx509 "skiff/internal/apiserver/authn/x509"
	"skiff/internal/cluster/pki"
)

func request(certs ...*x509.Certificate) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: certs}
	return r
}

func bundle(t *testing.T) *pki.Bundle {
	t.Helper()
	b, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClientCertificate(t *testing.T) {
	b := bundle(t)
	a := &authnx509.Authenticator{Roots: b.CA.Pool(), Clock: clock.RealClock{}}
	kubelet, serving, err := b.Kubelet("n1", netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}

	u, err := a.Authenticate(request(kubelet.Certificate().Leaf))
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "system:node:n1" || !slices.Equal(u.Groups, []string{"system:nodes", "system:authenticated"}) {
		t.Errorf("got %+v", u)
	}
	if id := u.Extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "X509SHA256=") || len(id[0]) != len("X509SHA256=")+64 {
		t.Errorf("credential id %q", id)
	}

	if u, err := a.Authenticate(httptest.NewRequest("GET", "/", nil)); u != nil || err != nil {
		t.Errorf("without a certificate: %v, %v", u, err)
	}
	if u, err := a.Authenticate(request(b.FrontProxyClient.Certificate().Leaf)); u != nil || err == nil {
		t.Errorf("of another authority: %v, %v", u, err)
	}
	if u, err := a.Authenticate(request(serving.Certificate().Leaf)); u != nil || err == nil {
		t.Errorf("a serving certificate: %v, %v", u, err)
	}
	other := bundle(t)
	u, err = a.Authenticate(request(other.Admin.Certificate().Leaf))
	if u != nil || err == nil || !strings.HasPrefix(err.Error(), `verifying certificate "CN=kubernetes-admin,O=system:masters" issued by "CN=kubernetes-ca" failed: x509: `) {
		t.Errorf("of another cluster: %v, %v", u, err)
	}
}

func TestCertificatesEnd(t *testing.T) {
	b := bundle(t)
	leaf := b.Admin.Certificate().Leaf
	c := testingclock.NewFakePassiveClock(leaf.NotAfter.Add(-time.Second))
	a := &authnx509.Authenticator{Roots: b.CA.Pool(), Clock: c}
	for range 2 {
		if u, err := a.Authenticate(request(leaf)); err != nil || u.Name != "kubernetes-admin" {
			t.Fatalf("got %v, %v", u, err)
		}
	}
	c.SetTime(leaf.NotAfter.Add(time.Second))
	if u, err := a.Authenticate(request(leaf)); u != nil || err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got %v, %v", u, err)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	bundle, err := pki.Open(pki.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	a := &authnx509.Authenticator{Roots: bundle.CA.Pool(), Clock: clock.RealClock{}}
	r := request(bundle.Admin.Certificate().Leaf)
	for b.Loop() {
		if _, err := a.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFrontProxy(t *testing.T) {
	b := bundle(t)
	a := &requestheader.Authenticator{
		Roots: b.FrontProxyCA.Pool(), AllowedNames: []string{"front-proxy-client"}, Headers: requestheader.Headers{}.WithDefaults(), Clock: clock.RealClock{},
	}
	proxied := func(leaf *x509.Certificate) *http.Request {
		r := request(leaf)
		r.Header.Set("X-Remote-User", "alice")
		r.Header.Add("X-Remote-Group", "devs")
		r.Header.Add("X-Remote-Group", "admins")
		r.Header.Set("X-Remote-Uid", "42")
		r.Header.Add("X-Remote-Extra-Acme.com%2fproject", "one")
		return r
	}
	r := proxied(b.FrontProxyClient.Certificate().Leaf)
	u, err := a.Authenticate(r)
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "alice" || u.UID != "42" || !slices.Equal(u.Groups, []string{"devs", "admins", "system:authenticated"}) ||
		!slices.Equal(u.Extra["acme.com/project"], []string{"one"}) {
		t.Errorf("got %+v", u)
	}
	for header := range r.Header {
		if strings.HasPrefix(header, "X-Remote-") {
			t.Errorf("%s is still there", header)
		}
	}
	// A user's own certificate gives nobody the right to name another user.
	if u, err := a.Authenticate(proxied(b.Admin.Certificate().Leaf)); u != nil || err == nil {
		t.Errorf("got %v, %v", u, err)
	}
	if u, err := a.Authenticate(request(b.FrontProxyClient.Certificate().Leaf)); u != nil || err != nil {
		t.Errorf("without headers: %v, %v", u, err)
	}
	a.AllowedNames = []string{"somebody"}
	if u, err := a.Authenticate(proxied(b.FrontProxyClient.Certificate().Leaf)); u != nil || err == nil {
		t.Errorf("a proxy that is not allowed: %v, %v", u, err)
	}
}
