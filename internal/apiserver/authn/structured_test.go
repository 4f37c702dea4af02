package authn_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
)

// issuer is an OpenID issuer on this machine.
type issuer struct {
	t      *testing.T
	server *httptest.Server
	key    atomic.Pointer[rsa.PrivateKey]
	asked  atomic.Int32
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, i.server.URL, i.server.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Load().Public(), KeyID: i.keyID(), Use: "sig", Algorithm: "RS256"}}})
	})
	i.server = httptest.NewTLSServer(mux)
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) rotate() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		i.t.Fatal(err)
	}
	i.key.Store(key)
}

func (i *issuer) keyID() string { return fmt.Sprintf("%x", i.key.Load().N.Bytes()[:4]) }

func (i *issuer) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw}))
}

// token signs the claims, completed to a good token's.
func (i *issuer) token(claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": i.server.URL, "aud": "skiff", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "sub": "jane"}
	for k, v := range claims {
		all[k] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: i.key.Load(), KeyID: i.keyID()}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

func (i *issuer) config(rest string) string {
	return fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: %s
    audiences: [skiff, other]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
%s
%s`, i.server.URL, indent(i.ca(), "      "), rest)
}

const claimRules = `
  claimMappings:
    username: {expression: "'oidc:' + claims.sub"}
    groups: {expression: "claims.roles.split(',').map(r, 'oidc:' + r)"}
    uid: {claim: jti}
    extra:
    - {key: example.com/team, valueExpression: "has(claims.team) ? claims.team : ''"}
  claimValidationRules:
  - {claim: hd, requiredValue: example.com}
  - {expression: "claims.exp - claims.iat <= 86400", message: too long a life}
  userValidationRules:
  - {expression: "!user.username.startsWith('oidc:system')", message: reserved}
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestOpenID(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	file := filepath.Join(t.TempDir(), "authn.yaml")
	write(t, file, i.config(claimRules))
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{AuthenticationConfigFile: file}}})
	good := map[string]any{"roles": "dev,ops", "jti": "id-1", "hd": "example.com", "team": "blue"}
	with := func(changes map[string]any) string {
		claims := map[string]any{}
		for k, v := range good {
			claims[k] = v
		}
		for k, v := range changes {
			claims[k] = v
		}
		return i.token(claims)
	}
	user, status, text := whoAmI(t, tc, with(nil))
	if status != 201 || user.Username != "oidc:jane" || user.UID != "id-1" || strings.Join(user.Groups, " ") != "oidc:dev oidc:ops system:authenticated" ||
		fmt.Sprint(user.Extra) != "map[example.com/team:[blue]]" {
		t.Fatalf("%d %s %+v", status, text, user)
	}
	for name, token := range map[string]string{
		"another audience": with(map[string]any{"aud": "elsewhere"}),
		"ended":            with(map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()}),
		"required claim":   with(map[string]any{"hd": "evil.example.com"}),
		"claim rule":       with(map[string]any{"exp": time.Now().Add(100 * time.Hour).Unix()}),
		"user rule":        with(map[string]any{"sub": "system:admin"}),
		"another issuer":   with(map[string]any{"iss": "https://other.example.com"}),
		"no roles":         i.token(map[string]any{"jti": "x", "hd": "example.com"}),
		"changed":          with(nil)[:40] + "x" + with(nil)[41:],
	} {
		if user, status, _ := whoAmI(t, tc, token); status != http.StatusUnauthorized {
			t.Errorf("%s: %d %+v", name, status, user)
		}
	}
	if user, status, text := whoAmI(t, tc, with(map[string]any{"aud": []string{"other", "x"}})); status != 201 {
		t.Errorf("the second audience: %d %s %+v", status, text, user)
	}
	// A key that is not known yet is looked for.
	before := i.asked.Load()
	i.rotate()
	if _, status, text := whoAmI(t, tc, with(nil)); status != 201 || i.asked.Load() == before {
		t.Errorf("a new key: %d %s", status, text)
	}
	// Reviews of tokens know the issuer, too.
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: with(nil)}}
	if err := tc.Client.Create(t.Context(), review); err != nil || !review.Status.Authenticated || review.Status.User.Username != "oidc:jane" || len(review.Status.Audiences) != 1 {
		t.Errorf("%v %+v", err, review.Status)
	}

	// A changed file is taken over, a broken one is not.
	write(t, file, "nonsense: true")
	write(t, file, strings.Replace(i.config(claimRules), "'oidc:' + claims.sub", "'corp:' + claims.sub", 1))
	eventually(t, func() bool {
		user, status, _ := whoAmI(t, tc, with(nil))
		return status == 201 && user.Username == "corp:jane"
	})
}

