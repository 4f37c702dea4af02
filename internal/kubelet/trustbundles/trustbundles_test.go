package trustbundles_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/kubelet/trustbundles"
)

// anchor makes the certificate of an authority, PEM.
func anchor(t *testing.T, serial int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func bundle(name, signer, color string, anchors ...string) *certificatesv1beta1.ClusterTrustBundle {
	return &certificatesv1beta1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"color": color}},
		Spec:       certificatesv1beta1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: strings.Join(anchors, "text between\n")},
	}
}

func TestAnchors(t *testing.T) {
	c := testcluster.StartServing(t, "certificates.k8s.io/v1beta1=true", "ClusterTrustBundle")
	ctx := t.Context()
	one, two, three := anchor(t, 1), anchor(t, 2), anchor(t, 3)
	for _, b := range []*certificatesv1beta1.ClusterTrustBundle{
		bundle("plain", "", "red", one, two),
		bundle("a.b:c:red", "a.b/c", "red", two, one),
		bundle("a.b:c:blue", "a.b/c", "blue", three, one),
		bundle("a.b:d:red", "a.b/d", "red", three),
	} {
		if err := c.Client.Create(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	node := c.Set(&identity.User{Name: identity.NodePrefix + "n", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}})
	changed := make(chan struct{}, 100)
	s := trustbundles.New(node.Cache, func() { changed <- struct{}{} })

	name := func(name string) *v1.ClusterTrustBundleProjection {
		return &v1.ClusterTrustBundleProjection{Name: &name}
	}
	signer := func(name string, selector *metav1.LabelSelector) *v1.ClusterTrustBundleProjection {
		return &v1.ClusterTrustBundleProjection{SignerName: &name, LabelSelector: selector}
	}
	optional := func(p *v1.ClusterTrustBundleProjection) *v1.ClusterTrustBundleProjection {
		p.Optional = ptr.To(true)
		return p
	}
	all := &metav1.LabelSelector{}
	red := &metav1.LabelSelector{MatchLabels: map[string]string{"color": "red"}}
	const none = "combination of signerName and labelSelector matched zero ClusterTrustBundles"
	for _, tt := range []struct {
		name string
		ask  *v1.ClusterTrustBundleProjection
		want []string
		err  string
	}{
		{"by name", name("plain"), []string{one, two}, ""},
		{"a signer's by name", name("a.b:d:red"), []string{three}, ""},
		{"missing", name("none"), nil, `while getting ClusterTrustBundle: clustertrustbundles.certificates.k8s.io "none" not found`},
		{"missing and optional", optional(name("none")), nil, ""},
		{"all of a signer", signer("a.b/c", all), []string{one, two, three}, ""},
		{"some of a signer", signer("a.b/c", red), []string{one, two}, ""},
		{"no selector selects nothing", signer("a.b/c", nil), nil, none},
		{"no selector and optional", optional(signer("a.b/c", nil)), nil, ""},
		{"unknown signer", signer("a.b/e", all), nil, none},
		{"unknown signer and optional", optional(signer("a.b/e", all)), nil, ""},
	} {
		got, err := s.Anchors(ctx, tt.ask)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if message != tt.err || !slices.Equal(sorted(string(got)), sorted(strings.Join(tt.want, ""))) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if again, _ := s.Anchors(ctx, tt.ask); !bytes.Equal(got, again) {
			t.Errorf("%s: in another order the next time", tt.name)
		}
	}

	drain := func() {
		for len(changed) > 0 {
			<-changed
		}
	}
	drain()
	next := bundle("plain", "", "red", three)
	if err := c.Client.Get(ctx, client.ObjectKeyFromObject(next), next); err != nil {
		t.Fatal(err)
	}
	next.Spec.TrustBundle = three
	if err := c.Client.Update(ctx, next); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("nobody was told of a change")
	}
	if got, err := s.Anchors(ctx, name("plain")); err != nil || string(got) != three {
		t.Errorf("after a change: %q, %v", got, err)
	}
}

// sorted returns the certificates in a text, in an order of their own.
func sorted(text string) []string {
	const end = "-----END CERTIFICATE-----\n"
	parts := strings.SplitAfter(text, end)
	slices.Sort(parts)
	return parts
}

// TestWithoutTheAPI shows that a pod learns why it cannot have its bundles.
func TestWithoutTheAPI(t *testing.T) {
	c := testcluster.Start(t)
	s := trustbundles.New(c.Set(identity.Loopback()).Cache, func() {})
	_, err := s.Anchors(t.Context(), &v1.ClusterTrustBundleProjection{Name: ptr.To("x")})
	if err == nil || !strings.HasPrefix(err.Error(), "following ClusterTrustBundles: ") {
		t.Errorf("got %v", err)
	}
}
