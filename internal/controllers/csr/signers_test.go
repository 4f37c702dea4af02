package csr_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"slices"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/csr"
	"skiff/internal/identity"
)

const (
	forClients  = certificatesv1.KubeAPIServerClientSignerName
	forKubelets = certificatesv1.KubeAPIServerClientKubeletSignerName
	forServing  = certificatesv1.KubeletServingSignerName

	sign, encipher = certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment
	asClient       = certificatesv1.UsageClientAuth
	asServer       = certificatesv1.UsageServerAuth
)

var (
	admin     = identity.Loopback()
	kubelet   = &identity.User{Name: identity.NodePrefix + "n", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}
	other     = &identity.User{Name: identity.NodePrefix + "m", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}
	newcomer  = &identity.User{Name: "system:bootstrap:abc", Groups: []string{identity.GroupBootstrappers, identity.GroupAuthenticated}}
	requester = &identity.User{Name: "jane", Groups: []string{identity.GroupAuthenticated}}
)

// letAsk gives the requester the right to ask for certificates.
func letAsk(c cluster) {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "asker"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"create", "update"}, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"certificatesigningrequests", "certificatesigningrequests/approval"}},
	}}
	c.Create(role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: requester.Name}},
	})
	c.Granted(c.t, requester, authorizationv1.ResourceAttributes{Verb: "create", Group: certificatesv1.GroupName, Resource: "certificatesigningrequests"})
}

// names make the template of a request.
func names(commonName, organization string, change ...func(*x509.CertificateRequest)) *x509.CertificateRequest {
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName, Organization: []string{organization}}}
	for _, c := range change {
		c(r)
	}
	return r
}

func address(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }
func host(r *x509.CertificateRequest)    { r.DNSNames = []string{"n"} }
func email(r *x509.CertificateRequest)   { r.EmailAddresses = []string{"n@example.com"} }

// What becomes of requests.
const (
	waits  = "waits"  // for somebody to approve or to sign it
	signed = "signed" // with all names that were asked for
)

