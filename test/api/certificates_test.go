package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"
)

// signingRequest asks someone else's signer for a serving certificate.
func signingRequest(t *testing.T, signer string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "web.example.com"}, DNSNames: []string{"web.example.com"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer,
			ExpirationSeconds: ptr.To[int32](3600),
			Usages:            []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
}

// TestSigningRequests takes requests for certificates through everything that
// an approver and a signer outside the cluster do with them.
func TestSigningRequests(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	requests := s.kube.CertificatesV1().CertificateSigningRequests()
	const signer = "example.com/web"
	ofSigner := metav1.ListOptions{FieldSelector: "spec.signerName=" + signer}
	var r *certificatesv1.CertificateSigningRequest
	for range 3 {
		var err error
		if r, err = requests.Create(ctx, signingRequest(t, signer), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := requests.Create(ctx, signingRequest(t, "example.com/other"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if list, err := requests.List(ctx, ofSigner); err != nil || len(list.Items) != 3 {
		t.Fatalf("requests to the signer: %v, %v", list, err)
	}

	patch := func(subresource, body string) {
		t.Helper()
		var err error
		if r, err = requests.Patch(ctx, r.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "patcher"}, subresource); err != nil {
			t.Fatalf("patching %s: %v", subresource, err)
		}
	}
	patch("approval", `{"metadata":{"annotations":{"approval":"y"}},"spec":{"username":"root"},"status":{"certificate":"Zm9yZ2Vk","conditions":[{"type":"Looking","status":"True"}]}}`)
	if r.Annotations["approval"] != "y" || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != "Looking" || r.Spec.Username == "root" || len(r.Status.Certificate) > 0 {
		t.Errorf("after a patch of approval: %+v", r)
	}
	if !slices.ContainsFunc(r.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == "patcher" && m.Subresource == "approval" && strings.Contains(string(m.FieldsV1.Raw), "Looking")
	}) {
		t.Errorf("the patcher of approval does not own the condition: %v", r.ManagedFields)
	}
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Known"}
	r.Status.Conditions = append(r.Status.Conditions, approved)
	if _, err := requests.UpdateStatus(ctx, r, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `updates may not add a condition of type "Approved"`) {
		t.Errorf("approving through the status: %v", err)
	}
	var err error
	if r, err = requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil || len(r.Status.Conditions) != 2 || r.Status.Conditions[1].Type != certificatesv1.CertificateApproved {
		t.Fatalf("approving: %v, %v", r, err)
	}
	applied := `{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","status":{"conditions":[{"type":"Seen","status":"True"}]}}`
	if r, err = requests.Patch(ctx, r.Name, types.ApplyPatchType, []byte(applied), metav1.PatchOptions{FieldManager: "applier"}, "approval"); err != nil || len(r.Status.Conditions) != 3 {
		t.Fatalf("applying approval: %v, %v", r, err)
	}

	signed, _, err := cert.GenerateSelfSignedCertKey("web.example.com", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(signed)
	patch("status", `{"metadata":{"annotations":{"status":"y"}},"status":{"certificate":`+string(text)+`}}`)
	if r.Annotations["status"] != "y" || string(r.Status.Certificate) != string(signed) {
		t.Errorf("after a patch of the status: %+v", r)
	}
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "Sent", Status: corev1.ConditionTrue})
	if r, err = requests.UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil || len(r.Status.Conditions) != 4 || r.Status.Conditions[3].Type != "Sent" {
		t.Fatalf("updating the status: %v, %v", r, err)
	}
	for _, path := range []string{"approval", "status"} {
		got := s.ok(200, call{Method: "GET", Path: "/apis/certificates.k8s.io/v1/certificatesigningrequests/" + r.Name + "/" + path}).object(t)
		if got.GetKind() != "CertificateSigningRequest" || got.GetUID() != r.UID {
			t.Errorf("%s: %v", path, got)
		}
	}

	if err := requests.Delete(ctx, r.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := requests.Get(ctx, r.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a deleted request: %v", err)
	}
	if err := requests.DeleteCollection(ctx, metav1.DeleteOptions{}, ofSigner); err != nil {
		t.Error(err)
	}
	if list, err := requests.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 1 || list.Items[0].Spec.SignerName == signer {
		t.Errorf("what is left: %v, %v", list, err)
	}
}
