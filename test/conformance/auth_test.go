package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const rootCA = "kube-root-ca.crt"

// token asks for a token of the test's default account.
func (s *server) token(audience string) string {
	s.Helper()
	spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](600)}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	r, err := s.kube.CoreV1().ServiceAccounts(s.ns).CreateToken(s.ctx, "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	s.ok(err)
	if r.Status.Token == "" || r.Status.ExpirationTimestamp.IsZero() {
		s.Fatalf("an empty token: %+v", r.Status)
	}
	return r.Status.Token
}

// bearing is a client that has the token and nothing else.
func (s *server) bearing(token string) *rest.RESTClient {
	s.Helper()
	config := rest.AnonymousClientConfig(s.config)
	config.BearerToken = token
	kube, err := kubernetes.NewForConfig(config)
	s.ok(err)
	return kube.Discovery().RESTClient().(*rest.RESTClient)
}

// accounts are the entries that need no containers.
var accounts = entries{
	"should create a serviceAccountToken and ensure a successful TokenReview": func(s *server) {
		r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: s.token("")}}
		s.create(r)
		if !r.Status.Authenticated || r.Status.Error != "" || r.Status.User.Username != "system:serviceaccount:"+s.ns+":default" {
			s.Errorf("the review: %+v", r.Status)
		}
	},
	"should allow opting out of API token automount": func(s *server) {
		choices := map[string]*bool{"default": nil, "mount": ptr.To(true), "nomount": ptr.To(false)}
		for name, choice := range choices {
			s.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "account-" + name}, AutomountServiceAccountToken: choice})
		}
		for account, ofAccount := range choices {
			for name, ofPod := range choices {
				p := pod(account+"-"+name, nil)
				p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "account-"+account, ofPod
				s.create(p)
				mounted := slices.ContainsFunc(p.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
					return m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount"
				})
				if want := ptr.Deref(ofPod, ptr.Deref(ofAccount, true)); mounted != want {
					s.Errorf("account %s, pod %s: mounted is %v", account, name, mounted)
				}
			}
		}
	},
	"should run through the lifecycle of a ServiceAccount": func(s *server) {
		mine := client.MatchingLabels{"of": s.ns}
		a, read := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "test", Labels: mine}}, &corev1.ServiceAccount{}
		s.create(a)
		s.ok(s.get(read, "test"))
		if read.UID != a.UID {
			s.Errorf("created %s, read %s", a.UID, read.UID)
		}
		seen := s.watch(&corev1.ServiceAccountList{}, client.InNamespace(s.ns), mine)
		seen.next(watch.Added)
		s.ok(s.api.Patch(s.ctx, a, client.RawPatch(types.StrategicMergePatchType, []byte(`{"automountServiceAccountToken":false}`))))
		seen.next(watch.Modified)
		var list corev1.ServiceAccountList
		s.list(&list, mine)
		if len(list.Items) != 1 || ptr.Deref(list.Items[0].AutomountServiceAccountToken, true) {
			s.Errorf("listed: %+v", list.Items)
		}
		s.ok(s.api.DeleteAllOf(s.ctx, &corev1.ServiceAccount{}, client.InNamespace(s.ns)))
		seen.next(watch.Deleted)
		s.until("the default account is made anew", func() bool { return s.get(read, "default") == nil && read.DeletionTimestamp == nil })
	},
	"should update a ServiceAccount": func(s *server) {
		a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "test"}, AutomountServiceAccountToken: ptr.To(false)}
		s.create(a)
		if ptr.Deref(a.AutomountServiceAccountToken, true) {
			s.Errorf("created: %+v", a)
		}
		s.change(a, "test", func() { a.AutomountServiceAccountToken = ptr.To(true) })
		if !ptr.Deref(a.AutomountServiceAccountToken, false) {
			s.Errorf("updated: %+v", a)
		}
	},
	"should guarantee kube-root-ca.crt exist in any namespace": func(s *server) {
		c := &corev1.ConfigMap{}
		there := func() {
			s.Helper()
			s.until("the CA is there", func() bool { return s.get(c, rootCA) == nil && strings.Contains(c.Data["ca.crt"], "BEGIN CERTIFICATE") })
		}
		there()
		uid := c.UID
		s.delete(c, client.GracePeriodSeconds(0))
		there()
		if c.UID == uid {
			s.Errorf("it was not deleted")
		}
		changed := configMap(rootCA, "ca.crt", "")
		changed.Namespace = s.ns
		s.ok(s.api.Update(s.ctx, changed))
		there()
	},
	"ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer": func(s *server) {
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: s.ns},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: s.ns, Name: "default"}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:service-account-issuer-discovery"},
		}
		s.create(binding)
		s.Cleanup(func() { _ = s.api.Delete(s.background(), binding) })
		me := s.bearing(s.token(""))
		var provider struct {
			Issuer    string   `json:"issuer"`
			Keys      string   `json:"jwks_uri"`
			Types     []string `json:"response_types_supported"`
			Algorithm []string `json:"id_token_signing_alg_values_supported"`
		}
		body, err := me.Get().AbsPath("/.well-known/openid-configuration").DoRaw(s.ctx)
		s.ok(err)
		s.ok(json.Unmarshal(body, &provider))
		token := s.token("oidc-discovery-test")
		parts := strings.Split(token, ".")
		var header struct{ Alg, Kid string }
		var claims struct {
			Issuer   string   `json:"iss"`
			Subject  string   `json:"sub"`
			Audience []string `json:"aud"`
		}
		for i, into := range []any{&header, &claims} {
			text, err := base64.RawURLEncoding.DecodeString(parts[i])
			s.ok(err)
			s.ok(json.Unmarshal(text, into))
		}
		if provider.Issuer != claims.Issuer || claims.Subject != "system:serviceaccount:"+s.ns+":default" || len(claims.Audience) != 1 || claims.Audience[0] != "oidc-discovery-test" ||
			len(provider.Algorithm) != 1 || provider.Algorithm[0] != header.Alg || !strings.HasSuffix(provider.Keys, "/openid/v1/jwks") {
			s.Errorf("the provider %+v, the token %+v", provider, claims)
		}
		body, err = me.Get().AbsPath("/openid/v1/jwks").DoRaw(s.ctx)
		s.ok(err)
		if !verified(s, body, header.Alg, header.Kid, parts) {
			s.Errorf("no key of %s is the token's (%+v)", body, header)
		}
	},
}