func TestClaims(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	file := filepath.Join(t.TempDir(), "authn.yaml")
	write(t, file, i.config(`
  claimMappings:
    username: {claim: email, prefix: "mail:"}
    groups: {claim: groups, prefix: "g:"}
anonymous:
  enabled: true
  conditions: [{path: /livez}]
`))
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{AuthenticationConfigFile: file}}})
	for name, tt := range map[string]struct {
		claims map[string]any
		want   string
	}{
		"verified":     {map[string]any{"email": "j@example.com", "email_verified": true, "groups": []string{"a", "b"}}, "mail:j@example.com [g:a g:b system:authenticated]"},
		"one group":    {map[string]any{"email": "j@example.com", "groups": "a"}, "mail:j@example.com [g:a system:authenticated]"},
		"no groups":    {map[string]any{"email": "j@example.com"}, "mail:j@example.com [system:authenticated]"},
		"not verified": {map[string]any{"email": "j@example.com", "email_verified": false}, ""},
		"no address":   {map[string]any{}, ""},
		"a number":     {map[string]any{"email": 7}, ""},
	} {
		user, status, text := whoAmI(t, tc, i.token(tt.claims))
		if got := fmt.Sprint(user.Username, " ", user.Groups); (tt.want == "") != (status == 401) || tt.want != "" && got != tt.want {
			t.Errorf("%s: %d %s %s", name, status, got, text)
		}
	}
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(tc.Config))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 401, "/api/v1/pods": 401} {
		response, err := (&http.Client{Transport: transport}).Get(tc.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, want)
		}
	}
}

// webhookConfig writes a kubeconfig that names the server.
func webhookConfig(t *testing.T, server *httptest.Server) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	config.Clusters["hook"] = &clientcmdapi.Cluster{Server: server.URL + "/authenticate", CertificateAuthorityData: ca}
	config.Contexts["hook"] = &clientcmdapi.Context{Cluster: "hook"}
	config.CurrentContext = "hook"
	path := filepath.Join(t.TempDir(), "hook.kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTokenWebhook(t *testing.T) {
	t.Parallel()
	for version, spoken := range map[string]string{"": "v1beta1", "v1": "v1", "v1beta1": "v1beta1"} {
		t.Run("version "+version, func(t *testing.T) { testTokenWebhook(t, version, "authentication.k8s.io/"+spoken) })
	}
}

func testTokenWebhook(t *testing.T, version, spoken string) {
	var calls atomic.Int32
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Kind != "TokenReview" || review.APIVersion != spoken || len(review.Spec.Audiences) != 1 {
			t.Errorf("%v %+v", err, review)
		}
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: review.Spec.Token == "good" || review.Spec.Token == "foreign",
			User: authenticationv1.UserInfo{Username: "hooked", UID: "7", Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}}
		if review.Spec.Token == "foreign" {
			review.Status.Audiences = []string{"elsewhere"}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{TokenWebhookConfigFile: webhookConfig(t, hook), TokenWebhookVersion: version}}})
	for range 3 {
		user, status, text := whoAmI(t, tc, "good")
		if status != 201 || user.Username != "hooked" || user.UID != "7" || strings.Join(user.Groups, " ") != "g system:authenticated" || fmt.Sprint(user.Extra) != "map[k:[v]]" {
			t.Fatalf("%d %s %+v", status, text, user)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("the webhook was asked %d times", n)
	}
	for _, token := range []string{"bad", "foreign"} {
		if _, status, _ := whoAmI(t, tc, token); status != 401 {
			t.Errorf("%s: %d", token, status)
		}
	}
}