// TestEverySigner: who gets which certificates without being asked, and what a
// signer refuses though it was approved. What is said otherwise is the reason of
// a failure.
func TestEverySigner(t *testing.T) {
	c := start(t)
	letAsk(c)
	node := func(change ...func(*x509.CertificateRequest)) *x509.CertificateRequest {
		return names(identity.NodePrefix+"n", identity.GroupNodes, change...)
	}
	type usages = []certificatesv1.KeyUsage
	client, server := usages{sign, asClient}, usages{sign, encipher, asServer}
	for _, test := range []struct {
		name     string
		by       *identity.User
		signer   string
		template *x509.CertificateRequest
		usages   usages
		approve  bool
		want     string
	}{
		{"a node for itself", kubelet, forKubelets, node(), client, false, signed},
		{"with an RSA key's usages", kubelet, forKubelets, node(), usages{sign, encipher, asClient}, false, signed},
		{"one that joins", newcomer, forKubelets, node(), client, false, signed},
		{"another node", other, forKubelets, node(), client, false, waits},
		{"another node, approved", other, forKubelets, node(), client, true, signed},
		{"somebody else", requester, forKubelets, node(), client, false, waits},
		{"as a server", kubelet, forKubelets, node(), server, false, waits},
		{"as a server, approved", kubelet, forKubelets, node(), server, true, "usages did not match [client auth digital signature key encipherment]"},
		{"without a signature's usage", kubelet, forKubelets, node(), usages{asClient}, true, "usages did not match [client auth digital signature key encipherment]"},
		{"with a host", kubelet, forKubelets, node(host), client, true, "DNS subjectAltNames are not allowed"},
		{"with an address", kubelet, forKubelets, node(address), client, true, "IP subjectAltNames are not allowed"},
		{"with an e-mail address", kubelet, forKubelets, node(email), client, true, "email subjectAltNames are not allowed"},
		{"of another group", admin, forKubelets, names(identity.NodePrefix+"n", "people"), client, true, "subject organization is not system:nodes"},
		{"with another name", admin, forKubelets, names("n", identity.GroupNodes), client, true, "subject common name does not begin with system:node:"},

		{"a node that serves", kubelet, forServing, node(address, host), server, false, waits},
		{"a node that serves, approved", kubelet, forServing, node(address, host), server, true, signed},
		{"serving nowhere", kubelet, forServing, node(), server, true, "DNS or IP subjectAltName is required"},
		{"serving as a client", kubelet, forServing, node(address), client, true, "usages did not match [digital signature key encipherment server auth]"},
		{"serving for others", admin, forServing, names("web", "people", host), server, true, "subject organization is not system:nodes"},

		{"a person", requester, forClients, names("jane", "people"), client, false, waits},
		{"a person, approved", requester, forClients, names("jane", "people", email), client, true, signed},
		{"a person with more usages", requester, forClients, names("jane", "people"), usages{asClient, certificatesv1.UsageCodeSigning}, true, "invalid usage for client certificate: code signing"},
		{"a person without the usage", requester, forClients, names("jane", "people"), usages{sign}, true, "missing required usage for client certificate: client auth"},

		{"another's signer, approved", requester, "example.com/signer", names("web", "people", host), server, true, waits},
	} {
		r, _ := ask(t, "", test.signer, test.template, test.usages...)
		r.GenerateName = "r-"
		if err := c.Set(test.by).Client.Create(t.Context(), r); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.approve {
			c.approve(r)
		}
		if test.want == waits {
			// Had it been decided on, that would be so when a later one is.
			later, _ := ask(t, "", forKubelets, node(), client...)
			later.GenerateName = "later-"
			c.Create(later)
			c.settled(later, certificatesv1.CertificateFailed)
			controllertest.Get(c.Cluster, "", r.Name, r)
			if want := map[bool]int{true: 1}[test.approve]; len(r.Status.Conditions) != want || len(r.Status.Certificate) > 0 {
				t.Errorf("%s: %+v", test.name, r.Status)
			}
			continue
		}
		condition := c.settled(r, certificatesv1.CertificateFailed)
		if test.want != signed {
			if condition.Message != test.want || condition.Reason != "SignerValidationFailure" || len(r.Status.Certificate) > 0 {
				t.Errorf("%s: %q, want %q", test.name, condition.Message, test.want)
			}
			continue
		}
		all, err := cert.ParseCertsPEM(r.Status.Certificate)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got, ext := all[0], []x509.ExtKeyUsage{}
		for _, u := range test.usages {
			switch u {
			case asClient:
				ext = append(ext, x509.ExtKeyUsageClientAuth)
			case asServer:
				ext = append(ext, x509.ExtKeyUsageServerAuth)
			}
		}
		if got.Subject.String() != test.template.Subject.String() || !slices.Equal(got.DNSNames, test.template.DNSNames) ||
			len(got.IPAddresses) != len(test.template.IPAddresses) || !slices.Equal(got.EmailAddresses, test.template.EmailAddresses) || got.IsCA {
			t.Errorf("%s: a certificate for %s %v %v", test.name, got.Subject, got.DNSNames, got.IPAddresses)
		}
		slices.Sort(ext)
		slices.Sort(got.ExtKeyUsage)
		if !slices.Equal(got.ExtKeyUsage, ext) {
			t.Errorf("%s: for %v, want %v", test.name, got.ExtKeyUsage, ext)
		}
		if _, err := got.Verify(x509.VerifyOptions{Roots: c.PKI.CA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestWhoMayDecide: approval needs a right to the signer, nobody gets a client
// certificate for system:masters, and what was denied is not signed.
func TestWhoMayDecide(t *testing.T) {
	c := start(t)
	letAsk(c)
	asClientOf := []certificatesv1.KeyUsage{sign, asClient}
	mighty, _ := ask(t, "mighty", forClients, names("jane", identity.GroupMasters), asClientOf...)
	if err := c.Client.Create(t.Context(), mighty); !apierrors.IsForbidden(err) {
		t.Errorf("asking for system:masters: %v", err)
	}
	unknown, _ := ask(t, "unknown", "kubernetes.io/legacy-unknown", names("jane", "people"), asClientOf...)
	if err := c.Client.Create(t.Context(), unknown); !apierrors.IsInvalid(err) {
		t.Errorf("asking the signer of any purpose: %v", err)
	}
	denied, _ := ask(t, "denied", forClients, names("jane", "people"), asClientOf...)
	if err := c.Set(requester).Client.Create(t.Context(), denied); err != nil {
		t.Fatal(err)
	}
	decide := func(by *identity.User, kind certificatesv1.RequestConditionType) error {
		r := controllertest.Get(c.Cluster, "", "denied", &certificatesv1.CertificateSigningRequest{})
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: corev1.ConditionTrue})
		return c.Set(by).Client.SubResource("approval").Update(t.Context(), r)
	}
	if err := decide(requester, certificatesv1.CertificateApproved); !apierrors.IsForbidden(err) {
		t.Errorf("approving one's own request: %v", err)
	}
	if err := decide(admin, certificatesv1.CertificateDenied); err != nil {
		t.Fatal(err)
	}
	if err := decide(admin, certificatesv1.CertificateApproved); !apierrors.IsInvalid(err) {
		t.Errorf("approving what was denied: %v", err)
	}
	c.settled(denied, certificatesv1.CertificateDenied)
	if len(denied.Status.Certificate) > 0 {
		t.Error("a denied request has a certificate")
	}
}

// TestLifetimes: a certificate lasts as long as was asked for, and no longer than
// the signer allows.
func TestLifetimes(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("certificate-controller", func(d controller.Deps) (controller.Runnable, error) {
		return csr.New(d, csr.Options{Signer: c.PKI.CA, Lasting: 2 * time.Hour})
	})
	k := cluster{c, t}
	for asked, want := range map[time.Duration]time.Duration{0: 2 * time.Hour, 10 * time.Minute: 10 * time.Minute, time.Hour: time.Hour, 3 * time.Hour: 2 * time.Hour} {
		r, _ := ask(t, "", forKubelets, names(identity.NodePrefix+"n", identity.GroupNodes), sign, asClient)
		r.GenerateName = "r-"
		if asked > 0 {
			r.Spec.ExpirationSeconds = ptr.To(int32(asked / time.Second))
		}
		began := time.Now()
		c.Create(r)
		k.settled(r, certificatesv1.CertificateFailed)
		all, err := cert.ParseCertsPEM(r.Status.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if end := all[0].NotAfter; end.Before(began.Add(want-time.Second)) || end.After(time.Now().Add(want)) {
			t.Errorf("asked for %s: until %s, want %s from %s", asked, end, want, began)
		}
	}
	short, _ := ask(t, "short", forKubelets, names(identity.NodePrefix+"n", identity.GroupNodes), sign, asClient)
	short.Spec.ExpirationSeconds = ptr.To[int32](599)
	if err := c.Client.Create(t.Context(), short); !apierrors.IsInvalid(err) {
		t.Errorf("less than ten minutes: %v", err)
	}
}

// TestServingCertificatesOfNodes: nodes get what they ask for if it is for their
// own names, once the cluster knows these.
func TestServingCertificatesOfNodes(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("certificate-controller", func(d controller.Deps) (controller.Runnable, error) {
		return csr.New(d, csr.Options{Signer: c.PKI.CA, ApproveServing: true})
	})
	k := cluster{c, t}
	serving := func(name string, by *identity.User) *certificatesv1.CertificateSigningRequest {
		r, _ := ask(t, name, forServing, names(identity.NodePrefix+"n", identity.GroupNodes, address, host), sign, asServer)
		if err := c.Set(by).Client.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	own, forged := serving("own", kubelet), serving("forged", other)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	c.Create(n)
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
	if err := c.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	k.settled(own, certificatesv1.CertificateFailed)
	if len(own.Status.Certificate) == 0 {
		t.Errorf("a node's own addresses: %+v", own.Status)
	}
	if controllertest.Get(c, "", "forged", forged); len(forged.Status.Conditions) > 0 {
		t.Errorf("another node's addresses: %+v", forged.Status)
	}
}

// TestCleaner lets time pass over requests in all states.
func TestCleaner(t *testing.T) {
	clk := testclock.NewFakeClock(time.Now())
	c := controllertest.StartAt(t, clk)
	c.Run("certificate-controller", func(d controller.Deps) (controller.Runnable, error) {
		return csr.New(d, csr.Options{Signer: c.PKI.CA})
	})
	k := cluster{c, t}
	usages := []certificatesv1.KeyUsage{sign, asClient}
	make := func(name, signer string, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
		r, _ := ask(t, name, signer, names("jane", "people"), usages...)
		c.Create(r)
		return r
	}
	make("pending", forClients, usages...)
	elsewhere := make("elsewhere", "example.com/signer", usages...)
	k.approve(elsewhere)
	fine, bad := make("signed", forClients, usages...), make("failed", forClients, asServer)
	for _, r := range []*certificatesv1.CertificateSigningRequest{fine, bad} {
		k.approve(r)
		k.settled(r, certificatesv1.CertificateFailed)
	}
	no := make("denied", forClients, usages...)
	no.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}}
	if err := c.Client.SubResource("approval").Update(t.Context(), no); err != nil {
		t.Fatal(err)
	}
	left := func(what string, want ...string) {
		t.Helper()
		c.Eventually(what, &certificatesv1.CertificateSigningRequestList{}, func() bool {
			var list certificatesv1.CertificateSigningRequestList
			c.List(&list)
			var got []string
			for _, r := range list.Items {
				got = append(got, r.Name)
			}
			return slices.Equal(got, want)
		})
	}
	left("all are there", "denied", "elsewhere", "failed", "pending", "signed")
	touch := func() {
		var list certificatesv1.CertificateSigningRequestList
		c.List(&list)
		for i := range list.Items {
			r := &list.Items[i]
			r.Labels = map[string]string{"at": clk.Now().Format("15.04")}
			if err := c.Client.Update(t.Context(), r); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	clk.Step(59 * time.Minute)
	touch()
	left("not yet an hour", "denied", "elsewhere", "failed", "pending", "signed")
	clk.Step(time.Hour)
	touch()
	left("after an hour", "elsewhere", "pending")
	clk.Step(21 * time.Hour)
	touch()
	left("not yet a day", "elsewhere", "pending")
	clk.Step(2 * time.Hour)
	touch()
	left("after a day", "elsewhere")
}