var subjectReviews = entries{
	"should support SubjectReview API operations": func(s *server) {
		a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "e2e"}}
		s.create(a)
		user, groups := "system:serviceaccount:"+s.ns+":e2e", []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:" + s.ns}
		config := rest.CopyConfig(s.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: user, UID: string(a.UID), Groups: groups}
		impersonated, err := kubernetes.NewForConfig(config)
		s.ok(err)
		agree := func(want bool) {
			s.Helper()
			spec := authorizationv1.SubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "configmaps", Namespace: s.ns, Version: "v1"},
				User:               user, Groups: groups, UID: string(a.UID),
			}
			everywhere := &authorizationv1.SubjectAccessReview{Spec: spec}
			here := &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns}, Spec: spec}
			s.create(everywhere, here)
			_, err := impersonated.CoreV1().ConfigMaps(s.ns).List(s.ctx, metav1.ListOptions{})
			if err != nil && !apierrors.IsForbidden(err) {
				s.Fatal(err)
			}
			if allowed := err == nil; everywhere.Status.Allowed != want || here.Status.Allowed != want || allowed != want {
				s.Errorf("reviewed %v and %v, allowed %v, want %v", everywhere.Status, here.Status, allowed, want)
			}
		}
		agree(false)
		s.create(
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "lister"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}},
			&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: "lister"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "lister"},
				Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "e2e", Namespace: s.ns}},
			})
		agree(true)
	},
}