func writeKey(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sa.key")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAccountKeyRotation replaces the key, its kind, and the issuer's name, and
// tokens of before stay good as long as their key is listed.
func TestAccountKeyRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	next, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	oldFile, nextFile := writeKey(t, old), writeKey(t, next)
	start := func(c cluster.AuthenticationConfig) *testcluster.Cluster {
		t.Helper()
		return testcluster.StartWith(t, cluster.ServerConfig{DataDir: dir, API: cluster.APIConfig{AuthenticationConfig: c}})
	}
	tokenOf := func(tc *testcluster.Cluster, seconds int64) *authenticationv1.TokenRequest {
		t.Helper()
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
		if err := tc.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
			t.Fatal(err)
		}
		return request
	}
	tc := start(cluster.AuthenticationConfig{ServiceAccountIssuers: []string{"https://old.example.com"}, ServiceAccountSigningKeyFile: oldFile})
	if err := tc.Client.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}); err != nil {
		t.Fatal(err)
	}
	before := tokenOf(tc, 3600).Status.Token
	if err := tc.Stop(); err != nil {
		t.Fatal(err)
	}

	tc = start(cluster.AuthenticationConfig{
		ServiceAccountIssuers: []string{"https://new.example.com", "https://old.example.com"}, APIAudiences: []string{"api", "https://old.example.com"},
		ServiceAccountSigningKeyFile: nextFile, ServiceAccountKeyFiles: []string{oldFile}, MaxTokenExpiration: 2 * time.Hour,
		ServiceAccountJWKSURI: "https://keys.example.com/jwks",
	})
	after := tokenOf(tc, 24*3600)
	if *after.Spec.ExpirationSeconds != 7200 || !slices.Equal(after.Spec.Audiences, []string{"api", "https://old.example.com"}) {
		t.Errorf("%+v", after.Spec)
	}
	for name, token := range map[string]string{"old": before, "new": after.Status.Token} {
		if user, status, text := whoAmI(t, tc, token); status != 201 || user.Username != "system:serviceaccount:default:app" {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	// Others verify the tokens by the documents.
	admin, err := rest.HTTPClientFor(tc.Config)
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string, into any) {
		t.Helper()
		response, err := admin.Get(tc.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	var document map[string]any
	read("/.well-known/openid-configuration", &document)
	if got := fmt.Sprint(document["issuer"], document["jwks_uri"], document["id_token_signing_alg_values_supported"]); got != "https://new.example.comhttps://keys.example.com/jwks[ES384 RS256]" {
		t.Error(got)
	}
	var keys jose.JSONWebKeySet
	read("/openid/v1/jwks", &keys)
	for _, token := range []string{before, after.Status.Token} {
		parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES384})
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.Claims
		if err := parsed.Claims(keys, &claims); err != nil {
			t.Errorf("a token cannot be verified by the published keys: %v", err)
		}
	}
	if err := tc.Stop(); err != nil {
		t.Fatal(err)
	}

	tc = start(cluster.AuthenticationConfig{ServiceAccountIssuers: []string{"https://new.example.com", "https://old.example.com"}, ServiceAccountSigningKeyFile: nextFile})
	if _, status, _ := whoAmI(t, tc, before); status != 401 {
		t.Errorf("the key is gone: %d", status)
	}
}

// TestBinding has tokens end with what they are bound to, and say what it is.
func TestBinding(t *testing.T) {
	t.Parallel()
	tc := testcluster.Start(t)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{
		NodeName: "n1", ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}}, TerminationGracePeriodSeconds: new(int64)}}
	for _, obj := range []client.Object{account, node, secret, pod} {
		if err := tc.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	bound := map[string]client.Object{"Node": node, "Secret": secret, "Pod": pod}
	tokens := map[string]string{}
	for kind, obj := range bound {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: obj.GetName(), UID: obj.GetUID()}}}
		if err := tc.Client.SubResource("token").Create(t.Context(), account, request); err != nil {
			t.Fatal(kind, err)
		}
		tokens[kind] = request.Status.Token
	}
	const prefix = "authentication.kubernetes.io/"
	review := func(kind string) authenticationv1.TokenReviewStatus {
		t.Helper()
		r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tokens[kind]}}
		if err := tc.Client.Create(context.WithoutCancel(t.Context()), r); err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	for kind, want := range map[string][]string{
		"Node": {"node-name=n1", "node-uid=" + string(node.UID)}, "Secret": nil,
		"Pod": {"node-name=n1", "node-uid=" + string(node.UID), "pod-name=p", "pod-uid=" + string(pod.UID)},
	} {
		got := review(kind)
		var extra []string
		for k, v := range got.User.Extra {
			if k != prefix+"credential-id" {
				extra = append(extra, strings.TrimPrefix(k, prefix)+"="+v[0])
			} else if !strings.HasPrefix(v[0], "JTI=") {
				t.Errorf("%s: credential %s", kind, v)
			}
		}
		slices.Sort(extra)
		if !got.Authenticated || got.User.UID != string(account.UID) || !slices.Equal(extra, want) || len(got.User.Extra) != len(want)+1 {
			t.Errorf("%s: %+v", kind, got)
		}
	}
	for _, kind := range []string{"Secret", "Pod", "Node"} {
		if err := tc.Client.Delete(t.Context(), bound[kind]); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			s := review(kind)
			return !s.Authenticated && strings.Contains(s.Error, "has been invalidated")
		})
	}
}
