package csr_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/csr"
	"skiff/internal/identity"
)

// ask makes a request for a certificate and returns it with the key, PEM.
func ask(t *testing.T, name, signer string, template *x509.CertificateRequest, usages ...certificatesv1.KeyUsage) (*certificatesv1.CertificateSigningRequest, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages,
	}}, encoded
}

// cluster is an API server with the controller.
type cluster struct {
	*controllertest.Cluster
	t *testing.T
}

func start(t *testing.T) cluster {
	c := controllertest.Start(t)
	c.Run("certificate-controller", func(d controller.Deps) (controller.Runnable, error) {
		return csr.New(d, csr.Options{Signer: c.PKI.CA})
	})
	return cluster{c, t}
}

func (c cluster) approve(r *certificatesv1.CertificateSigningRequest) {
	c.t.Helper()
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"})
	if err := c.Client.SubResource("approval").Update(c.t.Context(), r); err != nil {
		c.t.Fatal(err)
	}
}

// settled waits until the request has a certificate or a condition of the kind.
func (c cluster) settled(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) (condition certificatesv1.CertificateSigningRequestCondition) {
	c.t.Helper()
	c.Wait(c.t, "the request "+r.Name, &certificatesv1.CertificateSigningRequestList{}, func() bool {
		controllertest.Get(c.Cluster, "", r.Name, r)
		for _, condition = range r.Status.Conditions {
			if condition.Type == kind {
				return true
			}
		}
		return len(r.Status.Certificate) > 0
	})
	return condition
}

// TestClientCertificate is the way of a user to a certificate: the request, its
// approval, and a client that is known by the name in it.
func TestClientCertificate(t *testing.T) {
	c := start(t)
	r, key := ask(t, "jane", certificatesv1.KubeAPIServerClientSignerName,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"devs"}}},
		certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth)
	r.Spec.ExpirationSeconds = ptr.To[int32](3600)
	c.Create(r)
	c.approve(r)
	c.settled(r, certificatesv1.CertificateFailed)
	certificates, err := cert.ParseCertsPEM(r.Status.Certificate)
	if err != nil || len(certificates) != 1 {
		t.Fatalf("the certificate: %v, %v", certificates, err)
	}
	if life := certificates[0].NotAfter.Sub(certificates[0].NotBefore); life > time.Hour+5*time.Minute || life < time.Hour {
		t.Errorf("it lasts for %s, an hour was asked for", life)
	}
	config := rest.AnonymousClientConfig(c.Config)
	config.CertData, config.KeyData = r.Status.Certificate, key
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	who, err := kube.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "jane" || who.Status.UserInfo.Groups[0] != "devs" {
		t.Errorf("the server knows the client as %v, %v", who, err)
	}
}

// TestSigners demands that each signer of the cluster's own signs and approves
// only what is meant for it.
func TestSigners(t *testing.T) {
	c := start(t)
	nodes := pkix.Name{CommonName: identity.NodePrefix + "n", Organization: []string{identity.GroupNodes}}
	node := c.Set(&identity.User{Name: identity.NodePrefix + "n", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}})
	bootstrapper := c.Set(&identity.User{Name: "system:bootstrap:abc", Groups: []string{identity.GroupBootstrappers, identity.GroupAuthenticated}})
	clientUsages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	serverUsages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}

	failed, _ := ask(t, "failed", certificatesv1.KubeAPIServerClientSignerName, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, serverUsages...)
	c.Create(failed)
	c.approve(failed)
	if got := c.settled(failed, certificatesv1.CertificateFailed); got.Reason != "SignerValidationFailure" || got.Message != "invalid usage for client certificate: server auth" || got.Status != corev1.ConditionTrue {
		t.Errorf("a server's usages from the signer for clients: %+v", got)
	}

	own, _ := ask(t, "own", certificatesv1.KubeAPIServerClientKubeletSignerName, &x509.CertificateRequest{Subject: nodes}, clientUsages...)
	if err := node.Client.Create(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	c.settled(own, certificatesv1.CertificateFailed)
	if m := own.Status.Conditions[0].Message; len(own.Status.Certificate) == 0 || m != "Auto approving self kubelet client certificate after SubjectAccessReview." {
		t.Errorf("a node's request for itself: %+v", own.Status)
	}

	joining, _ := ask(t, "joining", certificatesv1.KubeAPIServerClientKubeletSignerName, &x509.CertificateRequest{Subject: nodes}, clientUsages...)
	if err := bootstrapper.Client.Create(t.Context(), joining); err != nil {
		t.Fatal(err)
	}
	c.settled(joining, certificatesv1.CertificateFailed)
	if m := joining.Status.Conditions[0].Message; len(joining.Status.Certificate) == 0 || m != "Auto approving kubelet client certificate after SubjectAccessReview." {
		t.Errorf("a joining node's request: %+v", joining.Status)
	}

	serving, _ := ask(t, "serving", certificatesv1.KubeletServingSignerName, &x509.CertificateRequest{Subject: nodes, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, serverUsages...)
	if err := node.Client.Create(t.Context(), serving); err != nil {
		t.Fatal(err)
	}
	c.approve(serving)
	c.settled(serving, certificatesv1.CertificateFailed)
	if len(serving.Status.Certificate) == 0 || serving.Status.Conditions[0].Reason != "Test" {
		t.Errorf("a serving certificate that an administrator approved: %+v", serving.Status)
	}
}