var certificates = entries{
	"should support CSR API operations": func(s *server) {
		s.served("certificates.k8s.io", "v1", "certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status")
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		s.ok(err)
		name := pkix.Name{CommonName: "e2e.example.com"}
		request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: name, DNSNames: []string{"e2e.example.com"}}, key)
		s.ok(err)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		s.ok(err)
		issued := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})

		signer := "example.com/" + s.ns
		mine := client.MatchingFields{"spec.signerName": signer}
		var c *certificatesv1.CertificateSigningRequest
		for range 3 {
			c = &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "conformance-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), SignerName: signer, ExpirationSeconds: ptr.To[int32](3600),
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth},
			}}
			s.create(c)
		}
		uid := c.UID
		s.ok(s.get(c, c.Name))
		if c.UID != uid || *c.Spec.ExpirationSeconds != 3600 {
			s.Errorf("got %+v", c)
		}
		var list certificatesv1.CertificateSigningRequestList
		s.list(&list, mine)
		if len(list.Items) != 3 {
			s.Errorf("%d of 3 for the signer", len(list.Items))
		}
		seen := s.watch(&list, client.MatchingFields{"metadata.name": c.Name}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
		before := c.DeepCopy()
		s.ok(s.api.Patch(s.ctx, c, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`))))
		s.newer(before, c)
		s.change(c, c.Name, func() { c.Annotations["updated"] = "true" })
		for _, annotation := range []string{"patched", "updated"} {
			if got := seen.next(watch.Modified); got.GetAnnotations()[annotation] != "true" {
				s.Errorf("the watch shows %v, not %s", got.GetAnnotations(), annotation)
			}
		}

		requests := s.dynamic.Resource(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"))
		for _, subresource := range []string{"approval", "status"} {
			u, err := requests.Get(s.ctx, c.Name, metav1.GetOptions{}, subresource)
			s.ok(err)
			if u.GroupVersionKind() != certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest") || u.GetUID() != uid {
				s.Errorf("%s: %v", subresource, u.Object)
			}
		}
		approval := s.api.SubResource("approval")
		s.ok(approval.Patch(s.ctx, c, client.RawPatch(types.MergePatchType, []byte(
			`{"metadata":{"annotations":{"patchedapproval":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"}]}}`))))
		if got := c.Status.Conditions; len(got) != 1 || got[0].Type != "ApprovalPatch" || c.Annotations["patchedapproval"] != "true" {
			s.Errorf("approval patched: %v %+v", c.Annotations, got)
		}
		c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: "True", Reason: "E2E", Message: "approved"})
		s.ok(approval.Update(s.ctx, c))
		if got := c.Status.Conditions; len(got) != 2 || got[1].Type != certificatesv1.CertificateApproved {
			s.Errorf("approval updated: %+v", got)
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{"patchedstatus": "true"}}, "status": map[string]any{"certificate": issued},
		})
		s.ok(err)
		s.ok(s.api.Status().Patch(s.ctx, c, client.RawPatch(types.MergePatchType, patch)))
		if string(c.Status.Certificate) != string(issued) || c.Annotations["patchedstatus"] != "true" {
			s.Errorf("status patched: %v %s", c.Annotations, c.Status.Certificate)
		}
		s.changeStatus(c, c.Name, func() {
			c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "StatusUpdate", Status: "True", Reason: "E2E"})
		})
		if got := c.Status.Conditions; len(got) != 3 || got[2].Type != "StatusUpdate" {
			s.Errorf("status updated: %+v", got)
		}
		s.delete(c)
		if err := s.get(c, c.Name); !apierrors.IsNotFound(err) {
			s.Errorf("deleted: %v", err)
		}
		for _, want := range []int{2, 0} {
			s.list(&list, mine)
			if len(list.Items) != want {
				s.Errorf("%d of %d are left", len(list.Items), want)
			}
			s.ok(s.api.DeleteAllOf(s.ctx, &certificatesv1.CertificateSigningRequest{}, mine))
		}
	},
}

// verified reports whether a key of the set signed the token.
func verified(s *server, set []byte, alg, kid string, token []string) bool {
	s.Helper()
	var keys struct {
		Keys []struct{ Kty, Kid, Alg, Use, Crv, X, Y string }
	}
	s.ok(json.Unmarshal(set, &keys))
	decode := func(text string) []byte {
		out, err := base64.RawURLEncoding.DecodeString(text)
		s.ok(err)
		return out
	}
	for _, k := range keys.Keys {
		if k.Kid != kid || k.Alg != alg || k.Use != "sig" || k.Crv != "P-256" {
			continue
		}
		key := &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(decode(k.X)), Y: new(big.Int).SetBytes(decode(k.Y))}
		sum, signature := sha256.Sum256([]byte(token[0]+"."+token[1])), decode(token[2])
		return len(signature) == 64 && ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	}
	return false
}
