package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
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

const (
	notLabel = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	tooLong  = "Too long: may not be more than "
)

func TestValidation(t *testing.T) {
	change := checkstest.Change[*csr]
	r := checkstest.Find(t, Resources(), "certificatesigningrequests")
	signer := func(name string) func(*csr) { return func(r *csr) { r.Spec.SignerName = name } }
	long := strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 63)+".", 9), ".")
	checkstest.Create(t, r, newRequest(t),
		change("no PEM", func(r *csr) { r.Spec.Request = []byte("x") }, "spec.request: Invalid value: PEM block type must be CERTIFICATE REQUEST"),
		change("more than a block", func(r *csr) { r.Spec.Request = append(r.Spec.Request, "rest"...) }),
		change("no usages", func(r *csr) { r.Spec.Usages = nil }, "spec.usages: Required value: "),
		change("twice", func(r *csr) { r.Spec.Usages = append(r.Spec.Usages, r.Spec.Usages[0]) }, "spec.usages[1]: Duplicate value: "),
		change("usage", func(r *csr) { r.Spec.Usages = []certificatesv1.KeyUsage{""} },
			`spec.usages[0]: Unsupported value: supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"`),
		change("no signer", signer(""), "spec.signerName: Required value: "),
		change("signer", signer("me"), "spec.signerName: Invalid value: must be a fully qualified domain and path of the form 'example.com/signer-name'"),
		change("two slashes", signer("a.b/c/d"), "spec.signerName: Invalid value: must be a fully qualified domain and path of the form 'example.com/signer-name'"),
		change("signer's domain", signer("a/b"), "spec.signerName: Invalid value: should be a domain with at least two segments separated by dots"),
		change("signer's labels", signer("a.B.C/d"), `spec.signerName: Invalid value: validating label "B": `+notLabel),
		change("signer's path", signer("a.b/c.-.-"), `spec.signerName: Invalid value: validating label "-": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`),
		change("long domain", signer(long+"/a"), "spec.signerName: "+tooLong+"253 bytes", "spec.signerName: "+tooLong+"571 bytes"),
		change("legacy", signer("kubernetes.io/legacy-unknown"), "spec.signerName: Invalid value: the legacy signerName is not allowed via this API version"),
		change("short", func(r *csr) { r.Spec.ExpirationSeconds = ptr.To[int32](599) },
			"spec.expirationSeconds: Invalid value: may not specify a duration less than 600 seconds (10 minutes)"),
	)
	for name, want := range map[string]int{"Any:Name_": 0, "a/b": 1, "..": 1} {
		if got := r.ValidateName(name, false); len(got) != want {
			t.Errorf("the name %q has problems %q", name, got)
		}
	}
}

func conditions(c ...certificatesv1.CertificateSigningRequestCondition) []certificatesv1.CertificateSigningRequestCondition {
	return c
}

func TestConditions(t *testing.T) {
	type condition = certificatesv1.CertificateSigningRequestCondition
	approved, denied := condition{Type: certificatesv1.CertificateApproved, Status: "True"}, condition{Type: certificatesv1.CertificateDenied, Status: "True"}
	failed, other := condition{Type: certificatesv1.CertificateFailed, Status: "True"}, condition{Type: "Other", Status: "Unknown"}
	const at = "status.conditions"
	for _, c := range []struct {
		name    string
		is, was []condition
		want    []string
	}{
		{"good", conditions(approved, failed, other), nil, nil},
		{"both", conditions(approved, denied), nil, []string{at + "[1].type: Invalid value: Approved and Denied conditions are mutually exclusive"}},
		{"both as before", conditions(approved, denied), conditions(denied, approved), nil},
		{"twice", conditions(other, other), nil, []string{at + "[1].type: Duplicate value: "}},
		{"twice as before", conditions(other, other), conditions(failed, failed), nil},
		{"empty", conditions(condition{}), nil, []string{at + "[0].type: Required value: ", at + "[0].status: Required value: "}},
		{"status", conditions(condition{Type: "Other", Status: "Perhaps"}), nil, []string{at + `[0].status: Unsupported value: supported values: "False", "True", "Unknown"`}},
		{"not approved", conditions(condition{Type: "Approved", Status: "False"}), nil, []string{at + `[0].status: Unsupported value: supported values: "True"`}},
	} {
		t.Run(c.name, func(t *testing.T) { checkstest.Errors(t, validateConditions(c.is, c.was), c.want...) })
	}
	checkstest.Errors(t, validateKept(conditions(other), conditions(failed, denied, other)),
		at+`: Forbidden: updates may not remove a condition of type "Denied"`, at+`: Forbidden: updates may not remove a condition of type "Failed"`)
}

func TestCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, headers map[string]string, bytes []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: bytes})
	}
	good, bad := block("CERTIFICATE", nil, der), []byte("stored by a signer of old")
	const at = "status.certificate: "
	for _, c := range []struct {
		name    string
		is, was []byte
		want    []string
	}{
		{"issued", good, nil, nil},
		{"chain", append(append([]byte(nil), good...), good...), nil, nil},
		{"no PEM", []byte("x"), nil, []string{at + "Invalid value: must contain at least one CERTIFICATE PEM block"}},
		{"key", block("PRIVATE KEY", nil, der), nil, []string{at + `Invalid value: only CERTIFICATE PEM blocks are allowed, found "PRIVATE KEY"`}},
		{"headers", block("CERTIFICATE", map[string]string{"a": "b"}, der), nil, []string{at + "Invalid value: no PEM block headers are permitted"}},
		{"garbage", block("CERTIFICATE", nil, []byte("x")), nil, []string{at + "Invalid value: x509: malformed certificate"}},
		{"none in it", block("CERTIFICATE", nil, nil), nil, []string{at + "Invalid value: found CERTIFICATE PEM block containing 0 certificates"}},
		{"again", block("CERTIFICATE", nil, append(append([]byte(nil), der...), der...)), good, []string{at + "Forbidden: updates may not modify existing certificate content"}},
		{"taken back", nil, good, []string{at + "Forbidden: updates may not modify existing certificate content"}},
		{"bad as before", bad, bad, nil},
		{"worse than before", []byte("y"), bad, []string{at + "Forbidden: updates may not modify existing certificate content"}},
	} {
		t.Run(c.name, func(t *testing.T) { checkstest.Errors(t, validateCertificate(c.is, c.was), c.want...) })
	}
}

func TestApproval(t *testing.T) {
	r := checkstest.Find(t, Resources(), "certificatesigningrequests")
	approval := r.Subresources[0]
	stored := newRequest(t)
	approved := func(kind certificatesv1.RequestConditionType) *csr {
		body := stored.DeepCopy()
		body.Spec.Username = "root"
		body.Annotations = map[string]string{"by": "an approver"}
		body.Status.Certificate = []byte("forged")
		body.Status.Conditions = append(body.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: "True"})
		return body
	}
	edit := func(body *csr) *csr {
		approval.Prepare(t.Context(), body, stored)
		return body
	}
	result := edit(approved(certificatesv1.CertificateApproved))
	checkstest.Errors(t, approval.Validate(t.Context(), result, stored))
	if result.Spec.Username == "root" || len(result.Status.Certificate) > 0 || result.Annotations["by"] != "an approver" {
		t.Errorf("approval changed other than metadata and conditions: %+v", result)
	}
	if result.Status.Conditions[0].LastUpdateTime.IsZero() || r.Cells(result)[5] != "Approved" {
		t.Errorf("approved: %+v, shown as %v", result.Status, r.Cells(result)[5])
	}
	stored = result
	both := edit(approved(certificatesv1.CertificateDenied))
	checkstest.Errors(t, approval.Validate(t.Context(), both, stored),
		"status.conditions[1].type: Invalid value: Approved and Denied conditions are mutually exclusive")
	none := edit(&csr{})
	checkstest.Errors(t, approval.Validate(t.Context(), none, stored),
		`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`)

	// The status subresource is for signers: it cannot decide, nor change a decision.
	var undecided apis.Object = newRequest(t)
	decided := approved(certificatesv1.CertificateDenied)
	r.PrepareStatusUpdate(t.Context(), decided, undecided)
	checkstest.Errors(t, r.ValidateStatusUpdate(t.Context(), decided, undecided),
		`status.conditions: Forbidden: updates may not add a condition of type "Approved"`,
		`status.conditions: Forbidden: updates may not add a condition of type "Denied"`,
		"status.certificate: Invalid value: must contain at least one CERTIFICATE PEM block",
		"status.conditions[1].type: Invalid value: Approved and Denied conditions are mutually exclusive")
	reworded := stored.DeepCopy()
	reworded.Status.Conditions[0].Reason = "Because"
	r.PrepareStatusUpdate(t.Context(), reworded, stored)
	checkstest.Errors(t, r.ValidateStatusUpdate(t.Context(), reworded, stored))
	if got := reworded.Status.Conditions[0].Reason; got != "" {
		t.Errorf("a status update gave a decision the reason %q", got)
	}
}

func TestCells(t *testing.T) {
	type condition = certificatesv1.CertificateSigningRequestCondition
	r := checkstest.Find(t, Resources(), "certificatesigningrequests")
	request := newRequest(t)
	request.Spec.ExpirationSeconds = ptr.To[int32](7200)
	if got := r.Cells(request)[2:]; !slices.Equal(got, []any{"kubernetes.io/kube-apiserver-client", "somebody else", "120m", "Pending"}) {
		t.Errorf("shown as %v", got)
	}
	request.Spec.SignerName, request.Spec.ExpirationSeconds = "", nil
	request.Status.Conditions = conditions(condition{Type: certificatesv1.CertificateDenied}, condition{Type: certificatesv1.CertificateApproved}, condition{Type: certificatesv1.CertificateFailed})
	request.Status.Certificate = []byte("c")
	if got := r.Cells(request)[2:]; !slices.Equal(got, []any{"<none>", "somebody else", "<none>", "Denied,Failed,Issued"}) {
		t.Errorf("shown as %v", got)
	}
}
