package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks/checkstest"
	"skiff/internal/identity"
)

type csr = certificatesv1.CertificateSigningRequest

func newRequest(t *testing.T) *csr {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &csr{Spec: certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: certificatesv1.KubeAPIServerClientSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		Username:   "somebody else",
	}}
	r.Name = "r"
	return r
}

func TestRequester(t *testing.T) {
	r := checkstest.Find(t, Resources(), "certificatesigningrequests")
	request := newRequest(t)
	user := &identity.User{Name: "ann", UID: "1", Groups: []string{"devs"}, Extra: map[string][]string{"k": {"v"}}}
	r.PrepareCreate(identity.NewContext(t.Context(), user), request)
	if s := request.Spec; s.Username != "ann" || s.UID != "1" || s.Groups[0] != "devs" || s.Extra["k"][0] != "v" {
		t.Errorf("the requester is %+v", s)
	}
	changed := request.DeepCopy()
	changed.Spec.Username = "root"
	r.PrepareUpdate(t.Context(), changed, request)
	if changed.Spec.Username != "ann" {
		t.Error("an update changed who asked")
	}
}

func TestValidation(t *testing.T) {
	change := checkstest.Change[*csr]
	r := checkstest.Find(t, Resources(), "certificatesigningrequests")
	checkstest.Create(t, r, newRequest(t),
		change("no PEM", func(r *csr) { r.Spec.Request = []byte("x") }, "spec.request: Invalid value: PEM block type must be CERTIFICATE REQUEST"),
		change("no usages", func(r *csr) { r.Spec.Usages = nil }, "spec.usages: Required value: "),
		change("twice", func(r *csr) { r.Spec.Usages = append(r.Spec.Usages, r.Spec.Usages[0]) }, "spec.usages[1]: Duplicate value: "),
		change("no signer", func(r *csr) { r.Spec.SignerName = "" }, "spec.signerName: Required value: "),
		change("signer", func(r *csr) { r.Spec.SignerName = "me" },
			"spec.signerName: Invalid value: must be a fully qualified domain and path of the form 'example.com/signer-name'"),
		change("legacy", func(r *csr) { r.Spec.SignerName = "kubernetes.io/legacy-unknown" },
			"spec.signerName: Invalid value: the legacy signerName is not allowed via this API version"),
		change("short", func(r *csr) { r.Spec.ExpirationSeconds = ptr.To[int32](599) },
			"spec.expirationSeconds: Invalid value: may not specify a duration less than 600 seconds (10 minutes)"),
	)
}

func TestApproval(t *testing.T) {
	r := checkstest.Find(t, Resources(), "certificatesigningrequests")
	approval := r.Subresources[0]
	stored := newRequest(t)
	approved := func(kind certificatesv1.RequestConditionType) *csr {
		body := stored.DeepCopy()
		body.Spec.Username = "root"
		body.Status.Certificate = []byte("forged")
		body.Status.Conditions = append(body.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: "True"})
		return body
	}
	edit := func(body *csr) *csr {
		obj := stored.DeepCopy()
		if err := approval.Edit(t.Context(), obj, body); err != nil {
			t.Fatal(err)
		}
		return obj
	}
	result := edit(approved(certificatesv1.CertificateApproved))
	checkstest.Errors(t, approval.Validate(t.Context(), result, stored))
	if result.Spec.Username == "root" || len(result.Status.Certificate) > 0 {
		t.Errorf("approval changed more than conditions: %+v", result)
	}
	if result.Status.Conditions[0].LastUpdateTime.IsZero() || r.Cells(result)[5] != "Approved" {
		t.Errorf("approved: %+v, shown as %v", result.Status, r.Cells(result)[5])
	}
	stored = result
	both := edit(approved(certificatesv1.CertificateDenied))
	checkstest.Errors(t, approval.Validate(t.Context(), both, stored),
		"status.conditions: Invalid value: Approved and Denied conditions are mutually exclusive")
	none := edit(&csr{})
	checkstest.Errors(t, approval.Validate(t.Context(), none, stored),
		`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`)

	// The status subresource is for signers: it cannot decide.
	var undecided apis.Object = newRequest(t)
	decided := approved(certificatesv1.CertificateDenied)
	r.PrepareStatusUpdate(t.Context(), decided, undecided)
	if len(decided.Status.Conditions) != 0 {
		t.Errorf("a status update decided: %+v", decided.Status.Conditions)
	}
}
