package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func request(change func(*x509.CertificateRequest)) *x509.CertificateRequest {
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{nodeGroup}}}
	change(r)
	return r
}

func TestValidate(t *testing.T) {
	const clientAuth, serverAuth, sign, encipher = certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment
	usages := func(u ...certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return u }
	plain := func(*x509.CertificateRequest) {}
	withIP := func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }
	const kubelet, serving, client = certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientSignerName
	for _, test := range []struct {
		name     string
		signer   string
		change   func(*x509.CertificateRequest)
		usages   []certificatesv1.KeyUsage
		ours, ok bool
	}{
		{"kubelet client", kubelet, plain, usages(clientAuth, sign), true, true},
		{"kubelet client, RSA", kubelet, plain, usages(clientAuth, sign, encipher), true, true},
		{"kubelet client as server", kubelet, plain, usages(clientAuth, sign, serverAuth), true, false},
		{"kubelet client with address", kubelet, withIP, usages(clientAuth, sign), true, false},
		{"kubelet client of another group", kubelet, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }, usages(clientAuth, sign), true, false},
		{"kubelet client in two groups", kubelet, func(r *x509.CertificateRequest) { r.Subject.Organization = append(r.Subject.Organization, "x") }, usages(clientAuth, sign), true, false},
		{"kubelet client with another name", kubelet, func(r *x509.CertificateRequest) { r.Subject.CommonName = "admin" }, usages(clientAuth, sign), true, false},
		{"serving", serving, withIP, usages(serverAuth, sign), true, true},
		{"serving without address", serving, plain, usages(serverAuth, sign), true, false},
		{"client", client, func(r *x509.CertificateRequest) { r.Subject = pkix.Name{CommonName: "jane"} }, usages(clientAuth), true, true},
		{"client as server", client, plain, usages(serverAuth), true, false},
		{"anything", legacySigner, plain, usages(serverAuth), true, true},
		{"another's", "example.com/signer", plain, nil, false, true},
	} {
		if ours, err := validate(test.signer, request(test.change), test.usages); ours != test.ours || (err == nil) != test.ok {
			t.Errorf("%s: %v, %v", test.name, ours, err)
		}
	}
}

func TestExpiry(t *testing.T) {
	now := time.Unix(1e9, 0)
	at := func(age time.Duration, kinds ...certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequest {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-age))}}
		for _, k := range kinds {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: k, LastUpdateTime: metav1.NewTime(now.Add(-age))})
		}
		return r
	}
	signed := at(30*time.Minute, certificatesv1.CertificateApproved)
	signed.Status.Certificate = []byte("x")
	for _, test := range []struct {
		name string
		csr  *certificatesv1.CertificateSigningRequest
		want time.Duration
		ends bool
	}{
		{"pending", at(time.Hour), 23 * time.Hour, true},
		{"denied", at(2*time.Hour, certificatesv1.CertificateDenied), -time.Hour, true},
		{"approved, not signed yet", at(48*time.Hour, certificatesv1.CertificateApproved), 0, false},
		{"signed", signed, 30 * time.Minute, true},
	} {
		if got, ends := expiresIn(test.csr, now); ends != test.ends || ends && got != test.want {
			t.Errorf("%s: %s %t, want %s", test.name, got, ends, test.want)
		}
	}
}

func TestOwnNames(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}}}
	good := request(func(r *x509.CertificateRequest) {
		r.DNSNames, r.IPAddresses = []string{"a"}, []net.IP{net.IPv4(10, 0, 0, 1)}
	})
	if !ownNames(good, node) {
		t.Error("the node's own address is refused")
	}
	if ownNames(request(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 2)} }), node) {
		t.Error("another's address is accepted")
	}
}
